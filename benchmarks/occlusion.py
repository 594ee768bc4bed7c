"""Occlusion saliency beside Captum's ``Occlusion`` on PyTorch: same weights, same pictures, same threads.

    python benchmarks/occlusion.py --only vgg16

Every call brings a new picture, and takes a whole map of ours, the first run of the network included. Captum looks at the fewest
places that it can be told to, one window beside the other, and its time is scaled up, since every place costs it the same: a run
of the network. Before, the batch is found at which the network runs fastest, for ``perturbations_per_eval``. The results are
compared at Captum's places: ``error`` is the largest difference of the change of the class score, as a share of the largest.
Besides: the norms of all feature maps of conv5_3, and a map by ``Approximation`` beside the exact one, whose ``error`` is the
root mean square of the difference as a share of that of the map.

Needs torch, and Captum for the peer. With OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE in the environment, unset both. Writes CSV as
``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.runner import Pieces, Point, Work, arguments, backend, norm_of_difference, run, timed  # noqa: E402
from dcnn_visualizer.occlusion import Approximation, SaliencyVisualizer  # noqa: E402

#: Network, window and step; side of the picture is always SIDE.
JOBS = (("vgg16", 32, 8), ("vgg16", 16, 4), ("resnet50", 32, 8), ("efficientnet_lite0", 32, 8))
SIDE, CLASS = 224, 7
ROUGH = Approximation(coarse=2, threshold=0.02)
BATCHES = (1, 4, 8, 16)


def pictures(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((3, SIDE, SIDE), np.float32)


def converted(name: str) -> tuple[Any, SaliencyVisualizer]:
    """The network in torch, and ours of the same weights."""
    import torch

    from benchmarks.networks import NETWORKS
    from dcnn_visualizer.importers.torch import from_torch

    network = NETWORKS[name]()
    return network, SaliencyVisualizer(from_torch(network, torch.zeros(1, 3, SIDE, SIDE)))


def class_scores(name: str, ksize: int, stride: int) -> Work:
    """The change of a class score at each place, beside Captum."""
    network, visualizer = converted(name)
    last = visualizer.model.layer_names[-1]
    every = ksize // stride

    def ours(x: np.ndarray) -> np.ndarray:
        return visualizer.analyze(x, last, ksize, stride, fill=0.0, windows="inside").data[..., CLASS]

    def difference(ours: np.ndarray, theirs: dict[int, np.ndarray]) -> float:
        chosen = ours[::every, ::every]
        assert chosen.shape == theirs[0].shape, (chosen.shape, theirs[0].shape)
        return float(np.abs(chosen - theirs[0]).max() / np.abs(theirs[0]).max())

    places = count_of(ksize, stride) ** 2
    return Work(
        ours,
        lambda: by_captum(network, ksize, every * stride, places),
        pictures,
        difference=difference,
        tolerance=3e-4,
        **arithmetic(visualizer, last, ksize, stride),
    )


def arithmetic(visualizer: SaliencyVisualizer, layer: str, ksize: int, stride: int) -> dict[str, int]:
    """A run of the network for each place and one besides; and one run, and at each place the products that change."""
    layers, places = visualizer.work(pictures(0), layer, ksize, stride, "inside"), count_of(ksize, stride) ** 2
    run, changed = (2 * sum(getattr(one, kind) for one in layers) for kind in ("plain", "made"))
    return {"flop": round(run * (places + 1)), "least_flop": round(run + changed * places)}


def by_captum(network: Any, ksize: int, step: int, places: int) -> Pieces:
    """Windows side by side, and as many times their time as makes up for all places and the first run."""
    import torch
    from captum.attr import Occlusion

    per_eval = fastest_batch(network)
    window, steps = (3, ksize, ksize), (3, step, step)

    def piece(x: np.ndarray, state: None, number: int) -> np.ndarray:
        given = torch.from_numpy(x)[None]
        with torch.inference_mode():
            found = Occlusion(network).attribute(given, window, steps, target=CLASS, baselines=0, perturbations_per_eval=per_eval)
        return -found[0, 0, ::step, ::step][: count_of(ksize, step), : count_of(ksize, step)].numpy()

    return Pieces(lambda x: None, piece, (0,), (places + 1) / (count_of(ksize, step) ** 2 + 1))


def count_of(ksize: int, step: int) -> int:
    return (SIDE - ksize) // step + 1


def fastest_batch(network: Any) -> int:
    """The batch size at which the network takes the least time a picture."""
    import torch

    with torch.inference_mode():
        times = {}
        for size in BATCHES:
            batch = torch.randn(size, 3, SIDE, SIDE)
            times[size] = min(timed(network, batch)[0] for _ in range(2)) / size
    return min(times, key=times.__getitem__)


def norms(name: str, ksize: int, stride: int) -> Work:
    """The norms of all feature maps of conv5_3 at each place."""
    _, visualizer = converted(name)
    layer = "28"  # by its place in the network
    return Work(
        lambda x: visualizer.analyze(x, layer, ksize, stride, fill=0.0, windows="inside"),
        pictures=pictures,
        **arithmetic(visualizer, layer, ksize, stride),
    )


def approximate(name: str, ksize: int, stride: int) -> Work:
    """A class score's map where some places are interpolated, beside all of them."""
    _, visualizer = converted(name)
    last = visualizer.model.layer_names[-1]

    def analyze(x: np.ndarray, how: Approximation | None) -> np.ndarray:
        return visualizer.analyze(x, last, ksize, stride, fill=0.0, windows="inside", approximation=how).data[..., CLASS]

    return Work(
        lambda x: analyze(x, ROUGH),
        lambda: lambda x: analyze(x, None),
        pictures,
        difference=norm_of_difference,
        tolerance=0.5,
    )


def points() -> Iterator[Point]:
    """All jobs."""

    def point(job: str, make: Any, name: str, ksize: int, stride: int, what: str, peer: str, needs: tuple[str, ...]) -> Point:
        configuration = f"{name} {ksize}/{stride} {what}"
        shape = f"1x3x{SIDE}x{SIDE}"
        return Point(job, lambda: make(name, ksize, stride), configuration, shape, "float32", backend(), peer, needs, ("torch",))

    for job in JOBS:
        yield point("occlusion", class_scores, *job, "class score", "captum", ("captum",))
    yield point("occlusion", norms, "vgg16", 32, 8, "norms of 512 maps of conv5_3", "", ())
    yield point("occlusion", approximate, "vgg16", 32, 8, "class score, approximate", "exact", ())


def main() -> None:
    run(points(), arguments(__doc__, rounds=3).parse_args())


if __name__ == "__main__":
    main()

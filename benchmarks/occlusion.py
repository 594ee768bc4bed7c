"""Occlusion saliency beside Captum's ``Occlusion`` on PyTorch: same weights, same picture, same threads.

    python benchmarks/occlusion.py --output benchmarks/results/occlusion.csv
    python benchmarks/occlusion.py --network vgg16 --ksize 16 --stride 4

Needs torch, Captum and the extra ``cpu``. With OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE in the environment, unset both.

Every round times one whole map of ours, the first run of the network included, and Captum's at the fewest places that it can be
told to look at, one window beside the other (for Captum every place costs the same: a run of the network; ``--full`` has it do
all). Before, the batch is found at which the network runs fastest, for ``perturbations_per_eval``, and the results are compared
at Captum's places: ``error`` is the largest difference of the change of the class score, as a share of the largest change;
``our_error`` and ``captum_error`` are those of each against float64. ``ratio`` is the median over rounds of Captum's time a place
over ours.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.chainer_compat  # noqa: F401, E402  isort: skip
import numpy as np  # noqa: E402
import torch  # noqa: E402
from captum.attr import Occlusion  # noqa: E402

from benchmarks.networks import NETWORKS  # noqa: E402
from dcnn_visualizer.importers.torch import from_torch  # noqa: E402
from dcnn_visualizer.occlusion import SaliencyVisualizer  # noqa: E402

FIELDS = (
    "job", "network", "ksize", "stride", "places", "ours_ms", "captum_ms", "ratio", "ratio_p20", "ratio_p80",
    "error", "our_error", "captum_error", "per_eval", "rounds", "device", "threads", "python", "numpy", "torch",
)  # fmt: skip
JOBS = (("vgg16", 32, 8), ("vgg16", 16, 4), ("resnet50", 32, 8), ("efficientnet_lite0", 32, 8))
CLASS = 7


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(name: str, ksize: int, stride: int, options: argparse.Namespace) -> dict[str, Any]:
    network = NETWORKS[name]()
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    chain = from_torch(network, picture)
    visualizer, last = SaliencyVisualizer(chain), chain.layer_names[-1]
    step = stride if options.full else ksize // stride * stride
    count = ((224 - ksize) // step + 1) ** 2

    def ours() -> Any:
        return visualizer.analyze(picture.numpy()[0], last, ksize, stride, fill=0.0, windows="inside").data[..., CLASS]

    def captum(per_eval: int) -> Any:
        window, steps = (3, ksize, ksize), (3, step, step)
        with torch.inference_mode():
            return Occlusion(network).attribute(
                picture, window, steps, target=CLASS, baselines=0, perturbations_per_eval=per_eval
            )

    best = best_batch(network, picture)
    found = ours()
    every = step // stride
    chosen = found[::every, ::every]
    dense, exact = (scores(network, picture, ksize, step, dtype) for dtype in (torch.float32, torch.float64))
    scale = np.abs(exact).max()
    wrong = {"error": chosen - dense, "our_error": chosen - exact, "captum_error": dense - exact}
    network.float()

    rounds = []
    for _ in range(options.rounds):
        mine, theirs = timed(ours)[0] / found.size, timed(lambda: captum(best))[0] / (count + 1)
        rounds.append((mine * 1e3, theirs * 1e3))
    ratios = sorted(theirs / mine for mine, theirs in rounds)
    return {
        "job": "class score",
        "network": name,
        "ksize": ksize,
        "stride": stride,
        "places": found.size,
        "ours_ms": statistics.median(mine for mine, _ in rounds),
        "captum_ms": statistics.median(theirs for _, theirs in rounds),
        "ratio": statistics.median(ratios),
        "ratio_p20": float(np.percentile(ratios, 20)),
        "ratio_p80": float(np.percentile(ratios, 80)),
        **{key: float(np.abs(values).max() / scale) for key, values in wrong.items()},
        "per_eval": best,
        "rounds": options.rounds,
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def best_batch(network: torch.nn.Module, picture: torch.Tensor) -> int:
    """The batch size at which the network takes the least time a picture."""
    with torch.inference_mode():
        times = {}
        for size in (1, 2, 4, 8, 16, 32):
            batch = picture.repeat(size, 1, 1, 1)
            times[size] = min(timed(lambda batch=batch: network(batch))[0] for _ in range(3)) / size
    return min(times, key=times.__getitem__)


def scores(network: torch.nn.Module, picture: torch.Tensor, ksize: int, step: int, dtype: torch.dtype) -> np.ndarray:
    """The change of the class score at each place, occluded picture after occluded picture."""
    network, picture = network.to(dtype), picture.to(dtype)
    starts = range(0, 224 - ksize + 1, step)
    with torch.inference_mode():
        before = network(picture)[0, CLASS]
        rows = []
        for top in starts:
            hidden = picture.repeat(len(starts), 1, 1, 1)
            for number, left in enumerate(starts):
                hidden[number, :, top : top + ksize, left : left + ksize] = 0
            rows.append(network(hidden)[:, CLASS] - before)
    return torch.stack(rows).double().numpy()


def all_channels(options: argparse.Namespace) -> None:
    """The norms of all feature maps of conv5_3, beside the class scores: one sweep each."""
    network = NETWORKS["vgg16"]()
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    chain = from_torch(network, picture)
    visualizer = SaliencyVisualizer(chain)
    convolutions = [name for name, layer in zip(chain.layer_names, network, strict=True) if isinstance(layer, torch.nn.Conv2d)]
    layers = (convolutions[-1], chain.layer_names[-1])
    rounds = []
    for _ in range(options.rounds + 1):
        rounds.append(
            [
                timed(lambda layer=layer: visualizer.analyze(picture.numpy()[0], layer, 32, 8, fill=0.0, windows="inside"))[0]
                for layer in layers
            ]
        )
    ratios = [maps / score for maps, score in rounds[1:]]
    print(f"vgg16 32/8: norms of 512 maps of conv5_3 take {statistics.median(ratios):.2f} of the time of the class scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--ksize", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    jobs = [job for job in JOBS if all(given in (None, own) for given, own in zip(
        (options.network, options.ksize, options.stride), job, strict=True))]  # fmt: skip
    if not jobs and options.network and options.ksize and options.stride:
        jobs = [(options.network, options.ksize, options.stride)]
    rows = []
    for job in jobs:
        rows.append(measure(*job, options))
        print(" ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in rows[-1].items()))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with options.output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if options.network in (None, "vgg16"):
        all_channels(options)


if __name__ == "__main__":
    main()

"""How time and memory of ours grow: with the picture, the batch, the channels, the places of the occluder, and the layers.

Networks are small: convolutions of 3x3 with a rectifier each, and a max-pooling after the first. Points of one job and work
differ in one number only, the last word of their configuration; ``benchmarks/report.py`` draws them and puts the slope that is
measured beside the one that is expected.

    python benchmarks/growth.py

Takes about three minutes. Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, run  # noqa: E402
from dcnn_visualizer.desalinet import DeSaliNet  # noqa: E402
from dcnn_visualizer.occlusion import SaliencyVisualizer  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

WIDTH, SIDE, LAYERS, WINDOW = 32, 96, 4, 12


class Growth(NamedTuple):
    """One curve.

    Attributes:
        job: ``growth/`` and what grows.
        work: What is done.
        sizes: Of what grows, in rising order.
        time, memory: The slopes expected of large sizes, both axes logarithmic.
        reason: For them.
        make: ``make(size)`` prepares one point.
    """

    job: str
    work: str
    sizes: tuple[int, ...]
    time: float
    memory: float
    reason: str
    make: Callable[[int], Work]


def network(layers: int = LAYERS) -> TraceableChain:
    """Convolutions of 3x3, named conv1, conv2 and so on, with He's weights."""
    random = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for number in range(1, layers + 1):
        incoming = WIDTH if number > 1 else 3
        W = random.standard_normal((WIDTH, incoming, 3, 3), np.float32) * np.sqrt(2 / (9 * incoming), dtype=np.float32)
        parts[f"conv{number}"] = tn.TraceableConvolution2D(incoming, WIDTH, 3, pad=1, initialW=W)
        parts[f"relu{number}"] = tn.TraceableReLU()
        if number == 1:
            parts["pool"] = tn.TraceableMaxPooling2D(2)
    return TraceableChain(**parts)


def noise(side: int, batch: int = 1) -> Callable[[int], np.ndarray]:
    """Makes a batch of pictures by number."""
    return lambda number: np.random.default_rng(number).standard_normal((batch, 3, side, side), np.float32)


def projection(side: int = SIDE, batch: int = 1, channels: int = 1, layers: int = LAYERS) -> Work:
    """DeSaliNet of channels of the last convolution, the forward pass included."""
    method, layer = DeSaliNet(network(layers)), f"conv{layers}"
    chosen = list(range(channels))
    return Work(lambda x: method.analyze(x, layer, chosen), pictures=noise(side, batch))


def occlusion(side: int = SIDE, stride: int = 6, layers: int = LAYERS) -> Work:
    """The map of the last convolution, the forward pass included."""
    visualizer, layer = SaliencyVisualizer(network(layers)), f"conv{layers}"
    return Work(lambda x: visualizer.analyze(x[0], layer, WINDOW, stride, fill=0.0).data, pictures=noise(side))


GROWTH = (
    Growth(
        "growth/pixels",
        "projection",
        tuple(side**2 for side in (48, 64, 96, 128, 192, 256, 384, 512, 768)),
        1,
        1,
        "every layer works on each of its pixels once forward and once back, and records them",
        lambda pixels: projection(side=round(pixels**0.5)),
    ),
    Growth(
        "growth/pixels",
        "occlusion",
        tuple(side**2 for side in (48, 64, 96, 128, 192, 256, 384)),
        1,
        1,
        "at one stride there are as many more places, and each costs what it changes, whatever the picture's size (dense runs "
        "would grow by 2); memory is that of the picture's activations, and of one chunk of places besides",
        lambda pixels: occlusion(side=round(pixels**0.5)),
    ),
    Growth(
        "growth/batch",
        "projection",
        (1, 2, 4, 8, 16, 32),
        1,
        1,
        "pictures are independent, and go through together as long as no memory budget is set",
        lambda batch: projection(batch=batch),
    ),
    Growth(
        "growth/channels",
        "projection",
        (1, 2, 4, 8, 16, 32),
        1,
        1,
        "each channel walks back on its own, after a forward pass that all share; memory is that of the projections",
        lambda channels: projection(channels=channels),
    ),
    Growth(
        "growth/places",
        "occlusion",
        tuple((SIDE // stride) ** 2 for stride in (24, 16, 12, 8, 6, 4, 3)),
        1,
        0,
        "each place costs what its window changes, after a run of the network that all share; chunks of places bound the memory",
        lambda places: occlusion(stride=SIDE // round(places**0.5)),
    ),
    Growth(
        "growth/layers",
        "projection",
        (2, 4, 8, 16, 32),
        1,
        0,
        "layers are alike; of each, one bit a value is kept for the way back, a 32nd of the activations that come and go",
        lambda layers: projection(layers=layers),
    ),
)


def points() -> Iterator[Point]:
    """What to measure."""
    for one in GROWTH:
        for size in one.sizes:
            configuration = f"{one.work} {one.job.removeprefix('growth/')}={size}"
            yield Point(one.job, lambda one=one, size=size: one.make(size), configuration, backend=backend())


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    run(points(), options)


if __name__ == "__main__":
    main()

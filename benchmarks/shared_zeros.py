"""The walk back where convolutions may skip the zeros that all signals share, beside one where none does.

Weights are random (He et al., 2015); biases are shifted so that a given share of each layer's ReLUs is off, which is half in a
network with random weights and 0.8 to 0.95 in trained ones. Only the way back is timed, from whole channels.

    python benchmarks/shared_zeros.py --only "vgg16 off=0.9"
    python benchmarks/shared_zeros.py --quick

Above 1, skipping is faster. ``--quick`` prints a line a point from the best of three turns and writes nothing. Otherwise CSV is
written as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, limited, norm_of_difference, run, timed  # noqa: E402
from dcnn_visualizer.desalinet import DeSaliNet  # noqa: E402
from dcnn_visualizer.recording import recording_of  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableParallel  # noqa: E402
from dcnn_visualizer.walk import Walk  # noqa: E402

#: Convolutions as (channels, ksize, stride, pad), poolings as (ksize, stride), fire modules as (squeezed, of each branch).
NETWORKS: dict[str, list[tuple[str, Any]]] = {
    "vgg16": [
        (f"conv{stage}_{number}" if number else f"pool{stage}", (width, 3, 1, 1) if number else (2, 2))
        for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1)
        for number in (*range(1, count + 1), 0)
    ],
    "alexnet": [
        ("conv1", (96, 11, 4, 0)),
        ("pool1", (3, 2)),
        ("conv2", (256, 5, 1, 2)),
        ("pool2", (3, 2)),
        ("conv3", (384, 3, 1, 1)),
        ("conv4", (384, 3, 1, 1)),
        ("conv5", (256, 3, 1, 1)),
    ],
    "squeezenet": [
        ("conv1", (64, 3, 2, 0)),
        ("pool1", (3, 2)),
        ("fire2", (16, 64)),
        ("fire3", (16, 64)),
        ("pool3", (3, 2)),
        ("fire4", (32, 128)),
        ("fire5", (32, 128)),
        ("pool5", (3, 2)),
        ("fire6", (48, 192)),
        ("fire7", (48, 192)),
        ("fire8", (64, 256)),
    ],
    "small": [
        ("conv1", (16, 3, 1, 1)),
        ("pool1", (2, 2)),
        ("conv2", (32, 3, 1, 1)),
        ("pool2", (2, 2)),
        ("conv3", (64, 3, 1, 1)),
    ],
}
#: A layer near the picture and one far from it.
LAYERS = {
    "vgg16": ("conv2_2", "conv3_3", "conv5_3"),
    "alexnet": ("conv2", "conv5"),
    "squeezenet": ("fire3", "fire8"),
    "small": ("conv2", "conv3"),
    "efficientnet_lite0": ("block5", "block11"),
}
SIDES = {"vgg16": (64, 224), "alexnet": (224,), "squeezenet": (64, 224), "small": (64, 96), "efficientnet_lite0": (224,)}
OFF = {"efficientnet_lite0": ("trained",)}
CHANNELS = (16, 64, 256)


class _Drawn:
    """Makes layers, and biases that turn a share of each layer's ReLUs off for one picture."""

    def __init__(self, x: np.ndarray, off: float) -> None:
        self.x, self.off, self.rng = x, off, np.random.default_rng(0)

    def convolution(self, channels: int, ksize: int, stride: int, pad: int, x: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """A convolution and its ReLU, and what comes out of them."""
        W = self.rng.standard_normal((channels, x.shape[1], ksize, ksize), np.float32)
        W *= np.sqrt(2 / W[0].size, dtype=np.float32)
        node = tn.TraceableConvolution2D(x.shape[1], channels, ksize, stride, pad, initialW=W)
        y = node.compute(x)
        node.b.array[...] = -np.quantile(y, self.off)
        y = np.maximum(y + node.b.array[:, None, None], 0)
        return {"conv": node, "relu": tn.TraceableReLU()}, y / y.std()


@functools.cache
def network(name: str, side: int, off: float) -> TraceableChain:
    """One of the networks."""
    x = picture(side)
    drawn, parts = _Drawn(x, off), {}
    for layer, settings in NETWORKS[name]:
        if layer.startswith("pool"):
            parts[layer] = tn.TraceableMaxPooling2D(*settings, cover_all=False)
            x = parts[layer].compute(x)
        elif layer.startswith("fire"):
            squeezed, width = settings
            squeeze, x = drawn.convolution(squeezed, 1, 1, 0, x)
            small, a = drawn.convolution(width, 1, 1, 0, x)
            large, b = drawn.convolution(width, 3, 1, 1, x)
            x = np.concatenate([a, b], 1)
            parts |= {f"{layer}_{part}": node for part, node in squeeze.items()}
            parts[layer] = TraceableParallel(small=TraceableChain(**small), large=TraceableChain(**large))
        else:
            made, x = drawn.convolution(*settings, x)
            parts |= {layer: made["conv"], f"{layer}_relu": made["relu"]}
    return TraceableChain(**parts)


def picture(side: int) -> np.ndarray:
    """Smooth noise, as in ``benchmarks/projection.py``."""
    rng = np.random.default_rng(1)
    coarse, fine = (rng.standard_normal((1, 3, size, size), np.float32) for size in (side // 8, side))
    return np.repeat(np.repeat(coarse, 8, 2), 8, 3) + fine


def work(name: str, layer: str, side: int, off: Any, channels: int) -> Work:
    """Both walks back from the first channels of a layer."""
    from dcnn_kernels.compiled import sparse

    if name == "efficientnet_lite0":
        import skimage.data

        from dcnn_visualizer.importers.efficientnet_lite import efficientnet_lite0, preprocess

        chain, x = efficientnet_lite0(), preprocess(skimage.data.cat())[None]
    else:
        chain, x = network(name, side, off), picture(side)
    recording = recording_of(chain, x)
    target = recording.graph.index(layer)
    y = recording.extend(target)
    channels = min(channels, y.shape[1])
    signals = np.zeros((channels, *y.shape[1:]), np.float32)
    signals[range(channels), range(channels)] = y[0, :channels]
    rule = DeSaliNet(chain).rule

    def back() -> np.ndarray:
        return Walk(recording, target, rule, channels, picture=0).back(signals)

    def dense() -> np.ndarray:
        with patch.object(sparse, "cost", lambda *_: math.inf):
            return back()

    return Work(back, lambda: dense, difference=norm_of_difference, tolerance=1e-2)


def points() -> Iterator[Point]:
    """What to measure."""
    for name, layers in LAYERS.items():
        for off, side, layer, channels in itertools.product(OFF.get(name, (0.5, 0.8, 0.9, 0.95)), SIDES[name], layers, CHANNELS):
            if not (name == "vgg16" and side == 224 and channels == 256):
                make = functools.partial(work, name, layer, side, off, channels)
                configuration = f"{name} off={off} {layer}, {channels} channels"
                yield Point(
                    "skip shared zeros",
                    make,
                    configuration,
                    f"{side}x{side}",
                    backend=backend(),
                    peer="no zeros skipped",
                    requires=("numba",),
                )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="print the best of three turns, write nothing")
    options = parser.parse_args()
    if not options.quick:
        run(points(), options)
        return
    with limited(options.threads):
        for point in points():
            name = f"{point.configuration} {point.shape}"
            if options.only in name:
                made = point.make()
                walks = made.ours, made.theirs()
                norm_of_difference(*(one() for one in walks))
                ours, dense = np.min([[timed(one)[0] for one in walks] for _ in range(3)], axis=0) * 1e3
                print(f"{name}: {ours:.1f} ms, skipping none {dense:.1f} ms, {dense / ours:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""Convolution and its transpose on NumPy arrays, at the layers of networks, beside torch, Chainer and the NumPy reference.

For each layer, direction and batch size: the rate of the textbook's arithmetic, 2 x taps x channels in x channels out x pixels,
beside the rate of a matrix product. Winograd's way needs fewer products, so that its ``share`` may exceed 1: ``least_flop`` is
what it multiplies and adds between its transforms.

    python benchmarks/convolution.py --batch 1 4 16 --only conv3

With OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE in the environment, unset both: they retune the product that all is measured by.
Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_kernels  # noqa: E402
from benchmarks.peers import peers_of  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, run  # noqa: E402

#: Channels in, channels out, side, ksize, stride and groups of the different convolutions of VGG16, and of some other networks.
#: All are padded by half their window.
LAYERS = {
    "conv1_1": (3, 64, 224, 3, 1, 1),
    "conv1_2": (64, 64, 224, 3, 1, 1),
    "conv2_1": (64, 128, 112, 3, 1, 1),
    "conv2_2": (128, 128, 112, 3, 1, 1),
    "conv3_1": (128, 256, 56, 3, 1, 1),
    "conv3_2": (256, 256, 56, 3, 1, 1),
    "conv4_1": (256, 512, 28, 3, 1, 1),
    "conv4_2": (512, 512, 28, 3, 1, 1),
    "conv5_1": (512, 512, 14, 3, 1, 1),
    "last 7x7": (512, 512, 7, 3, 1, 1),
    "1x1 56": (64, 256, 56, 1, 1, 1),
    "1x1 14": (480, 112, 14, 1, 1, 1),
    "1x1 7": (512, 2048, 7, 1, 1, 1),
    "1x1 stride 2": (256, 512, 56, 1, 2, 1),
    "3x3 stride 2": (128, 128, 56, 3, 2, 1),
    "5x5": (64, 192, 27, 5, 1, 1),
    "7x7 stride 2": (3, 64, 224, 7, 2, 1),
    "stem": (3, 32, 224, 3, 2, 1),
    "depthwise 3x3 112": (32, 32, 112, 3, 1, 32),
    "depthwise 3x3 stride 2": (96, 96, 112, 3, 2, 96),
    "depthwise 5x5 28": (240, 240, 28, 5, 1, 240),
    "depthwise 5x5 14": (672, 672, 14, 5, 1, 672),
    "depthwise 5x5 stride 2": (672, 672, 14, 5, 2, 672),
    "32 groups": (256, 256, 28, 3, 1, 32),
}


class Case(NamedTuple):
    """A layer's direction at a batch size, and the arrays that it reads."""

    primitive: str
    x: np.ndarray
    W: np.ndarray
    side: int
    stride: int
    groups: int

    @property
    def settings(self) -> dict[str, Any]:
        """Of the primitive, and of those of the peers."""
        outsize = {} if self.primitive == "convolution_2d" else {"outsize": (self.side, self.side)}
        return {"stride": self.stride, "pad": self.W.shape[2] // 2, "groups": self.groups, **outsize}

    def call(self, backend: str | None = None) -> Any:
        """Runs the primitive."""
        return getattr(dcnn_kernels, self.primitive)(self.x, self.W, backend=backend, **self.settings)

    def work(self, peer: Callable[..., Any] | None) -> Work:
        """The case for the runner, beside a peer or, with none, beside the reference."""
        y = self.call()
        flop = 2 * self.W.size * len(self.x) * (-(-self.side // self.stride)) ** 2
        moved = self.x.nbytes + self.W.nbytes + y.nbytes

        def theirs() -> Callable[[], Any]:
            return peer(self.x, self.W, **self.settings) if peer else lambda: self.call("reference")

        return Work(self.call, theirs, nbytes=moved, flop=flop, least_flop=self.winograds_flop(y) or flop)

    def winograds_flop(self, y: np.ndarray) -> int:
        """Those of the 36 products a tile of 4x4, if that is the way that is taken; else 0."""
        if backend() == "reference" or self.W.shape[2] != 3 or self.stride > 1:
            return 0
        from dcnn_kernels.compiled.convolution import winograd_is_cheaper

        made, taken = y.shape[1], self.x.shape[1]
        steps = (9 * taken, 9) if self.primitive == "convolution_2d" else (9, 9 * made)
        filters = SimpleNamespace(made=made, taken=taken, groups=self.groups, made_step=steps[0], taken_step=steps[1])
        tiles = len(y) * math.ceil(y.shape[2] / 4) * math.ceil(y.shape[3] / 4)
        return 2 * 36 * tiles * made * taken if winograd_is_cheaper(filters, y) else 0


def case(layer: str, primitive: str, batch: int, dtype: str) -> Case:
    """With random arrays."""
    incoming, outgoing, side, ksize, stride, groups = LAYERS[layer]
    random = np.random.default_rng(0)
    W = random.standard_normal((outgoing, incoming // groups, ksize, ksize), np.float32).astype(dtype)
    x = random.standard_normal(shape_of(layer, primitive, batch), np.float32).astype(dtype)
    return Case(primitive, x, W, side, stride, groups)


def shape_of(layer: str, primitive: str, batch: int) -> tuple[int, ...]:
    """Of the input, which is the layer's output in a transposed convolution."""
    incoming, outgoing, side, _, stride, _ = LAYERS[layer]
    return (batch, *((incoming, side, side) if primitive == "convolution_2d" else (outgoing, *[-(-side // stride)] * 2)))


def points(batches: tuple[int, ...] = (1,), dtype: str = "float32") -> Iterator[Point]:
    """Each layer's two directions, beside each peer."""
    for batch in batches:
        for layer in LAYERS:
            for primitive in ("convolution_2d", "transposed_convolution_2d"):
                shape = "x".join(map(str, shape_of(layer, primitive, batch)))
                peers = peers_of(primitive, layer) | ({} if backend() == "reference" else {"reference": None})
                for peer, entry in peers.items():
                    yield Point(
                        primitive,
                        lambda given=(layer, primitive, batch, dtype), entry=entry: case(*given).work(entry),
                        layer,
                        shape,
                        dtype,
                        backend(),
                        peer,
                        needs=(peer,) if entry else (),
                    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args()
    run(points(tuple(options.batch), options.dtype), options)


if __name__ == "__main__":
    main()

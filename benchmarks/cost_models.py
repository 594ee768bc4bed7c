"""Whether the compiled convolutions choose well: each way that could be taken is timed, beside the one that is.

The ways take turns; a way's time is the least of its turns. The table has the choice and the fastest for each shape, and what the
choice loses to it; below are the mean and the worst loss. Constants of cost models are set so that both are small. They are in
``dcnn_kernels/compiled``: ``TILE``, ``FILTER`` and ``PRODUCT`` of ``winograd.py``, ``PRODUCT``, ``VALUE`` and ``GATHER`` of
``sparse.py``. Nothing is written.

    python benchmarks/cost_models.py
    python benchmarks/cost_models.py --only "back 3x3"

Takes some minutes, and needs Numba.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_kernels as kernels  # noqa: E402
from benchmarks.runner import arguments, limited, timed  # noqa: E402
from dcnn_kernels.compiled import convolution, panels, settings, sparse, winograd  # noqa: E402

#: By the name of a way, whose function it is that does the work.
WAYS = {"winograd": winograd, "sparse": sparse, "panels": panels, "bands": convolution}
#: The algorithm that makes it be taken where it can be.
FORCED = {"winograd": "winograd", "sparse": "sparse", "panels": "products", "bands": "products"}


class Case(NamedTuple):
    """A convolution, or the way back through one.

    Attributes:
        back: Whether it is the way back.
        taken: Channels of the convolution's input.
        made: Those of its output.
        ksize, stride: Of the windows, which are padded by half of their size.
        side: Of the convolution's input.
        batch: Pictures, or signals.
        on: Share of the signals' places, and of the mask's, that aren't zero; signals have them in common.
    """

    back: bool
    taken: int
    made: int
    ksize: int
    stride: int
    side: int
    batch: int
    on: float = 1

    @property
    def name(self) -> str:
        """All of it in a line."""
        way, windows = "back" if self.back else "forward", f"{self.ksize}x{self.ksize}"
        stride = f" stride={self.stride}" if self.stride > 1 else ""
        return f"{way} {windows}{stride} {self.taken}->{self.made} {self.batch}x{self.side}x{self.side} on={self.on:g}"

    def call(self) -> Callable[[], np.ndarray]:
        """What is timed."""
        rng, pad = np.random.default_rng(0), self.ksize // 2
        W = rng.standard_normal((self.made, self.taken, self.ksize, self.ksize), np.float32)
        x = rng.standard_normal((self.batch, self.taken, self.side, self.side), np.float32)
        if not self.back:
            return lambda: kernels.convolution_2d(x, W, None, self.stride, pad)
        out = (self.side + 2 * pad - self.ksize) // self.stride + 1
        g = rng.standard_normal((self.batch, self.made, out, out), np.float32) * (rng.random((self.made, out, out)) < self.on)
        bits = kernels.relu_mask(np.where(rng.random(x[:1].shape) < self.on, 1, -1).astype(np.float32))
        mask = np.broadcast_to(bits, (self.batch, bits.shape[1])) if self.on < 1 else None
        return lambda: kernels.transposed_convolution_2d(g, W, None, self.stride, pad, outsize=self.side, mask=mask, rectify=True)


#: Channels taken and made, ksize, stride, side and batch of layers as in VGG, ResNet, MobileNets, SqueezeNet and AlexNet.
LAYERS = (
    (3, 16, 3, 1, 64, 1),
    (3, 64, 3, 1, 224, 1),
    (16, 32, 3, 1, 32, 1),
    (32, 32, 3, 1, 96, 1),
    (64, 64, 3, 1, 224, 1),
    (64, 128, 3, 1, 56, 1),
    (64, 64, 3, 1, 56, 8),
    (128, 128, 3, 1, 28, 1),
    (128, 128, 3, 1, 14, 4),
    (256, 256, 3, 1, 56, 1),
    (256, 384, 3, 1, 13, 1),
    (512, 512, 3, 1, 28, 1),
    (512, 512, 3, 1, 14, 1),
    (512, 512, 3, 1, 7, 1),
    (512, 512, 3, 1, 14, 16),
    (16, 16, 3, 1, 7, 1),
    (64, 64, 3, 1, 7, 16),
    (8, 8, 3, 1, 24, 8),
    (16, 96, 1, 1, 112, 1),
    (96, 24, 1, 1, 56, 1),
    (64, 256, 1, 1, 56, 1),
    (256, 64, 1, 1, 56, 4),
    (1024, 256, 1, 1, 14, 1),
    (512, 2048, 1, 1, 7, 1),
    (320, 1280, 1, 1, 7, 8),
    (128, 16, 1, 1, 27, 1),
    (256, 512, 1, 2, 56, 1),
    (3, 32, 3, 2, 224, 1),
    (128, 128, 3, 2, 56, 1),
    (96, 256, 5, 1, 27, 1),
    (3, 64, 7, 2, 224, 1),
    (3, 96, 11, 4, 224, 1),
)
#: Those through which many signals of one picture go back, and in which share of the places they aren't zero.
SHARED = (
    (64, 64, 3, 1, 56, 16),
    (256, 256, 3, 1, 28, 16),
    (512, 512, 3, 1, 14, 64),
    (384, 256, 3, 1, 13, 32),
    (3, 64, 3, 1, 64, 16),
    (64, 256, 1, 1, 28, 32),
    (16, 128, 1, 1, 27, 64),
    (96, 256, 5, 1, 27, 32),
    (3, 96, 11, 4, 227, 8),
)
ON = (0.05, 0.1, 0.2, 0.35, 0.5)


def cases() -> Iterator[Case]:
    """What is timed."""
    yield from (Case(back, *layer) for back in (False, True) for layer in LAYERS)
    yield from (Case(True, *layer, on) for on in ON for layer in SHARED)


def taken_by(call: Callable[[], Any]) -> str:
    """The way that a call takes."""
    with ExitStack() as stack:
        seen = {
            name: stack.enter_context(patch.object(module, "multiply", wraps=module.multiply)) for name, module in WAYS.items()
        }
        call()
    return next(name for name, multiply in seen.items() if multiply.called)


def forced(way: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that takes a way, if it can."""

    def run() -> Any:
        with settings.algorithm(FORCED[way]):
            return call()

    return run


def main() -> None:
    options = arguments(__doc__, rounds=5).parse_args()
    losses: list[float] = []
    with limited(options.threads):
        for case in cases():
            if options.only not in case.name:
                continue
            call = case.call()
            choice = taken_by(call)
            ways = {way: run for way in WAYS if taken_by(run := forced(way, call)) == way}
            ways.setdefault(choice, call)
            turns = np.array([[timed(run)[0] for run in ways.values()] for _ in range(options.rounds)])
            best = dict(zip(ways, turns.min(axis=0) * 1e3, strict=True))
            fastest = min(best, key=lambda way: best[way])
            losses.append(best[choice] / best[fastest] - 1)
            times = ", ".join(f"{way} {best[way]:.2f}" for way in sorted(best, key=lambda way: best[way]))
            print(f"{case.name:45} {choice:9} {fastest:9} {losses[-1]:6.0%}   {times} ms", flush=True)
    above = sum(loss > 0.1 for loss in losses)
    print(f"{len(losses)} shapes, mean loss {np.mean(losses):.1%}, worst {max(losses):.0%}, {above} above 10 %")


if __name__ == "__main__":
    main()

"""Convolution and its transpose on NumPy, at the layers of VGG16, against this machine's own matrix product.

For each layer, direction and batch size: the rate of the textbook's arithmetic, 2 x 9 x channels in x channels out x pixels,
beside the rate of ``np.matmul`` on square matrices of the same dtype, which is timed just before and after. ``share`` is the
median of the rounds' ratios. Rounds in which the matrix product took 1.2 times its best or longer were disturbed by
other programs: they are repeated, up to ten times as many, and the rounds of the fastest matrix products count.

    python benchmarks/convolution.py --batch 1 4 16 --output benchmarks/results/convolution.csv

With OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE in the environment, unset both: they retune the product that all is measured by.
``--chainer`` times Chainer's own functions as well. Prints a table, and writes CSV, one row a measured point: times are the
median and the 20th and 80th percentile of the repeats.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_kernels  # noqa: E402

MEASURES = ("median_ms", "p20_ms", "p80_ms", "GFLOP_per_s", "matmul_GFLOP_per_s", "share", "chainer_ms")
FIELDS = ("layer", "direction", "batch", "shape", "dtype", *MEASURES, "device", "python", "numpy")
#: Channels in, channels out and side of VGG16's different convolutions, all 3x3 with a pad of 1.
VGG16 = {
    "conv1_1": (3, 64, 224),
    "conv1_2": (64, 64, 224),
    "conv2_1": (64, 128, 112),
    "conv2_2": (128, 128, 112),
    "conv3_1": (128, 256, 56),
    "conv3_2": (256, 256, 56),
    "conv4_1": (256, 512, 28),
    "conv4_2": (512, 512, 28),
    "conv5_1": (512, 512, 14),
}
#: Side of the square matrices that give the machine's own rate.
SIDE = 1536


class Case(NamedTuple):
    """One measured point: a layer's direction at a batch size, and the arrays that it reads."""

    layer: str
    direction: str
    x: np.ndarray
    W: np.ndarray

    @property
    def flop(self) -> int:
        """Multiplications and additions of the plain definition."""
        return 2 * self.W.size * len(self.x) * self.x.shape[2] * self.x.shape[3]

    def call(self) -> np.ndarray:
        """Runs the primitive."""
        forward = self.direction == "forward"
        function = dcnn_kernels.convolution_2d if forward else dcnn_kernels.transposed_convolution_2d
        return function(self.x, self.W, pad=1)

    def chainer(self) -> Any:
        """Runs Chainer's function for the same job."""
        import chainer.functions as F

        return (F.convolution_2d if self.direction == "forward" else F.deconvolution_2d)(self.x, self.W, pad=1)


def cases(batches: list[int], dtype: str, only: str) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for batch in batches:
        for layer, (incoming, outgoing, side) in VGG16.items():
            if layer.startswith(only):
                W = random.standard_normal((outgoing, incoming, 3, 3), np.float32).astype(dtype)
                for direction, channels in (("forward", incoming), ("transposed", outgoing)):
                    x = random.standard_normal((batch, channels, side, side), np.float32).astype(dtype)
                    yield Case(layer, direction, x, W)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Yardstick:
    """The matrix product that all is measured by, and its best time so far."""

    def __init__(self, dtype: str) -> None:
        self.matrix = np.ones((SIDE, SIDE), dtype)
        self.target = np.empty_like(self.matrix)
        self.best = min(self.seconds() for _ in range(30))

    def seconds(self) -> float:
        """Time of one product."""
        return seconds(lambda: np.matmul(self.matrix, self.matrix, out=self.target))

    def round(self, case: Case, chainer: bool) -> tuple[float, float, float]:
        """Times of a product, the mean of one before and one after; of the case between them; and of Chainer."""
        before, own, after = self.seconds(), seconds(case.call), self.seconds()
        self.best = min(self.best, before, after)
        return (before + after) / 2, own, seconds(case.chainer) if chainer else np.nan


def measure(case: Case, yardstick: Yardstick, repeats: int, chainer: bool) -> dict[str, Any]:
    """Times a case round by round; the first round is thrown away."""
    yardstick.round(case, chainer)
    rounds: list[tuple[float, float, float]] = []
    while len(rounds) < 10 * repeats and sum(product < 1.2 * yardstick.best for product, *_ in rounds) < repeats:
        rounds.append(yardstick.round(case, chainer))
    products, own, peer = np.array(sorted(rounds)[:repeats]).T
    low, middle, high = np.percentile(own, (20, 50, 80))
    rates, product_rates = case.flop / own / 1e9, 2 * SIDE**3 / products / 1e9
    return {
        "layer": case.layer,
        "direction": case.direction,
        "batch": len(case.x),
        "shape": "x".join(map(str, case.x.shape)),
        "dtype": str(case.x.dtype),
        "median_ms": f"{middle * 1e3:.2f}",
        "p20_ms": f"{low * 1e3:.2f}",
        "p80_ms": f"{high * 1e3:.2f}",
        "GFLOP_per_s": f"{np.median(rates):.1f}",
        "matmul_GFLOP_per_s": f"{np.median(product_rates):.1f}",
        "share": f"{np.median(rates / product_rates):.2f}",
        "chainer_ms": f"{np.median(peer) * 1e3:.2f}" if chainer else "",
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", help="layers whose name begins so")
    parser.add_argument("--chainer", action="store_true", help="time Chainer's functions as well")
    parser.add_argument("--output", type=Path, help="a CSV file besides")
    options = parser.parse_args()
    if options.chainer:
        import dcnn_visualizer.chainer_compat  # noqa: F401

    shown = ("layer", "direction", "batch", *MEASURES)
    print(*(f"{name:>18}" for name in shown))
    rows, yardstick = [], Yardstick(options.dtype)
    for case in cases(options.batch, options.dtype, options.only):
        rows.append(measure(case, yardstick, options.repeats, options.chainer))
        print(*(f"{rows[-1][name]:>18}" for name in shown), flush=True)
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

"""Convolution and its transpose on NumPy arrays, at the layers of networks, against this machine's own matrix product.

For each layer, direction and batch size: the rate of the textbook's arithmetic, 2 x taps x channels in x channels out x pixels,
beside the rate of ``np.matmul`` on square matrices of the same dtype, which is timed just before and after. ``share`` is the
median of the rounds' ratios. Rounds in which the matrix product took 1.2 times its best or longer were disturbed by
other programs: they are repeated, up to ten times as many, and the rounds of the fastest matrix products count.

    python benchmarks/convolution.py --batch 1 4 16 --output benchmarks/results/convolution.csv

With OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE in the environment, unset both: they retune the product that all is measured by.
``--beside reference`` runs another backend, and ``--beside chainer`` Chainer's own functions, in turn with it: ``gain`` is the
median of the rounds' ratios. Prints a table, and writes CSV, one row a measured point: times are the
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

MEASURES = ("median_ms", "p20_ms", "p80_ms", "GFLOP_per_s", "matmul_GFLOP_per_s", "share", "beside_ms", "gain")
FIELDS = ("layer", "direction", "batch", "shape", "dtype", *MEASURES, "device", "python", "numpy")
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
#: Side of the square matrices that give the machine's own rate.
SIDE = 1536


class Case(NamedTuple):
    """One measured point: a layer's direction at a batch size, and the arrays that it reads."""

    layer: str
    direction: str
    x: np.ndarray
    W: np.ndarray
    side: int
    stride: int
    groups: int

    @property
    def flop(self) -> int:
        """Multiplications and additions of the plain definition."""
        windows = -(-self.side // self.stride)
        return 2 * self.W.size * len(self.x) * windows**2

    def call(self, backend: str | None = None) -> Any:
        """Runs the primitive, or Chainer's function for the same job."""
        forward, pad = self.direction == "forward", self.W.shape[2] // 2
        how = {"stride": self.stride, "pad": pad, "groups": self.groups} | (
            {} if forward else {"outsize": (self.side, self.side)}
        )
        if backend == "chainer":
            import chainer.functions as F

            return (F.convolution_2d if forward else F.deconvolution_2d)(self.x, self.W, **how)
        function = dcnn_kernels.convolution_2d if forward else dcnn_kernels.transposed_convolution_2d
        return function(self.x, self.W, backend=backend, **how)


def cases(batches: list[int], dtype: str, only: str) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for batch in batches:
        for layer, (incoming, outgoing, side, ksize, stride, groups) in LAYERS.items():
            if layer.startswith(only):
                W = random.standard_normal((outgoing, incoming // groups, ksize, ksize), np.float32).astype(dtype)
                shapes = (incoming, side), (outgoing, -(-side // stride))
                for direction, (channels, extent) in zip(("forward", "transposed"), shapes, strict=True):
                    x = random.standard_normal((batch, channels, extent, extent), np.float32).astype(dtype)
                    yield Case(layer, direction, x, W, side, stride, groups)


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

    def round(self, case: Case, backend: str | None, beside: str | None) -> tuple[float, float, float]:
        """Times of a product, the mean of one before and one after; of the case between them; and of what is run beside it."""
        before, own = self.seconds(), self.alone(lambda: case.call(backend))
        other, after = self.alone(lambda: case.call(beside)) if beside else np.nan, self.seconds()
        self.best = min(self.best, before, after)
        return (before + after) / 2, own, other

    @staticmethod
    def alone(call: Callable[[], Any]) -> float:
        """Time of a second call, once BLAS has ceased to wait for another product: for 0.1 s its threads keep the cores busy."""
        time.sleep(0.12)
        call()
        return seconds(call)


def measure(case: Case, yardstick: Yardstick, repeats: int, backend: str | None, beside: str | None) -> dict[str, Any]:
    """Times a case round by round; the first round is thrown away."""
    yardstick.round(case, backend, beside)
    rounds: list[tuple[float, float, float]] = []
    while len(rounds) < 10 * repeats and sum(product < 1.2 * yardstick.best for product, *_ in rounds) < repeats:
        rounds.append(yardstick.round(case, backend, beside))
    products, own, other = np.array(sorted(rounds)[:repeats]).T
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
        "beside_ms": f"{np.median(other) * 1e3:.2f}" if beside else "",
        "gain": f"{np.median(other / own):.2f}" if beside else "",
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
    parser.add_argument("--backend", choices=("reference", "compiled"), help="by default the fastest that is installed")
    parser.add_argument("--beside", choices=("reference", "compiled", "chainer"), help="what else to time, in turn")
    parser.add_argument("--output", type=Path, help="a CSV file besides")
    options = parser.parse_args()
    if options.beside == "chainer":
        import dcnn_visualizer.chainer_compat  # noqa: F401

    shown = ("layer", "direction", "batch", *MEASURES)
    print(f"{'layer':>24}", *(f"{name:>18}" for name in shown[1:]))
    rows, yardstick = [], Yardstick(options.dtype)
    for case in cases(options.batch, options.dtype, options.only):
        rows.append(measure(case, yardstick, options.repeats, options.backend, options.beside))
        print(f"{rows[-1]['layer']:>24}", *(f"{rows[-1][name]:>18}" for name in shown[1:]), flush=True)
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

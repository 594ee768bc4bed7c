"""Every primitive but convolution, at the shapes of VGG16, against a plain copy of an array.

These primitives do little work on each value, so memory is the measure: a primitive's rate is the bytes of its inputs and
outputs, each counted once, over its time. With linear layers the weights are an input. The copy moves as many bytes, from one
array to another that is there already, and is timed in turn with the primitive, so that a busy machine slows both. ``share``
is the primitive's rate over the copy's; the primitive pays for the memory of its output besides.

    python benchmarks/elementwise.py --batch 4 --output benchmarks/results/elementwise.csv

Writes CSV, one row a measured point: times are the median and the 20th and 80th percentile of the repeats.
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

import dcnn_kernels
from dcnn_kernels.geometry import occlusion_windows

MEASURES = ("median_ms", "p20_ms", "p80_ms", "GB_per_s", "copy_GB_per_s", "share")
FIELDS = ("primitive", "configuration", "shape", "dtype", *MEASURES, "device", "python", "numpy")
#: Inputs of VGG16's five pooling layers, which are the outputs of its last rectifier at each size.
STAGES = ((64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28), (512, 14, 14))
LINEAR = ((4096, 25088), (4096, 4096), (1000, 4096))


class Case(NamedTuple):
    """One measured point: a call of a primitive, and the arrays that it reads."""

    primitive: str
    configuration: str
    reads: tuple[Any, ...]
    settings: dict[str, Any]

    def call(self) -> Any:
        """Runs the primitive."""
        return getattr(dcnn_kernels, self.primitive)(*self.reads, **self.settings)

    def on(self, to_device: Callable[[Any], Any]) -> Case:
        """The same case with its arrays elsewhere."""
        settings = {name: to_device(value) for name, value in self.settings.items()}
        return self._replace(reads=tuple(map(to_device, self.reads)), settings=settings)


def cases(batch: int, dtype: str) -> Iterator[Case]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32).astype(dtype, copy=False)

    for stage in STAGES:
        x, channel = normal(batch, *stage), np.abs(normal(stage[0])) + 1
        mask = dcnn_kernels.relu_mask(x)

        def case(name: str, configuration: str, *reads: np.ndarray, **settings: Any) -> Case:
            return Case(name, configuration, reads, settings)

        yield case("relu", "", x)
        yield case("clipped_relu", "z=6", x)
        yield case("leaky_relu", "slope=0.2", x)
        yield case("prelu", "per channel", x, channel)
        yield case("relu_mask", "", x)
        yield case("relu_mask", "z=6", x, z=6.0)
        yield case("relu_reverse", "DeconvNet", x, rectify=True)
        yield case("relu_reverse", "SaliNet", x, mask)
        yield case("relu_reverse", "DeSaliNet", x, mask, rectify=True)
        yield case("relu_reverse", "SaliNet slope=0.2", x, mask, slope=0.2)
        yield case("batch_normalization", "", x, channel, channel, channel, channel)
        yield case("batch_normalization_adjoint", "", x, channel, channel)
        yield case("local_response_normalization", "n=5", x)
        yield case("local_response_normalization_gradient", "n=5", x, x)
        yield case("global_average_pooling_2d", "", x)
        for window in ({"ksize": 2}, {"ksize": 3, "stride": 2, "pad": 1}):
            text = " ".join(f"{key}={value}" for key, value in window.items())
            yield case("max_pooling_2d", text, x, **window)
            y, switches = dcnn_kernels.max_pooling_2d(x, **window)
            back = {"outsize": stage[1:], **window}
            yield case("unpooling_2d", f"switch {text}", y, switches=switches, **back)
            yield case("unpooling_2d", f"center {text}", y, mode="center", **back)
            yield case("unpooling_2d", f"spread {text}", y, mode="spread", **back)
            yield case("average_pooling_2d", text, x, **window)
            y = dcnn_kernels.average_pooling_2d(x, **window)
            yield case("average_pooling_2d_adjoint", text, y, insize=stage[1:], **window)
    for outputs, inputs in LINEAR:
        W, x, g = normal(outputs, inputs), normal(batch, inputs), normal(batch, outputs)
        yield case("linear", f"{inputs} to {outputs}", x, W)
        yield case("linear_adjoint", f"{outputs} to {inputs}", g, W)
    x, places = normal(3, 224, 224), occlusion_windows((224, 224), 32, 16).reshape(-1, 4)[: 16 * batch]
    yield case("occlude", f"{len(places)} windows of 32", x, windows=places, fill=0.0)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Times a case and a copy in turn; the first round of both is thrown away."""
    result = case.call()
    given = (*case.reads, *case.settings.values(), *(result if isinstance(result, tuple) else (result,)))
    moved = sum(array.nbytes for array in given if isinstance(array, np.ndarray))
    del result
    source, target = np.ones((2, moved // 16))
    rounds = [(seconds(case.call), seconds(lambda: np.copyto(target, source))) for _ in range(repeats + 1)]
    times, copies = np.array(rounds[1:]).T
    low, middle, high = np.percentile(times, (20, 50, 80))
    rate, copy_rate = moved / middle / 1e9, moved / np.median(copies) / 1e9
    return {
        "primitive": case.primitive,
        "configuration": case.configuration,
        "shape": "x".join(map(str, case.reads[0].shape)),
        "dtype": str(case.reads[0].dtype),
        "median_ms": f"{middle * 1e3:.3f}",
        "p20_ms": f"{low * 1e3:.3f}",
        "p80_ms": f"{high * 1e3:.3f}",
        "GB_per_s": f"{rate:.2f}",
        "copy_GB_per_s": f"{copy_rate:.2f}",
        "share": f"{rate / copy_rate:.2f}",
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", help="primitives whose name begins so")
    parser.add_argument("--output", type=Path, help="a CSV file; standard output by default")
    options = parser.parse_args()
    with open(options.output, "w", newline="", encoding="utf-8") if options.output else sys.stdout as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for case in cases(options.batch, options.dtype):
            if case.primitive.startswith(options.only):
                writer.writerow(measure(case, options.repeats))
                file.flush()


if __name__ == "__main__":
    main()

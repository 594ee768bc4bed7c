"""Every primitive but convolution, at the shapes of VGG16, against a plain copy of an array.

These primitives do little work on each value, so memory is the measure: a primitive's rate is the bytes of its inputs and
outputs, each counted once, over its time. With linear layers the weights are an input. The copy moves as many bytes, from one
array to another that is there already, and is timed in turn with the primitive, so that a busy machine slows both. ``share``
is the primitive's rate over the copy's; the primitive pays for the memory of its output besides.

    python benchmarks/elementwise.py --batch 4 --output benchmarks/results/elementwise.csv

Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_kernels  # noqa: E402
from benchmarks.runner import Point, arguments, run  # noqa: E402
from dcnn_kernels.arrays import select_backend  # noqa: E402
from dcnn_kernels.geometry import occlusion_windows  # noqa: E402

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


def point(case: Case) -> Point:
    """The case for the runner."""
    result = case.call()
    given = (*case.reads, *case.settings.values(), *(result if isinstance(result, tuple) else (result,)))
    moved = sum(array.nbytes for array in given if isinstance(array, np.ndarray))
    x = case.reads[0]
    shape, module = "x".join(map(str, x.shape)), getattr(dcnn_kernels, case.primitive).__module__.rpartition(".")[2]
    backend = select_backend(module, None, x=x).__name__.split(".")[1]
    return Point(case.primitive, case.call, case.configuration, shape, str(x.dtype), backend, nbytes=moved)


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--only", default="", help="primitives whose name begins so")
    options = parser.parse_args()
    run((point(case) for case in cases(options.batch, options.dtype) if case.primitive.startswith(options.only)), options)


if __name__ == "__main__":
    main()

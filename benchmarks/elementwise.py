"""Every primitive but convolution, at the shapes of VGG16, beside torch, Chainer and a plain copy of an array.

These primitives do little work on each value, so memory is the measure: a primitive's rate is the bytes of its inputs and
outputs, each counted once, over its time. With linear layers the weights are an input. The copy moves as many bytes, from one
array to another that is there already, and is timed in turn with the primitive, so that a busy machine slows both. ``share``
is the primitive's rate over the copy's; the primitive pays for the memory of its output besides. A rectifier's way back is
timed with its own input for a signal.

    python benchmarks/elementwise.py --batch 4 --only max_pooling_2d

Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_kernels  # noqa: E402
from benchmarks.peers import peers_of  # noqa: E402
from benchmarks.runner import Point, Work, arguments, difference, run  # noqa: E402
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
    """All of them."""
    for stage in STAGES:
        yield from stage_cases(stage, batch, dtype)
    for outputs, inputs in LINEAR:
        yield from linear_cases(outputs, inputs, batch, dtype)
    yield occlusion_case(batch, dtype)


def normal(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype, copy=False)


def stage_cases(stage: tuple[int, ...], batch: int, dtype: str) -> Iterator[Case]:
    """Those at one size of picture."""
    x, channel = normal((batch, *stage), dtype), np.abs(normal(stage[:1], dtype)) + 1
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
    for function in ("silu", "gelu"):
        yield case("activation", function, x, function=function)
        yield case("activation_gradient", function, x, x, function=function)
    rows = x.reshape(batch, -1, stage[0])
    yield case("layer_normalization", "", rows, channel, channel)
    yield case("layer_normalization_gradient", "", rows, rows, channel)
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


def linear_cases(outputs: int, inputs: int, batch: int, dtype: str) -> Iterator[Case]:
    """Both directions of a linear layer."""
    W = normal((outputs, inputs), dtype)
    yield Case("linear", f"{inputs} to {outputs}", (normal((batch, inputs), dtype), W), {})
    yield Case("linear_adjoint", f"{outputs} to {inputs}", (normal((batch, outputs), dtype), W), {})


def occlusion_case(batch: int, dtype: str) -> Case:
    """One picture, 16 windows for each of the batch."""
    windows = occlusion_windows((224, 224), 32, 16).reshape(-1, 4)[: 16 * batch]
    settings = {"windows": windows, "fill": 0.0}
    return Case("occlude", f"{len(windows)} windows of 32", (normal((3, 224, 224), dtype),), settings)


def points(batch: int = 4, dtype: str = "float32") -> Iterator[Point]:
    """Each primitive at each size beside each peer that has it, or else beside the ceilings alone.

    Names and peers are read off small arrays; those of full size are made when their turn has come.
    """
    for stage in STAGES:
        for number, small in enumerate(stage_cases((1, 8, 8), 1, dtype)):
            yield from beside_peers(small, (batch, *stage), dtype, lambda s=stage, n=number: nth(stage_cases(s, batch, dtype), n))
    for outputs, inputs in LINEAR:
        for name, here, there in (("linear", inputs, outputs), ("linear_adjoint", outputs, inputs)):
            small = Case(name, f"{here} to {there}", (normal((1, 1), dtype),), {})
            number = int(name == "linear_adjoint")
            yield from beside_peers(
                small, (batch, here), dtype, lambda o=outputs, i=inputs, n=number: nth(linear_cases(o, i, batch, dtype), n)
            )
    yield from beside_peers(occlusion_case(batch, dtype), (3, 224, 224), dtype, lambda: occlusion_case(batch, dtype))


def nth(cases: Iterable[Case], number: int) -> Case:
    return next(itertools.islice(cases, number, None))


def beside_peers(small: Case, shape: tuple[int, ...], dtype: str, make: Callable[[], Case]) -> Iterator[Point]:
    """A point for each peer; without any, one for the ceilings."""
    module = getattr(dcnn_kernels, small.primitive).__module__.rpartition(".")[2]
    backend = select_backend(module, None, x=small.reads[0]).__name__.split(".")[1]
    for peer, entry in (peers_of(small.primitive, small.configuration) or {"": None}).items():
        yield Point(
            small.primitive,
            lambda entry=entry: work(make(), entry),
            small.configuration,
            "x".join(map(str, shape)),
            dtype,
            backend,
            peer,
            needs=(peer,) if peer else (),
        )


def work(case: Case, peer: Callable[..., Any] | None) -> Work:
    """The case for the runner."""
    result = case.call()
    given = (*case.reads, *case.settings.values(), *(result if isinstance(result, tuple) else (result,)))
    moved = sum(array.nbytes for array in given if isinstance(array, np.ndarray))
    theirs = peer and (lambda: peer(*case.reads, **case.settings))
    return Work(case.call, theirs, nbytes=moved, difference=difference_of_first)


def difference_of_first(ours: Any, theirs: Any) -> float:
    """With pooling, the maxima; each library has its own way to say where they were."""
    return difference(*(result[0] if isinstance(result, tuple) else result for result in (ours, theirs)))


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args()
    run(points(options.batch, options.dtype), options)


if __name__ == "__main__":
    main()

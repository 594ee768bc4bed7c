"""What ONNX files calculate of their constants and of the sizes of tensors, with NumPy.

Sizes are integers, in an array of objects if some are known only when the network runs and have names instead. A file isn't
trusted: results together take no more memory than a bound, which is checked before any is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx_file import DTYPES

#: The size of the first axis of every tensor.
BATCH = "batch"
#: Numbers that one value may have; who asks for more is after the machine's memory.
MOST_ELEMENTS = 1 << 31
#: Bytes that may be calculated from a file's constants. A small file can ask for any number of copies of a large one.
MOST_CALCULATED = 1 << 30
#: Numbers that a range may hold: places along an axis, of which networks take a few.
MOST_PLACES = 1 << 16
#: Sizes of tensors that an array may hold.
MOST_SIZES = 1 << 10


class Calculator:
    """Calculates with constants, up to a bound on the memory that the results take together."""

    def __init__(self) -> None:
        self._bytes = 0

    def claim(self, count: int, itemsize: int) -> None:
        """Notes the memory of a result before it is made.

        Raises:
            ValueError: The results take too much memory.
        """
        self._bytes += count * itemsize
        if self._bytes > MOST_CALCULATED:
            raise ValueError(f"calculations with constants take more than {MOST_CALCULATED} bytes")

    def __call__(self, function: Callable[..., Any], *constants: Any) -> Any:
        """What a function makes of numbers or arrays, elementwise.

        Raises:
            UntraceableError: A size among them isn't known.
            ValueError: The results take too much memory.
        """
        arrays = [known(constant) if isinstance(constant, np.ndarray) else constant for constant in constants]
        whole = [array for array in arrays if isinstance(array, np.ndarray)]
        self.claim(math.prod(np.broadcast_shapes(*(a.shape for a in whole))), max((a.itemsize for a in whole), default=0))
        with np.errstate(all="ignore"):
            return function(*arrays)

    def fold(self, kind: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> list[np.ndarray]:
        """What an operator makes of constants and sizes.

        Raises:
            UntraceableError: This operator isn't supported on constants, or a size isn't known.
            ValueError: The results take too much memory.
        """
        if kind in _ELEMENTWISE:
            return [np.asarray(self(_ELEMENTWISE[kind], *inputs))]
        if kind in _REDUCTIONS:
            return [self._reduced(_REDUCTIONS[kind], *inputs, **attributes)]
        if kind not in _OTHERS:
            raise UntraceableError("this operator isn't supported on constants")
        made = _OTHERS[kind](self, *inputs, **attributes)
        return [_settled(array) for array in (made if isinstance(made, list) else [made])]

    def _reduced(
        self,
        function: Callable[..., Any],
        array: np.ndarray,
        axes_input: np.ndarray | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> np.ndarray:
        chosen = axes if axes_input is None else axes_input.tolist()
        places = tuple(chosen) if chosen else () if noop_with_empty_axes else None
        self.claim(array.size, array.itemsize)
        return np.asarray(function(known(array), axis=places, keepdims=bool(keepdims)))


def sizes_array(sizes: Sequence[int | str]) -> np.ndarray:
    """A tensor's shape as an array: of integers, or of objects if not all are known."""
    array = np.empty(len(sizes), object)
    array[:] = sizes
    return _settled(array)


def known(array: np.ndarray) -> np.ndarray:
    """The array itself.

    Raises:
        UntraceableError: It holds sizes that aren't known.
    """
    if array.dtype != object:
        return array
    if BATCH in array.reshape(-1).tolist():
        raise UntraceableError("it calculates with the number of pictures")
    raise UntraceableError("it calculates with the size of the picture, which the file leaves open: say insize")


def _settled(array: np.ndarray) -> np.ndarray:
    if array.dtype == object and array.size > MOST_SIZES:
        raise ValueError(f"it makes an array of {array.size} sizes of tensors")
    if array.dtype == object and all(isinstance(size, int) for size in array.reshape(-1)):
        return array.astype(np.int64)
    return array


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # ONNX divides integers towards zero.
    if np.asarray(a).dtype.kind == "f":
        return a / b
    return np.sign(a) * np.sign(b) * (abs(a) // np.maximum(abs(b), 1))


#: Operators on each element, by their names.
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Ceil": np.ceil,
    "Div": _divided,
    "Equal": np.equal,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": lambda *arrays: functools.reduce(np.maximum, arrays),
    "Min": lambda *arrays: functools.reduce(np.minimum, arrays),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": lambda x, exponent: np.power(x, exponent.astype(x.dtype)),
    "Reciprocal": np.reciprocal,
    "Round": np.round,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Where": np.where,
}

#: Reductions, by their names.
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL2": lambda x, **options: np.sqrt(np.square(x).sum(**options)),
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **options: np.square(x).sum(**options),
}


def _constant(calculate: Calculator, **attributes: Any) -> np.ndarray:
    ((kind, value),) = attributes.items()
    dtype = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}.get(kind)
    return value if dtype is None and isinstance(value, np.ndarray) else np.asarray(value, dtype)


def _filled(calculate: Calculator, shape: np.ndarray, *, value: np.ndarray | None = None) -> np.ndarray:
    return _stretched(np.zeros((), np.float32) if value is None else value.reshape(()), shape)


def _expanded(calculate: Calculator, array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return _stretched(array, np.array(np.broadcast_shapes(array.shape, tuple(known(shape).tolist()))))


def _stretched(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """One number seen in many places, which takes no memory."""
    sizes = [int(size) for size in known(shape).reshape(-1)]
    if math.prod(sizes) > MOST_ELEMENTS or min(sizes, default=0) < 0:
        raise ValueError(f"it makes a constant of shape {tuple(sizes)}")
    return np.broadcast_to(array, sizes)


def _clipped(
    calculate: Calculator, array: np.ndarray, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None
) -> np.ndarray:
    bounds = [given if given is not None else attribute for given, attribute in ((low, min), (high, max))]
    return array if bounds == [None, None] else np.asarray(calculate(np.clip, array, *bounds))


def _standardized(
    calculate: Calculator,
    array: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> np.ndarray:
    """Batch normalization, by which weights are standardized: in training, by their own statistics."""
    others = tuple(axis for axis in range(array.ndim) if axis != 1)
    calculate.claim(2 * array.size, array.itemsize)
    if training_mode:
        mean, variance = array.mean(others), array.var(others)
    scale, shift, mean, variance = (one.reshape(-1, *[1] * (array.ndim - 2)) for one in (scale, shift, mean, variance))
    return (array - mean) / np.sqrt(variance + array.dtype.type(epsilon)) * scale + shift


def _identity(calculate: Calculator, array: np.ndarray) -> np.ndarray:
    return array


def _cast(calculate: Calculator, array: np.ndarray, *, to: int, saturate: int = 1) -> np.ndarray:
    dtype = DTYPES.get(to)
    if dtype is None:
        raise UntraceableError(f"it makes numbers of type {to}")
    # Sizes stay what they are.
    if array.dtype == dtype or (array.dtype == object and dtype.kind == "i"):
        return array
    calculate.claim(array.size, dtype.itemsize)
    return known(array).astype(dtype)


def _concatenated(calculate: Calculator, *arrays: np.ndarray, axis: int) -> np.ndarray:
    calculate.claim(sum(array.size for array in arrays), arrays[0].itemsize)
    return np.concatenate(arrays, axis)


def _gathered(calculate: Calculator, array: np.ndarray, indices: np.ndarray, *, axis: int = 0) -> np.ndarray:
    places = known(indices)
    calculate.claim(places.size * array.size // max(array.shape[axis], 1), array.itemsize)
    return np.asarray(np.take(array, places, axis), array.dtype)


def _sliced(
    calculate: Calculator,
    array: np.ndarray,
    starts_input: np.ndarray | None = None,
    ends_input: np.ndarray | None = None,
    axes_input: np.ndarray | None = None,
    steps_input: np.ndarray | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> np.ndarray:
    first = list(starts or []) if starts_input is None else known(starts_input).tolist()
    last = list(ends or []) if ends_input is None else known(ends_input).tolist()
    places = (list(axes) if axes else list(range(len(first)))) if axes_input is None else axes_input.tolist()
    steps = [1] * len(first) if steps_input is None else steps_input.tolist()
    parts = [slice(None)] * array.ndim
    for place, start, end, step in zip(places, first, last, steps, strict=True):
        parts[place] = slice(start, end, step)
    return array[tuple(parts)]


def _parted(
    calculate: Calculator,
    array: np.ndarray,
    sizes: np.ndarray | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int = 0,
) -> list[np.ndarray]:
    lengths = split if sizes is None else sizes.tolist()
    if lengths is None:
        raise UntraceableError("it splits a constant into pieces whose sizes it doesn't say")
    return np.split(array, np.cumsum(lengths)[:-1], axis)


def _range(calculate: Calculator, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    first, end, step = (known(part).reshape(())[()] for part in (start, limit, delta))
    count = max(math.ceil((end - first) / step), 0)
    if count > MOST_PLACES:
        raise ValueError(f"it makes {count} numbers")
    return (first + np.arange(count) * step).astype(start.dtype)


def _reshaped(calculate: Calculator, array: np.ndarray, shape: np.ndarray, *, allowzero: int = 0) -> np.ndarray:
    sizes = [array.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(known(shape).tolist())]
    if not array.flags.c_contiguous:
        calculate.claim(array.size, array.itemsize)
    return array.reshape(sizes)


def _axes(axes: Sequence[int] | None, axes_input: np.ndarray | None) -> tuple[int, ...] | None:
    chosen = axes if axes_input is None else axes_input.reshape(-1).tolist()
    return None if chosen is None else tuple(chosen)


def _squeezed(calculate: Calculator, array: np.ndarray, axes_input: np.ndarray | None = None, *, axes: Any = None) -> np.ndarray:
    return np.squeeze(array, _axes(axes, axes_input))


def _unsqueezed(
    calculate: Calculator, array: np.ndarray, axes_input: np.ndarray | None = None, *, axes: Any = None
) -> np.ndarray:
    return np.expand_dims(array, _axes(axes, axes_input) or ())


def _transposed(calculate: Calculator, array: np.ndarray, *, perm: Sequence[int] | None = None) -> np.ndarray:
    return array.transpose(perm)


#: Other operators, by their names; those that only move numbers take sizes that aren't known, too.
_OTHERS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _standardized,
    "Cast": _cast,
    "Clip": _clipped,
    "Concat": _concatenated,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Gather": _gathered,
    "Identity": _identity,
    "Range": _range,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Split": _parted,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}

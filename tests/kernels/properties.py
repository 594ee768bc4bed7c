"""What must hold of every primitive, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.device import BACKEND

Array = npt.NDArray[Any]

#: Relative tolerances: some hundred roundings of values near 1; of float16, which is stored only, a few.
TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
#: Runs a test with every dtype that the backend takes.
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64] + [np.float16] * (BACKEND == "cuda"))


def normal(seed: int, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def assert_close(actual: Array, expected: Array) -> None:
    """Equal to rounding in the dtype of ``actual``, in absolute and relative terms."""
    tolerance = TOLERANCE[actual.dtype]
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def check_calls(function: Callable[..., Any], *arrays: Array, batched: int = 1) -> None:
    """Checks a primitive's dtype, inputs left alone, other layouts, and a batch against its rows.

    Args:
        function: The primitive, its other arguments bound.
        *arrays: Its array arguments, batches of two samples or more.
        batched: How many of them, from the first, have a batch axis.
    """
    copies = [array.copy() for array in arrays]
    results = _results(function(*arrays))
    assert results[0].dtype == arrays[0].dtype
    assert not any(np.shares_memory(result, array) for result in results for array in arrays)
    for layout in (_spaced, np.asfortranarray, _reversed, shifted):
        for result, expected in zip(_results(function(*map(layout, arrays))), results, strict=True):
            _assert_same(result, expected)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    for sample in range(len(arrays[0])):
        row = [array[sample : sample + 1] for array in arrays[:batched]]
        for result, expected in zip(_results(function(*row, *arrays[batched:])), results, strict=True):
            _assert_same(result, expected[sample : sample + 1])
    none = [array[:0] for array in arrays[:batched]]
    for result, expected in zip(_results(function(*none, *arrays[batched:])), results, strict=True):
        assert result.shape == (0, *expected.shape[1:])
        assert result.dtype == expected.dtype


def assert_adjoint(forward: Callable[[Array], Array], backward: Callable[[Array], Array], x: Array, g: Array) -> None:
    """<A x, g> = <x, A' g>, and both are linear."""
    y, back = forward(x), backward(g)
    assert y.shape == g.shape
    assert back.shape == x.shape
    np.testing.assert_allclose(np.vdot(y, g), np.vdot(x, back), rtol=1e-10, atol=1e-10)
    assert_close(forward(3 * x - x[::-1]), 3 * y - forward(x[::-1]))
    assert_close(backward(3 * g - g[::-1]), 3 * back - backward(g[::-1]))


def _results(result: Any) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)


def _assert_same(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    if actual.dtype.kind == "f":
        assert_close(actual, expected)
    else:
        np.testing.assert_array_equal(actual, expected)


def _spaced(array: Array) -> Array:
    """A view with gaps along every axis."""
    wide = np.zeros([2 * size + 1 for size in array.shape], array.dtype)
    view = wide[(slice(1, None, 2),) * array.ndim]
    view[...] = array
    return view


def _reversed(array: Array) -> Array:
    """A view of negative strides."""
    every_axis = (slice(None, None, -1),) * array.ndim
    return array[every_axis].copy()[every_axis]


def shifted(array: Array) -> Array:
    """A contiguous view whose address is no multiple of 16 bytes."""
    memory = np.zeros(array.nbytes + 32, np.uint8)
    start = -memory.ctypes.data % 16 + array.itemsize
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view

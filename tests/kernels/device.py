"""The primitives on the backend under test, so that one test body serves both.

Tests call ``kernels.relu(x)`` with ``from tests.kernels.device import kernels``: NumPy arrays in, NumPy arrays out, whatever the
backend. ``DCNN_TEST_BACKEND`` chooses it:

    reference   the default
    compiled    what is compiled by Numba; primitives that aren't run as references
    cuda        every array argument is copied to the device with its strides and its address modulo 16 bytes, and every result
                back. On the way it is checked that the results are contiguous CuPy arrays of their own and that no argument
                was written to. CuPy is the one that Python finds: with a GPU the real one, otherwise the stand-in of
                ``tests/host`` (see ``tests/host/test_kernels.py``, which runs these tests so).

Tests that hold for one backend only are marked ``reference_only``, ``compiled_only`` or ``cuda_only``, those that hold for
NumPy's arrays ``host_only``; they are not collected for the others. In cuda mode ``DCNN_TEST_INDEX=64`` makes all kernels index
with 64 bits.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import dcnn_kernels
from dcnn_kernels.arrays import COMPILED

BACKEND = os.environ.get("DCNN_TEST_BACKEND", "reference")
#: Arguments that stay in host memory.
HOST_ARGUMENTS = {"windows", "samples", "origins", "offsets", "outputs"}

reference_only = pytest.mark.reference_only
host_only = pytest.mark.host_only
cuda_only = pytest.mark.cuda_only


def to_device(array: npt.NDArray[Any]) -> Any:
    """Copies to the device, strides and alignment to 16 bytes kept."""
    import cupy

    if array.size == 0:
        return cupy.empty(array.shape, array.dtype)
    reach = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    before = -sum(min(0, extent) for extent in reach)
    span = before + sum(max(0, extent) for extent in reach) + array.itemsize
    shift = (array.__array_interface__["data"][0] - before) % 16
    memory = cupy.empty(shift + span, np.uint8)
    on_device = cupy.ndarray(array.shape, array.dtype, memptr=memory.data + shift + before, strides=array.strides)
    on_device[...] = cupy.asarray(array)
    return on_device


def to_host(array: Any) -> npt.NDArray[Any]:
    """Copies a result to the host."""
    import cupy

    assert isinstance(array, cupy.ndarray)
    assert array.flags.c_contiguous
    return array.get()


def _on_device(name: str) -> Callable[..., Any]:
    function = getattr(dcnn_kernels, name)
    signature = inspect.signature(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = {
            key: value for key, value in bound.arguments.items() if isinstance(value, np.ndarray) and key not in HOST_ARGUMENTS
        }
        moved = {key: to_device(value) for key, value in given.items()}
        bound.arguments.update(moved)
        results = function(*bound.args, **bound.kwargs)
        for key, value in given.items():
            np.testing.assert_array_equal(moved[key].get(), value, err_msg=f"{name} wrote to its argument {key}", strict=True)
        if isinstance(results, str):
            return results
        for result in results if isinstance(results, tuple) else (results,):
            for key, array in moved.items():
                own = result.size == 0 or result.data.mem.ptr != array.data.mem.ptr
                assert own, f"{name} returned memory of its argument {key}"
        return tuple(map(to_host, results)) if isinstance(results, tuple) else to_host(results)

    call.__name__ = name
    return call


def _on_host(name: str) -> Callable[..., Any]:
    function = getattr(dcnn_kernels, name)
    module = function.__module__.removeprefix("dcnn_kernels.")
    return functools.partial(function, backend=BACKEND if module in COMPILED else "reference")


class _Kernels:
    """The primitives of ``dcnn_kernels`` on the backend under test; its other names as they are."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(dcnn_kernels, name)
        if not inspect.isfunction(value):
            return value
        return _on_device(name) if BACKEND == "cuda" else _on_host(name)


kernels: Any = _Kernels()

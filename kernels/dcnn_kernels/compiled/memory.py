"""Memory for results, taken again when nobody has them any more.

Allocators give large arrays back to the system, and take them from it anew, page by page, each cleared: of a layer's time, that
takes a tenth and more. A network's layers ask for the same few sizes again and again.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes of results that are worth it, and bytes that may be kept for those to come.
LEAST, MOST = 1 << 20, 1 << 27
#: Bytes that results begin at multiples of: a line of cache.
LINE = 64

#: By number, in the order in which they were given back. Whoever pops one has it: threads and finalizers come at any time.
_free: dict[int, npt.NDArray[np.uint8]] = {}


class _Lease:
    """What all views of a result's memory hold on to, and nothing else does."""

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self.__array_interface__ = memory.__array_interface__
        weakref.finalize(self, _give_back, memory).atexit = False


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As ``numpy.empty``."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    memory = _take(size)
    begin = -memory.ctypes.data % LINE
    result: npt.NDArray[Any] = np.asarray(_Lease(memory))[begin : begin + size].view(dtype).reshape(shape)
    return result


def _take(size: int) -> npt.NDArray[np.uint8]:
    """Memory for so many bytes: the smallest that is free, but no larger one by far."""
    size += LINE
    for memory in sorted(_free.copy().values(), key=len):
        if size <= len(memory) <= size + size // 4 and _free.pop(id(memory), None) is not None:
            return memory
    return np.empty(size, np.uint8)


def _give_back(memory: npt.NDArray[np.uint8]) -> None:
    _free[id(memory)] = memory
    kept = _free.copy().values()
    excess = sum(map(len, kept)) - MOST
    for oldest in kept:
        if excess > 0 and _free.pop(id(oldest), None) is not None:
            excess -= len(oldest)

"""One pool of threads for all compiled loops: the cores take the planes, part by part."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

#: Values that a thread must have to work on before it's worth waking: that takes some 20 microseconds.
GRAIN = 1 << 15
#: Parts for each core: a core that others use too takes fewer, such as that on which NumPy's BLAS waits for its next product.
PARTS = 4

_pool: ThreadPoolExecutor | None = None
_own = threading.local()
#: The pool's threads, by the system's numbers; what was the caller's core, and how many they were, when they last made way.
_members: list[int] = []
_made_way = (-1, 0)
_core_of_caller = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def scratch(size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Memory of the calling thread's own, for a loop to work in: fresh memory costs more than what is done there."""
    if not hasattr(_own, "memory") or _own.memory.nbytes < size * dtype.itemsize:
        _own.memory = np.empty(size * dtype.itemsize, np.uint8)
    return _own.memory[: size * dtype.itemsize].view(dtype)


def share(loop: Callable[..., Any], count: int, size: int, *arguments: Any, room: tuple[int, Any] | None = None) -> None:
    """Runs ``loop(first, last, *arguments)`` for parts of ``range(count)``, all at once.

    The calling thread takes parts too, and waits for the others. Loops share nothing else, and never share in turn.

    Args:
        loop: A compiled loop or NumPy's, which leave the GIL to others.
        count: Number of items, such as planes.
        size: Values to work on for each item.
        *arguments: What all parts are given.
        room: Size and dtype of the :func:`scratch` that each part is given besides, before the others.
    """
    parts = max(1, min(PARTS * cores(), count, count * size // GRAIN))
    edges = [count * part // parts for part in range(parts + 1)]
    ranges = iter(list(itertools.pairwise(edges)))  # advanced by one thread at a time, for none leaves Python at it

    def take() -> None:
        own = () if room is None else (scratch(*room),)
        for first, last in ranges:
            loop(first, last, *own, *arguments)

    if parts > 1:
        _make_way()
    others = [_threads().submit(take) for _ in range(min(parts, cores()) - 1)]
    try:
        take()
    finally:
        failures = [other.exception() for other in others]
    for failure in filter(None, failures):
        raise failure


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, cores() - 1), "dcnn_kernels", lambda: _members.append(threading.get_native_id()))
    return _pool


def _make_way() -> None:
    """Keeps the pool's threads off the caller's core.

    Linux tends to wake a thread on the core where it ran last, or on that of its waker. Once both ran there, as while BLAS kept
    the other core busy, they stay there, one after the other.
    """
    global _made_way
    if _core_of_caller is None or (here := (_core_of_caller(), len(_members))) == _made_way:
        return
    _made_way = here
    if others := os.sched_getaffinity(0) - {here[0]}:
        for member in _members:
            with contextlib.suppress(OSError):  # the thread has ended, or the system forbids it
                os.sched_setaffinity(member, others)


def _forget() -> None:
    """The child of a fork has none of its parent's threads."""
    global _pool
    _pool = None
    _members.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

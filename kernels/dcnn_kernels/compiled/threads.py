"""One pool of threads for all compiled loops: each core takes a part of the planes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

#: Values that a thread must have to work on before it's worth waking: that takes some 20 microseconds.
GRAIN = 1 << 15

_pool: ThreadPoolExecutor | None = None


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(loop: Callable[..., Any], count: int, size: int, *arguments: Any) -> None:
    """Runs ``loop(first, last, *arguments)`` for parts of ``range(count)``, all at once.

    The calling thread takes a part too, and waits for the others. Loops share nothing else, and never share in turn.

    Args:
        loop: A compiled loop, which must not hold the GIL.
        count: Number of items, such as planes.
        size: Values to work on for each item.
        *arguments: What all parts are given.
    """
    parts = max(1, min(cores(), count, count * size // GRAIN))
    edges = [count * part // parts for part in range(parts + 1)]
    others = [_threads().submit(loop, *edges[part : part + 2], *arguments) for part in range(1, parts)]
    try:
        loop(*edges[:2], *arguments)
    finally:
        wait(others)
    for other in others:
        other.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, cores() - 1), "dcnn_kernels")
    return _pool


def _forget() -> None:
    """The child of a fork has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

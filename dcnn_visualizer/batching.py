"""Work in batches that fit in memory."""

from __future__ import annotations

import numbers
from collections.abc import Callable


def in_batches(count: int, size: int, work: Callable[[int, int], None]) -> None:
    """Works through ``count`` items a batch at a time; a batch that runs out of memory is halved and tried again.

    Args:
        count: Number of items.
        size: Items in a batch, to begin with.
        work: ``work(start, stop)`` does the items from ``start`` to before ``stop``. It may be called again for the same items,
            so it must leave nothing behind if it fails.

    Raises:
        MemoryError: A single item doesn't fit. CuPy's ``OutOfMemoryError`` is one too.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            work(start, stop)
        except MemoryError:
            if stop - start == 1:
                raise
            size = (stop - start) // 2
        else:
            start = stop


def fitting(memory_budget: int | None, bytes_per_item: int, otherwise: int) -> int:
    """Items that fit in a budget, at least 1; ``otherwise`` where there is no budget.

    Args:
        memory_budget: Bytes, or None.
        bytes_per_item: What one item takes.
        otherwise: The answer without a budget, and the most with one.

    Raises:
        TypeError: The budget is no integer.
        ValueError: It is below 1.
    """
    if memory_budget is None:
        return otherwise
    if not isinstance(memory_budget, numbers.Integral):
        raise TypeError(f"memory_budget must be a number of bytes, an integer, got {memory_budget!r}")
    if memory_budget < 1:
        raise ValueError(f"memory_budget must be at least 1 byte, got {memory_budget}")
    return min(otherwise, max(1, memory_budget // max(1, bytes_per_item)))

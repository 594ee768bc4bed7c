"""Cuts arrays into blocks that stay in cache between one pass of a primitive and the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

#: Bytes of one operand per block. Measured on cores with 1 MB of L2 cache: half as much or twice as much costs up to a fifth.
#: A power of two, so that the edges of blocks of single elements are the edges of mask bytes.
BLOCK_BYTES = 1 << 19


def blocks(shape: Sequence[int], itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Cuts the first two axes of an array so that one block fills about :data:`BLOCK_BYTES`.

    Args:
        shape: Shape of the array, of rank 2 or more. What follows the second axis is never cut.
        itemsize: Bytes of one element.

    Yields:
        Slices of axes 0 and 1, in order: whole rows of axis 0 where some fit, else parts of one row.
    """
    batch, channels = shape[:2]
    fitting = max(1, BLOCK_BYTES // (itemsize * max(1, math.prod(shape[2:]))))
    samples, part = max(1, fitting // max(1, channels)), min(fitting, max(1, channels))
    for first in range(0, batch, samples):
        for channel in range(0, channels, part):
            yield slice(first, min(first + samples, batch)), slice(channel, min(channel + part, channels))

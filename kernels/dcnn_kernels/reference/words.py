"""Sums that tell whether a large array has changed, at nearly the speed of memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

#: Rows that are summed along both axes while they are in the cache.
ROWS = 128


def sum_words(words: Words, shift: int) -> tuple[Words, Words]:
    """Sums of each row, and of each column, of mixed words, modulo 2**64.

    Args:
        words: Shape (rows, columns), uint64.
        shift: How far down a word's higher bits are mixed into the lower ones, by exclusive or.

    Returns:
        Shapes (rows,) and (columns,).
    """
    mixed = np.empty((min(ROWS, len(words)), words.shape[1]), words.dtype)
    rows, columns = np.empty(len(words), words.dtype), np.zeros(words.shape[1], words.dtype)
    for start in range(0, len(words), ROWS):
        some = words[start : start + ROWS]
        part = mixed[: len(some)]
        np.bitwise_xor(np.right_shift(some, shift, out=part), some, out=part)
        np.sum(part, axis=1, out=rows[start : start + ROWS])
        columns += part.sum(axis=0)
    return rows, columns

"""Sums that tell whether a large array has changed, in one pass over its words."""

from __future__ import annotations

import math

import numpy as np

from ..reference.words import ROWS, Words
from .team import parted
from .threads import share


def sum_words(words: Words, shift: int) -> tuple[Words, Words]:
    """See :func:`dcnn_kernels.reference.words.sum_words`."""
    blocks = math.ceil(len(words) / ROWS)
    rows, columns = np.empty(len(words), words.dtype), np.zeros((blocks, words.shape[1]), words.dtype)
    share(_sum, blocks, ROWS * words.shape[1], words, np.uint64(shift), rows, columns)
    return rows, columns.sum(axis=0)


@parted
def _sum(first, last, words, shift, rows, columns):
    for block in range(first, last):
        down = columns[block]
        for row in range(block * ROWS, min(len(words), (block + 1) * ROWS)):
            along, total = words[row], np.uint64(0)
            for n in range(len(along)):
                mixed = along[n] ^ (along[n] >> shift)
                total += mixed
                down[n] += mixed
            rows[row] = total

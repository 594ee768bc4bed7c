"""Tells whether arrays have changed since they were last looked at, at nearly the speed of memory.

A recorded forward pass may be reused only while the picture and the weights are what they were, and both can be changed
in place without notice. Hashing 550 MB of weights would cost as much as the forward pass; sums along the rows and the
columns of a matrix of 64-bit words cost a fifth of that, and only those sums are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dcnn_kernels.arrays import Array, array_module

WORDS_A_ROW = 512
#: Rows that are summed along both axes while they are in the cache.
ROWS = 128
#: How far down a word's higher bits are mixed into the lower ones.
MIXING = 29


def fingerprint(arrays: Iterable[Array | None]) -> bytes:
    """Digest of the shapes, dtypes, devices and contents of some arrays.

    Every change of one element changes it, and so does every exchange of elements or of whole rows; changes that leave
    both the row sums and the column sums (modulo 2**64) of the mixed words as they were do not, and need at least four
    elements changed by exactly matching amounts.

    Args:
        arrays: NumPy or CuPy arrays of any shape and dtype; None counts as a value of its own.

    Returns:
        20 bytes.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for array in arrays:
        if array is None:
            digest.update(b"None")
            continue
        # What was recorded of an array on one device is of no use to the same array on another.
        digest.update(f"{array.shape} {array.dtype} {getattr(array, 'device', 'cpu')}".encode())
        octets = (array if array.flags.c_contiguous else array.copy(order="C")).reshape(-1).view("u1")
        whole = octets.size // (8 * WORDS_A_ROW) * (8 * WORDS_A_ROW)
        parts = _sums(octets[:whole].view("u8").reshape(-1, WORDS_A_ROW)) if whole else []
        for part in (*parts, octets[whole:]):
            host = part if isinstance(part, np.ndarray) else part.get()
            digest.update(host.data)
    return digest.digest()


def _sums(words: Array) -> list[Array]:
    """Sums of each row, and of each column, of mixed words."""
    xp = array_module(words)
    # On a device, where each call takes its time, all rows at once.
    height = ROWS if isinstance(words, np.ndarray) else len(words)
    mixed = xp.empty((min(height, len(words)), WORDS_A_ROW), words.dtype)
    rows, columns = [], xp.zeros(WORDS_A_ROW, words.dtype)
    for start in range(0, len(words), height):
        some = words[start : start + height]
        part = mixed[: len(some)]
        # Else signs, which are the highest bits, would cancel wherever two of them change.
        xp.bitwise_xor(xp.right_shift(some, MIXING, out=part), some, out=part)
        rows.append(part.sum(axis=1))
        columns += part.sum(axis=0)
    return [*rows, columns]

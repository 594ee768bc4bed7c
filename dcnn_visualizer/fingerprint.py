"""Tells whether arrays have changed since they were last looked at, at nearly the speed of memory.

A recorded forward pass may be reused only while the picture and the weights are what they were, and both can be changed
in place without notice. Hashing 550 MB of weights would cost as much as the forward pass; sums along the rows and the
columns of a matrix of 64-bit words cost a fifth of that, and only those sums are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dcnn_kernels.arrays import Array, select_backend

WORDS_A_ROW = 512
#: How far down a word's higher bits are mixed into the lower ones: else signs, which are the highest bits of floats, would cancel
#: wherever two of them change.
MIXING = 29


class Sums(NamedTuple):
    """What is left of an array to be hashed.

    Attributes:
        description: Its shape, dtype and device.
        parts: Sums of its words and the bytes behind them, where it lies; none of them shares its memory.
    """

    description: bytes
    parts: tuple[Array, ...]


def sums(array: Array | None) -> Sums:
    """Sums an array up; on a GPU without waiting for it."""
    if array is None:
        return Sums(b"None", ())
    # What was recorded of an array on one device is of no use to the same array on another.
    description = f"{array.shape} {array.dtype.str} {getattr(array, 'device', 'cpu')}".encode()
    if array.nbytes < 8 * WORDS_A_ROW:
        return Sums(description, (array.copy(order="C"),))
    octets = (array if array.flags.c_contiguous else array.copy(order="C")).reshape(-1).view("u1")
    whole = octets.size // (8 * WORDS_A_ROW) * (8 * WORDS_A_ROW)
    words = octets[:whole].view("u8").reshape(-1, WORDS_A_ROW)
    of_words = select_backend("words", None, words=words).sum_words(words, MIXING)
    return Sums(description, (*of_words, octets[whole:].copy()))


def digest(summed: Iterable[Sums]) -> bytes:
    """Hashes the sums of some arrays, 20 bytes."""
    hashed = hashlib.sha1(usedforsecurity=False)
    for description, parts in summed:
        hashed.update(description)
        for part in parts:
            host = part if isinstance(part, np.ndarray) else part.get()
            hashed.update(host.data)
    return hashed.digest()


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
    return digest(map(sums, arrays))

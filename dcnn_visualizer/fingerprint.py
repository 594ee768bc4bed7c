"""Tells whether arrays have changed since they were last looked at, at nearly the speed of memory.

A recorded forward pass may be reused only while the picture and the weights are what they were, and both can be changed
in place without notice. Hashing 550 MB of weights would cost as much as the forward pass; sums along the rows and the
columns of a matrix of 64-bit words cost a fifth of that, and only those sums are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dcnn_kernels.arrays import Array, select_backend

WORDS_A_ROW = 512
#: How far down a word's higher bits are mixed into the lower ones: else signs, which are the highest bits of floats, would cancel
#: wherever two of them change.
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
        words = octets[:whole].view("u8").reshape(-1, WORDS_A_ROW)
        sums = select_backend("words", None, words=words).sum_words(words, MIXING) if whole else ()
        for part in (*sums, octets[whole:]):
            host = part if isinstance(part, np.ndarray) else part.get()
            digest.update(host.data)
    return digest.digest()

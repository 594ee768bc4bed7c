"""Tells whether arrays have changed since they were last looked at, at the speed of memory.

A recorded forward pass may be reused only while the picture and the weights are what they were, and both can be changed
in place without notice. Hashing 550 MB of weights would cost as much as the forward pass; sums along the rows and the
columns of a matrix of 64-bit words cost a tenth of that, and only those sums are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from dcnn_kernels.arrays import Array

WORDS_A_ROW = 1024


def fingerprint(arrays: Iterable[Array | None]) -> bytes:
    """Digest of the shapes, dtypes, devices and contents of some arrays.

    Every change of one element changes it, and so does every exchange of elements or of whole rows; changes that leave
    both the row sums and the column sums (modulo 2**64) of the words as they were do not, and need at least four
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
        for part in (words.sum(axis=1), words.sum(axis=0), octets[whole:]):
            digest.update(_host_bytes(part))
    return digest.digest()


def _host_bytes(array: Any) -> bytes:
    return (array.get() if hasattr(array, "get") else array).tobytes()

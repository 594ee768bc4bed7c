"""How loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

#: Liberties that leave NaN and infinity as they are: to fuse a product with a sum, and to sum in another order.
FASTMATH = {"contract", "reassoc", "nsz"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function at its first call for each combination of dtypes. It runs without the GIL, from any thread."""
    try:
        return numba.njit(nogil=True, cache=True, fastmath=FASTMATH)(function)
    except RuntimeError:  # no folder to keep the result in can be written to
        return numba.njit(nogil=True, fastmath=FASTMATH)(function)

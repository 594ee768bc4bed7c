"""How loops are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

#: Liberties that leave NaN and infinity as they are: to fuse a product with a sum, and to sum in another order. Divisions by zero
#: are NumPy's: Python's error would keep loops from being vectors.
OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function at its first call for each combination of dtypes. It runs without the GIL, from any thread."""
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder to keep the result in can be written to
        return numba.njit(**OPTIONS)(function)

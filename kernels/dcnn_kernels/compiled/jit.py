"""How loops are compiled, and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

#: Liberties that leave NaN and infinity as they are: to fuse a product with a sum, and to sum in another order. Divisions by zero
#: are NumPy's: Python's error would keep loops from being vectors.
OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}


def _digest() -> str:
    """Of this package's sources."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


#: Numba keeps what it compiles by a function's name, and looks whether the function's own file has changed, but not those of what
#: it calls; so the name tells of all.
DIGEST = _digest()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function at its first call for each combination of dtypes. It runs without the GIL, from any thread."""
    function.__qualname__ = f"{function.__qualname__}_{DIGEST}"
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder to keep the result in can be written to
        return numba.njit(**OPTIONS)(function)

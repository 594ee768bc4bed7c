"""How planes and windows lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .jit import compiled


def planes_of(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B, C, H, W) as (B C, H, W), without a copy if it is contiguous."""
    return np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


@compiled
def inside(count, size, first, stride):
    """The windows n < count for which ``first + n * stride`` is one of ``size`` pixels: from which, and up to which."""
    begin = min(count, max(0, -(first // stride)))
    return begin, max(begin, min(count, -((first - size) // stride)))

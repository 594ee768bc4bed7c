"""Occlusion: all copies of a picture, each with its window filled, in one launch."""

from __future__ import annotations

import numbers

import cupy
import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.elements import element_index, launch_elements, pack
from dcnn_kernels.cuda.launch import ctype


def occlude(x: Array, windows: npt.NDArray[np.integer], fill: float | Array) -> Array:
    """See :func:`dcnn_kernels.occlude`."""
    x = cupy.ascontiguousarray(x)
    if isinstance(fill, numbers.Real):
        fill = cupy.full(x.shape, fill, x.dtype)
    else:
        fill = cupy.ascontiguousarray(cupy.broadcast_to(fill, x.shape))
    y = cupy.empty((len(windows), *x.shape), x.dtype)
    name, index = element_index(y.size)
    if y.size:
        places = cupy.asarray(windows.astype(index, order="C"))
        args = (x, fill, places, y, *map(index, (y.size, x.size, *x.shape[1:])))
        launch_elements("occlusion.cu", f"occlude<{ctype(x.dtype)}, {name}>", y.size, pack(x.dtype), args)
    return y

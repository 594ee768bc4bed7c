"""Rectifiers, their one-bit masks, and the rules of the way back.

These are single passes over elements, yet not CuPy's ElementwiseKernel: that moves one element a thread, and two or four
bytes a thread under way are too few to keep the memory of large devices busy. The kernels here move 16.
"""

from __future__ import annotations

import math

import cupy
import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.elements import element_index, launch_elements, mask_rows, pack, scalar
from dcnn_kernels.cuda.launch import ctype


def relu(x: Array) -> Array:
    """See :func:`dcnn_kernels.relu`."""
    return clipped_relu(x, math.inf)


def clipped_relu(x: Array, z: float) -> Array:
    """See :func:`dcnn_kernels.clipped_relu`."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty(x.shape, x.dtype)
    name, index = element_index(x.size)
    args = (x, y, scalar(z, x.dtype), index(x.size))
    launch_elements("relu.cu", f"clipped_relu<{ctype(x.dtype)}, {name}>", x.size, pack(x.dtype), args)
    return y


def leaky_relu(x: Array, slope: float) -> Array:
    """See :func:`dcnn_kernels.leaky_relu`."""
    return _prelu(x, None, slope)


def prelu(x: Array, W: Array) -> Array:
    """See :func:`dcnn_kernels.prelu`."""
    return _prelu(x, W, 0.0)


def _prelu(x: Array, W: Array | None, slope: float) -> Array:
    x, W = cupy.ascontiguousarray(x), None if W is None else cupy.ascontiguousarray(W)
    y = cupy.empty(x.shape, x.dtype)
    name, index = element_index(x.size)
    args = (x, W, y, scalar(slope, x.dtype), index(x.size), *map(index, _channels(W, x.shape)))
    launch_elements("relu.cu", f"prelu<{ctype(x.dtype)}, {name}>", x.size, pack(x.dtype), args)
    return y


def relu_mask(x: Array, z: float) -> Array:
    """See :func:`dcnn_kernels.relu_mask`."""
    x = cupy.ascontiguousarray(x)
    elements = math.prod(x.shape[1:])
    mask = cupy.empty((x.shape[0], (elements + 7) // 8), np.uint8)
    rows, count = mask_rows(x.shape[0], elements)
    name, index = element_index(x.size)
    args = (x, mask, scalar(z, x.dtype), index(rows), index(count))
    launch_elements("relu.cu", f"relu_mask<{ctype(x.dtype)}, {name}>", count, pack(x.dtype), args, rows)
    return mask


def relu_reverse(g: Array, mask: Array | None, rectify: bool, slope: float | Array) -> Array:
    """See :func:`dcnn_kernels.relu_reverse`."""
    if mask is None and not rectify:
        return g.copy()
    W = None if mask is None or isinstance(slope, float) else cupy.ascontiguousarray(slope)
    g, mask = cupy.ascontiguousarray(g), None if mask is None else cupy.ascontiguousarray(mask)
    y = cupy.empty(g.shape, g.dtype)
    elements = math.prod(g.shape[1:])
    rows, count = (1, g.size) if mask is None else mask_rows(g.shape[0], elements)
    name, index = element_index(g.size)
    factor = scalar(slope if isinstance(slope, float) else 0.0, g.dtype)
    sizes = map(index, (rows, count, *_channels(W, g.shape)))
    args = (g, mask, W, y, factor, np.int32(rectify), *sizes)
    launch_elements("relu.cu", f"relu_reverse<{ctype(g.dtype)}, {name}>", count, pack(g.dtype), args, rows)
    return y


def _channels(W: Array | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels, and elements of one, as the slopes tell them apart: one channel unless there is one slope a channel."""
    if W is None or W.size == 1:
        return 1, max(1, math.prod(shape[1:]))
    return shape[1], max(1, math.prod(shape[2:]))

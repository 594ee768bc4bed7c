"""Normalization layers: narrow windows of channels pass through registers, in one pass over memory."""

from __future__ import annotations

import math

import cupy
import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.elements import BLOCKS, THREADS, element_index, launch_elements, pack, scalar
from dcnn_kernels.cuda.launch import ctype, launch

#: Channels to either side of the widest window that passes through registers.
NARROW = 4
#: Threads that keep a large device busy. With fewer pixels than that, the channels are cut into segments, of this many at
#: least: at its ends a segment reads channels that its neighbours read too.
BUSY_THREADS = 1 << 18
SEGMENT = 16


def local_response_normalization(x: Array, n: int, k: float, alpha: float, beta: float) -> Array:
    """See :func:`dcnn_kernels.local_response_normalization`."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty(x.shape, x.dtype)
    half = min(n // 2, max(0, x.shape[1] - 1))
    name, index = element_index(x.size)
    types, parameters = f"{ctype(x.dtype)}, {name}", [scalar(value, x.dtype) for value in (k, alpha, beta)]
    if half <= NARROW:
        _launch_narrow(f"lrn<{types}, {half}>", x.shape, (x, y, *parameters), index)
    else:
        args = (x, y, *parameters, *map(index, (x.size, x.shape[1], math.prod(x.shape[2:]), half)))
        launch_elements("normalization.cu", f"lrn_wide<{types}>", x.size, 1, args)
    return y


def local_response_normalization_gradient(x: Array, g: Array, n: int, k: float, alpha: float, beta: float) -> Array:
    """See :func:`dcnn_kernels.local_response_normalization_gradient`."""
    x, g = cupy.ascontiguousarray(x), cupy.ascontiguousarray(g)
    y = cupy.empty(x.shape, x.dtype)
    half = min(n // 2, max(0, x.shape[1] - 1))
    name, index = element_index(x.size)
    types, parameters = f"{ctype(x.dtype)}, {name}", [scalar(value, x.dtype) for value in (k, alpha, beta)]
    if half <= NARROW:
        _launch_narrow(f"lrn_gradient<{types}, {half}>", x.shape, (x, g, y, *parameters), index)
    else:
        sizes = tuple(map(index, (x.size, x.shape[1], math.prod(x.shape[2:]), half)))
        direct, terms = (cupy.empty(x.shape, parameters[0].dtype) for _ in range(2))
        args = (x, g, direct, terms, *parameters, *sizes)
        launch_elements("normalization.cu", f"lrn_terms_wide<{types}>", x.size, 1, args)
        args = (x, direct, terms, y, *parameters[1:], *sizes)
        launch_elements("normalization.cu", f"lrn_gradient_wide<{types}>", x.size, 1, args)
    return y


def _launch_narrow(
    expression: str, shape: tuple[int, ...], args: tuple[Array | np.generic, ...], index: type[np.signedinteger]
) -> None:
    """Launches a kernel whose threads each follow one pixel along a segment of channels."""
    samples, channels, pixels = shape[0], shape[1], math.prod(shape[2:])
    threads = samples * pixels
    if threads and channels:
        segments = min(-(-BUSY_THREADS // threads), -(-channels // SEGMENT))
        segment = -(-channels // segments)
        grid = (min(-(-threads // THREADS), BLOCKS), -(-channels // segment))
        sizes = map(index, (samples, channels, pixels, segment))
        launch("normalization.cu", expression, grid, (THREADS,), (*args, *sizes))


def batch_normalization(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> Array:
    """See :func:`dcnn_kernels.batch_normalization`."""
    arrays = [cupy.ascontiguousarray(array) for array in (x, gamma, beta, mean, var)]
    return _launch_affine("batch_normalization", arrays, eps)


def batch_normalization_adjoint(g: Array, gamma: Array, var: Array, eps: float) -> Array:
    """See :func:`dcnn_kernels.batch_normalization_adjoint`."""
    arrays = [cupy.ascontiguousarray(array) for array in (g, gamma, var)]
    return _launch_affine("batch_normalization_adjoint", arrays, eps)


def _launch_affine(kernel: str, arrays: list[Array], eps: float) -> Array:
    x = arrays[0]
    y = cupy.empty(x.shape, x.dtype)
    name, index = element_index(x.size)
    sizes = map(index, (x.size, x.shape[1], math.prod(x.shape[2:])))
    args = (*arrays, y, scalar(eps, x.dtype), *sizes)
    launch_elements("normalization.cu", f"{kernel}<{ctype(x.dtype)}, {name}>", x.size, pack(x.dtype), args)
    return y

"""Normalization of rows by their own statistics: a warp for a short row, a block for a long one."""

from __future__ import annotations

import math

import cupy
import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.elements import BLOCKS, element_index, pack, scalar
from dcnn_kernels.cuda.launch import ctype, launch

WARP, ROW_THREADS = 32, 256


def layer_normalization(x: Array, gamma: Array | None, beta: Array | None, eps: float, centred: bool) -> Array:
    """See :func:`dcnn_kernels.layer_normalization`."""
    x, gamma, beta = (None if array is None else cupy.ascontiguousarray(array) for array in (x, gamma, beta))
    y = cupy.empty(x.shape, x.dtype)
    _launch("layer_normalization", (x, gamma, beta, y, scalar(eps, x.dtype), np.int32(centred)), x)
    return y


def layer_normalization_gradient(x: Array, g: Array, gamma: Array | None, eps: float, centred: bool) -> Array:
    """See :func:`dcnn_kernels.layer_normalization_gradient`."""
    x, g, gamma = (None if array is None else cupy.ascontiguousarray(array) for array in (x, g, gamma))
    y = cupy.empty(g.shape, g.dtype)
    # Where each signal has its own input, samples are as well one.
    samples = 1 if len(x) == len(g) else len(g)
    if y.size:
        _launch("layer_normalization_gradient", (x, g, gamma, y, scalar(eps, x.dtype), np.int32(centred)), x, samples)
    return y


def _launch(kernel: str, args: tuple[Array | np.generic | None, ...], x: Array, *samples: int) -> None:
    count, rows = x.shape[-1], math.prod(x.shape[:-1])
    name, index = element_index(x.size * math.prod(samples))
    if rows:
        threads = WARP if count <= WARP * pack(x.dtype) * 8 else ROW_THREADS
        together = ROW_THREADS // threads
        grid = (min(-(-rows // together), BLOCKS),)
        sizes = map(index, (*samples, rows, count))
        launch("layer_normalization.cu", f"{kernel}<{ctype(x.dtype)}, {name}>", grid, (threads, together), (*args, *sizes))

"""Normalization of rows by their own statistics, in blocks that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dcnn_kernels.reference.blocks import BLOCK_BYTES

FloatArray = npt.NDArray[np.floating]


def layer_normalization(
    x: FloatArray, gamma: FloatArray | None, beta: FloatArray | None, eps: float, centred: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.layer_normalization`."""
    rows = _as_rows(x)
    y = np.empty_like(rows)
    for block in _blocks(rows):
        y[block], _ = _normalized(rows[block], eps, centred)
        if gamma is not None:
            y[block] *= gamma
        if beta is not None:
            y[block] += beta
    return y.reshape(x.shape)


def layer_normalization_gradient(x: FloatArray, g: FloatArray, gamma: FloatArray | None, eps: float, centred: bool) -> FloatArray:
    """See :func:`dcnn_kernels.layer_normalization_gradient`."""
    rows, signals = _as_rows(x), _as_rows(g)
    y = np.empty_like(signals)
    for block in _blocks(signals):
        normalized, scale = _normalized(rows[block], eps, centred)
        h = signals[block] if gamma is None else signals[block] * gamma
        if centred:
            h = h - h.mean(axis=-1, keepdims=True)
        along = (h * normalized).mean(axis=-1, keepdims=True)
        np.multiply(h - normalized * along, scale, out=y[block])
    return y.reshape(g.shape)


def _normalized(rows: FloatArray, eps: float, centred: bool) -> tuple[FloatArray, FloatArray]:
    """Rows of mean 0 and variance 1, and what they were multiplied by."""
    if centred:
        rows = rows - rows.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.square(rows).mean(axis=-1, keepdims=True) + rows.dtype.type(eps))
    return rows * scale, scale


def _as_rows(x: FloatArray) -> FloatArray:
    return np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def _blocks(rows: FloatArray) -> Iterator[tuple[slice, slice]]:
    """Some rows of all samples."""
    fitting = max(1, BLOCK_BYTES // max(1, len(rows) * rows.shape[2] * rows.itemsize))
    for first in range(0, rows.shape[1], fitting):
        yield slice(None), slice(first, first + fitting)

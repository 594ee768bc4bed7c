"""Normalization of rows by their own statistics, each row in the first cache from its sums to its results."""

from __future__ import annotations

import math

import numpy as np

from ..reference.layer_normalization import FloatArray
from .jit import compiled
from .memory import empty
from .team import parted
from .threads import share


def layer_normalization(
    x: FloatArray, gamma: FloatArray | None, beta: FloatArray | None, eps: float, centred: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.layer_normalization`."""
    y = empty(x.shape, x.dtype)
    rows, results = (np.ascontiguousarray(array).reshape(-1, x.shape[-1]) for array in (x, y))
    by, to = _weights(gamma, x, 1), _weights(beta, x, 0)
    share(_normalize, len(rows), rows.shape[1], rows, by, to, results, x.dtype.type(eps), centred)
    return y


def layer_normalization_gradient(x: FloatArray, g: FloatArray, gamma: FloatArray | None, eps: float, centred: bool) -> FloatArray:
    """See :func:`dcnn_kernels.layer_normalization_gradient`."""
    y = empty(g.shape, g.dtype)
    samples = 1 if len(x) == len(g) else len(g)  # where each has its own input they are as well one
    shape = (samples, len(x) * math.prod(g.shape[1:-1]), g.shape[-1])
    if not y.size:
        return y
    rows = np.ascontiguousarray(x).reshape(shape[1:])
    signals, results = (np.ascontiguousarray(array).reshape(shape) for array in (g, y))
    room = (2 * shape[2], x.dtype)
    share(
        _take_back,
        len(rows),
        samples * shape[2],
        rows,
        signals,
        _weights(gamma, x, 1),
        results,
        x.dtype.type(eps),
        centred,
        room=room,
    )
    return y


def _weights(given: FloatArray | None, x: FloatArray, default: float) -> FloatArray:
    return np.full(x.shape[-1], default, x.dtype) if given is None else np.ascontiguousarray(given)


@compiled
def _statistics(row, eps, centred):
    """The mean, or 0, and what to multiply by."""
    zero = row.dtype.type(0)
    mean, squares = zero, zero
    if centred:
        for n in range(len(row)):
            mean += row[n]
        mean /= row.dtype.type(len(row))
    for n in range(len(row)):
        squares += (row[n] - mean) * (row[n] - mean)
    return mean, row.dtype.type(1) / np.sqrt(squares / row.dtype.type(len(row)) + eps)


@parted
def _normalize(first, last, x, gamma, beta, y, eps, centred):
    for number in range(first, last):
        row, to = x[number], y[number]
        mean, scale = _statistics(row, eps, centred)
        for n in range(len(row)):
            to[n] = (row[n] - mean) * scale * gamma[n] + beta[n]


@parted
def _take_back(first, last, memory, x, g, gamma, y, eps, centred):
    count = x.shape[1]
    normalized, h = memory[:count], memory[count : 2 * count]
    share = x.dtype.type(1) / x.dtype.type(count)
    for number in range(first, last):
        row = x[number]
        mean, scale = _statistics(row, eps, centred)
        for n in range(count):
            normalized[n] = (row[n] - mean) * scale
        for sample in range(len(g)):
            signal, to = g[sample, number], y[sample, number]
            total, along = x.dtype.type(0), x.dtype.type(0)
            for n in range(count):
                h[n] = signal[n] * gamma[n]
                total += h[n]
                along += h[n] * normalized[n]
            total, along = total * share if centred else x.dtype.type(0), along * share
            for n in range(count):
                to[n] = (h[n] - total - normalized[n] * along) * scale

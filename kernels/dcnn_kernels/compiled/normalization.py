"""Batch normalization, and local response normalization in one pass over each pixel's channels.

The latter's usual exponent, 3/4, is taken by square roots; others stay with the reference, whose powers take vectors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..reference import normalization as reference
from ..reference.normalization import FloatArray
from .jit import compiled
from .memory import empty
from .team import parted
from .threads import share

#: Pixels whose channels are worked on at a time: their squares stay in the first two levels of cache.
PIXELS = 128


def local_response_normalization(x: FloatArray, n: int, k: float, alpha: float, beta: float) -> FloatArray:
    """See :func:`dcnn_kernels.local_response_normalization`."""
    if beta != 0.75:
        return reference.local_response_normalization(x, n, k, alpha, beta)
    maps = _as_maps(x)
    y = empty(maps.shape, maps.dtype)
    _share(_normalize, maps, 1, maps, y, n // 2, x.dtype.type(k), x.dtype.type(alpha))
    return y.reshape(x.shape)


def local_response_normalization_gradient(
    x: FloatArray, g: FloatArray, n: int, k: float, alpha: float, beta: float
) -> FloatArray:
    """See :func:`dcnn_kernels.local_response_normalization_gradient`."""
    if beta != 0.75:
        return reference.local_response_normalization_gradient(x, g, n, k, alpha, beta)
    maps = _as_maps(x)
    y = empty(maps.shape, maps.dtype)
    _share(_take_gradient, maps, 2, maps, _as_maps(g), y, n // 2, *map(x.dtype.type, (k, alpha, 2 * alpha * beta)))
    return y.reshape(x.shape)


def batch_normalization(
    x: FloatArray, gamma: FloatArray, beta: FloatArray, mean: FloatArray, var: FloatArray, eps: float
) -> FloatArray:
    """See :func:`dcnn_kernels.batch_normalization`."""
    return _by_channel(x, mean, gamma / np.sqrt(var + eps), beta)


def batch_normalization_adjoint(g: FloatArray, gamma: FloatArray, var: FloatArray, eps: float) -> FloatArray:
    """See :func:`dcnn_kernels.batch_normalization_adjoint`."""
    return _by_channel(g, np.zeros_like(gamma), gamma / np.sqrt(var + eps), np.zeros_like(gamma))


def _by_channel(x: FloatArray, mean: FloatArray, scale: FloatArray, shift: FloatArray) -> FloatArray:
    """The mean is subtracted first: folded into one shift, a large one would cancel digits."""
    planes = np.ascontiguousarray(x).reshape(math.prod(x.shape[:2]), math.prod(x.shape[2:]))
    y = empty(planes.shape, planes.dtype)
    share(_scale, len(planes), planes.shape[1], planes, mean, scale, shift, y)
    return y.reshape(x.shape)


@parted
def _scale(first, last, x, mean, scale, shift, y):
    for plane in range(first, last):
        channel, values, scaled = plane % len(mean), x[plane], y[plane]
        less, by, more = mean[channel], scale[channel], shift[channel]
        for n in range(len(values)):
            scaled[n] = (values[n] - less) * by + more


def _as_maps(x: FloatArray) -> FloatArray:
    return np.ascontiguousarray(x).reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _share(loop: Any, maps: FloatArray, planes: int, *arguments: Any) -> None:
    """Shares out blocks of pixels; each part gets room for some planes of a block's channels, and for one row."""
    samples, channels, pixels = maps.shape
    room = ((planes * channels + 1) * PIXELS, maps.dtype)
    share(loop, samples * -(-pixels // PIXELS), channels * PIXELS, *arguments, room=room)


@compiled
def _sum_window(values, channel, half, sums):
    """Sums of each pixel over the channels at most ``half`` away; running sums would lose digits."""
    sums[:] = 0
    for other in range(max(0, channel - half), min(len(values), channel + half + 1)):
        row = values[other]
        for p in range(PIXELS):
            sums[p] += row[p]


@compiled
def _square(x, start, squares):
    for channel in range(len(x)):
        row, squared = x[channel][start : start + PIXELS], squares[channel]
        for p in range(len(row)):
            squared[p] = row[p] * row[p]


@parted
def _normalize(first, last, memory, x, y, half, k, alpha):
    channels, pixels = x.shape[1:]
    blocks = (pixels + PIXELS - 1) // PIXELS
    planes = memory.reshape(-1, PIXELS)
    squares, sums = planes[:channels], planes[channels]
    for block in range(first, last):
        sample, start = block // blocks, block % blocks * PIXELS
        _square(x[sample], start, squares)
        for channel in range(channels):
            _sum_window(squares, channel, half, sums)
            row, to = x[sample, channel][start : start + PIXELS], y[sample, channel][start : start + PIXELS]
            for p in range(len(row)):
                root = np.sqrt(k + alpha * sums[p])
                to[p] = row[p] / (root * np.sqrt(root))


@parted
def _take_gradient(first, last, memory, x, g, y, half, k, alpha, factor):
    channels, pixels = x.shape[1:]
    blocks = (pixels + PIXELS - 1) // PIXELS
    planes = memory.reshape(-1, PIXELS)
    squares, shared, sums = planes[:channels], planes[channels : 2 * channels], planes[2 * channels]
    for block in range(first, last):
        sample, start = block // blocks, block % blocks * PIXELS
        end = start + PIXELS
        _square(x[sample], start, squares)
        for channel in range(channels):
            _sum_window(squares, channel, half, sums)
            row, to = x[sample, channel][start:end], y[sample, channel][start:end]
            signal, weighted = g[sample, channel][start:end], shared[channel]
            for p in range(len(row)):
                scale = k + alpha * sums[p]
                root = np.sqrt(scale)
                to[p] = signal[p] / (root * np.sqrt(root))
                weighted[p] = to[p] * row[p] / scale
        for channel in range(channels):
            _sum_window(shared, channel, half, sums)
            row, to = x[sample, channel][start:end], y[sample, channel][start:end]
            for p in range(len(row)):
                to[p] -= factor * row[p] * sums[p]

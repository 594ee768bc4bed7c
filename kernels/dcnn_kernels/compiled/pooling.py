"""Pooling and unpooling, a plane at a time, so that every pass but the first finds it in cache.

Windows are taken apart into columns and rows: first each row of the picture along its columns, then down the rows.
"""

from __future__ import annotations

import math

import numpy as np

from ..arrays import index_dtype
from ..geometry import Pads, Pair, output_shape
from ..reference.pooling import FloatArray, Switches
from ..reference.relu import Mask, relu_mask, relu_reverse
from .jit import compiled
from .layout import inside, planes_of
from .threads import share


def max_pooling_2d(
    x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool, mask: bool
) -> tuple[FloatArray, Switches] | tuple[FloatArray, Switches, Mask]:
    """See :func:`dcnn_kernels.max_pooling_2d`."""
    windows = output_shape(x.shape, ksize, stride, pad, cover_all=cover_all)
    y = np.empty(x.shape[:2] + windows, x.dtype)
    switches = np.empty(y.shape, index_dtype(ksize[0] * ksize[1]))
    planes = planes_of(x)
    share(
        _max_pool, len(planes), planes[:1].size, planes, planes_of(y), planes_of(switches), *ksize, *stride, pad[0][0], pad[1][0]
    )
    return (y, switches, relu_mask(y, math.inf)) if mask else (y, switches)


@compiled
def _max_pool(first, last, x, y, switches, kh, kw, sh, sw, top, left):
    height, width = x.shape[1:]
    rows, columns = y.shape[1:]
    # Places are as wide as float32 while they are compared, so that both fit the same vectors.
    best, places = np.empty((height, columns), x.dtype), np.empty((height, columns), np.int32)
    place = np.empty(columns, np.int32)
    for plane in range(first, last):
        for row in range(height):
            line, at = best[row], places[row]
            line[:] = -np.inf
            at[:] = 0
            for j in range(kw):
                begin, end = inside(columns, width, j - left, sw)
                if begin < end:
                    _take_larger(line[begin:end], at[begin:end], x[plane, row, begin * sw + j - left :], sw, j)
        for row in range(rows):
            line = y[plane, row]
            line[:] = -np.inf
            place[:] = 0
            for i in range(kh):
                source = row * sh + i - top
                if 0 <= source < height:
                    _take_larger_row(line, place, best[source], places[source], i * kw)
            switches[plane, row] = place


@compiled
def _take_larger(best, places, values, step, place):
    """Takes each step-th value where it is larger than the best, or the first NaN."""
    if step == 1:
        for n in range(len(best)):
            taken = not (values[n] <= best[n]) and best[n] == best[n]
            places[n] = place if taken else places[n]
            best[n] = values[n] if taken else best[n]
    elif step == 2:
        for n in range(len(best)):
            taken = not (values[2 * n] <= best[n]) and best[n] == best[n]
            places[n] = place if taken else places[n]
            best[n] = values[2 * n] if taken else best[n]
    else:
        for n in range(len(best)):
            taken = not (values[step * n] <= best[n]) and best[n] == best[n]
            places[n] = place if taken else places[n]
            best[n] = values[step * n] if taken else best[n]


@compiled
def _take_larger_row(best, places, values, columns, place):
    for n in range(len(best)):
        taken = not (values[n] <= best[n]) and best[n] == best[n]
        places[n] = columns[n] + place if taken else places[n]
        best[n] = values[n] if taken else best[n]


def unpooling_2d(
    g: FloatArray,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Switches | None,
    mode: str,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.unpooling_2d`."""
    if mode == "spread":
        y = average_pooling_2d_adjoint(g, outsize, ksize, stride, pad, False)
        return y if mask is None and not rectify else relu_reverse(y, mask, rectify, 0.0)
    if mode == "switch" and switches is not None:
        place = np.arange(ksize[0] * ksize[1])
    else:
        place, switches = np.array([(ksize[0] - 1) // 2 * ksize[1] + (ksize[1] - 1) // 2]), np.zeros(g.shape, np.uint8)
    y = np.empty(g.shape[:2] + outsize, g.dtype)
    planes, bits = planes_of(y), np.zeros((1, 0), np.uint8) if mask is None else np.ascontiguousarray(mask)
    offsets = place // ksize[1] - pad[0][0], place % ksize[1] - pad[1][0]
    signals = planes_of(g), planes_of(switches)
    share(_unpool, len(planes), planes[:1].size, *signals, planes, *offsets, *stride, g.shape[1], bits, mask is not None, rectify)
    return y


@compiled
def _unpool(first, last, g, switches, y, down, across, sh, sw, channels, mask, masked, rectify):
    height, width = y.shape[1:]
    for plane in range(first, last):
        picture = y[plane].reshape(-1)
        picture[:] = 0
        sample, start = plane // channels, plane % channels * picture.size
        for row in range(g.shape[1]):
            for column in range(g.shape[2]):
                switch = switches[plane, row, column]
                i, j = row * sh + down[switch], column * sw + across[switch]
                if 0 <= i < height and 0 <= j < width:
                    pixel = np.uint64(i * width + j)
                    bit = start + pixel
                    if not masked or mask[sample, bit >> np.uint64(3)] >> (bit & np.uint64(7)) & np.uint8(1):
                        picture[pixel] += g[plane, row, column]
        if rectify:
            for pixel in range(picture.size):
                picture[pixel] = 0 if picture[pixel] < 0 else picture[pixel]


def average_pooling_2d(x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d`."""
    windows = output_shape(x.shape, ksize, stride, pad)
    y = np.empty(x.shape[:2] + windows, x.dtype)
    planes, counts = planes_of(x), _counts(x.shape[2:], windows, ksize, stride, pad, count_include_pad)
    share(_average, len(planes), planes[:1].size, planes, planes_of(y), *counts, *ksize, *stride, pad[0][0], pad[1][0])
    return y


@compiled
def _average(first, last, x, y, down, across, kh, kw, sh, sw, top, left):
    height, width = x.shape[1:]
    rows, columns = y.shape[1:]
    strips = np.empty((height, columns), x.dtype)
    for plane in range(first, last):
        strips[:] = 0
        for row in range(height):
            for j in range(kw):
                begin, end = inside(columns, width, j - left, sw)
                if begin < end:
                    _add(strips[row, begin:end], 1, x[plane, row, begin * sw + j - left :], sw)
        for row in range(rows):
            line = y[plane, row]
            line[:] = 0
            for i in range(kh):
                source = row * sh + i - top
                if 0 <= source < height:
                    _add(line, 1, strips[source], 1)
            for n in range(columns):
                line[n] /= down[row] * across[n]


@compiled
def _add(sums, over, values, step):
    """Adds each step-th value to each over-th sum; one of the two is 1."""
    if step == 2:
        for n in range(len(sums)):
            sums[n] += values[2 * n]
    elif step > 2:
        for n in range(len(sums)):
            sums[n] += values[step * n]
    elif over == 1:
        for n in range(len(sums)):
            sums[n] += values[n]
    else:
        for n in range(len(values)):
            sums[over * n] += values[n]


def average_pooling_2d_adjoint(
    g: FloatArray, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d_adjoint`."""
    y = np.empty(g.shape[:2] + insize, g.dtype)
    planes, counts = planes_of(y), _counts(insize, g.shape[2:], ksize, stride, pad, count_include_pad)
    share(_spread, len(planes), planes[:1].size, planes_of(g), planes, *counts, *ksize, *stride, pad[0][0], pad[1][0])
    return y


@compiled
def _spread(first, last, g, y, down, across, kh, kw, sh, sw, top, left):
    height, width = y.shape[1:]
    rows, columns = g.shape[1:]
    strips, shares = np.empty((height, columns), g.dtype), np.empty(columns, g.dtype)
    for plane in range(first, last):
        strips[:] = 0
        for row in range(rows):
            for n in range(columns):
                shares[n] = g[plane, row, n] / (down[row] * across[n])
            for i in range(kh):
                target = row * sh + i - top
                if 0 <= target < height:
                    _add(strips[target], 1, shares, 1)
        y[plane] = 0
        for row in range(height):
            for j in range(kw):
                begin, end = inside(columns, width, j - left, sw)
                if begin < end:
                    _add(y[plane, row, begin * sw + j - left :][: (end - begin - 1) * sw + 1], sw, strips[row, begin:end], 1)


def _counts(
    picture: Pair, windows: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool
) -> tuple[FloatArray, FloatArray]:
    """Places that each window's average counts, by rows and by columns; a window wholly in the padding counts 1."""
    if count_include_pad:
        return np.full(windows[0], ksize[0], np.float32), np.full(windows[1], ksize[1], np.float32)
    down, across = (_places(*axis) for axis in zip(picture, windows, ksize, stride, pad, strict=True))
    return down, across


def _places(size: int, count: int, ksize: int, stride: int, pad: Pair) -> FloatArray:
    begin = np.arange(count) * stride - pad[0]
    return np.maximum(np.minimum(begin + ksize, size) - np.maximum(begin, 0), 1).astype(np.float32)


def global_average_pooling_2d(x: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.global_average_pooling_2d`."""
    y, planes = np.empty(x.shape[:2], x.dtype), planes_of(x)
    share(_mean, len(planes), planes[:1].size, planes, y.reshape(-1))
    return y


@compiled
def _mean(first, last, x, y):
    for plane in range(first, last):
        total = x.dtype.type(0)
        for value in x[plane].flat:
            total += value
        y[plane] = total / x[plane].size


def global_average_pooling_2d_adjoint(g: FloatArray, insize: Pair) -> FloatArray:
    """See :func:`dcnn_kernels.global_average_pooling_2d_adjoint`."""
    y = np.empty(g.shape + insize, g.dtype)
    share(_fill, g.size, math.prod(insize), np.ascontiguousarray(g).reshape(-1), planes_of(y))
    return y


@compiled
def _fill(first, last, g, y):
    for plane in range(first, last):
        y[plane] = g[plane] / y[plane].size

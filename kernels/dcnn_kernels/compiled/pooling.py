"""Pooling and unpooling by vectors of windows; the rare ones that lie more than two columns apart go to NumPy, or one by one."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import index_dtype
from ..geometry import Pads, Pair, output_shape
from ..reference import pooling as reference
from ..reference.pooling import FloatArray, Switches
from ..reference.relu import Mask
from .layout import planes_of
from .memory import empty
from .microkernel import VECTOR
from .relu import bits_of, pass_gate, relu_mask, relu_reverse
from .team import parted
from .threads import share
from .vectors import pool_2x2, unpool_2x2
from .windows import STEPS, find_maxima, gathered, scattered, sum_windows, unpool_windows

NO_PADS = ((0, 0), (0, 0))


def max_pooling_2d(
    x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool, mask: bool
) -> tuple[FloatArray, Switches] | tuple[FloatArray, Switches, Mask]:
    """See :func:`dcnn_kernels.max_pooling_2d`."""
    if stride[1] > STEPS:
        return reference.max_pooling_2d(x, ksize, stride, pad, cover_all, mask)
    y = empty(x.shape[:2] + output_shape(x.shape, ksize, stride, pad, cover_all=cover_all), x.dtype)
    switches = np.empty(y.shape, index_dtype(math.prod(ksize)))
    planes = planes_of(x), planes_of(y), planes_of(switches)
    if _go_as_vectors(x.shape[3], x.dtype, ksize, stride, pad):
        share(_pool_2x2, len(planes[1]), planes[0][:1].size, *planes, VECTOR // x.itemsize)
    else:
        work, taps = planes[1][:1].size * math.prod(ksize), gathered(ksize, pad)
        share(_pool, len(planes[1]), work, *planes, stride, taps, room=(x.shape[3], x.dtype))
    return (y, switches, relu_mask(y, math.inf)) if mask else (y, switches)


def _go_as_vectors(width: int, dtype: np.dtype[Any], ksize: Pair, stride: Pair, pad: Pads) -> bool:
    """Whether windows are 2 by 2, side by side, and a row of them fills a vector."""
    return ksize == stride == (2, 2) and pad == NO_PADS and width // 2 >= VECTOR // dtype.itemsize


@parted
def _pool(first, last, memory, x, y, switches, stride, taps):
    rows, columns = y.shape[1:]
    height, width = x.shape[1:]
    source, maxima, places = x.reshape(-1), y.reshape(-1), switches.reshape(-1)
    memory[:width] = -np.inf
    for plane in range(first, last):
        to, at = plane * rows * columns, plane * height * width
        find_maxima(
            maxima,
            places,
            to,
            rows,
            columns,
            source,
            at,
            height,
            width,
            memory,
            stride,
            taps,
        )


@parted
def _pool_2x2(first, last, x, y, switches, lanes):
    height, width = x.shape[1:]
    rows, columns = y.shape[1:]
    for plane in range(first, last):
        picture, maxima, places = x[plane].reshape(-1), y[plane].reshape(-1), switches[plane].reshape(-1)
        for row in range(rows):
            upper, to = 2 * row * width, row * columns
            done = 0
            if 2 * row + 1 < height:
                while done + lanes <= width // 2:
                    pool_2x2(maxima, places, to + done, picture, upper + 2 * done, upper + width + 2 * done)
                    # The last vector goes over some windows again, rather than leaving them out.
                    done = width // 2 if done + lanes == width // 2 else min(done + lanes, width // 2 - lanes)
            for column in range(done, columns):
                best, place = picture[upper + 2 * column], 0
                for number in range(1, 4):
                    i, j = number // 2, 2 * column + number % 2
                    if 2 * row + i < height and j < width:
                        value = picture[upper + i * width + j]
                        if value > best or (value != value and best == best):
                            best, place = value, number
                maxima[to + column], places[to + column] = best, place


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
        switches = switches[:1] if switches.strides[0] == 0 and len(switches) else switches  # all samples share them
    else:
        place, switches = np.array([(ksize[0] - 1) // 2 * ksize[1] + (ksize[1] - 1) // 2]), np.zeros((1, *g.shape[1:]), np.uint8)
    y = empty(g.shape[:2] + outsize, g.dtype)
    planes, signals = planes_of(y), (planes_of(g), planes_of(switches))
    gate = g.shape[1], *bits_of(mask), rectify
    if mode == "switch" and _go_as_vectors(outsize[1], g.dtype, ksize, stride, pad):
        share(_unpool_2x2, len(planes), planes[:1].size, *signals, planes, VECTOR // g.itemsize, *gate)
    elif mode == "switch" and ksize[0] <= stride[0] and ksize[1] <= stride[1] <= STEPS:
        # Where windows overlap, each would be looked at for several pixels; to write to one is faster then.
        taps = scattered(ksize, stride, pad)
        share(_unpool_windows, len(planes), planes[:1].size, *signals, planes, taps, *gate, room=(g.shape[3], g.dtype))
    else:
        offsets = place // ksize[1] - pad[0][0], place % ksize[1] - pad[1][0]
        share(_unpool, len(planes), planes[:1].size, *signals, planes, *offsets, *stride, *gate)
    return y


@parted
def _unpool_2x2(first, last, g, switches, y, lanes, channels, mask, masked, rectify):
    height, width = y.shape[1:]
    rows, columns = g.shape[1:]
    for plane in range(first, last):
        picture, signal, places = y[plane].reshape(-1), g[plane].reshape(-1), switches[plane % len(switches)].reshape(-1)
        for row in range(rows):
            upper, start = 2 * row * width, row * columns
            done = 0
            if 2 * row + 1 < height:
                while done + lanes <= width // 2:
                    unpool_2x2(picture, upper + 2 * done, upper + width + 2 * done, signal, start + done, places, start + done)
                    done = width // 2 if done + lanes == width // 2 else min(done + lanes, width // 2 - lanes)
            for i in range(2 if 2 * row + 1 < height else 1):
                for j in range(2 * done, width):
                    here = j // 2 < columns and places[start + j // 2] == 2 * i + j % 2
                    picture[upper + i * width + j] = signal[start + j // 2] if here else 0
        picture[2 * rows * width :] = 0
        if masked or rectify:
            bits = mask[plane // channels % len(mask)]
            pass_gate(picture, picture, 0, plane % channels * picture.size, picture.size, bits, masked, rectify)


@parted
def _unpool_windows(first, last, memory, g, switches, y, taps, channels, mask, masked, rectify):
    rows, columns = y.shape[1:]
    height, width = g.shape[1:]
    size, pixels, target, signals, places = rows * columns, height * width, y.reshape(-1), g.reshape(-1), switches.reshape(-1)
    memory[:width] = 0
    for plane in range(first, last):
        to, chosen = plane * size, plane % len(switches) * pixels
        unpool_windows(
            target,
            to,
            rows,
            columns,
            signals,
            places,
            plane * pixels,
            chosen,
            height,
            width,
            memory,
            taps,
        )
        if masked or rectify:
            picture, bits = y[plane].reshape(-1), mask[plane // channels % len(mask)]
            pass_gate(picture, picture, 0, plane % channels * size, size, bits, masked, rectify)


@parted
def _unpool(first, last, g, switches, y, down, across, sh, sw, channels, mask, masked, rectify):
    height, width = y.shape[1:]
    for plane in range(first, last):
        picture, places = y[plane].reshape(-1), switches[plane % len(switches)]
        picture[:] = 0
        for row in range(g.shape[1]):
            for column in range(g.shape[2]):
                switch = places[row, column]
                i, j = row * sh + down[switch], column * sw + across[switch]
                if 0 <= i < height and 0 <= j < width:
                    picture[i * width + j] += g[plane, row, column]
        if masked or rectify:
            bits = mask[plane // channels % len(mask)]
            pass_gate(picture, picture, 0, plane % channels * picture.size, picture.size, bits, masked, rectify)


def average_pooling_2d(x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d`."""
    if stride[1] <= STEPS:
        y = empty(x.shape[:2] + output_shape(x.shape, ksize, stride, pad), x.dtype)
        planes, counts = (planes_of(x), planes_of(y)), _counts(x.shape[2:], y.shape[2:], ksize, stride, pad, count_include_pad)
        ones, taps = np.ones(math.prod(ksize), x.dtype), gathered(ksize, pad)
        work = planes[1][:1].size * math.prod(ksize)
        share(_average, len(planes[1]), work, *planes, counts.astype(x.dtype), ones, stride, taps, room=(x.shape[3], x.dtype))
        return y
    return reference.average_pooling_2d(x, ksize, stride, pad, count_include_pad)


def average_pooling_2d_adjoint(
    g: FloatArray, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d_adjoint`."""
    if stride[1] <= STEPS:
        y = empty(g.shape[:2] + insize, g.dtype)
        planes, counts = (planes_of(g), planes_of(y)), _counts(insize, g.shape[2:], ksize, stride, pad, count_include_pad)
        ones, taps, room = np.ones(math.prod(ksize), g.dtype), scattered(ksize, stride, pad), g.shape[3] + counts.size
        share(_spread, len(planes[1]), planes[1][:1].size, *planes, counts.astype(g.dtype), ones, taps, room=(room, g.dtype))
        return y
    return reference.average_pooling_2d_adjoint(g, insize, ksize, stride, pad, count_include_pad)


@parted
def _average(first, last, memory, x, y, counts, ones, stride, taps):
    rows, columns = y.shape[1:]
    height, width = x.shape[1:]
    size, pixels, target, source, zero = rows * columns, height * width, y.reshape(-1), x.reshape(-1), x.dtype.type(0)
    memory[:width] = 0
    for plane in range(first, last):
        to = plane * size
        sum_windows(
            target,
            to,
            rows,
            columns,
            source,
            plane * pixels,
            height,
            width,
            memory,
            stride,
            taps,
            ones,
            0,
            zero,
        )
        for n in range(size):
            target[to + n] /= counts[n]


@parted
def _spread(first, last, memory, g, y, counts, ones, taps):
    rows, columns = y.shape[1:]
    height, width = g.shape[1:]
    size, pixels, target, source, zero = rows * columns, height * width, y.reshape(-1), g.reshape(-1), g.dtype.type(0)
    memory[:width] = 0
    for plane in range(first, last):
        for n in range(pixels):
            memory[width + n] = source[plane * pixels + n] / counts[n]
        sum_windows(
            target,
            plane * size,
            rows,
            columns,
            memory,
            width,
            height,
            width,
            memory,
            (1, 1),
            taps,
            ones,
            0,
            zero,
        )


@lru_cache(maxsize=256)
def _counts(picture: Pair, windows: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> NDArray[np.int64]:
    """Places that each window's average counts, of all windows of a plane; a window wholly in the padding counts 1."""
    if count_include_pad:
        return np.full(math.prod(windows), math.prod(ksize))
    inside = []
    for size, count, k, step, (before, _) in zip(picture, windows, ksize, stride, pad, strict=True):
        places = np.arange(count)[:, None] * step - before + np.arange(k)
        inside.append(((places >= 0) & (places < size)).sum(axis=1))
    return np.maximum(np.outer(*inside), 1).reshape(-1)


def global_average_pooling_2d(x: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.global_average_pooling_2d`."""
    y, planes = np.empty(x.shape[:2], x.dtype), planes_of(x)
    share(_mean, len(planes), planes[:1].size, planes, y.reshape(-1))
    return y


@parted
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


@parted
def _fill(first, last, g, y):
    for plane in range(first, last):
        y[plane] = g[plane] / y[plane].size

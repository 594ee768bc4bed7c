"""Unpooling by loops: a switch says where a signal goes, and NumPy has to ask every place of a window.

Pooling stays with the reference: NumPy's passes over all windows are as fast as loops over each, and no faster in parts.
"""

from __future__ import annotations

import math

import numpy as np

from ..geometry import Pads, Pair
from ..reference import pooling as reference
from ..reference.pooling import FloatArray, Switches
from ..reference.relu import Mask, relu_reverse
from .jit import compiled
from .layout import planes_of
from .threads import share


def max_pooling_2d(
    x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool, mask: bool
) -> tuple[FloatArray, Switches] | tuple[FloatArray, Switches, Mask]:
    """See :func:`dcnn_kernels.max_pooling_2d`."""
    return reference.max_pooling_2d(x, ksize, stride, pad, cover_all, mask)


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
    return reference.average_pooling_2d(x, ksize, stride, pad, count_include_pad)


def average_pooling_2d_adjoint(
    g: FloatArray, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d_adjoint`."""
    return reference.average_pooling_2d_adjoint(g, insize, ksize, stride, pad, count_include_pad)


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

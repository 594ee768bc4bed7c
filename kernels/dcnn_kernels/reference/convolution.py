"""Convolution and transposed convolution as matrix products over tiles of windows that stay in cache."""

from __future__ import annotations

import math

import numpy as np

from ..geometry import Pads, Pair, output_shape
from .im2col import FloatArray, col2im, im2col
from .pooling import Switches, unpooling_2d
from .relu import Mask

#: Bytes of windows written out at a time. Less, and the matrix product becomes too narrow; more, and they leave the cache.
TILE_BYTES = 8 << 20


def convolution_2d(
    x: FloatArray, W: FloatArray, b: FloatArray | None, stride: Pair, pad: Pads, dilate: Pair, groups: int
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.convolution_2d`."""
    filters, _, kh, kw = W.shape
    batch, channels = x.shape[:2]
    h, w = output_shape(x.shape, (kh, kw), stride, pad, dilate)
    y = np.empty((batch, filters, h, w), x.dtype)
    matrix = W.reshape(groups, filters // groups, -1)
    rows = _rows(channels * kh * kw * x.itemsize, h, w)
    scratch = np.empty(channels * kh * kw * rows * w, x.dtype)
    for picture, result in zip(x, y.reshape(batch, groups, filters // groups, h * w), strict=True):
        for top in range(0, h, rows):
            height = min(rows, h - top)
            columns = scratch[: channels * kh * kw * height * w].reshape(channels, kh, kw, height, w)
            im2col(picture, columns, (top * stride[0] - pad[0][0], -pad[1][0]), stride, dilate)
            part = result[:, :, top * w : (top + height) * w]
            np.matmul(matrix, columns.reshape(groups, -1, height * w), out=part)
            if b is not None:
                part += b.reshape(groups, -1, 1)
    return y


def transposed_convolution_2d(
    x: FloatArray, W: FloatArray, b: FloatArray | None, stride: Pair, pad: Pads, dilate: Pair, groups: int, outsize: Pair
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.transposed_convolution_2d`."""
    filters, channels, kh, kw = W.shape
    batch, _, h, w = x.shape
    y = np.zeros((batch, groups * channels, *outsize), x.dtype)
    matrix = W.reshape(groups, filters // groups, -1).swapaxes(1, 2)
    rows = _rows(groups * channels * kh * kw * x.itemsize, h, w)
    scratch = np.empty(groups * channels * kh * kw * rows * w, x.dtype)
    for signal, picture in zip(x, y, strict=True):
        signal = signal.reshape(groups, filters // groups, h * w)
        for top in range(0, h, rows):
            height = min(rows, h - top)
            columns = scratch[: groups * channels * kh * kw * height * w].reshape(groups * channels, kh, kw, height, w)
            np.matmul(
                matrix,
                signal[:, :, top * w : (top + height) * w],
                out=columns.reshape(groups, -1, height * w),
            )
            col2im(columns, picture, (top * stride[0] - pad[0][0], -pad[1][0]), stride, dilate)
        if b is not None:
            picture += b[:, None, None]
    return y


def unpooled_transposed_convolution_2d(
    g: FloatArray,
    switches: Switches,
    W: FloatArray,
    insize: Pair,
    pool_ksize: Pair,
    pool_stride: Pair,
    pool_pad: Pads,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.unpooled_transposed_convolution_2d`."""
    x = unpooling_2d(g, insize, pool_ksize, pool_stride, pool_pad, switches, "switch", mask, rectify)
    return transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize)


def _rows(bytes_per_window: int, h: int, w: int) -> int:
    """Rows of windows to a tile: as many as fit, in tiles of one size."""
    fitting = max(1, TILE_BYTES // max(1, bytes_per_window * w))
    return math.ceil(h / math.ceil(h / fitting))

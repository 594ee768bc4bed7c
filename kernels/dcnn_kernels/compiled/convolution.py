"""Convolution and transposed convolution: taps of windows, and products of them with filters."""

from __future__ import annotations

import math

import numpy as np

from ..geometry import Pads, Pair, output_shape
from ..reference import convolution as reference
from ..reference.im2col import FloatArray
from ..reference.pooling import Switches
from ..reference.relu import Mask
from . import winograd
from .pooling import unpooling_2d
from .products import Filters, Tap, multiply
from .rectifier import rectifier
from .relu import relu_reverse
from .settings import current_algorithm


def convolution_2d(
    x: FloatArray,
    W: FloatArray,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    z: float | None,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.convolution_2d`."""
    outgoing, incoming, kh, kw = W.shape
    if kh == kw == groups == 1:  # one product of matrices as they lie, which BLAS does best
        return reference.convolution_2d(x, W, b, stride, pad, dilate, groups, z)
    y = np.empty((len(x), outgoing, *output_shape(x.shape, (kh, kw), stride, pad, dilate)), x.dtype)
    x, W, bias = np.ascontiguousarray(x), np.ascontiguousarray(W), _bias(b, y)
    filters = Filters(W.reshape(-1), groups, outgoing // groups, incoming, W.size // groups, incoming * kh * kw, kh * kw, bias)
    through = rectifier(None, -math.inf if z is None else 0, math.inf if z is None else z, x.dtype)
    if (kh, kw) == (3, 3) and stride == dilate == (1, 1) and _is_cheaper(filters, y):
        winograd.multiply(y, x, filters, (-pad[0][0], -pad[1][0]), False, through)
        return y
    taps = [Tap(i * dilate[0] - pad[0][0], j * dilate[1] - pad[1][0], i * kw + j) for i, j in np.ndindex(kh, kw)]
    multiply(y, x, filters, taps, stride, through)
    return y


def transposed_convolution_2d(
    x: FloatArray,
    W: FloatArray,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.transposed_convolution_2d`."""
    outgoing, incoming, kh, kw = W.shape
    if kh == kw == groups == 1:
        return reference.transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize, mask, rectify)
    y = np.empty((len(x), groups * incoming, *outsize), x.dtype)
    x, W, bias = np.ascontiguousarray(x), np.ascontiguousarray(W), _bias(b, y)
    filters = Filters(W.reshape(-1), groups, incoming, outgoing // groups, W.size // groups, kh * kw, incoming * kh * kw, bias)
    whole = stride == (1, 1)  # of a phase, bits would not follow one another
    through = rectifier(mask if whole else None, 0 if rectify else -math.inf, math.inf, x.dtype)
    if (kh, kw) == (3, 3) and stride == dilate == (1, 1) and _is_cheaper(filters, y):
        winograd.multiply(y, x, filters, (pad[0][0] - 2, pad[1][0] - 2), True, through)
        return y
    # The pixels of one phase, their number modulo the stride, are windows of stride 1 over x, each with its share of the taps.
    for phase in np.ndindex(*(min(pair) for pair in zip(stride, outsize, strict=True))):
        taps = []
        for i, j in np.ndindex(kh, kw):
            down, across = (p + side[0] - n * d for p, side, n, d in zip(phase, pad, (i, j), dilate, strict=True))
            if down % stride[0] == across % stride[1] == 0:
                taps.append(Tap(down // stride[0], across // stride[1], i * kw + j))
        part = y[:, :, phase[0] :: stride[0], phase[1] :: stride[1]]
        if taps:
            multiply(part, x, filters, taps, (1, 1), through)
        else:
            part[...] = bias[:, None, None]
    return y if whole else relu_reverse(y, mask, rectify, 0.0)


def unpooled_transposed_convolution_2d(
    g: FloatArray,
    switches: Switches,
    W: FloatArray,
    insize: Pair,
    pool_ksize: Pair,
    pool_stride: Pair,
    pool_pad: Pads,
    pool_mask: Mask | None,
    pool_rectify: bool,
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
    x = unpooling_2d(g, insize, pool_ksize, pool_stride, pool_pad, switches, "switch", pool_mask, pool_rectify)
    return transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize, mask, rectify)


def _is_cheaper(filters: Filters, y: FloatArray) -> bool:
    """Whether Winograd's way to fill ``y`` is to be taken."""
    algorithm = current_algorithm()
    if not len(y) or filters.groups > 1 or algorithm == "products":
        return False
    if algorithm == "winograd":
        return True
    batch, _, rows, columns = y.shape
    plain = 9 * filters.made * filters.taken * batch * rows * (columns + 1)
    return y.dtype == np.float32 and winograd.cost(y, filters) < plain


def _bias(b: FloatArray | None, y: FloatArray) -> FloatArray:
    return np.zeros(y.shape[1], y.dtype) if b is None else np.ascontiguousarray(b)

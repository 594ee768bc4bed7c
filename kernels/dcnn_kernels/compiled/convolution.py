"""Convolution and transposed convolution: taps of windows, and products of them with filters."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..geometry import Pads, Pair, output_shape
from ..reference.im2col import FloatArray
from ..reference.pooling import Switches
from ..reference.relu import Mask
from . import depthwise, panels, sparse, windows, winograd
from .memory import empty
from .pooling import unpooling_2d
from .products import Filters, Phases, Tap, multiply
from .rectifier import Rectifier, rectifier
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
    scale: FloatArray | None,
    shift: FloatArray | None,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.convolution_2d`."""
    outgoing, incoming, kh, kw = W.shape
    y = empty((len(x), outgoing, *output_shape(x.shape, (kh, kw), stride, pad, dilate)), x.dtype)
    x, W, bias = np.ascontiguousarray(x), np.ascontiguousarray(W), _bias(b, y)
    filters = Filters(W.reshape(-1), groups, outgoing // groups, incoming, W.size // groups, incoming * kh * kw, kh * kw, bias)
    through = rectifier(None, -math.inf if z is None else 0, math.inf if z is None else z, x.dtype, scale, shift)
    if _is_depthwise(filters, stride):
        depthwise.multiply(y, x, filters, windows.gathered((kh, kw), pad, dilate), stride, through)
        return y
    if (kh, kw) == (3, 3) and stride == dilate == (1, 1) and winograd_is_cheaper(filters, y):
        winograd.multiply(y, x, filters, (-pad[0][0], -pad[1][0]), False, through)
        return y
    if kh == kw == 1:
        panels.multiply(y, x, filters, (-pad[0][0], -pad[1][0]), stride, through)
    else:
        multiply(y, x, filters, (_taps((kh, kw), pad, dilate),), stride, (1, 1), through)
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
    y = empty((len(x), groups * incoming, *outsize), x.dtype)
    x, W, bias = np.ascontiguousarray(x), np.ascontiguousarray(W), _bias(b, y)
    filters = Filters(W.reshape(-1), groups, incoming, outgoing // groups, W.size // groups, kh * kw, incoming * kh * kw, bias)
    through = rectifier(mask, 0 if rectify else -math.inf, math.inf, x.dtype, None, None)
    if _is_depthwise(filters, stride):
        depthwise.multiply(y, x, filters, windows.scattered((kh, kw), stride, pad, dilate), (1, 1), through)
        return y
    if sparse_is_cheaper(filters, y, x, W, stride == dilate == (1, 1), through):
        sparse.multiply(y, x, W, bias, stride, pad, dilate, through)
        return y
    if (kh, kw) == (3, 3) and stride == dilate == (1, 1) and winograd_is_cheaper(filters, y):
        winograd.multiply(y, x, filters, (pad[0][0] - 2, pad[1][0] - 2), True, through)
        return y
    if kh == kw == 1 and stride == (1, 1):
        panels.multiply(y, x, filters, (pad[0][0], pad[1][0]), stride, through)
        return y
    if kh == kw == groups == 1 and stride != (1, 1) and not any(map(any, pad)):
        # What single pixels make lies apart.
        y[...] = bias[:, None, None]
        y[:, :, :: stride[0], :: stride[1]][:, :, : x.shape[2], : x.shape[3]] = transposed_convolution_2d(
            x, W, b, (1, 1), pad, dilate, groups, x.shape[2:], None, False
        )
        return y if through.idle else relu_reverse(y, mask, rectify, 0.0)
    multiply(y, x, filters, _phases((kh, kw), stride, pad, dilate), (1, 1), stride, through)
    return y


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


def _is_depthwise(filters: Filters, stride: Pair) -> bool:
    """Whether each channel made sees one alone, by windows that are swept in vectors."""
    return filters.groups > 1 and filters.taken == 1 and stride[1] <= windows.STEPS


def sparse_is_cheaper(filters: Filters, y: FloatArray, x: FloatArray, W: FloatArray, steady: bool, through: Rectifier) -> bool:
    """Whether to skip what is zero in all signals ``x`` on the way back to ``y``; ``steady`` windows have no step between."""
    algorithm = current_algorithm()
    if filters.groups > 1 or algorithm not in ("auto", "sparse"):
        return False
    if algorithm == "sparse":
        return sparse.cost(y, x, W, through) < math.inf
    dense = float(W.size * len(x) * math.prod(x.shape[2:]))
    if W.shape[2:] == (3, 3) and steady and y.dtype == np.float32:
        dense = min(dense, winograd.cost(y, filters))
    return sparse.cost(y, x, W, through, dense) < dense


def winograd_is_cheaper(filters: Filters, y: FloatArray) -> bool:
    """Whether Winograd's way to fill ``y`` is to be taken."""
    algorithm = current_algorithm()
    if not len(y) or filters.groups > 1 or algorithm == "products":
        return False
    if algorithm == "winograd":
        return True
    batch, _, rows, columns = y.shape
    plain = 9 * filters.made * filters.taken * batch * rows * (columns + 1)
    return y.dtype == np.float32 and winograd.cost(y, filters) < plain


@lru_cache(maxsize=256)
def _taps(ksize: Pair, pad: Pads, dilate: Pair) -> tuple[Tap, ...]:
    """The taps of windows."""
    places = enumerate(np.ndindex(*ksize))
    return tuple(Tap(i * dilate[0] - pad[0][0], j * dilate[1] - pad[1][0], place) for place, (i, j) in places)


@lru_cache(maxsize=256)
def _phases(ksize: Pair, stride: Pair, pad: Pads, dilate: Pair) -> Phases:
    """The taps on the way back, by phase.

    The pixels of one phase, their number modulo the stride, are windows of stride 1, each with its share of the taps.
    """
    phases: list[list[Tap]] = []
    for phase in np.ndindex(*stride):
        phases.append([])
        for place, (i, j) in enumerate(np.ndindex(*ksize)):
            down, across = (p + side[0] - n * d for p, side, n, d in zip(phase, pad, (i, j), dilate, strict=True))
            if down % stride[0] == across % stride[1] == 0:
                phases[-1].append(Tap(down // stride[0], across // stride[1], place))
    return tuple(map(tuple, phases))


def _bias(b: FloatArray | None, y: FloatArray) -> FloatArray:
    return np.zeros(y.shape[1], y.dtype) if b is None else np.ascontiguousarray(b)

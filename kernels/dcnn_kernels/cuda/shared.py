"""Ways back of many signals of one picture, on a GPU, by way of the primitives for batches of pictures."""

from __future__ import annotations

import cupy

from ..arrays import Array
from ..geometry import Pads, Pair
from .convolution import transposed_convolution_2d
from .pooling import unpooling_2d
from .relu import relu_reverse


def shared_transposed_convolution_2d(
    g: Array,
    W: Array,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Array | None,
    rectify: bool,
) -> Array:
    """See :func:`dcnn_kernels.shared_transposed_convolution_2d`."""
    y = transposed_convolution_2d(g.transpose(3, 2, 0, 1), W, None, stride, pad, dilate, groups, outsize)
    shared = None if mask is None else cupy.broadcast_to(mask, (len(y), mask.shape[1]))
    return cupy.ascontiguousarray(relu_reverse(y, shared, rectify, 0.0).transpose(2, 3, 1, 0))


def shared_unpooling_2d(
    g: Array,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Array,
    mask: Array | None,
    rectify: bool,
) -> Array:
    """See :func:`dcnn_kernels.shared_unpooling_2d`."""
    x = g.transpose(3, 2, 0, 1)
    switches = cupy.broadcast_to(switches, x.shape)
    shared = None if mask is None else cupy.broadcast_to(mask, (len(x), mask.shape[1]))
    y = unpooling_2d(x, outsize, ksize, stride, pad, switches, "switch", shared, rectify)
    return cupy.ascontiguousarray(y.transpose(2, 3, 1, 0))

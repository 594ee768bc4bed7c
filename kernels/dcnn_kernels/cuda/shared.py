"""Ways back of many signals of one picture, on a GPU, by way of the primitives for batches of pictures."""

from __future__ import annotations

import cupy

from ..arrays import Array
from ..geometry import Pads, Pair
from .convolution import transposed_convolution_2d
from .pooling import unpooling_2d


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
    x = g.transpose(3, 2, 0, 1)
    shared = None if mask is None else cupy.broadcast_to(mask, (len(x), mask.shape[1]))
    y = transposed_convolution_2d(x, W, None, stride, pad, dilate, groups, outsize, shared, rectify)
    return cupy.ascontiguousarray(y.transpose(2, 3, 1, 0))


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

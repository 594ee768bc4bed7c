"""Ways back of many signals of one picture, by way of the primitives for batches of pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..geometry import Pads, Pair
from .convolution import transposed_convolution_2d
from .pooling import Switches, unpooling_2d
from .relu import Mask

FloatArray = npt.NDArray[np.floating]


def shared_transposed_convolution_2d(
    g: FloatArray,
    W: FloatArray,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.shared_transposed_convolution_2d`."""
    x = g.transpose(3, 2, 0, 1)
    shared = None if mask is None else np.broadcast_to(mask, (len(x), mask.shape[1]))
    y = transposed_convolution_2d(x, W, None, stride, pad, dilate, groups, outsize, shared, rectify)
    return np.ascontiguousarray(y.transpose(2, 3, 1, 0))


def shared_unpooling_2d(
    g: FloatArray,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Switches,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.shared_unpooling_2d`."""
    x = g.transpose(3, 2, 0, 1)
    switches = np.broadcast_to(switches, x.shape)
    shared = None if mask is None else np.broadcast_to(mask, (len(x), mask.shape[1]))
    y = unpooling_2d(x, outsize, ksize, stride, pad, switches, "switch", shared, rectify)
    return np.ascontiguousarray(y.transpose(2, 3, 1, 0))

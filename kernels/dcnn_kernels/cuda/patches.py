"""Patches: cut so that the kernels for whole pictures take them as small pictures, (P, C, h, w).

Convolutions gather from patches that reach as far as the outputs' windows. Both forms come to the same here: to multiply by the
zeros around a patch costs no more than to leave them out.
"""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.convolution import convolution_2d
from dcnn_kernels.cuda.elements import element_index, launch_elements, scalar
from dcnn_kernels.cuda.launch import ctype
from dcnn_kernels.cuda.pooling import max_pooling_2d
from dcnn_kernels.geometry import Pads, Pair

Integers = npt.NDArray[np.integer]
NO_PADS = ((0, 0), (0, 0))


def crop_patches(x: Array, samples: Integers, origins: Integers, size: Pair, fill: float) -> Array:
    """See :func:`dcnn_kernels.crop_patches`."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty((len(samples), x.shape[1], *size), x.dtype)
    name, index = element_index(x.size, y.size)
    places = (cupy.asarray(array.astype(index, order="C")) for array in (samples, origins))
    args = (x, *places, y, scalar(fill, x.dtype), *map(index, (y.size, *y.shape[1:], *x.shape[2:])))
    launch_elements("patches.cu", f"crop_patches<{ctype(x.dtype)}, {name}>", y.size, 1, args)
    return y


def convolve_patches(
    x: Array,
    offsets: Integers,
    W: Array,
    outsize: Pair,
    stride: Pair,
    dilate: Pair,
    groups: int,
    form: str | None,
    layouts: dict[str, Any],
) -> Array:
    """See :func:`dcnn_kernels.convolve_patches`."""
    if 0 in outsize or not len(x):
        return cupy.empty((len(x), len(W), *outsize), x.dtype)
    seen = _seen(outsize, (W.shape[2], W.shape[3]), stride, dilate)
    return convolution_2d(
        crop_patches(x, np.arange(len(x)), offsets, seen, 0.0), W, None, stride, NO_PADS, dilate, groups, None, None, None
    )


def patch_form(W: Array, insize: Pair, outsize: Pair, stride: Pair, dilate: Pair, groups: int) -> str:
    """See :func:`dcnn_kernels.patch_form`."""
    return "gather"


def max_pool_patches(
    x: Array,
    origins: Integers,
    before: Array,
    after: Array,
    outputs: Integers,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
) -> Array:
    """See :func:`dcnn_kernels.max_pool_patches`."""
    if 0 in outsize or not len(x):
        return cupy.empty((len(x), x.shape[1], *outsize), x.dtype)
    seen = _seen(outsize, ksize, stride, (1, 1))
    firsts = outputs * np.array(stride) - np.array([side[0] for side in pad])
    all_of_one = np.zeros(len(x), np.int64)
    maps = crop_patches(before, all_of_one, firsts, seen, -math.inf)
    maps += crop_patches(x, np.arange(len(x)), firsts - origins, seen, 0.0)
    y = max_pooling_2d(maps, ksize, stride, NO_PADS, False, False)[0]
    unchanged = crop_patches(after, all_of_one, outputs, outsize, 0.0)
    # A window wholly in the padding is -inf with and without the change.
    return cupy.where(y == unchanged, cupy.zeros_like(y), y - unchanged)


def rectify_patches(x: Array, origins: Integers, before: Array, z: float, slope: float) -> Array:
    """See :func:`dcnn_kernels.rectify_patches`."""
    x, before = cupy.ascontiguousarray(x), cupy.ascontiguousarray(before)
    y = cupy.empty(x.shape, x.dtype)
    name, index = element_index(x.size, before.size)
    places = cupy.asarray(origins.astype(index, order="C"))
    numbers = (scalar(z, x.dtype), scalar(slope, x.dtype), *map(index, (x.size, *x.shape[1:], *before.shape[2:])))
    launch_elements("patches.cu", f"rectify_patches<{ctype(x.dtype)}, {name}>", x.size, 1, (x, places, before, y, *numbers))
    return y


def _seen(outsize: Pair, ksize: Pair, stride: Pair, dilate: Pair) -> Pair:
    """Rows and columns that the windows of some outputs see, first tap to last."""
    rows, columns = ((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(outsize, ksize, stride, dilate, strict=True))
    return rows, columns

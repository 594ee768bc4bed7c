"""Patches, channels last: pixels are the rows of matrices, so that a product takes the rows of all patches at once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..geometry import Pads, Pair
from .im2col import FloatArray

Integers = npt.NDArray[np.integer]
#: Bytes of windows written out, or of products waiting to be added up, at a time.
TILE_BYTES = 8 << 20


class PatchFilters(NamedTuple):
    """Filters with what says how they lie over a patch.

    Attributes:
        W: Filters (O, C / groups, kh, kw).
        stride: Step between windows.
        dilate: Step between taps.
        groups: Number of channel groups.
        layouts: The filters as the forms read them, by name, made when first needed.
    """

    W: FloatArray
    stride: Pair
    dilate: Pair
    groups: int
    layouts: dict[str, Any]

    @property
    def ksize(self) -> Pair:
        """Taps (rows, columns)."""
        return self.W.shape[2], self.W.shape[3]


def crop_patches(x: FloatArray, samples: Integers, origins: Integers, size: Pair, fill: float) -> FloatArray:
    """See :func:`dcnn_kernels.crop_patches`."""
    maps = channels_last(x)
    y = np.empty((len(samples), *size, x.shape[1]), x.dtype)
    for patch, sample, (top, left) in zip(y, samples.tolist(), origins.tolist(), strict=True):
        rows, here = _overlap(top, size[0], x.shape[2])
        columns, there = _overlap(left, size[1], x.shape[3])
        if here != slice(0, size[0]) or there != slice(0, size[1]):
            patch[...] = fill
        patch[here, there] = maps[sample, rows, columns]
    return channels_first(y)


def convolve_patches(
    x: FloatArray,
    offsets: Integers,
    W: FloatArray,
    outsize: Pair,
    stride: Pair,
    dilate: Pair,
    groups: int,
    form: str | None,
    layouts: dict[str, Any],
) -> FloatArray:
    """See :func:`dcnn_kernels.convolve_patches`."""
    filters = PatchFilters(W, stride, dilate, groups, layouts)
    y = np.zeros((len(x), *outsize, len(filters.W)), x.dtype)
    if x.size and y.size:
        form = form or patch_form(W, x.shape[2:], outsize, stride, dilate, groups)
        run = _scatter if form == "scatter" else _gather
        step = max(1, TILE_BYTES // _bytes_written(x.shape, x.itemsize, filters, outsize, run is _scatter))
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            run(x[part], offsets[part], filters, y[part])
    return channels_first(y)


def patch_form(W: FloatArray, insize: Pair, outsize: Pair, stride: Pair, dilate: Pair, groups: int) -> str:
    """See :func:`dcnn_kernels.patch_form`. Windows written out count by input channels, products by output channels."""
    outgoing, incoming = W.shape[:2]
    if stride != (1, 1) or groups > 1 or W.shape[2:] == (1, 1):
        return "gather"
    gathered, scattered = math.prod(outsize), math.prod(insize)
    # Moving a value costs about as much as multiplying by it some forty times.
    gather = gathered * incoming * (outgoing + 40)
    return "scatter" if scattered * outgoing * (incoming + 60) < gather else "gather"


def max_pool_patches(
    x: FloatArray,
    origins: Integers,
    before: FloatArray,
    after: FloatArray,
    outputs: Integers,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
) -> FloatArray:
    """See :func:`dcnn_kernels.max_pool_patches`."""
    rows, columns = ((n - 1) * s + k if n else 0 for n, s, k in zip(outsize, stride, ksize, strict=True))
    seen = rows, columns
    firsts = outputs * np.array(stride) - np.array([side[0] for side in pad])
    maps = channels_last(crop_patches(before, np.zeros(len(x), np.int64), firsts, seen, -math.inf))
    maps += channels_last(crop_patches(x, np.arange(len(x)), firsts - origins, seen, 0.0))
    y = np.full((len(x), *outsize, x.shape[1]), -np.inf, x.dtype)
    for i in range(ksize[0]):
        for j in range(ksize[1]):
            np.maximum(y, maps[:, i :: stride[0], j :: stride[1]][:, : outsize[0], : outsize[1]], out=y)
    unchanged = channels_last(crop_patches(after, np.zeros(len(x), np.int64), outputs, outsize, 0.0))
    # A window wholly in the padding is -inf with and without the change.
    return channels_first(np.subtract(y, unchanged, out=np.zeros_like(y), where=y != unchanged))


def rectify_patches(x: FloatArray, origins: Integers, before: FloatArray, z: float, slope: float) -> FloatArray:
    """See :func:`dcnn_kernels.rectify_patches`."""
    values = channels_last(crop_patches(before, np.zeros(len(x), np.int64), origins, x.shape[2:], 0.0))
    changed = values + channels_last(x)
    y = np.clip(changed, 0, z)
    y -= np.clip(values, 0, z)
    if slope:
        y += slope * (np.minimum(changed, 0) - np.minimum(values, 0))
    return channels_first(y)


def channels_last(x: FloatArray) -> FloatArray:
    """(P, C, h, w) as (P, h, w, C), contiguous; without a copy if it lies so."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def channels_first(y: FloatArray) -> FloatArray:
    """(P, h, w, C) as (P, C, h, w), a view."""
    return y.transpose(0, 3, 1, 2)


def window_rows(x: FloatArray, offsets: Integers, filters: PatchFilters, outsize: Pair) -> FloatArray:
    """The windows of outputs as rows, (groups, P rows columns, kh kw C / groups)."""
    (kh, kw), (sh, sw), (dh, dw) = filters.ksize, filters.stride, filters.dilate
    rows, columns = outsize
    seen = ((rows - 1) * sh + dh * (kh - 1) + 1, (columns - 1) * sw + dw * (kw - 1) + 1)
    aligned = channels_last(crop_patches(x, np.arange(len(x)), offsets, seen, 0.0))
    taps = np.empty((filters.groups, len(x), rows, columns, kh, kw, x.shape[1] // filters.groups), x.dtype)
    grouped = aligned.reshape(*aligned.shape[:3], filters.groups, -1)
    for i in range(kh):
        for j in range(kw):
            tap = grouped[:, i * dh :: sh, j * dw :: sw][:, :rows, :columns]
            taps[..., i, j, :] = np.moveaxis(tap, 3, 0)
    return taps.reshape(filters.groups, len(x) * rows * columns, -1)


def gathering_matrix(filters: PatchFilters) -> FloatArray:
    """Filters as (groups, kh kw C / groups, O / groups)."""
    if "gather" not in filters.layouts:
        W, groups = filters.W, filters.groups
        grouped = W.reshape(groups, len(W) // groups, *W.shape[1:]).transpose(0, 3, 4, 2, 1)
        filters.layouts["gather"] = np.ascontiguousarray(grouped).reshape(groups, -1, len(W) // groups)
    return filters.layouts["gather"]


def scattering_matrix(filters: PatchFilters) -> FloatArray:
    """Filters as (groups, C / groups, kh kw O / groups)."""
    if "scatter" not in filters.layouts:
        W, groups = filters.W, filters.groups
        grouped = W.reshape(groups, len(W) // groups, *W.shape[1:]).transpose(0, 2, 3, 4, 1)
        filters.layouts["scatter"] = np.ascontiguousarray(grouped).reshape(groups, W.shape[1], -1)
    return filters.layouts["scatter"]


def scattered_products(x: FloatArray, filters: PatchFilters) -> FloatArray:
    """What each pixel contributes by each tap, (groups, P, h, w, kh, kw, O / groups)."""
    matrix = scattering_matrix(filters)
    pixels = channels_last(x).reshape(-1, filters.groups, matrix.shape[1]).transpose(1, 0, 2)
    return np.matmul(pixels, matrix).reshape(filters.groups, len(x), *x.shape[2:], *filters.ksize, -1)


def _gather(x: FloatArray, offsets: Integers, filters: PatchFilters, y: FloatArray) -> None:
    products = np.matmul(window_rows(x, offsets, filters, y.shape[1:3]), gathering_matrix(filters))
    y[...] = products.transpose(1, 0, 2).reshape(y.shape)


def _scatter(x: FloatArray, offsets: Integers, filters: PatchFilters, y: FloatArray) -> None:
    (kh, kw), (dh, dw), (h, w) = filters.ksize, filters.dilate, x.shape[2:]
    products = scattered_products(x, filters)
    reach = np.zeros((len(x), h + dh * (kh - 1), w + dw * (kw - 1), y.shape[3]), x.dtype)
    grouped = reach.reshape(*reach.shape[:3], filters.groups, -1)
    for i in range(kh):
        for j in range(kw):
            # Pixel r is tap i of the output i taps before it.
            top, left = dh * (kh - 1 - i), dw * (kw - 1 - j)
            grouped[:, top : top + h, left : left + w] += np.moveaxis(products[..., i, j, :], 0, 3)
    first = offsets + np.array([dh * (kh - 1), dw * (kw - 1)])
    y[...] = channels_last(crop_patches(channels_first(reach), np.arange(len(x)), first, y.shape[1:3], 0.0))


def _bytes_written(shape: tuple[int, ...], itemsize: int, filters: PatchFilters, outsize: Pair, scatter: bool) -> int:
    """Bytes between the copies and the product, a patch."""
    pixels = shape[2] * shape[3] * len(filters.W) if scatter else math.prod(outsize) * shape[1]
    return max(1, pixels * math.prod(filters.ksize) * itemsize)


def _overlap(first: int, count: int, size: int) -> tuple[slice, slice]:
    """Of ``count`` pixels from ``first`` on, those that lie among ``size``: in the map, and in the patch."""
    begin, end = min(max(first, 0), size), min(max(first + count, 0), size)
    return slice(begin, end), slice(begin - first, end - first) if begin < end else slice(0, 0)

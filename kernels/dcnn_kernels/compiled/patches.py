"""Patches, channels last: loops over channels run through vectors, and 3x3 filters multiply by evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..geometry import Pads, Pair
from ..reference import patches as products
from ..reference.im2col import FloatArray
from ..reference.patches import Integers, PatchFilters, channels_first, channels_last, gathering_matrix
from . import toom_cook
from .microkernel import ROWS
from .row_products import in_panels, multiply_rows, panel_width
from .team import parted
from .threads import share

#: Channels, the fewer of in and out, from which evaluation saves more products than it costs additions.
EVALUATED = 16


def crop_patches(x: FloatArray, samples: Integers, origins: Integers, size: Pair, fill: float) -> FloatArray:
    """See :func:`dcnn_kernels.crop_patches`."""
    maps = channels_last(x)
    y = np.empty((len(samples), *size, x.shape[1]), x.dtype)
    share(_crop, len(y), y[:1].size, maps, np.asarray(samples, np.int64), np.asarray(origins, np.int64), y, x.dtype.type(fill))
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
    depthwise = filters.groups > 1 and filters.W.shape[1] == 1 and len(filters.W) == filters.groups
    form = form or patch_form(W, x.shape[2:], outsize, stride, dilate, groups)
    if form == "scatter" and not depthwise and not _is_evaluated(W, stride, dilate, groups):
        return products.convolve_patches(x, offsets, W, outsize, stride, dilate, groups, form, layouts)
    pixels, offsets = channels_last(x), np.asarray(offsets, np.int64)
    shape = (len(x), *outsize, len(filters.W))
    if not x.size or 0 in shape:
        return channels_first(np.zeros(shape, x.dtype))
    if depthwise:
        y = np.empty(shape, x.dtype)
        taps = filters.layouts.setdefault("depthwise", np.ascontiguousarray(filters.W[:, 0].transpose(1, 2, 0)))
        work = y[:1].size * math.prod(filters.ksize)
        share(_convolve_depthwise, len(x), work, pixels, offsets, taps, y, *filters.stride, *filters.dilate)
    elif form == "scatter":
        if "evaluated" not in filters.layouts:
            filters.layouts["evaluated"] = toom_cook.evaluate_filters(filters.W)
        y = np.zeros(shape, x.dtype)
        toom_cook.scatter(pixels, -offsets - (toom_cook.TAPS - 1), filters.layouts["evaluated"], y)
    else:
        y = np.empty(shape, x.dtype)
        _gather(pixels, offsets, filters, y)
    return channels_first(y)


def patch_form(W: FloatArray, insize: Pair, outsize: Pair, stride: Pair, dilate: Pair, groups: int) -> str:
    """See :func:`dcnn_kernels.patch_form`."""
    if _is_evaluated(W, stride, dilate, groups):
        return "scatter"
    return products.patch_form(W, insize, outsize, stride, dilate, groups)


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
    y = np.empty((len(x), *outsize, x.shape[1]), x.dtype)
    arrays = (channels_last(x), np.asarray(origins, np.int64), channels_last(before)[0], channels_last(after)[0])
    places = (np.asarray(outputs, np.int64), y, *ksize, *stride, pad[0][0], pad[1][0])
    share(_max_pool, len(x), y[:1].size * math.prod(ksize), *arrays, *places)
    return channels_first(y)


def rectify_patches(x: FloatArray, origins: Integers, before: FloatArray, z: float, slope: float) -> FloatArray:
    """See :func:`dcnn_kernels.rectify_patches`."""
    pixels = channels_last(x)
    y = np.empty_like(pixels)
    number = x.dtype.type
    maps = channels_last(before)[0]
    share(_rectify, len(x), pixels[:1].size, pixels, np.asarray(origins, np.int64), maps, y, number(z), number(slope))
    return channels_first(y)


def _is_evaluated(W: FloatArray, stride: Pair, dilate: Pair, groups: int) -> bool:
    plain = stride == dilate == (1, 1) and groups == 1
    return plain and W.shape[2:] == (3, 3) and min(W.shape[:2]) >= EVALUATED


def _gather(x: FloatArray, offsets: Integers, filters: PatchFilters, y: FloatArray) -> None:
    """Each output from its window: windows written out as rows, and a product for each group."""
    matrix = gathering_matrix(filters)
    groups, taken, made = matrix.shape
    (kh, kw), pixels = filters.ksize, y.shape[1] * y.shape[2]
    as_they_are = filters.ksize == filters.stride == (1, 1) and y.shape[1:3] == x.shape[1:3] and not offsets.any()
    if as_they_are and groups == 1:
        _multiply(x.reshape(-1, taken), matrix, filters, y.reshape(-1, made))
        return
    step = max(1, products.TILE_BYTES // (pixels * groups * taken * x.itemsize))
    for first in range(0, len(x), step):
        part = slice(first, min(first + step, len(x)))
        rows = np.empty((groups, part.stop - first, y.shape[1], y.shape[2], kh, kw, taken // (kh * kw)), x.dtype)
        work = rows[:, :1].size
        share(_window_rows, part.stop - first, work, x[part], offsets[part], rows, *filters.stride, *filters.dilate)
        if groups == 1:
            _multiply(rows.reshape(-1, taken), matrix, filters, y[part].reshape(-1, made))
        else:
            made_rows = np.matmul(rows.reshape(groups, -1, taken), matrix)
            y[part] = made_rows.transpose(1, 0, 2).reshape(y[part].shape)


def _multiply(rows: FloatArray, matrix: FloatArray, filters: PatchFilters, products: FloatArray) -> None:
    """Products of rows and the one matrix, of whole panels without BLAS."""
    if len(rows) < ROWS or products.shape[1] % panel_width(rows.itemsize):
        np.matmul(rows, matrix[0], out=products)
        return
    if "panels" not in filters.layouts:
        filters.layouts["panels"] = in_panels(matrix)
    multiply_rows(rows[None], filters.layouts["panels"], products[None], len(rows))


@parted
def _crop(first, last, x, samples, origins, y, fill):
    """Copies rectangles of pixels."""
    height, width, channels = x.shape[1:]
    for p in range(first, last):
        for r in range(y.shape[1]):
            row = origins[p, 0] + r
            for c in range(y.shape[2]):
                column = origins[p, 1] + c
                if 0 <= row < height and 0 <= column < width:
                    for n in range(channels):
                        y[p, r, c, n] = x[samples[p], row, column, n]
                else:
                    for n in range(channels):
                        y[p, r, c, n] = fill


@parted
def _window_rows(first, last, x, offsets, rows, sh, sw, dh, dw):
    """Writes windows out, zeros outside the patch."""
    height, width = x.shape[1:3]
    groups, _, down, across, kh, kw, channels = rows.shape
    for p in range(first, last):
        for group in range(groups):
            for r in range(down):
                for c in range(across):
                    for i in range(kh):
                        row = r * sh + offsets[p, 0] + i * dh
                        for j in range(kw):
                            column = c * sw + offsets[p, 1] + j * dw
                            if 0 <= row < height and 0 <= column < width:
                                for n in range(channels):
                                    rows[group, p, r, c, i, j, n] = x[p, row, column, group * channels + n]
                            else:
                                for n in range(channels):
                                    rows[group, p, r, c, i, j, n] = 0


@parted
def _convolve_depthwise(first, last, x, offsets, taps, y, sh, sw, dh, dw):
    """Sums over windows, each channel by itself."""
    height, width = x.shape[1:3]
    kh, kw, channels = taps.shape
    for p in range(first, last):
        for r in range(y.shape[1]):
            top = r * sh + offsets[p, 0]
            for c in range(y.shape[2]):
                left = c * sw + offsets[p, 1]
                for n in range(channels):
                    y[p, r, c, n] = 0
                for i in range(kh):
                    row = top + i * dh
                    if 0 <= row < height:
                        for j in range(kw):
                            column = left + j * dw
                            if 0 <= column < width:
                                for n in range(channels):
                                    y[p, r, c, n] += taps[i, j, n] * x[p, row, column, n]


@parted
def _max_pool(first, last, x, origins, before, after, outputs, y, kh, kw, sh, sw, top, left):
    """Maxima of windows of the changed maps, less the maxima without the change."""
    height, width, channels = before.shape
    h, w = x.shape[1:3]
    best = np.empty(channels, x.dtype)
    for p in range(first, last):
        for r in range(y.shape[1]):
            for c in range(y.shape[2]):
                for n in range(channels):
                    best[n] = -np.inf
                for i in range(kh):
                    row = (outputs[p, 0] + r) * sh - top + i
                    here = row - origins[p, 0]
                    if 0 <= row < height:
                        for j in range(kw):
                            column = (outputs[p, 1] + c) * sw - left + j
                            there = column - origins[p, 1]
                            if 0 <= column < width:
                                if 0 <= here < h and 0 <= there < w:
                                    for n in range(channels):
                                        value = before[row, column, n] + x[p, here, there, n]
                                        best[n] = best[n] if best[n] > value else value
                                else:
                                    for n in range(channels):
                                        value = before[row, column, n]
                                        best[n] = best[n] if best[n] > value else value
                for n in range(channels):
                    unchanged = after[outputs[p, 0] + r, outputs[p, 1] + c, n]
                    y[p, r, c, n] = best[n] - unchanged if best[n] != unchanged else 0


@parted
def _rectify(first, last, x, origins, before, y, z, slope):
    """Rectified with the change, less rectified without."""
    _, h, w, channels = x.shape
    for p in range(first, last):
        for r in range(h):
            for c in range(w):
                row, column = origins[p, 0] + r, origins[p, 1] + c
                for n in range(channels):
                    value = before[row, column, n]
                    changed = value + x[p, r, c, n]
                    y[p, r, c, n] = min(max(changed, 0), z) - min(max(value, 0), z) + slope * (min(changed, 0) - min(value, 0))

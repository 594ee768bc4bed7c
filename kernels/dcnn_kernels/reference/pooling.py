"""Pooling and unpooling, a block of planes at a time and one window offset after the other.

A window's offset, over all windows at once, is a strided view of the picture. So no window is gathered, and padding is
never written out: windows that have an offset outside the picture are left out of that offset's view.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import index_dtype
from dcnn_kernels.geometry import Pads, Pair, output_shape
from dcnn_kernels.reference.blocks import blocks
from dcnn_kernels.reference.relu import Mask, relu_mask, relu_reverse

FloatArray = npt.NDArray[np.floating]
Switches = npt.NDArray[np.unsignedinteger]


class _Tap(NamedTuple):
    """One offset of a window along one axis: the windows that have it inside the picture, and their pixels."""

    offset: int
    windows: slice
    pixels: slice


def _taps(size: int, count: int, ksize: int, stride: int, before: int) -> list[_Tap]:
    """The offsets of ``count`` windows along an axis of ``size`` pixels padded by ``before``, in order."""
    taps = []
    for offset in range(ksize):
        first = max(0, -((offset - before) // stride))
        last = min(count, (size - 1 + before - offset) // stride + 1)
        if first < last:
            start = first * stride + offset - before
            taps.append(_Tap(offset, slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)))
    return taps


def _plane_taps(picture: Pair, windows: Pair, ksize: Pair, stride: Pair, pad: Pads) -> tuple[list[_Tap], list[_Tap]]:
    rows, columns = (_taps(picture[axis], windows[axis], ksize[axis], stride[axis], pad[axis][0]) for axis in range(2))
    return rows, columns


def max_pooling_2d(
    x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool, mask: bool
) -> tuple[FloatArray, Switches] | tuple[FloatArray, Switches, Mask]:
    """See :func:`dcnn_kernels.max_pooling_2d`."""
    windows = output_shape(x.shape, ksize, stride, pad, cover_all=cover_all)
    rows, columns = _plane_taps(x.shape[2:], windows, ksize, stride, pad)
    y = np.empty(x.shape[:2] + windows, x.dtype)
    switches = np.empty(y.shape, index_dtype(ksize[0] * ksize[1]))
    for block in blocks(x.shape, x.itemsize):
        _max_pool(x[block], y[block], switches[block], ksize[1], rows, columns)
    return (y, switches, relu_mask(y, math.inf)) if mask else (y, switches)


def _max_pool(x: FloatArray, y: FloatArray, switches: Switches, kw: int, rows: list[_Tap], columns: list[_Tap]) -> None:
    """Pools along the rows, then down the columns: in this order, the first maximum in row order wins ties."""
    place = switches.dtype.type
    best = np.full(x.shape[:-1] + y.shape[-1:], -np.inf, x.dtype)
    places = np.zeros(best.shape, switches.dtype)
    for tap in columns:
        value = x[..., tap.pixels]
        if tap.offset == 0:
            best[..., tap.windows] = value
        else:
            # Packing a strided view once costs less than reading it in strides twice.
            _take_larger(best[..., tap.windows], places[..., tap.windows], value.copy(), place(tap.offset))
    y[...], switches[...] = -np.inf, 0
    for tap in rows:
        value, column = best[:, :, tap.pixels], places[:, :, tap.pixels]
        if tap.offset == 0:
            y[:, :, tap.windows], switches[:, :, tap.windows] = value, column
        else:
            _take_larger(y[:, :, tap.windows], switches[:, :, tap.windows], value, column + place(tap.offset * kw))
    if np.isnan(y).any():
        _point_at_first_nan(x, switches, kw, rows, columns)


def _take_larger(best: FloatArray, places: Switches, value: FloatArray, place: Switches | np.unsignedinteger) -> None:
    """Replaces ``best`` and its ``places`` where ``value`` is larger; ``place`` must exceed every earlier one."""
    larger = np.greater(value, best).view(np.uint8)
    np.maximum(best, value, out=best)
    np.maximum(places, larger * place, out=places)


def _point_at_first_nan(x: FloatArray, switches: Switches, kw: int, rows: list[_Tap], columns: list[_Tap]) -> None:
    """A NaN is the maximum of its window, as for ``numpy.argmax``; comparisons can't tell where it was."""
    for row, column in product(reversed(rows), reversed(columns)):
        np.copyto(
            switches[:, :, row.windows, column.windows],
            switches.dtype.type(row.offset * kw + column.offset),
            where=np.isnan(x[:, :, row.pixels, column.pixels]),
        )


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
    y = _sums(g, outsize, ksize, stride, pad, switches, mode)
    return y if mask is None and not rectify else relu_reverse(y, mask, rectify, 0.0)


def _sums(g: FloatArray, outsize: Pair, ksize: Pair, stride: Pair, pad: Pads, switches: Switches | None, mode: str) -> FloatArray:
    if mode == "spread":
        return _spread(g, outsize, ksize, stride, pad, count_include_pad=False)
    rows, columns = _plane_taps(outsize, g.shape[2:], ksize, stride, pad)
    y = np.empty(g.shape[:2] + outsize, g.dtype)
    center = ((ksize[0] - 1) // 2, (ksize[1] - 1) // 2)
    overlap = ksize[0] > stride[0] or ksize[1] > stride[1]
    for block in blocks(y.shape, y.itemsize):
        part, signal = y[block], g[block]
        part[...] = 0
        if mode == "center":
            for row, column in product(rows, columns):
                if (row.offset, column.offset) == center:
                    part[:, :, row.pixels, column.pixels] = signal[:, :, row.windows, column.windows]
        elif switches is not None:
            _unpool(np.ascontiguousarray(signal), switches[block], part, ksize[1], rows, columns, overlap)
    return y


def _unpool(
    g: FloatArray, switches: Switches, y: FloatArray, kw: int, rows: list[_Tap], columns: list[_Tap], overlap: bool
) -> None:
    # A signal times its mask would make NaN of an infinite signal; a bitwise 'and' with 0 or -1 doesn't, and is faster.
    bits = np.dtype(f"i{g.itemsize}")
    for row, column in product(rows, columns):
        place = np.s_[:, :, row.windows, column.windows]
        chosen = np.negative(np.equal(switches[place], row.offset * kw + column.offset).view(np.int8))
        value = (g[place].view(bits) & chosen.astype(bits)).view(g.dtype)
        if overlap:
            y[:, :, row.pixels, column.pixels] += value
        else:
            y[:, :, row.pixels, column.pixels] = value


def average_pooling_2d(x: FloatArray, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d`."""
    windows = output_shape(x.shape, ksize, stride, pad)
    rows, columns = _plane_taps(x.shape[2:], windows, ksize, stride, pad)
    counts = _counts(windows, ksize, rows, columns, count_include_pad, x.dtype)
    y = np.empty(x.shape[:2] + windows, x.dtype)
    for block in blocks(x.shape, x.itemsize):
        picture, sums = x[block], y[block]
        sums[...] = 0
        strips = np.zeros(picture.shape[:-1] + windows[1:], x.dtype)
        for tap in columns:
            strips[..., tap.windows] += picture[..., tap.pixels]
        for tap in rows:
            sums[:, :, tap.windows] += strips[:, :, tap.pixels]
        sums /= counts
    return y


def average_pooling_2d_adjoint(
    g: FloatArray, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool
) -> FloatArray:
    """See :func:`dcnn_kernels.average_pooling_2d_adjoint`."""
    return _spread(g, insize, ksize, stride, pad, count_include_pad)


def _spread(g: FloatArray, picture: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> FloatArray:
    """Shares each window's value out evenly over its places; what falls on the padding is dropped, overlaps sum."""
    rows, columns = _plane_taps(picture, g.shape[2:], ksize, stride, pad)
    counts = _counts(g.shape[2:], ksize, rows, columns, count_include_pad, g.dtype)
    y = np.empty(g.shape[:2] + picture, g.dtype)
    for block in blocks(y.shape, y.itemsize):
        share, spread = g[block] / counts, y[block]
        spread[...] = 0
        strips = np.zeros(spread.shape[:-1] + share.shape[-1:], g.dtype)
        for tap in rows:
            strips[:, :, tap.pixels] += share[:, :, tap.windows]
        for tap in columns:
            spread[..., tap.pixels] += strips[..., tap.windows]
    return y


def _counts(
    windows: Pair, ksize: Pair, rows: list[_Tap], columns: list[_Tap], count_include_pad: bool, dtype: npt.DTypeLike
) -> FloatArray:
    """Places that each window's average counts, (h, w) or one for all; a window wholly in the padding counts 1."""
    if count_include_pad:
        return np.array(ksize[0] * ksize[1], dtype)
    down, across = np.zeros(windows[0], np.int64), np.zeros(windows[1], np.int64)
    for tap in rows:
        down[tap.windows] += 1
    for tap in columns:
        across[tap.windows] += 1
    return np.maximum(np.outer(down, across), 1).astype(dtype)


def global_average_pooling_2d(x: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.global_average_pooling_2d`."""
    return x.mean(axis=(2, 3))


def global_average_pooling_2d_adjoint(g: FloatArray, insize: Pair) -> FloatArray:
    """See :func:`dcnn_kernels.global_average_pooling_2d_adjoint`."""
    y = np.empty(g.shape + insize, g.dtype)
    y[...] = (g / (insize[0] * insize[1]))[:, :, None, None]
    return y

"""Convolution as a matrix product that takes a panel of pixels at a time: as wide as a block of sums, some channels deep.

A panel stays in the cache next to the core while all filters pass over it. It is the blocking of Goto and van de Geijn, "Anatomy
of High-Performance Matrix Multiplication" (ACM TOMS 34, 2008). Where windows are single pixels, a panel within one picture is
read where it lies. Else it is laid out: its rows are whole vectors side by side, whatever the stride, the padding and the size of
the maps, and windows are never written out as a whole.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .microkernel import LINE_BYTES, ROWS, VECTOR, VECTORS, copy_inside, fetch, rectify, sums_of_products
from .products import PRODUCTS, Filters, Tap
from .rectifier import Rectifier
from .team import parted
from .threads import cores, share

#: Bytes of a panel, two thirds of the cache next to a core.
PANEL_BYTES = 1 << 15
#: How much longer than others one core may work.
UNEVEN = 1.05


def multiply(y: FloatArray, x: FloatArray, filters: Filters, taps: list[Tap], stride: Pair, rectifier: Rectifier) -> None:
    """Fills ``y`` with windows over ``x``: at (r, c), tap t sees ``(r, c) * stride + t``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: The weights.
        taps: Of the windows.
        stride: Step between windows.
        rectifier: What results go through.
    """
    in_place = stride == (1, 1) and y.shape[2:] == x.shape[2:] and [tap[:2] for tap in taps] == [(0, 0)]
    if in_place:  # all pixels are one row
        x, y = (array.reshape(*array.shape[:2], 1, math.prod(array.shape[2:])) for array in (x, y))
    lanes = VECTOR // x.itemsize
    width = VECTORS * lanes
    vectors = -(-len(y) * math.prod(y.shape[2:]) // lanes)
    panels = -(-vectors // VECTORS)  # of about as many vectors each
    parts = max(1, min(_parts(vectors, panels, filters.groups, cores()), filters.made // (2 * ROWS)))
    depth = PANEL_BYTES // ((width if in_place else width + lanes) * x.itemsize)
    each = -(-filters.taken // -(-filters.taken * len(taps) // depth))
    weights, ahead, seen = _tables(tuple(taps), filters.made_step, filters.taken_step, each, LINE_BYTES // x.itemsize)
    tall = -(-filters.made // parts) + ROWS
    room = len(weights) * (width + lanes) + lanes + tall * width
    work = filters.made * width * filters.taken * len(taps) // (parts * PRODUCTS)
    steps = filters.made, filters.taken, filters.group_step, filters.made_step, filters.taken_step, *stride
    arrays = y, x, filters.W, filters.bias, rectifier, weights, ahead, seen
    items = panels * filters.groups * parts
    share(_multiply, items, work, *arrays, *steps, vectors, panels, parts, in_place, room=(room, x.dtype))


@lru_cache(maxsize=256)
def _tables(taps: tuple[Tap, ...], made_step: int, taken_step: int, each: int, line: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Where the weights of a panel's rows lie, those to be fetched meanwhile, and the pixels that taps see; not to be changed."""
    weights = (np.arange(each)[:, None] * taken_step + np.array([tap.place for tap in taps])).reshape(-1)
    # While a block's filters are multiplied, those of the next one come nearer: line by line, where a filter's lie together.
    ahead, rows = weights + ROWS * made_step, np.arange(len(weights))
    if taken_step == len(taps):
        ahead = (rows % ROWS + ROWS) * made_step + np.minimum(rows // ROWS * line, len(weights) - 1)
    return weights, ahead, np.array([tap[:2] for tap in taps], np.int64)


@lru_cache(maxsize=256)
def _parts(vectors: int, panels: int, groups: int, cores: int) -> int:
    """Parts to cut each panel's filters into, as few as leave no core idle for long: each part lays its panel out anew."""
    widths = [vectors * (panel + 1) // panels - vectors * panel // panels for panel in range(panels)]
    for parts in range(1, 8):
        if panels * groups * parts >= 8 * cores:
            return parts
        busy = [0] * cores
        for width in sorted(widths * groups * parts, reverse=True):
            busy[busy.index(min(busy))] += width
        if max(busy) * cores <= UNEVEN * sum(busy):
            return parts
    return 8


@parted
def _multiply(
    first,
    last,
    memory,
    y,
    x,
    W,
    bias,
    rectifier,
    weights,
    ahead,
    seen,
    made,
    taken,
    group_step,
    made_step,
    taken_step,
    down,
    across,
    vectors,
    panels,
    parts,
    in_place,
):
    lanes = VECTOR // x.itemsize
    width, pitch = VECTORS * lanes, (VECTORS + 1) * lanes
    groups, each, pixels = y.shape[1] // made, len(weights) // len(seen), y.shape[2] * y.shape[3]
    block, target, source = memory[len(weights) * pitch + lanes :], y.reshape(-1), x.reshape(-1)
    steps_there, steps_laid_out = np.arange(len(weights)) * pixels, np.arange(len(weights)) * pitch
    for item in range(first, last):
        part, group, number = item % parts, item // parts % groups, item // (parts * groups)
        top, bottom = made * part // parts, made * (part + 1) // parts
        edge, next_edge = vectors * number // panels, vectors * (number + 1) // panels
        begin, end = edge * lanes, min(next_edge * lanes, len(y) * pixels)
        broad, together = next_edge - edge, ROWS if bottom - top >= ROWS else 1
        sample, place = begin // pixels, begin % pixels
        # Where a panel is all of one picture, its sums are made where they belong.
        whole = place + broad * lanes <= pixels
        out, row = (target, pixels) if whole else (block, width)
        origin = (sample * y.shape[1] + group * made + top) * pixels + place if whole else 0
        there = whole and in_place
        panel, steps = (source, steps_there) if there else (memory, steps_laid_out)
        for c in range(0, taken, each):
            some, at = min(each, taken - c), 0
            if there:
                at = (sample * x.shape[1] + group * taken + c) * pixels + place
            else:
                _lay_out(memory, x, group * taken + c, some, seen, begin, end, y.shape[2], y.shape[3], down, across)
            of_W, of_x, soon = weights[: some * len(seen)], steps[: some * len(seen)], ahead[: some * len(seen)]
            m = top
            while m < bottom:
                if m > bottom - together:
                    together = 1  # what has been added to isn't added to again
                if whole and c == 0:
                    for n in range(m - top + together, m - top + 2 * together):
                        fetch(True, target, origin + n * row, broad * lanes)
                start, to = group * group_step + m * made_step + c * taken_step, origin + (m - top) * row
                channel = group * made + m
                if c == 0:
                    panel_of_sums(together, broad, W, start, made_step, of_W, panel, at, of_x, bias, channel, out, to, row, soon)
                else:
                    panel_of_sums(together, broad, W, start, made_step, of_W, panel, at, of_x, None, 0, out, to, row, soon)
                if c + some == taken and not (whole and rectifier.idle):
                    _deliver(y, target, out, to, row, whole, channel, together, begin, end, rectifier)
                m += together
            together = ROWS if bottom - top >= ROWS else 1


@compiled
def _deliver(y, target, out, origin, row, whole, channel, count, begin, end, rectifier):
    """Rectifies sums while they are near, and takes them to where they belong if they aren't there."""
    pixels, lanes = y.shape[2] * y.shape[3], VECTOR // y.itemsize
    zero, scale, shift = y.dtype.type(0), y.dtype.type(1), y.dtype.type(0)
    pixel = begin
    while pixel < end:
        sample, place = pixel // pixels, pixel % pixels
        some = min(end - pixel, pixels - place)
        for m in range(channel, channel + count):
            if rectifier.scaled:
                scale, shift = rectifier.scale[m], rectifier.shift[m]
            at, element = origin + (m - channel) * row + pixel - begin, m * pixels + place
            to, bit = sample * y.shape[1] * pixels + element, 8 * sample * rectifier.pitch + element
            for n in range(0, some, lanes):
                rectify(
                    target,
                    to + n,
                    out,
                    at + n,
                    min(lanes, some - n),
                    zero,
                    scale,
                    shift,
                    rectifier.limits,
                    rectifier.masked,
                    rectifier.bits,
                    bit + n,
                )
        pixel += some


@compiled
def panel_of_sums(rows, vectors, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead):
    """:func:`sums_of_products` of 1 or ``ROWS`` rows and up to ``VECTORS`` vectors."""
    if rows == 1:
        if vectors > 3:
            sums_of_products(1, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 2:
            sums_of_products(1, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 1:
            sums_of_products(1, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        else:
            sums_of_products(1, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    elif vectors > 3:
        sums_of_products(ROWS, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    elif vectors > 2:
        sums_of_products(ROWS, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    elif vectors > 1:
        sums_of_products(ROWS, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    else:
        sums_of_products(ROWS, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)


@compiled
def _lay_out(panel, x, channel, taken, seen, begin, end, rows, columns, down, across):
    """Lays the windows of some pixels out, those of ``begin`` up to ``end`` in the whole batch."""
    lanes = VECTOR // x.itemsize
    pitch = (VECTORS + 1) * lanes  # what is written beyond the last pixel must not be the next row's
    _, channels, height, breadth = x.shape
    source, pixels, plane = x.reshape(-1), rows * columns, height * breadth
    pixel = begin
    while pixel < end:
        sample, place = pixel // pixels, pixel % pixels
        row, column = place // columns, place % columns
        some = min(end - pixel, columns - column)
        for t in range(len(seen)):
            at, left = row * down + seen[t, 0], column * across + seen[t, 1]
            # Of the pixels seen, those inside.
            low = 0 if left >= 0 else (-left + across - 1) // across
            high = (breadth - left + across - 1) // across
            if at < 0 or at >= height:
                high = 0
            start = ((sample * channels + channel) * height + at) * breadth + left
            first = t * pitch + pixel - begin
            for n in range(0, some if across < 3 else 0, lanes):
                # The channels innermost: which pixels are inside is the same for all.
                if across == 1:
                    for c in range(taken):
                        to = first + c * len(seen) * pitch + n
                        copy_inside(1, panel, to, source, start + c * plane + n, low - n, high - n)
                else:
                    for c in range(taken):
                        to = first + c * len(seen) * pitch + n
                        copy_inside(2, panel, to, source, start + c * plane + 2 * n, low - n, high - n)
            for c in range(taken if across > 2 else 0):
                to = first + c * len(seen) * pitch
                for n in range(some):
                    panel[to + n] = source[start + c * plane + n * across] if low <= n < high else 0
        pixel += some

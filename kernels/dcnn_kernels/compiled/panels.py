"""Convolution as a matrix product whose pixels are laid out a panel at a time: as wide as a block of sums, some channels deep.

A panel stays in the cache while all filters pass over it, and its rows are whole vectors side by side, whatever the stride, the
padding and the size of the maps. It is the packing of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
(ACM TOMS 34, 2008), of windows that are never written out as a whole.
"""

from __future__ import annotations

import math

import numpy as np

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .microkernel import ROWS, VECTOR, VECTORS, copy, copy_inside, sums_of_products
from .products import PRODUCTS, Filters, Tap
from .rectifier import Rectifier, rectify_line
from .team import parted
from .threads import cores, share

#: Rows of a panel, which takes half of the cache next to a core then.
DEPTH = 512


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
    if stride == (1, 1) and y.shape[2:] == x.shape[2:] and [tap[:2] for tap in taps] == [(0, 0)]:
        # All pixels are one row.
        x, y = (array.reshape(*array.shape[:2], 1, math.prod(array.shape[2:])) for array in (x, y))
    lanes = VECTOR // x.itemsize
    width = VECTORS * lanes
    vectors = -(-len(y) * math.prod(y.shape[2:]) // lanes)
    panels = -(-vectors // VECTORS)  # of about as many vectors each
    units = panels * filters.groups
    parts = max(1, min(_parts(units), filters.made // (2 * ROWS)))
    each = max(1, min(filters.taken, DEPTH // len(taps)))
    places = np.array([tap.place for tap in taps], np.int64)
    weights = (np.arange(each)[:, None] * filters.taken_step + places).reshape(-1)
    # While a block's filters are multiplied, those of the next one come nearer.
    ahead = weights + ROWS * filters.made_step
    if filters.made_step == filters.taken * len(taps):
        ahead = ROWS * (filters.made_step + np.arange(len(weights)))
    tall = -(-filters.made // parts) + ROWS
    room = len(weights) * (width + lanes) + lanes + tall * width
    work = filters.made * width * filters.taken * len(taps) // (parts * PRODUCTS)
    seen = np.array([tap[:2] for tap in taps], np.int64)
    steps = filters.made, filters.taken, filters.group_step, filters.made_step, filters.taken_step, *stride
    arrays = y, x, filters.W, filters.bias, rectifier, weights, ahead, seen
    share(_multiply, units * parts, work, *arrays, *steps, vectors, panels, parts, room=(room, x.dtype))


def _parts(units: int) -> int:
    """Parts to cut each unit of work into, as few as leave no core without work for long: each part lays its panel out anew."""
    return next(n for n in range(1, 9) if n == 8 or -(-units * n // cores()) * cores() <= 1.15 * units * n)


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
):
    lanes = VECTOR // x.itemsize
    width, pitch = VECTORS * lanes, (VECTORS + 1) * lanes
    groups, each, pixels = y.shape[1] // made, len(weights) // len(seen), y.shape[2] * y.shape[3]
    steps, block, target = np.arange(len(weights)) * pitch, memory[len(weights) * pitch + lanes :], y.reshape(-1)
    for item in range(first, last):
        part, group, panel = item % parts, item // parts % groups, item // (parts * groups)
        top, bottom = made * part // parts, made * (part + 1) // parts
        edge, next_edge = vectors * panel // panels, vectors * (panel + 1) // panels
        begin, end = edge * lanes, min(next_edge * lanes, len(y) * pixels)
        broad, together = next_edge - edge, ROWS if bottom - top >= ROWS else 1
        sample, place = begin // pixels, begin % pixels
        # Where a panel is all of one picture, its sums are made where they belong.
        whole = place + broad * lanes <= pixels
        out, row = (target, pixels) if whole else (block, width)
        origin = (sample * y.shape[1] + group * made + top) * pixels + place if whole else 0
        for c in range(0, taken, each):
            some = min(each, taken - c)
            _lay_out(memory, x, group * taken + c, some, seen, begin, end, y.shape[2], y.shape[3], down, across)
            of_W, of_x, soon = weights[: some * len(seen)], steps[: some * len(seen)], ahead[: some * len(seen)]
            m = top
            while m < bottom:
                if m > bottom - together:
                    together = 1  # what has been added to isn't added to again
                start, to = group * group_step + m * made_step + c * taken_step, origin + (m - top) * row
                channel = group * made + m
                if c == 0:
                    panel_of_sums(together, broad, W, start, made_step, of_W, memory, 0, of_x, bias, channel, out, to, row, soon)
                else:
                    panel_of_sums(together, broad, W, start, made_step, of_W, memory, 0, of_x, None, 0, out, to, row, soon)
                m += together
            together = ROWS if bottom - top >= ROWS else 1
        _deliver(y, target, out, origin, row, whole, group * made + top, bottom - top, begin, end, rectifier)


@compiled
def _deliver(y, target, out, origin, row, whole, channel, count, begin, end, rectifier):
    """Rectifies a panel's sums, and takes them to where they belong if they aren't there."""
    pixels, zero = y.shape[2] * y.shape[3], y.dtype.type(0)
    if whole and rectifier.idle:
        return
    for m in range(count):
        pixel = begin
        while pixel < end:
            sample, place = pixel // pixels, pixel % pixels
            some = min(end - pixel, pixels - place)
            element, at = (channel + m) * pixels + place, origin + m * row + pixel - begin
            rectify_line(out, at, some, zero, rectifier, sample, channel + m, element)
            if not whole:
                copy(target, sample * y.shape[1] * pixels + element, out, at, some)
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

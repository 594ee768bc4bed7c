"""Convolution by windows of one pixel, as a matrix product that takes a panel of pixels at a time: as wide as a block of sums.

A panel stays in the cache next to the core while all filters pass over it. It is the blocking of Goto and van de Geijn, "Anatomy
of High-Performance Matrix Multiplication" (ACM TOMS 34, 2008). A panel within one picture is read where it lies. Else it is laid
out: its rows are whole vectors side by side, whatever the stride, the padding and the size of the maps.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .layout import inside
from .microkernel import LINE_BYTES, ROWS, VECTOR, VECTORS, copy_inside, fetch, rectify
from .products import PRODUCTS, Filters, panel_of_sums, parts_of, rows_of
from .rectifier import Rectifier
from .team import parted
from .threads import cores, share

#: Bytes of a panel, two thirds of the cache next to a core.
PANEL_BYTES = 1 << 15


def multiply(y: FloatArray, x: FloatArray, filters: Filters, first: Pair, stride: Pair, rectifier: Rectifier) -> None:
    """Fills ``y`` with windows of one pixel over ``x``: that at (r, c) sees ``(r, c) * stride + first``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: The weights.
        first: May be negative, in the padding.
        stride: Step between windows.
        rectifier: What results go through.
    """
    in_place, items, work, room, plan = _plan(y.shape, x.shape, x.itemsize, filters[1:7], first, stride, cores())
    if in_place:  # all pixels are one row
        x, y = (array.reshape(*array.shape[:2], 1, math.prod(array.shape[2:])) for array in (x, y))
    share(_multiply, items, work, y, x, filters.W, filters.bias, rectifier, *plan, room=(room, x.dtype))


@lru_cache(maxsize=256)
def _plan(
    y_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    itemsize: int,
    steps: tuple[int, ...],
    first: Pair,
    stride: Pair,
    cores: int,
) -> tuple[bool, int, int, int, tuple[Any, ...]]:
    """Whether pixels are read where they lie; items, the work of each, its memory, and what :func:`_multiply` is told."""
    groups, made, taken, _, made_step, taken_step = steps
    in_place = stride == (1, 1) and y_shape[2:] == x_shape[2:] and first == (0, 0)
    lanes = VECTOR // itemsize
    width = VECTORS * lanes
    vectors = -(-y_shape[0] * math.prod(y_shape[2:]) // lanes)
    panels = -(-vectors // VECTORS)  # of about as many vectors each
    widths = tuple(vectors * (panel + 1) // panels - vectors * panel // panels for panel in range(panels)) * groups
    parts = parts_of(widths, made, cores)
    depth = PANEL_BYTES // ((width if in_place else width + lanes) * itemsize)
    each = -(-taken // -(-taken // depth))
    weights = np.arange(each) * taken_step
    # While a block's filters are multiplied, those of the next one come nearer: line by line, where a filter's lie together.
    ahead, rows = weights + ROWS * made_step, np.arange(each)
    if taken_step == 1:
        ahead = (rows % ROWS + ROWS) * made_step + np.minimum(rows // ROWS * (LINE_BYTES // itemsize), each - 1)
    room = each * (width + lanes) + lanes + (-(-made // parts) + ROWS) * width
    work = made * width * taken // (parts * PRODUCTS)
    plan = (weights, ahead, *steps[1:], *first, *stride, vectors, panels, parts, in_place)
    return in_place, panels * groups * parts, work, room, plan


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
    made,
    taken,
    group_step,
    made_step,
    taken_step,
    top,
    left,
    down,
    across,
    vectors,
    panels,
    parts,
    in_place,
):
    lanes = VECTOR // x.itemsize
    width, pitch = VECTORS * lanes, (VECTORS + 1) * lanes
    groups, each, pixels = y.shape[1] // made, len(weights), y.shape[2] * y.shape[3]
    block, target, source = memory[len(weights) * pitch + lanes :], y.reshape(-1), x.reshape(-1)
    steps_there, steps_laid_out = np.arange(len(weights)) * pixels, np.arange(len(weights)) * pitch
    for item in range(first, last):
        part, group, number = item % parts, item // parts % groups, item // (parts * groups)
        begin_made, end_made = made * part // parts, made * (part + 1) // parts
        edge, next_edge = vectors * number // panels, vectors * (number + 1) // panels
        begin, end = edge * lanes, min(next_edge * lanes, len(y) * pixels)
        broad = next_edge - edge
        sample, place = begin // pixels, begin % pixels
        # Where a panel is all of one picture, its sums are made where they belong.
        whole = place + broad * lanes <= pixels
        out, row = (target, pixels) if whole else (block, width)
        origin = (sample * y.shape[1] + group * made + begin_made) * pixels + place if whole else 0
        there = whole and in_place
        panel, steps = (source, steps_there) if there else (memory, steps_laid_out)
        for c in range(0, taken, each):
            some, at = min(each, taken - c), 0
            if there:
                at = (sample * x.shape[1] + group * taken + c) * pixels + place
            else:
                _lay_out(memory, x, group * taken + c, some, top, left, begin, end, y.shape[2], y.shape[3], down, across)
            of_W, of_x, soon = weights[:some], steps[:some], ahead[:some]
            m = begin_made
            while m < end_made:
                together = rows_of(end_made - m)
                if whole and c == 0:
                    for n in range(m - begin_made + together, m - begin_made + 2 * together):
                        fetch(True, target, origin + n * row, broad * lanes)
                start, to = group * group_step + m * made_step + c * taken_step, origin + (m - begin_made) * row
                channel = group * made + m
                if c == 0:
                    panel_of_sums(together, broad, W, start, made_step, of_W, panel, at, of_x, bias, channel, out, to, row, soon)
                else:
                    panel_of_sums(together, broad, W, start, made_step, of_W, panel, at, of_x, None, 0, out, to, row, soon)
                if c + some == taken and not (whole and rectifier.idle):
                    _deliver(y, target, out, to, row, whole, channel, together, begin, end, rectifier)
                m += together


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
def _lay_out(panel, x, channel, taken, top, left, begin, end, rows, columns, down, across):
    """Lays what some windows see out, those of ``begin`` up to ``end`` in the whole batch."""
    lanes = VECTOR // x.itemsize
    pitch = (VECTORS + 1) * lanes  # what is written beyond the last pixel must not be the next row's
    _, channels, height, breadth = x.shape
    source, pixels, plane = x.reshape(-1), rows * columns, height * breadth
    pixel = begin
    while pixel < end:
        sample, place = pixel // pixels, pixel % pixels
        row, column = place // columns, place % columns
        some = min(end - pixel, columns - column)
        at, seen = top + row * down, left + column * across
        # Of the pixels seen, those inside.
        low, high = inside(some, breadth, seen, across)
        if at < 0 or at >= height:
            high = 0
        start = ((sample * channels + channel) * height + at) * breadth + seen
        first = pixel - begin
        for n in range(0, some if across < 3 else 0, lanes):
            # The channels innermost: which pixels are inside is the same for all.
            if across == 1:
                for c in range(taken):
                    copy_inside(1, panel, first + c * pitch + n, source, start + c * plane + n, low - n, high - n)
            else:
                for c in range(taken):
                    copy_inside(2, panel, first + c * pitch + n, source, start + c * plane + 2 * n, low - n, high - n)
        for c in range(taken if across > 2 else 0):
            to = first + c * pitch
            for n in range(some):
                panel[to + n] = source[start + c * plane + n * across] if low <= n < high else 0
        pixel += some

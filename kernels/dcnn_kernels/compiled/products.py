"""Convolution as matrix products whose operands are read where they lie.

A band of rows of a picture is laid out, small enough for the cache, and tables of offsets tell the product where each tap of
each channel begins: windows are never written out, and weights are taken as they are, turned round or not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .layout import lay_out
from .microkernel import LINE, ROWS, VECTOR, VECTORS, sums_of_products
from .rectifier import Rectifier, rectify_line
from .threads import cores, share

#: Bytes of a band. It stays in the cache next to the core while all filters pass over it.
BAND_BYTES = 1 << 19
#: Products that a core does in the time of a value copied.
PRODUCTS = 32


class Tap(NamedTuple):
    """One tap of a window: the pixel it sees in the window at (0, 0), and its place in the filter."""

    row: int
    column: int
    place: int


class Filters(NamedTuple):
    """Weights ``W[group * group_step + made * made_step + taken * taken_step + tap.place]``, flat, and their bias.

    Attributes:
        W: The weights.
        groups: Groups of channels that do not see one another.
        made: Channels that a group makes.
        taken: Channels that it takes.
        group_step: See above.
        made_step: See above.
        taken_step: See above.
        bias: One for each channel made.
    """

    W: FloatArray
    groups: int
    made: int
    taken: int
    group_step: int
    made_step: int
    taken_step: int
    bias: FloatArray


def multiply(y: FloatArray, x: FloatArray, filters: Filters, taps: list[Tap], stride: Pair, rectifier: Rectifier) -> None:
    """Fills ``y``, which may be a strided view, with windows over ``x``: at (r, c), tap t sees ``(r, c) * stride + t``.

    A rectifier's bits are those of ``y``, which must not be strided then.
    """
    batch, _, rows, columns = y.shape
    top, left = (min(tap[axis] for tap in taps) for axis in range(2))
    reach = [max(tap[axis] for tap in taps) - first for axis, first in enumerate((top, left))]
    # Rows may share the zeros at their ends: those left of one are those right of the row above.
    right = (columns - 1) * stride[1] + left + reach[1] - x.shape[3] + 1
    shared = max(0, min(-left, right, reach[1])) if stride[1] == 1 else 0
    pitch = columns + reach[1] // stride[1] - shared
    extra = reach[0] // stride[0]

    line = filters.taken * stride[0] * stride[1] * pitch * x.itemsize
    height = _equal_part(rows, BAND_BYTES // line - extra)
    bands = math.ceil(rows / height)
    parts = _parts(batch * bands * filters.groups, filters.made)

    plane = (height + extra) * pitch
    taken = np.arange(filters.taken)[:, None]
    offsets, places = [], []
    for tap in taps:
        (down, i), (across, j) = (divmod(tap[axis] - first, stride[axis]) for axis, first in enumerate((top, left)))
        offsets.append((i * stride[1] + j) * plane + down * pitch + across)
        places.append(tap.place)
    terms = (taken * (stride[0] * stride[1] * plane) + np.array(offsets)).reshape(-1)
    weights = (taken * filters.taken_step + np.array(places)).reshape(-1)

    lanes = VECTOR // x.itemsize
    # What lies beyond the last window is read, and its sums are written, but they are never used.
    size, positions = filters.taken * stride[0] * stride[1] * plane, math.ceil(height * pitch / lanes) * lanes
    room = (size + LINE * lanes + pitch + ROWS * positions + lanes, x.dtype)
    steps = (filters.made, filters.group_step, filters.made_step, weights, terms)
    layout = (*stride, height + extra, pitch, size, positions, x.shape[1:], top, left)
    work = filters.made * height * pitch * len(terms) // (parts * PRODUCTS)
    share(
        _bands,
        batch * filters.groups * bands * parts,
        work,
        y,
        x.reshape(-1),
        filters.W,
        filters.bias,
        rectifier,
        *steps,
        *layout,
        height,
        bands,
        parts,
        room=room,
    )


def _equal_part(size: int, most: int) -> int:
    """The part of at most ``most``, but at least 1, that cuts ``size`` into the fewest parts, all about equal."""
    return math.ceil(size / math.ceil(size / max(1, most)))


def _parts(units: int, made: int) -> int:
    """Parts that the channels made are cut into, for all cores to have work."""
    return 1 if units > 4 * cores() else max(1, min(2 * cores(), made // (4 * ROWS)))


@compiled
def _bands(
    first,
    last,
    memory,
    y,
    x,
    W,
    b,
    rectifier,
    made,
    group_step,
    made_step,
    weights,
    terms,
    down,
    across,
    tall,
    pitch,
    size,
    positions,
    picture,
    top,
    left,
    height,
    bands,
    parts,
):
    rows, columns = y.shape[2:]
    channels = picture[0]
    groups = y.shape[1] // made
    taken = channels // groups
    sums = len(memory) - ROWS * positions - VECTOR // memory.itemsize
    memory[size:sums] = 0
    block = memory[sums:]
    there = -1
    for unit in range(first, last):
        part, band = unit % parts, unit // parts % bands
        group, sample = unit // (parts * bands) % groups, unit // (parts * bands * groups)
        begin, end = band * height, min(rows, (band + 1) * height)
        if unit // parts != there:
            there = unit // parts
            for c in range(taken):
                start = (sample * channels + group * taken + c) * picture[1] * picture[2]
                to = c * (size // taken)
                lay_out(x, start, picture[1], picture[2], memory, to, down, across, tall, pitch, top + begin * down, left)
        stop = made * (part + 1) // parts
        m = made * part // parts
        while m < stop:
            count = ROWS if made >= ROWS else 1
            m = min(m, stop - count)
            channel = group * made + m
            row_of_sums(
                count,
                W,
                group * group_step + m * made_step,
                made_step,
                weights,
                memory,
                0,
                terms,
                b,
                channel,
                block,
                0,
                positions,
                positions,
            )
            for r in range(count):
                for row in range(begin, end):
                    line, at = y[sample, channel + r, row], r * positions + (row - begin) * pitch
                    rectify_line(block, at, columns, b.dtype.type(0), rectifier, sample, ((channel + r) * rows + row) * columns)
                    for n in range(columns):
                        line[n] = block[at + n]
            m += count


@compiled
def row_of_sums(rows, a, a_start, a_row, a_steps, b, b_start, b_steps, bias, bias_start, out, out_start, out_row, count):
    """Blocks side by side, of 1 or of ``ROWS`` rows, until ``count`` places, a multiple of a vector's, are filled."""
    lanes = VECTOR // a.itemsize
    n = 0
    while n < count:
        left = (count - n) // lanes
        at, to = b_start + n, out_start + n
        if rows == 1:
            if left >= LINE:
                sums_of_products(1, LINE, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
                n += LINE * lanes
            elif left >= 4:
                sums_of_products(1, 4, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
                n += 4 * lanes
            else:
                sums_of_products(1, 1, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
                n += lanes
        elif left >= VECTORS:
            sums_of_products(ROWS, VECTORS, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
            n += VECTORS * lanes
        elif left >= 2:
            sums_of_products(ROWS, 2, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
            n += 2 * lanes
        else:
            sums_of_products(ROWS, 1, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, out_row)
            n += lanes

"""Convolution as matrix products whose operands are read where they lie.

A band of rows of a picture is laid out, small enough for the cache, and tables of offsets tell the product where each tap of
each channel begins: windows are never written out, and weights are taken as they are, turned round or not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .layout import lay_out
from .microkernel import LINE, ROWS, VECTOR, VECTORS, copy, copy_inside, fetch, sums_of_products
from .rectifier import Rectifier, rectify_line
from .team import parted
from .threads import cores, share

#: Bytes of a band. It stays in the cache next to the core while all filters pass over it.
BAND_BYTES = 1 << 19
#: Products that a core does in the time of a value copied.
PRODUCTS = 32


#: Rows of a block where so few channels are made that one of ``ROWS`` would be too many: a picture's colours.
FEW = 3


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


def multiply(
    y: FloatArray, x: FloatArray, filters: Filters, phases: list[list[Tap]], stride: Pair, spread: Pair, rectifier: Rectifier
) -> None:
    """Fills ``y`` with windows over ``x``: at (r, c), tap t sees ``(r, c) * stride + t``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: The weights.
        phases: Taps of the windows that make ``y[:, :, i :: spread[0], j :: spread[1]]``, as number ``i * spread[1] + j``.
        stride: Step between windows.
        spread: Step between a phase's results.
        rectifier: What results go through.
    """
    batch, (rows, columns) = len(y), (math.ceil(size / step) for size, step in zip(y.shape[2:], spread, strict=True))
    taps = [tap for phase in phases for tap in phase]
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
    parts = parts_of(batch * bands * filters.groups, filters.made)

    plane = (height + extra) * pitch
    offsets, places = [], []
    for tap in taps:
        (down, i), (across, j) = (divmod(tap[axis] - first, stride[axis]) for axis, first in enumerate((top, left)))
        offsets.append((i * stride[1] + j) * plane + down * pitch + across)
        places.append(tap.place)
    counts = tuple(map(len, phases))
    terms = _by_phase(filters.taken, stride[0] * stride[1] * plane, tuple(offsets), counts)
    weights = _by_phase(filters.taken, filters.taken_step, tuple(places), counts)

    lanes = VECTOR // x.itemsize
    # What lies beyond the last window is read, and its sums are written, but they are never used.
    size, positions = filters.taken * stride[0] * stride[1] * plane, math.ceil(height * pitch / lanes) * lanes
    sums = len(phases) * ROWS * positions + height * y.shape[3] + lanes
    room = (size + LINE * lanes + pitch + sums, x.dtype)
    steps = (filters.made, filters.group_step, filters.made_step, weights, terms, filters.taken * np.cumsum(counts))
    layout = (*stride, *spread, height + extra, pitch, size, sums, positions, x.shape[1:], top, left)
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


@lru_cache(maxsize=256)
def _by_phase(taken: int, step: int, of_taps: tuple[int, ...], counts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Offsets by phase, channel and tap: those of the taps, so many a phase, with a step from channel to channel."""
    channels, taps = np.arange(taken)[:, None] * step, iter(of_taps)
    return np.concatenate([(channels + np.array([next(taps) for _ in range(count)], np.int64)).reshape(-1) for count in counts])


def _equal_part(size: int, most: int) -> int:
    """The part of at most ``most``, but at least 1, that cuts ``size`` into the fewest parts, all about equal."""
    return math.ceil(size / math.ceil(size / max(1, most)))


def parts_of(units: int, made: int) -> int:
    """Parts that the channels made are cut into, for all cores to have work."""
    return 1 if units > 4 * cores() else max(1, min(2 * cores(), made // (4 * ROWS)))


@parted
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
    ends,
    down,
    across,
    apart_down,
    apart_across,
    tall,
    pitch,
    size,
    sums,
    positions,
    picture,
    top,
    left,
    height,
    bands,
    parts,
):
    channels = picture[0]
    groups = y.shape[1] // made
    taken = channels // groups
    memory[size : len(memory) - sums] = 0
    block = memory[len(memory) - sums :]
    there = -1
    for unit in range(first, last):
        part, band = unit % parts, unit // parts % bands
        group, sample = unit // (parts * bands) % groups, unit // (parts * bands * groups)
        begin = band * height
        if unit // parts != there:
            there = unit // parts
            for c in range(taken):
                start = (sample * channels + group * taken + c) * picture[1] * picture[2]
                to = c * (size // taken)
                fetch(False, x, start + (picture[1] + max(0, top + begin * down)) * picture[2], height * down * picture[2])
                lay_out(x, start, picture[1], picture[2], memory, to, down, across, tall, pitch, top + begin * down, left)
        stop = made * (part + 1) // parts
        m = made * part // parts
        while m < stop:
            count = ROWS if made >= ROWS else FEW if made >= FEW else 1
            m = min(m, stop - count)
            channel, W_start = group * made + m, group * group_step + m * made_step
            for phase in range(len(ends)):
                some, to = slice(ends[phase - 1] if phase else 0, ends[phase]), phase * ROWS * positions
                of_W, of_x = weights[some], terms[some]
                if len(of_W):
                    row_of_sums(count, W, W_start, made_step, of_W, memory, 0, of_x, b, channel, block, to, positions, positions)
                else:
                    for r in range(count):
                        block[to + r * positions : to + (r + 1) * positions] = b[channel + r]
            _write(
                block,
                y,
                sample,
                channel,
                count,
                begin * apart_down,
                height,
                pitch,
                positions,
                apart_down,
                apart_across,
                rectifier,
            )
            m += count


@compiled
def _write(block, y, sample, channel, count, begin, height, pitch, positions, apart_down, apart_across, rectifier):
    """Takes the sums of all phases, a band of rows from ``begin`` on, to their places."""
    _, channels, rows, columns = y.shape
    line, target = block[apart_down * apart_across * ROWS * positions :], y.reshape(-1)
    zero, lanes = y.dtype.type(0), VECTOR // y.itemsize
    for r in range(count):
        if apart_down == apart_across == 1:
            # Rows side by side, as they belong; what a vector has too much of is the next row's, which comes later.
            last = min(rows, begin + height)
            for number in range(last - begin):
                at = r * positions + number * pitch
                for n in range(0, columns, lanes):
                    copy_inside(1, line, number * columns + n, block, at + n, 0, lanes)
            element, some = ((channel + r) * rows + begin) * columns, (last - begin) * columns
            rectify_line(line, 0, some, zero, rectifier, sample, channel + r, element)
            copy(target, sample * channels * rows * columns + element, line, 0, some)
            continue
        for row in range(begin, min(rows, begin + height * apart_down)):
            number, i = (row - begin) // apart_down, (row - begin) % apart_down
            at = (i * apart_across * ROWS + r) * positions + number * pitch
            element = ((channel + r) * rows + row) * columns
            to = sample * channels * rows * columns + element
            if apart_across == 1:
                rectify_line(block, at, columns, zero, rectifier, sample, channel + r, element)
                copy(target, to, block, at, columns)
                continue
            for j in range(apart_across):
                sums = block[at + j * ROWS * positions :]
                for n in range((columns - j + apart_across - 1) // apart_across):
                    line[n * apart_across + j] = sums[n]
            rectify_line(line, 0, columns, zero, rectifier, sample, channel + r, element)
            copy(target, to, line, 0, columns)


@compiled
def row_of_sums(rows, a, a_start, a_row, a_steps, b, b_start, b_steps, bias, bias_start, out, out_start, pitch, count):
    """Blocks side by side, of 1, :data:`FEW` or ``ROWS`` rows, until ``count`` places, a multiple of a vector's, are filled."""
    lanes = VECTOR // a.itemsize
    n = 0
    while n < count:
        left = (count - n) // lanes
        at, to = b_start + n, out_start + n
        if rows == 1:
            if left >= LINE:
                sums_of_products(1, LINE, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
                n += LINE * lanes
            elif left >= 4:
                sums_of_products(1, 4, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
                n += 4 * lanes
            else:
                sums_of_products(1, 1, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
                n += lanes
        elif rows == FEW:
            if left >= VECTORS:
                sums_of_products(FEW, VECTORS, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
                n += VECTORS * lanes
            else:
                sums_of_products(FEW, 1, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
                n += lanes
        elif left >= VECTORS:
            sums_of_products(ROWS, VECTORS, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
            n += VECTORS * lanes
        elif left >= 2:
            sums_of_products(ROWS, 2, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
            n += 2 * lanes
        else:
            sums_of_products(ROWS, 1, a, a_start, a_row, a_steps, b, at, b_steps, bias, bias_start, out, to, pitch, None)
            n += lanes

"""Convolution as matrix products whose operands are read where they lie.

A band of rows of a picture is laid out, so many channels at a time that they stay in a core's cache while all filters pass over
them. Tables of offsets tell the product where each tap of each channel begins: windows are never written out, and weights are
taken as they are, turned round or not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .jit import compiled
from .layout import lay_out
from .microkernel import LINE_BYTES, ROWS, VECTOR, VECTORS, copy_inside, deal, sums_of_products
from .rectifier import Rectifier, write_line
from .team import parted
from .threads import cores, share

#: Bytes of what is laid out at a time, and of the sums of all filters meanwhile: both stay in a core's second level of cache.
BAND_BYTES, SUMS_BYTES = 1 << 19, 1 << 20
#: Bytes of a block's filters at a time: they stay in the first level while all pixels of a band pass over them.
FILTER_BYTES = 1 << 14
#: Products that a core does in the time of a value copied.
PRODUCTS = 32
#: Costs in vectors of products: of a vector of sums read again and written, of a weight that is fetched, of a vector laid out.
AGAIN, WEIGHT, COPY = 8, 1, 16
#: How much longer than others one core may work.
UNEVEN = 1.05


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


Phases = tuple[tuple[Tap, ...], ...]


def multiply(
    y: FloatArray, x: FloatArray, filters: Filters, phases: Phases, stride: Pair, spread: Pair, rectifier: Rectifier
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
    items, work, room, plan = _plan(y.shape, x.shape, x.itemsize, filters[1:7], phases, stride, spread, cores())
    arrays = y, x.reshape(-1), filters.W, filters.bias, rectifier
    share(_bands, items, work, *arrays, *plan, room=(room, x.dtype))


@lru_cache(maxsize=256)
def _plan(
    y_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    itemsize: int,
    steps: tuple[int, ...],
    phases: Phases,
    stride: Pair,
    spread: Pair,
    cores: int,
) -> tuple[int, int, int, tuple[Any, ...]]:
    """Items to share, the work of each, the memory it takes, and what :func:`_bands` is told besides arrays."""
    groups, made, taken, _, made_step, taken_step = steps
    rows, columns = (math.ceil(size / step) for size, step in zip(y_shape[2:], spread, strict=True))
    taps = [tap for phase in phases for tap in phase]
    top, left = (min(tap[axis] for tap in taps) for axis in range(2))
    reach = [max(tap[axis] for tap in taps) - first for axis, first in enumerate((top, left))]
    # Rows may share the zeros at their ends: those left of one are those right of the row above.
    right = (columns - 1) * stride[1] + left + reach[1] - x_shape[3] + 1
    shared = max(0, min(-left, right, reach[1])) if stride[1] == 1 else 0
    pitch = columns + reach[1] // stride[1] - shared
    extra = reach[0] // stride[0]

    lanes, planes = VECTOR // itemsize, stride[0] * stride[1]
    least = math.inf
    for number in range(rows, 0, -1):
        tall = math.ceil(rows / number)
        area, vectors = planes * (tall + extra) * pitch, math.ceil(tall * pitch / lanes)
        most = min(BAND_BYTES // area, FILTER_BYTES * len(phases) // (ROWS * len(taps))) // itemsize
        chunks, cut = math.ceil(taken / max(1, most)), parts_of((1,) * min(8 * cores, y_shape[0] * groups * number), made, cores)
        if tall > 1 and (not most or (chunks > 1 and made * len(phases) * vectors * VECTOR > SUMS_BYTES)):
            break
        sums = made * (vectors * (taken * len(taps) + AGAIN * chunks * len(phases)) + WEIGHT * taken * len(taps))
        cost = number * (sums + COPY * cut * taken * area / lanes)
        if cost < least:
            least, height, each, bands, parts = cost, tall, math.ceil(taken / chunks), number, cut

    # Neither a vector that begins in a plane reaches the next one, nor does a window, but zeros that its rows share.
    plane, counts, line = (height + extra) * pitch, tuple(map(len, phases)), LINE_BYTES // itemsize
    size, positions = planes * plane + max(lanes, shared), math.ceil(height * pitch / lanes) * lanes
    seen = [[divmod(tap[axis] - first, stride[axis]) for axis, first in enumerate((top, left))] for tap in taps]
    offsets = [(i * stride[1] + j) * plane + down * pitch + across for (down, i), (across, j) in seen]
    terms = _by_phase(each, size, offsets, counts)
    weights = _by_phase(each, taken_step, [tap.place for tap in taps], counts)
    ahead = _ahead(each, made_step, taken_step, len(taps), counts, line)

    # What lies beyond the last window is read, and its sums are written, but they are never used.
    sums = (math.ceil(made / parts) if each < taken else ROWS) * len(phases) * positions + y_shape[3] + 5 * lanes
    tables = (weights, terms, ahead, np.array(counts), each)
    # Rows of whole vectors, which nothing is added to later, are made where they belong.
    in_place = columns % lanes == 0 and each == taken and spread == (1, 1)
    layout = (*stride, *spread, height + extra, pitch, size, sums, positions, top, left, height, bands, parts, in_place)
    work = made * height * pitch * taken * len(taps) // (parts * PRODUCTS)
    room = each * size + positions + pitch + sums
    return y_shape[0] * groups * bands * parts, work, room, (x_shape[1:], *steps[1:], *tables, *layout)


def parts_of(widths: tuple[int, ...], made: int, cores: int) -> int:
    """Parts to cut the filters of units of such widths into, as few as leave no core idle for long: each lays its unit out."""
    for parts in range(1, max(2, made // (2 * ROWS))):
        if len(widths) * parts >= 8 * cores:
            return parts
        busy = [0] * cores
        for width in sorted(widths * parts, reverse=True):
            busy[busy.index(min(busy))] += width
        if max(busy) * cores <= UNEVEN * sum(busy):
            return parts
    return max(1, min(8, made // (2 * ROWS)))


def _by_phase(taken: int, step: int, of_taps: list[int], counts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Offsets by phase, channel and tap: those of the taps, so many a phase, with a step from channel to channel."""
    channels, taps = np.arange(taken)[:, None] * step, iter(of_taps)
    return np.concatenate([(channels + np.array([next(taps) for _ in range(count)], np.int64)).reshape(-1) for count in counts])


def _ahead(taken: int, made_step: int, taken_step: int, taps: int, counts: tuple[int, ...], line: int) -> npt.NDArray[np.int64]:
    """Where to fetch the next rows' weights meanwhile, as many offsets as weights: line by line, where a row's lie together."""
    ahead = []
    for count in counts:
        numbers = np.arange(taken * count)
        if taken_step == taps:
            rows, along = numbers % ROWS, np.minimum(numbers // ROWS * line, taken * taken_step - 1)
        else:
            rows, along = numbers % max(1, count) % ROWS, numbers // max(1, count) * taken_step
        ahead.append((ROWS + rows) * made_step + along)
    return np.concatenate(ahead)


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
    picture,
    made,
    taken,
    group_step,
    made_step,
    taken_step,
    weights,
    terms,
    ahead,
    counts,
    each,
    down,
    across,
    apart_down,
    apart_across,
    tall,
    pitch,
    size,
    sums,
    positions,
    top,
    left,
    height,
    bands,
    parts,
    in_place,
):
    channels, plane = picture[0], picture[1] * picture[2]
    groups, phases, target = y.shape[1] // made, len(counts), y.reshape(-1)
    rows, columns, pixels, zero = y.shape[2], y.shape[3], y.shape[2] * y.shape[3], y.dtype.type(0)
    broad = (columns if in_place else positions) // (VECTOR // y.itemsize)
    memory[each * size : len(memory) - sums] = 0
    block = memory[len(memory) - sums :]
    for unit in range(first, last):
        part, band = unit % parts, unit // parts % bands
        group, sample = unit // (parts * bands) % groups, unit // (parts * bands * groups)
        begin, stop = band * height * apart_down, made * (part + 1) // parts
        end = min(rows, begin + height * apart_down)
        for c in range(0, taken, each):
            some, row = min(each, taken - c), top + band * height * down
            start = (sample * channels + group * taken + c) * plane
            lay_out(x, start, some, picture[1], picture[2], memory, size, down, across, tall, pitch, row, left)
            m, to = made * part // parts, 0
            while m < stop:
                count, channel = rows_of(stop - m), group * made + m
                start = group * group_step + m * made_step + c * taken_step
                at = 0
                for phase in range(0 if in_place else phases):
                    chosen, place = slice(at, at + some * counts[phase]), to + phase * count * positions
                    of_W, of_x, next_W = weights[chosen], terms[chosen], ahead[chosen]
                    if counts[phase] and c == 0:
                        row_of_sums(
                            count, W, start, made_step, of_W, memory, 0, of_x, b, channel, block, place, positions, broad, next_W
                        )
                    elif counts[phase]:
                        row_of_sums(
                            count, W, start, made_step, of_W, memory, 0, of_x, None, 0, block, place, positions, broad, next_W
                        )
                    for r in range(0 if counts[phase] else count):
                        block[place + r * positions : place + (r + 1) * positions] = b[channel + r]
                    at += each * counts[phase]
                for n in range(end - begin if in_place else 0):
                    at, place = n * pitch, ((sample * y.shape[1] + channel) * rows + begin + n) * columns
                    row_of_sums(
                        count, W, start, made_step, weights, memory, at, terms, b, channel, target, place, pixels, broad, ahead
                    )
                for r in range(0 if rectifier.idle or not in_place else count):
                    element = ((channel + r) * rows + begin) * columns
                    place = sample * y.shape[1] * pixels + element
                    write_line(
                        target, place, target, place, (end - begin) * columns, zero, rectifier, sample, channel + r, element
                    )
                if c + some == taken and not in_place:
                    _write(
                        block, to, y, sample, channel, count, begin, end, pitch, positions, apart_down, apart_across, rectifier
                    )
                m += count
                to += count * phases * positions if each < taken else 0


@compiled
def _write(block, start, y, sample, channel, count, begin, last, pitch, positions, apart_down, apart_across, rectifier):
    """Takes the sums of all phases, those of rows ``begin`` up to ``last``, to their places."""
    _, channels, rows, columns = y.shape
    target, zero, lanes = y.reshape(-1), y.dtype.type(0), VECTOR // y.itemsize
    plain, vectors = rectifier.idle and apart_down == apart_across == 1, (columns + lanes - 1) // lanes * lanes
    line = block[len(block) - columns - 4 * lanes :]
    for r in range(count):
        to, end = sample * channels * rows * columns, (sample * channels * rows + (channel + r) * rows + last) * columns
        for i in range(apart_down):
            at = start + (i * apart_across * count + r) * positions
            for row in range(begin + i, last, apart_down):
                element = ((channel + r) * rows + row) * columns
                if plain and to + element + vectors <= end:
                    # What a vector has too much of is the next row's, which comes later.
                    for n in range(0, columns, lanes):
                        copy_inside(1, target, to + element + n, block, at + n, 0, lanes)
                elif apart_across == 1:
                    write_line(target, to + element, block, at, columns, zero, rectifier, sample, channel + r, element)
                else:
                    apart = count * positions
                    for n in range(0, (columns + apart_across - 1) // apart_across, lanes):
                        if apart_across == 2:
                            deal(2, line, 2 * n, block, at + n, apart)
                        elif apart_across == 4:
                            deal(4, line, 4 * n, block, at + n, apart)
                    for n in range(0 if apart_across in (2, 4) else columns):
                        line[n] = block[at + n % apart_across * apart + n // apart_across]
                    write_line(target, to + element, line, 0, columns, zero, rectifier, sample, channel + r, element)
                at += pitch


@compiled
def rows_of(left):
    """Rows of the next block, where so many are left."""
    if left >= ROWS:
        return ROWS
    return 3 if left == 3 or left == 5 else min(left, 2)


@compiled
def row_of_sums(rows, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, vectors, ahead):
    """Blocks of :func:`rows_of` rows side by side, of about equal width, so many vectors in all."""
    blocks, edge, lanes = (vectors + VECTORS - 1) // VECTORS, 0, VECTOR // W.itemsize
    for block in range(1, blocks + 1):
        at, broad = edge * lanes, vectors * block // blocks - edge
        panel_of_sums(
            rows, broad, W, start, made_step, weights, panel, first + at, steps, bias, channel, out, to + at, row, ahead
        )
        edge += broad


@compiled
def panel_of_sums(rows, vectors, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead):
    """:func:`sums_of_products` of :func:`rows_of` rows and up to ``VECTORS`` vectors."""
    if rows == ROWS:
        if vectors > 3:
            sums_of_products(ROWS, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 2:
            sums_of_products(ROWS, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 1:
            sums_of_products(ROWS, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        else:
            sums_of_products(ROWS, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    elif rows == 3:
        if vectors > 3:
            sums_of_products(3, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 2:
            sums_of_products(3, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 1:
            sums_of_products(3, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        else:
            sums_of_products(3, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    elif rows == 2:
        if vectors > 3:
            sums_of_products(2, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 2:
            sums_of_products(2, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 1:
            sums_of_products(2, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        else:
            sums_of_products(2, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
    else:
        if vectors > 3:
            sums_of_products(1, VECTORS, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 2:
            sums_of_products(1, 3, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        elif vectors > 1:
            sums_of_products(1, 2, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)
        else:
            sums_of_products(1, 1, W, start, made_step, weights, panel, first, steps, bias, channel, out, to, row, ahead)

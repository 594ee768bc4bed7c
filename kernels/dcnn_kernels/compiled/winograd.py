"""Convolution by windows of 3 by 3 at stride 1 with a quarter of the products: Winograd's F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4: a tile of 6 by 6 pixels d gives
4 by 4 results ``A' [(G g G') * (B' d B)] A``, where ``*`` multiplies elements, summed over channels: 36 matrix products a layer.
Tiles stand side by side in vectors, so that the transforms too are products of vectors with small matrices. A block takes the
batch's tiles in their order, whichever lines and pictures they belong to: its vectors are full.

Of a block of tiles, all channels are transformed; then some filters at a time are multiplied and their results written, so that
sums stay in the cache. Where filters are larger than pictures, in deep layers, they are not transformed beforehand either.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..reference.im2col import FloatArray
from .jit import compiled
from .microkernel import LINE_BYTES, ROWS, VECTOR, VECTORS, fetch
from .products import PRODUCTS, Filters, panel_of_sums
from .rectifier import Rectifier, write_line
from .team import parted
from .threads import cores, kept, share
from .tile_transforms import join_sums, transform_filters, transform_line, transform_pixels, transform_sums

#: Tiles of a block, at most, and filters that are multiplied with it together.
TILES, SOME = 64, 8 * ROWS
#: How many channels ahead filters are fetched that lie apart.
SOON = 2
#: Costs in products of the plain way, as measured with vectors of 64 bytes by benchmarks/cost_models.py: of transforming one
#: channel of a tile, of transforming a filter of one channel, and of a product.
TILE, FILTER, PRODUCT = 500, 1100, 1.7


class Tiling(NamedTuple):
    """How tiles and filters stand in memory.

    Attributes:
        taken: Channels of ``x``.
        made: Channels of ``y``.
        top: First row of pixels that the tile at (0, 0) sees; may be negative, in the padding.
        left: First column.
        down: Lines of tiles of a picture.
        across: Tiles of a line.
        batch: Tiles of all pictures.
        blocks: Blocks of them; the last may be smaller.
        tiles: Places of a block, whole vectors.
        gap: Values between planes, so that they begin at different places in the cache.
        row: Values from one transformed filter to the next.
        step: Values from one of its channels to the next: filters stand in vectors by those that lie together in memory.
        plane: Values from one of the 36 products' filters to the next's.
    """

    taken: int
    made: int
    top: int
    left: int
    down: int
    across: int
    batch: int
    blocks: int
    tiles: int
    gap: int
    row: int
    step: int
    plane: int


def tiling_of(y: FloatArray, filters: Filters, first: tuple[int, int] = (0, 0)) -> Tiling:
    """How the tiles that make ``y``, and the filters, stand in memory."""
    return _tiling(y.shape, VECTOR // y.itemsize, filters.made, filters.taken, filters.made_step < filters.taken_step, first)


@lru_cache(maxsize=256)
def _tiling(shape: tuple[int, ...], lanes: int, made: int, taken: int, by_filters: bool, first: tuple[int, int]) -> Tiling:
    batch, _, rows, columns = shape
    down, across = math.ceil(rows / 4), math.ceil(columns / 4)
    vectors = math.ceil(batch * down * across / lanes)
    width = max(1, min(vectors, TILES // lanes))
    wide = math.ceil(taken / lanes) * lanes
    wide += lanes if wide % (8 * lanes) == 0 else 0  # else rows would begin at the same few places in the cache
    row, step = (1, SOME) if by_filters else (wide, 1)
    places = (down, across, batch * down * across, math.ceil(vectors / width), width * lanes, 5 * lanes)
    return Tiling(taken, made, *first, *places, row, step, SOME * wide + lanes)


def cost(y: FloatArray, filters: Filters) -> float:
    """Products that the plain way would make in the time that it takes to fill ``y``."""
    tiling, pairs, lanes = tiling_of(y, filters), filters.made * filters.taken, VECTOR // y.itemsize
    places = math.ceil(tiling.batch / lanes) * lanes
    return TILE * (filters.made + filters.taken) * places + FILTER * pairs + 36 * PRODUCT * pairs * places


def multiply(y: FloatArray, x: FloatArray, filters: Filters, first: tuple[int, int], turned: bool, rectifier: Rectifier) -> None:
    """Fills ``y`` with windows over ``x``; the window at (0, 0) begins at pixel ``first``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: Of one group, with 9 taps.
        first: May be negative, in the padding.
        turned: Whether the taps are turned round.
        rectifier: What results go through.
    """
    tiling, dtype = tiling_of(y, filters, first), y.dtype
    made, taken, tiles, blocks, lanes = tiling.made, tiling.taken, tiling.tiles, tiling.blocks, VECTOR // y.itemsize
    parts, work = math.ceil(made / SOME), 36 * taken * tiles // PRODUCTS
    pixels, some_filters = 36 * (taken * tiles + tiling.gap), 36 * tiling.plane + lanes
    for_pixels, for_sums = 36 * (tiles + lanes) + lanes, 36 * (SOME * tiles + tiling.gap) + 28 * tiles + lanes
    weights = (filters.W, filters.made_step, filters.taken_step, turned)
    tables = _tables(taken, tiles, tiling.row, tiling.step, tiling.plane, dtype.itemsize)
    through = (*tables, filters.bias, rectifier, tiling)
    if blocks < max(2, cores()):
        V = kept(blocks * pixels, dtype)
        share(_transform_pixels, blocks * taken, 36 * tiles, V, x, tiling, room=(for_pixels, dtype))
        share(_multiply_filters, parts, SOME * blocks * work, y, V, *weights, *through, room=(some_filters + for_sums, dtype))
    else:
        U = kept(parts * some_filters, dtype)
        share(_transform_filters, parts, 36 * SOME * taken, U, *weights, tiling)
        share(_multiply_pixels, blocks, made * work, y, x, U, *through, room=(pixels + max(for_pixels, for_sums), dtype))


@lru_cache(maxsize=256)
def _tables(taken: int, tiles: int, row: int, step: int, plane: int, itemsize: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Where channels of filters and of tiles begin, and where what is multiplied next does: it is fetched on the way."""
    channels, line = np.arange(taken), LINE_BYTES // itemsize
    if step > 1:
        return channels * step, channels * tiles, channels * step + plane
    return channels, channels * tiles, (channels % ROWS + ROWS) * row + np.minimum(channels // ROWS * line, taken - 1)


@parted
def _transform_pixels(first, last, memory, V, x, tiling):
    """Pixels of all blocks, one channel after the other."""
    size, there = 36 * (tiling.taken * tiling.tiles + tiling.gap), -1
    lines = _lines_of(0, tiling)
    for item in range(first, last):
        block, channel = item // tiling.taken, item % tiling.taken
        if block != there:
            there, lines = block, _lines_of(block, tiling)
        _gather(memory, V, block * size, x, lines, channel, channel + 1, tiling)


@parted
def _multiply_filters(
    first, last, memory, y, V, W, made_step, taken_step, turned, channels, terms, ahead, bias, rectifier, tiling
):
    """Some filters at a time, with the transformed pixels of all blocks."""
    size, own = 36 * (tiling.taken * tiling.tiles + tiling.gap), memory[36 * tiling.plane + VECTOR // V.itemsize :]
    for number in range(first, last):
        begin, end = number * SOME, min((number + 1) * SOME, tiling.made)
        _filters(memory, 0, W, begin, end, made_step, taken_step, turned, tiling)
        for block in range(tiling.blocks):
            lines = _lines_of(block, tiling)
            _sums(own, y, V, block * size, memory, 0, channels, terms, ahead, lines, begin, end, bias, rectifier, tiling)


@parted
def _transform_filters(first, last, U, W, made_step, taken_step, turned, tiling):
    """All filters, some after the other."""
    for number in range(first, last):
        begin, end = number * SOME, min((number + 1) * SOME, tiling.made)
        start = number * (36 * tiling.plane + VECTOR // U.itemsize)
        _filters(U, start, W, begin, end, made_step, taken_step, turned, tiling)


@parted
def _multiply_pixels(first, last, memory, y, x, U, channels, terms, ahead, bias, rectifier, tiling):
    """One block after the other, with the transformed filters."""
    size = 36 * (tiling.taken * tiling.tiles + tiling.gap)
    V, own, lanes = memory[:size], memory[size:], VECTOR // y.itemsize
    for block in range(first, last):
        lines = _lines_of(block, tiling)
        _gather(own, V, 0, x, lines, 0, tiling.taken, tiling)
        for number in range((tiling.made + SOME - 1) // SOME):
            begin, end = number * SOME, min((number + 1) * SOME, tiling.made)
            start = number * (36 * tiling.plane + lanes)
            _sums(own, y, V, 0, U, start, channels, terms, ahead, lines, begin, end, bias, rectifier, tiling)


@compiled
def _lines_of(block, tiling):
    """Lines of tiles, or parts of lines, of a block: the first one's place, sample, line and number in the line, and how many."""
    tile, last = block * tiling.tiles, min(tiling.batch, (block + 1) * tiling.tiles)
    lines = np.empty((last - tile, 5), np.int64)
    place = count = 0
    while tile < last:
        line, number = divmod(tile, tiling.across)
        sample, row = divmod(line, tiling.down)
        some = min(tiling.across - number, last - tile)
        for n, value in enumerate((place, sample, row, number, some)):
            lines[count, n] = value
        place, tile, count = place + some, tile + some, count + 1
    return lines[:count]


@compiled
def _filters(U, start, W, begin, end, made_step, taken_step, turned, tiling):
    """Writes ``G g G'`` of some filters to U, 36 planes from ``start`` on."""
    lanes, count = VECTOR // U.itemsize, end - begin
    # Along the one of filters and channels whose taps lie together.
    if tiling.step > 1:
        for c in range(tiling.taken):
            fetch(False, W, begin * made_step + (c + SOON) * taken_step, 9 * count)
            for k in range(0, count, lanes):
                at, to = (begin + k) * made_step + c * taken_step, start + c * tiling.step + k
                if turned:
                    transform_filters(True, U, to, tiling.plane, W, at, min(lanes, count - k))
                else:
                    transform_filters(False, U, to, tiling.plane, W, at, min(lanes, count - k))
    else:
        for k in range(count):
            for c in range(0, tiling.taken, lanes):
                at, to = (begin + k) * made_step + c * taken_step, start + k * tiling.row + c
                if turned:
                    transform_filters(True, U, to, tiling.plane, W, at, min(lanes, tiling.taken - c))
                else:
                    transform_filters(False, U, to, tiling.plane, W, at, min(lanes, tiling.taken - c))


@compiled
def _gather(half, V, start, x, lines, begin, end, tiling):
    """Writes ``B' d B`` of a block's tiles, for some channels, to V (36, taken, tiles) from ``start`` on."""
    lanes = VECTOR // V.itemsize
    _, taken, height, width = x.shape
    pitch, plane = tiling.tiles + lanes, taken * tiling.tiles + tiling.gap
    tiles, pixels = lines[-1, 0] + lines[-1, 4], x.reshape(-1)
    for c in range(begin, end):
        follows = False
        for n in range(len(lines)):
            place, sample, line, number, some = lines[n, 0], lines[n, 1], lines[n, 2], lines[n, 3], lines[n, 4]
            # A line's last two rows are the next line's first two, and are transformed with that if both are whole.
            followed = n + 1 < len(lines) and some == lines[n + 1, 4] == tiling.across and line + 1 < tiling.down
            column = tiling.left + 4 * number
            for i in range(4 if followed else 6):
                row, at = tiling.top + 4 * line + i, 6 * i * pitch + place
                again = 6 * (i + 4) * pitch + place - some if follows and i < 2 else -1
                source = ((sample * taken + c) * height + row) * width + column
                last = width - column if 0 <= row < height else -column
                for m in range(0, some, lanes):
                    over = again + m if again >= 0 else -1
                    transform_line(half, at + m, over, pitch, pixels, source + 4 * m, -column - 4 * m, last - 4 * m)
                fetch(False, pixels, source + height * width, 4 * some)  # of the next channel
            follows = followed
        for j in range(6):
            for m in range(0, tiles, lanes):
                transform_pixels(V, start + j * plane + c * tiling.tiles + m, 6 * plane, half, j * pitch + m, 6 * pitch)


@compiled
def _sums(memory, y, V, pixels, U, filters, channels, terms, ahead, lines, begin, end, bias, rectifier, tiling):
    """Multiplies a block's pixels and some filters, which begin at such places of V and U; writes ``A' m A`` of the sums to y."""
    size, lanes = 36 * (SOME * tiling.tiles + tiling.gap), VECTOR // V.itemsize
    used = (lines[-1, 0] + lines[-1, 4] + lanes - 1) // lanes
    _products(memory, y, V, pixels, U, filters, channels, terms, ahead, lines, used, begin, end, tiling)
    _results(memory[size:], y, memory, lines, used, begin, end, bias, rectifier, tiling)


@compiled
def _products(M, y, V, pixels, U, filters, channels, terms, ahead, lines, used, begin, end, tiling):
    """Writes the sums to M (36, filters, tiles), so many vectors of tiles, and has the lines of y brought meanwhile."""
    lanes, tiles, count = VECTOR // V.itemsize, tiling.tiles, end - begin
    of_V, of_M = tiling.taken * tiles + tiling.gap, SOME * tiles + tiling.gap
    zeros, together = np.zeros(ROWS, V.dtype), ROWS if count >= ROWS else 1
    target, rows, columns = y.reshape(-1), y.shape[2], y.shape[3]
    steps, step, fetched = 36 * ((count + together - 1) // together), 0, 0
    for n in range(36):
        k = 0
        while k < count:
            k = min(k, count - together)
            at = filters + n * tiling.plane + k * tiling.row
            for m in range(0, used, VECTORS):
                left, first, to = min(VECTORS, used - m), pixels + n * of_V + m * lanes, n * of_M + k * tiles + m * lanes
                panel_of_sums(together, left, U, at, tiling.row, channels, V, first, terms, zeros, 0, M, to, tiles, ahead)
            k, step = k + together, step + 1
            while fetched * steps < step * 4 * count:
                plane = begin + fetched // 4
                for m in range(len(lines)):
                    row, number = 4 * lines[m, 2] + fetched % 4, lines[m, 1] * tiling.made + plane
                    fetch(True, target, (number * rows + row) * columns + 4 * lines[m, 3], 4 * lines[m, 4])
                fetched += 1


@compiled
def _results(memory, y, M, lines, used, begin, end, bias, rectifier, tiling):
    """Writes ``A' m A`` of M's sums to y."""
    lanes, tiles, of_M = VECTOR // M.itemsize, tiling.tiles, SOME * tiling.tiles + tiling.gap
    half, line = memory[: 24 * tiles], memory[24 * tiles :]
    target, rows, columns = y.reshape(-1), y.shape[2], y.shape[3]
    for k in range(begin, end):
        for j in range(6):
            at = j * of_M + (k - begin) * tiles
            for m in range(0, used * lanes, lanes):
                transform_sums(half, j * tiles + m, 6 * tiles, M, at + m, 6 * of_M)
        for i in range(4):
            for m in range(0, used * lanes, lanes):
                join_sums(line, 4 * m, 0, half, 6 * i * tiles + m, tiles)
            for n in range(len(lines)):
                place, sample, row, column, some = lines[n, 0], lines[n, 1], lines[n, 2], lines[n, 3], lines[n, 4]
                row, column = 4 * row + i, 4 * column
                if row < rows:
                    element, values = (k * rows + row) * columns + column, min(4 * some, columns - column)
                    to = sample * tiling.made * rows * columns + element
                    write_line(target, to, line, 4 * place, values, bias[k], rectifier, sample, k, element)

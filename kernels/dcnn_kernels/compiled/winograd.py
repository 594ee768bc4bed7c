"""Convolution by windows of 3 by 3 at stride 1 with a quarter of the products: Winograd's F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4: a tile of 6 by 6 pixels d gives
4 by 4 results ``A' [(G g G') * (B' d B)] A``, where ``*`` multiplies elements, summed over channels: 36 matrix products a layer.
Tiles stand side by side in vectors, so that the transforms too are products of vectors with small matrices.

Of a block of tiles, all channels are transformed; then some filters at a time are multiplied and their results written, so that
sums stay in the cache. Where filters are larger than pictures, in deep layers, they are not transformed beforehand either.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..reference.im2col import FloatArray
from .jit import compiled
from .microkernel import ROWS, VECTOR, copy, join, part
from .products import PRODUCTS, Filters, row_of_sums
from .rectifier import Rectifier, rectify_line
from .team import parted
from .threads import cores, share
from .tile_transforms import transform_filters, transform_pixels, transform_sums

#: Tiles of a block, about, and filters that are multiplied with it together.
TILES, SOME = 64, 4 * ROWS
#: Costs in products of the plain way, as measured with vectors of 64 bytes by benchmarks/cost_models.py: of transforming one
#: channel of a tile, of transforming a filter of one channel, and of a product.
TILE, FILTER, PRODUCT = 850, 900, 1.2


class Tiling(NamedTuple):
    """How tiles stand in memory.

    Attributes:
        taken: Channels of ``x``.
        made: Channels of ``y``.
        top: First row of pixels that the tile at (0, 0) sees; may be negative, in the padding.
        left: First column.
        down: Lines of tiles of a picture.
        across: Places of a line: its tiles, and one for the pixels that its last tile sees beyond its own.
        lines: Lines of a block; they may belong to several pictures.
        tiles: Places of a block, whole vectors.
        wide: Channels taken, in whole vectors, of which a multiple of 8 would begin at the same few places in the cache.
        gap: Values between planes, so that they begin at different places in the cache.
    """

    taken: int
    made: int
    top: int
    left: int
    down: int
    across: int
    lines: int
    tiles: int
    wide: int
    gap: int


def tiling_of(y: FloatArray, filters: Filters, first: tuple[int, int] = (0, 0)) -> Tiling:
    """How the tiles that make ``y`` stand in memory."""
    batch, _, rows, columns = y.shape
    lanes = VECTOR // y.itemsize
    down, across = math.ceil(rows / 4), math.ceil(columns / 4) + 1
    lines = max(1, min(batch * down, TILES // across))
    tiles, wide = (math.ceil(size / lanes) * lanes for size in (lines * across, filters.taken))
    wide += lanes if wide % (8 * lanes) == 0 else 0
    return Tiling(filters.taken, filters.made, *first, down, across, lines, tiles, wide, 5 * lanes)


def cost(y: FloatArray, filters: Filters) -> float:
    """Products that the plain way would make in the time that it takes to fill ``y``."""
    tiling, pairs = tiling_of(y, filters), filters.made * filters.taken
    places = math.ceil(len(y) * tiling.down / tiling.lines) * tiling.tiles
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
    made, taken, tiles, wide = tiling.made, tiling.taken, tiling.tiles, tiling.wide
    blocks, lanes = math.ceil(len(y) * tiling.down / tiling.lines), VECTOR // dtype.itemsize
    pixels, sums = 36 * (taken * tiles + tiling.gap), 36 * (SOME * tiles + tiling.gap)
    for_pixels, for_filters, for_sums = 48 * (tiles + lanes), (9 * SOME + 18) * wide, 44 * tiles + lanes
    work, weights = 36 * taken * tiles // PRODUCTS, (filters.W, filters.made_step, filters.taken_step, turned)
    if blocks < 2 * cores() or 36 * made * wide > blocks * pixels:
        V = np.empty(blocks * pixels, dtype)
        share(_transform_pixels, blocks * taken, 36 * tiles, V, x, tiling, room=(for_pixels, dtype))
        room = for_filters + 36 * SOME * wide + sums + for_sums
        by_some = (y, V, blocks, *weights, filters.bias, rectifier, tiling)
        share(_multiply_filters, math.ceil(made / SOME), SOME * blocks * work, *by_some, room=(room, dtype))
    else:
        U = np.empty(math.ceil(made / SOME) * 36 * SOME * wide, dtype)
        share(_transform_filters, math.ceil(made / SOME), 36 * SOME * taken, U, *weights, tiling, room=(for_filters, dtype))
        room = pixels + sums + max(for_pixels, for_sums)
        share(_multiply_pixels, blocks, made * work, y, x, U, filters.bias, rectifier, tiling, room=(room, dtype))


@parted
def _transform_pixels(first, last, memory, V, x, tiling):
    """Pixels of all blocks, one channel after the other."""
    size = 36 * (tiling.taken * tiling.tiles + tiling.gap)
    for item in range(first, last):
        block, channel = item // tiling.taken, item % tiling.taken
        _gather(memory, V, block * size, x, block, channel, channel + 1, tiling)


@parted
def _multiply_filters(first, last, memory, y, V, blocks, W, made_step, taken_step, turned, bias, rectifier, tiling):
    """Some filters at a time, with the transformed pixels of all blocks."""
    size, U = 36 * (tiling.taken * tiling.tiles + tiling.gap), memory[: 36 * SOME * tiling.wide]
    own = memory[36 * SOME * tiling.wide :]
    for number in range(first, last):
        begin, end = number * SOME, min((number + 1) * SOME, tiling.made)
        _filters(own, U, 0, W, begin, end, made_step, taken_step, turned, tiling)
        for block in range(blocks):
            _sums(own, y, V, block * size, U, 0, block, begin, end, bias, rectifier, tiling)


@parted
def _transform_filters(first, last, memory, U, W, made_step, taken_step, turned, tiling):
    """All filters, some after the other."""
    for number in range(first, last):
        begin, end = number * SOME, min((number + 1) * SOME, tiling.made)
        _filters(memory, U, number * 36 * SOME * tiling.wide, W, begin, end, made_step, taken_step, turned, tiling)


@parted
def _multiply_pixels(first, last, memory, y, x, U, bias, rectifier, tiling):
    """One block after the other, with the transformed filters."""
    size = 36 * (tiling.taken * tiling.tiles + tiling.gap)
    V, own = memory[:size], memory[size:]
    for block in range(first, last):
        _gather(own, V, 0, x, block, 0, tiling.taken, tiling)
        for begin in range(0, tiling.made, SOME):
            end = min(begin + SOME, tiling.made)
            _sums(own, y, V, 0, U, begin * 36 * tiling.wide, block, begin, end, bias, rectifier, tiling)


@compiled
def _filters(memory, U, start, W, begin, end, made_step, taken_step, turned, tiling):
    """Writes ``G g G'`` of some filters to U (36, SOME, taken in whole vectors) from ``start`` on."""
    wide, count = tiling.wide, end - begin
    taps, half = memory[: 9 * count * wide], memory[9 * SOME * wide :]
    if made_step < taken_step:  # in the order in which they lie in memory
        for c in range(tiling.taken):
            for k in range(count):
                for n in range(9):
                    at = (begin + k) * made_step + c * taken_step
                    taps[(9 * k + n) * wide + c] = W[at + (8 - n if turned else n)]
    else:
        for k in range(count):
            for c in range(tiling.taken):
                for n in range(9):
                    at = (begin + k) * made_step + c * taken_step
                    taps[(9 * k + n) * wide + c] = W[at + (8 - n if turned else n)]
    lanes = VECTOR // U.itemsize
    for k in range(count):
        for j in range(3):
            at = (9 * k + j) * wide
            for c in range(0, wide, lanes):
                transform_filters(half, 6 * j * wide + c, wide, taps, at + c, 3 * wide, 0)
        for i in range(6):
            to = start + (6 * i * SOME + k) * wide
            for c in range(0, wide, lanes):
                transform_filters(U, to + c, SOME * wide, half, i * wide + c, 6 * wide, 0)


@compiled
def _gather(memory, V, start, x, block, begin, end, tiling):
    """Writes ``B' d B`` of a block's tiles, for some channels, to V (36, taken, tiles) from ``start`` on."""
    lanes, tiles, across = VECTOR // V.itemsize, tiling.tiles, tiling.across
    batch, taken, height, width = x.shape
    first, last = -tiling.left, width - tiling.left
    pitch, plane = tiles + lanes, taken * tiles + tiling.gap
    memory[: 24 * pitch] = 0
    half, pixels = memory[24 * pitch :], x.reshape(-1)
    for c in range(begin, end):
        # Columns of pixels go apart by their number modulo 4: then those of all tiles follow one another.
        for i in range(6):
            for number in range(tiling.lines):
                at = i * pitch + number * across
                sample, row = divmod(block * tiling.lines + number, tiling.down)
                row = tiling.top + 4 * row + i
                if sample < batch and 0 <= row < height:
                    source = ((sample * taken + c) * height + row) * width + tiling.left
                    for n in range(0, across, lanes):
                        part(memory, at + n, 6 * pitch, pixels, source + 4 * n, first - 4 * n, last - 4 * n)
                else:
                    for j in range(4):
                        for n in range(at + 6 * j * pitch, at + 6 * j * pitch + across):
                            memory[n] = 0
        for j in range(4):
            at = 6 * j * pitch
            for n in range(0, tiles, lanes):
                transform_pixels(half, at + n, pitch, memory, at + n, pitch, 4 * pitch)
        for i in range(6):
            at, to = i * pitch, start + 6 * i * plane + c * tiles
            for n in range(0, tiles, lanes):
                transform_pixels(V, to + n, plane, half, at + n, 6 * pitch, 1)


@compiled
def _sums(memory, y, V, pixels, U, filters, block, begin, end, bias, rectifier, tiling):
    """Multiplies a block's pixels and some filters, which begin at such places of V and U; writes ``A' m A`` of the sums to y."""
    tiles, wide, count = tiling.tiles, tiling.wide, end - begin
    of_V, of_M = tiling.taken * tiles + tiling.gap, SOME * tiles + tiling.gap
    M, own = memory[: 36 * of_M], memory[36 * of_M :]
    channels, zeros = np.arange(tiling.taken), np.zeros(ROWS, V.dtype)
    terms, together = channels * tiles, ROWS if count >= ROWS else 1
    for n in range(36):
        k = 0
        while k < count:
            k = min(k, count - together)
            at, to = filters + (n * SOME + k) * wide, n * of_M + k * tiles
            row_of_sums(together, U, at, wide, channels, V, pixels + n * of_V, terms, zeros, 0, M, to, tiles, tiles)
            k += together

    lanes = VECTOR // M.itemsize
    batch, _, rows, columns = y.shape
    half, sums, line = own[: 24 * tiles], own[24 * tiles : 40 * tiles], own[40 * tiles :]
    target, across = y.reshape(-1), tiling.across
    for k in range(begin, end):
        for j in range(6):
            at, to = j * of_M + (k - begin) * tiles, 4 * j * tiles
            for n in range(0, tiles, lanes):
                transform_sums(half, to + n, tiles, M, at + n, 6 * of_M, 24 * of_M)
        for i in range(4):
            at, to = i * tiles, 4 * i * tiles
            for n in range(0, tiles, lanes):
                transform_sums(sums, to + n, tiles, half, at + n, 4 * tiles, 16 * tiles)
                join(line, 4 * n, sums, to + n, tiles)
            for number in range(tiling.lines):
                sample, row = divmod(block * tiling.lines + number, tiling.down)
                row = 4 * row + i
                if sample < batch and row < rows:
                    element = (k * rows + row) * columns
                    rectify_line(line, 4 * number * across, columns, bias[k], rectifier, sample, k, element)
                    copy(target, (sample * tiling.made * rows) * columns + element, line, 4 * number * across, columns)

"""Convolution by windows of 3 by 3 at stride 1 with a quarter of the products: Winograd's F(4x4, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4: a tile of 6 by 6 pixels d gives
4 by 4 results ``A' [(G g G') * (B' d B)] A``, where ``*`` multiplies elements, summed over channels: 36 matrix products a layer.
Tiles stand side by side in vectors, so that the transforms too are products of vectors with small matrices.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..reference.im2col import FloatArray
from .jit import compiled
from .microkernel import ROWS, VECTOR, VECTORS, copy, join, part, sums_of_products
from .products import PRODUCTS, Filters, row_of_sums
from .threads import cores, share

#: Tiles that are transformed together, about.
TILES = 112
#: The points at which polynomials are taken, besides 0 and infinity, each with either sign. With Lavin and Gray's, 1 and 2,
#: errors are four times as large; with these they are about those of a plain sum of as many products.
POINTS = 0.75, 1.5


def transforms(dtype: npt.DTypeLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The matrices B' (6, 6), G (6, 3) and A' (4, 6), flat: those of Toom and Cook for five points and infinity."""
    points = np.array([0, *(sign * point for point in POINTS for sign in (1, -1))])
    of_pixels, of_filters, of_sums = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for n, point in enumerate(points):
        others = np.delete(points, n)
        of_pixels[n, :5] = np.poly(others)[::-1]
        of_filters[n] = point ** np.arange(3) / np.prod(point - others)
        of_sums[:, n] = point ** np.arange(4)
    of_pixels[5], of_filters[5, 2], of_sums[3, 5] = np.poly(points)[::-1], 1, 1
    one, two, three = (matrix.astype(dtype).reshape(-1) for matrix in (of_pixels, of_filters, of_sums))
    return one, two, three


def multiply(y: FloatArray, x: FloatArray, filters: Filters, first: tuple[int, int], turned: bool) -> None:
    """Fills ``y`` with windows over ``x``; the window at (0, 0) begins at pixel ``first``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: Of one group, with 9 taps.
        first: May be negative, in the padding.
        turned: Whether the taps are turned round.
    """
    made, taken, dtype = filters.made, filters.taken, x.dtype
    lanes = VECTOR // x.itemsize
    of_pixels, of_filters, of_sums = transforms(dtype)
    zeros, bias = np.zeros(6, dtype), np.repeat(filters.bias, 4)

    wide = math.ceil(taken / lanes) * lanes
    U = np.empty(made * 36 * wide, dtype)
    room = (27 * wide, dtype)
    share(
        _transform_filters,
        made,
        36 * taken,
        U,
        filters.W,
        made,
        taken,
        filters.made_step,
        filters.taken_step,
        turned,
        of_filters,
        zeros,
        room=room,
    )

    down, across = (math.ceil(size / 4) for size in y.shape[2:])
    lines = min(len(x) * down, max(1, TILES // across))
    blocks = math.ceil(len(x) * down / lines)
    tiles = math.ceil(lines * across / lanes) * lanes
    step = tiles + 4 * lanes  # vectors may be written over the end of a line
    # Planes begin at different places in the cache.
    taken_plane, made_plane = taken * step + 5 * lanes, made * step + 5 * lanes
    pitch = math.ceil((across + 1) / lanes) * lanes + 4 * lanes
    own = max(52 * pitch, 40 * step + 4 * pitch)
    gathered = (x.reshape(-1), x.shape, *first, of_pixels)
    spread = (y, of_sums, bias)
    shape = (made, taken, lines, down, across, tiles, step, taken_plane, made_plane, pitch, zeros)
    if blocks >= 2 * cores():
        work = 36 * taken * made * tiles // PRODUCTS
        room = (own + 36 * (taken_plane + made_plane), dtype)
        share(_blocks, blocks, work, U, *gathered, *spread, *shape, room=room)
        return
    V, M = np.empty(36 * taken_plane, dtype), np.empty(36 * made_plane, dtype)
    for block in range(blocks):
        share(_gather, taken, 36 * tiles, V, block, *gathered, *shape, room=(own, dtype))
        share(_multiply, 36 * 4, taken * made * tiles // (4 * PRODUCTS), M, U, V, *shape)
        share(_spread, made, 36 * tiles, M, block, *spread, *shape, room=(own, dtype))


@compiled
def _transform_filters(first, last, memory, U, W, made, taken, made_step, taken_step, turned, of_filters, zeros):
    """Writes ``G g G'`` of all filters, (made, 36, taken in whole vectors)."""
    lanes = VECTOR // U.itemsize
    wide = len(memory) // 27
    half = memory[9 * wide :]
    three = np.arange(3)
    for k in range(first, last):
        for n in range(9):
            tap = k * made_step + (8 - n if turned else n)
            for c in range(taken):
                memory[n * wide + c] = W[tap + c * taken_step]
        for c in range(0, taken, lanes):
            for j in range(3):
                to = 6 * j * wide + c
                sums_of_products(6, 1, of_filters, 0, 3, three, memory, j * wide + c, 3 * wide * three, zeros, 0, half, to, wide)
            for i in range(6):
                to = (36 * k + 6 * i) * wide + c
                sums_of_products(6, 1, of_filters, 0, 3, three, half, i * wide + c, 6 * wide * three, zeros, 0, U, to, wide)


@compiled
def _blocks(
    first,
    last,
    memory,
    U,
    x,
    pictures,
    top,
    left,
    of_pixels,
    y,
    of_sums,
    bias,
    made,
    taken,
    lines,
    down,
    across,
    tiles,
    step,
    taken_plane,
    made_plane,
    pitch,
    zeros,
):
    V, M, own = memory[: 36 * taken_plane], memory[36 * taken_plane :], memory[36 * (taken_plane + made_plane) :]
    for block in range(first, last):
        _gather(
            0,
            taken,
            own,
            V,
            block,
            x,
            pictures,
            top,
            left,
            of_pixels,
            made,
            taken,
            lines,
            down,
            across,
            tiles,
            step,
            taken_plane,
            made_plane,
            pitch,
            zeros,
        )
        _multiply(0, 36 * 4, M, U, V, made, taken, lines, down, across, tiles, step, taken_plane, made_plane, pitch, zeros)
        _spread(
            0,
            made,
            own,
            M,
            block,
            y,
            of_sums,
            bias,
            made,
            taken,
            lines,
            down,
            across,
            tiles,
            step,
            taken_plane,
            made_plane,
            pitch,
            zeros,
        )


@compiled
def _gather(
    first,
    last,
    memory,
    V,
    block,
    x,
    pictures,
    top,
    left,
    of_pixels,
    made,
    taken,
    lines,
    down,
    across,
    tiles,
    step,
    taken_plane,
    made_plane,
    pitch,
    zeros,
):
    """Writes ``B' d B`` of a block's tiles, some lines of them, for some channels."""
    lanes = VECTOR // V.itemsize
    batch, _, height, width = pictures
    columns = across + 1
    begin = min(4 * columns, max(0, -left))
    end = max(begin, min(4 * columns, width - left))
    line, half = memory[: 4 * pitch], memory[28 * pitch :]
    line[:] = 0
    six = np.arange(6)
    rows, places = six * pitch, six % 4 * (6 * pitch) + six // 4
    for c in range(first, last):
        for number in range(lines):
            sample, row = divmod(block * lines + number, down)
            if sample >= batch:
                break
            for i in range(6):
                # Columns of pixels go apart by their number modulo 4: then those of all tiles follow one another.
                source = top + 4 * row + i
                if 0 <= source < height and begin < end:
                    copy(line, begin, x, ((sample * taken + c) * height + source) * width + left + begin, end - begin)
                    for n in range(0, columns, lanes):
                        part(memory, (4 + i) * pitch + n, 6 * pitch, line, 4 * n)
                else:
                    for j in range(4):
                        at = (4 + 6 * j + i) * pitch
                        memory[at : at + columns] = 0
            for j in range(4):
                at, to = (4 + 6 * j) * pitch, 6 * j * pitch
                _transform(6, columns, of_pixels, six, memory, at, rows, zeros, 0, half, to, pitch)
            for i in range(6):
                to = 6 * i * taken_plane + c * step + number * across
                _transform(6, across, of_pixels, six, half, i * pitch, places, zeros, 0, V, to, taken_plane)


@compiled
def _transform(rows, count, matrix, six, b, b_start, b_steps, bias, bias_start, out, out_start, out_row):
    """A small matrix times vectors side by side, of which some may be written over the end."""
    lanes = VECTOR // out.itemsize
    for n in range(0, count, VECTORS * lanes):
        at, to = b_start + n, out_start + n
        if rows == 6:
            if count - n > lanes:
                sums_of_products(6, VECTORS, matrix, 0, 6, six, b, at, b_steps, bias, bias_start, out, to, out_row)
            else:
                sums_of_products(6, 1, matrix, 0, 6, six, b, at, b_steps, bias, bias_start, out, to, out_row)
        else:
            if count - n > lanes:
                sums_of_products(4, VECTORS, matrix, 0, 6, six, b, at, b_steps, bias, bias_start, out, to, out_row)
            else:
                sums_of_products(4, 1, matrix, 0, 6, six, b, at, b_steps, bias, bias_start, out, to, out_row)


@compiled
def _multiply(first, last, M, U, V, made, taken, lines, down, across, tiles, step, taken_plane, made_plane, pitch, zeros):
    """Sums over channels: 36 products of matrices, each in four parts."""
    channels = np.arange(taken)
    terms, wide = channels * step, len(U) // (36 * made)
    for unit in range(first, last):
        n, quarter = unit // 4, unit % 4
        k, stop = made * quarter // 4, made * (quarter + 1) // 4
        rows = ROWS if stop - k >= ROWS else 1
        while k < stop:
            k = min(k, stop - rows)
            at, to = (36 * k + n) * wide, n * made_plane + k * step
            row_of_sums(rows, U, at, 36 * wide, channels, V, n * taken_plane, terms, zeros, 0, M, to, step, tiles)
            k += rows


@compiled
def _spread(
    first,
    last,
    memory,
    M,
    block,
    y,
    of_sums,
    bias,
    made,
    taken,
    lines,
    down,
    across,
    tiles,
    step,
    taken_plane,
    made_plane,
    pitch,
    zeros,
):
    """Writes ``A' m A`` of a block's tiles for some channels."""
    lanes = VECTOR // M.itemsize
    batch, _, rows, columns = y.shape
    six = np.arange(6)
    of_rows, of_columns = six * (6 * made_plane), six * (4 * step)
    half, sums, line = memory[: 24 * step], memory[24 * step : 40 * step], memory[40 * step :]
    for k in range(first, last):
        for j in range(6):
            _transform(4, tiles, of_sums, six, M, j * made_plane + k * step, of_rows, zeros, 0, half, 4 * j * step, step)
        for i in range(4):
            _transform(4, tiles, of_sums, six, half, i * step, of_columns, bias, 4 * k, sums, 4 * i * step, step)
        for number in range(lines):
            sample, row = divmod(block * lines + number, down)
            if sample >= batch:
                break
            for i in range(min(4, rows - 4 * row)):
                for n in range(0, across, lanes):
                    join(line, 4 * n, sums, 4 * i * step + number * across + n, step)
                target = y[sample, k, 4 * row + i]
                copy(target, 0, line, 0, columns)

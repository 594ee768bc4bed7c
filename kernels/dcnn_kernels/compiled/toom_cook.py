"""Polynomial multiplication by evaluation and interpolation: a 3x3 convolution with a quarter of its products.

A tile of 4x4 pixels and a filter of 3x3 taps are polynomials in two variables, and what the tile contributes to 6x6 outputs is
their product. A. Toom (1963) and S. Cook (1966) multiply polynomials by their values at as many points as the product has
coefficients: 36 products a pair of channels, where the plain sum has 144. S. Winograd's minimal filtering (1980; Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", CVPR 2016) is the same with the outputs tiled instead of the inputs.

Points 0, ±2/3, ±3/2 and infinity: of those tried they lose least, 1.5e-6 of the output's root mean square in float32 with 512
channels, where the plain sum loses 3e-7.
"""

from __future__ import annotations

import numpy as np

from ..reference.im2col import FloatArray
from .microkernel import ROWS
from .row_products import in_panels, multiply_rows
from .team import parted
from .threads import share

#: Pixels of a tile, taps of a filter and outputs that a tile reaches, along each axis.
TILE, TAPS, REACH = 4, 3, 6
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
#: Channels that a transform takes at a time, at most: what lies between its two axes then stays in the first level of cache.
LANES = 64
#: Values of tiles, at one pair of points, that go through one round of products, at least: so many stay in the last level of
#: cache. Where the filters themselves don't, a round has as many values as they have, so that they are read less often.
ROUND = 1 << 16


def _values_at_points(coefficients: int) -> FloatArray:
    """Matrix that takes a polynomial's coefficients, lowest first, to its values; at infinity, to the highest coefficient."""
    powers = np.vander(POINTS, coefficients, increasing=True)
    return np.vstack([powers, np.eye(coefficients)[-1]])


EVALUATION = _values_at_points(TILE)
INTERPOLATION = np.linalg.inv(_values_at_points(REACH))


def evaluate_filters(W: FloatArray) -> FloatArray:
    """Filters (O, C, 3, 3) at all pairs of points, (36, panels, C, outputs of a panel).

    A panel's outputs are as many as a block of sums has; the last has zeros in the end. Taps are turned round: a convolution
    layer correlates.
    """
    matrix = _values_at_points(TAPS).astype(W.dtype)
    turned = np.ascontiguousarray(W[:, :, ::-1, ::-1].transpose(2, 3, 1, 0))
    at_points = np.matmul(np.kron(matrix, matrix), turned.reshape(TAPS * TAPS, -1)).reshape(-1, *turned.shape[2:])
    return in_panels(at_points)


def scatter(x: FloatArray, offsets: np.ndarray, filters: FloatArray, y: FloatArray) -> None:
    """Adds to ``y`` what patches contribute through 3x3 filters.

    Args:
        x: Patches (P, h, w, C), contiguous.
        offsets: int64 (P, 2): row and column in ``y`` of the first output that the patch's first pixel reaches; may be negative.
        filters: As :func:`evaluate_filters` makes them, (36, panels, C, width).
        y: (P, H, W, O), contiguous. Outputs beyond it are dropped.
    """
    count, h, w, channels = x.shape
    rows, columns = -(-h // TILE), -(-w // TILE)
    tiles, (points, panels, _, width) = rows * columns, filters.shape
    outgoing = panels * width
    if not count * tiles:
        return
    batch = max(1, min(count, max(ROUND, channels * outgoing) // max(channels, outgoing) // tiles))
    height = -(-batch * tiles // ROWS) * ROWS
    values = np.zeros((points, height, channels), x.dtype)
    products = np.empty((points, height, outgoing), x.dtype)
    evaluation, interpolation = EVALUATION.astype(x.dtype), INTERPOLATION.astype(x.dtype)
    lanes = in_lanes(y).shape[4]
    whole = outgoing % lanes == 0
    for first in range(0, count, batch):
        part = slice(first, min(first + batch, count))
        size = part.stop - part.start
        share(_evaluate, size, 4 * tiles * TILE * TILE * channels, in_lanes(x[part]), in_lanes(values), evaluation)
        used = -(-size * tiles // ROWS) * ROWS
        multiply_rows(values, filters, products, used)
        made = products.reshape(points, height, -1, lanes) if whole else np.ascontiguousarray(products[..., None, : y.shape[3]])
        share(
            _interpolate,
            size,
            4 * tiles * TILE * TILE * outgoing,
            made,
            offsets[part],
            rows,
            columns,
            in_lanes(y[part]),
            interpolation,
        )


def in_lanes(x: FloatArray) -> FloatArray:
    """The channels, last, as groups of up to :data:`LANES`: groups are equal, so that loops over them have no rest."""
    channels = x.shape[-1]
    lanes = next((n for n in (LANES, LANES // 2, LANES // 4) if channels % n == 0), channels)
    return x.reshape(*x.shape[:-1], channels // max(1, lanes), lanes)


@parted
def _evaluate(first, last, x, values, matrix):
    """Values of tiles at all pairs of points."""
    _, h, w, groups, lanes = x.shape
    rows, columns = (h + TILE - 1) // TILE, (w + TILE - 1) // TILE
    pixels = np.zeros((TILE, TILE, lanes), x.dtype)
    half = np.zeros((REACH, TILE, lanes), x.dtype)
    for p in range(first, last):
        for row in range(rows):
            for column in range(columns):
                tile = (p * rows + row) * columns + column
                for group in range(groups):
                    for i in range(TILE):
                        for j in range(TILE):
                            if row * TILE + i < h and column * TILE + j < w:
                                for n in range(lanes):
                                    pixels[i, j, n] = x[p, row * TILE + i, column * TILE + j, group, n]
                            else:
                                for n in range(lanes):
                                    pixels[i, j, n] = 0
                    for j in range(TILE):
                        for n in range(lanes):
                            zero, one, two, three = pixels[0, j, n], pixels[1, j, n], pixels[2, j, n], pixels[3, j, n]
                            # Values at a point and at its negative differ in the sign of their odd parts only.
                            even, odd = zero + matrix[1, 2] * two, matrix[1, 1] * one + matrix[1, 3] * three
                            half[0, j, n] = zero
                            half[1, j, n] = even + odd
                            half[2, j, n] = even - odd
                            even, odd = zero + matrix[3, 2] * two, matrix[3, 1] * one + matrix[3, 3] * three
                            half[3, j, n] = even + odd
                            half[4, j, n] = even - odd
                            half[5, j, n] = three
                    for f in range(REACH):
                        for g in range(REACH):
                            at = f * REACH + g
                            if g == 0:
                                for n in range(lanes):
                                    values[at, tile, group, n] = half[f, 0, n]
                            elif g == REACH - 1:
                                for n in range(lanes):
                                    values[at, tile, group, n] = half[f, 3, n]
                            else:
                                a, b, c = matrix[g, 1], matrix[g, 2], matrix[g, 3]
                                for n in range(lanes):
                                    values[at, tile, group, n] = (
                                        half[f, 0, n] + a * half[f, 1, n] + b * half[f, 2, n] + c * half[f, 3, n]
                                    )


@parted
def _interpolate(first, last, products, offsets, rows, columns, y, matrix):
    """Adds up what tiles contribute to outputs."""
    _, height, width, groups, lanes = y.shape
    half = np.zeros((REACH, REACH, lanes), y.dtype)
    for p in range(first, last):
        for row in range(rows):
            for column in range(columns):
                tile = (p * rows + row) * columns + column
                top, left = offsets[p, 0] + row * TILE, offsets[p, 1] + column * TILE
                begin, end = max(0, -left), min(REACH, width - left)
                for group in range(groups):
                    for i in range(max(0, -top), min(REACH, height - top)):
                        a, b, c, d, e, f = matrix[i, 0], matrix[i, 1], matrix[i, 2], matrix[i, 3], matrix[i, 4], matrix[i, 5]
                        for g in range(REACH):
                            if i == 0:
                                for n in range(lanes):
                                    half[i, g, n] = products[g, tile, group, n]
                            else:
                                for n in range(lanes):
                                    half[i, g, n] = (
                                        a * products[g, tile, group, n]
                                        + b * products[REACH + g, tile, group, n]
                                        + c * products[2 * REACH + g, tile, group, n]
                                        + d * products[3 * REACH + g, tile, group, n]
                                        + e * products[4 * REACH + g, tile, group, n]
                                        + f * products[5 * REACH + g, tile, group, n]
                                    )
                    for i in range(max(0, -top), min(REACH, height - top)):
                        for j in range(begin, end):
                            a, b, c, d, e, f = matrix[j, 0], matrix[j, 1], matrix[j, 2], matrix[j, 3], matrix[j, 4], matrix[j, 5]
                            for n in range(lanes):
                                y[p, top + i, left + j, group, n] += (
                                    a * half[i, 0, n]
                                    + b * half[i, 1, n]
                                    + c * half[i, 2, n]
                                    + d * half[i, 3, n]
                                    + e * half[i, 4, n]
                                    + f * half[i, 5, n]
                                )

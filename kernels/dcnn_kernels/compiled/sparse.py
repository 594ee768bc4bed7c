"""Transposed convolution of many signals of one picture: only the channels that are not zero at a pixel are multiplied there.

After unpooling, at most one place of each window isn't zero, and a ReLU's mask removes more, at the same places for all channels
of a picture. Signals are laid innermost, so that one number of the filters meets all of them in a few vector instructions, and
what is zero in all of them is skipped by an index.
"""

from __future__ import annotations

import math

import numpy as np

from ..geometry import Pads, Pair
from ..reference.im2col import FloatArray
from ..reference.relu import Mask
from .jit import compiled
from .microkernel import VECTOR
from .rectifier import Rectifier
from .team import parted
from .threads import share

#: Results and signals worked on at a time: the sums stay in the first cache, the signals' weights in registers.
RESULTS, SIGNALS = 64, 8
#: So many signals or more make it worth while: fewer leave the vector instructions idle.
FEWEST = 8
#: Costs in products of the plain way: of a product, and of one more for each weight that is fetched for a vector of signals; of
#: laying a value innermost and back; and the results that could be made while signals are gathered for them. Measured by
#: benchmarks/cost_models.py.
PRODUCT, WEIGHT, VALUE, GATHER = 3.5, 2.3, 60, 16
#: Channels, and rows of each, by which to tell how many places are zero in all signals.
LOOKED_AT = 64, 4


def cost(y: FloatArray, x: FloatArray, W: FloatArray, rectifier: Rectifier, most: float = math.inf) -> float:
    """Products that the plain way would make in the time that it takes to fill ``y``; infinite where it can't, or shouldn't.

    Args:
        y: (K, C, H, W), as all of :func:`multiply`'s.
        x: (K, O, h, w).
        W: (O, C, kh, kw).
        rectifier: What results go through.
        most: What it may cost; where it is sure to cost more, it is infinite and nothing is looked at.
    """
    count, values = len(x), VALUE * (x.size + y.size)
    if count < FEWEST or not x.size or not y.size or values > most or (rectifier.masked and rectifier.pitch):
        return math.inf
    lanes = VECTOR // x.itemsize
    wanted = _share_of_bits(rectifier.bits, y[0].size) if rectifier.masked else 1.0
    terms = len(W) * math.prod(W.shape[2:]) * math.prod(x.shape[2:]) * lanes
    products = PRODUCT * math.ceil(count / lanes) + WEIGHT
    return products * terms * _share_of_nonzero(x) * (wanted * W.shape[1] + GATHER) + values


def multiply(
    y: FloatArray, x: FloatArray, W: FloatArray, bias: FloatArray, stride: Pair, pad: Pads, dilate: Pair, rectifier: Rectifier
) -> None:
    """Fills ``y``.

    Args:
        y: (K, C, H, W), contiguous.
        x: (K, O, h, w), contiguous.
        W: (O, C, kh, kw), of one group.
        bias: (C,).
        stride: Step between windows.
        pad: The convolution's padding.
        dilate: Step between the taps of a window.
        rectifier: What results go through; its mask is that of the one picture.
    """
    count, taken, rows, columns = x.shape
    signals = np.empty((rows, columns, taken, count), x.dtype)
    lengths, nonzero = np.empty((rows, columns), np.int32), np.empty((rows, columns, taken), np.int32)
    share(_lay_innermost, rows, x[:, :, 0].size, x, signals, lengths, nonzero)
    taps = np.ascontiguousarray(W.transpose(2, 3, 0, 1))
    window = *stride, pad[0][0], pad[1][0], *dilate
    share(_sum_rows, y.shape[2], y[:, :, 0].size * taken, y, signals, lengths, nonzero, taps, bias, rectifier, *window)


def _share_of_bits(bits: Mask, count: int) -> float:
    return float(np.unpackbits(bits, count=count).mean())


def _share_of_nonzero(x: FloatArray) -> float:
    """In how many of the places some signal isn't zero, by some rows of some channels."""
    _, channels, rows, _ = x.shape
    some = x[:, :: math.ceil(channels / LOOKED_AT[0]), rows // (2 * LOOKED_AT[1]) :: math.ceil(rows / LOOKED_AT[1])]
    return _nonzero(some) / some[0].size


@compiled
def _nonzero(x):
    """Counts the places where a signal isn't zero."""
    found = 0
    some = np.empty(x.shape[3], np.bool_)
    for channel in range(x.shape[1]):
        for row in range(x.shape[2]):
            some[:] = False
            for k in range(len(x)):
                for column in range(x.shape[3]):
                    some[column] |= x[k, channel, row, column] != 0
            found += some.sum()
    return found


@parted
def _lay_innermost(first, last, x, signals, lengths, nonzero):
    """Lists by pixel the channels in which some signal isn't zero, and writes the signals there."""
    count, taken, _, columns = x.shape
    some = np.empty(columns, np.bool_)
    for row in range(first, last):
        lengths[row] = 0
        for channel in range(taken):
            some[:] = False
            for k in range(count):
                for column in range(columns):
                    some[column] |= x[k, channel, row, column] != 0
            for column in range(columns):
                if some[column]:
                    nonzero[row, column, lengths[row, column]] = channel
                    lengths[row, column] += 1
                    for k in range(count):
                        signals[row, column, channel, k] = x[k, channel, row, column]


@parted
def _sum_rows(first, last, y, signals, lengths, nonzero, W, bias, rectifier, sh, sw, top, left, dh, dw):
    """Makes rows of pixels: for each, all signals' sums over the taps that reach it and the channels that aren't zero there."""
    kh, kw, taken, made = W.shape
    rows, columns, _, count = signals.shape
    height, width = y.shape[2:]
    values, weights = signals.reshape(-1, count), W.reshape(-1, made)
    places, numbers = np.empty(kh * kw * taken, np.int64), np.empty(kh * kw * taken, np.int64)
    wanted = np.empty(made, np.int64)
    sums, part = np.empty((RESULTS, count), y.dtype), np.zeros((SIGNALS, count), y.dtype)
    line = np.empty((made, width, count), y.dtype)
    low, high = rectifier.limits[0], rectifier.limits[1]
    for i in range(first, last):
        line[:] = 0
        for j in range(width):
            found = 0
            for r in range(kh):
                row = i + top - r * dh
                if row < 0 or row % sh or row // sh >= rows:
                    continue
                row //= sh
                for c in range(kw):
                    column = j + left - c * dw
                    if column < 0 or column % sw or column // sw >= columns:
                        continue
                    column //= sw
                    for n in range(lengths[row, column]):
                        channel = nonzero[row, column, n]
                        places[found] = (row * columns + column) * taken + channel
                        numbers[found] = (r * kw + c) * taken + channel
                        found += 1
            results = 0
            for channel in range(made):
                bit = (channel * height + i) * width + j
                if not rectifier.masked or (rectifier.bits[bit >> 3] >> np.uint8(bit & 7)) & np.uint8(1):
                    wanted[results] = channel
                    results += 1
            for start in range(0, results, RESULTS):
                some = wanted[start : min(start + RESULTS, results)]
                for m in range(len(some)):
                    sums[m] = bias[some[m]]
                for n in range(0, found, SIGNALS):
                    several = min(SIGNALS, found - n)
                    for m in range(SIGNALS):
                        for k in range(count):
                            part[m, k] = values[places[n + m], k] if m < several else 0
                    # Written out, for vectors of sums and signals to stay in registers; of missing signals, which are 0,
                    # any weight will do.
                    end = found - 1
                    n0, n1, n2, n3 = numbers[n], numbers[min(n + 1, end)], numbers[min(n + 2, end)], numbers[min(n + 3, end)]
                    n4, n5, n6, n7 = (
                        numbers[min(n + 4, end)], numbers[min(n + 5, end)],
                        numbers[min(n + 6, end)], numbers[min(n + 7, end)],
                    )  # fmt: skip
                    # The second of the last pair may be a repetition, whose sums nobody reads.
                    for m in range(0, len(some), 2):
                        a, b = some[m], some[min(m + 1, len(some) - 1)]
                        a0, a1, a2, a3 = weights[n0, a], weights[n1, a], weights[n2, a], weights[n3, a]
                        a4, a5, a6, a7 = weights[n4, a], weights[n5, a], weights[n6, a], weights[n7, a]
                        b0, b1, b2, b3 = weights[n0, b], weights[n1, b], weights[n2, b], weights[n3, b]
                        b4, b5, b6, b7 = weights[n4, b], weights[n5, b], weights[n6, b], weights[n7, b]
                        for k in range(count):
                            g0, g1, g2, g3 = part[0, k], part[1, k], part[2, k], part[3, k]
                            g4, g5, g6, g7 = part[4, k], part[5, k], part[6, k], part[7, k]
                            sums[m, k] += a0 * g0 + a1 * g1 + a2 * g2 + a3 * g3 + a4 * g4 + a5 * g5 + a6 * g6 + a7 * g7
                            sums[m + 1, k] += b0 * g0 + b1 * g1 + b2 * g2 + b3 * g3 + b4 * g4 + b5 * g5 + b6 * g6 + b7 * g7
                for m in range(len(some)):
                    target = line[some[m], j]
                    for k in range(count):
                        # In this order, what is not a number stays so.
                        target[k] = low if sums[m, k] < low else high if sums[m, k] > high else sums[m, k]
        for channel in range(made):
            for k in range(count):
                for j in range(width):
                    y[k, channel, i, j] = line[channel, j, k]

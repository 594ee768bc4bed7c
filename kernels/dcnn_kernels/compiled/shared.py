"""Ways back of many signals of one picture: only the channels that are not zero at a pixel are worked on there.

Signals lie innermost, so that one number of the filters meets all of them in a few vector instructions, and what is zero in all
of them is skipped by an index and not by moving memory.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Pads, Pair
from ..reference.pooling import Switches
from ..reference.relu import Mask
from ..reference.shared import FloatArray
from .jit import compiled
from .team import parted
from .threads import share

#: Results and signals worked on at a time: the sums stay in the first cache, the signals' weights in registers.
RESULTS, SIGNALS = 64, 8


def shared_transposed_convolution_2d(
    g: FloatArray,
    W: FloatArray,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.shared_transposed_convolution_2d`."""
    rows, columns, filters, count = g.shape
    g = np.ascontiguousarray(g)
    outgoing, incoming = groups * W.shape[1], filters // groups
    y = np.zeros((*outsize, outgoing, count), g.dtype)
    bits = _bits(mask)
    first = pad[0][0], pad[1][0]
    if incoming == 1 == W.shape[1]:
        taps = np.ascontiguousarray(W[:, 0].transpose(1, 2, 0))
        share(_filter_channels, outsize[0], y[0].size * 4, g, taps, y, bits, mask is not None, rectify, *stride, *first, *dilate)
        return y
    lengths, nonzero = np.empty((rows, columns, groups), np.int32), np.empty((rows, columns, filters), np.int32)
    share(_find_nonzero, rows, g[0].size, g, lengths, nonzero)
    taps = np.ascontiguousarray(W.transpose(2, 3, 0, 1))
    arguments = (g, lengths, nonzero, taps, y, bits, mask is not None, rectify, *stride, *first, *dilate)
    share(_sum_products, outsize[0], y[0].size * incoming, *arguments)
    return y


def shared_unpooling_2d(
    g: FloatArray,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Switches,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.shared_unpooling_2d`."""
    y = np.zeros((*outsize, *g.shape[2:]), g.dtype)
    # Windows of one row may reach into the rows of the next, so that channels are shared out and not rows.
    arguments = (np.ascontiguousarray(g), switches[0], y, _bits(mask), mask is not None, rectify)
    share(_unpool, g.shape[2], g[:, :, 0].size, *arguments, ksize[1], *stride, pad[0][0], pad[1][0])
    return y


def _bits(mask: Mask | None) -> Mask:
    return np.zeros(0, np.uint8) if mask is None else np.ascontiguousarray(mask[0])


@compiled
def _is_set(bits, place):
    return (bits[place >> 3] >> np.uint8(place & 7)) & np.uint8(1) != 0


@parted
def _find_nonzero(first, last, g, lengths, nonzero):
    """Lists by pixel and group the channels in which some signal isn't zero."""
    groups = lengths.shape[2]
    part = g.shape[2] // groups
    for row in range(first, last):
        for column in range(g.shape[1]):
            for group in range(groups):
                length = 0
                for channel in range(group * part, (group + 1) * part):
                    for value in g[row, column, channel]:
                        if value != 0:
                            nonzero[row, column, group * part + length] = channel
                            length += 1
                            break
                lengths[row, column, group] = length


@parted
def _sum_products(first, last, g, lengths, nonzero, W, y, bits, masked, rectify, sh, sw, top, left, dh, dw):
    """Makes rows of pixels: for each, all signals' sums over the taps that reach it and the channels that aren't zero there."""
    kh, kw, filters, outgoing = W.shape
    rows, columns, _, count = g.shape
    height, width = y.shape[:2]
    groups = lengths.shape[2]
    incoming = filters // groups
    signals, weights = g.reshape(-1, count), W.reshape(-1, outgoing)
    places, numbers = np.empty(kh * kw * incoming, np.int64), np.empty(kh * kw * incoming, np.int64)
    wanted = np.empty(outgoing, np.int64)
    sums, part = np.empty((RESULTS, count), g.dtype), np.zeros((SIGNALS, count), g.dtype)
    for i in range(first, last):
        for j in range(width):
            for group in range(groups):
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
                        for n in range(lengths[row, column, group]):
                            channel = nonzero[row, column, group * incoming + n]
                            places[found] = (row * columns + column) * filters + channel
                            numbers[found] = (r * kw + c) * filters + channel
                            found += 1
                if not found:
                    continue
                results = 0
                for channel in range(outgoing):
                    if not masked or _is_set(bits, ((group * outgoing + channel) * height + i) * width + j):
                        wanted[results] = channel
                        results += 1
                for start in range(0, results, RESULTS):
                    some = wanted[start : min(start + RESULTS, results)]
                    sums[:] = 0
                    for n in range(0, found, SIGNALS):
                        several = min(SIGNALS, found - n)
                        for m in range(SIGNALS):
                            for k in range(count):
                                part[m, k] = signals[places[n + m], k] if m < several else 0
                        # Written out, for vectors of sums and signals to stay in registers; of missing signals, which are 0,
                        # any weight will do.
                        last = found - 1
                        n0, n1, n2, n3 = (
                            numbers[n],
                            numbers[min(n + 1, last)],
                            numbers[min(n + 2, last)],
                            numbers[min(n + 3, last)],
                        )
                        n4, n5, n6, n7 = (
                            numbers[min(n + 4, last)], numbers[min(n + 5, last)],
                            numbers[min(n + 6, last)], numbers[min(n + 7, last)],
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
                    for n in range(len(some)):
                        target = y[i, j, group * outgoing + some[n]]
                        if rectify:
                            for k in range(count):
                                target[k] = max(sums[n, k], 0)
                        else:
                            for k in range(count):
                                target[k] = sums[n, k]


@parted
def _filter_channels(first, last, g, W, y, bits, masked, rectify, sh, sw, top, left, dh, dw):
    """The same where each channel has a filter of its own."""
    kh, kw, channels = W.shape
    rows, columns, _, count = g.shape
    height, width = y.shape[:2]
    for i in range(first, last):
        for j in range(width):
            for channel in range(channels):
                if masked and not _is_set(bits, (channel * height + i) * width + j):
                    continue
                target = y[i, j, channel]
                for r in range(kh):
                    row = i + top - r * dh
                    if row < 0 or row % sh or row // sh >= rows:
                        continue
                    for c in range(kw):
                        column = j + left - c * dw
                        if column < 0 or column % sw or column // sw >= columns:
                            continue
                        signal, weight = g[row // sh, column // sw, channel], W[r, c, channel]
                        for k in range(count):
                            target[k] += weight * signal[k]
                if rectify:
                    for k in range(count):
                        target[k] = max(target[k], 0)


@parted
def _unpool(first, last, g, switches, y, bits, masked, rectify, kw, sh, sw, top, left):
    rows, columns, _, count = g.shape
    height, width = y.shape[:2]
    for channel in range(first, last):
        for row in range(rows):
            for column in range(columns):
                switch = np.int64(switches[channel, row, column])
                i, j = row * sh - top + switch // kw, column * sw - left + switch % kw
                inside = 0 <= i < height and 0 <= j < width
                if inside and (not masked or _is_set(bits, (channel * height + i) * width + j)):
                    target, signal = y[i, j, channel], g[row, column, channel]
                    for k in range(count):
                        target[k] += signal[k]
        if rectify:
            for i in range(height):
                for j in range(width):
                    target = y[i, j, channel]
                    for k in range(count):
                        target[k] = max(target[k], 0)

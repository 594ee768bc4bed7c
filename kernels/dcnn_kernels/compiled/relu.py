"""Rectifiers, their masks, and the way back by them, a word of bits at a time."""

from __future__ import annotations

import math

import numpy as np

from ..reference import relu as reference
from ..reference.relu import FloatArray, Mask
from .jit import compiled
from .memory import empty
from .team import parted
from .threads import share
from .vectors import WORD, gate, positive_bits, word

#: Elements that a thread takes at a time: whole words, and few enough for the first cache.
CHUNK = 64 * WORD


def relu(x: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.relu`."""
    return clipped_relu(x, math.inf)


def clipped_relu(x: FloatArray, z: float) -> FloatArray:
    """See :func:`dcnn_kernels.clipped_relu`."""
    y = empty(x.shape, x.dtype)
    flat = np.ascontiguousarray(x).reshape(-1)
    share(_clip, math.ceil(flat.size / CHUNK), CHUNK, flat, x.dtype.type(z), y.reshape(-1))
    return y


@parted
def _clip(first, last, x, z, y):
    zero = x.dtype.type(0)
    for item in range(first, last):
        values, clipped = x[item * CHUNK : (item + 1) * CHUNK], y[item * CHUNK : (item + 1) * CHUNK]
        for n in range(len(values)):
            value = values[n]  # NaN is neither
            value = zero if value < zero else value
            clipped[n] = z if value > z else value


def leaky_relu(x: FloatArray, slope: float) -> FloatArray:
    """See :func:`dcnn_kernels.leaky_relu`."""
    return prelu(x, np.array(slope, x.dtype))


def prelu(x: FloatArray, W: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.prelu`."""
    planes = np.ascontiguousarray(x).reshape(math.prod(x.shape[:2]), math.prod(x.shape[2:]))
    y = empty(planes.shape, planes.dtype)
    share(_lean, len(planes), planes.shape[1], planes, W.reshape(-1), y)
    return y.reshape(x.shape)


@parted
def _lean(first, last, x, slopes, y):
    for plane in range(first, last):
        slope, values, leant = slopes[plane % len(slopes)], x[plane], y[plane]
        for n in range(len(values)):
            value = values[n]
            leant[n] = value if value > 0 else slope * value


def relu_mask(x: FloatArray, z: float) -> Mask:
    """See :func:`dcnn_kernels.relu_mask`."""
    flat = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
    mask = np.empty((len(flat), (flat.shape[1] + 7) // 8), np.uint8)
    chunks = math.ceil(flat.shape[1] / CHUNK)
    bound = x.dtype.type(math.nan if z == math.inf else z)  # nothing is as large as NaN
    share(_note, len(flat) * chunks, CHUNK, flat, chunks, bound, mask)
    return mask


@parted
def _note(first, last, x, chunks, z, mask):
    count = x.shape[1]
    for item in range(first, last):
        sample, start = item // chunks, item % chunks * CHUNK
        elements, bits = x[sample], mask[sample]
        stop = min(count, start + CHUNK)
        whole = stop - (stop - start) % WORD
        for n in range(start, whole, WORD):
            positive_bits(bits, n // 8, elements, n, z)
        for n in range(whole, stop, 8):
            byte = 0
            for bit in range(min(8, stop - n)):
                value = elements[n + bit]
                byte |= (value > 0 and not value >= z) << bit
            bits[n // 8] = byte


def relu_reverse(g: FloatArray, mask: Mask | None, rectify: bool, slope: float | FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.relu_reverse`."""
    if mask is not None and not (isinstance(slope, float) and slope == 0):
        return reference.relu_reverse(g, mask, rectify, slope)
    flat = np.ascontiguousarray(g).reshape(len(g), math.prod(g.shape[1:]))
    y = empty(flat.shape, g.dtype)
    chunks = math.ceil(flat.shape[1] / CHUNK)
    share(_gate, len(flat) * chunks, CHUNK, flat, chunks, *bits_of(mask), rectify, y)
    return y.reshape(g.shape)


def bits_of(mask: Mask | None) -> tuple[Mask, bool]:
    """A mask for loops, and whether there is one: one row where all samples share it."""
    if mask is None:
        return np.zeros((1, 0), np.uint8), False
    return np.ascontiguousarray(mask[:1] if mask.strides[0] == 0 and len(mask) else mask), True


@parted
def _gate(first, last, g, chunks, mask, masked, rectify, y):
    for item in range(first, last):
        sample, start = item // chunks, item % chunks * CHUNK
        stop = min(g.shape[1], start + CHUNK)
        pass_gate(g[sample], y[sample], start, start, stop - start, mask[sample % len(mask)], masked, rectify)


@compiled
def pass_gate(g, y, start, bit, count, bits, masked, rectify):
    """Takes ``count`` elements of a signal from ``start`` on through a ReLU whose bits, if it is ``masked``, begin at ``bit``."""
    n = 0
    while n < count:
        if n + WORD <= count and (bit + n) % 8 == 0:
            passing = word(bits, (bit + n) // 8) if masked else ~np.uint64(0)
            gate(y, start + n, g, start + n, passing, rectify)
            n += WORD
            continue
        value, at = g[start + n], bit + n
        passes = not masked or bits[at // 8] >> (at % 8) & 1 != 0
        y[start + n] = 0 if not passes or (rectify and value < 0) else value
        n += 1

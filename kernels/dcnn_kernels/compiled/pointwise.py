"""Convolution by windows of one pixel: one matrix times all pixels of a picture, read and written where they lie."""

from __future__ import annotations

import math

import numpy as np

from ..reference.im2col import FloatArray
from .microkernel import ROWS, VECTOR, VECTORS
from .products import PRODUCTS, Filters, parts_of, row_of_sums
from .rectifier import Rectifier, rectify_line
from .team import parted
from .threads import share

#: Vectors of pixels that meet all filters before the next ones do: their channels stay in the cache.
TOGETHER = 4 * VECTORS


def multiply(y: FloatArray, x: FloatArray, filters: Filters, rectifier: Rectifier) -> None:
    """Fills ``y`` with the filters' sums over the channels of each pixel of ``x``.

    Args:
        y: (B, O, h, w), contiguous, of a vector of pixels at least.
        x: (B, C, h, w), contiguous.
        filters: Of one group, with one tap.
        rectifier: What results go through.
    """
    pixels, block = math.prod(y.shape[2:]), TOGETHER * VECTOR // x.itemsize
    blocks = max(1, pixels // block)  # the last takes what is left over too
    parts = parts_of(len(y) * blocks, filters.made)
    work = block * filters.made * filters.taken // (parts * PRODUCTS)
    steps = filters.made_step, np.arange(filters.taken) * filters.taken_step, np.arange(filters.taken) * pixels
    arrays = y.reshape(*y.shape[:2], pixels), x.reshape(-1), filters.W, filters.bias, rectifier
    share(_multiply, len(y) * blocks * parts, work, *arrays, *steps, blocks, block, parts)


@parted
def _multiply(first, last, y, x, W, bias, rectifier, made_step, weights, terms, blocks, block, parts):
    _, made, pixels = y.shape
    lanes, target, zero = VECTOR // y.itemsize, y.reshape(-1), y.dtype.type(0)
    rows = ROWS if made >= ROWS else 1
    for item in range(first, last):
        part, number, sample = item % parts, item // parts % blocks, item // (parts * blocks)
        top, bottom = made * part // parts, made * (part + 1) // parts
        begin, end = number * block, pixels if number == blocks - 1 else (number + 1) * block
        whole = (end - begin) // lanes * lanes
        # The last vector takes some pixels again, rather than leave any out.
        for start, count in ((begin, whole), (end - lanes, 0 if begin + whole == end else lanes)):
            source, m = sample * len(terms) * pixels + start, top
            while m < bottom and count:
                m = min(m, bottom - rows)
                to = (sample * made + m) * pixels + start
                row_of_sums(rows, W, m * made_step, made_step, weights, x, source, terms, bias, m, target, to, pixels, count)
                m += rows
            for m in range(top, bottom):
                element = m * pixels + start
                rectify_line(target, sample * made * pixels + element, count, zero, rectifier, sample, m, element)

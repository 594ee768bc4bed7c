"""How pictures are laid out, so that each tap of all windows is a run of memory, whatever the stride and the dilation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .jit import compiled
from .microkernel import VECTOR, copy_inside


def planes_of(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B, C, H, W) as (B C, H, W), without a copy if it is contiguous."""
    return np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


@compiled
def inside(count, size, first, stride):
    """The windows n < count for which ``first + n * stride`` is one of ``size`` pixels: from which, and up to which."""
    begin = min(count, max(0, -(first // stride)))
    return begin, max(begin, min(count, -((first - size) // stride)))


@compiled
def lay_out(x, start, count, height, width, layout, size, down, across, rows, columns, top, left):
    """Copies planes' pixels from row ``top`` and column ``left`` on, and zeros where there is none.

    Rows and columns are told apart by their phase, their number modulo the stride. What lies between planes becomes zero.

    Args:
        x: Flat pictures.
        start: Where the first plane begins.
        count: Planes, one behind the other.
        height: Their rows.
        width: Their columns.
        layout: Takes, flat, (planes, row phases, column phases, rows, columns).
        size: Step between planes there, a vector more than they have at least.
        down: Phases of rows.
        across: Phases of columns.
        rows: Rows of a phase.
        columns: Columns of a phase.
        top: May be negative, in the padding.
        left: May be negative.
    """
    lanes, step = VECTOR // x.itemsize, down * width
    for i in range(down):
        first, last = inside(rows, height, top + i, down)
        for j in range(across):
            begin, end = inside(columns, width, left + j, across)
            for plane in range(count):
                to = plane * size + (i * across + j) * rows * columns
                pixel = start + plane * height * width + (top + i) * width + left + j
                for n in range(to, to + first * columns):
                    layout[n] = 0
                # What a vector has too much of is the next row's, whose first vector comes later.
                for n in range((columns - 1) // lanes * lanes if across in (1, 2, 4) else -1, -1, -lanes):
                    if across == 1:
                        for row in range(first, last):
                            copy_inside(1, layout, to + row * columns + n, x, pixel + row * step + n, begin - n, end - n)
                    elif across == 2:
                        for row in range(first, last):
                            copy_inside(2, layout, to + row * columns + n, x, pixel + row * step + 2 * n, begin - n, end - n)
                    else:
                        for row in range(first, last):
                            copy_inside(4, layout, to + row * columns + n, x, pixel + row * step + 4 * n, begin - n, end - n)
                for row in range(first, last if across not in (1, 2, 4) else first):
                    for n in range(columns):
                        layout[to + row * columns + n] = x[pixel + row * step + n * across] if begin <= n < end else 0
                for n in range(to + last * columns, (plane + 1) * size if i + j == down + across - 2 else to + rows * columns):
                    layout[n] = 0

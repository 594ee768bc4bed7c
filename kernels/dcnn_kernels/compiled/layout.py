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
def lay_out(x, start, height, width, layout, to, down, across, rows, columns, top, left):
    """Copies a plane's pixels from row ``top`` and column ``left`` on, and zeros where there is none.

    Rows and columns are told apart by their phase, their number modulo the stride. Up to a vector behind them becomes zero.

    Args:
        x: Flat pictures.
        start: Where the plane begins.
        height: Its rows.
        width: Its columns.
        layout: Takes, flat, (row phases, column phases, rows, columns).
        to: Where that begins.
        down: Phases of rows.
        across: Phases of columns.
        rows: Rows of a phase.
        columns: Columns of a phase.
        top: May be negative, in the padding.
        left: May be negative.
    """
    lanes = VECTOR // x.itemsize
    for i in range(down):
        for j in range(across):
            begin, end = inside(columns, width, left + j, across)
            for row in range(rows):
                source = top + i + row * down
                line = to + ((i * across + j) * rows + row) * columns
                pixel, last = start + source * width + left + j, end if 0 <= source < height else begin
                # What a vector has too much of is the next row's, which comes later.
                if across == 1:
                    for n in range(0, columns, lanes):
                        copy_inside(1, layout, line + n, x, pixel + n, begin - n, last - n)
                elif across == 2:
                    for n in range(0, columns, lanes):
                        copy_inside(2, layout, line + n, x, pixel + 2 * n, begin - n, last - n)
                else:
                    for n in range(columns):
                        layout[line + n] = x[pixel + n * across] if begin <= n < last else 0

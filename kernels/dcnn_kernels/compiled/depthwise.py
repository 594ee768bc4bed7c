"""Convolution of channels that each see one channel only: a plane at a time."""

from __future__ import annotations

import math

from ..geometry import Pair
from ..reference.im2col import FloatArray
from .microkernel import VECTOR
from .products import PRODUCTS, Filters
from .rectifier import Rectifier, write_line
from .team import parted
from .threads import share
from .windows import Taps, sum_windows


def multiply(y: FloatArray, x: FloatArray, filters: Filters, taps: Taps, stride: Pair, rectifier: Rectifier) -> None:
    """Fills ``y`` with windows over ``x``.

    Args:
        y: (B, O, h, w), contiguous.
        x: (B, C, H, W), contiguous.
        filters: Each for one channel taken.
        taps: Of the windows, of at most ``STEPS`` phases of columns.
        stride: Step between windows, of at most ``STEPS`` columns.
        rectifier: What results go through.
    """
    plane = math.prod(y.shape[2:])
    room = x.shape[3] + plane + VECTOR // y.itemsize
    work = plane + plane * filters.made_step // PRODUCTS
    arrays = y, x, filters.W, filters.bias, rectifier
    share(_multiply, len(y) * y.shape[1], work, *arrays, filters.made, stride, taps, room=(room, x.dtype))


@parted
def _multiply(first, last, memory, y, x, W, bias, rectifier, made, stride, taps):
    rows, columns = y.shape[2:]
    height, width = x.shape[2:]
    channels, target, source = y.shape[1], y.reshape(-1), x.reshape(-1)
    size, pixels, each = rows * columns, height * width, len(W) // channels
    memory[:width] = 0
    for plane in range(first, last):
        start, channel, seen = plane * size, plane % channels, plane // made * pixels
        lines, line = (target, start) if rectifier.idle else (memory, width)
        around = height, width, memory, stride, taps, W, channel * each, bias[channel]
        sum_windows(lines, line, rows, columns, source, seen, *around)
        if not rectifier.idle:
            write_line(target, start, memory, width, size, y.dtype.type(0), rectifier, plane // channels, channel, channel * size)

"""Windows of a picture as the columns of a matrix, and back: the way from convolution to matrix product.

Both directions go tap by tap: one tap of all windows is the picture itself, shifted and stepped. Padding is never stored:
where a tap hangs over the border, it is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Slices = tuple[slice, slice]


class Axis(NamedTuple):
    """How windows lie over a picture along one axis.

    Attributes:
        ksize: Taps of a window.
        first: The pixel under the first window's first tap; negative in the padding.
        stride: Step between windows.
        dilate: Step between taps.
    """

    ksize: int
    first: int
    stride: int
    dilate: int


#: Along this axis windows are pixels: nothing is to be gathered or scattered.
IDLE = Axis(1, 0, 1, 1)


def is_idle(axes: tuple[Axis, Axis]) -> bool:
    """Whether windows are pixels, whatever the step between taps that are alone."""
    return all(axis[:3] == IDLE[:3] for axis in axes)


def im2col(picture: FloatArray, columns: FloatArray, axes: tuple[Axis, Axis], top: int = 0) -> None:
    """Writes windows of a picture.

    Args:
        picture: Channels (C, H, W).
        columns: Takes the windows, (C, kh, kw, h, w); rows must follow one another in memory.
        axes: How the windows lie by rows and by columns.
        top: The row of windows to begin with.
    """
    flat = _flat(picture) if _runs(picture, columns, axes) else None
    for i, j, inside, seen in _overlaps(columns, picture, axes, top):
        tap = columns[:, i, j]
        if flat is None:
            tap[:, *inside] = picture[:, *seen]
        else:
            here, there = _run(inside, seen, picture.shape[2])
            _flat(tap)[:, here] = flat[:, there]
        _clear_outside(tap, inside)


def col2im(columns: FloatArray, picture: FloatArray, axes: tuple[Axis, Axis], top: int = 0) -> None:
    """Adds windows onto a picture: the adjoint of :func:`im2col`, with its arguments. May overwrite ``columns``."""
    flat = _flat(picture) if _runs(picture, columns, axes) else None
    for i, j, inside, seen in _overlaps(columns, picture, axes, top):
        tap = columns[:, i, j]
        if flat is None:
            picture[:, *seen] += tap[:, *inside]
        else:
            _clear_outside(tap, inside)
            here, there = _run(inside, seen, picture.shape[2])
            flat[:, there] += _flat(tap)[:, here]


def _overlaps(
    columns: FloatArray, picture: FloatArray, axes: tuple[Axis, Axis], top: int
) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yields for each tap its row and column, the windows in which it lies inside the picture, and the pixels they see."""
    down, across = axes
    for i in range(down.ksize):
        first = down.first + top * down.stride + i * down.dilate
        rows = _overlap(columns.shape[3], picture.shape[1], first, down.stride)
        for j in range(across.ksize):
            places = _overlap(columns.shape[4], picture.shape[2], across.first + j * across.dilate, across.stride)
            yield i, j, (rows[0], places[0]), (rows[1], places[1])


def _overlap(count: int, size: int, first: int, stride: int) -> Slices:
    """The windows n < count for which ``first + n * stride`` is one of ``size`` pixels, and those pixels."""
    begin = min(count, max(0, -(first // stride)))
    end = max(begin, min(count, -((first - size) // stride)))
    pixel = first + begin * stride
    return slice(begin, end), slice(pixel, pixel + (end - begin - 1) * stride + 1, stride) if begin < end else slice(0, 0)


def _runs(picture: FloatArray, columns: FloatArray, axes: tuple[Axis, Axis]) -> bool:
    """Whether a tap's windows follow one another in memory as their pixels do, so that all rows can be taken in one run."""
    itemsize, width = picture.itemsize, picture.shape[2]
    unit = all(axis.stride == 1 for axis in axes)
    return unit and columns.shape[4] == width and picture.strides[1:] == (width * itemsize, itemsize)


def _run(inside: Slices, seen: Slices, width: int) -> Slices:
    """The run from the first to the last window inside, and that of their pixels.

    Between two rows, the windows that hang over the border take pixels of the next row: they must be cleared.
    """
    (rows, across), (top, left) = inside, (seen[0].start, seen[1].start)
    height, breadth = rows.stop - rows.start, across.stop - across.start
    length = (height - 1) * width + breadth if height and breadth else 0
    here, there = rows.start * width + across.start, top * width + left
    return slice(here, here + length), slice(there, there + length)


def _clear_outside(tap: FloatArray, inside: Slices) -> None:
    rows, across = inside
    for outside in (slice(0, rows.start), slice(rows.stop, tap.shape[1])):
        if outside.start < outside.stop:
            tap[:, outside] = 0
    for outside in (slice(0, across.start), slice(across.stop, tap.shape[2])):
        if outside.start < outside.stop:
            tap[:, rows, outside] = 0


def _flat(channels: FloatArray) -> FloatArray:
    """Pixels in one row, always a view: rows must follow one another."""
    return channels.reshape(len(channels), -1)

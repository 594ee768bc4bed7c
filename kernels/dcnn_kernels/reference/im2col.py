"""Windows of a picture as the columns of a matrix, and back: the way from convolution to matrix product.

Both directions go tap by tap: a tap (i, j) of all windows is the picture itself, shifted and stepped. Pixels in the padding
are never stored: where a tap hangs over the border, its columns are zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..geometry import Pair

FloatArray = npt.NDArray[np.floating]
Slices = tuple[slice, slice]


def im2col(picture: FloatArray, columns: FloatArray, offset: Pair, stride: Pair, dilate: Pair) -> None:
    """Writes windows of a picture.

    Args:
        picture: Channels (C, H, W).
        columns: Takes the windows, C-contiguous (C, kh, kw, h, w).
        offset: Row and column of the picture under the first window's first tap; negative in the padding.
        stride: Step between windows.
        dilate: Step between taps.
    """
    flat = _flat(picture) if _runs(picture, columns, stride) else None
    for i, j, inside, seen in _taps(columns.shape[1:], picture.shape[1:], offset, stride, dilate):
        tap = columns[:, i, j]
        if flat is None:
            tap[:, *inside] = picture[:, *seen]
        else:
            here, there = _run(inside, seen, picture.shape[2])
            _flat(tap)[:, here] = flat[:, there]
        _clear_outside(tap, inside)


def col2im(columns: FloatArray, picture: FloatArray, offset: Pair, stride: Pair, dilate: Pair) -> None:
    """Adds windows onto a picture: the adjoint of :func:`im2col`, with its arguments; may overwrite ``columns``."""
    flat = _flat(picture) if _runs(picture, columns, stride) else None
    for i, j, inside, seen in _taps(columns.shape[1:], picture.shape[1:], offset, stride, dilate):
        tap = columns[:, i, j]
        if flat is None:
            picture[:, *seen] += tap[:, *inside]
        else:
            _clear_outside(tap, inside)
            here, there = _run(inside, seen, picture.shape[2])
            flat[:, there] += _flat(tap)[:, here]


def _taps(
    window: tuple[int, ...], picture: tuple[int, ...], offset: Pair, stride: Pair, dilate: Pair
) -> Iterator[tuple[int, int, Slices, Slices]]:
    """Yields for each tap: its row, its column, the windows in which it lies inside the picture, the pixels they see."""
    kh, kw, h, w = window
    for i in range(kh):
        rows = _overlap(h, picture[0], offset[0] + i * dilate[0], stride[0])
        for j in range(kw):
            columns = _overlap(w, picture[1], offset[1] + j * dilate[1], stride[1])
            yield i, j, (rows[0], columns[0]), (rows[1], columns[1])


def _overlap(count: int, size: int, offset: int, stride: int) -> Slices:
    """The windows n < count for which ``offset + n * stride`` is one of ``size`` pixels, and those pixels."""
    first = max(0, -(offset // stride))
    end = max(first, min(count, -((offset - size) // stride)))
    return slice(first, end), slice(offset + first * stride, max(0, offset + (end - 1) * stride + 1), stride)


def _runs(picture: FloatArray, columns: FloatArray, stride: Pair) -> bool:
    """Whether a tap's windows follow one another in memory as their pixels do, so that rows can be taken in one run."""
    itemsize, width = picture.itemsize, picture.shape[2]
    return stride == (1, 1) and columns.shape[-1] == width and picture.strides[1:] == (width * itemsize, itemsize)


def _run(inside: Slices, seen: Slices, width: int) -> Slices:
    """The run from the first to the last window inside, and that of their pixels.

    Between the rows, what hangs over the right border takes the next row's first pixels: those columns must be cleared.
    """
    (rows, columns), (top, left) = inside, (seen[0].start, seen[1].start)
    heights, widths = rows.stop - rows.start, columns.stop - columns.start
    length = (heights - 1) * width + widths if heights and widths else 0
    here, there = rows.start * width + columns.start, top * width + left
    return slice(here, here + length), slice(there, there + length)


def _clear_outside(tap: FloatArray, inside: Slices) -> None:
    rows, columns = inside
    for outside in (slice(0, rows.start), slice(rows.stop, tap.shape[1])):
        if outside.start < outside.stop:
            tap[:, outside] = 0
    for outside in (slice(0, columns.start), slice(columns.stop, tap.shape[2])):
        if outside.start < outside.stop:
            tap[:, rows, outside] = 0


def _flat(channels: FloatArray) -> FloatArray:
    return channels.reshape(len(channels), -1)

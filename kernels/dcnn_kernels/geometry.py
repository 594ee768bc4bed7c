"""Integers only: how windows lie over a picture, and what sizes follow.

Along one axis, a window of ``ksize`` taps ``dilate`` apart starts at ``index * stride - pad_before``. The output sizes
are those of Chainer (``get_conv_outsize``, ``get_deconv_outsize``), with the two sides' pads told apart, as TensorFlow's
SAME padding needs.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: An integer for both axes, or one for rows and one for columns.
PairLike = int | Sequence[int]
#: An integer, (rows, columns), or ((top, bottom), (left, right)).
PadLike = int | Sequence[int] | Sequence[Sequence[int]]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def _integer(name: str, value: object, minimum: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be of integers, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def pair(name: str, value: PairLike, minimum: int = 1) -> Pair:
    """Returns ``value`` as (rows, columns).

    Args:
        name: The argument's name, for the message.
        value: An integer for both, or two integers.
        minimum: The smallest value allowed.

    Raises:
        TypeError: Not integers.
        ValueError: Not one or two of them, or one below ``minimum``.
    """
    # This is done several times at every call of a primitive; to ask whether something is a Sequence takes longer than all else.
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int and min(value) >= minimum:
        return value
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name} must be one integer or two, got {value!r}")
        return _integer(name, value[0], minimum), _integer(name, value[1], minimum)
    number = _integer(name, value, minimum)
    return number, number


def pads(value: PadLike) -> Pads:
    """Returns a padding as ((top, bottom), (left, right)).

    Args:
        value: An integer for all four sides, (rows, columns), or ((top, bottom), (left, right)).

    Raises:
        TypeError: Not integers.
        ValueError: Another form, or a negative pad.
    """
    if isinstance(value, (tuple, Sequence)) and len(value) == 2 and any(isinstance(side, (tuple, Sequence)) for side in value):
        rows, columns = value
        return pair("pad", rows, 0), pair("pad", columns, 0)
    rows, columns = pair("pad", value, 0)  # type: ignore[arg-type]
    return (rows, rows), (columns, columns)


def output_size(size: int, ksize: int, stride: int, pad: Pair, dilate: int = 1, cover_all: bool = False) -> int:
    """Number of windows along one axis.

    Args:
        size: Extent of the picture.
        ksize: Taps of the window.
        stride: Step between windows.
        pad: Padding before and after.
        dilate: Step between taps.
        cover_all: Whether a last window may run over the end so that every pixel is seen, as in Chainer's pooling.

    Returns:
        The number of windows.

    Raises:
        ValueError: The window is larger than the padded picture.
    """
    extent = dilate * (ksize - 1) + 1
    room = size + pad[0] + pad[1] - extent
    if cover_all:
        room += stride - 1
    count = room // stride + 1
    if count < 1:
        raise ValueError(
            f"a window of extent {extent} (ksize {ksize}, dilate {dilate}) is larger than the picture's {size} pixels "
            f"with padding {pad}"
        )
    return count


def output_shape(
    shape: Sequence[int], ksize: Pair, stride: Pair, pad: Pads, dilate: Pair = (1, 1), cover_all: bool = False
) -> Pair:
    """(rows, columns) of windows over a picture whose last two axes are (H, W); see :func:`output_size`."""
    height, width = shape[-2:]
    return (
        output_size(height, ksize[0], stride[0], pad[0], dilate[0], cover_all),
        output_size(width, ksize[1], stride[1], pad[1], dilate[1], cover_all),
    )


def check_window_counts(
    name: str, shape: Sequence[int], picture_name: str, picture: Pair, ksize: Pair, stride: Pair, pad: Pads
) -> None:
    """Checks that a signal has as many windows as a pooling makes of a picture, with or without ``cover_all``.

    Args:
        name: Name of the signal's argument, for the message.
        shape: The signal's shape (..., rows, columns) of windows.
        picture_name: Name of the argument that gave the picture's size, for the message.
        picture: (rows, columns) of the picture that was pooled.
        ksize: Taps of the window.
        stride: Step between windows.
        pad: Padding before and after.

    Raises:
        ValueError: Another number of windows, or a window larger than the padded picture.
    """
    for axis, along in enumerate(("rows", "columns")):
        covering = output_size(picture[axis], ksize[axis], stride[axis], pad[axis], cover_all=True)
        over = (covering - 1) * stride[axis] + ksize[axis] > picture[axis] + sum(pad[axis])
        counts = {covering, max(1, covering - over)}
        if shape[axis - 2] not in counts:
            raise ValueError(
                f"{name} must have {' or '.join(map(str, sorted(counts)))} {along} of windows for {picture_name} {picture}, "
                f"ksize {ksize}, stride {stride}, pad {pad}; got shape {tuple(shape)}"
            )


def transposed_output_size(size: int, ksize: int, stride: int, pad: Pair, dilate: int = 1) -> int:
    """Smallest extent along one axis from which a convolution makes ``size`` windows.

    Raises:
        ValueError: The padding leaves no pixel.
    """
    extent = stride * (size - 1) + dilate * (ksize - 1) + 1 - pad[0] - pad[1]
    if extent < 1:
        raise ValueError(f"padding {pad} leaves no pixel of {size} windows with ksize {ksize}, stride {stride}, dilate {dilate}")
    return extent


class Window(NamedTuple):
    """How a layer's outputs look at its inputs: all that receptive fields and changed regions need.

    Attributes:
        ksize: Taps (rows, columns).
        stride: Step between windows.
        pad: ((top, bottom), (left, right)).
        dilate: Step between taps.
        cover_all: Whether a last window may run over the end.
    """

    ksize: Pair
    stride: Pair = (1, 1)
    pad: Pads = ((0, 0), (0, 0))
    dilate: Pair = (1, 1)
    cover_all: bool = False


class Region(NamedTuple):
    """A rectangle of a map; one that hangs over the border has places outside.

    Attributes:
        top: First row.
        left: First column.
        bottom: The row behind the last.
        right: The column behind the last.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> Pair:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def moved(self, down: int, right: int) -> Region:
        """The region so many rows further down and columns further right."""
        return Region(self.top + down, self.left + right, self.bottom + down, self.right + right)


def seen_region(region: Region, window: Window) -> Region:
    """The input region that an output region sees, padding included.

    Args:
        region: Places of the output.
        window: How the layer's outputs look at its inputs.

    Returns:
        From the first window's first tap to the last window's last; it may hang over the border.
    """
    (top, left), (bottom, right) = (
        [at * stride - pad[0] for at, stride, pad in zip(ends, window.stride, window.pad, strict=True)]
        for ends in ((region.top, region.left), (region.bottom - 1, region.right - 1))
    )
    down, across = (dilate * (ksize - 1) + 1 for dilate, ksize in zip(window.dilate, window.ksize, strict=True))
    return Region(top, left, bottom + down, right + across)


def joined_region(one: Region, other: Region) -> Region:
    """The smallest region that holds both."""
    return Region(min(one.top, other.top), min(one.left, other.left), max(one.bottom, other.bottom), max(one.right, other.right))


def occlusion_windows(shape: Pair, ksize: PairLike, stride: PairLike = 1, windows: str = "centered") -> npt.NDArray[np.int64]:
    """Places of an occluder slid over a picture.

    Args:
        shape: (H, W) of the picture.
        ksize: Rows and columns of the occluder.
        stride: Step between places.
        windows: ``"centered"``: centred on every stride-th pixel from the first and clipped at the border (an even window
            reaches one pixel further down and right); ``"inside"``: whole windows only.

    Returns:
        int64 array of shape (rows, columns, 4): top, left, bottom, right; bottom and right are exclusive.

    Raises:
        ValueError: An unknown ``windows``, a zero-size picture, or a window larger than the picture.
    """
    (height, width), (rows, columns), (down, right) = shape, pair("ksize", ksize), pair("stride", stride)
    if height < 1 or width < 1:
        raise ValueError(f"the picture must have pixels, got {height}x{width}")
    if rows > height or columns > width:
        raise ValueError(f"an occluder of {rows}x{columns} is larger than the picture of {height}x{width}")
    if windows == "centered":
        tops = np.arange(0, height, down) - (rows - 1) // 2
        lefts = np.arange(0, width, right) - (columns - 1) // 2
    elif windows == "inside":
        tops = np.arange(0, height - rows + 1, down)
        lefts = np.arange(0, width - columns + 1, right)
    else:
        raise ValueError(f"windows must be 'centered' or 'inside', got {windows!r}")
    places = np.empty((len(tops), len(lefts), 4), np.int64)
    places[..., 0] = np.maximum(tops, 0)[:, None]
    places[..., 1] = np.maximum(lefts, 0)
    places[..., 2] = np.minimum(tops + rows, height)[:, None]
    places[..., 3] = np.minimum(lefts + columns, width)
    return places


def affected_windows(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], count: int, ksize: int, stride: int, before: int, dilate: int = 1
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Windows along one axis that span any of some pixels: the outputs that change with them.

    Args:
        start: First pixels, int64 of any shape.
        stop: Ends of the pixels, exclusive, of the same shape; where they don't exceed ``start``, there are no pixels.
        count: Number of windows.
        ksize: Taps of the window.
        stride: Step between windows.
        before: Padding before the first pixel.
        dilate: Step between taps. Windows whose taps all step over the pixels are among the answer.

    Returns:
        First windows and ends, exclusive; (0, 0) where no window sees a pixel.
    """
    first = np.maximum(-((dilate * (ksize - 1) - start - before) // stride), 0)
    last = np.minimum((stop - 1 + before) // stride + 1, count)
    none = (stop <= start) | (last <= first)
    return np.where(none, 0, first), np.where(none, 0, last)

"""The same values in another shape or order, or a part of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import PadLike, Pair, PairLike, Window, pads, pair
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


def flat_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Samples and features, of an empty batch too, where ``reshape(len(x), -1)`` fails."""
    return shape[0], math.prod(shape[1:])


class TraceableFlatten(TraceableNode):
    """(B, C, H, W) to (B, C·H·W); back by reshaping."""

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, flat_shape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(flat_shape(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(len(signal), *record[1:])

    def response(self) -> responses.Response:
        """The change itself, in a row."""
        return responses.Flattened(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"


class TraceableReshape(TraceableNode):
    """The same values in another shape; back by reshaping.

    Args:
        shape: The shape of one sample, without the batch axis; one of its sizes may be -1.
        kept: How many axes at the end stay as they are, whatever their sizes; ``shape`` doesn't hold them.
        before: How many axes of a sample at the start stay likewise.
    """

    shares_record = True

    def __init__(self, shape: Sequence[int], kept: int = 0, before: int = 0) -> None:
        self.shape, self.kept, self.before = tuple(shape), kept, before

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, self._outshape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(self._outshape(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(len(signal), *record[1:])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"

    def _outshape(self, inshape: tuple[int, ...]) -> tuple[int, ...]:
        # NumPy can't tell what -1 stands for in an empty batch.
        start, end = 1 + self.before, len(inshape) - self.kept
        changed, known = math.prod(inshape[start:end]), math.prod(size for size in self.shape if size != -1)
        return (*inshape[:start], *(changed // known if size == -1 else size for size in self.shape), *inshape[end:])


class TraceableTranspose(TraceableNode):
    """Axes in another order; back in the old one.

    Args:
        axes: The input's axes in the output's order; the batch axis, 0, stays first.
    """

    shares_record = True

    def __init__(self, axes: Sequence[int]) -> None:
        if sorted(axes) != list(range(len(axes))) or axes[0] != 0:
            raise ValueError(f"axes must be 0 and then the others in some order, got {tuple(axes)}")
        self.axes = tuple(axes)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``transpose``."""
        return F.transpose(x, self.axes)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x.transpose(self.axes), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The old order."""
        return signal.transpose([self.axes.index(axis) for axis in range(len(self.axes))])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "transposed"


class TraceableSlice(TraceableNode):
    """A part of each sample; back, the rest gets zeros.

    Args:
        slices: A slice, with a step above zero if any, for each axis of a sample, from the channels on; axes at the end may be
            left out. An integer takes one place and drops the axis.

    Raises:
        ValueError: A step below one.
    """

    shares_record = True

    def __init__(self, slices: Sequence[slice | int]) -> None:
        if any(isinstance(part, slice) and part.step is not None and part.step < 1 for part in slices):
            raise ValueError(f"slices must have steps of at least 1, got {slices!r}")
        # As plain numbers, so that a recording can tell whether they have changed.
        self.places = tuple((part.start, part.stop, part.step) if isinstance(part, slice) else part for part in slices)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item``."""
        return chainer.as_variable(x)[self._index(x.shape)]

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x[self._index(x.shape)], x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Zeros around the signal."""
        back = array_module(signal).zeros((len(signal), *record[1:]), signal.dtype)
        back[self._index(record)] = signal
        return back

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "zeros around it"

    def _index(self, shape: tuple[int, ...]) -> tuple[slice | int, ...]:
        return (slice(None), *(slice(*place) if isinstance(place, tuple) else place for place in self.places))


class TraceablePiece(TraceableSlice):
    """One of several pieces of each sample along an axis, of which the last may be smaller; back, the rest gets zeros.

    Args:
        axis: The axis, counted from 0, the batch, which isn't it.
        number: Which piece, from 0 on.
        pieces: How many there are.
    """

    def __init__(self, axis: int, number: int, pieces: int) -> None:
        self.axis, self.number, self.pieces = axis, number, pieces

    def _index(self, shape: tuple[int, ...]) -> tuple[slice | int, ...]:
        size = -(-shape[self.axis] // self.pieces)
        return (*[slice(None)] * self.axis, slice(self.number * size, (self.number + 1) * size))


class TraceableChannels(TraceableNode):
    """Channels in another order, some of them or some twice; back, each gets the sum of what it became.

    Args:
        order: Number of the input's channel, for each of the output's.
    """

    shares_record = True
    window = Window((1, 1))

    def __init__(self, order: Sequence[int]) -> None:
        self.order = tuple(order)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item``."""
        return chainer.as_variable(x)[:, list(self.order)]

    def record(self, x: Array) -> tuple[Array, int]:
        """Keeps the number of channels."""
        return x[:, list(self.order)], x.shape[1]

    def reverse(self, signal: Array, record: int, rule: Rule) -> Array:
        """The adjoint."""
        back = array_module(signal).zeros((len(signal), record, *signal.shape[2:]), signal.dtype)
        if len(set(self.order)) == len(self.order):
            back[:, list(self.order)] = signal
        else:
            for place, channel in enumerate(self.order):
                back[:, channel] += signal[:, place]
        return back

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "channels put back"


class TraceableStretch(TraceableNode):
    """Axes of one place stretched to more; back, summed over them.

    Args:
        sizes: Sizes of a sample's axes; -1 leaves one as it is.
    """

    shares_record = True

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``broadcast_to``."""
        return F.broadcast_to(x, self._outshape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return array_module(x).broadcast_to(x, self._outshape(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Sums."""
        stretched = tuple(axis for axis, size in enumerate(record) if axis and size != signal.shape[axis])
        return signal.sum(axis=stretched, keepdims=True)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "summed where it was stretched"

    def _outshape(self, inshape: tuple[int, ...]) -> tuple[int, ...]:
        return (inshape[0], *(own if size == -1 else size for own, size in zip(inshape[1:], self.sizes, strict=True)))


class TraceablePadding2D(TraceableNode):
    """A border of one number around each map; back by cutting it off.

    Args:
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        value: What the border holds.
    """

    shares_record = True

    def __init__(self, pad: PadLike, value: float = 0.0) -> None:
        self.pads, self.value = pads(pad), value

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window((1, 1), pad=self.pads)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``pad``."""
        return F.pad(x, ((0, 0), (0, 0), *self.pads), "constant", constant_values=self.value)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return array_module(x).pad(x, ((0, 0), (0, 0), *self.pads), constant_values=self.value), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The part within the border."""
        (top, bottom), (left, right) = self.pads
        return signal[:, :, top : signal.shape[2] - bottom, left : signal.shape[3] - right]

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "the border cut off"


class TraceableSamePadding2D(TraceableNode):
    """The border for windows to have ⌈size/stride⌉ places, as TensorFlow's SAME; the odd one behind. Back by cutting it off.

    Args:
        ksize: Taps of the windows, one integer or two.
        stride: Their step, one integer or two.
        dilate: Step between taps, one integer or two.
        value: What the border holds.
    """

    shares_record = True

    def __init__(self, ksize: PairLike, stride: PairLike = 1, dilate: PairLike = 1, value: float = 0.0) -> None:
        self.ksize, self.stride, self.dilate = pair("ksize", ksize), pair("stride", stride), pair("dilate", dilate)
        self.value = value

    def forward(self, x: Any) -> chainer.Variable:
        """As the border that fits."""
        return self._fitting(x.shape[2:]).forward(x)

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        return self._fitting(x.shape[2:]).record(x)[0], x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The part within the border."""
        return self._fitting(record).reverse(signal, None, rule)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "the border cut off"

    def _fitting(self, insize: Pair) -> TraceablePadding2D:
        sides = []
        for size, taps, step, gap in zip(insize, self.ksize, self.stride, self.dilate, strict=True):
            total = max((-(-size // step) - 1) * step + gap * (taps - 1) + 1 - size, 0)
            sides.append((total // 2, total - total // 2))
        return TraceablePadding2D((sides[0], sides[1]), self.value)


class TraceableMirrorPadding2D(TraceableNode):
    """A border of the pixels inside: mirrored, or the outermost ones repeated; back, the border is added to where it came from.

    Args:
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        mode: ``"reflect"``, the mirror in the middle of the outermost pixels, or ``"edge"``, these repeated.

    Raises:
        ValueError: Another mode.
    """

    shares_record = True

    def __init__(self, pad: PadLike, mode: str = "reflect") -> None:
        if mode not in ("reflect", "edge"):
            raise ValueError(f"mode must be 'reflect' or 'edge', got {mode!r}")
        self.pads, self.mode = pads(pad), mode

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item`` of the places."""
        rows, columns = self._places(x.shape[2:])
        return chainer.as_variable(x)[:, :, rows][:, :, :, columns]

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        rows, columns = self._places(x.shape[2:])
        return x[:, :, rows][:, :, :, columns], x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint."""
        for axis, places in zip((2, 3), self._places(record), strict=True):
            before, after = self.pads[axis - 2]
            lines = array_module(signal).moveaxis(signal, axis, 0)
            back = lines[before : len(lines) - after].copy()
            for line in [*range(before), *range(len(lines) - after, len(lines))]:
                back[places[line]] += lines[line]
            signal = array_module(signal).moveaxis(back, 0, axis)
        return signal

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "the border added to where it came from"

    def _places(self, insize: Pair) -> list[list[int]]:
        """Row and column that each of the output shows."""
        if self.mode == "reflect" and any(max(pad) >= size for size, pad in zip(insize, self.pads, strict=True)):
            raise ValueError(f"a mirrored border of {self.pads} must be narrower than the maps, whose size is {insize}")
        return [np.pad(np.arange(size), pad, self.mode).tolist() for size, pad in zip(insize, self.pads, strict=True)]  # type: ignore[call-overload]


class TraceablePixelShuffle(TraceableNode):
    """Blocks of channels spread over rows and columns, (B, C·r², H, W) to (B, C, H·r, W·r) (Shi et al., CVPR 2016), or back.

    On the way back by the opposite.

    Args:
        factor: r.
        inverse: Whether pixels go into channels, which PyTorch calls pixel unshuffle.
        depth_first: Whether the channels that make a block lie C apart, as in ONNX's DCR mode, and not next to each other.
    """

    shares_record = True

    def __init__(self, factor: int, inverse: bool = False, depth_first: bool = False) -> None:
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor!r}")
        self.factor, self.inverse, self.depth_first = factor, inverse, depth_first

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``reshape`` and ``transpose``."""
        return self._moved(chainer.as_variable(x), self.inverse)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return self._moved(x, self.inverse), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The opposite."""
        return self._moved(signal, not self.inverse)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "pixels put back"

    def _moved(self, x: Any, inverse: bool) -> Any:
        by = self.factor
        batch, channels, rows, columns = x.shape
        # Axes of the batch, of both parts of a block, of channels, rows and columns, when they are channels.
        order = (0, 3, 4, 1, 5, 2) if self.depth_first else (0, 1, 4, 2, 5, 3)
        if inverse:
            apart = x.reshape(batch, channels, rows // by, by, columns // by, by)
            blocks_first = apart.transpose(tuple(order.index(axis) for axis in range(6)))
            return blocks_first.reshape(batch, channels * by**2, rows // by, columns // by)
        blocks = (by, by, channels // by**2) if self.depth_first else (channels // by**2, by, by)
        together = x.reshape(batch, *blocks, rows, columns).transpose(order)
        return together.reshape(batch, channels // by**2, rows * by, columns * by)

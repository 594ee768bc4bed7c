"""The same values in another shape or order, or a part of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import PadLike, Window, pads
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
    """

    def __init__(self, shape: Sequence[int], kept: int = 0) -> None:
        self.shape, self.kept = tuple(shape), kept

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, self._outshape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(self._outshape(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"

    def _outshape(self, inshape: tuple[int, ...]) -> tuple[int, ...]:
        # NumPy can't tell what -1 stands for in an empty batch.
        sample, kept = math.prod(inshape[1 : len(inshape) - self.kept]), inshape[len(inshape) - self.kept :]
        known = math.prod(size for size in self.shape if size != -1)
        return (inshape[0], *(sample // known if size == -1 else size for size in self.shape), *kept)


class TraceableTranspose(TraceableNode):
    """Axes in another order; back in the old one.

    Args:
        axes: The input's axes in the output's order; the batch axis, 0, stays first.
    """

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
        slices: A slice without steps for each axis of a sample, from the channels on; axes at the end may be left out. An integer
            takes one place and drops the axis.
    """

    def __init__(self, slices: Sequence[slice | int]) -> None:
        if any(isinstance(part, slice) and part.step not in (None, 1) for part in slices):
            raise ValueError(f"slices must have no steps, got {slices!r}")
        # As plain numbers, so that a recording can tell whether they have changed.
        self.places = tuple((part.start, part.stop) if isinstance(part, slice) else part for part in slices)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item``."""
        return chainer.as_variable(x)[self._index()]

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x[self._index()], x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Zeros around the signal."""
        back = array_module(signal).zeros(record, signal.dtype)
        back[self._index()] = signal
        return back

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "zeros around it"

    def _index(self) -> tuple[slice | int, ...]:
        return (slice(None), *(slice(*place) if isinstance(place, tuple) else place for place in self.places))


class TraceablePadding2D(TraceableNode):
    """A border of one number around each map; back by cutting it off.

    Args:
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        value: What the border holds.
    """

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

"""Sums and the like over some axes of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

from dcnn_kernels.arrays import Array, array_module
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _Reduction(TraceableNode):
    """What layers share that make one number of all along some axes.

    Args:
        axes: The axes, counted from 0, the batch, which isn't one of them.
        keepdims: Whether the axes stay, with a size of one.

    Raises:
        ValueError: The batch is among the axes, or an axis twice.
    """

    shares_record = True

    def __init__(self, axes: Sequence[int], keepdims: bool = False) -> None:
        if not axes or min(axes) < 1 or len(set(axes)) != len(axes):
            raise ValueError(f"axes must be different ones of a sample, from 1 on, got {tuple(axes)}")
        self.axes, self.keepdims = tuple(axes), keepdims

    def _count(self, shape: tuple[int, ...]) -> int:
        """How many numbers make one."""
        return math.prod(shape[axis] for axis in self.axes)

    def _outshape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = (1 if axis in self.axes else size for axis, size in enumerate(shape))
        return tuple(size for axis, size in enumerate(sizes) if self.keepdims or axis not in self.axes)

    def _stretched(self, y: Array, shape: tuple[int, ...]) -> Array:
        """What has the output's shape, in that of the input but for the batch."""
        kept = tuple(1 if axis in self.axes else size for axis, size in enumerate(shape))
        return array_module(y).broadcast_to(y.reshape(len(y), *kept[1:]), (len(y), *shape[1:]))


class TraceableSum(_Reduction):
    """Sum over some axes; back, each summand gets the signal."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``sum``."""
        return F.sum(x, axis=self.axes, keepdims=self.keepdims)

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.sum(axis=self.axes, keepdims=self.keepdims), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """The signal, everywhere."""
        return self._stretched(signal, record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"


class TraceableMean(_Reduction):
    """Mean over some axes; back, the signal is shared out evenly."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average``."""
        return F.average(x, axis=self.axes, keepdims=self.keepdims)

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.mean(axis=self.axes, keepdims=self.keepdims), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """A share of the signal, everywhere."""
        return self._stretched(signal / self._count(record), record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


class TraceableVariance(_Reduction):
    """Variance over some axes; back by its gradient in every method, 2·g·(x - mean)/(n - correction).

    Args:
        axes: The axes, counted from 0, the batch, which isn't one of them.
        keepdims: Whether the axes stay, with a size of one.
        correction: What the number of values n is lessened by: 0, or 1 for an unbiased estimate.
    """

    def __init__(self, axes: Sequence[int], keepdims: bool = False, correction: int = 0) -> None:
        super().__init__(axes, keepdims)
        self.correction = correction

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``average`` and ``sum``."""
        centred = x - F.broadcast_to(F.average(x, axis=self.axes, keepdims=True), x.shape)
        return F.sum(F.square(centred), axis=self.axes, keepdims=self.keepdims) / self._divisor(x.shape)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the distances from the mean."""
        centred = x - x.mean(axis=self.axes, keepdims=True)
        return (centred * centred).sum(axis=self.axes, keepdims=self.keepdims) / self._divisor(x.shape), centred

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The gradient."""
        return self._stretched(signal * (2 / self._divisor(record.shape)), record.shape) * record

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"

    def _divisor(self, shape: tuple[int, ...]) -> int:
        return self._count(shape) - self.correction


class TraceableNorm(_Reduction):
    """Root of the sum of squares over some axes; back by its gradient in every method, g·x/y, and zero where all is zero."""

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``sum`` and ``sqrt``."""
        return F.sqrt(F.sum(F.square(x), axis=self.axes, keepdims=self.keepdims))

    def record(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps the input and the output."""
        y = array_module(x).sqrt((x * x).sum(axis=self.axes, keepdims=self.keepdims))
        return y, (x, y)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> Array:
        """The gradient."""
        x, y = record
        return self._stretched(signal / (y + (y == 0)), x.shape) * x

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"


class TraceableMaximum(_Reduction):
    """Maximum over some axes; back, the signal goes to where the maximum is, to the first in row order of several."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item`` of the places of the maxima."""
        x = chainer.as_variable(x)
        rows = F.reshape(F.transpose(x, self._order(x.ndim)), (-1, self._count(x.shape)))
        y = F.select_item(rows, rows.array.argmax(axis=1).astype("i"))
        return F.reshape(y, self._outshape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[Array, tuple[int, ...]]]:
        """Keeps where the maxima are, and the input's shape."""
        outshape = self._outshape(x.shape)
        rows = x.transpose(self._order(x.ndim)).reshape(len(x), math.prod(outshape[1:]), self._count(x.shape))
        return rows.max(axis=2).reshape(outshape), (rows.argmax(axis=2), x.shape)

    def reverse(self, signal: Array, record: tuple[Array, tuple[int, ...]], rule: Rule) -> Array:
        """Zeros around the signal."""
        places, shape = record
        order, xp = self._order(len(shape)), array_module(signal)
        where = xp.arange(self._count(shape)) == places[:, :, None]
        rows = where * signal.reshape(len(signal), places.shape[1], 1)
        kept = rows.reshape(len(signal), *(shape[axis] for axis in order[1:]))
        return kept.transpose([order.index(axis) for axis in range(len(shape))])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "to where the maximum is"

    def _order(self, rank: int) -> tuple[int, ...]:
        """The axes that stay, and then the others."""
        return (*(axis for axis in range(rank) if axis not in self.axes), *sorted(self.axes))

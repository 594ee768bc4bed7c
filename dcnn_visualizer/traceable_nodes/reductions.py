"""Sums and the like over some axes of a sample."""

from __future__ import annotations

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
        count = 1
        for axis in self.axes:
            count *= record[axis]
        return self._stretched(signal / count, record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


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
    """Maximum over some axes; back, it goes to where the maximum is, shared out evenly where several are as large."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``max``."""
        return F.max(x, axis=self.axes, keepdims=self.keepdims)

    def record(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps the input and the output."""
        y = x.max(axis=self.axes, keepdims=self.keepdims)
        return y, (x, y)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> Array:
        """The signal, where the maximum is."""
        x, y = record
        where = (x == self._stretched(y, x.shape)).astype(x.dtype)
        return self._stretched(signal, x.shape) * (where / where.sum(axis=self.axes, keepdims=True))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "to where the maximum is"

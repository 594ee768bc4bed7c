"""Layers of several inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Window
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class Add(TraceableNode):
    """Sum of several inputs of one shape; back, every input gets the signal."""

    shares_record = True
    window = Window((1, 1))

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Chainer's addition."""
        self._check(inputs)
        return F.add(*map(chainer.as_variable, inputs))

    def record(self, *inputs: Array) -> tuple[Array, int]:
        """Keeps how many inputs there were."""
        self._check(inputs)
        total = inputs[0] + inputs[1]
        for x in inputs[2:]:
            total += x
        return total, len(inputs)

    def reverse(self, signal: Array, record: int, rule: Rule) -> tuple[Array, ...]:
        """The signal, for each input."""
        return (signal,) * record

    def response(self) -> responses.Response:
        """The sum of the changes."""
        return responses.Added(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"

    @staticmethod
    def _check(inputs: tuple[Any, ...]) -> None:
        if len({tuple(x.shape) for x in inputs}) != 1:
            raise ValueError(f"the branches of a residual must have one shape, got {[tuple(x.shape) for x in inputs]}")


class BroadcastAdd(TraceableNode):
    """Sum of two inputs, broadcast as NumPy does; back, each gets the signal, summed where it was stretched."""

    shares_record = True

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's sum."""
        return chainer.as_variable(x) + y

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Keeps both shapes."""
        return x + y, (x.shape, y.shape)

    def reverse(self, signal: Array, record: tuple[tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """The signal, for each input."""
        return _summed_to(signal, record[0]), _summed_to(signal, record[1])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"


class Subtract(TraceableNode):
    """Difference of two inputs, broadcast as NumPy does; back, the first gets the signal, the second its negative."""

    shares_record = True

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's difference."""
        return chainer.as_variable(x) - y

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Keeps both shapes."""
        return x - y, (x.shape, y.shape)

    def reverse(self, signal: Array, record: tuple[tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """The signal, and its negative."""
        return _summed_to(signal, record[0]), -_summed_to(signal, record[1])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied, and negated for what is subtracted"


class Multiply(TraceableNode):
    """Product of two inputs, broadcast as NumPy does: a map and its gate, as in squeeze-and-excitation (Hu et al., CVPR 2018).

    Back by the product rule in every method: each factor gets the signal times the other.
    """

    shares_record = True

    def forward(self, x: Any, gate: Any) -> chainer.Variable:
        """Chainer's product."""
        return chainer.as_variable(x) * gate

    def record(self, x: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps both inputs."""
        return x * gate, (x, gate)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> tuple[Array, Array]:
        """The product rule."""
        x, gate = record
        return _product_summed_to(signal, gate, x.shape), _product_summed_to(signal, x, gate.shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "product rule: times the other factor"


class Divide(TraceableNode):
    """Quotient of two inputs, broadcast as NumPy does; back by the quotient rule in every method: g/y, and -g·x/y²."""

    shares_record = True

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's quotient."""
        return chainer.as_variable(x) / y

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps both inputs."""
        return x / y, (x, y)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> tuple[Array, Array]:
        """The quotient rule."""
        x, y = record
        share = signal / y
        return _summed_to(share, x.shape), _summed_to(-share * x / y, y.shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "quotient rule"


class Maximum(TraceableNode):
    """The larger of two inputs, broadcast as NumPy does (maxout: Goodfellow et al., ICML 2013); back to where it came from.

    Of two that are equal, the first counts, as in Chainer.

    Args:
        smaller: Whether to give the smaller one instead.
    """

    shares_record = True

    def __init__(self, smaller: bool = False) -> None:
        self.smaller = smaller

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's ``maximum`` or ``minimum``."""
        return F.minimum(x, y) if self.smaller else F.maximum(x, y)

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[Array, tuple[int, ...], tuple[int, ...]]]:
        """Keeps where the first input is taken, and both shapes."""
        first = x <= y if self.smaller else x >= y
        return array_module(x).where(first, x, y), (first, x.shape, y.shape)

    def reverse(self, signal: Array, record: tuple[Array, tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """The signal for the one that was taken, zero for the other."""
        first, x_shape, y_shape = record
        return _summed_to(signal * first, x_shape), _summed_to(signal * ~first, y_shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return f"to the {'smaller' if self.smaller else 'larger'} one"


class MatrixMultiply(TraceableNode):
    """Matrix product of two inputs over their last two axes; back by the product rule in every method: g·Yᵀ and Xᵀ·g.

    The axes before them, the batch first, must be the same, or of size one after the batch.
    """

    shares_record = True

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's ``matmul``, of matrices stretched to the same axes before."""
        x, y = chainer.as_variable(x), chainer.as_variable(y)
        before = array_module(x.array).broadcast_shapes(x.shape[:-2], y.shape[:-2])
        return F.matmul(F.broadcast_to(x, (*before, *x.shape[-2:])), F.broadcast_to(y, (*before, *y.shape[-2:])))

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps both inputs."""
        return x @ y, (x, y)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> tuple[Array, Array]:
        """The product rule."""
        x, y = record
        return _summed_to(signal @ y.swapaxes(-1, -2), x.shape), _summed_to(x.swapaxes(-1, -2) @ signal, y.shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "product rule: times the other matrix"


class Attention(chainer.Link, TraceableNode):
    """softmax(q·kᵀ·scale + shift)·v over the last two axes (Vaswani et al., NeurIPS 2017); back by its gradient in every method.

    Of the axes before these, behind the batch, keys and values may have one place where queries have more.

    Args:
        scale: By which the scores are multiplied.
        shift: Added to them, broadcast as NumPy does, such as a bias of positions.
    """

    shares_record = True

    def __init__(self, scale: float, shift: float | Array = 0.0) -> None:
        super().__init__()
        self.scale = scale
        # Registered, so that an array moves between devices with the chain.
        self.add_persistent("shift", shift)

    def forward(self, q: Any, k: Any, v: Any) -> chainer.Variable:
        """By Chainer's ``matmul`` and ``softmax``."""
        k, v = (F.broadcast_to(one, (*q.shape[:-2], *one.shape[-2:])) for one in (k, v))
        return F.matmul(F.softmax(F.matmul(q, k, transb=True) * self.scale + self.shift, axis=-1), v)

    def record(self, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        """Keeps the inputs and the weights of the values."""
        scores = q @ k.swapaxes(-1, -2) * self.scale + self.shift
        weights = array_module(q).exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights @ v, (q, k, v, weights)

    def reverse(self, signal: Array, record: tuple[Array, Array, Array, Array], rule: Rule) -> tuple[Array, Array, Array]:
        """The gradient."""
        q, k, v, weights = record
        h = weights * (signal @ v.swapaxes(-1, -2))
        h = (h - weights * h.sum(axis=-1, keepdims=True)) * self.scale
        back_k, back_v = h.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ signal
        return h @ k, _summed_to(back_k, k.shape), _summed_to(back_v, v.shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"


class StretchTo(TraceableNode):
    """The first input, broadcast to the shape of the second; back, summed where it was stretched, and nothing for the second."""

    shares_record = True

    def forward(self, x: Any, like: Any) -> chainer.Variable:
        """Chainer's ``broadcast_to``."""
        return F.broadcast_to(x, like.shape)

    def record(self, x: Array, like: Array) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Keeps both shapes."""
        return array_module(x).broadcast_to(x, like.shape), (x.shape, like.shape)

    def reverse(self, signal: Array, record: tuple[tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """Sums, and zeros."""
        return _summed_to(signal, record[0]), array_module(signal).zeros_like(signal)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "summed where it was stretched"


class ReshapeLike(TraceableNode):
    """The first input in another shape, some of whose sizes the second has; back reshaped, and nothing for the second.

    Args:
        shape: Sizes of a sample's axes; -1, at most once, for what the others leave.
        axes: Which of them the second input has instead, and on which of its axes.
    """

    shares_record = True

    def __init__(self, shape: Sequence[int], axes: dict[int, int]) -> None:
        self.shape, self.axes = tuple(shape), tuple(axes.items())

    def forward(self, x: Any, like: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, self._outshape(x.shape, like.shape))

    def record(self, x: Array, like: Array) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Keeps both shapes."""
        return x.reshape(self._outshape(x.shape, like.shape)), (x.shape, like.shape)

    def reverse(self, signal: Array, record: tuple[tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """Reshapes, and zeros."""
        x, like = ((len(signal), *shape[1:]) for shape in record)
        return signal.reshape(x), array_module(signal).zeros(like, signal.dtype)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"

    def _outshape(self, inshape: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, ...]:
        sizes = list(self.shape)
        for place, axis in self.axes:
            sizes[place] = like[axis]
        # NumPy can't tell what -1 stands for in an empty batch.
        left = math.prod(inshape[1:]) // math.prod(size for size in sizes if size != -1)
        return (inshape[0], *(left if size == -1 else size for size in sizes))


class Concatenate(TraceableNode):
    """Inputs one after the other along an axis; back, every input gets its part of the signal.

    Args:
        axis: The axis, the channels by default.
    """

    shares_record = True

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    @property
    def window(self) -> Window | None:  # type: ignore[override]
        """How outputs look at inputs; None where places move."""
        return Window((1, 1)) if self.axis == 1 else None

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Chainer's ``concat``."""
        self._check(inputs)
        return F.concat(inputs, axis=self.axis)

    def record(self, *inputs: Array) -> tuple[Array, list[int]]:
        """Keeps each input's size along the axis."""
        self._check(inputs)
        xp = array_module(inputs[0])
        return xp.concatenate(inputs, axis=self.axis), [x.shape[self.axis] for x in inputs]

    def reverse(self, signal: Array, record: list[int], rule: Rule) -> tuple[Array, ...]:
        """Splits the signal along the axis."""
        ends = [sum(record[: i + 1]) for i in range(len(record))]
        before = (slice(None),) * self.axis
        return tuple(signal[(*before, slice(end - size, end))] for size, end in zip(record, ends, strict=True))

    def response(self) -> responses.Response:
        """The changes, one after the other, if it's channels that are joined."""
        return responses.Concatenated(self) if self.axis == 1 else responses.response_of(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "split along the channels" if self.axis == 1 else f"split along axis {self.axis}"

    def _check(self, inputs: tuple[Any, ...]) -> None:
        if len({(*x.shape[: self.axis], *x.shape[self.axis + 1 :]) for x in inputs}) != 1:
            raise ValueError(
                f"the branches of a parallel must agree in all but axis {self.axis}, got {[tuple(x.shape) for x in inputs]}"
            )


class Stack(TraceableNode):
    """Inputs of one shape side by side along a new axis; back, every input gets its place of the signal.

    Args:
        axis: The new axis.
    """

    shares_record = True

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Chainer's ``stack``."""
        return F.stack(inputs, axis=self.axis)

    def record(self, *inputs: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return array_module(inputs[0]).stack(inputs, axis=self.axis), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> tuple[Array, ...]:
        """The signal in slices."""
        return tuple(array_module(signal).moveaxis(signal, self.axis, 0))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return f"split along axis {self.axis}"


def _summed_to(array: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting: sums over the axes along which an array of this shape was stretched, but never the batch."""
    stretched = _stretched(array, shape)
    return array.sum(axis=stretched, keepdims=True) if stretched else array


def _product_summed_to(signal: Array, factor: Array, shape: tuple[int, ...]) -> Array:
    """The same of a signal times what was broadcast to it; NumPy sums such products without writing them down."""
    stretched = _stretched(signal, shape)
    if not stretched or not isinstance(signal, np.ndarray):
        return _summed_to(signal * factor, shape)
    axes = range(signal.ndim)
    sums = np.einsum(signal, axes, factor, axes, [axis for axis in axes if axis not in stretched])
    return np.expand_dims(sums, stretched)


def _stretched(array: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(1, array.ndim) if shape[axis] == 1 != array.shape[axis])

"""Normalizations by the statistics of each sample itself: layer, group and instance normalization, and unit vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _SampleNormalization(chainer.Link, TraceableNode):
    """y = (x - mean)/sqrt(var + eps)·gamma + beta, with the mean and variance of parts of each sample.

    It isn't linear: every method goes back by its gradient, (h - mean(h) - y'·mean(h·y'))/sqrt(var + eps) for h = g·gamma and
    y' = (x - mean)/sqrt(var + eps). Without centring, both means are left out, and var is the mean square.

    Args:
        gamma: Scale, or None for one.
        beta: Shift, or None for zero.
        eps: Added to the variance.
        centred: Whether the mean is taken off; if not, it's root mean square normalization (Zhang and Sennrich, NeurIPS 2019).
    """

    shares_record = True

    def __init__(self, gamma: Array | None, beta: Array | None, eps: float, centred: bool = True) -> None:
        super().__init__()
        self.eps, self.centred = eps, centred
        with self.init_scope():
            self.gamma = None if gamma is None else chainer.Parameter(gamma)
            self.beta = None if beta is None else chainer.Parameter(beta)

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's means."""
        x = chainer.as_variable(x)
        parts = F.reshape(x, self._parts(x.shape))
        if self.centred:
            parts = parts - F.broadcast_to(F.mean(parts, axis=-1, keepdims=True), parts.shape)
        deviation = F.sqrt(F.mean(parts * parts, axis=-1, keepdims=True) + self.eps)
        y = F.reshape(parts / F.broadcast_to(deviation, parts.shape), x.shape)
        y = y if self.gamma is None else y * F.broadcast_to(self._laid_out(self.gamma, y.ndim), y.shape)
        return y if self.beta is None else y + F.broadcast_to(self._laid_out(self.beta, y.ndim), y.shape)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the input."""
        return self.compute(x), x

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"

    def _parts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's shape with one axis, the last, for all that is normalized together."""
        raise NotImplementedError

    def _laid_out(self, weights: Any, rank: int) -> Any:
        """Scales or shifts, so that they broadcast against samples of so many axes, the batch's among them."""
        return weights


class TraceableLayerNormalization(_SampleNormalization):
    """Layer normalization over the last axes (Ba et al., arXiv:1607.06450); back by its gradient in every method.

    Args:
        gamma: Scale (sizes of those axes), or None for one.
        beta: Shift (sizes of those axes), or None for zero.
        eps: Added to the variance.
        axes: How many axes are normalized together.
        centred: Whether the mean is taken off; if not, it's root mean square normalization (Zhang and Sennrich, NeurIPS 2019).
    """

    def __init__(self, gamma: Array | None, beta: Array | None, eps: float = 1e-5, axes: int = 1, centred: bool = True) -> None:
        super().__init__(gamma, beta, eps, centred)
        self.axes = axes

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        gamma, beta = (None if weights is None else weights.array.reshape(-1) for weights in (self.gamma, self.beta))
        parts = x.reshape(self._parts(x.shape))
        return kernels.layer_normalization(parts, gamma, beta, self.eps, self.centred).reshape(x.shape)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The gradient."""
        gamma = None if self.gamma is None else self.gamma.array.reshape(-1)
        x, g = (array.reshape(self._parts(array.shape)) for array in (record, signal))
        return kernels.layer_normalization_gradient(x, g, gamma, self.eps, self.centred).reshape(signal.shape)

    def _parts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: -self.axes], math.prod(shape[-self.axes :]))


class TraceableGroupNormalization(_SampleNormalization):
    """Group normalization (Wu and He, ECCV 2018), over all places of a group of channels; back by its gradient in every method.

    With as many groups as channels it's instance normalization (Ulyanov et al., arXiv:1607.08022).

    Args:
        gamma: Scale (C,), or None for one.
        beta: Shift (C,), or None for zero.
        groups: How many groups the channels fall into.
        eps: Added to the variance.
    """

    def __init__(self, gamma: Array | None, beta: Array | None, groups: int, eps: float = 1e-5) -> None:
        super().__init__(gamma, beta, eps)
        self.groups = groups

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        y = kernels.layer_normalization(x.reshape(self._parts(x.shape)), eps=self.eps).reshape(x.shape)
        if self.gamma is None and self.beta is None:
            return y
        one = array_module(y).ones(y.shape[1], y.dtype)
        gamma, beta = (fill if weights is None else weights.array for weights, fill in ((self.gamma, one), (self.beta, 0 * one)))
        return kernels.batch_normalization(self._maps(y), gamma, beta, mean=0 * one, var=one, eps=0).reshape(x.shape)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The gradient."""
        if self.gamma is not None:
            one = array_module(signal).ones(signal.shape[1], signal.dtype)
            signal = kernels.batch_normalization_adjoint(self._maps(signal), self.gamma.array, var=one, eps=0).reshape(
                signal.shape
            )
        x, g = (array.reshape(self._parts(array.shape)) for array in (record, signal))
        return kernels.layer_normalization_gradient(x, g, eps=self.eps).reshape(signal.shape)

    @staticmethod
    def _maps(x: Array) -> Array:
        return x.reshape(*x.shape[:2], 1, math.prod(x.shape[2:]))

    def _parts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], self.groups, math.prod(shape[1:]) // self.groups)

    def _laid_out(self, weights: Any, rank: int) -> Any:
        return weights.reshape(-1, *[1] * (rank - 2))


class TraceableUnitVectors(TraceableNode):
    """Vectors along an axis over their Euclidean norms; back by its gradient in every method, (g - y·Σ g·y)/norm.

    Args:
        axis: The axis, the channels by default; it isn't the batch.
        eps: What shorter vectors are divided by instead.
    """

    shares_record = True

    def __init__(self, axis: int = 1, eps: float = 1e-12) -> None:
        self.axis, self.eps = axis, eps

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``sum`` and ``sqrt``."""
        squares = F.sum(F.square(x), axis=self.axis, keepdims=True)
        norm = F.sqrt(F.clip(squares, self.eps**2, np.finfo(squares.dtype).max))
        return x / F.broadcast_to(norm, x.shape)

    def record(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps the output and the norms."""
        xp = array_module(x)
        norm = xp.maximum(xp.sqrt((x * x).sum(axis=self.axis, keepdims=True)), x.dtype.type(self.eps))
        return x / norm, (x / norm, norm)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> Array:
        """The gradient; that of vectors which are too short is g/eps."""
        y, norm = record
        along = (signal * y).sum(axis=self.axis, keepdims=True) * (norm > self.eps)
        return (signal - y * along) / norm

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"

"""Fully connected layers; back by the transposed weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode
from dcnn_visualizer.traceable_nodes.shapes import flat_shape

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableLinear(L.Linear, TraceableNode):
    """Fully connected layer; back by the transposed weights, without the bias. Arguments as ``chainer.links.Linear``."""

    shares_record = True

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape; maps are flattened."""
        batch, features = flat_shape(x.shape)
        if self.W.array is None:
            self._initialize_params(features)
        return kernels.linear(x.reshape(batch, features), self.W.array, chainer.as_array(self.b)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Wᵀg."""
        return kernels.linear_adjoint(signal, self.W.array).reshape(len(signal), *record[1:])

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Weighted(self, self.W.array)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed weights, no bias"


class TraceablePlacewiseLinear(L.Linear, TraceableNode):
    """The same fully connected layer at every place: on the last axis, (B, ..., inputs) to (B, ..., outputs).

    Arguments as ``chainer.links.Linear``.
    """

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``linear`` of all places in a row."""
        return L.Linear.forward(self, x, n_batch_axes=x.ndim - 1)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        if self.W.array is None:
            self._initialize_params(x.shape[-1])
        places = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        return kernels.linear(places, self.W.array, chainer.as_array(self.b)).reshape(*x.shape[:-1], len(self.W)), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """Wᵀg at each place."""
        places = signal.reshape(math.prod(signal.shape[:-1]), signal.shape[-1])
        return kernels.linear_adjoint(places, self.W.array).reshape(*signal.shape[:-1], self.W.shape[1])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed weights, no bias"

"""Fully connected layers; back by the transposed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

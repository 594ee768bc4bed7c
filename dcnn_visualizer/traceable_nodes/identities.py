"""Layers that do nothing at inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Window
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableIdentity(TraceableNode):
    """Nothing: a name for what went in."""

    shares_record = True
    window = Window((1, 1))

    def forward(self, x: Any) -> chainer.Variable:
        """The input."""
        return chainer.as_variable(x)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x, None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The identity."""
        return signal

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "identity"


class TraceableDropout(TraceableNode):
    """Dropout; at inference, and on the way back, the identity.

    Args:
        ratio: Share of the elements dropped in training.
    """

    differs_in_training = True
    shares_record = True
    window = Window((1, 1))

    def __init__(self, ratio: float = 0.5) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio must be at least 0 and below 1, got {ratio!r}")
        self.ratio = ratio

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``dropout``."""
        return F.dropout(x, self.ratio)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x, None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The identity."""
        return signal

    def response(self) -> responses.Response:
        """The change itself."""
        return responses.Passed(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "identity"

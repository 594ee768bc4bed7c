"""The ReLU family: a mask bit an element, and ReLU† in its four rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Window
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode, shared_record

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _Rectifier(TraceableNode):
    """What the members of the ReLU family share: a mask bit an element, and ReLU† in its four rules."""

    shares_record = True
    window = Window((1, 1))
    slope: Any = 0.0

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """ReLU†: by the forward sign if ``rule.relu_mask``, then rectified if ``rule.rectify``."""
        mask = record if rule.relu_mask else None
        return kernels.relu_reverse(signal, shared_record(mask, signal), rule.rectify, self._slope())

    def _slope(self) -> Any:
        return self.slope

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        masked = f"g·{self._derivative()}" if rule.relu_mask else "g"
        return f"max({masked}, 0)" if rule.rectify else masked

    def _derivative(self) -> str:
        return "[x>0]"


class TraceableReLU(_Rectifier):
    """max(x, 0)."""

    z = math.inf

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``relu``."""
        return F.relu(x)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps one bit an element."""
        return kernels.relu(x), kernels.relu_mask(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.relu(x)

    def response(self) -> responses.Response:
        """Rectified with the change, less rectified without."""
        return responses.Rectified(self)


class TraceableClippedReLU(_Rectifier):
    """min(max(x, 0), z); ReLU6 by default.

    Args:
        z: The ceiling.
    """

    def __init__(self, z: float = 6.0) -> None:
        if not z > 0:
            raise ValueError(f"z must be above 0, got {z!r}")
        self.z = z

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``clipped_relu``."""
        return F.clipped_relu(x, self.z)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps one bit an element: 0 < x < z."""
        return kernels.clipped_relu(x, self.z), kernels.relu_mask(x, self.z)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.clipped_relu(x, self.z)

    def response(self) -> responses.Response:
        """Rectified with the change, less rectified without."""
        return responses.Rectified(self, z=self.z)

    def _derivative(self) -> str:
        return f"[0<x<{self.z:g}]"


class TraceableLeakyReLU(_Rectifier):
    """x where x > 0, slope·x elsewhere.

    Args:
        slope: The slope below zero.
    """

    def __init__(self, slope: float = 0.2) -> None:
        self.slope = slope

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``leaky_relu``."""
        return F.leaky_relu(x, self.slope)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps one bit an element."""
        return kernels.leaky_relu(x, self.slope), kernels.relu_mask(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.leaky_relu(x, self.slope)

    def response(self) -> responses.Response:
        """Rectified with the change, less rectified without."""
        return responses.Rectified(self, slope=self.slope)

    def _derivative(self) -> str:
        return f"(1 if x>0 else {self.slope:g})"


class TraceablePReLU(L.PReLU, _Rectifier):
    """Leaky ReLU with a learned slope, one for all or one per channel. Arguments as ``chainer.links.PReLU``."""

    def __init__(self, shape: int | tuple[int, ...] = (), init: Any = 0.25) -> None:
        super().__init__(shape, init)
        if self.W.ndim > 1:
            raise ValueError(f"TraceablePReLU has one slope, or one per channel, got shape {shape!r}")

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps one bit an element."""
        return kernels.prelu(x, self.W.array), kernels.relu_mask(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.prelu(x, self.W.array)

    def _slope(self) -> Array:
        return self.W.array

    def _derivative(self) -> str:
        return "(1 if x>0 else W)"

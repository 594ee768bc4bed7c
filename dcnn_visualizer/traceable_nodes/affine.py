"""A fixed affine map, as of normalized pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Window
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableAffine(chainer.Link, TraceableNode):
    """x·scale + shift with fixed numbers, or one number a channel; back by the scale.

    Args:
        scale: A number, or an array that broadcasts against a sample: (C, 1, 1) for one a channel.
        shift: Likewise.
    """

    shares_record = True

    def __init__(self, scale: float | Array = 1.0, shift: float | Array = 0.0) -> None:
        super().__init__()
        # Registered, so that arrays move between devices with the chain.
        self.add_persistent("scale", scale)
        self.add_persistent("shift", shift)

    @property
    def window(self) -> Window | None:  # type: ignore[override]
        """How outputs look at inputs; None where places differ."""
        shapes = [getattr(number, "shape", ()) for number in (self.scale, self.shift)]
        return Window((1, 1)) if all(shape == () or shape[1:] == (1, 1) for shape in shapes) else None

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's product and sum."""
        return chainer.as_variable(x) * self.scale + self.shift

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x * self.scale + self.shift, None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """g·scale."""
        return signal * self.scale

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·scale"

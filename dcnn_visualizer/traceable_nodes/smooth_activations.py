"""Activations that weigh a signal: every method goes back by their derivative."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Window
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _SmoothActivation(TraceableNode):
    """What activations without a corner at zero share: every method goes back by their derivative, g·f'(x).

    Mahendran and Vedaldi's rules are for ReLU, which lets a signal pass or not; these weigh it.

    Attributes:
        function: Its name among those of :func:`dcnn_kernels.activation`.
    """

    function: str
    shares_record = True
    window = Window((1, 1))

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the input."""
        return self.compute(x), x

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.activation(x, self.function, *self._parameters())

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return kernels.activation_gradient(record, signal, self.function, *self._parameters())

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·f'(x)"

    def _parameters(self) -> tuple[float, ...]:
        return ()


class TraceableSigmoid(_SmoothActivation):
    """1 / (1 + exp(-x)); back by its derivative in every method."""

    function = "sigmoid"

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``sigmoid``."""
        return F.sigmoid(x)


class TraceableTanh(_SmoothActivation):
    """The hyperbolic tangent; back by its derivative in every method."""

    function = "tanh"

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``tanh``."""
        return F.tanh(x)


class TraceableSiLU(_SmoothActivation):
    """x·sigmoid(x), also called swish; back by its derivative in every method."""

    function = "silu"

    def forward(self, x: Any) -> chainer.Variable:
        """The input times Chainer's ``sigmoid``."""
        return x * F.sigmoid(x)


class TraceableErf(_SmoothActivation):
    """The error function, of which ONNX files make GELU; back by its derivative in every method."""

    function = "erf"

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``erf``."""
        return F.erf(x)


class TraceableGELU(_SmoothActivation):
    """x·P(X ≤ x) for a standard normal X (Hendrycks and Gimpel, arXiv:1606.08415); back by its derivative in every method."""

    function = "gelu"

    def forward(self, x: Any) -> chainer.Variable:
        """The input times the distribution function, by Chainer's ``erfc``."""
        return 0.5 * x * F.erfc(x * -math.sqrt(0.5))


class TraceableHardSigmoid(_SmoothActivation):
    """min(max(alpha·x + beta, 0), 1); back by its derivative in every method.

    Args:
        alpha: Slope. PyTorch's is 1/6, the default of ONNX and Chainer 0.2.
        beta: Value at zero.
    """

    function = "hard_sigmoid"

    def __init__(self, alpha: float = 1 / 6, beta: float = 0.5) -> None:
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``clip`` of the line."""
        return F.clip(x * self.alpha + self.beta, 0.0, 1.0)

    def _parameters(self) -> tuple[float, ...]:
        return self.alpha, self.beta


class TraceableHardSwish(_SmoothActivation):
    """x·min(max(x/6 + 1/2, 0), 1), of MobileNetV3 (Howard et al., ICCV 2019); back by its derivative in every method."""

    function = "hard_swish"

    def forward(self, x: Any) -> chainer.Variable:
        """The input times Chainer's ``clip`` of the line."""
        return x * F.clip(x / 6 + 0.5, 0.0, 1.0)


class TraceableELU(_SmoothActivation):
    """x where x > 0, alpha·(exp(x) - 1) elsewhere; back by its derivative in every method.

    Args:
        alpha: Minus the limit far below zero.
    """

    function = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``elu``."""
        return F.elu(x, self.alpha)

    def _parameters(self) -> tuple[float, ...]:
        return (self.alpha,)


class TraceableTanhGELU(_SmoothActivation):
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, an approximation of GELU (Hendrycks and Gimpel, arXiv:1606.08415).

    Back by its own derivative in every method.
    """

    SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715

    function = "gelu_tanh"

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``tanh``."""
        return 0.5 * x * (1 + F.tanh(self.SLOPE * (x + self.CUBIC * x * x * x)))


class TraceableSoftplus(_SmoothActivation):
    """log(1 + exp(beta·x)) / beta; back by its derivative in every method.

    Args:
        beta: How sharp the bend at zero is.
    """

    function = "softplus"

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``softplus``."""
        return F.softplus(x, self.beta)

    def _parameters(self) -> tuple[float, ...]:
        return (self.beta,)


class TraceableMish(_SmoothActivation):
    """x·tanh(softplus(x)) (Misra, arXiv:1908.08681); back by its derivative in every method."""

    function = "mish"

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``tanh`` and ``softplus``."""
        return x * F.tanh(F.softplus(x))


class TraceableClip(_SmoothActivation):
    """min(max(x, low), high); back, the signal passes between the bounds, in every method.

    Where ``low`` is zero, it's :class:`TraceableClippedReLU`, which goes back by the methods' rules.

    Args:
        low: The floor.
        high: The ceiling.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"low must be below high, got {low!r} and {high!r}")
        self.low, self.high = low, high

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``clip``."""
        return F.clip(x, self.low, self.high)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).clip(x, self.low, self.high)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The signal where the input lies between the bounds."""
        return signal * ((record > self.low) & (record < self.high))


class TraceablePower(_SmoothActivation):
    """x to a fixed power: squares, roots, reciprocals; back by its derivative in every method.

    Args:
        exponent: The power.
    """

    def __init__(self, exponent: float) -> None:
        self.exponent = float(exponent)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's power."""
        return chainer.as_variable(x) ** self.exponent

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x**self.exponent

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal * (self.exponent * record ** (self.exponent - 1))


class TraceableSoftmax(TraceableNode):
    """exp(x) over its sum along an axis; back by its gradient in every method, y·(g - Σ g·y).

    Args:
        logarithm: Whether to give the logarithm, whose gradient is g - softmax(x)·Σ g.
        axis: The axis, the channels by default; -1 is the last.
    """

    shares_record = True

    def __init__(self, logarithm: bool = False, axis: int = 1) -> None:
        self.logarithm, self.axis = logarithm, axis

    @property
    def window(self) -> Window | None:  # type: ignore[override]
        """How outputs look at inputs; None where they look along rows or columns."""
        return Window((1, 1)) if self.axis == 1 else None

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``softmax`` or ``log_softmax``."""
        return F.log_softmax(x, axis=self.axis) if self.logarithm else F.softmax(x, axis=self.axis)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the output."""
        xp = array_module(x)
        shifted = x - x.max(axis=self.axis, keepdims=True)
        if self.logarithm:
            y = shifted - xp.log(xp.exp(shifted).sum(axis=self.axis, keepdims=True))
        else:
            y = xp.exp(shifted)
            y /= y.sum(axis=self.axis, keepdims=True)
        return y, y

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The gradient."""
        if self.logarithm:
            return signal - array_module(record).exp(record) * signal.sum(axis=self.axis, keepdims=True)
        return record * (signal - (signal * record).sum(axis=self.axis, keepdims=True))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"


class TraceableAbsolute(_SmoothActivation):
    """``|x|``; back by its derivative in every method, the sign."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``absolute``."""
        return F.absolute(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).abs(x)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal * array_module(record).sign(record)


class TraceableExponential(_SmoothActivation):
    """exp(x); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``exp``."""
        return F.exp(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).exp(x)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal * array_module(record).exp(record)


class TraceableLogarithm(_SmoothActivation):
    """The natural logarithm; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``log``."""
        return F.log(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).log(x)

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal / record


class TraceableSoftsign(_SmoothActivation):
    """``x/(1 + |x|)``; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``absolute``."""
        return x / (1 + F.absolute(x))

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x / (1 + array_module(x).abs(x))

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal / (1 + array_module(record).abs(record)) ** 2

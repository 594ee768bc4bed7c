"""Activations that weigh a signal: every method goes back by their derivative."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Window
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _SmoothActivation(TraceableNode):
    """What activations without a corner at zero share: every method goes back by their derivative, g·f'(x).

    Mahendran and Vedaldi's rules are for ReLU, which lets a signal pass or not; these weigh it.
    """

    shares_record = True
    window = Window((1, 1))

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the input."""
        return self.compute(x), x

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """g·f'(x)."""
        return signal * self._derivative(record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·f'(x)"

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        raise NotImplementedError

    def _derivative(self, x: Array) -> Array:
        raise NotImplementedError


def _sigmoid(x: Array) -> Array:
    # Of the negative absolute value, so that the exponential can't overflow.
    xp = array_module(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x < 0, small, 1) / (1 + small)


class TraceableSigmoid(_SmoothActivation):
    """1 / (1 + exp(-x)); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``sigmoid``."""
        return F.sigmoid(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return _sigmoid(x)

    def _derivative(self, x: Array) -> Array:
        return _sigmoid(x) * _sigmoid(-x)


class TraceableTanh(_SmoothActivation):
    """The hyperbolic tangent; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``tanh``."""
        return F.tanh(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).tanh(x)

    def _derivative(self, x: Array) -> Array:
        return 1 - array_module(x).tanh(x) ** 2


class TraceableSiLU(_SmoothActivation):
    """x·sigmoid(x), also called swish; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """The input times Chainer's ``sigmoid``."""
        return x * F.sigmoid(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x * _sigmoid(x)

    def _derivative(self, x: Array) -> Array:
        return _sigmoid(x) * (1 + x * _sigmoid(-x))


class TraceableErf(_SmoothActivation):
    """The error function, of which ONNX files make GELU; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``erf``."""
        return F.erf(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return F.erf(x).array

    def _derivative(self, x: Array) -> Array:
        return x.dtype.type(2 / math.sqrt(math.pi)) * array_module(x).exp(-x * x)


class TraceableGELU(_SmoothActivation):
    """x·P(X ≤ x) for a standard normal X (Hendrycks and Gimpel, arXiv:1606.08415); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """The input times the distribution function, by Chainer's ``erf``."""
        return 0.5 * x * (1 + F.erf(x * (1 / math.sqrt(2))))

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x * self._distribution(x)

    def _derivative(self, x: Array) -> Array:
        density = array_module(x).exp(-x * x / 2) * x.dtype.type(1 / math.sqrt(2 * math.pi))
        return self._distribution(x) + x * density

    @staticmethod
    def _distribution(x: Array) -> Array:
        return (1 + F.erf(x * x.dtype.type(1 / math.sqrt(2))).array) / 2


class TraceableHardSigmoid(_SmoothActivation):
    """min(max(alpha·x + beta, 0), 1); back by its derivative in every method.

    Args:
        alpha: Slope. PyTorch's is 1/6, the default of ONNX and Chainer 0.2.
        beta: Value at zero.
    """

    def __init__(self, alpha: float = 1 / 6, beta: float = 0.5) -> None:
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``clip`` of the line."""
        return F.clip(x * self.alpha + self.beta, 0.0, 1.0)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).clip(x * self.alpha + self.beta, 0, 1)

    def _derivative(self, x: Array) -> Array:
        line = x * self.alpha + self.beta
        return ((line > 0) & (line < 1)) * x.dtype.type(self.alpha)


class TraceableHardSwish(_SmoothActivation):
    """x·min(max(x/6 + 1/2, 0), 1), of MobileNetV3 (Howard et al., ICCV 2019); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """The input times Chainer's ``clip`` of the line."""
        return x * F.clip(x / 6 + 0.5, 0.0, 1.0)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x * array_module(x).clip(x / 6 + 0.5, 0, 1)

    def _derivative(self, x: Array) -> Array:
        xp = array_module(x)
        return xp.where(xp.abs(x) < 3, x / 3 + 0.5, x > 0).astype(x.dtype)


class TraceableELU(_SmoothActivation):
    """x where x > 0, alpha·(exp(x) - 1) elsewhere; back by its derivative in every method.

    Args:
        alpha: Minus the limit far below zero.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``elu``."""
        return F.elu(x, self.alpha)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        xp = array_module(x)
        return xp.where(x > 0, x, self.alpha * xp.expm1(xp.minimum(x, 0)))

    def _derivative(self, x: Array) -> Array:
        xp = array_module(x)
        return xp.where(x > 0, 1, self.alpha * xp.exp(xp.minimum(x, 0)))


class TraceableTanhGELU(_SmoothActivation):
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, an approximation of GELU (Hendrycks and Gimpel, arXiv:1606.08415).

    Back by its own derivative in every method.
    """

    SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``tanh``."""
        return 0.5 * x * (1 + F.tanh(self.SLOPE * (x + self.CUBIC * x * x * x)))

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x * (1 + self._tanh(x)) / 2

    def _derivative(self, x: Array) -> Array:
        tanh = self._tanh(x)
        return (1 + tanh) / 2 + x * (1 - tanh * tanh) * (1 + 3 * self.CUBIC * x * x) * (self.SLOPE / 2)

    def _tanh(self, x: Array) -> Array:
        return array_module(x).tanh(self.SLOPE * (x + self.CUBIC * x * x * x))


class TraceableSoftplus(_SmoothActivation):
    """log(1 + exp(beta·x)) / beta; back by its derivative in every method.

    Args:
        beta: How sharp the bend at zero is.
    """

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``softplus``."""
        return F.softplus(x, self.beta)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return _softplus(x * self.beta) / self.beta

    def _derivative(self, x: Array) -> Array:
        return _sigmoid(x * self.beta)


def _softplus(x: Array) -> Array:
    xp = array_module(x)
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


class TraceableMish(_SmoothActivation):
    """x·tanh(softplus(x)) (Misra, arXiv:1908.08681); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``tanh`` and ``softplus``."""
        return x * F.tanh(F.softplus(x))

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x * array_module(x).tanh(_softplus(x))

    def _derivative(self, x: Array) -> Array:
        tanh = array_module(x).tanh(_softplus(x))
        return tanh + x * (1 - tanh * tanh) * _sigmoid(x)


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

    def _derivative(self, x: Array) -> Array:
        return ((x > self.low) & (x < self.high)).astype(x.dtype)


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

    def _derivative(self, x: Array) -> Array:
        return self.exponent * x ** (self.exponent - 1)


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
    """|x|; back by its derivative in every method, the sign."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``absolute``."""
        return F.absolute(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).abs(x)

    def _derivative(self, x: Array) -> Array:
        return array_module(x).sign(x)


class TraceableExponential(_SmoothActivation):
    """exp(x); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``exp``."""
        return F.exp(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).exp(x)

    def _derivative(self, x: Array) -> Array:
        return array_module(x).exp(x)


class TraceableLogarithm(_SmoothActivation):
    """The natural logarithm; back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``log``."""
        return F.log(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return array_module(x).log(x)

    def _derivative(self, x: Array) -> Array:
        return 1 / x


class TraceableSoftsign(_SmoothActivation):
    """x/(1 + |x|); back by its derivative in every method."""

    def forward(self, x: Any) -> chainer.Variable:
        """By Chainer's ``absolute``."""
        return x / (1 + F.absolute(x))

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return x / (1 + array_module(x).abs(x))

    def _derivative(self, x: Array) -> Array:
        return 1 / (1 + array_module(x).abs(x)) ** 2

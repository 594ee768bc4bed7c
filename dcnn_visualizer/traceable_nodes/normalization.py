"""Normalizations: of batches, and of responses across channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Window
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode, shared_record

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableBatchNormalization(L.BatchNormalization, TraceableNode):
    """Batch normalization over all but the channels; at inference an affine map, whose reverse scales by gamma/sqrt(var + eps).

    Arguments as ``chainer.links.BatchNormalization``.

    Raises:
        ValueError: Statistics other than one per channel are asked for.
    """

    differs_in_training = True
    shares_record = True
    window = Window((1, 1))

    def __init__(self, size: int | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(size, *args, **kwargs)
        if self.axis not in (None, (0,), (0, 2, 3)) or (self.avg_mean is not None and self.avg_mean.ndim != 1):
            raise ValueError(f"TraceableBatchNormalization keeps one mean per channel, got size {size!r}, axis {self.axis!r}")

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing: the weights say all."""
        if self.avg_mean is None:
            self._initialize_params((x.shape[1],))
        return kernels.batch_normalization(x, self._gamma(), self._beta(), self.avg_mean, self.avg_var, self.eps), None

    def affine(self) -> tuple[Array, Array, Array]:
        """What is taken off, what the rest is multiplied by, and what is added then, one a channel each."""
        return self.avg_mean, self.scales(), self._beta()

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Scaled(self, self.scales())

    def scales(self) -> Array:
        """gamma/sqrt(var + eps), one a channel."""
        return self._gamma() / array_module(self.avg_var).sqrt(self.avg_var + self.eps)

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """g·gamma/sqrt(var + eps)."""
        return kernels.batch_normalization_adjoint(signal, self._gamma(), self.avg_var, self.eps)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·gamma/sqrt(var + eps)"

    # Chainer's stand-ins are ones and zeros.

    def _gamma(self) -> Array:
        return self._get_gamma()[0] if self.gamma is None else self.gamma.array

    def _beta(self) -> Array:
        return self._get_beta()[0] if self.beta is None else self.beta.array


class TraceableLocalResponseNormalization(TraceableNode):
    """Local response normalization across channels; back as the identity or by its true gradient, as ``rule.lrn`` says.

    Args:
        n: Channels in the window.
        k: Offset.
        alpha: Scale, not divided by ``n``.
        beta: Exponent.
    """

    shares_record = True
    window = Window((1, 1))

    def __init__(self, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        self.n, self.k, self.alpha, self.beta = n, k, alpha, beta

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``local_response_normalization``."""
        return F.local_response_normalization(x, self.n, self.k, self.alpha, self.beta)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the input, which the true gradient needs."""
        return kernels.local_response_normalization(x, self.n, self.k, self.alpha, self.beta), x

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """Identity, or the gradient."""
        if rule.lrn == "identity":
            return signal
        x = shared_record(record, signal)
        return kernels.local_response_normalization_gradient(x, signal, self.n, self.k, self.alpha, self.beta)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return rule.lrn

"""Layers that make maps larger; back by their adjoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Pair, PairLike, pair
from dcnn_visualizer.traceable_nodes.node import TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableUpsampling2D(TraceableNode):
    """Every pixel repeated, also called upsampling by the nearest neighbour; back by summing what was repeated.

    Args:
        factor: How often, one integer or (rows, columns).
    """

    shares_record = True

    def __init__(self, factor: PairLike) -> None:
        self.factor = pair("factor", factor)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``repeat`` along rows and columns."""
        return F.repeat(F.repeat(x, self.factor[0], axis=2), self.factor[1], axis=3)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x.repeat(self.factor[0], axis=2).repeat(self.factor[1], axis=3), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The sum of each pixel's repetitions."""
        batch, channels, rows, columns = signal.shape
        down, right = self.factor
        return signal.reshape(batch, channels, rows // down, down, columns // right, right).sum(axis=(3, 5))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the repetition"


class TraceableDeconvolution2D(L.Deconvolution2D, TraceableNode):
    """Transposed convolution; back by the convolution with the same weights, without the bias.

    Its arguments are those of Chainer's ``Deconvolution2D``, and one more, by keyword.

    Args:
        *args: As Chainer's.
        extra: (rows, columns) that the output has behind what windows reach, fewer than the stride: PyTorch's ``output_padding``.
        **kwargs: As Chainer's.
    """

    shares_record = True

    def __init__(self, *args: Any, extra: Pair = (0, 0), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extra = extra

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``deconvolution_2d``."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        outsize = self._outsize(x.shape[2:])
        return F.deconvolution_2d(x, self.W, self.b, self.stride, self.pad, outsize, dilate=self.dilate, groups=self.groups)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        window = self.stride, self.pad, self.dilate, self.groups
        outsize = self._outsize(x.shape[2:])
        return kernels.transposed_convolution_2d(x, self.W.array, chainer.as_array(self.b), *window, outsize), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The convolution."""
        return kernels.convolution_2d(signal, self.W.array, None, self.stride, self.pad, self.dilate, self.groups)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "convolution without bias"

    def _outsize(self, insize: Pair) -> Pair | None:
        if None not in self.outsize:
            return self.outsize
        if not any(self.extra):
            return None
        rows, columns = (
            step * (size - 1) + gap * (taps - 1) + 1 - 2 * pad + more
            for step, size, gap, taps, pad, more in zip(
                self.stride, insize, self.dilate, self.W.shape[2:], self.pad, self.extra, strict=True
            )
        )
        return rows, columns

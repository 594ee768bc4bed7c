"""Pooling whose windows depend on the size of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import PadLike, Pads, Pair, PairLike, output_size, pads, pair
from dcnn_visualizer.traceable_nodes.node import TraceableNode
from dcnn_visualizer.traceable_nodes.pooling import TraceableAveragePooling2D, TraceableMaxPooling2D
from dcnn_visualizer.traceable_nodes.resampling import Floats, Resampling2D

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class _SizedPooling2D(TraceableNode):
    """Pooling whose windows depend on the size of the picture: each time, the pooling that fits does the work."""

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """As the pooling that fits."""
        return self._fitting(x.shape[2:]).forward(x)

    def record(self, x: Array) -> tuple[Array, tuple[Pair, Any]]:
        """Keeps the input's (H, W) and what the pooling keeps."""
        y, record = self._fitting(x.shape[2:]).record(x)
        return y, (x.shape[2:], record)

    def reverse(self, signal: Array, record: tuple[Pair, Any], rule: Rule) -> Any:
        """As the pooling that fits."""
        insize, inner = record
        return self._fitting(insize).reverse(signal, inner, rule)

    def _fitting(self, insize: Pair) -> TraceableNode:
        raise NotImplementedError


class TraceableAdaptiveAveragePooling2D(Resampling2D):
    """Average pooling to a number of windows, (B, C, H, W) to (B, C, h, w); back by its adjoint.

    Of n places in a row, window i of m reaches from ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉, as in PyTorch's ``adaptive_avg_pool2d``.

    Args:
        outsize: Windows, one integer or (rows, columns).
    """

    def __init__(self, outsize: PairLike) -> None:
        self.outsize = pair("outsize", outsize)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average`` of whole maps, or its ``tensordot`` with each axis's averages."""
        return F.average(x, axis=(2, 3), keepdims=True) if self.outsize == (1, 1) else super().forward(x)

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        if self.outsize == (1, 1):
            return kernels.global_average_pooling_2d(x)[:, :, None, None], x.shape[2:]
        return super().record(x)

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its window."""
        if self.outsize == (1, 1):
            return kernels.global_average_pooling_2d_adjoint(signal[:, :, 0, 0], record)
        return super().reverse(signal, record, rule)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"

    def _matrix(self, axis: int, size: int) -> Floats:
        matrix = np.zeros((self.outsize[axis], size))
        for window in range(self.outsize[axis]):
            start, stop = window * size // self.outsize[axis], -(-(window + 1) * size // self.outsize[axis])
            matrix[window, start:stop] = 1 / (stop - start)
        return matrix


class TraceableAdaptiveMaxPooling2D(_SizedPooling2D):
    """Max pooling to a number of windows that divides the picture; back by unpooling.

    Args:
        outsize: Windows, one integer or (rows, columns).
    """

    def __init__(self, outsize: PairLike) -> None:
        self.outsize = pair("outsize", outsize)

    def _fitting(self, insize: Pair) -> TraceableMaxPooling2D:
        if any(size % windows for size, windows in zip(insize, self.outsize, strict=True)):
            raise ValueError(f"adaptive max pooling of {insize} to {self.outsize} windows: the sizes must divide")
        return TraceableMaxPooling2D((insize[0] // self.outsize[0], insize[1] // self.outsize[1]))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return TraceableMaxPooling2D(1).describe(rule)


class _CeilPooling2D(_SizedPooling2D):
    """Pooling in the ``ceil_mode`` of PyTorch and ONNX."""

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PadLike = 0) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pads = pads(pad)

    def _window(self, insize: Pair) -> tuple[Pair, Pair, Pads]:
        return self.ksize, self.stride, _ceil_pads(insize, self.ksize, self.stride, self.pads)


class TraceableCeilMaxPooling2D(_CeilPooling2D):
    """Max pooling in the ``ceil_mode`` of PyTorch and ONNX; back by unpooling.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
    """

    def _fitting(self, insize: Pair) -> TraceableMaxPooling2D:
        return TraceableMaxPooling2D(*self._window(insize), cover_all=False)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return TraceableMaxPooling2D(self.ksize).describe(rule)


class TraceableCeilAveragePooling2D(_CeilPooling2D):
    """Average pooling in the ``ceil_mode`` of PyTorch and ONNX, padding not counted; back by its adjoint.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
    """

    def _fitting(self, insize: Pair) -> TraceableAveragePooling2D:
        return TraceableAveragePooling2D(*self._window(insize), count_include_pad=False)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


def _ceil_pads(insize: Pair, ksize: Pair, stride: Pair, pad: Pads) -> Pads:
    """Padding that makes the windows of ``ceil_mode`` fit: the last may run over the end, but starts before it.

    PyTorch and ONNX drop a window that starts behind the picture; Chainer's ``cover_all`` keeps it.
    """
    sides = []
    for size, taps, step, (before, after) in zip(insize, ksize, stride, pad, strict=True):
        count = output_size(size, taps, step, (before, after), cover_all=True)
        if (count - 1) * step >= size + before:
            count -= 1
        sides.append((before, max(0, (count - 1) * step + taps - size - before)))
    return sides[0], sides[1]

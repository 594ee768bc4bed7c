"""Pooling with windows of one size: back by unpooling, or by the adjoint of the average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import PadLike, Pair, PairLike, Window, pads, pair
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode, shared_record, without_pads

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableMaxPooling2D(TraceableNode):
    """Max pooling; back by unpooling, with switches, at the window's centre, or spread over the window.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        cover_all: Whether the last windows may run over the border, as in Chainer.
    """

    shares_record = True

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PadLike = 0, cover_all: bool = True) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pads = pads(pad)
        self.cover_all = cover_all

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window(self.ksize, self.stride, self.pads, cover_all=self.cover_all)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``max_pooling_2d``, after padding by hand where the sides differ."""
        if any(before != after for before, after in self.pads):
            x = F.pad(x, ((0, 0), (0, 0), *self.pads), "constant", constant_values=-math.inf)
            return F.max_pooling_2d(x, self.ksize, self.stride, 0, self.cover_all)
        return F.max_pooling_2d(x, self.ksize, self.stride, tuple(before for before, _ in self.pads), self.cover_all)

    def record(self, x: Array) -> tuple[Array, tuple[Array, Pair]]:
        """Keeps the switches and the input's (H, W)."""
        y, switches = kernels.max_pooling_2d(x, self.ksize, self.stride, self.pads, self.cover_all)
        return y, (switches, x.shape[2:])

    def reverse(
        self, signal: Array, record: tuple[Array, Pair], rule: Rule, mask: Array | None = None, rectify: bool = False
    ) -> Array:
        """Unpooling by ``rule.unpooling``, and on through the ReLU before by ``mask`` and ``rectify``."""
        switches, insize = record
        by_switch = shared_record(switches, signal) if rule.unpooling == "switch" else None
        window = self.ksize, self.stride, self.pads
        return kernels.unpooling_2d(signal, insize, *window, by_switch, rule.unpooling, shared_record(mask, signal), rectify)

    def response(self) -> responses.Response:
        """Maxima with the change, less those without."""
        return responses.MaxPooled(self)

    def unpadded(self) -> TraceableMaxPooling2D:
        """What is outside must be -inf."""
        return without_pads(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        places = {"switch": "by switches", "center": "at the window's centre", "spread": "spread over the window"}
        return f"unpooling {places[rule.unpooling]}"


class TraceableAveragePooling2D(TraceableNode):
    """Average pooling; back by its adjoint.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        count_include_pad: Whether padding counts as zeros, as in Chainer, or not at all.
    """

    shares_record = True

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PadLike = 0, count_include_pad: bool = True) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pads = pads(pad)
        self.count_include_pad = count_include_pad

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window(self.ksize, self.stride, self.pads)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average_pooling_2d``, after padding by hand where the sides differ."""
        if any(before != after for before, after in self.pads):
            y = F.average_pooling_2d(F.pad(x, ((0, 0), (0, 0), *self.pads), "constant"), self.ksize, self.stride)
        else:
            y = F.average_pooling_2d(x, self.ksize, self.stride, tuple(before for before, _ in self.pads))
        if self.count_include_pad:
            return y
        # Each window's share of places inside the picture; a window without any averages to 0.
        ones = array_module(y.array).ones((1, 1, *x.shape[2:]), y.dtype)
        shares = kernels.average_pooling_2d(ones, self.ksize, self.stride, self.pads)
        return y / F.broadcast_to(shares + (shares == 0), y.shape)

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        return kernels.average_pooling_2d(x, self.ksize, self.stride, self.pads, self.count_include_pad), x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its window."""
        return kernels.average_pooling_2d_adjoint(signal, record, self.ksize, self.stride, self.pads, self.count_include_pad)

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.AveragePooled(self, self.count_include_pad)

    def unpadded(self) -> TraceableAveragePooling2D | None:
        """None where a window at the border averages fewer places than the others."""
        return without_pads(self) if self.count_include_pad or self.pads == pads(0) else None

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


class TraceableGlobalAveragePooling2D(TraceableNode):
    """Mean of each map, (B, C, H, W) to (B, C); back by its adjoint."""

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average`` over rows and columns."""
        return F.average(x, axis=(2, 3))

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        return kernels.global_average_pooling_2d(x), x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its map."""
        return kernels.global_average_pooling_2d_adjoint(signal, record)

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Averaged(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"

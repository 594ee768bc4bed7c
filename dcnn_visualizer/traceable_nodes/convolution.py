"""Convolution; back by the transposed convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import PadLike, Pair, PairLike, Window, pads, pair
from dcnn_visualizer import responses
from dcnn_visualizer.traceable_nodes.node import TraceableNode, shared_record, without_pads
from dcnn_visualizer.traceable_nodes.normalization import TraceableBatchNormalization
from dcnn_visualizer.traceable_nodes.pooling import TraceableMaxPooling2D

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableConvolution2D(L.Convolution2D, TraceableNode):
    """Convolution; back by the transposed convolution with the same weights, without the bias.

    Args:
        in_channels: Channels of the input, or None to take them from the first input.
        out_channels: Channels of the output.
        ksize: Taps, one integer or two.
        stride: Step, one integer or two.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        nobias: Whether to leave the bias out.
        initialW: Chainer's initializer of the weights.
        initial_bias: Chainer's initializer of the bias.
        dilate: Step between taps.
        groups: Number of channel groups.
    """

    shares_record = True

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        ksize: PairLike | None = None,
        stride: PairLike = 1,
        pad: PadLike = 0,
        nobias: bool = False,
        initialW: Any = None,
        initial_bias: Any = None,
        *,
        dilate: PairLike = 1,
        groups: int = 1,
    ) -> None:
        self.pads = pads(pad)
        for name, size in (("ksize", ksize), ("stride", stride), ("dilate", dilate)):
            if size is not None:
                pair(name, size)
        symmetric = all(before == after for before, after in self.pads)
        super().__init__(
            in_channels,
            out_channels,
            ksize,
            stride,
            tuple(before for before, _ in self.pads) if symmetric else 0,
            nobias,
            initialW,
            initial_bias,
            dilate=dilate,
            groups=groups,
        )

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window(pair("ksize", self.ksize), pair("stride", self.stride), self.pads, pair("dilate", self.dilate))

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's convolution, after padding by hand where the sides differ."""
        if any(before != after for before, after in self.pads):
            x = F.pad(x, ((0, 0), (0, 0), *self.pads), "constant")
        return super().forward(x)

    def record(
        self, x: Array, z: float | None = None, normalization: TraceableBatchNormalization | None = None
    ) -> tuple[Array, Pair]:
        """Keeps the input's (H, W).

        Given ``normalization``, the output has gone through the one behind, and given ``z``, through the ReLU behind these, which
        clips at ``z``.
        """
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        b, scale, shift = chainer.as_array(self.b), None, None
        if normalization is not None:
            mean, scale, shift = normalization.affine()
            b = -mean if b is None else b - mean
        window = self.stride, self.pads, self.dilate, self.groups
        return kernels.convolution_2d(x, self.W.array, b, *window, z, scale, shift), x.shape[2:]

    def reverse(
        self,
        signal: Array,
        record: Pair,
        rule: Rule,
        channels: list[int] | None = None,
        mask: Array | None = None,
        rectify: bool = False,
        scales: Array | None = None,
    ) -> Array:
        """Wᵀg, and on through the ReLU before by ``mask`` and ``rectify``.

        Given ``channels``, the signal has only those, and is zero in the others. Given ``scales``, one a channel, the signal is
        that at the batch normalization behind, which scales by them.
        """
        W, mask = self.W.array, shared_record(mask, signal)
        if scales is not None and signal.size < W.size:
            signal = signal * (scales if channels is None else scales[channels])[:, None, None]
        elif scales is not None:
            W = self.scaled(scales)
        W = W if channels is None else W[channels]
        return kernels.transposed_convolution_2d(
            signal, W, None, self.stride, self.pads, self.dilate, self.groups, record, mask, rectify
        )

    def scaled(self, scales: Array | None) -> Array:
        """The weights, times a number for each filter."""
        return self.W.array if scales is None else self.W.array * scales[:, None, None, None]

    def reverse_pooled(
        self,
        signal: Array,
        record: Pair,
        pooling: TraceableMaxPooling2D,
        pooled: tuple[Array, Pair],
        pool_mask: Array | None,
        pool_rectify: bool,
        mask: Array | None,
        rectify: bool,
    ) -> Array:
        """The same for a signal at the pooling behind, of which ``pooled`` is the record: unpooled by switches on the way.

        It goes through the ReLU between the two by ``pool_mask`` and ``pool_rectify``.
        """
        switches, insize = pooled
        return kernels.unpooled_transposed_convolution_2d(
            signal,
            shared_record(switches, signal),
            self.W.array,
            insize,
            pooling.ksize,
            pooling.stride,
            pooling.pads,
            shared_record(pool_mask, signal),
            pool_rectify,
            None,
            self.stride,
            self.pads,
            self.dilate,
            self.groups,
            record,
            shared_record(mask, signal),
            rectify,
        )

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Convolved(self, self.W.array, self.groups)

    def unpadded(self) -> TraceableConvolution2D:
        """Shares the weights."""
        return without_pads(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed convolution, no bias"


class TraceableConvolution1D(L.Convolution2D, TraceableNode):
    """Convolution along the last axis, (B, C, n) to (B, C', n'); back by the transposed one, without the bias.

    It's one of maps of a single row: its arguments are those of Chainer's ``Convolution2D``, for windows of one row.
    """

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's convolution."""
        return super().forward(chainer.as_variable(x)[:, :, None])[:, :, 0]

    def record(self, x: Array) -> tuple[Array, int]:
        """Keeps the input's n."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        window = self.stride, self.pad, self.dilate, self.groups
        return kernels.convolution_2d(x[:, :, None], self.W.array, chainer.as_array(self.b), *window)[:, :, 0], x.shape[2]

    def reverse(self, signal: Array, record: int, rule: Rule) -> Array:
        """Wᵀg."""
        window = self.stride, self.pad, self.dilate, self.groups
        return kernels.transposed_convolution_2d(signal[:, :, None], self.W.array, None, *window, (1, record))[:, :, 0]

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed convolution, no bias"

"""Layers that know their way back.

Every node answers the same few questions. ``forward`` takes and gives Chainer Variables and takes part in autograd.
``compute`` and ``record`` take and give arrays and run through ``dcnn_kernels``; ``record`` also keeps the little that
``reverse`` needs: switches, mask bits, shapes. Nodes hold weights but never activations, so one node serves any number of
pictures at once.

Reversals after A. Mahendran and A. Vedaldi, "Salient Deconvolutional Networks", ECCV 2016, section 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import PadLike, Pads, Pair, PairLike, Window, output_size, pads, pair
from dcnn_visualizer import responses

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableNode:
    """A layer of a :class:`~dcnn_visualizer.traceable_chain.TraceableChain`.

    A node of your own derives from this class (and from ``chainer.Link`` if it has weights) and answers ``forward``. If it
    changes the shape, or if its way back is more than passing the signal on, it answers ``record`` and ``reverse`` too.

    Attributes:
        differs_in_training: Whether ``chainer.config.train`` changes what ``forward`` does, as in batch normalization.
        window: How outputs look at inputs; None where every output may see the whole input.
        shares_record: Whether :meth:`reverse` takes any number of signals with the record of one picture, as do all channels
            of a layer.
    """

    differs_in_training = False
    window: Window | None = None
    shares_record = False

    def __call__(self, *inputs: Any) -> chainer.Variable:
        """Same as :meth:`forward`, as with Chainer's links."""
        return self.forward(*inputs)

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Applies the layer to Chainer Variables (or arrays), with gradients."""
        raise NotImplementedError(f"{type(self).__name__} must answer forward(x)")

    def record(self, *inputs: Array) -> tuple[Array, Any]:
        """Applies the layer to arrays at inference and keeps what the way back needs.

        Args:
            *inputs: Arrays, in NCHW order where they are maps.

        Returns:
            The output, and whatever :meth:`reverse` wants to be given again.
        """
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            output = self.forward(*map(chainer.as_variable, inputs))
        if not isinstance(output, chainer.Variable):
            raise TypeError(f"{type(self).__name__}.forward must return a chainer.Variable, got {type(output).__name__}")
        return output.array, inputs[0].shape

    def compute(self, *inputs: Array) -> Array:
        """Applies the layer to arrays at inference, keeping nothing."""
        return self.record(*inputs)[0]

    def reverse(self, signal: Array, record: Any, rule: Rule) -> Array | tuple[Array, ...]:
        """Takes a signal at the output back to the input.

        Args:
            signal: Array of the output's shape.
            record: What :meth:`record` kept.
            rule: The reversal's choices.

        Returns:
            An array of the input's shape; for a node of several inputs a tuple of them.

        Raises:
            TypeError: By default: the layer changes the shape and doesn't say how to go back.
        """
        if tuple(signal.shape[1:]) != tuple(record[1:]):
            raise TypeError(
                f"{self.describe_layer()} turns shape {tuple(record)} into {tuple(signal.shape)} and has no reverse: "
                "use a traceable node in its place, or derive one that answers record and reverse"
            )
        return signal

    def response(self) -> responses.Response:
        """How the output responds when a part of the input changes; made anew for each sweep of an occluder.

        By default the layer is computed on what changed where each pixel of the output depends on one of the input (``window``
        of 1x1), and on whole inputs otherwise.
        """
        return responses.response_of(self)

    def unpadded(self) -> TraceableNode | None:
        """The same layer without padding, for parts of pictures that bring their surroundings; None if it can't be had."""
        return self if self.window is not None and self.window.pad == ((0, 0), (0, 0)) else None

    def describe(self, rule: Rule) -> str:
        """The rule by which :meth:`reverse` goes, in a few words."""
        own = type(self).reverse is not TraceableNode.reverse
        return "its own reverse" if own else f"passed over: {self.describe_layer()} has no reverse"

    def describe_layer(self) -> str:
        """The layer's name in messages."""
        return type(self).__name__


class PassedOver(TraceableNode):
    """A callable that is no TraceableNode: applied on the way forward, passed over on the way back."""

    shares_record = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, x: Any) -> chainer.Variable:
        """Calls the function."""
        return self.function(x)

    def describe_layer(self) -> str:
        """The callable's own name."""
        function = getattr(self.function, "func", self.function)
        return getattr(function, "__name__", type(function).__name__)


def _array(parameter: chainer.Variable | None) -> Array | None:
    return None if parameter is None else parameter.array


def _shared(record: Array | None, signal: Array) -> Array | None:
    """One picture's record for every signal, without a copy; as many records as signals stay what they are."""
    return None if record is None else array_module(record).broadcast_to(record, (len(signal), *record.shape[1:]))


def _features(shape: tuple[int, ...]) -> tuple[int, int]:
    # Not reshape(len(x), -1): that fails on an empty batch.
    return shape[0], math.prod(shape[1:])


def _unpadded(node: Any) -> Any:
    node = copy.copy(node)
    node.pads = pads(0)
    return node


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

    def record(self, x: Array, z: float | None = None) -> tuple[Array, Pair]:
        """Keeps the input's (H, W); given ``z``, the output has gone through the ReLU behind, which clips at ``z``."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        y = kernels.convolution_2d(x, self.W.array, _array(self.b), self.stride, self.pads, self.dilate, self.groups, z)
        return y, x.shape[2:]

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
        W, mask = self.scaled(scales), _shared(mask, signal)
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
            _shared(switches, signal),
            self.W.array,
            insize,
            pooling.ksize,
            pooling.stride,
            pooling.pads,
            _shared(pool_mask, signal),
            pool_rectify,
            None,
            self.stride,
            self.pads,
            self.dilate,
            self.groups,
            record,
            _shared(mask, signal),
            rectify,
        )

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Convolved(self, self.W.array, self.groups)

    def unpadded(self) -> TraceableConvolution2D:
        """Shares the weights."""
        return _unpadded(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed convolution, no bias"


class TraceableLinear(L.Linear, TraceableNode):
    """Fully connected layer; back by the transposed weights, without the bias. Arguments as ``chainer.links.Linear``."""

    shares_record = True

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape; maps are flattened."""
        batch, features = _features(x.shape)
        if self.W.array is None:
            self._initialize_params(features)
        return kernels.linear(x.reshape(batch, features), self.W.array, _array(self.b)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Wᵀg."""
        return kernels.linear_adjoint(signal, self.W.array).reshape(len(signal), *record[1:])

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Weighted(self, self.W.array)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed weights, no bias"


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
        gamma, beta = _array(self.gamma), _array(self.beta)
        gamma = self._get_gamma()[0] if gamma is None else gamma
        beta = self._get_beta()[0] if beta is None else beta
        return kernels.batch_normalization(x, gamma, beta, self.avg_mean, self.avg_var, self.eps), None

    def response(self) -> responses.Response:
        """Linear in what changed."""
        return responses.Scaled(self, self.scales())

    def scales(self) -> Array:
        """gamma/sqrt(var + eps), one a channel."""
        gamma = self._get_gamma()[0] if self.gamma is None else self.gamma.array
        return gamma / array_module(gamma).sqrt(self.avg_var + self.eps)

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """g·gamma/sqrt(var + eps)."""
        gamma = self._get_gamma()[0] if self.gamma is None else self.gamma.array
        return kernels.batch_normalization_adjoint(signal, gamma, self.avg_var, self.eps)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·gamma/sqrt(var + eps)"


class _Rectifier(TraceableNode):
    """What the members of the ReLU family share: a mask bit an element, and ReLU† in its four rules."""

    shares_record = True
    window = Window((1, 1))
    slope: Any = 0.0

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """ReLU†: by the forward sign if ``rule.relu_mask``, then rectified if ``rule.rectify``."""
        mask = record if rule.relu_mask else None
        return kernels.relu_reverse(signal, _shared(mask, signal), rule.rectify, self._slope())

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
        by_switch = _shared(switches, signal) if rule.unpooling == "switch" else None
        window = self.ksize, self.stride, self.pads
        return kernels.unpooling_2d(signal, insize, *window, by_switch, rule.unpooling, _shared(mask, signal), rectify)

    def response(self) -> responses.Response:
        """Maxima with the change, less those without."""
        return responses.MaxPooled(self)

    def unpadded(self) -> TraceableMaxPooling2D:
        """What is outside must be -inf."""
        return _unpadded(self)

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
        return _unpadded(self) if self.count_include_pad or self.pads == pads(0) else None

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
        x = _shared(record, signal)
        return kernels.local_response_normalization_gradient(x, signal, self.n, self.k, self.alpha, self.beta)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return rule.lrn


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


class TraceableFlatten(TraceableNode):
    """(B, C, H, W) to (B, C·H·W); back by reshaping."""

    shares_record = True

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, _features(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(_features(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(len(signal), *record[1:])

    def response(self) -> responses.Response:
        """The change itself, in a row."""
        return responses.Flattened(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"


class Add(TraceableNode):
    """Sum of several inputs of one shape; back, every input gets the signal."""

    shares_record = True
    window = Window((1, 1))

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Chainer's addition."""
        self._check(inputs)
        return F.add(*map(chainer.as_variable, inputs))

    def record(self, *inputs: Array) -> tuple[Array, int]:
        """Keeps how many inputs there were."""
        self._check(inputs)
        total = inputs[0] + inputs[1]
        for x in inputs[2:]:
            total += x
        return total, len(inputs)

    def reverse(self, signal: Array, record: int, rule: Rule) -> tuple[Array, ...]:
        """The signal, for each input."""
        return (signal,) * record

    def response(self) -> responses.Response:
        """The sum of the changes."""
        return responses.Added(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"

    @staticmethod
    def _check(inputs: tuple[Any, ...]) -> None:
        if len({tuple(x.shape) for x in inputs}) != 1:
            raise ValueError(f"the branches of a residual must have one shape, got {[tuple(x.shape) for x in inputs]}")


class Concatenate(TraceableNode):
    """Inputs one after the other along the channels; back, every input gets its channels of the signal."""

    shares_record = True
    window = Window((1, 1))

    def forward(self, *inputs: Any) -> chainer.Variable:
        """Chainer's ``concat``."""
        self._check(inputs)
        return F.concat(inputs, axis=1)

    def record(self, *inputs: Array) -> tuple[Array, list[int]]:
        """Keeps each input's number of channels."""
        self._check(inputs)
        xp = array_module(inputs[0])
        return xp.concatenate(inputs, axis=1), [x.shape[1] for x in inputs]

    def reverse(self, signal: Array, record: list[int], rule: Rule) -> tuple[Array, ...]:
        """Splits the signal along the channels."""
        ends = [sum(record[: i + 1]) for i in range(len(record))]
        return tuple(signal[:, end - channels : end] for channels, end in zip(record, ends, strict=True))

    def response(self) -> responses.Response:
        """The changes, one after the other."""
        return responses.Concatenated(self)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "split along the channels"

    @staticmethod
    def _check(inputs: tuple[Any, ...]) -> None:
        if len({(*x.shape[:1], *x.shape[2:]) for x in inputs}) != 1:
            raise ValueError(
                f"the branches of a parallel must agree in all but their channels, got {[tuple(x.shape) for x in inputs]}"
            )


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


class _SmoothActivation(TraceableNode):
    """What activations without a corner at zero share: every method goes back by their derivative, g·f'(x).

    Mahendran and Vedaldi's rules are for ReLU, which lets a signal pass or not; these weigh it.
    """

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


class TraceableSoftmax(TraceableNode):
    """exp(x) over its sum along the channels; back by its gradient in every method, y·(g - Σ g·y).

    Args:
        logarithm: Whether to give the logarithm, whose gradient is g - softmax(x)·Σ g.
    """

    window = Window((1, 1))

    def __init__(self, logarithm: bool = False) -> None:
        self.logarithm = logarithm

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``softmax`` or ``log_softmax``."""
        return F.log_softmax(x, axis=1) if self.logarithm else F.softmax(x, axis=1)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps the output."""
        xp = array_module(x)
        shifted = x - x.max(axis=1, keepdims=True)
        if self.logarithm:
            y = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
        else:
            y = xp.exp(shifted)
            y /= y.sum(axis=1, keepdims=True)
        return y, y

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """The gradient."""
        if self.logarithm:
            return signal - array_module(record).exp(record) * signal.sum(axis=1, keepdims=True)
        return record * (signal - (signal * record).sum(axis=1, keepdims=True))

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "its gradient"


class TraceableAdaptiveAveragePooling2D(TraceableNode):
    """Average pooling to a number of windows, (B, C, H, W) to (B, C, h, w); back by its adjoint.

    Of n places in a row, window i of m reaches from ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉, as in PyTorch's ``adaptive_avg_pool2d``.

    Args:
        outsize: Windows, one integer or (rows, columns).
    """

    def __init__(self, outsize: PairLike) -> None:
        self.outsize = pair("outsize", outsize)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average`` of whole maps, or its ``tensordot`` with each axis's averages."""
        if self.outsize == (1, 1):
            return F.average(x, axis=(2, 3), keepdims=True)
        rows, columns = self._averages(chainer.as_variable(x).array, x.shape[2:])
        return F.tensordot(F.tensordot(x, rows, axes=((2,), (1,))), columns, axes=((2,), (1,)))

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        if self.outsize == (1, 1):
            return kernels.global_average_pooling_2d(x)[:, :, None, None], x.shape[2:]
        rows, columns = self._averages(x, x.shape[2:])
        return rows @ x @ columns.T, x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its window."""
        if self.outsize == (1, 1):
            return kernels.global_average_pooling_2d_adjoint(signal[:, :, 0, 0], record)
        rows, columns = self._averages(signal, record)
        return rows.T @ signal @ columns

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"

    def _averages(self, like: Array, insize: Pair) -> tuple[Array, ...]:
        """A matrix for rows and one for columns: what share of each place (second axis) a window (first axis) takes."""
        matrices = []
        for windows, places in zip(self.outsize, insize, strict=True):
            matrix = np.zeros((windows, places), like.dtype)
            for window in range(windows):
                start, stop = window * places // windows, -(-(window + 1) * places // windows)
                matrix[window, start:stop] = 1 / (stop - start)
            matrices.append(array_module(like).asarray(matrix))
        return tuple(matrices)


class TraceablePadding2D(TraceableNode):
    """A border of one number around each map; back by cutting it off.

    Args:
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
        value: What the border holds.
    """

    def __init__(self, pad: PadLike, value: float = 0.0) -> None:
        self.pads, self.value = pads(pad), value

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window((1, 1), pad=self.pads)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``pad``."""
        return F.pad(x, ((0, 0), (0, 0), *self.pads), "constant", constant_values=self.value)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return array_module(x).pad(x, ((0, 0), (0, 0), *self.pads), constant_values=self.value), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The part within the border."""
        (top, bottom), (left, right) = self.pads
        return signal[:, :, top : signal.shape[2] - bottom, left : signal.shape[3] - right]

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "the border cut off"


class TraceableReshape(TraceableNode):
    """The same values in another shape; back by reshaping.

    Args:
        shape: The shape of one sample, without the batch axis; one of its sizes may be -1.
        kept: How many axes at the end stay as they are, whatever their sizes; ``shape`` doesn't hold them.
    """

    def __init__(self, shape: Sequence[int], kept: int = 0) -> None:
        self.shape, self.kept = tuple(shape), kept

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, self._outshape(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(self._outshape(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"

    def _outshape(self, inshape: tuple[int, ...]) -> tuple[int, ...]:
        # NumPy can't tell what -1 stands for in an empty batch.
        sample, kept = math.prod(inshape[1 : len(inshape) - self.kept]), inshape[len(inshape) - self.kept :]
        known = math.prod(size for size in self.shape if size != -1)
        return (inshape[0], *(sample // known if size == -1 else size for size in self.shape), *kept)


class TraceableTranspose(TraceableNode):
    """Axes in another order; back in the old one.

    Args:
        axes: The input's axes in the output's order; the batch axis, 0, stays first.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        if sorted(axes) != list(range(len(axes))) or axes[0] != 0:
            raise ValueError(f"axes must be 0 and then the others in some order, got {tuple(axes)}")
        self.axes = tuple(axes)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``transpose``."""
        return F.transpose(x, self.axes)

    def record(self, x: Array) -> tuple[Array, None]:
        """Keeps nothing."""
        return x.transpose(self.axes), None

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """The old order."""
        return signal.transpose([self.axes.index(axis) for axis in range(len(self.axes))])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "transposed"


class TraceableSlice(TraceableNode):
    """A part of each sample; back, the rest gets zeros.

    Args:
        slices: A slice without steps for each axis of a sample, from the channels on; axes at the end may be left out. An integer
            takes one place and drops the axis.
    """

    def __init__(self, slices: Sequence[slice | int]) -> None:
        if any(isinstance(part, slice) and part.step not in (None, 1) for part in slices):
            raise ValueError(f"slices must have no steps, got {slices!r}")
        # As plain numbers, so that a recording can tell whether they have changed.
        self.places = tuple((part.start, part.stop) if isinstance(part, slice) else part for part in slices)

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``get_item``."""
        return chainer.as_variable(x)[self._index()]

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x[self._index()], x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Zeros around the signal."""
        back = array_module(signal).zeros(record, signal.dtype)
        back[self._index()] = signal
        return back

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "zeros around it"

    def _index(self) -> tuple[slice | int, ...]:
        return (slice(None), *(slice(*place) if isinstance(place, tuple) else place for place in self.places))


class _SizedPooling2D(TraceableNode):
    """Pooling whose windows depend on the size of the picture: each time, the pooling that fits does the work."""

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


class TraceableCeilMaxPooling2D(_SizedPooling2D):
    """Max pooling in the ``ceil_mode`` of PyTorch and ONNX; back by unpooling.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
    """

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PadLike = 0) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pads = pads(pad)

    def _fitting(self, insize: Pair) -> TraceableMaxPooling2D:
        padding = _ceil_pads(insize, self.ksize, self.stride, self.pads)
        return TraceableMaxPooling2D(self.ksize, self.stride, padding, cover_all=False)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return TraceableMaxPooling2D(self.ksize).describe(rule)


class TraceableCeilAveragePooling2D(_SizedPooling2D):
    """Average pooling in the ``ceil_mode`` of PyTorch and ONNX, padding not counted; back by its adjoint.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, (rows, columns), or ((top, bottom), (left, right)).
    """

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PadLike = 0) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pads = pads(pad)

    def _fitting(self, insize: Pair) -> TraceableAveragePooling2D:
        padding = _ceil_pads(insize, self.ksize, self.stride, self.pads)
        return TraceableAveragePooling2D(self.ksize, self.stride, padding, count_include_pad=False)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


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


def _summed_to(array: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting: sums over the axes along which an array of this shape was stretched."""
    array = array.sum(axis=tuple(range(array.ndim - len(shape))))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 != array.shape[axis])
    return array.sum(axis=stretched, keepdims=True)


class Multiply(TraceableNode):
    """Product of two inputs, broadcast as NumPy does: a map and its gate, as in squeeze-and-excitation (Hu et al., CVPR 2018).

    Back by the product rule in every method: each factor gets the signal times the other.
    """

    def forward(self, x: Any, gate: Any) -> chainer.Variable:
        """Chainer's product."""
        return chainer.as_variable(x) * gate

    def record(self, x: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
        """Keeps both inputs."""
        return x * gate, (x, gate)

    def reverse(self, signal: Array, record: tuple[Array, Array], rule: Rule) -> tuple[Array, Array]:
        """The product rule."""
        x, gate = record
        return _summed_to(signal * gate, x.shape), _summed_to(signal * x, gate.shape)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "product rule: times the other factor"


class BroadcastAdd(TraceableNode):
    """Sum of two inputs, broadcast as NumPy does; back, each gets the signal, summed where it was stretched."""

    def forward(self, x: Any, y: Any) -> chainer.Variable:
        """Chainer's sum."""
        return chainer.as_variable(x) + y

    def record(self, x: Array, y: Array) -> tuple[Array, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Keeps both shapes."""
        return x + y, (x.shape, y.shape)

    def reverse(self, signal: Array, record: tuple[tuple[int, ...], tuple[int, ...]], rule: Rule) -> tuple[Array, Array]:
        """The signal, for each input."""
        return _summed_to(signal, record[0]), _summed_to(signal, record[1])

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"


class TraceableAffine(chainer.Link, TraceableNode):
    """x·scale + shift with fixed numbers, or one number a channel; back by the scale.

    Args:
        scale: A number, or an array that broadcasts against a sample: (C, 1, 1) for one a channel.
        shift: Likewise.
    """

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

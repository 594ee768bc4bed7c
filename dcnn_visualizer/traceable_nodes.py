"""Layers that know their way back.

Every node answers the same few questions. ``forward`` takes and gives Chainer Variables and takes part in autograd.
``compute`` and ``record`` take and give arrays and run through ``dcnn_kernels``; ``record`` also keeps the little that
``reverse`` needs: switches, mask bits, shapes. Nodes hold weights but never activations, so one node serves any number of
pictures at once.

Reversals after A. Mahendran and A. Vedaldi, "Salient Deconvolutional Networks", ECCV 2016, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import PadLike, Pair, PairLike, Window, pads, pair

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class TraceableNode:
    """A layer of a :class:`~dcnn_visualizer.traceable_chain.TraceableChain`.

    A node of your own derives from this class (and from ``chainer.Link`` if it has weights) and answers ``forward``. If it
    changes the shape, or if its way back is more than passing the signal on, it answers ``record`` and ``reverse`` too.

    Attributes:
        differs_in_training: Whether ``chainer.config.train`` changes what ``forward`` does, as in batch normalization.
        window: How outputs look at inputs; None where every output may see the whole input.
    """

    differs_in_training = False
    window: Window | None = None

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
        if tuple(signal.shape) != tuple(record):
            raise TypeError(
                f"{self.describe_layer()} turns shape {tuple(record)} into {tuple(signal.shape)} and has no reverse: "
                "use a traceable node in its place, or derive one that answers record and reverse"
            )
        return signal

    def describe(self, rule: Rule) -> str:
        """The rule by which :meth:`reverse` goes, in a few words."""
        own = type(self).reverse is not TraceableNode.reverse
        return "its own reverse" if own else f"passed over: {self.describe_layer()} has no reverse"

    def describe_layer(self) -> str:
        """The layer's name in messages."""
        return type(self).__name__


class PassedOver(TraceableNode):
    """A callable that is no TraceableNode: applied on the way forward, passed over on the way back."""

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


def _features(shape: tuple[int, ...]) -> tuple[int, int]:
    # Not reshape(len(x), -1): that fails on an empty batch.
    return shape[0], math.prod(shape[1:])


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

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        if self.W.array is None:
            self._initialize_params(x.shape[1])
        y = kernels.convolution_2d(
            x, self.W.array, _array(self.b), self.stride, self.pads, dilate=self.dilate, groups=self.groups
        )
        return y, x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """Wᵀg."""
        return kernels.transposed_convolution_2d(
            signal, self.W.array, None, self.stride, self.pads, dilate=self.dilate, groups=self.groups, outsize=record
        )

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "Wᵀg: transposed convolution, no bias"


class TraceableLinear(L.Linear, TraceableNode):
    """Fully connected layer; back by the transposed weights, without the bias. Arguments as ``chainer.links.Linear``."""

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape; maps are flattened."""
        batch, features = _features(x.shape)
        if self.W.array is None:
            self._initialize_params(features)
        return kernels.linear(x.reshape(batch, features), self.W.array, _array(self.b)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Wᵀg."""
        return kernels.linear_adjoint(signal, self.W.array).reshape(record)

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

    def reverse(self, signal: Array, record: None, rule: Rule) -> Array:
        """g·gamma/sqrt(var + eps)."""
        gamma = self._get_gamma()[0] if self.gamma is None else self.gamma.array
        return kernels.batch_normalization_adjoint(signal, gamma, self.avg_var, self.eps)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "g·gamma/sqrt(var + eps)"


class _Rectifier(TraceableNode):
    """What the members of the ReLU family share: a mask bit an element, and ReLU† in its four rules."""

    window = Window((1, 1))
    slope: Any = 0.0

    def reverse(self, signal: Array, record: Array, rule: Rule) -> Array:
        """ReLU†: by the forward sign if ``rule.relu_mask``, then rectified if ``rule.rectify``."""
        return kernels.relu_reverse(signal, record if rule.relu_mask else None, rule.rectify, self._slope())

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

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``relu``."""
        return F.relu(x)

    def record(self, x: Array) -> tuple[Array, Array]:
        """Keeps one bit an element."""
        return kernels.relu(x), kernels.relu_mask(x)

    def compute(self, x: Array) -> Array:
        """Keeps nothing."""
        return kernels.relu(x)


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

    def reverse(self, signal: Array, record: tuple[Array, Pair], rule: Rule) -> Array:
        """Unpooling by ``rule.unpooling``."""
        switches, insize = record
        return kernels.unpooling_2d(
            signal,
            insize,
            self.ksize,
            self.stride,
            self.pads,
            switches=switches if rule.unpooling == "switch" else None,
            mode=rule.unpooling,
        )

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        places = {"switch": "by switches", "center": "at the window's centre", "spread": "spread over the window"}
        return f"unpooling {places[rule.unpooling]}"


class TraceableAveragePooling2D(TraceableNode):
    """Average pooling, padding counted as zeros as in Chainer; back by its adjoint.

    Args:
        ksize: Window, one integer or two.
        stride: Step; None means ``ksize``.
        pad: One integer, or (rows, columns).
    """

    def __init__(self, ksize: PairLike, stride: PairLike | None = None, pad: PairLike = 0) -> None:
        self.ksize = pair("ksize", ksize)
        self.stride = self.ksize if stride is None else pair("stride", stride)
        self.pad = pair("pad", pad, 0)

    @property
    def window(self) -> Window:  # type: ignore[override]
        """How outputs look at inputs."""
        return Window(self.ksize, self.stride, pads(self.pad))

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average_pooling_2d``."""
        return F.average_pooling_2d(x, self.ksize, self.stride, self.pad)

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        return kernels.average_pooling_2d(x, self.ksize, self.stride, self.pad), x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its window."""
        return kernels.average_pooling_2d_adjoint(signal, record, self.ksize, self.stride, self.pad)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "adjoint of the average"


class TraceableGlobalAveragePooling2D(TraceableNode):
    """Mean of each map, (B, C, H, W) to (B, C); back by its adjoint."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``average`` over rows and columns."""
        return F.average(x, axis=(2, 3))

    def record(self, x: Array) -> tuple[Array, Pair]:
        """Keeps the input's (H, W)."""
        return kernels.global_average_pooling_2d(x), x.shape[2:]

    def reverse(self, signal: Array, record: Pair, rule: Rule) -> Array:
        """The adjoint: each value shared out evenly over its map."""
        return kernels.global_average_pooling_2d_adjoint(signal, record)

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
        return kernels.local_response_normalization_gradient(record, signal, self.n, self.k, self.alpha, self.beta)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return rule.lrn


class TraceableDropout(TraceableNode):
    """Dropout; at inference, and on the way back, the identity.

    Args:
        ratio: Share of the elements dropped in training.
    """

    differs_in_training = True
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

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "identity"


class TraceableFlatten(TraceableNode):
    """(B, C, H, W) to (B, C·H·W); back by reshaping."""

    def forward(self, x: Any) -> chainer.Variable:
        """Chainer's ``reshape``."""
        return F.reshape(x, _features(x.shape))

    def record(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Keeps the input's shape."""
        return x.reshape(_features(x.shape)), x.shape

    def reverse(self, signal: Array, record: tuple[int, ...], rule: Rule) -> Array:
        """Reshapes."""
        return signal.reshape(record)

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "reshaped"


class Add(TraceableNode):
    """Sum of several inputs of one shape; back, every input gets the signal."""

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

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "copied to every summand"

    @staticmethod
    def _check(inputs: tuple[Any, ...]) -> None:
        if len({tuple(x.shape) for x in inputs}) != 1:
            raise ValueError(f"the branches of a residual must have one shape, got {[tuple(x.shape) for x in inputs]}")


class Concatenate(TraceableNode):
    """Inputs one after the other along the channels; back, every input gets its channels of the signal."""

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

    def describe(self, rule: Rule) -> str:
        """The rule in a few words."""
        return "split along the channels"

    @staticmethod
    def _check(inputs: tuple[Any, ...]) -> None:
        if len({(*x.shape[:1], *x.shape[2:]) for x in inputs}) != 1:
            raise ValueError(
                f"the branches of a parallel must agree in all but their channels, got {[tuple(x.shape) for x in inputs]}"
            )

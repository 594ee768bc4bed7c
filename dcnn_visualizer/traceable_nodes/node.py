"""What a layer answers, and the layer that only goes forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Window, pads
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


def shared_record(record: Array | None, signal: Array) -> Array | None:
    """One picture's record for every signal, without a copy; as many records as signals stay what they are."""
    return None if record is None else array_module(record).broadcast_to(record, (len(signal), *record.shape[1:]))


def without_pads(node: Any) -> Any:
    """A copy of a node with its weights, which pads nothing."""
    node = copy.copy(node)
    node.pads = pads(0)
    return node

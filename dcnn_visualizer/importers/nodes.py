"""Traceable nodes around weights that are there already: arrays are held as they are, never copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

import dcnn_visualizer.traceable_nodes as tn
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import PadLike, Pads, Pair
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_graph import TraceableGraph

_Node = TypeVar("_Node", bound=chainer.Link)


class UntraceableError(ValueError):
    """A network can't be turned into a traceable chain; the message names what stands in the way, and where."""


def convolution(
    W: Array, b: Array | None, stride: Sequence[int], pad: PadLike, dilate: Sequence[int] = (1, 1), groups: int = 1
) -> tn.TraceableConvolution2D:
    """A convolution.

    Args:
        W: Weights (out channels, in channels / groups, rows, columns).
        b: Bias (out channels,), or None.
        stride: Step between windows.
        pad: As :class:`TraceableConvolution2D` takes it.
        dilate: Step between taps.
        groups: Number of channel groups.
    """
    node = tn.TraceableConvolution2D(
        None, W.shape[0], W.shape[2:], tuple(stride), pad, b is None, dilate=tuple(dilate), groups=groups
    )
    node.in_channels = W.shape[1] * groups
    return _hold(node, W=W, b=b)


def convolution_1d(W: Array, b: Array | None, stride: int, pad: int, dilate: int, groups: int) -> tn.TraceableConvolution1D:
    """A convolution along one axis of weights (out channels, in channels / groups, taps)."""
    node = tn.TraceableConvolution1D(
        None, W.shape[0], (1, W.shape[2]), (1, stride), (0, pad), b is None, dilate=(1, dilate), groups=groups
    )
    node.in_channels = W.shape[1] * groups
    return _hold(node, W=W[:, :, None], b=b)


def transposed_convolution(
    W: Array, b: Array | None, stride: Pair, pad: Pair, dilate: Pair, groups: int, extra: Pair = (0, 0)
) -> tn.TraceableDeconvolution2D:
    """A transposed convolution of weights (in channels, out channels / groups, rows, columns), its pad cut off on both sides.

    Behind what its windows reach there are ``extra`` rows and columns.
    """
    node = tn.TraceableDeconvolution2D(
        None, W.shape[1] * groups, W.shape[2:], stride, pad, b is None, dilate=dilate, groups=groups, extra=extra
    )
    return _hold(node, W=W, b=b)


def in_a_row(**layers: tn.TraceableNode) -> TraceableChain:
    """Several layers, one behind the other."""
    chain = TraceableChain()
    with chain.init_scope():
        for name, layer in layers.items():
            setattr(chain, name, layer)
    return chain


def linear(W: Array, b: Array | None, rank: int = 2) -> tn.TraceableNode:
    """A fully connected layer of weights (outputs, inputs) and bias (outputs,), or None.

    Args:
        W: Weights.
        b: Bias.
        rank: Axes of its input; if there are more than two, it works on the last.
    """
    node = (tn.TraceableLinear if rank == 2 else tn.TraceablePlacewiseLinear)(None, W.shape[0], b is None)
    node.in_size = W.shape[1]
    return _hold(node, W=W, b=b)


def batch_normalization(
    gamma: Array | None, beta: Array | None, mean: Array, var: Array, eps: float
) -> tn.TraceableBatchNormalization:
    """A batch normalization of arrays (channels,); without ``gamma`` the scale is one, without ``beta`` the shift zero."""
    # Without a size, Chainer makes no arrays, which would only be replaced; it then wants axes, and finds them itself without.
    node = tn.TraceableBatchNormalization(axis=0, eps=eps, dtype=mean.dtype, use_gamma=False, use_beta=False)
    node.axis = None
    _placed(node, mean)
    _hold(node, gamma=gamma, beta=beta)
    node.avg_mean, node.avg_var = mean, var
    return node


def layer_normalization(
    gamma: Array | None, beta: Array | None, eps: float, axes: int, centred: bool = True
) -> tn.TraceableLayerNormalization:
    """Layer normalization over so many axes at the end, with weights of their sizes; if not ``centred``, by the mean square."""
    return _placed(tn.TraceableLayerNormalization(gamma, beta, eps, axes, centred), gamma, beta)


def group_normalization(gamma: Array | None, beta: Array | None, groups: int, eps: float) -> tn.TraceableGroupNormalization:
    """Group normalization of weights (channels,)."""
    return _placed(tn.TraceableGroupNormalization(gamma, beta, groups, eps), gamma, beta)


def clip(low: float, high: float) -> tn.TraceableNode:
    """Values kept between two bounds, which may be infinite: ReLU and its clipped kin, if the lower is zero.

    Raises:
        UntraceableError: Bounds in the wrong order.
    """
    if not low < high:
        raise UntraceableError(f"it clips to {low}..{high}")
    if low == 0:
        return tn.TraceableReLU() if high == math.inf else tn.TraceableClippedReLU(high)
    return tn.TraceableIdentity() if (low, high) == (-math.inf, math.inf) else tn.TraceableClip(low, high)


def selu(alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> TraceableChain:
    """SELU (Klambauer et al., NeurIPS 2017): gamma times the ELU."""
    return in_a_row(elu=tn.TraceableELU(alpha), scale=tn.TraceableAffine(gamma))


def celu(alpha: float) -> TraceableChain:
    """CELU (Barron, arXiv:1704.07483): alpha times the ELU of x/alpha."""
    return in_a_row(narrowed=tn.TraceableAffine(1 / alpha), elu=tn.TraceableELU(), scale=tn.TraceableAffine(alpha))


def bounded_below(bound: float | Array) -> TraceableChain:
    """The larger of x and a constant: a ReLU with its corner there."""
    return in_a_row(above=tn.TraceableAffine(shift=-bound), relu=tn.TraceableReLU(), shift=tn.TraceableAffine(shift=bound))


def bounded_above(bound: float | Array) -> TraceableChain:
    """The smaller of x and a constant: a ReLU upside down, with its corner there."""
    below, shift = tn.TraceableAffine(-1.0, bound), tn.TraceableAffine(-1.0, bound)
    return in_a_row(below=below, relu=tn.TraceableReLU(), shift=shift)


def gated(axis: int) -> TraceableGraph:
    """The first half along an axis times the sigmoid of the second (GLU: Dauphin et al., ICML 2017)."""
    graph = TraceableGraph()
    graph.connect("first", tn.TraceablePiece(axis, 0, 2))
    graph.connect("second", tn.TraceablePiece(axis, 1, 2), PICTURE)
    graph.connect("sigmoid", tn.TraceableSigmoid(), "second")
    graph.connect("product", tn.Multiply(), "first", "sigmoid")
    return graph


def prelu(W: Array) -> tn.TraceablePReLU:
    """A parametric ReLU of one slope, () or (1,), or one a channel, (channels,)."""
    W = W.reshape(()) if W.size == 1 else W
    return _hold(tn.TraceablePReLU(W.shape), W=W)


def max_pooling(ksize: Pair, stride: Pair, pad: Pads, ceil_mode: bool) -> tn.TraceableNode:
    """Max pooling; in ``ceil_mode`` the last windows may run over the end, but start before it."""
    behind = (after for _, after in pad)
    if ceil_mode and any(step + after > taps for step, after, taps in zip(stride, behind, ksize, strict=True)):
        return tn.TraceableCeilMaxPooling2D(ksize, stride, pad)
    # No window could start behind the picture, so cover_all adds none.
    return tn.TraceableMaxPooling2D(ksize, stride, pad, cover_all=ceil_mode)


def average_pooling(ksize: Pair, stride: Pair, pad: Pads, ceil_mode: bool, count_include_pad: bool) -> tn.TraceableNode:
    """Average pooling.

    Raises:
        UntraceableError: Padding counts, but what windows cover beyond it doesn't.
    """
    padded = any(map(any, pad))
    if ceil_mode and count_include_pad and padded:
        raise UntraceableError("it counts padding but not what lies beyond (ceil_mode with padding that counts)")
    if ceil_mode:
        return tn.TraceableCeilAveragePooling2D(ksize, stride, pad)
    return tn.TraceableAveragePooling2D(ksize, stride, pad, count_include_pad or not padded)


def local_response_normalization(n: int, k: float, alpha: float, beta: float) -> tn.TraceableLocalResponseNormalization:
    """Local response normalization whose ``alpha`` is for the mean of the squares, as in PyTorch and ONNX, not for their sum.

    Raises:
        UntraceableError: An even window, which these put off centre.
    """
    if n % 2 == 0:
        raise UntraceableError(f"its window of {n} channels has no centre; odd sizes are supported")
    return tn.TraceableLocalResponseNormalization(n, k, alpha / n, beta)


def _placed(node: _Node, *arrays: Array | None) -> _Node:
    """The node on the device of the arrays that it holds."""
    held = [array for array in arrays if array is not None]
    if held and (device := chainer.backend.get_device_from_array(*held)) != node.device:
        node.to_device(device)
    return node


def _hold(node: _Node, **parameters: Any) -> _Node:
    held = {name: array for name, array in parameters.items() if array is not None}
    _placed(node, *held.values())
    with node.init_scope():
        for name, array in held.items():
            setattr(node, name, chainer.Parameter(array))
    return node

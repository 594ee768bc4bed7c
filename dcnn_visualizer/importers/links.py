"""Chainer's links as traceable nodes that hold the very same weights."""

from __future__ import annotations

from typing import Any, TypeVar

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.links as L

import dcnn_visualizer.traceable_nodes as tn

_Node = TypeVar("_Node", bound=chainer.Link)


def convolution(link: L.Convolution2D) -> tn.TraceableConvolution2D:
    """The node of a convolution."""
    return _convolution(link, link.in_channels, link.groups)


def dilated_convolution(link: L.DilatedConvolution2D) -> tn.TraceableConvolution2D:
    """The node of Chainer's older link for dilation."""
    return _convolution(link, None, 1)


def _convolution(link: Any, in_channels: int | None, groups: int) -> tn.TraceableConvolution2D:
    # Without in_channels no weights are drawn: those of the link follow.
    node = tn.TraceableConvolution2D(
        None, link.out_channels, link.ksize, link.stride, link.pad, link.b is None, dilate=link.dilate, groups=groups
    )
    node.in_channels = in_channels
    return _share_parameters(node, link)


def linear(link: L.Linear) -> tn.TraceableLinear:
    """The node of a fully connected layer."""
    node = tn.TraceableLinear(None, link.out_size, link.b is None)
    node.in_size = link.in_size
    return _share_parameters(node, link)


def prelu(link: L.PReLU) -> tn.TraceablePReLU:
    """The node of a parametric ReLU."""
    return _share_parameters(tn.TraceablePReLU(link.W.shape), link)


def batch_normalization(link: L.BatchNormalization) -> tn.TraceableBatchNormalization:
    """The node of a batch normalization; running statistics are shared too.

    Raises:
        ValueError: The link has not yet seen how many channels there are.
    """
    if link.avg_mean is None:
        raise ValueError("its batch normalization has no statistics yet: call the model once, then import it")
    node = tn.TraceableBatchNormalization(
        link.avg_mean.shape,
        decay=link.decay,
        eps=link.eps,
        dtype=link.avg_mean.dtype,
        use_gamma=link.gamma is not None,
        use_beta=link.beta is not None,
        axis=link.axis,
    )
    _share_parameters(node, link)
    node.avg_mean, node.avg_var, node.N = link.avg_mean, link.avg_var, link.N
    return node


def _share_parameters(node: _Node, link: chainer.Link) -> _Node:
    node.to_device(link.device)
    with node.init_scope():
        for path, parameter in link.namedparams(include_uninit=True):
            setattr(node, path[1:], parameter)
    return node


CONVERTERS = {
    L.Convolution2D: convolution,
    L.DilatedConvolution2D: dilated_convolution,
    L.Linear: linear,
    L.PReLU: prelu,
    L.BatchNormalization: batch_normalization,
}

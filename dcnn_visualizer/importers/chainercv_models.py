"""ChainerCV's models: any ``PickableSequentialChain``, so VGG16, ResNet and SE-ResNet, and the blocks they are made of."""

from __future__ import annotations

from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
from chainercv.links import Conv2DActiv, Conv2DBNActiv, PickableSequentialChain
from chainercv.links.model.resnet import Bottleneck, ResBlock

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.importers.chainer_models import Convert
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual


def pickable_sequential_chain(model: PickableSequentialChain, convert: Convert) -> TraceableChain:
    """Layers in a row, under their names."""
    return TraceableChain(**{name: convert(model[name]) for name in model.layer_names})


def convolution_and_activation(block: Conv2DActiv | Conv2DBNActiv, convert: Convert) -> TraceableChain:
    """``conv``, ``bn`` if there is one, and ``activ``."""
    layers = {"conv": block.conv, "bn": getattr(block, "bn", None), "activ": block.activ}
    return TraceableChain(**{name: convert(layer) for name, layer in layers.items() if layer is not None})


def residual_block(block: ResBlock, convert: Convert) -> TraceableChain:
    """A row of bottlenecks: ``a``, ``a_relu``, ``b1``, ``b1_relu`` and so on."""
    layers: dict[str, Any] = {}
    for name in block.layer_names:
        layers |= {name: convert(block[name]), f"{name}_relu": tn.TraceableReLU()}
    return TraceableChain(**layers)


def bottleneck(block: Bottleneck, convert: Convert) -> TraceableResidual:
    """A bottleneck without the ReLU behind its sum: that is a layer of the block around it."""
    names = [name for name in ("conv1", "conv2", "conv3", "se") if hasattr(block, name)]
    body = TraceableChain(**{name: convert(getattr(block, name)) for name in names})
    shortcut = convert(block.residual_conv) if hasattr(block, "residual_conv") else None
    return TraceableResidual(body, shortcut)


CONVERTERS = {
    PickableSequentialChain: pickable_sequential_chain,
    Conv2DActiv: convolution_and_activation,
    Conv2DBNActiv: convolution_and_activation,
    ResBlock: residual_block,
    Bottleneck: bottleneck,
}

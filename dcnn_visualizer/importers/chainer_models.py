"""Chainer's own models: ``VGG16Layers``, ``VGG19Layers``, ``ResNet50Layers`` and larger, and ``Sequential``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
from chainer.links.model.vision.resnet import BottleneckA, BottleneckB, BuildingBlock, ResNetLayers
from chainer.links.model.vision.vgg import VGGLayers

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual

Convert = Callable[[Any], Any]

_SHORT_NAMES = {
    tn.TraceableConvolution2D: "conv",
    tn.TraceableBatchNormalization: "bn",
    tn.TraceableLinear: "linear",
    tn.TraceableReLU: "relu",
    tn.TraceableDropout: "dropout",
}


def by_functions(model: VGGLayers | ResNetLayers, convert: Convert) -> TraceableChain:
    """A model that lists its layers in ``functions``, each layer a row of callables.

    The layers keep their names, so ``conv1_1`` is what the model calls so: the convolution and its ReLU, which are
    ``conv1_1/conv`` and ``conv1_1/relu``.
    """
    return TraceableChain(**{name: _row([convert(part) for part in parts]) for name, parts in model.functions.items()})


def _row(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    names = [_SHORT_NAMES.get(type(part), "layer") for part in parts]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    numbered = [f"{name}{i}" if name in repeated else name for i, name in enumerate(names)]
    return TraceableChain(**dict(zip(numbered, parts, strict=True)))


def sequential(model: chainer.Sequential, convert: Convert) -> TraceableChain:
    """A ``chainer.Sequential``; layers are named "0", "1" and so on."""
    return TraceableChain(**{str(i): convert(layer) for i, layer in enumerate(model)})


def building_block(block: BuildingBlock, convert: Convert) -> TraceableChain:
    """A row of bottlenecks: ``a``, ``a_relu``, ``b1``, ``b1_relu`` and so on."""
    layers: dict[str, Any] = {}
    for name in block._forward:
        layers |= {name: convert(getattr(block, name)), f"{name}_relu": tn.TraceableReLU()}
    return TraceableChain(**layers)


def bottleneck(block: BottleneckA | BottleneckB, convert: Convert) -> TraceableResidual:
    """A bottleneck without the ReLU behind its sum: that is a layer of the block around it."""
    body = TraceableChain(
        conv1=convert(block.conv1),
        bn1=convert(block.bn1),
        relu1=tn.TraceableReLU(),
        conv2=convert(block.conv2),
        bn2=convert(block.bn2),
        relu2=tn.TraceableReLU(),
        conv3=convert(block.conv3),
        bn3=convert(block.bn3),
    )
    if isinstance(block, BottleneckB):
        return TraceableResidual(body)
    return TraceableResidual(body, TraceableChain(conv4=convert(block.conv4), bn4=convert(block.bn4)))


CONVERTERS = {
    VGGLayers: by_functions,
    ResNetLayers: by_functions,
    chainer.Sequential: sequential,
    BuildingBlock: building_block,
    BottleneckA: bottleneck,
    BottleneckB: bottleneck,
}

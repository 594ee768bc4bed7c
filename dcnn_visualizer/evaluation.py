"""The forward pass over arrays, through the kernels, with steps that go in one call: what lies between is never written.

A convolution goes with the batch normalization behind it, and either with the ReLU behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_kernels.arrays import Array
from dcnn_visualizer.graph import Graph
from dcnn_visualizer.traceable_nodes import (
    TraceableBatchNormalization,
    TraceableClippedReLU,
    TraceableConvolution2D,
    TraceableNode,
    TraceableReLU,
)


def compute(node: TraceableNode, *inputs: Array, **choices: Any) -> Array:
    """Applies a node to arrays through the kernels, or through Chainer where ``chainer.config.train`` asks for training.

    Args:
        node: The node.
        *inputs: What it takes.
        **choices: As :func:`forward_stage` gives them.
    """
    if node.differs_in_training and chainer.config.train:
        return node.forward(*inputs).array
    return node.record(*inputs, **choices)[0] if choices else node.compute(*inputs)


def forward_stage(graph: Graph, index: int, takers: Mapping[int, int]) -> tuple[list[int], dict[str, Any]]:
    """The steps that go forward in one call with a step, and what its node's ``record`` is told of them.

    Args:
        graph: The network.
        index: The step.
        takers: By step, the one that alone takes its output, where nobody else asks for this output.

    Returns:
        The steps, in order, and keyword arguments. Where there is a rectifier, it is the last step, and ``z`` is given.
    """
    steps: list[int] = [index]
    choices: dict[str, Any] = {}
    if type(graph.steps[index].node) is not TraceableConvolution2D:
        return steps, choices

    def behind(*kinds: type[TraceableNode]) -> Any:
        taker = takers.get(steps[-1])
        return graph.steps[taker].node if taker is not None and type(graph.steps[taker].node) in kinds else None

    if (normalization := behind(TraceableBatchNormalization)) and normalization.avg_mean is not None:
        steps.append(takers[index])
        choices["normalization"] = normalization
    if rectifier := behind(TraceableReLU, TraceableClippedReLU):
        steps.append(takers[steps[-1]])
        choices["z"] = rectifier.z
    return steps, choices


def evaluate(graph: Graph, picture: Array, targets: Iterable[int]) -> list[Array]:
    """The outputs of some steps.

    Args:
        graph: The network.
        picture: Array of shape (B, C, H, W).
        targets: Indices of the steps.

    Returns:
        Their outputs, in order.
    """
    wanted = list(targets)
    takers = graph.sole_takers(graph.ancestors(wanted))
    # A batch normalization that trains goes alone.
    takers = {
        step: taker
        for step, taker in takers.items()
        if step not in wanted and not (chainer.config.train and graph.steps[taker].node.differs_in_training)
    }
    return graph.evaluate(picture, wanted, compute, lambda index: forward_stage(graph, index, takers))

"""The walk back for many signals of one picture, by kernels that skip the zeros they share.

After unpooling, at most one place of each window isn't zero, and a ReLU's mask removes more, at the same places for all
channels of a picture. Between convolutions, poolings and what only scales, signals lie innermost in memory, as the kernels of
``dcnn_kernels.shared`` want them; a layer of another kind takes them as any other array.
"""

from __future__ import annotations

import math
from typing import Any

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module, select_backend
from dcnn_kernels.geometry import pair
from dcnn_visualizer.graph import Graph
from dcnn_visualizer.recording import Recording
from dcnn_visualizer.stages import Stage, Tell, gate, reverse
from dcnn_visualizer.traceable_nodes import TraceableBatchNormalization, TraceableConvolution2D, TraceableMaxPooling2D

#: So many signals or more make it worth while: fewer leave the vector instructions idle.
WORTH = 8
#: Products for each value that the convolutions on the way back make: up to so many, to skip zeros may be faster than the
#: products of all. On two cores EfficientNet-Lite0 (31 up to its middle) takes 1.5 times as long as by those, and VGG16 (1100)
#: 0.95 to 1.8 times.
PRODUCTS = 20


def pays(recording: Recording, target: int, signals: int) -> bool:
    """Whether so many signals of one picture go back faster by kernels that skip shared zeros; only compiled ones skip any.

    Args:
        recording: The forward pass, recorded at least as far as ``target``.
        target: Index of the step at whose output the signals start.
        signals: Their number.
    """
    products = values = 0.0
    for index in recording.graph.ancestors([target]):
        node = recording.graph.steps[index].node
        if type(node) is TraceableConvolution2D:
            pixels = math.prod(recording.records[index])
            products += node.W.array.size * pixels / math.prod(pair("stride", node.stride))
            values += node.W.shape[1] * node.groups * pixels
    picture = recording.extend(target)
    compiled = select_backend("shared", None, x=picture).__name__.endswith("compiled.shared")
    return compiled and signals >= WORTH and products < PRODUCTS * values


def reverse_together(graph: Graph, stage: Stage, signal: Array, record: Tell, rule: Tell) -> Any:
    """Takes signals (K, ...) of one picture back through a stage; see :func:`dcnn_visualizer.stages.reverse`.

    Returns:
        The signals at the input; their memory may lie in another order.
    """
    node: Any = graph.steps[stage.step].node
    scales = None
    if type(node) is TraceableBatchNormalization and stage.convolution is not None:
        stage, scales = stage.convolution, node.scales()
        node = graph.steps[stage.step].node
    own = record(stage.step)
    if type(node) is TraceableConvolution2D:
        settings = node.stride, node.pads, node.dilate, node.groups, own, *gate(stage, record, rule)
        back = kernels.shared_transposed_convolution_2d(_innermost(signal), node.scaled(scales), *settings)
        return back.transpose(3, 2, 0, 1)
    if type(node) is TraceableMaxPooling2D and rule(stage.step).unpooling == "switch":
        (switches, insize), (mask, rectify) = own, gate(stage, record, rule)
        window = node.ksize, node.stride, node.pads
        back = kernels.shared_unpooling_2d(_innermost(signal), insize, *window, switches, mask, rectify)
        return back.transpose(3, 2, 0, 1)
    if type(node) is TraceableBatchNormalization and signal.ndim == 4:
        # The kernel would lay them out anew.
        ones = array_module(signal).ones((1, signal.shape[1], 1, 1), signal.dtype)
        return signal * node.reverse(ones, own, rule(stage.step))
    return reverse(graph, stage, signal, record, rule)


def _innermost(signal: Array) -> Array:
    """Signals (K, C, H, W) as (H, W, C, K)."""
    return array_module(signal).ascontiguousarray(signal.transpose(2, 3, 1, 0))

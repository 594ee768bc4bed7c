"""The walk back for many signals of one picture, by kernels that skip the zeros they share.

After unpooling, at most one place of each window isn't zero, and a ReLU's mask removes more, at the same places for all
channels of a picture. Between convolutions, poolings and what only scales, signals lie innermost in memory, as the kernels of
``dcnn_kernels.shared`` want them; a layer of another kind takes them as any other array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module, select_backend
from dcnn_kernels.geometry import pair
from dcnn_visualizer.graph import PICTURE, Graph
from dcnn_visualizer.recording import Recording, of_picture
from dcnn_visualizer.traceable_nodes import (
    TraceableBatchNormalization,
    TraceableClippedReLU,
    TraceableConvolution2D,
    TraceableMaxPooling2D,
    TraceableReLU,
)

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule

#: So many signals or more make it worth while: fewer leave the vector instructions idle.
WORTH = 8
#: Products for each value that the convolutions on the way back make: up to so many, to skip zeros is faster than the matrix
#: products of all. On two cores EfficientNet-Lite0 (50) took half the time, and VGG16 (1100) 0.95 to 1.8 times as long.
PRODUCTS = 256


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


def walk_back_together(recording: Recording, target: int, signal: Array, rule: Rule, picture: int) -> Array:
    """Takes signals from a step's output back to the picture; see :func:`dcnn_visualizer.reversal.walk_back`.

    Args:
        recording: The forward pass, recorded at least as far as ``target``.
        target: Index of the step at whose output the signals start.
        signal: Array (K, …): any number of signals of that output's shape.
        rule: The reversal's choices.
        picture: Number of the picture in the recording that they belong to.

    Returns:
        Array of shape (K, C, H, W); its memory may lie in another order.

    Raises:
        TypeError: A step on the way can't be reversed.
    """
    graph = recording.graph
    order = graph.ancestors([target])
    signals = {target: signal}
    for index in reversed(order):
        if index not in signals:
            continue  # a rectifier that was taken together with the step behind it
        step, record = graph.steps[index], of_picture(recording.records[index], picture)
        before = _rectifier_before(graph, order, index)
        mask = None
        if before is not None and rule.relu_mask:
            mask = of_picture(recording.records[before], picture)
        try:
            back, fused = _reverse(step.node, signals.pop(index), record, rule, mask, before is not None and rule.rectify)
        except TypeError as error:
            raise TypeError(f"layer {step.path!r}: {error}") from error
        sources = graph.steps[before].inputs if fused and before is not None else step.inputs
        for source, part in zip(sources, back if isinstance(back, tuple) else (back,), strict=True):
            signals[source] = signals[source] + part if source in signals else part
    return signals[PICTURE]


def _rectifier_before(graph: Graph, order: list[int], index: int) -> int | None:
    """The step whose output a step takes, if that is a ReLU or clipped ReLU that serves this step alone."""
    source = graph.steps[index].inputs[0]
    takers = [other for other in order if source in graph.steps[other].inputs]
    rectifies = source != PICTURE and type(graph.steps[source].node) in (TraceableReLU, TraceableClippedReLU)
    return source if rectifies and takers == [index] else None


def _reverse(node: Any, signal: Array, record: Any, rule: Rule, mask: Array | None, rectify: bool) -> tuple[Any, bool]:
    """A node's way back, and whether it includes that of the rectifier before it."""
    if type(node) is TraceableConvolution2D:
        back = kernels.shared_transposed_convolution_2d(
            _innermost(signal), node.W.array, node.stride, node.pads, node.dilate, node.groups, record, mask, rectify
        )
        return back.transpose(3, 2, 0, 1), True
    if type(node) is TraceableMaxPooling2D and rule.unpooling == "switch":
        switches, insize = record
        back = kernels.shared_unpooling_2d(
            _innermost(signal), insize, node.ksize, node.stride, node.pads, switches, mask, rectify
        )
        return back.transpose(3, 2, 0, 1), True
    if type(node) is TraceableBatchNormalization and signal.ndim == 4:
        # The kernel would lay them out anew.
        ones = array_module(signal).ones((1, signal.shape[1], 1, 1), signal.dtype)
        return signal * node.reverse(ones, record, rule), False
    return node.reverse(signal, record, rule), False


def _innermost(signal: Array) -> Array:
    """Signals (K, C, H, W) as (H, W, C, K)."""
    return array_module(signal).ascontiguousarray(signal.transpose(2, 3, 1, 0))

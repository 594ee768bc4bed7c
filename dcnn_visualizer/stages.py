"""Steps that go back in one call, so that what lies between them is never written to memory on its own.

A convolution or a pooling goes back with the ReLU before it, and a pooling or a batch normalization with the convolution before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dcnn_kernels.arrays import Array
from dcnn_visualizer.graph import Graph
from dcnn_visualizer.rendering import to_host
from dcnn_visualizer.traceable_nodes import (
    TraceableBatchNormalization,
    TraceableClippedReLU,
    TraceableConvolution2D,
    TraceableMaxPooling2D,
    TraceableReLU,
)

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule


class Stage(NamedTuple):
    """One call of the way back.

    Attributes:
        step: The step at whose output the signals are.
        rectifier: The ReLU before it, which the same call goes through.
        convolution: The stage of the convolution before these, where ``step`` is a pooling or a batch normalization and the call
            goes on through it.
        starts: Whether the signals may be what they were at the start, zero in most channels.
    """

    step: int
    rectifier: int | None = None
    convolution: Stage | None = None
    starts: bool = False

    @property
    def steps(self) -> list[int]:
        """All its steps, the last of the network first."""
        own = [self.step] if self.rectifier is None else [self.step, self.rectifier]
        return own if self.convolution is None else own + self.convolution.steps


#: What a stage is told of its steps.
Tell = Callable[[int], Any]


def stages(graph: Graph, target: int, joined: Callable[[int], bool]) -> list[Stage]:
    """The stages of the way back from a step, in order.

    Only where a step alone takes another's output do they go back together, and only nodes of this package's own classes.

    Args:
        graph: The network.
        target: Index of the step at whose output the signals start.
        joined: Whether a max pooling goes back together with the convolution before it, by the pooling's index.
    """
    order = graph.ancestors([target])
    takers = graph.sole_takers(order)

    def with_rectifier(index: int) -> Stage:
        source = graph.steps[index].inputs[0]
        rectifies = takers.get(source) == index and type(graph.steps[source].node) in (TraceableReLU, TraceableClippedReLU)
        fuses = type(graph.steps[index].node) in (TraceableConvolution2D, TraceableMaxPooling2D)
        return Stage(index, source if fuses and rectifies else None)

    def convolves(source: int, taker: int) -> bool:
        return takers.get(source) == taker and type(graph.steps[source].node) is TraceableConvolution2D

    found: list[Stage] = []
    done: set[int] = set()
    starting = {target}
    for index in reversed(order):
        if index in done:
            continue
        stage = with_rectifier(index)._replace(starts=index in starting)
        node = graph.steps[index].node
        sources = graph.steps[stage.steps[-1]].inputs
        if type(node) is TraceableBatchNormalization and convolves(sources[0], index):
            stage = stage._replace(convolution=with_rectifier(sources[0])._replace(starts=stage.starts))
        elif stage.starts:
            starting.update(() if _takes_channels(node) else sources)
        elif type(node) is TraceableMaxPooling2D and joined(index) and convolves(sources[0], stage.steps[-1]):
            stage = stage._replace(convolution=with_rectifier(sources[0]))
        done.update(stage.steps)
        found.append(stage)
    return found


def gate(stage: Stage, record: Tell, rule: Tell) -> tuple[Array | None, bool]:
    """How a stage's call goes through the ReLU before: by which mask, and whether it rectifies."""
    if stage.rectifier is None:
        return None, False
    chosen: Rule = rule(stage.rectifier)
    return record(stage.rectifier) if chosen.relu_mask else None, chosen.rectify


def reverse(graph: Graph, stage: Stage, signal: Array, record: Tell, rule: Tell) -> Any:
    """Takes signals (B, C, H, W) back through a stage.

    Args:
        graph: The network.
        stage: The stage.
        signal: The signals, at the output of its step.
        record: What a step recorded of their pictures, or picture, by index.
        rule: The rule that a step is reversed by, by index.

    Returns:
        The signals at the input of its last step, for a step of several inputs a tuple of them.
    """
    node: Any = graph.steps[stage.step].node
    own, (mask, rectify), scales = record(stage.step), gate(stage, record, rule), None
    if stage.convolution is not None and type(node) is TraceableBatchNormalization:
        stage, scales = stage.convolution, node.scales()
        node, own, (mask, rectify) = graph.steps[stage.step].node, record(stage.step), gate(stage, record, rule)
    elif stage.convolution is not None:
        convolution: Any = graph.steps[stage.convolution.step].node
        before = gate(stage.convolution, record, rule)
        return convolution.reverse_pooled(signal, record(stage.convolution.step), node, own, mask, rectify, *before)
    choices: dict[str, Any] = {} if stage.rectifier is None else {"mask": mask, "rectify": rectify}
    if scales is not None:
        choices["scales"] = scales
    if stage.starts and _takes_channels(node):
        # A signal that starts in a few channels has zeros in all others until the first convolution.
        channels = to_host(signal.any(axis=(2, 3)).any(axis=0)).nonzero()[0].tolist()
        if 0 < 2 * len(channels) <= signal.shape[1]:
            signal, choices = signal[:, channels], choices | {"channels": channels}
    return node.reverse(signal, own, rule(stage.step), **choices)


def _takes_channels(node: Any) -> bool:
    """Whether a node can be given only those channels of a signal that aren't zero."""
    return isinstance(node, TraceableConvolution2D) and node.groups == 1

"""One forward pass, kept for the way back.

A recording holds each layer's record (switches, mask bits, shapes), which is little, and the activations themselves while
they stay within a budget. It grows as deeper layers are asked for, and is found again for the same picture and the same
weights, so that projecting layer after layer, by several methods, runs the network once.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, is_cupy
from dcnn_visualizer import cuda_graphs
from dcnn_visualizer.evaluation import forward_stage
from dcnn_visualizer.fingerprint import Sums, digest, fingerprint, sums
from dcnn_visualizer.graph import PICTURE, Graph
from dcnn_visualizer.layer_state import layer_state
from dcnn_visualizer.traceable_nodes import (
    PassedOver,
    TraceableNode,
)

#: Bytes of activations that one recording keeps. Those beyond it are computed again when asked for.
ACTIVATION_BUDGET = 1 << 29


class _State(NamedTuple):
    """What weights and settings of a step were, to be compared with what they are."""

    weights: list[Sums]
    settings: str

    def is_that_of(self, node: TraceableNode) -> bool:
        """Whether a node's are the same."""
        now = _state(node)
        return now is not None and (digest(now.weights), now.settings) == (digest(self.weights), self.settings)


class Recording:
    """The forward pass of one batch through the graph of one model.

    Args:
        graph: The model's graph.
        picture: Array of shape (B, C, H, W); copied, so that later changes to it do no harm.
        identity: Fingerprint of the picture; None for a recording that its owner alone uses, which doesn't look at the weights.

    Attributes:
        records: What each step recorded keeps for the way back.
        sizes: Bytes of one picture's output of each step recorded, and of the picture.
    """

    def __init__(self, graph: Graph, picture: Array, identity: bytes | None = None) -> None:
        self.graph = graph
        self.identity = identity
        self.records: dict[int, Any] = {}
        self.sizes = {PICTURE: picture.nbytes // max(1, len(picture))}
        self._activations: dict[int, Array] = {PICTURE: picture.copy()}
        self._kept = picture.nbytes
        self._states: dict[int, _State | None] = {}
        self._lock = threading.RLock()

    def serves(self, graph: Graph, identity: bytes) -> bool:
        """Whether picture, layers and weights are still what they were when this was recorded."""
        if identity != self.identity:
            return False
        for index, state in self._states.items():
            if index >= len(graph.steps):
                return False
            (path, node, inputs), recorded = graph.steps[index], self.graph.steps[index]
            same = (path, inputs) == (recorded.path, recorded.inputs) and _same_layer(node, recorded.node)
            # A state that can't be told may have changed.
            if not same or state is None or not state.is_that_of(node):
                return False
        return True

    @property
    def picture(self) -> Array:
        """The batch of pictures."""
        return self._activations[PICTURE]

    @property
    def nbytes(self) -> int:
        """Bytes of the activations and records that it holds."""
        return sum(_nbytes(value) for value in (*self._activations.values(), *self.records.values()))

    def extend(self, target: int) -> Array:
        """Records what a step needs, as far as it isn't recorded yet.

        Args:
            target: Index of the step.

        Returns:
            The step's activation.
        """
        with self._lock:
            order = self.graph.ancestors([target])
            if not self.records and is_cupy(self.picture):
                self._replay(order)
            self._record_steps(order)
            return self._activation(target)

    def _replay(self, order: list[int]) -> None:
        """Takes over what a CUDA graph records of the first steps, if there is one."""
        steps = list(itertools.takewhile(lambda index: cuda_graphs.is_captured(self.graph.steps[index].node), order))
        work = cuda_graphs.work_of(self.graph, steps) if steps else None
        if work is None:
            return
        takers = self.graph.sole_takers(range(len(self.graph.steps)))
        key = "record", work.key, tuple(map(takers.get, steps)), self.identity is None
        graph, identity = self.graph, self.identity

        def record(picture: Array) -> tuple[dict[int, Any], ...]:
            recording = Recording(graph, picture, identity)
            recording._record_steps(steps)
            return recording.records, recording.sizes, recording._activations, recording._states

        outputs = cuda_graphs.replay(work._replace(key=key), [self.picture], record, self)
        if outputs is not None:
            self.records, self.sizes, self._activations, self._states = map(dict, outputs)
            self._kept = sum(activation.nbytes for activation in self._activations.values())

    def _record_steps(self, steps: list[int]) -> None:
        """Records steps, in order, that aren't recorded yet."""
        wanted = set(steps)
        sole = self.graph.sole_takers(range(len(self.graph.steps)))
        takers = {step: taker for step, taker in sole.items() if taker in wanted and taker not in self.records}
        for index in steps:
            if index not in self.records:
                self._record(index, takers)

    def _record(self, index: int, takers: dict[int, int]) -> None:
        """Records a step, and with a convolution the batch normalization and the ReLU behind, without writing what is between.

        Args:
            index: The step.
            takers: By step, the one that alone takes its output, and may be recorded with it.
        """
        node: Any = self.graph.steps[index].node
        taken = [self._activation(source) for source in self.graph.steps[index].inputs]
        together, choices = forward_stage(self.graph, index, takers)
        with self.graph.naming(index):
            activation, record = node.record(*taken, **choices)
        records = dict.fromkeys(together) | {index: record}  # a batch normalization keeps nothing
        if "z" in choices:
            records[together[-1]] = kernels.relu_mask(activation, choices["z"])
        for step in records:
            self.sizes[step] = activation.nbytes // max(1, len(activation))
            if self.identity is not None:
                self._states[step] = _state(self.graph.steps[step].node)
        self.records.update(records)
        self._keep(together[-1], activation)

    def _activation(self, index: int) -> Array:
        if index not in self._activations:
            _, node, inputs = self.graph.steps[index]
            self._keep(index, node.compute(*map(self._activation, inputs)))
        return self._activations[index]

    def _keep(self, index: int, activation: Array) -> None:
        before = self._activations.pop(index).nbytes if index in self._activations else 0
        self._activations[index] = activation
        self._kept += activation.nbytes - before
        # The oldest go first, since a walk asks for the newest next; the picture and the newest always stay.
        while self._kept > ACTIVATION_BUDGET and len(self._activations) > 2:
            oldest = next(itertools.islice(self._activations, 1, None))
            self._kept -= self._activations.pop(oldest).nbytes


_latest: WeakKeyDictionary[chainer.Link, Recording] = WeakKeyDictionary()
_latest_lock = threading.Lock()


def recording_of(model: Any, picture: Array, graph: Graph | None = None) -> Recording:
    """The model's latest recording if it still serves, else a new one.

    Args:
        model: A TraceableChain.
        picture: Array of shape (B, C, H, W).
        graph: The model's graph as it is now, if it is there already.
    """
    graph, identity = graph or model.graph(), fingerprint([picture])
    with _latest_lock:
        recording = _latest.get(model)
        if recording is None or not recording.serves(graph, identity):
            recording = _latest[model] = Recording(graph, picture, identity)
        return recording


def of_pictures(record: Any, pictures: slice) -> Any:
    """Some pictures' part of a step's record; numbers, which tell of shapes, are the same for all.

    Args:
        record: What a step recorded keeps of a batch.
        pictures: Their numbers in the batch.
    """
    if isinstance(record, (tuple, list)):
        return type(record)(of_pictures(part, pictures) for part in record)
    return record[pictures] if hasattr(record, "shape") else record


def _nbytes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_nbytes, value))
    return getattr(value, "nbytes", 0)


def _same_layer(node: TraceableNode, recorded: TraceableNode) -> bool:
    if isinstance(node, PassedOver) and isinstance(recorded, PassedOver):
        return node.function is recorded.function
    # Sums and concatenations are made anew with each graph and hold nothing.
    return node is recorded or (type(node) is type(recorded) and not vars(node) and not vars(recorded))


def _state(node: TraceableNode) -> _State | None:
    """What weights and settings of a node are now, or None if that can't be told."""
    state = layer_state(node)
    return None if state is None else _State(list(map(sums, state.arrays)), state.settings)

"""Repeated work of fixed shapes on a GPU, launched as one CUDA graph.

One channel of one picture is some fifty kernels, most of them shorter than the time that the host takes to launch them. A graph
launches them all at once. It holds addresses, not arrays: so it is found again by the addresses and shapes of all that it reads
(weights changed in place are seen, others in their place are not its own), and lives no longer than these arrays do.

What is new runs as it always does, which compiles its kernels. The second time it is captured, and from then on launched.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from dcnn_kernels.arrays import Array, is_cupy
from dcnn_kernels.cuda.settings import current_engine, current_graphs, current_precision
from dcnn_visualizer.graph import Graph
from dcnn_visualizer.layer_state import layer_state
from dcnn_visualizer.traceable_nodes import (
    PassedOver,
    TraceableAdaptiveAveragePooling2D,
    TraceableLinear,
    TraceableNode,
)

#: Bytes that a thread's graphs may hold together on a device, and one of them alone. What needs more is bound by its kernels.
MEMORY = 1 << 30
LARGEST = 1 << 28
#: Pieces of work that a thread keeps in mind.
PIECES = 64
#: Layers that aren't captured: functions of the user's may do anything, CuPy refuses cuBLAS, and some bring arrays from the host.
EXCEPTED = (PassedOver, TraceableLinear, TraceableAdaptiveAveragePooling2D)


class Work(NamedTuple):
    """What fixes a piece of work, but for its inputs.

    Attributes:
        key: Names, settings and shapes.
        reads: Arrays that it reads where they lie.
    """

    key: Hashable
    reads: list[Array]


class _Launchable(NamedTuple):
    """A graph and what belongs to it.

    Attributes:
        graph: The ``cupy.cuda.Graph``.
        inputs: Arrays that it takes its inputs from.
        outputs: What the work returned; each launch writes these arrays anew.
        pool: The memory of all arrays that the work made.
        reads: The arrays it reads otherwise; when one of them is gone, so is this.
        holders: Who uses the outputs, the last if any.
    """

    graph: Any
    inputs: list[Array]
    outputs: Any
    pool: Any
    reads: list[weakref.ref[Any]]
    holders: list[weakref.ref[Any]]


class _Kept(threading.local):
    """A thread's graphs, the latest used last; None for work that was seen once, and False for what can't be captured."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[Hashable, _Launchable | bool | None] = OrderedDict()


_kept = _Kept()


def is_captured(node: TraceableNode) -> bool:
    """Whether a layer's work depends on shapes and settings alone, and may be part of a graph."""
    own = type(node).__module__.partition(".")[0] == __name__.partition(".")[0]
    return own and not isinstance(node, EXCEPTED)


def work_of(graph: Graph, steps: Iterable[int]) -> Work | None:
    """What fixes the work of some steps; None where that can't be told, or weights don't lie on a device."""
    key: list[Hashable] = []
    reads: list[Array] = []
    for index in steps:
        step = graph.steps[index]
        state = layer_state(step.node)
        if state is None:
            return None
        key.append((index, step.inputs, type(step.node), state.settings, tuple(array is None for array in state.arrays)))
        reads += [array for array in state.arrays if array is not None]
    return Work(tuple(key), reads) if all(map(is_cupy, reads)) else None


def replay(work: Work, inputs: Sequence[Array], run: Callable[..., Any], holder: Any = None) -> Any:
    """Launches the graph of a piece of work, if there is one or it is time to capture one.

    Args:
        work: What fixes it.
        inputs: CuPy arrays that differ from time to time.
        run: ``run(*inputs)`` does the work, by launches alone, and returns arrays in tuples, lists or dicts; it mustn't keep any.
        holder: Who uses the outputs for as long as it lives; meanwhile they aren't written again. None for a caller who copies
            them before it calls again.

    Returns:
        What ``run`` returned, in the graph's own memory; None where the work is to be run as it is.
    """
    if not current_graphs():
        return None
    cupy: Any = sys.modules["cupy"]
    # The outputs of a launch may be read until the stream comes to the next, so that a graph stays with a stream.
    place = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, current_precision(), current_engine()
    key = (work.key, place, tuple(map(_shape, inputs)), tuple((array.data.ptr, *_shape(array)) for array in work.reads))
    graphs = _kept.graphs
    new = key not in graphs
    found = graphs.pop(key, None)
    if found is None and not new:
        found = _capture(cupy, inputs, run, work.reads, _dropper(graphs, key)) or False
    graphs[key] = found
    _trim(graphs)
    if not isinstance(found, _Launchable) or any(other() is not None for other in found.holders):
        return None
    for array, given in zip(found.inputs, inputs, strict=True):
        array[...] = given
    found.graph.launch()
    if holder is not None:
        found.holders[:] = [weakref.ref(holder)]
    return found.outputs


def _shape(array: Array) -> tuple[Hashable, ...]:
    return array.shape, array.strides, array.dtype.str


def _capture(
    cupy: Any, inputs: Sequence[Array], run: Callable[..., Any], reads: list[Array], drop: Callable[[Any], None]
) -> _Launchable | None:
    """The graph, not launched yet; None where CUDA, CuPy or the memory doesn't allow it.

    CUDA's default stream can't be captured, so another one is; nothing runs on it. CuPy captures in the mode in which its pool
    may ask CUDA for more memory.
    """
    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    pool.set_limit(size=LARGEST)
    try:
        with cupy.cuda.using_allocator(pool.malloc):
            taken = [cupy.empty(array.shape, array.dtype) for array in inputs]
            with stream:
                stream.begin_capture()
                try:
                    outputs = run(*taken)
                finally:
                    graph = stream.end_capture()
    except Exception:  # CUDA's refusals have no class of their own, and whatever else is wrong shows when it runs as it is.
        return None
    return _Launchable(graph, taken, outputs, pool, [weakref.ref(array, drop) for array in reads], [])


def _dropper(graphs: OrderedDict[Hashable, Any], key: Hashable) -> Callable[[Any], None]:
    kept = weakref.ref(graphs)

    def drop(_: Any) -> None:
        alive = kept()
        if alive is not None:
            alive.pop(key, None)

    return drop


def _trim(graphs: OrderedDict[Hashable, _Launchable | bool | None]) -> None:
    """Lets go of what was not used for longest, as far as there is too much; never of the latest."""
    held = sum(found.pool.total_bytes() for found in list(graphs.values()) if isinstance(found, _Launchable))
    for key in list(graphs)[:-1]:
        if held <= MEMORY and len(graphs) <= PIECES:
            break
        found = graphs.pop(key, None)
        held -= found.pool.total_bytes() if isinstance(found, _Launchable) else 0

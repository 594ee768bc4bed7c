"""The walk back over the graph, from a step's output to the picture.

On the host it is memory that bounds many signals at once, not arithmetic: deep in the network they are small, and many of them
make wide matrix products; near the picture one alone may fill the cache. So the walk parts its signals on the way, and each part
goes on alone down to the picture before the next, in memory that the one before has just left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnn_kernels.arrays import Array, array_module, is_cupy
from dcnn_visualizer import cuda_graphs
from dcnn_visualizer.batching import fitting, in_batches
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.recording import Recording, of_pictures
from dcnn_visualizer.stages import Stage, reverse, stages

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule

#: Bytes that the signals of one picture under way may take where no budget is given.
SIGNAL_BUDGET = 1 << 30
#: Bytes of signals going in and coming out of a stage on the host. Less makes narrower products, more leaves the cache, and
#: allocators give arrays of 32 MiB and more back to the system. To try another: benchmarks/projection.py.
PART = 32 << 20


def takes_any_number(recording: Recording, target: int) -> bool:
    """Whether the way back from a step takes any number of signals of one picture."""
    return all(recording.graph.steps[index].node.shares_record for index in recording.graph.ancestors([target]))


class Walk:
    """The way back from one step.

    Where the graph forks on the way forward, the signals sum.

    Args:
        recording: The forward pass, recorded at least as far as ``target``.
        target: Index of the step at whose output the signals start; ``PICTURE`` for the picture itself.
        rule: The reversal's choices.
        count: The most signals to come at once: one a picture of the recording, or any number of one picture's.
        memory_budget: Bytes that any number of one picture's signals may take, as far as one fits; None for what is usual.
        picture: Number of the picture in the recording that all signals belong to; None for one signal a picture.
        exceptions: By index, steps that are reversed by another rule.

    Attributes:
        size: How many signals are best taken back at once.
    """

    def __init__(
        self,
        recording: Recording,
        target: int,
        rule: Rule,
        count: int,
        memory_budget: int | None = None,
        picture: int | None = None,
        exceptions: Mapping[int, Rule] | None = None,
    ) -> None:
        self._recording, self._target, self._rule, self._picture = recording, target, rule, picture
        self._exceptions = exceptions or {}
        self._stages = stages(recording.graph, target, lambda step: self._rule_of(step).unpooling == "switch")
        self._fixed = len(self._stages) - sum(1 for _ in itertools.takewhile(self._is_fixed, reversed(self._stages)))
        self._sizes = self._plan(count, memory_budget)
        self.size = self._sizes[0] if self._sizes else count

    def back(self, signal: Array) -> Array:
        """Takes signals back to the picture.

        Args:
            signal: Array of the shape of the step's output, but for the number of signals.

        Returns:
            An array of the picture's shape for each signal.

        Raises:
            TypeError: A step on the way can't be reversed.
        """
        pixels: Array = None

        def take(first: int, some: Array) -> None:
            nonlocal pixels
            if len(some) == len(signal):
                pixels = some
                return
            if pixels is None:
                pixels = array_module(some).empty((len(signal), *some.shape[1:]), some.dtype)
            pixels[first : first + len(some)] = some

        self.deliver(signal, take)
        return pixels

    def deliver(self, signal: Array, take: Callable[[int, Array], None]) -> None:
        """The same, part by part.

        Args:
            signal: As for :meth:`back`.
            take: Is given the number of the first signal of a part, and what :meth:`back` gives for the part. Parts may be given
                again, when memory has run out, and then in other sizes.
        """
        self._deliver(0, {self._target: signal}, 0, take)

    def _deliver(self, number: int, signals: dict[int, Array], first: int, take: Callable[[int, Array], None]) -> None:
        """From one of the stages on.

        Args:
            number: The stage's number.
            signals: Those under way, by the step at whose output they are.
            first: Number of the first of them.
            take: See :meth:`deliver`.
        """
        for at in range(number, len(self._stages)):
            stage, count = self._stages[at], len(next(iter(signals.values())))
            if count > self._sizes[at]:

                def work(start: int, stop: int, at: int = at) -> None:
                    parts = {step: signal[start:stop] for step, signal in signals.items()}
                    self._deliver(at, parts, first + start, take)

                in_batches(count, self._sizes[at], work)
                return
            pixels = self._replay(signals, count) if at == self._fixed else None
            if pixels is not None:
                take(first, pixels)
                return
            self._step(stage, signals, slice(first, first + count))
        take(first, signals[PICTURE])

    def _step(self, stage: Stage, signals: dict[int, Array], numbers: slice) -> None:
        """Through one stage."""
        sources = self._recording.graph.steps[stage.steps[-1]].inputs
        back = self._reverse(stage, signals.pop(stage.step), numbers)
        for source, part in zip(sources, back if isinstance(back, tuple) else (back,), strict=True):
            signals[source] = signals[source] + part if source in signals else part

    def _is_fixed(self, stage: Stage) -> bool:
        """Whether what a stage does depends on shapes alone; where signals start, it depends on the channels they start in."""
        return not stage.starts and all(cuda_graphs.is_captured(self._recording.graph.steps[index].node) for index in stage.steps)

    def _replay(self, signals: dict[int, Array], count: int) -> Array | None:
        """The rest of the way by a CUDA graph, if there is one; only for all pictures of the recording at once."""
        recording, stages = self._recording, self._stages[self._fixed :]
        if len(recording.picture) != (count if self._picture is None else 1) or not all(map(is_cupy, signals.values())):
            return None
        steps = [step for stage in stages for step in stage.steps]
        work = cuda_graphs.work_of(recording.graph, steps)
        if work is None:
            return None
        kept, settings = _parts(recording.records[step] for step in steps)
        key = "reverse", work.key, tuple(stages), tuple(map(self._rule_of, steps)), tuple(signals), tuple(settings)

        def reverse(*given: Array) -> Array:
            under_way = dict(zip(signals, given, strict=True))
            for stage in stages:
                self._step(stage, under_way, slice(0, count))
            return under_way[PICTURE]

        pixels = cuda_graphs.replay(cuda_graphs.Work(key, work.reads + kept), list(signals.values()), reverse)
        return None if pixels is None else pixels.copy()

    def _reverse(self, stage: Stage, signal: Array, numbers: slice) -> Array | tuple[Array, ...]:
        records = self._recording.records
        pictures = numbers if self._picture is None else slice(self._picture, self._picture + 1)
        whole = pictures == slice(0, len(self._recording.picture))

        def record(step: int) -> object:
            return records[step] if whole else of_pictures(records[step], pictures)

        with self._recording.graph.naming(stage.step):
            return reverse(self._recording.graph, stage, signal, record, self._rule_of)

    def _rule_of(self, step: int) -> Rule:
        return self._exceptions.get(step, self._rule)

    def _plan(self, count: int, memory_budget: int | None) -> list[int]:
        """How many signals go through each stage at once, at most."""
        all_at_once = [count] * len(self._stages)
        budget = None if self._picture is None else memory_budget or SIGNAL_BUDGET
        if isinstance(self._recording.picture, np.ndarray) and takes_any_number(self._recording, self._target):
            under_way = self._under_way()
            part = PART
            while part:
                sizes = self._sizes_by(part, count, under_way)
                if budget is None or _peak(sizes, under_way) <= budget:
                    return sizes
                part //= 2
        widest = max((inside for _, inside in self._under_way()), default=1)
        size = fitting(budget, widest, count)
        return all_at_once if budget is None else [size] * len(self._stages)

    def _sizes_by(self, part: int, count: int, under_way: list[tuple[int, int]]) -> list[int]:
        """The plan for stages whose signals take so many bytes."""
        sizes = []
        for _, inside in under_way:
            parts = math.ceil(count / max(1, part // max(1, inside)))
            count = math.ceil(count / max(1, parts))
            sizes.append(count)
        return sizes

    def _under_way(self) -> list[tuple[int, int]]:
        """Bytes of one picture's signals under way, before each stage and within it."""
        sizes = self._recording.sizes
        live = {self._target: sizes[self._target]}
        under_way = []
        for stage in self._stages:
            sources = self._recording.graph.steps[stage.steps[-1]].inputs
            before = sum(live.values())
            under_way.append((before, before + sum(sizes[source] for source in sources)))
            del live[stage.step]
            live.update({source: sizes[source] for source in sources})
        return under_way


def _parts(records: Iterable[Any]) -> tuple[list[Array], list[Any]]:
    """The arrays of some records, and all else of them, with None in the place of an array."""
    arrays: list[Array] = []
    others: list[Any] = []
    for record in records:
        if isinstance(record, (tuple, list)):
            inner, rest = _parts(record)
            arrays += inner
            others.append(tuple(rest))
        elif hasattr(record, "shape"):
            arrays.append(record)
            others.append(None)
        else:
            others.append(record)
    return arrays, others


def _peak(sizes: list[int], under_way: list[tuple[int, int]]) -> int:
    """The most bytes of signals at a time: those that wait for their turn, and those of a stage."""
    peak = waiting = at_once = 0
    for size, (before, inside) in zip(sizes, under_way, strict=True):
        waiting += at_once * before if size < at_once else 0
        at_once = size
        peak = max(peak, waiting + size * inside)
    return peak

"""The walk forward of what an occluder changed.

Hiding a part of a picture changes a part of each layer's activation, which grows from layer to layer. The network runs once
without an occluder; then only the changes are carried forward, for many places of the occluder at once. Exact: whatever isn't
computed is zero.

After S. Nakandala, A. Kumar and Y. Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations" (SIGMOD 2019), who recompute the outputs that change; here convolutions scatter what the changed inputs contribute,
which are fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.arrays import Array, array_module
from dcnn_visualizer import rendering
from dcnn_visualizer.evaluation import compute, evaluate
from dcnn_visualizer.graph import PICTURE, Graph
from dcnn_visualizer.responses import (
    Change,
    Convolved,
    Integers,
    Passed,
    Region,
    Scaled,
    cover,
    laid_out,
    moved,
)
from dcnn_visualizer.traceable_nodes import TraceableNode

#: Places of the occluder that go through the network at once, at most: with more, weights are read no less often.
PLACES = 64
#: Bytes that kernels take for themselves.
WORKSPACE = 64 << 20


class IncrementalSweep:
    """One picture's way through a network, and the ways of its changes.

    Args:
        graph: The network.
        targets: Indices of the steps that are watched.
        picture: Array of shape (1, C, H, W).

    Attributes:
        outputs: The watched steps' activations without an occluder, by index.
        not_finite: Path of the first step that answers NaN or infinity, whose changes can't be told; None if none does.
    """

    def __init__(self, graph: Graph, targets: Sequence[int], picture: Array) -> None:
        self.graph = graph
        self.targets = list(dict.fromkeys(targets))
        self.order = graph.ancestors(self.targets)
        nodes = [graph.steps[index].node for index in self.order]
        if any(weights.array is None for node in nodes if isinstance(node, chainer.Link) for weights in node.params()):
            evaluate(graph, picture, self.targets)  # weights take their shapes from the first input
        self.responses = {index: graph.steps[index].node.response() for index in self.order}
        self.not_finite: str | None = None
        self._lean = False
        self._last_use = {source: index for index in self.order for source in graph.steps[index].inputs}
        self._fold_scales()
        self._shapes: dict[int, tuple[int, ...]] = {PICTURE: picture.shape}
        self._kept: dict[int, Array] = {}
        self._run(picture)
        self.outputs = {target: self._kept[target] for target in self.targets}

    def _fold_scales(self) -> None:
        """Lets convolutions take in the scales that follow them."""
        uses: dict[int, int] = {}
        for index in self.order:
            for source in self.graph.steps[index].inputs:
                uses[source] = uses.get(source, 0) + 1
        for index in self.order:
            response, source = self.responses[index], self.graph.steps[index].inputs[0]
            before = self.responses.get(source)
            alone = uses[source] == 1 and source not in self.targets
            if isinstance(response, Scaled) and isinstance(before, Convolved) and alone:
                before.scale(response.factors)
                self.responses[index] = Passed(response.node)

    def _run(self, picture: Array) -> None:
        """Runs the network once, and keeps what responses read."""
        read = {*self.targets}
        for index in self.order:
            response = self.responses[index]
            read |= {
                *(self.graph.steps[index].inputs if response.reads_inputs else ()),
                *([index] if response.reads_output else ()),
            }
        steps = iter(self.order)

        def apply(node: TraceableNode, *inputs: Array) -> Array:
            index = next(steps)
            output = compute(node, *inputs)
            self._shapes[index] = output.shape
            if self.not_finite is None and not bool(array_module(output).isfinite(output).all()):
                self.not_finite = self.graph.steps[index].path
            if index in read:
                self._kept[index] = laid_out(output) if output.ndim == 4 else output
            return output

        self.graph.evaluate(picture, self.targets, apply)
        self._kept[PICTURE] = laid_out(picture)
        for index in self.order:
            self.responses[index].input_shapes = [self._shapes[source] for source in self.graph.steps[index].inputs]
            self.responses[index].shape = self._shapes[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a step's output for one picture, the batch axis included."""
        return self._shapes[index]

    def regions(self, windows: Integers) -> dict[int, Region | None]:
        """Where each step's output may change; None for outputs that are no maps.

        Args:
            windows: int64 (P, 4): top, left, bottom, right of the occluder at each place; bottom and right are exclusive.
        """
        regions: dict[int, Region | None] = {PICTURE: Region(windows[:, :2], windows[:, 2:])}
        for index in self.order:
            sources = [regions[source] for source in self.graph.steps[index].inputs]
            maps = len(self._shapes[index]) == 4
            regions[index] = self.responses[index].reach(sources, len(windows)) if maps else None
        return regions

    def bytes_per_place(self, regions: dict[int, Region | None]) -> int:
        """The most bytes of changes that one place has at a time."""
        itemsize = self._kept[PICTURE].itemsize
        sizes = {}
        for index, region in regions.items():
            shape = self._shapes[index]
            pixels = (
                math.prod(shape[2:]) if region is None else math.prod((region.stops - region.starts).max(0, initial=0).tolist())
            )
            sizes[index] = shape[1] * pixels * itemsize
        live, most = sizes[PICTURE], 0
        for index in self.order:
            live += sizes[index]
            inputs = self.graph.steps[index].inputs
            most = max(most, live + sizes[index] + sum(sizes[source] for source in inputs))
            live -= sum(sizes[source] for source in {*inputs} if self._last_use[source] == index and source not in self.targets)
        return most

    def places_within(self, budget: int, regions: dict[int, Region | None]) -> int:
        """Places that may go through the network at once, at least 1 and at most :data:`PLACES`.

        Where filters laid out for patches would take more than half of what is left, they are laid out anew for every use.

        Args:
            budget: Bytes for all that a sweep holds.
            regions: As :meth:`regions` gives them.
        """
        left = budget - WORKSPACE - sum(array.nbytes for array in self._kept.values())
        layouts = [response.layout_bytes for response in self.responses.values() if isinstance(response, Convolved)]
        self._lean = sum(layouts) > left // 2
        left -= max(layouts, default=0) if self._lean else sum(layouts)
        return int(np.clip(left // max(1, self.bytes_per_place(regions)), 1, PLACES))

    def order_of_places(self, regions: dict[int, Region | None]) -> Integers:
        """Places in an order in which neighbours change rectangles of about one size: they share patches of that size."""
        sizes = sum(
            np.sqrt(self._shapes[index][1]) * (region.stops - region.starts)
            for index, region in regions.items()
            if region is not None
        )
        return np.lexsort(np.asarray(sizes).T)

    def changes(self, windows: Integers, filled: Array, see: Callable[[int, Change], Any], threshold: float = 0.0) -> None:
        """Carries forward what the occluder changes at some places.

        Args:
            windows: int64 (P, 4): top, left, bottom, right of the occluder at each place; bottom and right are exclusive.
            filled: What it shows, an array that broadcasts to (1, C, H, W).
            see: ``see(target, change)`` is told the change of each watched step.
            threshold: Rows and columns at the edges of changed rectangles are taken for unchanged if no change in them exceeds
                this share of the place's largest; 0 for exact answers.
        """
        changes = {PICTURE: self._hidden(windows, filled)}
        xp = array_module(filled)
        for index in self.order:
            inputs, response, shape = self.graph.steps[index].inputs, self.responses[index], self._shapes[index]
            given = [changes[source] for source in inputs]
            if threshold and response.widens:
                given = [truncated(change, threshold) for change in given]
            place = None
            if len(shape) == 4:
                regions = [None if change.place is None else change.place.region for change in given]
                place = cover(response.reach(regions, len(windows)), (shape[2], shape[3]))
            if place is not None and 0 in place.size:
                values = xp.zeros((len(windows), shape[1], *place.size), filled.dtype)
            else:
                before = [self._kept[source] for source in inputs] if response.reads_inputs else []
                values = response.respond(given, place, before, self._kept[index] if response.reads_output else None)
            if self._lean and isinstance(response, Convolved):
                response.layouts.clear()
            changes[index] = Change(values, place)
            if index in self.targets:
                see(index, changes[index])
            for source in {*inputs}:
                if self._last_use[source] == index:
                    del changes[source]
            if index not in self._last_use:
                del changes[index]

    def _hidden(self, windows: Integers, filled: Array) -> Change:
        """The change of the picture itself."""
        picture = self._kept[PICTURE]
        place = cover(Region(windows[:, :2], windows[:, 2:]), picture.shape[2:])
        values = laid_out(filled - picture, place)
        # Patches are as large as the largest window: outside their own, nothing is hidden.
        rows, columns = (np.arange(size) for size in place.size)
        starts, stops = windows[:, :2] - place.origins, windows[:, 2:] - place.origins
        hidden = ((rows >= starts[:, :1]) & (rows < stops[:, :1]))[:, :, None] & (
            (columns >= starts[:, 1:]) & (columns < stops[:, 1:])
        )[:, None, :]
        if not hidden.all():
            values *= array_module(picture).asarray(hidden[:, None], values.dtype)
        return Change(values, place)


def truncated(change: Change, threshold: float) -> Change:
    """A change without the rows and columns at its edges that hold no more than a share of each place's largest value."""
    if change.place is None or not change.values.size:
        return change
    region, origins, _ = change.place
    largest = rendering.to_host(abs(change.values).max(axis=1))
    held = largest > threshold * largest.max(axis=(1, 2), keepdims=True)
    starts, stops = np.empty_like(region.starts), np.empty_like(region.stops)
    for axis, others in ((0, 2), (1, 1)):
        lines = held.any(axis=others)
        starts[:, axis] = lines.argmax(axis=1)
        stops[:, axis] = np.where(lines.any(axis=1), lines.shape[1] - lines[:, ::-1].argmax(axis=1), 0)
    region = Region(np.maximum(starts + origins, region.starts), np.minimum(stops + origins, region.stops))
    region = Region(region.starts, np.maximum(region.starts, region.stops))
    place = cover(region, (origins + np.array(change.place.size)).max(axis=0))
    return Change(moved(change, place), place)


def measured_change(change: Change, before: Array, measure: str) -> Array:
    """How a measure of each channel changes.

    Args:
        change: Change of a layer's output.
        before: The output without it, (1, channels, …).
        measure: ``"norm"``, the L2 norm of each channel, or ``"value"``.

    Returns:
        Array of shape (P, channels).
    """
    values = change.values
    if measure == "value":
        return values
    xp = array_module(values)
    axes = tuple(range(2, before.ndim))
    norm = xp.sqrt(xp.square(before).sum(axis=axes, dtype=np.float64))
    if change.place is not None:
        before = laid_out(before, change.place)
    # |b + d|² - |b|² = d (2 b + d): summing only what changed loses less than subtracting two norms.
    grown = (values * (2 * before + values)).sum(axis=axes, dtype=np.float64)
    changed = xp.sqrt(xp.maximum(norm * norm + grown, 0))
    total = changed + norm
    return (grown / xp.where(total == 0, 1, total)).astype(values.dtype)


class Watcher:
    """Hides place after place and measures how the watched steps change.

    Args:
        sweep: The picture's way through the network.
        measures: ``"norm"`` or ``"value"``, by watched step.
        batch_size: Places that go through the network at once, at most; halved if memory runs out.
        memory_budget: Bytes for all that the sweep holds.
        advance: Told how many places are done.
        partial: Whether an interruption returns what is finished, NaN elsewhere, instead of raising.
    """

    def __init__(
        self,
        sweep: IncrementalSweep,
        measures: dict[int, str],
        batch_size: int,
        memory_budget: int,
        advance: Callable[[int], Any] = lambda count: None,
        partial: bool = False,
    ) -> None:
        self.sweep, self.measures = sweep, measures
        self.batch_size, self.memory_budget = batch_size, memory_budget
        self.advance, self.partial = advance, partial
        self._interrupted = False

    def watch(self, windows: Integers, filled: Array, threshold: float = 0.0) -> dict[int, Array]:
        """How the watched steps change with the occluder at each place.

        Args:
            windows: int64 (N, 4): top, left, bottom, right of the occluder; bottom and right are exclusive.
            filled: What it shows, (1, C, H, W).
            threshold: As in :meth:`IncrementalSweep.changes`.

        Returns:
            By watched step, an array (N, channels).

        Raises:
            MemoryError: A single place doesn't fit.
        """
        xp, sweep = array_module(filled), self.sweep
        regions = sweep.regions(windows)
        order = sweep.order_of_places(regions)
        found = {
            target: xp.full((len(windows), output.shape[1]), np.nan, output.dtype) for target, output in sweep.outputs.items()
        }
        start, size = 0, min(self.batch_size, sweep.places_within(self.memory_budget, regions))
        while start < len(order) and not self._interrupted:
            stop = min(start + size, len(order))
            seen: dict[int, Array] = {}

            def see(target: int, change: Change, seen: dict[int, Array] = seen) -> None:
                seen[target] = measured_change(change, sweep.outputs[target], self.measures[target])

            try:
                sweep.changes(windows[order[start:stop]], filled, see, threshold)
            except MemoryError:
                if stop - start == 1:
                    raise
                size = (stop - start) // 2
                continue
            except KeyboardInterrupt:
                if not self.partial:
                    raise
                self._interrupted = True
                break
            for target, values in seen.items():
                found[target][start:stop] = values
            self.advance(stop - start)
            start = stop
        as_given = xp.asarray(np.argsort(order))
        return {target: values[as_given] for target, values in found.items()}


class Work(NamedTuple):
    """A layer's part in a sweep.

    Attributes:
        path: The layer's.
        form: How it responds, in a word or two.
        changed: Share of its pixels that change, the mean over places.
        made, plain: Multiplications for a place, and for a run of the whole picture, terms of plain sums both.
    """

    path: str
    form: str
    changed: float
    made: float
    plain: float


def work(sweep: IncrementalSweep, windows: Integers) -> list[Work]:
    """What a sweep does, layer by layer.

    Args:
        sweep: The picture's way through the network.
        windows: int64 (N, 4): top, left, bottom, right of the occluder at each place.
    """
    areas = {}
    for index, region in sweep.regions(windows).items():
        areas[index] = math.prod(sweep.shape(index)[2:]) if region is None else float(region.areas.mean())
    layers = []
    for index in sweep.order:
        response, inputs = sweep.responses[index], sweep.graph.steps[index].inputs
        pixels = [math.prod(sweep.shape(source)[2:]) for source in (*inputs, index)]
        changed = [areas[source] for source in (*inputs, index)]
        made, plain = response.products(changed[:-1], changed[-1]), response.products(pixels[:-1], pixels[-1])
        form = response.form(changed[:-1], changed[-1])
        layers.append(Work(sweep.graph.steps[index].path, form, changed[-1] / pixels[-1], made, plain))
    return layers


def work_table(layers: list[Work]) -> str:
    """How each layer is computed, the share of it that changes, and the multiplications beside a plain run's; then the sum."""
    rows = [("layer", "form", "changes", "MMAC a place", "of a plain run")]
    for layer in layers:
        numbers = (f"{layer.made / 1e6:.3g}", f"{layer.made / layer.plain:.0%}") if layer.plain else ("", "")
        rows.append((layer.path, layer.form, f"{layer.changed:.0%}", *numbers))
    made, plain = sum(layer.made for layer in layers), sum(layer.plain for layer in layers)
    rows.append(("all", "", "", f"{made / 1e6:.3g}", f"{made / plain:.0%}" if plain else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

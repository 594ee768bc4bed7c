"""What a neuron sees, and its projection from that part of a picture alone.

Of a picture, a neuron's projection needs only the neuron's receptive field, on the way forward as on the way back. So many
neurons, each with its own part of its own picture, go through the network as one batch of small pictures.

Parts bring their surroundings instead of padding. What hangs over the border of the picture is held at the padding's value
at every layer, so that parts at the border come out as they do in the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Pair, Region, Window, joined_region, output_shape, seen_region
from dcnn_visualizer.graph import PICTURE, Graph
from dcnn_visualizer.traceable_nodes import TraceableMaxPooling2D, TraceableNode

if TYPE_CHECKING:
    from dcnn_visualizer.reversal import Rule

#: (row, column) of a neuron in its feature map.
Place = tuple[int, int]


class ReceptiveField:
    """What one neuron of a step sees at each step before it.

    Args:
        graph: The network.
        target: Index of the step.
        picture: (H, W) of the pictures.

    Raises:
        ValueError: Some layer on the way sees all of its input, or can't do without its padding.

    Attributes:
        picture: (H, W) of the pictures.
        size: (H, W) of the step's feature maps.
        region: The part of the picture that neuron (0, 0) sees; it hangs over the border.
        step: Rows and columns of the picture between a neuron and the next.
        nbytes: Bytes that a neuron's part of all steps takes, as :meth:`project` has last met them.
    """

    def __init__(self, graph: Graph, target: int, picture: Pair) -> None:
        self._graph, self._target, self.picture = graph, target, picture
        self._order = graph.ancestors([target])
        self._nodes: dict[int, TraceableNode] = {}
        self._windows: dict[int, Window] = {}
        self._sizes: dict[int, Pair] = {PICTURE: picture}
        for index in self._order:
            path, node, inputs = graph.steps[index]
            unpadded = node.unpadded()
            if node.window is None or unpadded is None:
                raise ValueError(f"layer {path!r} doesn't tell which part of its input an output sees")
            self._nodes[index], self._windows[index] = unpadded, node.window
            self._sizes[index] = output_shape(self._sizes[inputs[0]], *node.window)
        # By step, for neuron (0, 0) of the target.
        self._regions, self._steps = {target: Region(0, 0, 1, 1)}, {target: (1, 1)}
        for index in reversed(self._order):
            seen = self._seen(index)
            (down, across), (rows, columns) = self._steps[index], self._windows[index].stride
            for source in graph.steps[index].inputs:
                self._regions[source] = joined_region(self._regions.get(source, seen), seen)
                step = self._steps.setdefault(source, (down * rows, across * columns))
                if step != (down * rows, across * columns):
                    raise ValueError(f"layer {graph.steps[index].path!r} joins branches of several strides")
        self.nbytes = 0
        self.size = self._sizes[target]
        self.region, self.step = self._regions[PICTURE], self._steps[PICTURE]

    @property
    def share(self) -> float:
        """Pixels that a neuron sees over those of the picture."""
        return math.prod(self.region.shape) / math.prod(self.picture)

    def at(self, place: Place) -> Region:
        """The part of the picture that a neuron sees; it may hang over the border."""
        return self._at(PICTURE, place)

    def cut(self, picture: Array, place: Place) -> Array:
        """That part of a picture (C, H, W), zeros outside."""
        region = self.at(place)
        part = array_module(picture).zeros((len(picture), *region.shape), picture.dtype)
        inside, seen = overlap(region, self.picture)
        part[:, *inside] = picture[:, *seen]
        return part

    def paste(self, part: Array, place: Place, picture: Array) -> None:
        """Writes a neuron's part (C, h, w) into a picture (C, H, W); what hangs over the border is dropped."""
        inside, seen = overlap(self.at(place), self.picture)
        picture[:, *seen] = part[:, *inside]

    def project(
        self,
        parts: Array,
        channels: Sequence[int],
        places: Sequence[Place],
        rule: Rule,
        seed: str = "activation",
        exceptions: Mapping[int, Rule] | None = None,
    ) -> tuple[Array, Array]:
        """Projects neurons, each from its part of its picture.

        Args:
            parts: What :meth:`cut` gave for each, shape (N, C, h, w).
            channels: Their channels.
            places: Their places.
            rule: The reversal's choices.
            seed: The signal that starts: their ``"activation"``, or ``"one"``.
            exceptions: By index, steps that are reversed by another rule.

        Returns:
            The projections, of the shape of ``parts``, and the activations, shape (N,).

        Raises:
            IndexError: The layer has no such channel.
        """
        xp, exceptions = array_module(parts), exceptions or {}
        activations, records = {PICTURE: parts}, {}
        for index in self._order:
            node, inputs = self._nodes[index], self._graph.steps[index].inputs
            outside = -math.inf if isinstance(node, TraceableMaxPooling2D) else 0
            taken = [self._take(activations[source], source, index, places, outside) for source in inputs]
            with self._graph.naming(index):
                activations[index], records[index] = node.record(*taken)
            self._clear_outside(activations[index], index, self._regions[index], places, 0)
        activation = activations[self._target]
        for channel, place in zip(channels, places, strict=True):
            if not channel < activation.shape[1]:
                shape = (activation.shape[1], *self.size)
                raise IndexError(f"index {(channel, *place)!r} is outside the layer, whose shape is {shape}")
        self.nbytes = sum(array.nbytes for array in activations.values()) // len(parts)
        neurons = (list(range(len(parts))), list(channels), 0, 0)
        values = activation[neurons]
        del activations

        signals = {self._target: xp.zeros_like(activation)}
        signals[self._target][neurons] = values if seed == "activation" else 1
        for index in reversed(self._order):
            chosen = exceptions.get(index, rule)
            back = self._nodes[index].reverse(signals.pop(index), records.pop(index), chosen)
            for source, part in zip(self._graph.steps[index].inputs, back if isinstance(back, tuple) else (back,), strict=True):
                seen, whole = self._seen(index), self._regions[source]
                if source not in signals and seen != whole:
                    signals[source] = xp.zeros((*part.shape[:2], *whole.shape), part.dtype)
                if source in signals:
                    sums = signals[source].copy()  # a node may have given one signal to several inputs
                    sums[:, :, *_within(seen, whole)] += part
                    part = sums
                self._clear_outside(part, source, whole, places, 0)
                signals[source] = part
        return signals[PICTURE], values

    def _seen(self, index: int) -> Region:
        """What a step's region sees of its inputs."""
        return seen_region(self._regions[index], self._windows[index])

    def _at(self, index: int, place: Place, region: Region | None = None) -> Region:
        (row, column), (down, across) = place, self._steps[index]
        return (region or self._regions[index]).moved(row * down, column * across)

    def _take(self, activation: Array, source: int, index: int, places: Sequence[Place], outside: float) -> Array:
        """A step's input: the part that its region sees of a source."""
        seen = self._seen(index)
        part = activation[:, :, *_within(seen, self._regions[source])]
        if outside:
            part = part.copy()
            self._clear_outside(part, source, seen, places, outside)
        return part

    def _clear_outside(self, part: Array, index: int, region: Region, places: Sequence[Place], value: float) -> None:
        """Fills what hangs over the border; all parts lie over their pictures as ``region`` does for neuron (0, 0)."""
        for one, place in zip(part, places, strict=True):
            (rows, columns), _ = overlap(self._at(index, place, region), self._sizes[index])
            for axis, inside in ((1, rows), (2, columns)):
                for beyond in (slice(inside.start), slice(inside.stop, None)):
                    if one.shape[axis] > inside.stop - inside.start:
                        one[(slice(None),) * axis + (beyond,)] = value


def _within(region: Region, whole: Region) -> tuple[slice, slice]:
    top, left = region.top - whole.top, region.left - whole.left
    return slice(top, top + region.shape[0]), slice(left, left + region.shape[1])


def overlap(region: Region, size: Pair) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a region lies inside a map: the places of the region, and those of the map."""
    inside, seen = [], []
    for first, last, extent in zip(region[:2], region[2:], size, strict=True):
        begin, end = max(0, first), max(0, first, min(extent, last))
        inside.append(slice(begin - first, end - first))
        seen.append(slice(begin, end))
    return (inside[0], inside[1]), (seen[0], seen[1])

"""How a layer's output responds when a part of its input changes.

A *change* is the activation with an occluder in the picture minus the activation without, for a batch of the occluder's places
at once. Of feature maps only a patch is held: a rectangle that covers all that may have changed. Linear layers answer from the
change alone. Others compare their function of the maps with and without it; for these the sweep keeps the activations without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Pair, Window, affected_windows

if TYPE_CHECKING:
    from dcnn_visualizer.traceable_nodes import TraceableNode

Integers = npt.NDArray[np.int64]


class Region(NamedTuple):
    """Where maps may have changed: a rectangle for each place of the occluder.

    Attributes:
        starts: int64 (P, 2), first row and column.
        stops: int64 (P, 2), exclusive; equal to ``starts`` where nothing changed.
    """

    starts: Integers
    stops: Integers

    @property
    def areas(self) -> Integers:
        """Pixels of each rectangle, (P,)."""
        return (self.stops - self.starts).prod(axis=1)


class Place(NamedTuple):
    """Where patches lie: they cover a region, are all of one size, and lie inside the maps.

    Attributes:
        region: What they cover.
        origins: int64 (P, 2), row and column of each patch's first pixel.
        size: Rows and columns of the patches.
    """

    region: Region
    origins: Integers
    size: Pair


class Change(NamedTuple):
    """Changes of one layer's output, for a batch of places of the occluder.

    Attributes:
        values: (P, C, h, w) on patches of maps; (P, ...) of outputs of any other rank.
        place: Where the patches lie; None where the outputs are no maps.
    """

    values: Array
    place: Place | None


def cover(region: Region, size: Pair) -> Place:
    """Patches of one size that cover a region of maps of ``size``."""
    needed = (region.stops - region.starts).max(axis=0, initial=0)
    origins = np.minimum(region.starts, np.array(size) - needed)
    return Place(region, origins, (int(needed[0]), int(needed[1])))


def whole(count: int, size: Pair) -> Region:
    """All of the maps, for each of ``count`` places of the occluder."""
    return Region(np.zeros((count, 2), np.int64), np.tile(np.array(size, np.int64), (count, 1)))


def union(regions: Sequence[Region]) -> Region:
    """The smallest rectangles that hold those of all regions."""
    starts, stops = regions[0]
    for other in regions[1:]:
        empty, other_empty = (stops <= starts).any(1, keepdims=True), (other.stops <= other.starts).any(1, keepdims=True)
        starts, stops = (
            np.where(other_empty, mine, np.where(empty, theirs, reduce(mine, theirs)))
            for mine, theirs, reduce in ((starts, other.starts, np.minimum), (stops, other.stops, np.maximum))
        )
    return Region(starts, stops)


def moved(change: Change, place: Place) -> Array:
    """A change's values on patches at another place."""
    at = change.place
    assert at is not None
    if at.size == place.size and np.array_equal(at.origins, place.origins):
        return change.values
    return kernels.crop_patches(change.values, np.arange(len(change.values)), place.origins - at.origins, place.size)


def laid_out(maps: Array, place: Place | None = None) -> Array:
    """Copies of maps (1, C, H, W) on patches; without a place, the maps themselves, as the kernels on patches read them best."""
    count, origins, size = (1, np.zeros((1, 2), np.int64), maps.shape[2:]) if place is None else (len(place[1]), *place[1:])
    return kernels.crop_patches(maps, np.zeros(count, np.int64), origins, size)


def in_full(change: Change, shape: tuple[int, ...]) -> Array:
    """A change's values on whole outputs, (P, *shape[1:])."""
    if change.place is None:
        return change.values
    count = len(change.values)
    return moved(change, Place(change.place.region, np.zeros((count, 2), np.int64), (shape[2], shape[3])))


class Response:
    """How a layer's output responds; this is the plain answer, which any layer can give: computing it on whole inputs.

    Args:
        node: The layer.

    Attributes:
        reads_inputs: Whether it reads the inputs without the change.
        reads_output: Whether it reads the output without the change.
        widens: Whether what changes of the output is wider than what changes of the input.
        input_shapes: Shapes of the inputs for one picture; the sweep notes them before it asks anything.
        shape: Shape of the output for one picture; likewise.
    """

    reads_inputs = True
    reads_output = True
    widens = False

    def __init__(self, node: TraceableNode) -> None:
        self.node = node
        self.input_shapes: Sequence[tuple[int, ...]] = ()
        self.shape: tuple[int, ...] = ()

    def reach(self, regions: Sequence[Region | None], count: int) -> Region:
        """Where output maps may change.

        Args:
            regions: Where the inputs change; None for inputs that are no maps.
            count: Places of the occluder.
        """
        return whole(count, (self.shape[2], self.shape[3]))

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The output's change.

        Args:
            changes: The inputs' changes.
            place: Where the output's patches are to lie; None if it is no map.
            inputs: The inputs without the change, if they are read.
            output: The output without the change, if it is read.

        Returns:
            The values of a :class:`Change`.
        """
        changed = (before + in_full(change, before.shape) for change, before in zip(changes, inputs, strict=True))
        return self.node.compute(*changed) - output

    def form(self, areas: Sequence[float], area: float) -> str:
        """How it responds, in a word or two, given the mean pixels that change of the inputs and of the output."""
        return "dense"

    def products(self, areas: Sequence[float], area: float) -> float:
        """Multiplications for one place of the occluder, of layers that are made of them."""
        return 0.0


class Passed(Response):
    """The change itself."""

    reads_inputs = reads_output = False

    def reach(self, regions: Sequence[Region | None], count: int) -> Region:
        """Where the inputs change, together."""
        known = [region for region in regions if region is not None]
        return union(known) if len(known) == len(regions) else super().reach(regions, count)

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The change of the one input."""
        return changes[0].values if place is None else moved(changes[0], place)

    def form(self, areas: Sequence[float], area: float) -> str:
        """As the class says."""
        return "pixel by pixel"


class Pointwise(Passed):
    """A layer of which each pixel of the output depends on the same pixel of the inputs."""

    reads_inputs = reads_output = True

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The layer on the changed patches, less its output there."""
        if place is None:
            return super(Passed, self).respond(changes, place, inputs, output)
        changed = (moved(change, place) + laid_out(before, place) for change, before in zip(changes, inputs, strict=True))
        return self.node.compute(*changed) - laid_out(output, place)


class Rectified(Passed):
    """A rectifier, ``min(max(v, 0), z) + slope * min(v, 0)``.

    Args:
        node: The layer.
        z: Upper bound.
        slope: Factor of negative values.
    """

    reads_inputs = True

    def __init__(self, node: TraceableNode, z: float = math.inf, slope: float = 0.0) -> None:
        super().__init__(node)
        self.z, self.slope = z, slope

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """Rectified with the change, less rectified without."""
        change, before = changes[0], inputs[0]
        if place is not None:
            return kernels.rectify_patches(moved(change, place), place.origins, before, self.z, self.slope)
        values = change.values
        pixels, pixel = (array.reshape(len(array), -1, 1, 1) for array in (values, before))
        return kernels.rectify_patches(pixels, np.zeros((len(values), 2), np.int64), pixel, self.z, self.slope).reshape(
            values.shape
        )


class Scaled(Passed):
    """Multiplication by a factor a channel, as batch normalization is at inference.

    Args:
        node: The layer.
        factors: (C,).
    """

    def __init__(self, node: TraceableNode, factors: Array) -> None:
        super().__init__(node)
        self.factors = factors

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The products."""
        values = super().respond(changes, place, inputs, output)
        return values * self.factors.reshape(-1, *(1,) * (values.ndim - 2))


class Added(Passed):
    """A sum of several inputs."""

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The changes' sum."""
        first, second, *others = [change.values if place is None else moved(change, place) for change in changes]
        total = first + second
        for values in others:
            total += values
        return total


class Concatenated(Passed):
    """Inputs one after the other along the channels."""

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The changes, one after the other."""
        parts = [change.values if place is None else moved(change, place) for change in changes]
        return array_module(parts[0]).concatenate(parts, axis=1)


class _Windowed(Response):
    """What layers share whose outputs look at windows."""

    def __init__(self, node: TraceableNode) -> None:
        super().__init__(node)
        assert node.window is not None
        self.window: Window = node.window
        self.widens = self.window.ksize != (1, 1)

    def reach(self, regions: Sequence[Region | None], count: int) -> Region:
        """The windows that see a changed pixel."""
        (region,) = regions
        assert region is not None
        (ksize, stride, pad, dilate, _), (starts, stops) = self.window, region
        empty = (stops <= starts).any(axis=1, keepdims=True)
        axes = [
            affected_windows(
                starts[:, [axis]], np.where(empty, starts, stops)[:, [axis]],
                self.shape[2 + axis], ksize[axis], stride[axis], pad[axis][0], dilate[axis],
            )
            for axis in (0, 1)
        ]  # fmt: skip
        first, last = (np.concatenate([axis[end] for axis in axes], axis=1) for end in (0, 1))
        none = (last <= first).any(axis=1, keepdims=True)
        return Region(np.where(none, 0, first), np.where(none, 0, last))

    def _offsets(self, change: Change, place: Place) -> Integers:
        """Row and column, in the input's patches, of the first tap of the first output's window."""
        assert change.place is not None
        pad = np.array([before for before, _ in self.window.pad])
        return place.origins * np.array(self.window.stride) - pad - change.place.origins

    def form(self, areas: Sequence[float], area: float) -> str:
        """Changed outputs are computed anew, each from its window."""
        return "window by window"


class Convolved(_Windowed):
    """A convolution.

    Args:
        node: The layer.
        W: Its filters.
        groups: Number of channel groups.
    """

    reads_inputs = reads_output = False

    def __init__(self, node: TraceableNode, W: Array, groups: int) -> None:
        super().__init__(node)
        self.W, self.groups = W, groups
        self.layouts: dict[str, Any] = {}

    @property
    def layout_bytes(self) -> int:
        """Bytes that the filters take as they are laid out for patches, at most: those of 3x3 have 36 values for 9 taps."""
        return 4 * self.W.nbytes if self.W.shape[2:] == (3, 3) and self.window.stride == (1, 1) else self.W.nbytes

    def scale(self, factors: Array) -> None:
        """Takes in a multiplication that follows, by a factor a channel."""
        self.W = self.W * factors[:, None, None, None]

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The convolution of the change, without bias."""
        assert place is not None
        offsets, (_, stride, _, dilate, _) = self._offsets(changes[0], place), self.window
        return kernels.convolve_patches(
            changes[0].values, offsets, self.W, place.size, stride, dilate, self.groups, layouts=self.layouts
        )

    def form(self, areas: Sequence[float], area: float) -> str:
        """Whether changed inputs are scattered, or changed outputs gathered; dense where all outputs change."""
        if area >= 0.999 * math.prod(self.shape[2:]):
            return "dense"
        return "scattered" if self._scatters(areas[0], area) else "gathered"

    def products(self, areas: Sequence[float], area: float) -> float:
        """Of the plain sums, without what evaluation saves."""
        pixels = min(areas[0], area) if self._scatters(areas[0], area) else area
        return pixels * math.prod(self.W.shape)

    def _scatters(self, inputs: float, outputs: float) -> bool:
        _, stride, _, dilate, _ = self.window
        sizes = (1, round(inputs)), (1, round(outputs))
        return kernels.patch_form(self.W, *sizes, stride, dilate, self.groups) == "scatter"


class MaxPooled(_Windowed):
    """Max pooling."""

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """Maxima with the change, less those without."""
        (change,), (before,) = changes, inputs
        assert place is not None
        assert change.place is not None
        ksize, stride, pad = self.window[:3]
        origins = change.place.origins
        return kernels.max_pool_patches(
            change.values, origins, before, output, place.origins, place.size, ksize, stride, pad
        )  # fmt: skip


class AveragePooled(_Windowed):
    """Average pooling.

    Args:
        node: The layer.
        count_include_pad: Whether padding counts as zeros, or not at all.
    """

    reads_inputs = reads_output = False

    def __init__(self, node: TraceableNode, count_include_pad: bool) -> None:
        super().__init__(node)
        self.count_include_pad = count_include_pad

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The change's averages."""
        (change,) = changes
        assert place is not None
        ksize, stride = self.window[:2]
        seen = [(n - 1) * s + k for n, s, k in zip(place.size, stride, ksize, strict=True)]
        windows = kernels.crop_patches(change.values, np.arange(len(change.values)), self._offsets(change, place), seen)
        averages = kernels.average_pooling_2d(windows, ksize, stride)
        if self.count_include_pad:
            return averages
        inside = array_module(averages).ones((1, 1, *self.input_shapes[0][2:]), averages.dtype)
        shares = laid_out(kernels.average_pooling_2d(inside, ksize, stride, self.window.pad), place)
        return averages / (shares + (shares == 0))


class Averaged(Response):
    """The mean of each map."""

    reads_inputs = reads_output = False

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The change's sum over the pixels of its patch, over the number of all pixels."""
        return changes[0].values.sum(axis=(2, 3)) / math.prod(self.input_shapes[0][2:])

    def form(self, areas: Sequence[float], area: float) -> str:
        """As the class says."""
        return "changed pixels"


class Flattened(Response):
    """Maps in a row."""

    reads_inputs = reads_output = False

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The change on whole maps, in a row."""
        return in_full(changes[0], self.input_shapes[0]).reshape(-1, *self.shape[1:])


class Weighted(Flattened):
    """A linear layer.

    Args:
        node: The layer.
        W: Its weights.
    """

    def __init__(self, node: TraceableNode, W: Array) -> None:
        super().__init__(node)
        self.W = W

    def respond(self, changes: Sequence[Change], place: Place | None, inputs: Sequence[Array], output: Array) -> Array:
        """The weights times the change, without bias."""
        values = in_full(changes[0], self.input_shapes[0])
        return kernels.linear(values.reshape(len(values), self.W.shape[1]), self.W, None)

    def products(self, areas: Sequence[float], area: float) -> float:
        """All weights."""
        return math.prod(self.W.shape)


def response_of(node: TraceableNode) -> Response:
    """The response of a layer that doesn't give one of its own."""
    return Pointwise(node) if node.window == Window((1, 1)) else Response(node)

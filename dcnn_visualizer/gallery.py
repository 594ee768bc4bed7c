"""What excites each channel of a layer most, in a whole collection of pictures, and why.

After figure 2 of M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014: for each channel,
the nine places where it answers most strongly, what it sees there, and the projections of its answers to the pixels.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Pair, Region
from dcnn_visualizer import rendering
from dcnn_visualizer.batching import fitting
from dcnn_visualizer.evaluation import evaluate
from dcnn_visualizer.graph import check_traceable
from dcnn_visualizer.receptive_field import ReceptiveField, overlap
from dcnn_visualizer.reversal import SIGNAL_BUDGET, WAYS, Reversal, check_seed, picture_groups

#: Pictures that go forward at once.
GROUP = 4
#: Parts of pictures that go through the network at once, at most.
MOST = 256
#: White pixels between a channel's parts, between them and their projections, and between channels.
GAPS = (2, 4, 10)


@dataclass(frozen=True)
class TopActivations:
    """Each channel's strongest places in a collection of pictures, the strongest first.

    Attributes:
        layer: The layer's path.
        channels: The channels, shape (n,).
        values: Their activations there, shape (n, k); with fewer than k pictures, there are as many places as pictures.
        pictures: Numbers of the pictures, from 0, shape (n, k).
        places: (row, column) in the feature map, shape (n, k, 2); for a layer without maps of shape (n, k, 0).
    """

    layer: str
    channels: np.ndarray
    values: np.ndarray
    pictures: np.ndarray
    places: np.ndarray

    def of_rows(self, rows: slice) -> TopActivations:
        """The places of some of the channels."""
        return TopActivations(self.layer, self.channels[rows], self.values[rows], self.pictures[rows], self.places[rows])


class Strongest(NamedTuple):
    """One of a channel's strongest places, what it sees, and its projection.

    Attributes:
        row: Of the channel among those asked for.
        rank: 0 for the strongest.
        picture: Number of the picture.
        region: The part of the picture that the place sees; it may hang over the border.
        part: That part, as the network takes it, shape (C, h, w), zeros where it hangs over.
        pixels: The projection, of the same shape, zeros where it hangs over.
        inside: Rows and columns of the part that don't hang over.
    """

    row: int
    rank: int
    picture: int
    region: Region
    part: Array
    pixels: Array
    inside: tuple[slice, slice]


def top_activations(
    model: Any, images: Iterable[Any], layer: str, k: int = 9, channels: Sequence[int] | None = None
) -> TopActivations:
    """Finds where the channels of a layer answer most strongly; each picture counts by its strongest place alone.

    Memory holds a few pictures at a time, and the places found.

    Args:
        model: A TraceableChain.
        images: Pictures (C, H, W), as :meth:`~dcnn_visualizer.reversal.Reversal.analyze` takes them: any collection, or a stream.
        layer: The layer's path.
        k: Places to keep for each channel.
        channels: The channels; None for all.

    Returns:
        The places. Of equal values the earlier picture's wins, and within a picture the first in row order.

    Raises:
        KeyError: No such layer.
        IndexError: No such channel.
        TypeError: Not pictures, or ``k`` is no integer.
        ValueError: No pictures, one of a wrong shape or with NaN, or ``k`` below 1.
    """
    check_traceable(model)
    graph = model.graph()
    target = graph.index(layer)
    if not isinstance(k, numbers.Integral):
        raise TypeError(f"k must be an integer, got {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    best: TopActivations | None = None
    count = 0
    for group in picture_groups(images, GROUP):
        with (
            chainer.using_device(chainer.backend.get_device_from_array(group)),
            chainer.no_backprop_mode(),
            chainer.using_config("train", False),
        ):
            (activation,) = evaluate(graph, group, [target])
        chosen = _check_channels(channels, activation.shape[1])
        maps = activation[:, array_module(activation).asarray(chosen)].reshape(len(group), len(chosen), -1)
        values = rendering.to_host(maps.max(axis=2)).T
        flat = rendering.to_host(maps.argmax(axis=2)).T
        places = np.stack(np.unravel_index(flat, activation.shape[2:]), 2) if activation.ndim > 2 else flat[..., None][..., :0]
        pictures = np.broadcast_to(np.arange(count, count + len(group)), values.shape)
        found = TopActivations(layer, chosen, values, pictures, places)
        best = _best(found if best is None else _beside(best, found), k)
        count += len(group)
    if best is None:
        raise ValueError("there must be at least one picture, got none")
    return best


def project_top_activations(
    reversal: Reversal,
    images: Iterable[Any],
    top: TopActivations,
    seed: str = "activation",
    memory_budget: int | None = None,
) -> Iterator[Strongest]:
    """Projects each of the places found, within what it sees.

    Args:
        reversal: The method.
        images: The pictures among which the places were found, in the same order.
        top: The places.
        seed: The signal that starts: their ``"activation"``, or ``"one"``.
        memory_budget: Bytes that the parts under way may take.

    Yields:
        Each place's projection, in the order of the pictures.

    Raises:
        ValueError: An unknown seed, or fewer pictures than before.
    """
    check_seed(seed)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for row, rank in zip(*np.indices(top.pictures.shape).reshape(2, -1), strict=True):
        wanted.setdefault(int(top.pictures[row, rank]), []).append((int(row), int(rank)))
    batch, last = _Batch(reversal, top, seed, memory_budget), max(wanted, default=-1)
    for number, group in enumerate(picture_groups(images, 1)):
        if number in wanted:
            yield from batch.add(number, group[0], wanted.pop(number))
        if number == last:
            break
    if wanted:
        raise ValueError(f"places were found in picture {last}, and now there are fewer pictures")
    yield from batch.project()


class _Batch:
    """Places that wait until there are enough of them to be projected together."""

    def __init__(self, reversal: Reversal, top: TopActivations, seed: str, memory_budget: int | None) -> None:
        self.reversal, self.top, self.seed, self.memory_budget = reversal, top, seed, memory_budget
        self.field: ReceptiveField | None = None
        self.waiting: list[tuple[int, int, int, Array]] = []  # row, rank, picture, part

    def add(self, number: int, x: Array, wanted: Sequence[tuple[int, int]]) -> Iterator[Strongest]:
        """Takes a picture's places, and gives what becomes ready."""
        if self.field is None or self.field.picture != x.shape[1:]:
            yield from self.project()
            self.field = self.reversal.field(self.top.layer, x.shape[1:])
        if self.field is None:
            yield from self.project_whole(number, x, wanted)
            return
        for row, rank in wanted:
            self.waiting.append((row, rank, number, self.field.cut(x, self.place(row, rank))))
            # The first tells how much memory the others take.
            most = fitting(self.memory_budget or SIGNAL_BUDGET, WAYS * self.field.nbytes, MOST) if self.field.nbytes else 1
            if len(self.waiting) >= most:
                yield from self.project()

    def project(self) -> Iterator[Strongest]:
        """Projects those that wait, each from its part of its picture."""
        waiting, self.waiting = self.waiting, []
        if not waiting or self.field is None:
            return
        parts = array_module(waiting[0][3]).stack([part for *_, part in waiting])
        places = [self.place(row, rank) for row, rank, *_ in waiting]
        channels = [int(self.top.channels[row]) for row, *_ in waiting]
        with chainer.using_device(chainer.backend.get_device_from_array(parts)):
            projections, _ = self.field.project(parts, channels, places, self.reversal.rule, self.seed)
        for (row, rank, number, part), place, pixels in zip(waiting, places, projections, strict=True):
            region = self.field.at(place)
            yield Strongest(row, rank, number, region, part, pixels, overlap(region, self.field.picture)[0])

    def project_whole(self, number: int, x: Array, wanted: Sequence[tuple[int, int]]) -> Iterator[Strongest]:
        """Projects places that see most of a picture."""
        indices = [(int(self.top.channels[row]), *map(int, self.top.places[row, rank])) for row, rank in wanted]
        region = Region(0, 0, *x.shape[1:])
        projections = self.reversal.analyze_many([x], self.top.layer, indices, self.seed, self.memory_budget)
        for (row, rank), projection in zip(wanted, projections, strict=True):
            yield Strongest(row, rank, number, region, x, projection.pixels, overlap(region, x.shape[1:])[0])

    def place(self, row: int, rank: int) -> Pair:
        """(row, column) of a place."""
        down, across = map(int, self.top.places[row, rank])
        return down, across


def gallery(
    reversal: Reversal,
    images: Iterable[Any],
    layer: str,
    channels: Sequence[int] | None = None,
    k: int = 9,
    seed: str = "activation",
    paint: Callable[[Array], np.ndarray] = rendering.displayable,
    percentile: float = 99.0,
    memory_budget: int | None = None,
) -> np.ndarray:
    """Draws, channel by channel, what excites it most and the projections of its answers, as Zeiler and Fergus did.

    Example:
        >>> write_png("conv3.png", gallery(DeconvNet(model), Folder("photos", preprocess), "conv3_3", channels=range(16)))

    Args:
        reversal: The method.
        images: Pictures (C, H, W), in a collection that can be gone through twice, such as a list or a
            :class:`~dcnn_visualizer.dataset.Folder`.
        layer: The layer's path.
        channels: The channels; None for all.
        k: Places for each channel.
        seed: The signal that starts: the ``"activation"``, or ``"one"``.
        paint: Turns a picture as the network takes it into one to look at, floats in 0..1 of shape (H, W, 3).
        percentile: Of the magnitudes of a projection above zero; those beyond it are clipped.
        memory_budget: Bytes that parts of pictures under way may take; the drawing itself comes on top.

    Returns:
        float32 array of shape (H, W, 3) in 0..1: for each channel its parts of pictures on the left and their projections on
        the right, each in its own scale. Channels follow one another in rows; what is outside a picture is white.

    Raises:
        KeyError: No such layer.
        IndexError: No such channel.
        TypeError: ``images`` can be gone through once only, or holds something else than pictures.
        ValueError: No pictures, or a bad one.
    """
    if not isinstance(reversal, Reversal):
        raise TypeError(f"reversal must be a Reversal, such as DeconvNet(model), got {type(reversal).__name__}")
    if iter(images) is images:
        raise TypeError(f"images must be a collection that can be gone through twice, got {type(images).__name__}")
    top = top_activations(reversal.model, images, layer, k, channels)
    return draw(project_top_activations(reversal, images, top, seed, memory_budget), top, paint, percentile=percentile)


def draw(
    projections: Iterable[Strongest],
    top: TopActivations,
    paint: Callable[[Array], np.ndarray] = rendering.displayable,
    to_rgb: Callable[[Array], Array] = lambda projection: projection,
    percentile: float = 99.0,
) -> np.ndarray:
    """Lays projections out as :func:`gallery` does.

    Args:
        projections: What :func:`project_top_activations` gives.
        top: The places that were projected.
        paint: As in :func:`gallery`.
        to_rgb: Brings the colours of a projection (C, H, W) into the order of red, green and blue.
        percentile: As in :func:`gallery`.

    Returns:
        As :func:`gallery`.
    """
    shown: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for one in projections:
        both = paint(one.part), rendering.projection_to_rgb(to_rgb(one.pixels), percentile)
        shown[one.row, one.rank] = both[0] * _inside(one), both[1] * _inside(one)
        for picture in shown[one.row, one.rank]:
            picture += 1 - _inside(one)
    sizes = [picture.shape[:2] for picture, _ in shown.values()]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    white = np.ones((height, width, 3), np.float32)
    blocks = []
    for row in range(len(top.channels)):
        pairs = [shown.get((row, rank), (white, white)) for rank in range(top.values.shape[1])]
        sides = [rendering.tile([_filled(picture, white) for picture in side], GAPS[0]) for side in zip(*pairs, strict=True)]
        gap = np.ones((len(sides[0]), GAPS[1], 3), np.float32)
        blocks.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
    return rendering.tile(blocks, GAPS[2])


def _inside(one: Strongest) -> np.ndarray:
    """1 where a part is inside its picture and 0 outside, shape (h, w, 1)."""
    inside = np.zeros((*one.region.shape, 1), np.float32)
    inside[one.inside] = 1
    return inside


def _filled(picture: np.ndarray, white: np.ndarray) -> np.ndarray:
    """A picture at the top left of a larger white one."""
    if picture.shape == white.shape:
        return picture
    filled = white.copy()
    filled[: picture.shape[0], : picture.shape[1]] = picture
    return filled


def _check_channels(channels: Sequence[int] | None, count: int) -> np.ndarray:
    if channels is None:
        return np.arange(count)
    try:
        chosen = np.array([operator.index(channel) for channel in channels], int)
    except TypeError:
        raise TypeError(f"channels must be a list of integers, got {channels!r}") from None
    if not len(chosen):
        raise ValueError("channels must name at least one, got none")
    if chosen.min() < 0 or chosen.max() >= count:
        raise IndexError(f"channels must be in 0..{count - 1}, got {list(channels)}")
    return chosen


def _beside(one: TopActivations, other: TopActivations) -> TopActivations:
    """The places of both."""
    parts = ((getattr(top, name) for top in (one, other)) for name in ("values", "pictures", "places"))
    return TopActivations(one.layer, one.channels, *(np.concatenate(list(part), axis=1) for part in parts))


def _best(top: TopActivations, k: int) -> TopActivations:
    """The k strongest of each channel; a stable sort leaves equal ones in the order of their pictures."""
    order = np.argsort(-top.values, axis=1, kind="stable")[:, :k]
    values, pictures = (np.take_along_axis(array, order, axis=1) for array in (top.values, top.pictures))
    return TopActivations(top.layer, top.channels, values, pictures, np.take_along_axis(top.places, order[:, :, None], axis=1))

"""The rules of reversal, and what is projected by them.

The three published methods are cells of one cube: ReLU† masked by the forward sign or not, the backward signal rectified
or not, unpooling by switches or otherwise (A. Mahendran and A. Vedaldi, "Salient Deconvolutional Networks", ECCV 2016).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array, array_module, check_float
from dcnn_kernels.cuda.settings import current_graphs, graphs
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import Pair
from dcnn_visualizer.batching import fitting, in_batches
from dcnn_visualizer.graph import Graph, check_traceable
from dcnn_visualizer.receptive_field import ReceptiveField
from dcnn_visualizer.recording import Recording, recording_of
from dcnn_visualizer.rendering import to_host
from dcnn_visualizer.walk import SIGNAL_BUDGET, Walk, takes_any_number

SEEDS = ("activation", "one")
#: Signals that go back at once, or more: enough to make wide matrix products of the deepest layers.
BATCH = 16
#: Of its part of a picture, a neuron alone needs the way forward and back; the picture's own way forward is there already.
WAYS = 2


@dataclass(frozen=True)
class Peak:
    """The place where a channel's feature map is largest, in each picture its own; the first of several.

    Attributes:
        channel: The channel.
    """

    channel: int


#: A channel, a neuron (c, y, x), a channel's Peak, or None for the whole layer.
Place = int | tuple[int, ...] | Peak | None
#: One place, or a list or array of them.
Index = Place | Sequence[Place] | npt.NDArray[np.integer]


class Projection(NamedTuple):
    """One of a stream of projections.

    Attributes:
        picture: Number of the picture in its stream, from 0.
        place: The channel, neuron or other place asked for.
        pixels: The projection, of the picture's shape and dtype.
    """

    picture: int
    place: Place
    pixels: Array


@dataclass(frozen=True)
class Rule:
    """What a reversal chooses.

    Attributes:
        relu_mask: Whether ReLU† lets a signal pass only where the forward input was positive.
        rectify: Whether ReLU† keeps only the positive part of the signal.
        unpooling: Where a pooled signal goes: ``"switch"``, ``"center"`` or ``"spread"``.
        lrn: Local response normalization as ``"identity"`` or by its true ``"gradient"``.

    Raises:
        ValueError: An unknown choice.
    """

    relu_mask: bool
    rectify: bool
    unpooling: str = "switch"
    lrn: str = "identity"

    def __post_init__(self) -> None:
        for name, choices in (
            ("relu_mask", (True, False)),
            ("rectify", (True, False)),
            ("unpooling", ("switch", "center", "spread")),
            ("lrn", ("identity", "gradient")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")


def check_picture(img: Any) -> tuple[Array, bool]:
    """Returns a picture as a batch.

    Args:
        img: Array or Variable of shape (C, H, W) or (B, C, H, W), float32 or float64.

    Returns:
        An array of shape (B, C, H, W), and whether it was a single picture.

    Raises:
        TypeError: No array, or another dtype.
        ValueError: Another rank, no pixels, NaN or infinity.
    """
    x = img.array if isinstance(img, chainer.Variable) else img
    check_float("img", x, (3, 4))
    if 0 in x.shape[-3:]:
        raise ValueError(f"img must have channels and pixels, got shape {x.shape}")
    xp = array_module(x)
    if not bool(xp.isfinite(x).all()):
        raise ValueError("img must be finite, got NaN or infinity in it")
    return (x[None], True) if x.ndim == 3 else (x, False)


def check_seed(seed: str) -> None:
    """Raises ValueError unless a seed is one of those there are."""
    if seed not in SEEDS:
        raise ValueError(f"seed must be one of {SEEDS}, got {seed!r}")


def check_index(index: int | tuple[int, ...] | None, shape: tuple[float, ...]) -> tuple[int, ...]:
    """Returns a place in a layer as a tuple of 0 (the layer), 1 (a channel) or all (a neuron) indices.

    Args:
        index: None, a channel, or a neuron's tuple.
        shape: The layer's shape without the batch axis; ``math.inf`` for a size not known yet.

    Raises:
        TypeError: Not integers.
        IndexError: Outside the layer; negative indices are.
        ValueError: A tuple of another length.
    """
    if index is None:
        return ()
    try:
        place = tuple(operator.index(i) for i in (index if isinstance(index, tuple) else (index,)))
    except TypeError:
        raise TypeError(f"index must be a channel, a tuple {_axes(shape)} or a list of either, got {index!r}") from None
    if isinstance(index, tuple) and len(place) != len(shape):
        raise ValueError(f"a neuron of this layer is addressed by {len(shape)} indices {_axes(shape)}, got {index!r}")
    if any(not 0 <= i < size for i, size in zip(place, shape, strict=False)):
        sizes = ", ".join("any" if size == math.inf else str(size) for size in shape)
        raise IndexError(f"index {index!r} is outside the layer, whose shape is ({sizes}{',' * (len(shape) == 1)})")
    return place


def _several(index: Index) -> tuple[list[Place], bool]:
    """The places that an index names, and whether it is a list of them."""
    if isinstance(index, np.ndarray) and index.ndim == 1:
        return index.tolist(), True
    if isinstance(index, Sequence) and not isinstance(index, (tuple, str)):
        return list(index), True
    return [index], False  # type: ignore[list-item]  # whatever it is, check_index looks at it


def _axes(shape: tuple[float, ...]) -> str:
    return "(c, y, x)" if len(shape) == 3 else "(unit,)" if len(shape) == 1 else f"of {len(shape)} indices"


class Neuron(NamedTuple):
    """A neuron to project, and where to."""

    row: int
    picture: int
    channel: int
    place: tuple[int, int]


class Reversal:
    """Projects activations back to pixels by a rule of one's choice.

    Args:
        model: A TraceableChain, or one of the composite blocks.
        relu_mask: Whether ReLU† lets a signal pass only where the forward input was positive.
        rectify: Whether ReLU† keeps only the positive part of the signal.
        unpooling: ``"switch"``: to where the maximum was; ``"center"``: to offset (k-1)//2 of the window; ``"spread"``: shared
            out evenly over the window.
        lrn: Local response normalization as ``"identity"`` or by its true ``"gradient"``.

    Raises:
        TypeError: ``model`` is no traceable chain.
        ValueError: An unknown choice.
    """

    def __init__(
        self, model: Any, relu_mask: bool = True, rectify: bool = True, unpooling: str = "switch", lrn: str = "identity"
    ) -> None:
        check_traceable(model)
        self.model = model
        self.rule = Rule(relu_mask, rectify, unpooling, lrn)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.rule})"

    @takes_any_array
    def analyze(
        self, img: Any, layer: str, index: Index = None, seed: str = "activation", memory_budget: int | None = None
    ) -> Array:
        """Projects a layer, a channel or a neuron back to the picture.

        The forward pass is recorded once, and reused as long as picture and weights stay the same.

        Args:
            img: Picture (C, H, W) or batch (B, C, H, W), float32 or float64, the network's own preprocessing done; NumPy or CuPy,
                or of any library that speaks DLPack, such as a torch tensor.
            layer: The layer's path.
            index: A channel, a tuple (c, y, x) for one neuron, a :class:`Peak`, None for the whole layer, or a list of these, or
                an array of channels. A neuron far smaller in sight than the picture is projected from its receptive field alone.
            seed: The signal that starts at the places chosen: their ``"activation"``, or ``"one"``.
            memory_budget: Bytes that activations and records may take; a batch that needs more goes through in parts. Without
                one, the batch goes through whole, and in halves if memory runs out.

        Returns:
            An array of the shape, dtype and kind of ``img``; for a list one more axis leads.

        Raises:
            KeyError: No such layer.
            IndexError: ``index`` is outside the layer.
            TypeError: A wrong kind of picture or index, or a layer on the way that can't be reversed.
            ValueError: A wrong shape, NaN, or an unknown seed.
        """
        x, single = check_picture(img)
        check_seed(seed)
        fitting(memory_budget, 1, 1)
        graph = self.model.graph()
        target = graph.index(layer)
        chosen, several = _several(index)
        xp = array_module(x)
        result = xp.empty((len(chosen), *x.shape), x.dtype)

        def project(start: int, stop: int) -> None:
            self._project(graph, x[start:stop], target, chosen, seed, memory_budget, result[:, start:stop])

        # What a CUDA graph holds counts for no budget.
        may_capture = graphs(memory_budget is None and current_graphs())
        with chainer.using_device(chainer.backend.get_device_from_array(x)), may_capture:
            size = len(x)
            if memory_budget is not None and len(x) > 1:
                recording = recording_of(self.model, x[:1], graph)
                recording.extend(target)
                size = fitting(memory_budget, recording.nbytes, len(x))
            if len(x):
                in_batches(len(x), size, project)
            else:
                project(0, 0)
        if single:
            result = result[:, 0]
        return result if several else result[0]

    def analyze_many(
        self,
        images: Iterable[Any],
        layer: str,
        indices: Index = None,
        seed: str = "activation",
        memory_budget: int | None = None,
    ) -> Iterator[Projection]:
        """Projects many places of many pictures, as a stream.

        Each picture goes forward once for all its places, and these go back in batches; a picture is taken from its stream
        only when its turn comes, so that either may be endless. Whoever stops taking projections stops the work.

        Args:
            images: Pictures (C, H, W), each as :meth:`analyze` takes it; their sizes may differ.
            layer: The layer's path.
            indices: As in :meth:`analyze`: one place or a list of them.
            seed: The signal that starts at the places chosen: their ``"activation"``, or ``"one"``.
            memory_budget: Bytes that activations, records, signals and waiting projections may take, as far as a single
                picture and place allow.

        Yields:
            A Projection for each picture and each of its places, in order.

        Raises:
            KeyError: No such layer.
            IndexError: An index is outside the layer.
            TypeError: A wrong kind of picture or index, or a layer on the way that can't be reversed.
            ValueError: A wrong shape, NaN, or an unknown seed.
        """
        self.model.graph().index(layer)
        check_seed(seed)
        fitting(memory_budget, 1, 1)
        return self._stream(iter(images), layer, _several(indices)[0], seed, memory_budget)

    def _stream(
        self, images: Iterator[Any], layer: str, places: list[Place], seed: str, memory_budget: int | None
    ) -> Iterator[Projection]:
        """Takes as many pictures at a time as make a batch with their places; more places than that are taken in parts."""
        number = 0
        for group in picture_groups(images, max(1, BATCH // max(1, len(places)))):
            most = fitting(memory_budget, group[:1].nbytes, 4 * BATCH)
            size = len(group) if len(group) * len(places) <= most else 1
            for start in range(0, len(group), size):
                pictures = group[start : start + size]
                for first in range(0, len(places), most):
                    some = places[first : first + most]
                    projections = self.analyze(pictures, layer, some, seed, memory_budget)
                    for picture in range(len(pictures)):
                        for place, pixels in zip(some, projections[:, picture], strict=True):
                            yield Projection(number + picture, place, pixels)
                number += len(pictures)

    def _project(
        self,
        graph: Graph,
        x: Array,
        target: int,
        chosen: Sequence[Place],
        seed: str,
        memory_budget: int | None,
        result: Array,
    ) -> None:
        """Projects places of pictures that fit in memory together, into ``result`` (places, B, C, H, W)."""
        single = any(isinstance(index, (tuple, Peak)) for index in chosen)
        field = self._field(graph, target, x.shape[2:]) if single else None
        neurons: list[Neuron] = []
        others = []
        for row, index in enumerate(chosen):
            if field is not None and isinstance(index, tuple):
                # How many channels there are is seen on the way.
                channel, *at = check_index(index, (math.inf, *field.size))
                neurons += [Neuron(row, picture, channel, (at[0], at[1])) for picture in range(len(x))]
            else:
                others.append(row)
        if others:
            recording = recording_of(self.model, x, graph)
            activation = recording.extend(target)
            walks = []
            for row in others:
                places = _places(chosen[row], activation)
                if field is not None and isinstance(chosen[row], Peak):
                    neurons += [Neuron(row, n, channel, (y, x)) for n, (channel, y, x) in enumerate(places)]
                else:
                    walks.append((row, places))
            self._walk(recording, target, walks, seed, memory_budget, result)
        if neurons and field is not None:
            self._project_neurons(field, x, neurons, seed, memory_budget, result)

    def field(self, layer: str, size: Pair) -> ReceptiveField | None:
        """What a neuron of a layer sees, if to project it from there is less work than from the whole picture.

        Args:
            layer: The layer's path.
            size: (H, W) of the picture.

        Returns:
            The receptive field; None where it is too large a part of the picture or can't be told.

        Raises:
            KeyError: No such layer.
        """
        graph = self.model.graph()
        return self._field(graph, graph.index(layer), size)

    def _field(self, graph: Graph, target: int, size: Pair) -> ReceptiveField | None:
        if self.rule.unpooling == "spread":
            return None  # shares out over the places inside the picture, and a part doesn't know its border
        try:
            field = ReceptiveField(graph, target, size)
        except ValueError:
            return None
        return field if WAYS * field.share < 1 else None

    def _walk(
        self,
        recording: Recording,
        target: int,
        walks: Sequence[tuple[int, list[tuple[int, ...]]]],
        seed: str,
        memory_budget: int | None,
        result: Array,
    ) -> None:
        """Takes signals back: all pictures at once for each place, or all places at once for each picture."""
        activation = recording.extend(target)
        if not takes_any_number(recording, target) or len(walks) <= len(activation):
            walk = Walk(recording, target, self.rule, len(activation), memory_budget)
            for row, places in walks:
                result[row] = walk.back(_seeded(activation, range(len(activation)), places, seed))
            return
        for picture in range(len(activation)):
            walk = Walk(recording, target, self.rule, len(walks), memory_budget, picture)

            def project(start: int, stop: int, walk: Walk = walk, picture: int = picture) -> None:
                places = [places[picture] for _, places in walks[start:stop]]

                def take(first: int, pixels: Array) -> None:
                    for (row, _), one in zip(walks[start + first :], pixels, strict=False):
                        result[row, picture] = one

                walk.deliver(_seeded(activation, [picture] * len(places), places, seed), take)

            in_batches(len(walks), walk.size, project)

    def _project_neurons(
        self,
        field: ReceptiveField,
        x: Array,
        neurons: Sequence[Neuron],
        seed: str,
        memory_budget: int | None,
        result: Array,
    ) -> None:
        """Projects each neuron from its part of its picture; the rest of the projection is zero."""
        xp = array_module(x)

        def project(start: int, stop: int) -> None:
            some = neurons[start:stop]
            parts = xp.stack([field.cut(x[neuron.picture], neuron.place) for neuron in some])
            channels, places = [neuron.channel for neuron in some], [neuron.place for neuron in some]
            projections, _ = field.project(parts, channels, places, self.rule, seed)
            for neuron, part in zip(some, projections, strict=True):
                whole = result[neuron.row, neuron.picture]
                whole[...] = 0
                field.paste(part, neuron.place, whole)

        project(0, 1)  # tells how much memory the others take
        size = fitting(memory_budget or SIGNAL_BUDGET, WAYS * field.nbytes, len(neurons))
        in_batches(len(neurons) - 1, size, lambda start, stop: project(start + 1, stop + 1))

    def coverage(self) -> dict[str, str]:
        """The rule by which each layer is reversed, by path, in forward order; layers that are passed over say so."""
        return {step.path: step.node.describe(self.rule) for step in self.model.graph().steps}


def picture_groups(images: Iterable[Any], size: int) -> Iterator[Array]:
    """Batches a stream of pictures.

    Args:
        images: Pictures (C, H, W); each is checked when its turn comes.
        size: The most pictures of a batch.

    Yields:
        Arrays (B, C, H, W) of neighbouring pictures of one shape and kind; those before a bad one, too, or before an error of
        the stream.

    Raises:
        TypeError: Something else than a picture.
        ValueError: A picture of another rank, without pixels, or with NaN.
    """
    waiting: list[Array] = []

    def together() -> Array:
        group = array_module(waiting[0]).concatenate(waiting)
        waiting.clear()
        return group

    try:
        for image in images:
            if getattr(image, "ndim", 3) != 3:
                raise ValueError(f"each of images must be one picture (C, H, W), got shape {image.shape}")
            x, _ = check_picture(image)
            if waiting and (x.shape, x.dtype, type(x)) != (waiting[0].shape, waiting[0].dtype, type(waiting[0])):
                yield together()
            waiting.append(x)
            if len(waiting) == size:
                yield together()
    except Exception:
        if waiting:
            yield together()
        raise
    if waiting:
        yield together()


def _places(index: Place, activation: Array) -> list[tuple[int, ...]]:
    """A place in each picture's activation."""
    if not isinstance(index, Peak):
        return [check_index(index, activation.shape[1:])] * len(activation)
    (channel,) = check_index(index.channel, activation.shape[1:])
    if activation.ndim == 2:
        return [(channel,)] * len(activation)
    flat = activation[:, channel].reshape(len(activation), -1).argmax(axis=1)
    return [(channel, *divmod(number, activation.shape[3])) for number in to_host(flat).tolist()]


def _seeded(activation: Array, pictures: Sequence[int], places: Sequence[tuple[int, ...]], seed: str) -> Array:
    """Signals that start: each holds one picture's activation, or 1, at one place, and zeros elsewhere."""
    signal = array_module(activation).zeros((len(places), *activation.shape[1:]), activation.dtype)
    for one, picture, place in zip(signal, pictures, places, strict=True):
        one[place] = activation[picture][place] if seed == "activation" else 1
    return signal

"""The rules of reversal, and the walk back over the graph.

The three published methods are cells of one cube: ReLU† masked by the forward sign or not, the backward signal rectified
or not, unpooling by switches or otherwise (A. Mahendran and A. Vedaldi, "Salient Deconvolutional Networks", ECCV 2016).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_kernels.arrays import Array, array_module, check_float
from dcnn_visualizer.batching import fitting, in_batches
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.recording import Recording, recording_of

#: A channel, a neuron (c, y, x), or a list of either; None is the whole layer.
Index = int | tuple[int, ...] | Sequence[int | tuple[int, ...]] | None

SEEDS = ("activation", "one")


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


def check_index(index: int | tuple[int, ...] | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a place in a layer as a tuple of 0 (the layer), 1 (a channel) or all (a neuron) indices.

    Args:
        index: None, a channel, or a neuron's tuple.
        shape: The layer's shape without the batch axis.

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
        raise IndexError(f"index {index!r} is outside the layer, whose shape is {shape}")
    return place


def _axes(shape: tuple[int, ...]) -> str:
    return "(c, y, x)" if len(shape) == 3 else "(unit,)" if len(shape) == 1 else f"of {len(shape)} indices"


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
        if not callable(getattr(model, "graph", None)):
            raise TypeError(
                f"model must be a TraceableChain, got {type(model).__name__}; "
                "dcnn_visualizer.importers turns other chains into one"
            )
        self.model = model
        self.rule = Rule(relu_mask, rectify, unpooling, lrn)

    def analyze(
        self, img: Any, layer: str, index: Index = None, seed: str = "activation", memory_budget: int | None = None
    ) -> Array:
        """Projects a layer, a channel or a neuron back to the picture.

        The forward pass is recorded once, and reused as long as picture and weights stay the same.

        Args:
            img: Picture (C, H, W) or batch (B, C, H, W), float32 or float64, NumPy or CuPy; the network's own preprocessing done.
            layer: The layer's path.
            index: A channel, a tuple (c, y, x) for one neuron, a list of either, or None for the whole layer.
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
        if seed not in SEEDS:
            raise ValueError(f"seed must be one of {SEEDS}, got {seed!r}")
        target = self.model.graph().index(layer)
        several = isinstance(index, Sequence) and not isinstance(index, (tuple, str))
        chosen: Any = index if several else [index]
        xp = array_module(x)
        result = xp.empty((len(chosen), *x.shape), x.dtype)

        def project(start: int, stop: int) -> None:
            recording = recording_of(self.model, x[start:stop])
            activation = recording.extend(target)
            for row, one in zip(result[:, start:stop], chosen, strict=True):
                at = (slice(None), *check_index(one, activation.shape[1:]))
                signal = xp.zeros_like(activation)
                signal[at] = activation[at] if seed == "activation" else 1
                row[...] = walk_back(recording, target, signal, self.rule)

        with chainer.using_device(chainer.backend.get_device_from_array(x)):
            if memory_budget is None or len(x) < 2:
                size = len(x)
            else:
                recording = recording_of(self.model, x[:1])
                recording.extend(target)
                size = fitting(memory_budget, recording.nbytes, len(x))
            if len(x):
                in_batches(len(x), size, project)
            else:
                project(0, 0)
        if single:
            result = result[:, 0]
        return result if several else result[0]

    def coverage(self) -> dict[str, str]:
        """The rule by which each layer is reversed, by path, in forward order; layers that are passed over say so."""
        return {step.path: step.node.describe(self.rule) for step in self.model.graph().steps}


def walk_back(recording: Recording, target: int, signal: Array, rule: Rule) -> Array:
    """Takes a signal from a step's output back to the picture.

    Where the graph forks on the way forward, the signals sum.

    Args:
        recording: The forward pass, recorded at least as far as ``target``.
        target: Index of the step at whose output the signal starts.
        signal: Array of that output's shape.
        rule: The reversal's choices.

    Returns:
        An array of the picture's shape.

    Raises:
        TypeError: A step on the way can't be reversed.
    """
    graph = recording.graph
    signals = {target: signal}
    for index in reversed(graph.ancestors([target])):
        step = graph.steps[index]
        try:
            back = step.node.reverse(signals.pop(index), recording.records[index], rule)
        except TypeError as error:
            raise TypeError(f"layer {step.path!r}: {error}") from error
        for source, part in zip(step.inputs, back if isinstance(back, tuple) else (back,), strict=True):
            signals[source] = signals[source] + part if source in signals else part
    return signals[PICTURE]

"""Networks by name, and what is done to a picture before they see it: what the command line is told in words."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.geometry import Pair
from dcnn_visualizer import dataset, rendering
from dcnn_visualizer.evaluation import evaluate
from dcnn_visualizer.importers import efficientnet_lite, from_chainer, imagenet
from dcnn_visualizer.importers.weights import load_weights
from dcnn_visualizer.traceable_chain import TraceableChain

#: (H, W) of pictures, where none is chosen and it matters.
USUAL_SIZE = (224, 224)
#: Colour orders that networks expect.
COLOURS = ("rgb", "bgr", "grey")


@dataclass(frozen=True)
class Preprocessing:
    """Makes a picture what a network was trained on: its size, its colour order, (pixel - mean) / std.

    Attributes:
        size: Rows and columns; None to take pictures as they are.
        mean: In units of pixels 0..255, one for all colours or one each, in the network's order.
        std: Likewise.
        colours: ``"rgb"``, ``"bgr"`` or ``"grey"``.

    Raises:
        ValueError: An unknown order, a number of means or stds that fits no colours, a std of zero, or NaN.
    """

    size: Pair | None = None
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    colours: str = "rgb"

    def __post_init__(self) -> None:
        if self.colours not in COLOURS:
            raise ValueError(f"colours must be one of {COLOURS}, got {self.colours!r}")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.channels) or not np.isfinite(numbers).all():
                wanted = "one finite number" if self.channels == 1 else f"1 or {self.channels} finite numbers"
                raise ValueError(f"{name} must be {wanted}, got {list(numbers)}")
        if 0 in self.std:
            raise ValueError(f"std must not be zero, got {list(self.std)}")

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 1 if self.colours == "grey" else 3

    def crop(self, picture: np.ndarray) -> np.ndarray:
        """The part of a picture that the network sees, to look at: uint8 (H, W, 3) in and out."""
        return picture if self.size is None else dataset.fit(picture, self.size)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The network's input.

        Args:
            picture: uint8 array of shape (H, W, 3), RGB; cropped first, as :meth:`crop` does.

        Returns:
            float32 array of shape (3, H, W), or (1, H, W) for grey.
        """
        cropped = self.crop(picture)
        pixels = cropped.astype(np.float32).transpose(2, 0, 1)
        if self.colours == "grey":
            pixels = rendering.in_grey(cropped / np.float32(255))[None, :, :, 0] * 255
        elif self.colours == "bgr":
            pixels = pixels[::-1]
        return np.ascontiguousarray(self.scale(pixels))

    def scale(self, pixels: np.ndarray | float) -> np.ndarray:
        """(pixel - mean) / std, in float32: arrays (C, H, W), or one number for all colours, then of shape (C, 1, 1)."""
        mean, std = (np.broadcast_to(np.asarray(n, np.float32), self.channels)[:, None, None] for n in (self.mean, self.std))
        return (np.asarray(pixels, np.float32) - mean) / std

    def to_pixels(self, x: np.ndarray) -> np.ndarray:
        """The network's input (C, H, W) as a picture to look at, floats in 0..1 of shape (H, W, 3)."""
        mean, std = (np.broadcast_to(np.asarray(n, np.float32), self.channels)[:, None, None] for n in (self.mean, self.std))
        return rendering.displayable(np.clip(self.to_rgb(x * std + mean) / np.float32(255), 0, 1))

    def to_rgb(self, projection: np.ndarray) -> np.ndarray:
        """A projection (C, H, W) in the order in which it is drawn."""
        return projection[::-1] if self.colours == "bgr" else projection


@dataclass(frozen=True)
class NamedModel:
    """A network ready to look at pictures.

    Attributes:
        name: What it was asked for by.
        chain: The network.
        preprocessing: What is done to a picture first.
        class_names: Names of the last layer's units, or nothing.
    """

    name: str
    chain: TraceableChain
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()

    def activations(self, x: np.ndarray, layers: Sequence[str]) -> list[np.ndarray]:
        """What layers answer to one picture, in one forward pass.

        Args:
            x: float32 array of shape (C, H, W), preprocessed.
            layers: Their paths.

        Returns:
            Their activations, without the batch axis.

        Raises:
            KeyError: No such layer.
        """
        graph = self.chain.graph()
        targets = [graph.index(layer) for layer in layers]
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            return [activation[0] for activation in evaluate(graph, x[None], targets)]


def load_model(
    name: str, weights: str | os.PathLike[str] | None = None, preprocessing: Preprocessing | None = None
) -> NamedModel:
    """Finds or builds a network.

    Args:
        name: ``"efficientnet-lite0"``, which brings its weights and its preprocessing; or ``"package.module:factory"``, a
            callable that returns a TraceableChain, or what :func:`dcnn_visualizer.importers.from_chainer` or
            :func:`dcnn_visualizer.importers.torch.from_torch` turns into one. The current directory is searched too.
        weights: File for a factory's network, read by name: see :func:`dcnn_visualizer.importers.weights.load_weights`.
        preprocessing: For a factory's network. Of EfficientNet-Lite0's only the size can be chosen, which must be square.

    Raises:
        ValueError: An unknown name, weights that don't fit or are broken, or preprocessing that contradicts the network's.
        ImportError: The module or the factory isn't there.
        TypeError: It gives no network.
        OSError: The weights can't be read.
    """
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(name, weights, preprocessing or Preprocessing())
    network, preprocessing = _call_factory(name), preprocessing or Preprocessing()
    if "torch" in sys.modules and isinstance(network, sys.modules["torch"].nn.Module):
        chain = _from_torch(network, preprocessing)
        if weights is not None:
            load_weights(chain, weights)
        return NamedModel(name, chain, preprocessing)
    if weights is not None:
        if not isinstance(network, chainer.Link):
            raise TypeError(f"weights are for a chainer.Link or a torch.nn.Module, got {type(network).__name__}")
        load_weights(network, weights)
    return NamedModel(name, network if isinstance(network, TraceableChain) else from_chainer(network), preprocessing)


def _from_torch(module: Any, preprocessing: Preprocessing) -> TraceableChain:
    import torch

    from dcnn_visualizer.importers.torch import PICTURES, from_torch

    noise = np.random.default_rng(0).integers(0, 256, (PICTURES, *(preprocessing.size or USUAL_SIZE), 3), np.uint8)
    return from_torch(module, torch.from_numpy(np.stack([preprocessing(picture) for picture in noise])))


def _efficientnet_lite0(name: str, weights: Any, asked: Preprocessing) -> NamedModel:
    if weights is not None:
        raise ValueError(f"{name} brings its own weights; a file of weights goes beside a factory, 'package.module:factory'")
    if replace(asked, size=None) != Preprocessing():
        raise ValueError(f"{name} brings its own preprocessing; only the size can be chosen")
    rows, columns = asked.size or (efficientnet_lite.INPUT_SIZE,) * 2
    if rows != columns:
        raise ValueError(f"{name} looks at squares, got size {rows}x{columns}")
    preprocessing = Preprocessing((rows, columns), mean=(127.0,), std=(128.0,))
    return NamedModel(name, efficientnet_lite.efficientnet_lite0(insize=rows), preprocessing, imagenet.class_names())


def _call_factory(name: str) -> Any:
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise ValueError(f"unknown model {name!r}; expected 'efficientnet-lite0' or 'package.module:factory'")
    if module_name.endswith(".py") or {"/", "\\"} & set(module_name):
        raise ValueError(f"a module goes by its name, not by its file: 'nets:{attribute}' for nets.py here, got {name!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = importlib.import_module(module_name)
    try:
        factory = attrgetter(attribute)(module)
    except AttributeError as error:
        raise ImportError(f"module {module_name!r} has no {attribute!r}") from error
    if not callable(factory):
        raise TypeError(f"{name!r} must be callable and return a network, got {type(factory).__name__}")
    return factory()

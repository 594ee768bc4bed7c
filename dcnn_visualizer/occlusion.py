"""Occlusion saliency: slide an occluder over a picture and map how the activation changes.

After M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.geometry import Pair, PairLike, occlusion_windows, pair
from dcnn_visualizer import rendering
from dcnn_visualizer.batching import fitting, in_batches
from dcnn_visualizer.files import whole_file
from dcnn_visualizer.graph import Graph
from dcnn_visualizer.reversal import check_picture
from dcnn_visualizer.traceable_chain import compute
from dcnn_visualizer.traceable_nodes import TraceableNode

#: What an occluded region is filled with: ``"mean"``, ``"channel"``, a number, or an array that fits (C, H, W).
Fill = str | float | Array


@dataclass(frozen=True)
class Sweep:
    """How a map was made.

    Attributes:
        layer: Path of the layer that was watched.
        shape: (H, W) of the picture.
        ksize: Rows and columns of the occluder.
        stride: Step between its places.
        windows: ``"centered"`` or ``"inside"``.
        measure: ``"norm"`` or ``"value"``.
    """

    layer: str
    shape: Pair
    ksize: Pair
    stride: Pair
    windows: str
    measure: str


class SaliencyMap:
    """How a layer's channels change as each place of a picture is hidden.

    Args:
        data: Array of shape (rows, columns, channels): occluded minus original.
        sweep: How it was made.

    Attributes:
        data: The array.
        sweep: How it was made.
    """

    def __init__(self, data: Array, sweep: Sweep) -> None:
        if data.ndim != 3:
            raise ValueError(f"data must have shape (rows, columns, channels), got {data.shape}")
        self.data = data
        self.sweep = sweep

    def __repr__(self) -> str:
        rows, columns, channels = self.data.shape
        return f"SaliencyMap({rows}x{columns} places, {channels} channels, {self.sweep})"

    def heatmap(
        self,
        shape: Pair | None = None,
        cmap: str | Callable[..., Any] = "RdBu_r",
        value_range: tuple[float, float] | None = None,
        centering: bool = True,
        absolute: bool = False,
        channel: int | None = None,
    ) -> np.ndarray:
        """Paints the map over the whole picture.

        Args:
            shape: (H, W) of the result; the picture's own by default.
            cmap: Name of a matplotlib colormap, or a callable from [0, 1] to RGB or RGBA.
            value_range: Values at the two ends of the colormap; by default the map's own range.
            centering: Whether the range, if not given, is symmetric, so that no change is the colormap's middle. Not for
                ``absolute``, whose range starts at no change.
            absolute: Whether to paint how much, not which way.
            channel: One channel, or None for the mean over all.

        Returns:
            float32 array of shape (H, W, 3) in 0..1.

        Raises:
            IndexError: No such channel.
            ValueError: A bad shape or range.
            ImportError: ``cmap`` is a name and matplotlib isn't installed.
        """
        values = self.plane(shape, absolute, channel)
        return rendering.colorize(values, cmap, value_range, centering and not absolute, from_zero=absolute)

    def plane(self, shape: Pair | None = None, absolute: bool = False, channel: int | None = None) -> np.ndarray:
        """One number a pixel: the map interpolated between the places of the occluder.

        Args:
            shape: (H, W) of the result; the picture's own by default.
            absolute: Whether to take absolute values.
            channel: One channel, or None for the mean over all.

        Returns:
            Array of shape (H, W).

        Raises:
            IndexError: No such channel.
            ValueError: A shape without pixels.
        """
        data = rendering.to_host(self.data)
        if channel is not None and not 0 <= channel < data.shape[2]:
            raise IndexError(f"channel must be in 0..{data.shape[2] - 1}, got {channel!r}")
        data = data if channel is None else data[:, :, channel : channel + 1]
        values = (np.abs(data) if absolute else data).mean(axis=2)
        height, width = self.sweep.shape
        rows, columns = self.sweep.shape if shape is None else pair("shape", shape)
        places = occlusion_windows(self.sweep.shape, self.sweep.ksize, self.sweep.stride, self.sweep.windows)
        if self.sweep.windows == "centered":
            centres = tuple(np.arange(0, size, step) for size, step in zip(self.sweep.shape, self.sweep.stride, strict=True))
        else:
            centres = (places[:, 0, [0, 2]].mean(axis=1) - 0.5, places[0, :, [1, 3]].mean(axis=0) - 0.5)
        at_rows = (np.arange(rows) + 0.5) * height / rows - 0.5
        at_columns = (np.arange(columns) + 0.5) * width / columns - 0.5
        return rendering.interpolate(values, centres, (at_rows, at_columns))

    def compose(self, img: Array, alpha: float = 0.5, **heatmap: Any) -> np.ndarray:
        """Lays the heat map over a picture.

        Args:
            img: Picture (3, H, W), (H, W, 3) or (H, W); uint8, or floats, which are scaled to 0..1 if they exceed it.
            alpha: Weight of the heat map, 0 to 1.
            **heatmap: Arguments of :meth:`heatmap`.

        Returns:
            float32 array of shape (H, W, 3) in 0..1.

        Raises:
            ValueError: ``alpha`` outside 0..1, or no picture.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}")
        picture = rendering.displayable(img)
        return (1 - alpha) * picture + np.float32(alpha) * self.heatmap(**{"shape": picture.shape[:2], **heatmap})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the map to an npz file, whole or not at all.

        Raises:
            OSError: The folder is missing, or the file can't be written.
        """
        with whole_file(path) as file:
            np.savez(file, data=rendering.to_host(self.data), sweep=np.array(json.dumps(asdict(self.sweep))))

    @classmethod
    def load(cls, path: str | os.PathLike[str] | BinaryIO) -> SaliencyMap:
        """Reads a map that :meth:`save` wrote.

        Raises:
            ValueError: The file is no such map, or broken.
            OSError: It can't be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = json.loads(str(file["sweep"]))
                data = file["data"]
            for name in ("shape", "ksize", "stride"):
                fields[name] = pair(name, fields[name])
            sweep = Sweep(**fields)
            places = occlusion_windows(sweep.shape, sweep.ksize, sweep.stride, sweep.windows).shape[:2]
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no saved SaliencyMap: {error}") from error
        if data.ndim != 3 or data.shape[:2] != places or data.dtype.kind != "f":
            raise ValueError(f"{path} is no saved SaliencyMap: {data.dtype} data of shape {data.shape} for {places} places")
        return cls(data, sweep)


class SaliencyVisualizer:
    """Maps how a layer's activation changes as each place of a picture is hidden.

    Args:
        model: A TraceableChain.

    Raises:
        TypeError: ``model`` is no traceable chain.
    """

    def __init__(self, model: Any) -> None:
        if not callable(getattr(model, "graph", None)):
            raise TypeError(f"model must be a TraceableChain, got {type(model).__name__}")
        self.model = model

    def analyze(
        self,
        img: Any,
        layer: str,
        ksize: PairLike,
        stride: PairLike = 1,
        fill: Fill = "mean",
        measure: str | None = None,
        windows: str = "centered",
        batch_size: int = 16,
        progress: bool = False,
        memory_budget: int | None = None,
    ) -> SaliencyMap | list[SaliencyMap]:
        """Slides an occluder over a picture and watches a layer.

        Args:
            img: Picture (C, H, W) or batch (B, C, H, W), float32 or float64, NumPy or CuPy; the network's own preprocessing done.
            layer: The layer's path.
            ksize: Rows and columns of the occluder, in pixels.
            stride: Step between its places, in pixels.
            fill: What it shows: the picture's ``"mean"``, its mean per ``"channel"``, a number, or an array that fits (C, H, W).
            measure: ``"norm"``, the L2 norm of each feature map (for a vector, of each unit); ``"value"``, each unit of a vector,
                so that all classes come out of one sweep. By default ``"norm"`` for maps and ``"value"`` for vectors.
            windows: ``"centered"``: on every stride-th pixel, clipped at the border; ``"inside"``: whole windows only.
            batch_size: Occluded pictures that go through the network at once, at most; halved if memory runs out.
            progress: Whether to show a progress bar (tqdm) on what takes longer than a second.
            memory_budget: Bytes that the activations of a batch may take; bounds ``batch_size``.

        Returns:
            A SaliencyMap, occluded minus original; for a batch a list of them.

        Raises:
            KeyError: No such layer.
            TypeError: A wrong kind of picture.
            ValueError: A wrong shape, NaN, a window larger than the picture, an unknown measure, fill or windows.
        """
        x, single = check_picture(img)
        graph = self.model.graph()
        target = graph.index(layer)
        places = occlusion_windows(x.shape[2:], ksize, stride, windows)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        fills = [fill_picture(picture, fill) for picture in x]

        maps = []
        with (
            chainer.using_device(chainer.backend.get_device_from_array(x)),
            chainer.no_backprop_mode(),
            chainer.using_config("train", False),
            _progress_bar(progress, len(x) * places.shape[0] * places.shape[1]) as advance,
        ):
            for picture, filled in zip(x, fills, strict=True):
                original, needed = _activation_and_bytes(graph, target, picture[None])
                chosen = check_measure(measure, original.ndim)
                size = fitting(memory_budget, needed, batch_size)

                def watch(pictures: Array, chosen: str = chosen) -> Array:
                    return measured(graph.evaluate(pictures, [target], compute)[0], chosen)

                changed = _occlude_everywhere(watch, picture, places.reshape(-1, 4), filled, size, advance)
                data = (changed - measured(original, chosen)).reshape(*places.shape[:2], original.shape[1])
                sweep = Sweep(layer, x.shape[2:], pair("ksize", ksize), pair("stride", stride), windows, chosen)
                maps.append(SaliencyMap(data, sweep))
        return maps[0] if single else maps


def fill_picture(picture: Array, fill: Fill) -> Array:
    """What the occluder shows.

    Args:
        picture: Array of shape (C, H, W).
        fill: The picture's ``"mean"``, its mean per ``"channel"``, a number, or an array: (C,), or anything that
            broadcasts to (C, H, W).

    Returns:
        Array of the picture's dtype that broadcasts to (C, H, W).

    Raises:
        ValueError: An unknown name, a shape that doesn't fit, or NaN.
    """
    xp = array_module(picture)
    if isinstance(fill, str):
        if fill not in ("mean", "channel"):
            raise ValueError(f"fill must be 'mean', 'channel', a number or an array, got {fill!r}")
        return picture.mean(keepdims=True) if fill == "mean" else picture.mean(axis=(1, 2), keepdims=True)
    filled = xp.asarray(fill, picture.dtype)
    if filled.shape == picture.shape[:1]:
        filled = filled[:, None, None]
    try:
        fits = np.broadcast_shapes(filled.shape, picture.shape) == picture.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"fill must broadcast to the picture's shape {picture.shape}, got {filled.shape}")
    if not bool(xp.isfinite(filled).all()):
        raise ValueError("fill must be finite, got NaN or infinity in it")
    return filled


def check_measure(measure: str | None, ndim: int) -> str:
    """Returns the measure for a layer's activation of ``ndim`` axes, the batch axis included.

    Raises:
        ValueError: An unknown measure, or ``"value"`` of feature maps, which is one number a pixel and not a channel.
    """
    if measure is None:
        return "value" if ndim == 2 else "norm"
    if measure not in ("norm", "value"):
        raise ValueError(f"measure must be 'norm' or 'value', got {measure!r}")
    if measure == "value" and ndim != 2:
        raise ValueError("measure 'value' is for layers of one number a unit; feature maps are measured by 'norm'")
    return measure


def measured(activation: Array, measure: str) -> Array:
    """One number a channel: activations (N, channels, …) to (N, channels)."""
    if measure == "value":
        return activation
    xp = array_module(activation)
    return xp.sqrt(xp.square(activation).sum(axis=tuple(range(2, activation.ndim))))


def _activation_and_bytes(graph: Graph, target: int, picture: Array) -> tuple[Array, int]:
    """A layer's activation, and the most bytes that a step on the way had as inputs and output."""
    most = 0

    def apply(node: TraceableNode, *inputs: Array) -> Array:
        nonlocal most
        output = compute(node, *inputs)
        most = max(most, output.nbytes + sum(array.nbytes for array in inputs))
        return output

    return graph.evaluate(picture, [target], apply)[0], most


def _occlude_everywhere(
    watch: Callable[[Array], Array], picture: Array, windows: Array, filled: Array, size: int, advance: Callable[[int], Any]
) -> Array:
    """What ``watch`` sees of the picture with each window hidden, (windows, channels), ``size`` windows at a time."""
    parts: list[Array] = []

    def hide(start: int, stop: int) -> None:
        parts.append(watch(kernels.occlude(picture, windows[start:stop], filled)))
        advance(stop - start)

    in_batches(len(windows), size, hide)
    return array_module(picture).concatenate(parts)


@contextmanager
def _progress_bar(wanted: bool, total: int) -> Iterator[Callable[[int], Any]]:
    if not wanted:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    # The delay hides the bar where the whole takes less than a second.
    with tqdm(total=total, unit="window", delay=1) as bar:
        yield bar.update

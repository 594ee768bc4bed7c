"""Occlusion saliency: slide an occluder over a picture and map how the activation changes.

After M. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import PairLike, occlusion_windows, pair
from dcnn_visualizer import rendering
from dcnn_visualizer.batching import fitting
from dcnn_visualizer.graph import check_traceable
from dcnn_visualizer.incremental import PLACES, IncrementalSweep, Watcher, Work, work, work_table
from dcnn_visualizer.memory import free_memory
from dcnn_visualizer.reversal import check_picture
from dcnn_visualizer.saliency_map import SaliencyMap, Sweep

__all__ = ["Approximation", "Fill", "Occluder", "SaliencyMap", "SaliencyVisualizer", "Sweep"]

#: What an occluded region is filled with: ``"mean"``, ``"channel"``, a number, or an array that fits (C, H, W).
Fill = str | float | Array


class Occluder(NamedTuple):
    """What is slid over a picture.

    Attributes:
        ksize: Rows and columns, in pixels.
        stride: Step between its places, in pixels.
        fill: What it shows: the picture's ``"mean"``, its mean per ``"channel"``, a number, or an array that fits (C, H, W).
        windows: ``"centered"``: on every stride-th pixel, clipped at the border; ``"inside"``: whole windows only.
    """

    ksize: PairLike
    stride: PairLike = 1
    fill: Fill = "mean"
    windows: str = "centered"


@dataclass(frozen=True)
class Approximation:
    """How a map may be had for less, and how closely its error is looked at.

    Attributes:
        threshold: Rows and columns at the edges of what changes are taken for unchanged if no change in them exceeds this share
            of the largest; 0 for none.
        coarse: Only every ``coarse``-th place in either direction is looked at first, and the map interpolated between them; 1
            for all.
        refined: Share of all places that are then looked at themselves, those where the map is strongest.
        sample: Number of random places that are also computed exactly, to measure the error.
        seed: Of their choice.

    Raises:
        TypeError: ``coarse`` or ``sample`` is no integer.
        ValueError: A number out of its range.
    """

    threshold: float = 0.0
    coarse: int = 1
    refined: float = 0.25
    sample: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "refined"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")
        for name in ("coarse", "sample"):
            check_count(name, getattr(self, name))


class SaliencyVisualizer:
    """Maps how a layer's activation changes as each place of a picture is hidden.

    The network runs once; of the occluded pictures, only what the occluder changes is computed. Maps are exact all the same.

    Args:
        model: A TraceableChain.

    Raises:
        TypeError: ``model`` is no traceable chain.
    """

    def __init__(self, model: Any) -> None:
        check_traceable(model)
        self.model = model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"

    @takes_any_array
    def analyze(
        self,
        img: Any,
        layer: str | Sequence[str],
        ksize: PairLike,
        stride: PairLike = 1,
        fill: Fill = "mean",
        measure: str | None = None,
        windows: str = "centered",
        batch_size: int = PLACES,
        progress: bool = False,
        memory_budget: int | None = None,
        approximation: Approximation | None = None,
        partial: bool = False,
    ) -> Any:
        """Slides an occluder over a picture and watches a layer.

        Args:
            img: Picture (C, H, W) or batch (B, C, H, W), float32 or float64, the network's own preprocessing done; NumPy or CuPy,
                or of any library that speaks DLPack, such as a torch tensor.
            layer: The layer's path, or several.
            ksize: Rows and columns of the occluder, in pixels.
            stride: Step between its places, in pixels.
            fill: What it shows: the picture's ``"mean"``, its mean per ``"channel"``, a number, or an array that fits (C, H, W).
            measure: ``"norm"``, the L2 norm of each feature map (for a vector, of each unit); ``"value"``, each unit of a vector,
                so that all classes come out of one sweep. By default ``"norm"`` for maps and ``"value"`` for vectors.
            windows: ``"centered"``: on every stride-th pixel, clipped at the border; ``"inside"``: whole windows only.
            batch_size: Places of the occluder that go through the network at once, at most; halved if memory runs out.
            progress: Whether to show a progress bar (tqdm) on what takes longer than a second.
            memory_budget: Bytes that the sweep may hold; by default a quarter of what is free. A single place at a time is the
                least it can do.
            approximation: How to have the map for less; None for an exact one.
            partial: Whether an interruption (Ctrl-C) returns what is finished, NaN elsewhere, instead of raising.

        Returns:
            A SaliencyMap, occluded minus original; for several layers a dict of them by path; for a batch a list of either.

        Raises:
            KeyError: No such layer.
            TypeError: A wrong kind of picture.
            ValueError: A wrong shape, NaN, also in an activation, a window larger than the picture, an unknown measure, fill or
                windows.
        """
        layers: list[Any] = list(layer) if isinstance(layer, (list, tuple)) else [layer]
        _, single = check_picture(img)
        occluder = Occluder(ksize, stride, fill, windows)
        swept = self.sweep(img, layers, [occluder], measure, batch_size, progress, memory_budget, approximation, partial)
        maps = [found[layer] if isinstance(layer, str) else found for (found,) in swept]
        return maps[0] if single else maps

    @takes_any_array
    def sweep(
        self,
        img: Any,
        layers: Sequence[str],
        occluders: Sequence[Occluder],
        measure: str | None = None,
        batch_size: int = PLACES,
        progress: bool = False,
        memory_budget: int | None = None,
        approximation: Approximation | None = None,
        partial: bool = False,
    ) -> list[list[dict[str, SaliencyMap]]]:
        """Slides several occluders over several pictures and watches several layers, each network run serving all.

        Args:
            img: As for :meth:`analyze`.
            layers: The layers' paths.
            occluders: What to slide.
            measure: As for :meth:`analyze`, of all layers.
            batch_size: As for :meth:`analyze`.
            progress: As for :meth:`analyze`.
            memory_budget: As for :meth:`analyze`.
            approximation: As for :meth:`analyze`.
            partial: As for :meth:`analyze`.

        Returns:
            For each picture, for each occluder, the maps by layer.

        Raises:
            KeyError: No such layer.
            TypeError: A wrong kind of picture.
            ValueError: A wrong shape, NaN, also in an activation, a window larger than the picture, an unknown measure, fill or
                windows.
        """
        x, _ = check_picture(img)
        graph = self.model.graph()
        if isinstance(layers, str):
            raise TypeError(f"layers must be a list of paths, got {layers!r}")
        targets = {layer: graph.index(layer) for layer in layers}
        if isinstance(occluders, Occluder) or not all(isinstance(one, Occluder) for one in occluders):
            raise TypeError(f"occluders must be a list of Occluder, got {occluders!r}")
        grids = [occlusion_windows(x.shape[2:], one.ksize, one.stride, one.windows) for one in occluders]
        fills = [[fill_picture(picture, one.fill) for one in occluders] for picture in x]
        check_count("batch_size", batch_size)
        fitting(memory_budget, 1, 1)
        if not isinstance(approximation, Approximation | None):
            raise TypeError(f"approximation must be an Approximation or None, got {approximation!r}")
        budget = free_memory(x) // 4 if memory_budget is None else memory_budget

        swept: list[list[dict[str, SaliencyMap]]] = []
        with self._at_inference(x) as stack:
            advance = stack.enter_context(_progress_bar(progress, len(x) * sum(grid[..., 0].size for grid in grids)))
            for picture, filled in zip(x, fills, strict=True):
                way = IncrementalSweep(graph, list(targets.values()), picture[None])
                if way.not_finite is not None:
                    raise ValueError(
                        f"layer {way.not_finite!r} answers NaN or infinity to the picture, so how it changes can't be told"
                    )
                measures = {target: check_measure(measure, way.outputs[target].ndim) for target in targets.values()}
                watcher = Watcher(way, measures, batch_size, budget, advance, partial)
                swept.append([])
                for occluder, grid, shown in zip(occluders, grids, filled, strict=True):
                    found, error = _mapped(watcher, grid, shown[None], approximation)
                    swept[-1].append(
                        {
                            layer: SaliencyMap(
                                found[target],
                                Sweep(
                                    layer,
                                    x.shape[2:],
                                    pair("ksize", occluder.ksize),
                                    pair("stride", occluder.stride),
                                    occluder.windows,
                                    measures[target],
                                ),
                                error,
                            )
                            for layer, target in targets.items()
                        }
                    )
        return swept

    @takes_any_array
    def explain(self, img: Any, layer: str, ksize: PairLike, stride: PairLike = 1, windows: str = "centered") -> str:
        """Tells layer by layer how a sweep is computed, what share of the layer changes, and the arithmetic.

        Args:
            img: Picture (C, H, W).
            layer: The layer's path.
            ksize: Rows and columns of the occluder, in pixels.
            stride: Step between its places, in pixels.
            windows: As for :meth:`analyze`.

        Returns:
            A table, one line a layer, and a last one for all.

        Raises:
            KeyError: No such layer.
            TypeError: A wrong kind of picture.
            ValueError: A wrong shape, NaN, or a window larger than the picture.
        """
        return work_table(self.work(img, layer, ksize, stride, windows))

    def work(self, img: Any, layer: str, ksize: PairLike, stride: PairLike = 1, windows: str = "centered") -> list[Work]:
        """What :meth:`explain` tells, as numbers: the form, share and multiplications of each layer on the way.

        Arguments and errors are those of :meth:`explain`.
        """
        x, _ = check_picture(img)
        graph = self.model.graph()
        target = graph.index(layer)
        places = occlusion_windows(x.shape[2:], ksize, stride, windows).reshape(-1, 4)
        with self._at_inference(x):
            return work(IncrementalSweep(graph, [target], x[:1]), places)

    @staticmethod
    @contextmanager
    def _at_inference(x: Array) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            stack.enter_context(chainer.using_device(chainer.backend.get_device_from_array(x)))
            stack.enter_context(chainer.no_backprop_mode())
            stack.enter_context(chainer.using_config("train", False))
            yield stack


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
    if fill is None or isinstance(fill, str):
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


def check_count(name: str, count: int) -> None:
    """Raises TypeError unless a number of things is an integer, ValueError unless it is 1 or more."""
    if not isinstance(count, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {count!r}")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")


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


def _mapped(
    watcher: Watcher, grid: np.ndarray, filled: Array, approximation: Approximation | None
) -> tuple[dict[int, Array], float | None]:
    """Maps (rows, columns, channels) by watched step, and their measured error if they are approximate.

    Args:
        watcher: Watches the network.
        grid: int64 (rows, columns, 4), the places of the occluder.
        filled: What it shows; broadcasts to (1, C, H, W).
        approximation: How to have the maps for less, or None.
    """
    rows, columns = grid.shape[:2]
    windows = grid.reshape(-1, 4)
    if approximation is None:
        return _in_rows(watcher.watch(windows, filled), rows, columns), None
    threshold, step = approximation.threshold, approximation.coarse
    if step == 1:
        found = watcher.watch(windows, filled, threshold)
    else:
        at = [np.unique(np.append(np.arange(0, size, step), size - 1)) for size in (rows, columns)]
        first = (at[0][:, None] * columns + at[1]).ravel()
        seen = watcher.watch(windows[first], filled, threshold)
        everywhere = (np.arange(rows, dtype=np.float64), np.arange(columns, dtype=np.float64))
        found = {}
        strength: Any = 0
        for target, values in _in_rows(seen, len(at[0]), len(at[1])).items():
            smooth = _interpolated(values, at, everywhere)
            found[target] = smooth.reshape(-1, smooth.shape[2])
            strong = rendering.to_host(abs(found[target]).max(axis=1))
            strength = strength + strong / max(strong.max(), np.finfo(strong.dtype).tiny)
            found[target][array_module(values).asarray(first)] = seen[target]
        rest = np.setdiff1d(np.arange(len(windows)), first)
        rest = rest[np.argsort(-strength[rest], kind="stable")][: int(np.ceil(approximation.refined * len(windows)))]
        for target, values in watcher.watch(windows[rest], filled, threshold).items():
            found[target][array_module(values).asarray(rest)] = values
    sample = np.random.default_rng(approximation.seed).permutation(len(windows))[: approximation.sample]
    error = 0.0
    for target, exact in watcher.watch(windows[sample], filled).items():
        wrong, size = (
            rendering.to_host(abs(values)) for values in (found[target][array_module(exact).asarray(sample)] - exact, exact)
        )
        error = max(error, float(np.sqrt(np.square(wrong, dtype=np.float64).mean() / max(np.square(size).mean(), 1e-300))))
    return _in_rows(found, rows, columns), error


def _in_rows(found: dict[int, Array], rows: int, columns: int) -> dict[int, Array]:
    return {target: values.reshape(rows, columns, -1) for target, values in found.items()}


def _interpolated(values: Array, at: list[np.ndarray], everywhere: tuple[np.ndarray, np.ndarray]) -> Array:
    """Values (rows, columns, channels) at some rows and columns, interpolated linearly at all."""
    xp = array_module(values)
    for axis, (known, wanted) in enumerate(zip(at, everywhere, strict=True)):
        weights = np.array([np.interp(wanted, known, row) for row in np.eye(len(known))])
        values = xp.moveaxis(xp.tensordot(xp.asarray(weights.T, values.dtype), values, (1, axis)), 0, axis)
    return xp.ascontiguousarray(values)


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

"""What occlusion saliency gives: a map of how activations change, to look at and to keep."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Pair, occlusion_windows, pair
from dcnn_visualizer import rendering
from dcnn_visualizer.dataset import as_png
from dcnn_visualizer.files import whole_file


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
        data: Array of shape (rows, columns, channels): occluded minus original; NaN where a sweep was interrupted.
        sweep: How it was made.
        error: Of an approximate map, its measured error: the root mean square of approximate minus exact, over that of exact, at
            a random sample of places; None of an exact map.

    Attributes:
        data: The array.
        sweep: How it was made.
        error: As given.
    """

    def __init__(self, data: Array, sweep: Sweep, error: float | None = None) -> None:
        if data.ndim != 3:
            raise ValueError(f"data must have shape (rows, columns, channels), got {data.shape}")
        self.data = data
        self.sweep = sweep
        self.error = error

    def __repr__(self) -> str:
        rows, columns, channels = self.data.shape
        error = "" if self.error is None else f", error {self.error:.2g}"
        return f"SaliencyMap({rows}x{columns} places, {channels} channels, {self.sweep}{error})"

    def _repr_png_(self) -> bytes | None:
        """The heat map, as notebooks show it; None without matplotlib or Pillow."""
        try:
            return as_png(self.heatmap())
        except ImportError:
            return None

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
            sweep = json.dumps(asdict(self.sweep))
            error = np.nan if self.error is None else self.error
            np.savez(file, data=rendering.to_host(self.data), sweep=np.array(sweep), error=np.array(error))

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
                data, error = file["data"], float(file["error"])
            for name in ("shape", "ksize", "stride"):
                fields[name] = pair(name, fields[name])
            sweep = Sweep(**fields)
            places = occlusion_windows(sweep.shape, sweep.ksize, sweep.stride, sweep.windows).shape[:2]
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, zipfile.BadZipFile) as fault:
            raise ValueError(f"{path} is no saved SaliencyMap: {fault}") from fault
        if data.ndim != 3 or data.shape[:2] != places or data.dtype.kind != "f":
            raise ValueError(f"{path} is no saved SaliencyMap: {data.dtype} data of shape {data.shape} for {places} places")
        return cls(data, sweep, None if np.isnan(error) else error)

"""From numbers to colours: what every heat map and projection goes through before it is shown.

Only :func:`colorize` needs matplotlib, and only when a colormap is given by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dcnn_kernels.arrays import Array


def to_host(array: Array) -> np.ndarray:
    """A NumPy array with the contents of a NumPy or CuPy array or a Chainer Variable."""
    array = getattr(array, "array", array)
    return array.get() if hasattr(array, "get") else np.asarray(array)


def displayable(img: Array) -> np.ndarray:
    """A picture as a screen wants it.

    Args:
        img: Picture (3, H, W), (1, H, W), (H, W, 3) or (H, W); uint8, or floats, which are scaled to 0..1 by their own
            range if they exceed it.

    Returns:
        float32 array of shape (H, W, 3) in 0..1.

    Raises:
        ValueError: No picture, or NaN in it.
    """
    picture = to_host(img)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    elif picture.ndim == 3 and picture.shape[2] not in (1, 3) and picture.shape[0] in (1, 3):
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise ValueError(f"a picture must have shape (3, H, W), (H, W, 3) or (H, W), got {picture.shape}")
    if picture.dtype == np.uint8:
        picture = picture.astype(np.float32) / 255
    picture = picture.astype(np.float32)
    if not np.isfinite(picture).all():
        raise ValueError("a picture must be finite, got NaN or infinity in it")
    low, high = picture.min(), picture.max()
    if low < 0 or high > 1:
        picture = (picture - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def in_grey(picture: np.ndarray) -> np.ndarray:
    """A picture without its colours (luma of ITU-R BT.601), for a heat map to be laid over.

    Args:
        picture: Floats of shape (H, W, 3).

    Returns:
        float32 array of the same shape.
    """
    luma = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(luma[:, :, None].astype(np.float32), 3, axis=2).clip(0, 1)


def magnitude_limit(values: Array, percentile: float = 99.0) -> float:
    """The magnitude at which colours saturate, so that a few outliers don't leave everything else at zero's colour.

    Zeros don't count: a projection of one neuron is zero outside its receptive field, which may be a small part of it.

    Args:
        values: Array of any shape.
        percentile: Share of the magnitudes above zero that stay below saturation, in percent; 100 for no clipping.

    Returns:
        A number above zero; 1 where all values are zero.

    Raises:
        ValueError: ``percentile`` outside 0..100, or NaN or infinity among the values.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile!r}")
    magnitudes = np.abs(to_host(values).astype(np.float64))
    if not np.isfinite(magnitudes).all():
        raise ValueError("only finite values can be drawn, got NaN or infinity in them")
    magnitudes = magnitudes[magnitudes > 0]
    return float(np.percentile(magnitudes, percentile)) if magnitudes.size else 1.0


def projection_to_rgb(projection: Array, percentile: float = 99.0) -> np.ndarray:
    """Paints a projection: zero is mid-grey, what excites is brighter, what inhibits darker.

    All channels share one scale, so that colours are kept.

    Args:
        projection: Array or Variable of shape (3, H, W), in RGB order; of any other number of channels (C, H, W), or (H, W),
            it is drawn in grey, by the mean over the channels.
        percentile: Of the magnitudes above zero; those beyond it are clipped. 100 for no clipping.

    Returns:
        float32 array of shape (H, W, 3) in 0..1.

    Raises:
        ValueError: Another shape, no pixels, NaN or infinity, or a percentile outside 0..100.
    """
    values = to_host(projection)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"a projection must have shape (C, H, W), one at a time, got {values.shape}")
    if values.ndim == 3:
        values = values.transpose(1, 2, 0) if len(values) == 3 else values.mean(axis=0)
    limit = magnitude_limit(values, percentile)
    painted = (0.5 + 0.5 * np.clip(values / limit, -1, 1)).astype(np.float32)
    return painted if painted.ndim == 3 else np.repeat(painted[:, :, None], 3, axis=2)


def tile(pictures: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Lays pictures of one size out on a sheet, row by row, as near to a square as it goes.

    Args:
        pictures: Arrays of shape (H, W, 3) in 0..1.
        gap: White pixels between them.

    Returns:
        float32 array of shape (H', W', 3); places left over are white.

    Raises:
        ValueError: No pictures, or of several sizes.
    """
    if len({np.shape(picture) for picture in pictures}) != 1:
        raise ValueError(f"expected pictures of one size, got {[np.shape(picture) for picture in pictures]}")
    columns = math.isqrt(len(pictures) - 1) + 1
    rows = -(-len(pictures) // columns)
    height, width, _ = pictures[0].shape
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
    for number, picture in enumerate(pictures):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def interpolate(values: np.ndarray, places: Sequence[np.ndarray], at: Sequence[np.ndarray]) -> np.ndarray:
    """Bilinear interpolation on a grid, constant beyond its edges.

    Args:
        values: Array of shape (rows, columns).
        places: Increasing coordinates of the rows and of the columns.
        at: Coordinates wanted, rows and columns.

    Returns:
        Array of shape (len(at[0]), len(at[1])).
    """
    for axis, (known, wanted) in enumerate(zip(places, at, strict=True)):
        upper = np.clip(np.searchsorted(known, wanted), min(1, len(known) - 1), len(known) - 1)
        lower = np.maximum(upper - 1, 0)
        gap = np.where(upper > lower, known[upper] - known[lower], 1)
        weight = np.clip((wanted - known[lower]) / gap, 0, 1).astype(values.dtype)
        weight = weight[:, None] if axis == 0 else weight
        low, high = values.take(lower, axis), values.take(upper, axis)
        # Of a NaN, no share at all.
        values = np.where(weight == 0, low, np.where(weight == 1, high, low * (1 - weight) + high * weight))
    return values


def colorize(
    values: np.ndarray,
    cmap: str | Callable[..., Any],
    value_range: tuple[float, float] | None = None,
    centering: bool = True,
    from_zero: bool = False,
) -> np.ndarray:
    """Paints numbers.

    Args:
        values: Array of shape (H, W); NaN, in a map that isn't finished, in the colormap's colour for it, black in matplotlib's.
        cmap: Name of a matplotlib colormap, or a callable from [0, 1] to RGB or RGBA.
        value_range: Values at the two ends; by default the values' own range.
        centering: Whether that range is made symmetric about zero.
        from_zero: Whether it starts at zero.

    Returns:
        float32 array of shape (H, W, 3) in 0..1.

    Raises:
        ValueError: A range that isn't two finite increasing numbers, or an unknown colormap.
        ImportError: ``cmap`` is a name and matplotlib isn't installed.
    """
    if value_range is None:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if centering:
            low, high = -max(-low, high, 0.0), max(-low, high, 0.0)
        elif from_zero:
            low = 0.0
        if high <= low:
            high = low + 1.0 if not centering else high + 1.0
            low = low if not centering else -high
    else:
        low, high = map(float, value_range)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(f"value_range must be two finite increasing numbers, got {value_range!r}")
    scaled = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    return np.asarray(colormap(cmap)(scaled), np.float32)[..., :3]


def colormap(cmap: str | Callable[..., Any]) -> Callable[..., Any]:
    """The callable behind a colormap's name.

    Raises:
        ValueError: matplotlib knows no such colormap.
        ImportError: matplotlib isn't installed.
    """
    if callable(cmap):
        return cmap
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"the colormap {cmap!r} needs matplotlib: pip install 'dnn-visualizer[plot]'") from error
    try:
        return matplotlib.colormaps[cmap]
    except KeyError as error:
        raise ValueError(f"matplotlib knows no colormap {cmap!r}") from error

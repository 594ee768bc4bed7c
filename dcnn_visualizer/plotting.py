"""Results on matplotlib axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_visualizer import rendering
from dcnn_visualizer.occlusion import SaliencyMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show(
    result: Array | SaliencyMap,
    image: Array | None = None,
    ax: Axes | None = None,
    *,
    percentile: float = 99.0,
    alpha: float = 0.6,
    channel: int | None = None,
    absolute: bool = False,
    cmap: str | Callable[..., Any] | None = None,
) -> Axes:
    """Draws a projection or a saliency map, over the photograph if one is given.

    Zero is the middle of the colours: mid-grey in a projection, the colormap's middle in a map. Under a map the photograph is
    drawn in grey, so that all colours are the map's; where a map isn't finished, nothing is drawn over it. The map is the last of
    the axes' images, so ``figure.colorbar(ax.images[-1])`` adds its scale.

    Example:
        >>> show(DeSaliNet(model).analyze(x, "conv2", 3))                     # the projection alone
        >>> show(SaliencyVisualizer(model).analyze(x, "fc8", 32, 8), photo)   # a heat map laid over the photograph

    Args:
        result: A projection, array or Variable of shape (C, H, W), in RGB order where C is 3; or a SaliencyMap.
        image: The photograph that the network saw, (3, H, W), (H, W, 3) or (H, W), uint8 or floats; any resolution, but the
            result's proportions. None to draw the result alone.
        ax: Axes to draw on; by default those of a new figure.
        percentile: Of the magnitudes above zero; those beyond it are clipped. 100 for no clipping.
        alpha: Weight of the result over the photograph, 0 to 1.
        channel: One channel of a SaliencyMap; None for the mean over all.
        absolute: Whether to draw how much a SaliencyMap changes, not which way.
        cmap: Colormap of a SaliencyMap; by default ``"RdBu_r"``, and for ``absolute`` ``"magma"``.

    Returns:
        The axes.

    Raises:
        TypeError: Neither a projection nor a SaliencyMap, or no axes.
        ValueError: A wrong shape, NaN, a photograph of other proportions, or a number outside its range.
        IndexError: No such channel.
        ImportError: matplotlib isn't installed.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha!r}")
    backdrop = None if image is None else rendering.displayable(image)
    if isinstance(result, SaliencyMap):
        _check_proportions(result.sweep.shape, backdrop)
        backdrop = None if backdrop is None else rendering.in_grey(backdrop)
        values = result.plane(None if backdrop is None else backdrop.shape[:2], absolute, channel)
        limit = rendering.magnitude_limit(values[~np.isnan(values)], percentile)  # a map may not be finished
        colours = rendering.colormap(cmap or ("magma" if absolute else "RdBu_r"))
        style: dict[str, Any] = {"cmap": colours, "vmin": 0 if absolute else -limit, "vmax": limit}
    else:
        if not hasattr(result, "shape"):
            raise TypeError(f"result must be an array, a Variable or a SaliencyMap, got {type(result).__name__}")
        if channel is not None or absolute or cmap is not None:
            raise ValueError("channel, absolute and cmap are for a SaliencyMap, and this is a projection")
        values, style = rendering.projection_to_rgb(result, percentile), {}
        _check_proportions(values.shape[:2], backdrop)
    if ax is None:
        ax = _new_axes()
    elif not hasattr(ax, "imshow"):
        raise TypeError(f"ax must be matplotlib axes, got {type(ax).__name__}")
    # All images share the coordinates of the first, whatever their own resolutions.
    height, width = (values if backdrop is None else backdrop).shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if backdrop is not None:
        ax.imshow(backdrop, extent=extent)
    ax.imshow(values, extent=extent, alpha=None if backdrop is None else alpha, **style)
    ax.set_axis_off()
    return ax


def _check_proportions(shape: tuple[int, ...], backdrop: Any) -> None:
    if backdrop is None:
        return
    (rows, columns), (height, width) = shape, backdrop.shape[:2]
    # Rounding to whole pixels is let pass.
    if abs(height * columns - width * rows) > max(rows, columns, height, width):
        raise ValueError(
            f"image of {height}x{width} pixels has other proportions than the {rows}x{columns} that the network saw; "
            "give the part of it that the network saw"
        )


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'dnn-visualizer[plot]'") from error
    return pyplot.subplots()[1]

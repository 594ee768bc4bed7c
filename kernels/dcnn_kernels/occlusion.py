"""Pictures with a window hidden, many at once."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

from dcnn_kernels.arrays import Array, check_float, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array


@takes_any_array
def occlude(x: Array, windows: npt.NDArray[np.integer], fill: float | Array, *, backend: str | None = None) -> Array:
    """Copies a picture once for each window, and fills the window in each copy.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 4.2.

    Args:
        x: Picture (C, H, W), float32 or float64.
        windows: Integers (N, 4) in host memory: top, left, bottom, right of each window; bottom and right are exclusive. Those
            of ``geometry.occlusion_windows`` after ``.reshape(-1, 4)``.
        fill: What to put there: a number, or an array of the dtype of ``x`` that can be broadcast to (C, H, W), of which
            each window takes its own part.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Occluded pictures (N, C, H, W).

    Raises:
        TypeError: An argument is no array or of a wrong dtype.
        ValueError: A wrong shape, or a window that reaches out of the picture.
        BackendError: The backend can't run on these arrays.
    """
    number = isinstance(fill, numbers.Real)
    run = select_backend("occlusion", backend, x=x, fill=None if number else fill).occlude
    check_float("x", x, 3)
    if not number:
        check_float("fill", fill, (0, 1, 2, 3), like=x)
        _check_broadcast("fill", fill, x.shape)
    if not isinstance(windows, np.ndarray) or windows.dtype.kind not in "iu":
        raise TypeError(f"windows must be a numpy.ndarray of integers, got {getattr(windows, 'dtype', type(windows).__name__)}")
    check_shape("windows", windows, (-1, 4))
    top, left, bottom, right = windows.T
    wrong = (top < 0) | (left < 0) | (top > bottom) | (left > right) | (bottom > x.shape[1]) | (right > x.shape[2])
    if wrong.any():
        raise ValueError(
            f"windows must be top, left, bottom, right inside a picture of {x.shape[1]}x{x.shape[2]}, "
            f"got {windows[wrong][0].tolist()}"
        )
    return run(x, windows, fill)


def _check_broadcast(name: str, array: Array, shape: tuple[int, ...]) -> None:
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must have a shape that can be broadcast to {shape}, got {array.shape}")

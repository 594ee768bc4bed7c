"""Occlusion: a picture repeated, each time with a window of it filled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def occlude(x: FloatArray, windows: npt.NDArray[np.integer], fill: float | FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.occlude`."""
    fill = np.broadcast_to(np.asarray(fill, x.dtype), x.shape)
    y = np.empty((len(windows), *x.shape), x.dtype)
    # The window is filled while its copy is still in cache, so the batch is written to memory once.
    for picture, (top, left, bottom, right) in zip(y, windows.tolist(), strict=True):
        picture[...] = x
        picture[:, top:bottom, left:right] = fill[:, top:bottom, left:right]
    return y

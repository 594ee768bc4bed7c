"""The linear layer and its adjoint: BLAS does the work."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def linear(x: FloatArray, W: FloatArray, b: FloatArray | None) -> FloatArray:
    """See :func:`dcnn_kernels.linear`."""
    y = x @ W.T
    if b is not None:
        y += b
    return y


def linear_adjoint(g: FloatArray, W: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.linear_adjoint`."""
    return g @ W

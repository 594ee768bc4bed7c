"""The linear layer and its adjoint: BLAS does the work."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def linear(x: FloatArray, W: FloatArray, b: FloatArray | None) -> FloatArray:
    """See :func:`dcnn_kernels.linear`."""
    # The same product as x @ W.T, but for small batches BLAS takes half the time or less when the large matrix comes first.
    y = np.ascontiguousarray((W @ x.T).T)
    if b is not None:
        y += b
    return y


def linear_adjoint(g: FloatArray, W: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.linear_adjoint`."""
    return g @ W

"""The linear layer and its adjoint: cuBLAS does the work, through CuPy."""

from __future__ import annotations

from dcnn_kernels.arrays import Array


def linear(x: Array, W: Array, b: Array | None) -> Array:
    """See :func:`dcnn_kernels.linear`."""
    y = x @ W.T
    if b is not None:
        y += b
    return y


def linear_adjoint(g: Array, W: Array) -> Array:
    """See :func:`dcnn_kernels.linear_adjoint`."""
    return g @ W

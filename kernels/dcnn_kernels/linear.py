"""The linear (fully connected) layer and its adjoint."""

from __future__ import annotations

from dcnn_kernels.arrays import Array, check_float, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array


@takes_any_array
def linear(x: Array, W: Array, b: Array | None = None, *, backend: str | None = None) -> Array:
    """Applies a linear layer, ``y = x W^T + b``.

    Args:
        x: Inputs (B, n), float32 or float64.
        W: Weights (m, n), of the same dtype.
        b: Bias (m,), of the same dtype; None for none.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Outputs (B, m).

    Raises:
        TypeError: An argument is no array, or of a wrong dtype.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("linear", backend, x=x, W=W, b=b).linear
    check_float("x", x, 2)
    check_float("W", W, 2, like=x)
    check_shape("W", W, (-1, x.shape[1]))
    if b is not None:
        check_float("b", b, 1, like=x)
        check_shape("b", b, (W.shape[0],))
    return run(x, W, b)


@takes_any_array
def linear_adjoint(g: Array, W: Array, *, backend: str | None = None) -> Array:
    """Carries a signal back through a linear layer without its bias, ``g W``: the adjoint of :func:`linear`.

    Args:
        g: Signal at the outputs (B, m), float32 or float64.
        W: Weights (m, n), of the same dtype: those of the layer.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signal at the inputs (B, n).

    Raises:
        TypeError: An argument is no array, or of a wrong dtype.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("linear", backend, g=g, W=W).linear_adjoint
    check_float("g", g, 2)
    check_float("W", W, 2, like=g)
    check_shape("W", W, (g.shape[1], -1))
    return run(g, W)

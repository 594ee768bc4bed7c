"""Normalization of each sample by its own statistics, and the way back."""

from __future__ import annotations

from dcnn_kernels.arrays import Array, check_float, check_number, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array

#: A batch of rows, in any number of axes.
RANKS = tuple(range(2, 9))


@takes_any_array
def layer_normalization(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
    centred: bool = True,
    *,
    backend: str | None = None,
) -> Array:
    """Normalizes each row, the last axis: ``gamma * (x - mean) / sqrt(var + eps) + beta`` (Ba et al., arXiv:1607.06450).

    Group normalization (Wu and He, ECCV 2018) is that of ``x.reshape(B, groups, -1)``, and instance normalization that of
    ``x.reshape(B, C, -1)``.

    Args:
        x: Inputs (B, ..., N), float32 or float64.
        gamma: Scale (N,), of the same dtype, or None for one.
        beta: Shift (N,), of the same dtype, or None for zero.
        eps: Added to the variance.
        centred: Whether the mean is taken off; if not, var is the mean square, and it's root mean square normalization (Zhang
            and Sennrich, NeurIPS 2019).
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``eps`` is no number.
        ValueError: A wrong shape, or rows without values.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("layer_normalization", backend, x=x, gamma=gamma, beta=beta).layer_normalization
    _check(x, gamma=gamma, beta=beta)
    return run(x, gamma, beta, check_number("eps", eps), bool(centred))


@takes_any_array
def layer_normalization_gradient(
    x: Array,
    g: Array,
    gamma: Array | None = None,
    eps: float = 1e-5,
    centred: bool = True,
    *,
    backend: str | None = None,
) -> Array:
    """Carries a signal back through :func:`layer_normalization` by its true gradient.

    With ``h = gamma * g`` and ``n`` the normalized row, it is ``(h - mean(h) - n * mean(h * n)) / sqrt(var + eps)``; without
    centring, ``mean(h)`` is left out.

    Args:
        x: Inputs of the forward pass (B, ..., N), float32 or float64; of one sample, (1, ..., N), they serve all signals.
        g: Signals at the outputs (B, ..., N), of the same dtype.
        gamma: As in the forward pass.
        eps: As in the forward pass.
        centred: As in the forward pass.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signals at the inputs, of the shape and dtype of ``g``.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``eps`` is no number.
        ValueError: A wrong shape, or rows without values.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("layer_normalization", backend, x=x, g=g, gamma=gamma).layer_normalization_gradient
    _check(x, gamma=gamma)
    check_float("g", g, x.ndim, like=x)
    check_shape("x", x, (1 if len(x) == 1 else len(g), *g.shape[1:]))
    return run(x, g, gamma, check_number("eps", eps), bool(centred))


def _check(x: Array, **weights: Array | None) -> None:
    check_float("x", x, RANKS)
    if not x.shape[-1]:
        raise ValueError(f"rows of x must have a value at least, got shape {x.shape}")
    for name, array in weights.items():
        if array is not None:
            check_float(name, array, 1, like=x)
            check_shape(name, array, x.shape[-1:])

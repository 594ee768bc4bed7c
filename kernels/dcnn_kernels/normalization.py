"""Local response normalization with its gradient, and batch normalization at inference with its adjoint."""

from __future__ import annotations

import numbers

from dcnn_kernels.arrays import Array, check_float, check_number, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array

#: (B, C) and pictures of any number of axes.
LRN_RANKS = tuple(range(2, 9))


@takes_any_array
def local_response_normalization(
    x: Array, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, *, backend: str | None = None
) -> Array:
    """Divides each value by the strength of its neighbour channels at the same pixel.

    ``y_i = x_i / (k + alpha * sum_j x_j^2)^beta`` over the channels j at most n // 2 away from i: Krizhevsky, Sutskever and
    Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012), section 3.3. As in the paper and
    in Chainer, alpha isn't divided by n (Caffe and PyTorch divide it). As in Chainer on the CPU, an even n takes in n + 1
    channels.

    Args:
        x: Inputs (B, C, ...), float32 or float64.
        n: Width of the window of channels, at least 1.
        k: Offset, positive or 0.
        alpha: Weight of the sum of squares.
        beta: Exponent.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or a parameter is no number.
        ValueError: A wrong rank, or ``n`` below 1.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("normalization", backend, x=x).local_response_normalization
    check_float("x", x, LRN_RANKS)
    return run(x, *_lrn_parameters(n, k, alpha, beta))


@takes_any_array
def local_response_normalization_gradient(
    x: Array,
    g: Array,
    n: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    *,
    backend: str | None = None,
) -> Array:
    """Carries a signal back through :func:`local_response_normalization` by its true gradient.

    With ``s_j = k + alpha * sum x^2`` over the window of j, the signal at input i is
    ``g_i / s_i^beta - 2 alpha beta x_i * sum_j g_j x_j / s_j^(beta + 1)`` over the channels j at most n // 2 away.

    Args:
        x: Inputs of the forward pass (B, C, ...), float32 or float64.
        g: Signal at the outputs, of the same shape and dtype.
        n: As in the forward pass.
        k: As in the forward pass.
        alpha: As in the forward pass.
        beta: As in the forward pass.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signal at the inputs, of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or a parameter is no number.
        ValueError: A wrong shape, or ``n`` below 1.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("normalization", backend, x=x, g=g).local_response_normalization_gradient
    check_float("x", x, LRN_RANKS)
    check_float("g", g, x.ndim, like=x)
    check_shape("g", g, x.shape)
    return run(x, g, *_lrn_parameters(n, k, alpha, beta))


@takes_any_array
def batch_normalization(
    x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float = 2e-5, *, backend: str | None = None
) -> Array:
    """Normalizes by fixed statistics, as at inference: ``gamma * (x - mean) / sqrt(var + eps) + beta`` a channel.

    Ioffe and Szegedy, "Batch Normalization" (ICML 2015), algorithm 2.

    Args:
        x: Inputs (B, C) or (B, C, H, W), float32 or float64.
        gamma: Scale (C,), of the same dtype.
        beta: Shift (C,), of the same dtype.
        mean: Mean (C,), of the same dtype.
        var: Variance (C,), of the same dtype.
        eps: Added to the variance. Chainer's default; TensorFlow's is 1e-3, PyTorch's 1e-5.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``eps`` is no number.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("normalization", backend, x=x, gamma=gamma, beta=beta, mean=mean, var=var).batch_normalization
    check_float("x", x, (2, 4))
    for name, array in (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)):
        check_float(name, array, 1, like=x)
        check_shape(name, array, (x.shape[1],))
    return run(x, gamma, beta, mean, var, check_number("eps", eps))


@takes_any_array
def batch_normalization_adjoint(g: Array, gamma: Array, var: Array, eps: float = 2e-5, *, backend: str | None = None) -> Array:
    """Carries a signal back through :func:`batch_normalization`: multiplies it by ``gamma / sqrt(var + eps)``.

    Args:
        g: Signal at the outputs (B, C) or (B, C, H, W), float32 or float64.
        gamma: Scale (C,), of the same dtype.
        var: Variance (C,), of the same dtype.
        eps: As in the forward pass.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signal at the inputs, of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``eps`` is no number.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("normalization", backend, g=g, gamma=gamma, var=var).batch_normalization_adjoint
    check_float("g", g, (2, 4))
    for name, array in (("gamma", gamma), ("var", var)):
        check_float(name, array, 1, like=g)
        check_shape(name, array, (g.shape[1],))
    return run(g, gamma, var, check_number("eps", eps))


def _lrn_parameters(n: int, k: float, alpha: float, beta: float) -> tuple[int, float, float, float]:
    if not isinstance(n, numbers.Integral):
        raise TypeError(f"n must be an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return int(n), check_number("k", k), check_number("alpha", alpha), check_number("beta", beta)

"""Rectifiers, the one-bit masks they leave behind, and the ways back through them."""

from __future__ import annotations

import math
import numbers

from dcnn_kernels.arrays import Array, check_bound, check_float, check_mask, check_number, check_shape, select_backend
from dcnn_kernels.dlpack import takes_any_array

#: Rectifiers work on each element, so any rank with a batch axis will do.
RANKS = tuple(range(1, 9))


@takes_any_array
def relu(x: Array, *, backend: str | None = None) -> Array:
    """Rectifies, ``max(x, 0)``; NaN stays NaN.

    Args:
        x: Inputs (B, ...), float32 or float64.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("relu", backend, x=x).relu
    check_float("x", x, RANKS)
    return run(x)


@takes_any_array
def clipped_relu(x: Array, z: float = 6.0, *, backend: str | None = None) -> Array:
    """Rectifies and clips, ``min(max(x, 0), z)``; with ``z=6`` this is ReLU6. NaN stays NaN.

    Args:
        x: Inputs (B, ...), float32 or float64.
        z: Upper bound, positive.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or ``z`` is no number.
        ValueError: ``z`` is not positive.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("relu", backend, x=x).clipped_relu
    check_float("x", x, RANKS)
    return run(x, check_bound("z", z))


@takes_any_array
def leaky_relu(x: Array, slope: float = 0.2, *, backend: str | None = None) -> Array:
    """Lets negative values through with a slope, ``max(x, 0) + slope * min(x, 0)``.

    Args:
        x: Inputs (B, ...), float32 or float64.
        slope: Factor of negative values.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or ``slope`` is no number.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("relu", backend, x=x).leaky_relu
    check_float("x", x, RANKS)
    return run(x, check_number("slope", slope))


@takes_any_array
def prelu(x: Array, W: Array, *, backend: str | None = None) -> Array:
    """Leaky ReLU with learned slopes, ``max(x, 0) + W * min(x, 0)``.

    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers" (ICCV 2015), equation 1.

    Args:
        x: Inputs (B, C, ...), float32 or float64.
        W: Slope of negative values, of the same dtype: one for all, of shape (), or one a channel, (C,).
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Outputs of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("relu", backend, x=x, W=W).prelu
    check_float("x", x, RANKS)
    _check_slope("W", W, x)
    return run(x, W)


@takes_any_array
def relu_mask(x: Array, z: float = math.inf, *, backend: str | None = None) -> Array:
    """Notes in one bit an element where a rectifier lets the gradient pass: where ``0 < x < z``.

    Args:
        x: Inputs of the rectifier (B, ...), float32 or float64. NaN gives 0.
        z: Upper bound of a clipped ReLU, positive; inf for none.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        uint8 array (B, ceil(n / 8)), where n is the number of elements of a sample: element i of the flattened sample is
        bit ``i % 8``, counted from the lowest, of byte ``i // 8`` (``bitorder="little"`` in NumPy's ``packbits``). Bits
        beyond n are 0.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or ``z`` is no number.
        ValueError: ``z`` is not positive.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("relu", backend, x=x).relu_mask
    check_float("x", x, RANKS)
    return run(x, check_bound("z", z))


@takes_any_array
def relu_reverse(
    g: Array,
    mask: Array | None = None,
    rectify: bool = False,
    slope: float | Array = 0.0,
    *,
    backend: str | None = None,
) -> Array:
    """Carries a signal back through a rectifier, by any of four rules.

    With a mask, the signal is multiplied by 1 where the mask's bit is set and by ``slope`` elsewhere; with ``rectify`` it is
    rectified after that. So ``mask`` alone is the gradient (SaliNet), ``rectify`` alone DeconvNet's rule, and both are
    DeSaliNet's: Mahendran and Vedaldi, "Salient Deconvolutional Networks" (ECCV 2016), section 3. With neither, the signal
    passes unchanged.

    Args:
        g: Signal at the outputs (B, C, ...), float32 or float64.
        mask: What :func:`relu_mask` made of the rectifier's inputs, uint8 (B, ceil(n / 8)); None to ignore their sign.
        rectify: Whether negative signals are set to 0.
        slope: Factor where the mask's bit isn't set: a number, or for a PReLU the array of its slopes, () or (C,), of the
            same dtype as ``g``. Without a mask it isn't read.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signal at the inputs, of the same shape and dtype.

    Raises:
        TypeError: An argument is no array or of a wrong dtype, or ``slope`` is neither a number nor an array.
        ValueError: A wrong shape.
        BackendError: The backend can't run on these arrays.
    """
    if isinstance(slope, numbers.Real):
        run, slope = select_backend("relu", backend, g=g, mask=mask).relu_reverse, float(slope)
    else:
        run = select_backend("relu", backend, g=g, mask=mask, slope=slope).relu_reverse
    check_float("g", g, RANKS)
    if not isinstance(slope, float):
        _check_slope("slope", slope, g)
    if mask is not None:
        check_mask("mask", mask, g.shape)
    return run(g, mask, bool(rectify), slope)


def _check_slope(name: str, slope: Array, x: Array) -> None:
    check_float(name, slope, (0, 1), like=x)
    if slope.ndim:
        if x.ndim < 2:
            raise ValueError(f"{name} of one slope a channel needs inputs (B, C, ...), got shape {x.shape}")
        check_shape(name, slope, (x.shape[1],))

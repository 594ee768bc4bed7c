"""Convolution and its adjoint, the transposed convolution."""

from __future__ import annotations

from . import geometry
from .arrays import Array, check_bound, check_float, check_mask, check_shape, check_switches, select_backend
from .dlpack import takes_any_array
from .geometry import PadLike, Pads, Pair, PairLike


@takes_any_array
def convolution_2d(
    x: Array,
    W: Array,
    b: Array | None = None,
    stride: PairLike = 1,
    pad: PadLike = 0,
    dilate: PairLike = 1,
    groups: int = 1,
    z: float | None = None,
    scale: Array | None = None,
    shift: Array | None = None,
    *,
    backend: str | None = None,
) -> Array:
    """Slides the filters of ``W`` over pictures (a cross-correlation, as in every deep learning library), and rectifies.

    Args:
        x: Pictures, shape (B, C, H, W'), float32 or float64. B may be 0.
        W: Filters, shape (O, C / groups, kh, kw), of x's dtype.
        b: Bias, shape (O,), of x's dtype, or None.
        stride: Step between windows.
        pad: Zero padding: an integer, (rows, columns) or ((top, bottom), (left, right)).
        dilate: Step between the taps of a window.
        groups: Number of groups of channels that do not see one another; with as many as channels it is depthwise.
        z: Upper bound of the rectifier that the result goes through, as in :func:`clipped_relu`, positive; inf for a plain ReLU,
            None for no rectifier.
        scale: Before the rectifier, results are multiplied by these, shape (O,), of x's dtype. Together with ``shift``, and the
            mean taken off the bias, a batch normalization.
        shift: Then these are added, shape (O,); None if and only if ``scale`` is.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"``; None follows the arrays.

    Returns:
        Shape (B, O, h, w), of x's dtype: C-contiguous, never a view of x.

    Raises:
        TypeError: No arrays, or dtypes that are not floats or differ, or ``z`` is no number.
        ValueError: Wrong ranks or shapes, channels that the groups do not divide, a window larger than the padded picture, a
            ``z`` that is not positive, or one of ``scale`` and ``shift`` without the other.
        BackendError: The backend can't run on these arrays.
    """
    kernels = select_backend("convolution", backend, x=x, W=W, b=b, scale=scale, shift=shift)
    window, groups = _check(x, W, stride, pad, dilate, groups)
    filters, channels = W.shape[0], W.shape[1] * groups
    _check_signal("x", x, channels, f"W {W.shape} with groups {groups} takes {channels} channels")
    for name, array in (("b", b), ("scale", scale), ("shift", shift)):
        _check_bias(name, array, filters, x)
    if (scale is None) != (shift is None):
        raise ValueError(f"scale and shift must be given together, got {'shift' if scale is None else 'scale'} alone")
    geometry.output_shape(x.shape, *window)
    return kernels.convolution_2d(x, W, b, *window[1:], groups, None if z is None else check_bound("z", z), scale, shift)


@takes_any_array
def transposed_convolution_2d(
    x: Array,
    W: Array,
    b: Array | None = None,
    stride: PairLike = 1,
    pad: PadLike = 0,
    dilate: PairLike = 1,
    groups: int = 1,
    outsize: PairLike | None = None,
    mask: Array | None = None,
    rectify: bool = False,
    *,
    backend: str | None = None,
) -> Array:
    """The adjoint of :func:`convolution_2d` with the same ``W``, stride, pad, dilate and groups.

    DeconvNet calls it filtering with transposed filters (Zeiler and Fergus, 2014, section 2.1); it is also the gradient of
    the convolution with respect to its input. What is made goes on through the ReLU before the convolution, as through
    :func:`relu_reverse`, by ``mask`` and ``rectify``.

    Args:
        x: Signal at the convolution's output, shape (B, O, h, w), float32 or float64. B may be 0.
        W: Filters, shape (O, C / groups, kh, kw): the very array that the convolution takes, of x's dtype.
        b: Bias, shape (C,), of x's dtype, or None.
        stride: Step between windows.
        pad: The convolution's padding: an integer, (rows, columns) or ((top, bottom), (left, right)).
        dilate: Step between the taps of a window.
        groups: Number of groups of channels that do not see one another.
        outsize: (H, W') of the result, one of those from which the convolution makes (h, w); None is the smallest of them.
        mask: What :func:`relu_mask` made of the convolution's input, uint8 (B, ceil(C H W' / 8)): where its bit isn't set, the
            result becomes 0. None to ignore the sign.
        rectify: Whether negative values of the result become 0.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"``; None follows the arrays.

    Returns:
        Shape (B, C, H, W'), of x's dtype: C-contiguous, never a view of x.

    Raises:
        TypeError: No arrays, or dtypes that are not floats or differ, or a mask of another dtype.
        ValueError: Wrong ranks or shapes, channels that the groups do not divide, an ``outsize`` that does not fit.
        BackendError: The backend can't run on these arrays.
    """
    kernels = select_backend("convolution", backend, x=x, W=W, b=b, mask=mask)
    window, groups = _check(x, W, stride, pad, dilate, groups)
    filters, channels = W.shape[0], W.shape[1] * groups
    _check_signal("x", x, filters, f"one for each filter of W {W.shape}")
    _check_bias("b", b, channels, x)
    size = _outsize(x.shape[2:], window, None if outsize is None else geometry.pair("outsize", outsize))
    if mask is not None:
        check_mask("mask", mask, (len(x), channels, *size))
    return kernels.transposed_convolution_2d(x, W, b, *window[1:], groups, size, mask, bool(rectify))


@takes_any_array
def unpooled_transposed_convolution_2d(
    g: Array,
    switches: Array,
    W: Array,
    insize: PairLike,
    pool_ksize: PairLike,
    pool_stride: PairLike | None = None,
    pool_pad: PadLike = 0,
    pool_mask: Array | None = None,
    pool_rectify: bool = False,
    b: Array | None = None,
    stride: PairLike = 1,
    pad: PadLike = 0,
    dilate: PairLike = 1,
    groups: int = 1,
    outsize: PairLike | None = None,
    mask: Array | None = None,
    rectify: bool = False,
    *,
    backend: str | None = None,
) -> Array:
    """Unpools a signal by its switches, and takes it on through a transposed convolution: two of a DeconvNet's steps in one.

    The result is that of :func:`unpooling_2d`, to ``insize`` with ``pool_mask`` and ``pool_rectify``, followed by
    :func:`transposed_convolution_2d`. On CUDA the convolution reads the pooled signal and the switches, and the unpooled signal,
    several times as large, is never written.

    Args:
        g: Signal at the pooling's windows, shape (B, O, h, w), float32 or float64. B may be 0.
        switches: The switches of :func:`max_pooling_2d`, of the shape of ``g``.
        W: Filters of the convolution before the pooling, shape (O, C / groups, kh, kw), of g's dtype.
        insize: (rows, columns) of the picture that was pooled, which is what the transposed convolution takes in.
        pool_ksize: Rows and columns of the pooling's window.
        pool_stride: Step between the pooling's windows; None for ``pool_ksize``.
        pool_pad: The pooling's padding: an integer, (rows, columns) or ((top, bottom), (left, right)).
        pool_mask: What :func:`relu_mask` made of the picture that was pooled, uint8 (B, ceil(O rows columns / 8)): where its bit
            isn't set, the unpooled signal becomes 0. None to ignore the sign.
        pool_rectify: Whether negative values of the unpooled signal become 0.
        b: Bias, shape (C,), of g's dtype, or None.
        stride: Step between the convolution's windows.
        pad: The convolution's padding: an integer, (rows, columns) or ((top, bottom), (left, right)).
        dilate: Step between the taps of a window.
        groups: Number of groups of channels that do not see one another.
        outsize: (H, W') of the result, one of those from which the convolution makes ``insize``; None is the smallest of them.
        mask: What :func:`relu_mask` made of the convolution's input, uint8 (B, ceil(C H W' / 8)): where its bit isn't set, the
            result becomes 0. None to ignore the sign.
        rectify: Whether negative values of the result become 0.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"``; None follows the arrays.

    Returns:
        Shape (B, C, H, W'), of g's dtype: C-contiguous.

    Raises:
        TypeError: No arrays, or dtypes that are not floats or differ, or switches or a mask of another dtype.
        ValueError: Wrong ranks or shapes, channels that the groups do not divide, an ``outsize`` that does not fit.
        BackendError: The backend can't run on these arrays.
    """
    kernels = select_backend("convolution", backend, g=g, switches=switches, W=W, pool_mask=pool_mask, b=b, mask=mask)
    check_float("g", g, 4)
    window, groups = _check(g, W, stride, pad, dilate, groups)
    filters, channels = W.shape[0], W.shape[1] * groups
    _check_signal("g", g, filters, f"one for each filter of W {W.shape}")
    _check_bias("b", b, channels, g)
    picture, ksize = geometry.pair("insize", insize), geometry.pair("pool_ksize", pool_ksize)
    step = ksize if pool_stride is None else geometry.pair("pool_stride", pool_stride)
    padding = geometry.pads(pool_pad)
    geometry.check_window_counts("g", g.shape, "insize", picture, ksize, step, padding)
    check_switches(switches, g, ksize)
    if pool_mask is not None:
        check_mask("pool_mask", pool_mask, (*g.shape[:2], *picture))
    size = _outsize(picture, window, None if outsize is None else geometry.pair("outsize", outsize))
    if mask is not None:
        check_mask("mask", mask, (len(g), channels, *size))
    pooling = picture, ksize, step, padding, pool_mask, bool(pool_rectify)
    return kernels.unpooled_transposed_convolution_2d(g, switches, W, *pooling, b, *window[1:], groups, size, mask, bool(rectify))


def _check(
    x: Array, W: Array, stride: PairLike, pad: PadLike, dilate: PairLike, groups: int
) -> tuple[tuple[Pair, Pair, Pads, Pair], int]:
    """Checks ranks, dtypes and filters, and returns ((ksize, stride, pads, dilate), groups) as integers."""
    check_float("x", x, 4)
    check_float("W", W, 4, like=x)
    groups = geometry.pair("groups", (groups, groups))[0]
    if 0 in W.shape:
        raise ValueError(f"W must have filters, channels and taps, got shape {W.shape}")
    if W.shape[0] % groups:
        raise ValueError(f"groups must divide the {W.shape[0]} filters of W {W.shape}, got {groups}")
    ksize = (W.shape[2], W.shape[3])
    return (ksize, geometry.pair("stride", stride), geometry.pads(pad), geometry.pair("dilate", dilate)), groups


def _check_signal(name: str, x: Array, channels: int, reason: str) -> None:
    if x.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels ({reason}), got shape {x.shape}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have pixels, got shape {x.shape}")


def _check_bias(name: str, b: Array | None, channels: int, x: Array) -> None:
    if b is not None:
        check_float(name, b, 1, like=x)
        check_shape(name, b, (channels,))


def _outsize(shape: Pair, window: tuple[Pair, Pair, Pads, Pair], outsize: Pair | None) -> Pair:
    """The extents of a transposed convolution's result, checked against those allowed."""
    if outsize is None:
        rows, columns = (geometry.transposed_output_size(*axis) for axis in zip(shape, *window, strict=True))
        return rows, columns
    for name, got, size, ksize, stride, pad, dilate in zip(("rows", "columns"), outsize, shape, *window, strict=True):
        smallest = stride * (size - 1) + dilate * (ksize - 1) + 1 - sum(pad)
        allowed = range(max(1, smallest), smallest + stride)
        if got not in allowed:
            wanted = " or ".join(map(str, allowed)) if len(allowed) < 4 else f"{allowed[0]} to {allowed[-1]}"
            raise ValueError(
                f"outsize must have {wanted or 'no'} {name} (the convolution makes {size} windows of them with ksize {ksize}, "
                f"stride {stride}, pad {pad}, dilate {dilate}), got {got}"
            )
    return outsize

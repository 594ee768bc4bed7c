"""Ways back of many signals that belong to one picture, as those of all channels of a layer do.

They share the picture's switches and masks, and so most of their zeros. Here they lie innermost, (rows, columns, channels,
signals), and the compiled floor skips what is zero in all of them.
"""

from __future__ import annotations

from . import geometry
from .arrays import Array, check_float, check_mask, check_shape, check_switches, select_backend
from .dlpack import takes_any_array
from .geometry import PadLike, PairLike


@takes_any_array
def shared_transposed_convolution_2d(
    g: Array,
    W: Array,
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
    """Takes signals through a transposed convolution, and on through the ReLU before the convolution.

    The result is that of :func:`transposed_convolution_2d` followed by :func:`relu_reverse`.

    Args:
        g: Signals at the convolution's output, shape (h, w, O, K), float32 or float64.
        W: Filters of the convolution, shape (O, C / groups, kh, kw), of g's dtype.
        stride: Step between windows.
        pad: The convolution's padding: an integer, (rows, columns) or ((top, bottom), (left, right)).
        dilate: Step between the taps of a window.
        groups: Number of groups of channels that do not see one another.
        outsize: (H, W') of the result, one of those from which the convolution makes (h, w); None is the smallest of them.
        mask: What :func:`relu_mask` made of the ReLU's inputs for the one picture, uint8 (1, ceil(C H W' / 8)); None to ignore
            their sign.
        rectify: Whether negative values become 0.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"``; None follows the arrays.

    Returns:
        Shape (H, W', C, K), of g's dtype.

    Raises:
        TypeError: No arrays, or dtypes that are not floats or differ, or a mask of another dtype.
        ValueError: Wrong ranks or shapes, channels that the groups do not divide, an ``outsize`` that does not fit.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("shared", backend, g=g, W=W, mask=mask).shared_transposed_convolution_2d
    check_float("g", g, 4)
    check_float("W", W, 4, like=g)
    groups = geometry.pair("groups", (groups, groups))[0]
    if W.shape[0] % groups or 0 in W.shape:
        raise ValueError(f"W must have filters that groups {groups} divide, channels and taps, got shape {W.shape}")
    check_shape("g", g, (-1, -1, W.shape[0], -1))
    ksize = (W.shape[2], W.shape[3])
    window = geometry.pair("stride", stride), geometry.pads(pad), geometry.pair("dilate", dilate)
    if outsize is None:
        size = tuple(geometry.transposed_output_size(*axis) for axis in zip(g.shape[:2], ksize, *window, strict=True))
    else:
        size = geometry.pair("outsize", outsize)
        made = geometry.output_shape(size, ksize, *window)
        if made != tuple(g.shape[:2]):
            raise ValueError(f"outsize {size} makes {made} windows, and g has {tuple(g.shape[:2])}")
    if mask is not None:
        check_mask("mask", mask, (1, groups * W.shape[1], *size))
    return run(g, W, *window, groups, size, mask, bool(rectify))


@takes_any_array
def shared_unpooling_2d(
    g: Array,
    outsize: PairLike,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PadLike = 0,
    switches: Array | None = None,
    mask: Array | None = None,
    rectify: bool = False,
    *,
    backend: str | None = None,
) -> Array:
    """Unpools signals by the switches of their one picture, and takes them on through the ReLU before the pooling.

    The result is that of :func:`unpooling_2d`.

    Args:
        g: Signals at the windows (h, w, C, K), float32 or float64.
        outsize: (H, W) of the picture that was pooled.
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding: an integer, (rows, columns), or ((top, bottom), (left, right)).
        switches: The switches of :func:`max_pooling_2d` for the one picture, (1, C, h, w).
        mask: What :func:`relu_mask` made of the ReLU's inputs for the one picture, uint8 (1, ceil(C H W / 8)); None to ignore
            their sign.
        rectify: Whether negative sums are set to 0.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signals at the picture (H, W, C, K).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, a size is no integer, or there are no switches.
        ValueError: A wrong shape, or a window larger than the padded picture.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("shared", backend, g=g, switches=switches, mask=mask).shared_unpooling_2d
    check_float("g", g, 4)
    picture, windows, padding = geometry.pair("outsize", outsize), geometry.pair("ksize", ksize), geometry.pads(pad)
    steps = windows if stride is None else geometry.pair("stride", stride)
    rows, columns, channels = g.shape[:3]
    geometry.check_window_counts("g", (channels, rows, columns), "outsize", picture, windows, steps, padding)
    if switches is None:
        raise TypeError("switches must be those of max_pooling_2d, got None")
    check_shape("switches", switches, (1, channels, rows, columns))
    check_switches(switches, switches, windows)
    if mask is not None:
        check_mask("mask", mask, (1, channels, *picture))
    return run(g, picture, windows, steps, padding, switches, mask, bool(rectify))

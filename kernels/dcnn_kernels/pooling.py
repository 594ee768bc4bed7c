"""Max and average pooling, and the ways back: unpooling and adjoints."""

from __future__ import annotations

from dcnn_kernels.arrays import Array, check_float, check_mask, check_shape, check_switches, select_backend
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import PadLike, Pair, PairLike, check_window_counts, output_shape, pads, pair

UNPOOLING_MODES = ("switch", "center", "spread")


@takes_any_array
def max_pooling_2d(
    x: Array,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PadLike = 0,
    cover_all: bool = True,
    mask: bool = False,
    *,
    backend: str | None = None,
) -> tuple[Array, ...]:
    """Takes the maximum of each window and notes where it was.

    The window sizes and the choice of the maximum are those of Chainer's ``max_pooling_2d``: padding is -inf, and of equal
    maxima the first in row order wins. A window that lies wholly in the padding gives -inf with switch 0. A NaN counts as
    larger than any number, and the first NaN of a window wins.

    Switches are those of Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), section 2.1.

    Args:
        x: Pictures (B, C, H, W), float32 or float64.
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding: an integer, (rows, columns), or ((top, bottom), (left, right)).
        cover_all: Whether a last window may run over the end, so that every pixel is seen.
        mask: Whether to note also where a ReLU after the pooling lets the gradient pass. For a ReLU before it, these are the
            bits of the pixels that the switches point at.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        The maxima (B, C, h, w), and the switches of the same shape: the place of the maximum within its window, counted in
        row order from 0; uint8 for windows of up to 256 places, uint16 or uint32 for larger ones. With ``mask``, also the
        maxima's :func:`relu_mask`.

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or a window larger than the padded picture.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("pooling", backend, x=x).max_pooling_2d
    check_float("x", x, 4)
    windows, steps, padding = _window(ksize, stride, pad)
    output_shape(x.shape, windows, steps, padding, cover_all=cover_all)
    return run(x, windows, steps, padding, bool(cover_all), bool(mask))


@takes_any_array
def unpooling_2d(
    g: Array,
    outsize: PairLike,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PadLike = 0,
    switches: Array | None = None,
    mode: str = "switch",
    mask: Array | None = None,
    rectify: bool = False,
    *,
    backend: str | None = None,
) -> Array:
    """Puts each window's signal back into the picture that was pooled.

    Where windows overlap, their signals sum; what falls outside the picture is dropped. With ``mode="switch"`` this is the
    adjoint of max pooling, its choices held fixed: the gradient of :func:`max_pooling_2d`, and the unpooling of DeconvNet
    (Zeiler and Fergus, ECCV 2014).

    ``mask`` and ``rectify`` carry the sums back through a ReLU before the pooling too, as :func:`relu_reverse` does.

    Args:
        g: Signal at the windows (B, C, h, w), float32 or float64. (h, w) is the number of windows of the pooling, with or
            without ``cover_all``.
        outsize: (H, W) of the picture that was pooled.
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding: an integer, (rows, columns), or ((top, bottom), (left, right)).
        switches: The switches of :func:`max_pooling_2d`, of the shape of ``g``; read by mode ``"switch"`` only.
        mode: ``"switch"``: to the place of the maximum. ``"center"``: to 0-based offset (k-1)//2 of each window side.
            ``"spread"``: evenly over the window's places inside the picture.
        mask: What :func:`relu_mask` made of the rectifier's inputs, of the picture's size, uint8 (B, ceil(C H W / 8)): where
            its bit isn't set the sum becomes 0. None to ignore their sign.
        rectify: Whether negative sums are set to 0.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the arrays.

    Returns:
        Signal at the picture (B, C, H, W).

    Raises:
        TypeError: An argument is no array or of a wrong dtype, a size is no integer, or mode ``"switch"`` lacks switches.
        ValueError: An unknown mode, a wrong shape, or a window larger than the padded picture.
        BackendError: The backend can't run on these arrays.
    """
    run = select_backend("pooling", backend, g=g, switches=switches, mask=mask).unpooling_2d
    check_float("g", g, 4)
    picture = pair("outsize", outsize)
    windows, steps, padding = _window(ksize, stride, pad)
    check_window_counts("g", g.shape, "outsize", picture, windows, steps, padding)
    if mode not in UNPOOLING_MODES:
        raise ValueError(f"mode must be one of {UNPOOLING_MODES}, got {mode!r}")
    if mode == "switch":
        if switches is None:
            raise TypeError("mode 'switch' needs the switches of max_pooling_2d, got None")
        check_switches(switches, g, windows)
    if mask is not None:
        check_mask("mask", mask, (*g.shape[:2], *picture))
    return run(g, picture, windows, steps, padding, switches, mode, mask, bool(rectify))


@takes_any_array
def average_pooling_2d(
    x: Array,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PadLike = 0,
    count_include_pad: bool = True,
    *,
    backend: str | None = None,
) -> Array:
    """Averages each window; windows never run over the end, as in Chainer's ``average_pooling_2d``.

    Args:
        x: Pictures (B, C, H, W), float32 or float64.
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding with zeros: an integer, (rows, columns), or ((top, bottom), (left, right)).
        count_include_pad: Whether to divide by the size of the window (Chainer), or by the number of its places inside the
            picture (TensorFlow). A window wholly in the padding gives 0 either way.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        The averages (B, C, h, w).

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or a window larger than the padded picture.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("pooling", backend, x=x).average_pooling_2d
    check_float("x", x, 4)
    windows, steps, padding = _window(ksize, stride, pad)
    output_shape(x.shape, windows, steps, padding)
    return run(x, windows, steps, padding, bool(count_include_pad))


@takes_any_array
def average_pooling_2d_adjoint(
    g: Array,
    insize: PairLike,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PadLike = 0,
    count_include_pad: bool = True,
    *,
    backend: str | None = None,
) -> Array:
    """Carries a signal back through :func:`average_pooling_2d`: its adjoint, and so its gradient.

    Args:
        g: Signal at the windows (B, C, h, w), float32 or float64.
        insize: (H, W) of the picture that was pooled.
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding: an integer, (rows, columns), or ((top, bottom), (left, right)).
        count_include_pad: As in the pooling.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Signal at the picture (B, C, H, W).

    Raises:
        TypeError: ``g`` is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or a window larger than the padded picture.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("pooling", backend, g=g).average_pooling_2d_adjoint
    check_float("g", g, 4)
    picture = pair("insize", insize)
    windows, steps, padding = _window(ksize, stride, pad)
    check_shape("g", g, (-1, -1, *output_shape(picture, windows, steps, padding)))
    return run(g, picture, windows, steps, padding, bool(count_include_pad))


@takes_any_array
def global_average_pooling_2d(x: Array, *, backend: str | None = None) -> Array:
    """Averages each feature map.

    Args:
        x: Pictures (B, C, H, W), float32 or float64.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        The averages (B, C).

    Raises:
        TypeError: ``x`` is no array or of a wrong dtype.
        ValueError: A wrong shape, or a picture without pixels.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("pooling", backend, x=x).global_average_pooling_2d
    check_float("x", x, 4)
    if 0 in x.shape[2:]:
        raise ValueError(f"x must have pixels, got shape {x.shape}")
    return run(x)


@takes_any_array
def global_average_pooling_2d_adjoint(g: Array, insize: PairLike, *, backend: str | None = None) -> Array:
    """Carries a signal back through :func:`global_average_pooling_2d`: spreads it evenly over each feature map.

    Args:
        g: Signal at the averages (B, C), float32 or float64.
        insize: (H, W) of the feature maps.
        backend: ``"reference"``, ``"compiled"`` or ``"cuda"`` to force one; by default that of the array.

    Returns:
        Signal at the feature maps (B, C, H, W).

    Raises:
        TypeError: ``g`` is no array or of a wrong dtype, or a size is no integer.
        ValueError: A wrong shape, or a size below 1.
        BackendError: The backend can't run on this array.
    """
    run = select_backend("pooling", backend, g=g).global_average_pooling_2d_adjoint
    check_float("g", g, 2)
    return run(g, pair("insize", insize))


def _window(ksize: PairLike, stride: PairLike | None, pad: PadLike) -> tuple[Pair, Pair, tuple[Pair, Pair]]:
    windows = pair("ksize", ksize)
    return windows, windows if stride is None else pair("stride", stride), pads(pad)

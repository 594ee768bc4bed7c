"""Chainer's functions over the kernels, name for name: ``import dcnn_visualizer.functions as F`` beside Chainer's own.

Signatures, type checks, results and gradients are those of ``chainer.functions`` 7.8.1; what the kernels don't serve is done by
Chainer, as within :func:`~dcnn_visualizer.acceleration.accelerate`, which puts the same nodes under a model as it is.
"""

from __future__ import annotations

from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F

from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Pair, PairLike
from dcnn_visualizer.acceleration import accelerate

#: What Chainer's functions take: a Variable, or an array, to which no gradient flows. Chainer's types can't be told apart here.
VariableLike = Any


def convolution_2d(
    x: VariableLike,
    W: VariableLike,
    b: VariableLike | None = None,
    stride: PairLike = 1,
    pad: PairLike = 0,
    cover_all: bool = False,
    **kwargs: Any,
) -> chainer.Variable:
    """Convolution, as ``chainer.functions.convolution_2d``; gradients to weights and bias are computed by Chainer.

    Args:
        x: Pictures (B, C, H, W).
        W: Filters (O, C / groups, kh, kw).
        b: Bias (O,), or None.
        stride: Step between windows.
        pad: Zero padding, an integer or (rows, columns).
        cover_all: Whether a last window may run over the padding, so that every pixel is seen.
        **kwargs: ``dilate``: step between taps, and ``groups``: number of groups of channels; both 1 by default.

    Returns:
        Variable (B, O, h, w).

    Raises:
        chainer.utils.type_check.InvalidType: Dtypes or shapes that Chainer refuses.
        RuntimeError: A window larger than the padded picture.
        TypeError: An unknown keyword.
        ValueError: Groups that don't divide the filters.
    """
    with accelerate():
        return F.convolution_2d(x, W, b, stride, pad, cover_all, **kwargs)


def deconvolution_2d(
    x: VariableLike,
    W: VariableLike,
    b: VariableLike | None = None,
    stride: PairLike = 1,
    pad: PairLike = 0,
    outsize: Pair | None = None,
    **kwargs: Any,
) -> chainer.Variable:
    """Transposed convolution, as ``chainer.functions.deconvolution_2d``; gradients to weights and bias are Chainer's.

    Args:
        x: Maps (B, C, h, w).
        W: Filters (C, O / groups, kh, kw).
        b: Bias (O,), or None.
        stride: Step between windows.
        pad: Padding taken off the result, an integer or (rows, columns).
        outsize: (H, W) of the result, among those that a convolution, with ``cover_all`` or without, turns into (h, w); None for
            the smallest without.
        **kwargs: ``dilate``: step between taps, and ``groups``: number of groups of channels; both 1 by default.

    Returns:
        Variable (B, O, H, W).

    Raises:
        chainer.utils.type_check.InvalidType: Dtypes, shapes or an ``outsize`` that Chainer refuses.
        RuntimeError: The padding leaves no pixel.
        TypeError: An unknown keyword.
        ValueError: Groups that don't divide the channels.
    """
    with accelerate():
        return F.deconvolution_2d(x, W, b, stride, pad, outsize, **kwargs)


def max_pooling_2d(
    x: VariableLike,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PairLike = 0,
    cover_all: bool = True,
    return_indices: bool = False,
) -> chainer.Variable | tuple[chainer.Variable, Array]:
    """Max pooling, as ``chainer.functions.max_pooling_2d``: of equal maxima the first in row order wins.

    Args:
        x: Pictures (B, C, H, W).
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding, an integer or (rows, columns).
        cover_all: Whether a last window may run over the end, so that every pixel is seen.
        return_indices: Whether to return the maxima's places too.

    Returns:
        Variable (B, C, h, w); with ``return_indices`` also an integer array of that shape, each maximum's place in its window,
        counted in row order, as ``chainer.functions.upsampling_2d`` takes it.

    Raises:
        chainer.utils.type_check.InvalidType: Dtypes or shapes that Chainer refuses.
        ValueError: Not four axes, or a window larger than the padded picture.
    """
    with accelerate():
        return F.max_pooling_2d(x, ksize, stride, pad, cover_all, return_indices)


def unpooling_2d(
    x: VariableLike,
    ksize: PairLike,
    stride: PairLike | None = None,
    pad: PairLike = 0,
    outsize: Pair | None = None,
    cover_all: bool = True,
) -> chainer.Variable:
    """Unpooling, as ``chainer.functions.unpooling_2d``: each value goes to all places of its window; overlaps sum.

    Args:
        x: Maps (B, C, h, w).
        ksize: Rows and columns of the window.
        stride: Step between windows; None for ``ksize``.
        pad: Padding taken off the result, an integer or (rows, columns).
        outsize: (H, W) of the result, one of those that a pooling turns into (h, w); None for the smallest.
        cover_all: Whether that pooling's last windows may run over the end.

    Returns:
        Variable (B, C, H, W).

    Raises:
        chainer.utils.type_check.InvalidType: Dtypes, shapes or an ``outsize`` that Chainer refuses.
    """
    with accelerate():
        return F.unpooling_2d(x, ksize, stride, pad, outsize, cover_all)


def relu(x: VariableLike) -> chainer.Variable:
    """Rectifier, as ``chainer.functions.relu``: max(x, 0).

    Args:
        x: Variable of any shape.

    Returns:
        Variable of that shape.

    Raises:
        chainer.utils.type_check.InvalidType: No floats.
    """
    with accelerate():
        return F.relu(x)


def local_response_normalization(
    x: VariableLike, n: int = 5, k: float = 2, alpha: float = 1e-4, beta: float = 0.75
) -> chainer.Variable:
    """Normalization across channels, as ``chainer.functions.local_response_normalization``; it has no second gradient.

    A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012,
    section 3.3.

    Args:
        x: Maps (B, C, ...).
        n: Channels in the window.
        k: Offset.
        alpha: Scale, not divided by ``n``.
        beta: Exponent.

    Returns:
        Variable of the same shape.

    Raises:
        chainer.utils.type_check.InvalidType: No floats, or fewer than two axes.
    """
    with accelerate():
        return F.local_response_normalization(x, n, k, alpha, beta)

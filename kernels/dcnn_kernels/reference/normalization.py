"""Normalization layers, in blocks that stay in cache from the first pass over them to the last."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dcnn_kernels.reference.blocks import blocks

FloatArray = npt.NDArray[np.floating]


def local_response_normalization(x: FloatArray, n: int, k: float, alpha: float, beta: float) -> FloatArray:
    """See :func:`dcnn_kernels.local_response_normalization`."""
    maps = _as_maps(x)
    y = np.empty_like(maps)
    for samples, pixels in _pixel_blocks(maps):
        part = maps[samples, :, pixels]
        scale = _scale(part, n, k, alpha)
        np.multiply(part, np.power(scale, -beta, out=scale), out=y[samples, :, pixels])
    return y.reshape(x.shape)


def local_response_normalization_gradient(
    x: FloatArray, g: FloatArray, n: int, k: float, alpha: float, beta: float
) -> FloatArray:
    """See :func:`dcnn_kernels.local_response_normalization_gradient`."""
    maps, signals = _as_maps(x), _as_maps(g)
    y = np.empty_like(maps)
    for samples, pixels in _pixel_blocks(maps):
        part, signal, out = (array[samples, :, pixels] for array in (maps, signals, y))
        scale = _scale(part, n, k, alpha)
        direct = signal * scale**-beta
        weighted = direct * part
        weighted /= scale
        shared = _window_sums(weighted, n)
        shared *= part
        shared *= 2 * alpha * beta
        np.subtract(direct, shared, out=out)
    return y.reshape(x.shape)


def _scale(x: FloatArray, n: int, k: float, alpha: float) -> FloatArray:
    scale = _window_sums(np.square(x), n)
    scale *= alpha
    scale += k
    return scale


def _window_sums(values: FloatArray, n: int) -> FloatArray:
    """Sums over the channels at most ``n // 2`` away. Shifted additions, for prefix sums would cancel digits."""
    sums = values.copy()
    for shift in range(1, min(n // 2, values.shape[1] - 1) + 1):
        sums[:, shift:] += values[:, :-shift]
        sums[:, :-shift] += values[:, shift:]
    return sums


def _as_maps(x: FloatArray) -> FloatArray:
    """An array as (samples, channels, pixels), without a copy if it is contiguous."""
    return np.ascontiguousarray(x).reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _pixel_blocks(maps: FloatArray) -> list[tuple[slice, slice]]:
    """Slices of samples and pixels; every block holds all channels."""
    samples, channels, pixels = maps.shape
    return list(blocks((samples, pixels), maps.itemsize * max(1, channels)))


def batch_normalization(
    x: FloatArray, gamma: FloatArray, beta: FloatArray, mean: FloatArray, var: FloatArray, eps: float
) -> FloatArray:
    """See :func:`dcnn_kernels.batch_normalization`."""
    # The mean is subtracted before scaling: folded into one shift, a large mean would cancel digits.
    maps, scale = _as_maps(x), gamma / np.sqrt(var + eps)
    y = np.empty_like(maps)
    for samples, channels in blocks(maps.shape, maps.itemsize):
        part = y[samples, channels]
        np.subtract(maps[samples, channels], mean[channels, None], out=part)
        part *= scale[channels, None]
        part += beta[channels, None]
    return y.reshape(x.shape)


def batch_normalization_adjoint(g: FloatArray, gamma: FloatArray, var: FloatArray, eps: float) -> FloatArray:
    """See :func:`dcnn_kernels.batch_normalization_adjoint`."""
    scale = gamma / np.sqrt(var + eps)
    return np.multiply(g, scale.reshape(-1, *(1,) * (g.ndim - 2)), order="C")

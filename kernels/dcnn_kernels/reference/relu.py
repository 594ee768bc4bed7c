"""Rectifiers, their one-bit masks, and the rules of the way back."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dcnn_kernels.reference.blocks import blocks

FloatArray = npt.NDArray[np.floating]
Mask = npt.NDArray[np.uint8]


def relu(x: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.relu`."""
    return clipped_relu(x, math.inf)


def clipped_relu(x: FloatArray, z: float) -> FloatArray:
    """See :func:`dcnn_kernels.clipped_relu`."""
    # Also for z = inf: NumPy's maximum of an array and a scalar takes twice the time of its clip.
    return np.clip(x, 0, z, order="C")


def leaky_relu(x: FloatArray, slope: float) -> FloatArray:
    """See :func:`dcnn_kernels.leaky_relu`."""
    return prelu(x, np.array(slope, x.dtype))


def prelu(x: FloatArray, W: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.prelu`."""
    flat = _by_sample(x)
    slopes = _by_element(W, x.shape)
    y = np.empty_like(flat)
    for block in blocks(flat.shape, flat.itemsize):
        part, out = flat[block], y[block]
        np.clip(part, -math.inf, 0, out=out)
        out *= slopes[block[1]]
        out += np.clip(part, 0, math.inf)
    return y.reshape(x.shape)


def relu_mask(x: FloatArray, z: float) -> Mask:
    """See :func:`dcnn_kernels.relu_mask`."""
    flat = _by_sample(x)
    mask = np.empty((flat.shape[0], (flat.shape[1] + 7) // 8), np.uint8)
    for samples, elements in blocks(flat.shape, flat.itemsize):
        inside = flat[samples, elements] > 0
        if z < math.inf:
            inside &= flat[samples, elements] < z
        mask[samples, _mask_bytes(elements)] = np.packbits(inside, axis=1, bitorder="little")
    return mask


def relu_reverse(g: FloatArray, mask: Mask | None, rectify: bool, slope: float | FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.relu_reverse`."""
    if mask is None:
        return relu(g) if rectify else g.copy()
    flat = _by_sample(g)
    slopes = None if isinstance(slope, float) and slope == 0 else _by_element(np.asarray(slope, g.dtype), g.shape)
    # A signal times its mask would make NaN of an infinite signal; a bitwise 'and' with 0 or -1 doesn't, and is faster.
    bits = np.dtype(f"i{g.itemsize}")
    y = np.empty_like(flat)
    for samples, elements in blocks(flat.shape, flat.itemsize):
        signal, out = flat[samples, elements].view(bits), y[samples, elements]
        passed = np.unpackbits(mask[samples, _mask_bytes(elements)], axis=1, count=signal.shape[1], bitorder="little")
        kept = np.bitwise_and(signal, np.negative(passed.view(np.int8)).astype(bits), out=out.view(bits))
        if slopes is not None:
            out += (signal ^ kept).view(g.dtype) * slopes[elements]
        if rectify:
            np.clip(out, 0, math.inf, out=out)
    return y.reshape(g.shape)


def _by_sample(x: FloatArray) -> FloatArray:
    """An array as (samples, elements), without a copy if it is contiguous."""
    return np.ascontiguousarray(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def _by_element(slope: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """One slope, or one a channel, for every element of a sample."""
    if slope.ndim == 0:
        return np.broadcast_to(slope, math.prod(shape[1:]))
    return np.repeat(slope, math.prod(shape[2:]))


def _mask_bytes(elements: slice) -> slice:
    return slice(elements.start // 8, (elements.stop + 7) // 8)

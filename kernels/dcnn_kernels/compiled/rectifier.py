"""What results of a convolution go through before they are written: a scaling, and a rectifier, forward or on the way back."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..reference.im2col import FloatArray
from ..reference.relu import Mask
from .jit import compiled
from .microkernel import VECTOR, copy, rectify
from .relu import bits_of

#: Bytes that are read at once, of which the last may lie behind a mask.
READ = 4


class Rectifier(NamedTuple):
    """Scales and shifts results, clips them, and makes 0 of those whose bit isn't set.

    Attributes:
        idle: Whether it does none of these.
        scaled: Whether results are scaled.
        scale: By channel, what to multiply by; empty if they aren't.
        shift: By channel, what to add then.
        limits: The least and the largest result, of the results' dtype.
        masked: Whether there are bits.
        bits: Of all samples, flat, and ``READ - 1`` bytes more.
        pitch: Bytes from a sample to the next; 0 where all share them.
    """

    idle: bool
    scaled: bool
    scale: FloatArray
    shift: FloatArray
    limits: FloatArray
    masked: bool
    bits: Mask
    pitch: int


def rectifier(
    mask: Mask | None,
    low: float,
    high: float,
    dtype: npt.DTypeLike,
    scale: FloatArray | None,
    shift: FloatArray | None,
) -> Rectifier:
    """Makes one of a mask, as ``relu_mask`` gives it, or None, of limits that may be infinite, and of a scaling or None."""
    if mask is None and scale is None:
        return _limits(low, high, np.dtype(dtype))
    return _rectifier(mask, low, high, dtype, scale, shift)


@lru_cache(maxsize=64)
def _limits(low: float, high: float, dtype: np.dtype[Any]) -> Rectifier:
    """One without arrays of the caller's."""
    return _rectifier(None, low, high, dtype, None, None)


def _rectifier(
    mask: Mask | None,
    low: float,
    high: float,
    dtype: npt.DTypeLike,
    scale: FloatArray | None,
    shift: FloatArray | None,
) -> Rectifier:
    (bits, masked), limits = bits_of(mask), np.array([low, high], dtype)
    flat = np.zeros(bits.size + READ - 1, np.uint8)
    flat[: bits.size] = bits.reshape(-1)
    idle = not masked and low == -math.inf and high == math.inf and scale is None
    none = np.empty(0, dtype)
    by, to = (none if array is None else np.ascontiguousarray(array) for array in (scale, shift))
    return Rectifier(idle, scale is not None, by, to, limits, masked, flat, 0 if len(bits) == 1 else bits.shape[1])


@compiled
def write_line(target, to, line, at, count, bias, rectifier, sample, channel, first):
    """Writes ``count`` values of a line from ``at`` on to ``target``, from ``to`` on: biased, scaled and rectified.

    They are a sample's from element ``first`` on, of one channel. Up to a vector of what lies behind them is read.
    """
    if rectifier.idle and bias == 0:
        copy(target, to, line, at, count)
        return
    scale, shift = line.dtype.type(1), line.dtype.type(0)
    if rectifier.scaled:
        scale, shift = rectifier.scale[channel], rectifier.shift[channel]
    lanes, bit = VECTOR // line.itemsize, 8 * sample * rectifier.pitch + first
    for n in range(0, count, lanes):
        some, here = min(lanes, count - n), bit + n
        # Arrays with names of their own would be counted.
        rectify(
            target,
            to + n,
            line,
            at + n,
            some,
            bias,
            scale,
            shift,
            rectifier.limits,
            rectifier.masked,
            rectifier.bits,
            here,
        )

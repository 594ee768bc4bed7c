"""Convolution and transposed convolution as matrix products over tiles of positions.

A product takes channels to channels; the window's taps come in on either side of it, axis by axis. Taps *gathered* are
written out before the product (im2col), which sums them. Taps *scattered* are made by the product and added up after it
(col2im). To gather all taps is the textbook's convolution, to scatter all of them its transpose. But at stride 1 each
direction can be had in either way, its taps turned round, and the two axes need not go the same way: each goes where it
moves the least memory. Gathering costs by the channels that come in, scattering by those that go out.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from ..geometry import Pads, Pair, output_shape
from .blocks import blocks
from .im2col import IDLE, Axis, FloatArray, col2im, im2col, is_idle
from .pooling import Switches, unpooling_2d
from .relu import Mask, clipped_relu, relu_reverse

#: Bytes written out at a time. Fewer, and the matrix product becomes too narrow; more, and they leave the cache.
TILE_BYTES = 8 << 20
#: Small pictures share a product of up to so many positions.
POSITIONS = 512
#: Costs of making and adding up a scattered value, and of turning round a value of the filters, in gathered values.
SCATTERED, TURNED = 1.5, 3.0


class Plan(NamedTuple):
    """One way of doing a convolution or a transposed one.

    Attributes:
        gathered: Whether the taps of rows and of columns are gathered; if not, they are scattered.
        turned: Whether the filters are turned round along rows and along columns.
        gather: Rows and columns before the product.
        scatter: Rows and columns after it.
    """

    gathered: tuple[bool, bool]
    turned: tuple[bool, bool]
    gather: tuple[Axis, Axis]
    scatter: tuple[Axis, Axis]


def convolution_2d(
    x: FloatArray,
    W: FloatArray,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    z: float | None,
    scale: FloatArray | None,
    shift: FloatArray | None,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.convolution_2d`."""
    ksize = (W.shape[2], W.shape[3])
    y = np.empty((len(x), len(W), *output_shape(x.shape, ksize, stride, pad, dilate)), x.dtype)
    _fill(y, x, _grouped(W, groups), b, _plans(True, ksize, stride, pad, dilate))
    if scale is not None and shift is not None:
        for samples, channels in blocks(y.shape, y.itemsize):
            y[samples, channels] *= scale[channels, None, None]
            y[samples, channels] += shift[channels, None, None]
    return y if z is None else clipped_relu(y, z)


def transposed_convolution_2d(
    x: FloatArray,
    W: FloatArray,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.transposed_convolution_2d`."""
    ksize = (W.shape[2], W.shape[3])
    y = np.empty((len(x), groups * W.shape[1], *outsize), x.dtype)
    _fill(y, x, _grouped(W, groups).swapaxes(1, 2), b, _plans(False, ksize, stride, pad, dilate))
    return y if mask is None and not rectify else relu_reverse(y, mask, rectify, 0.0)


def unpooled_transposed_convolution_2d(
    g: FloatArray,
    switches: Switches,
    W: FloatArray,
    insize: Pair,
    pool_ksize: Pair,
    pool_stride: Pair,
    pool_pad: Pads,
    pool_mask: Mask | None,
    pool_rectify: bool,
    b: FloatArray | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Mask | None,
    rectify: bool,
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.unpooled_transposed_convolution_2d`."""
    x = unpooling_2d(g, insize, pool_ksize, pool_stride, pool_pad, switches, "switch", pool_mask, pool_rectify)
    return transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize, mask, rectify)


def _grouped(W: FloatArray, groups: int) -> FloatArray:
    """Filters as (groups, O / groups, C / groups, kh, kw)."""
    return np.ascontiguousarray(W).reshape(groups, len(W) // groups, *W.shape[1:])


def _plans(forward: bool, ksize: Pair, stride: Pair, pad: Pads, dilate: Pair) -> list[Plan]:
    """All ways of doing a convolution, whose taps as they are would be gathered, or a transposed one, scattered."""
    ways = product((True, False), repeat=2) if stride == (1, 1) else [(forward, forward)]
    return [_plan(forward, rows, columns, ksize, stride, pad, dilate) for rows, columns in ways]


def _plan(forward: bool, rows: bool, columns: bool, ksize: Pair, stride: Pair, pad: Pads, dilate: Pair) -> Plan:
    """The way that gathers rows or columns, or both, or neither."""
    turned = (rows != forward, columns != forward)
    firsts = [
        before - d * (k - 1) if turn else -before for k, (before, _), d, turn in zip(ksize, pad, dilate, turned, strict=True)
    ]
    down, across = (Axis(*axis) for axis in zip(ksize, firsts, stride, dilate, strict=True))
    gather = (down if rows else IDLE, across if columns else IDLE)
    scatter = (IDLE if rows else down, IDLE if columns else across)
    return Plan((rows, columns), turned, gather, scatter)


def _cost(plan: Plan, W: FloatArray, positions: int) -> float:
    """Values moved for each position; all positions share the turning of the filters."""
    groups, outgoing, incoming = W.shape[:3]
    cost = TURNED * W.size / positions if any(plan.turned) and W[0, 0, 0].size > 1 else 0.0
    if not is_idle(plan.gather):
        cost += groups * incoming * _taps(plan.gather)
    if not is_idle(plan.scatter):
        cost += SCATTERED * groups * outgoing * _taps(plan.scatter)
    return cost


def _taps(axes: tuple[Axis, Axis]) -> int:
    return axes[0].ksize * axes[1].ksize


def _matrix(W: FloatArray, plan: Plan) -> FloatArray:
    """The filters as (groups, outgoing channels x scattered taps, incoming channels x gathered taps); a view if it can be."""
    groups, outgoing, incoming = W.shape[:3]
    turned = np.flip(W, tuple(3 + axis for axis in (0, 1) if plan.turned[axis]))
    scattered, gathered = ([3 + axis for axis in (0, 1) if plan.gathered[axis] == side] for side in (False, True))
    sides = turned.transpose(0, 1, *scattered, 2, *gathered)
    return sides.reshape(groups, outgoing * _taps(plan.scatter), incoming * _taps(plan.gather))


def _fill(y: FloatArray, x: FloatArray, W: FloatArray, b: FloatArray | None, plans: list[Plan]) -> None:
    """Computes ``y`` from ``x`` the cheapest way, by filters (groups, outgoing, incoming, kh, kw)."""
    if not len(x):
        return
    plan = min(plans, key=lambda plan: _cost(plan, W, x[:, 0].size))
    matrix = _matrix(W, plan)
    groups, made, taken = matrix.shape
    h, w = ((y if plan.gathered[axis] else x).shape[2 + axis] for axis in (0, 1))

    gathers = not is_idle(plan.gather) or x.shape[2:] != (h, w)
    scatters = not is_idle(plan.scatter) or y.shape[2:] != (h, w)
    joined = 1
    if gathers or scatters:
        fitting = min(POSITIONS, TILE_BYTES // (groups * (made + taken) * x.itemsize)) // (h * w)
        joined = max(1, min(len(x), fitting))
        gathers, scatters = gathers or joined > 1, scatters or joined > 1
    values = groups * (taken * gathers + made * scatters)
    height = _equal_part(h, TILE_BYTES // (max(1, values) * joined * w * x.itemsize))
    columns = np.empty(groups * taken * joined * height * w if gathers else 0, x.dtype)
    products = np.empty(groups * made * joined * height * w if scatters else 0, x.dtype)

    for first in range(0, len(x), joined):
        pictures, results = x[first : first + joined], y[first : first + joined]
        if not gathers:
            pictures = np.ascontiguousarray(pictures).reshape(groups, taken, -1)
        if scatters:
            results[...] = 0 if b is None else b[:, None, None]
        else:
            results = results.reshape(groups, made, -1)
        for top in range(0, h, height):
            tile = (min(joined, len(x) - first), min(height, h - top), w)
            size = math.prod(tile)
            part = slice(top * w, top * w + size)
            if gathers:
                operand = columns[: groups * taken * size].reshape(groups, taken, size)
                windows = operand.reshape(-1, plan.gather[0].ksize, plan.gather[1].ksize, *tile)
                for n, picture in enumerate(pictures):
                    im2col(picture, windows[:, :, :, n], plan.gather, top)
            else:
                operand = pictures[:, :, part]
            if scatters:
                result = products[: groups * made * size].reshape(groups, made, size)
                _multiply(matrix, operand, result)
                windows = result.reshape(-1, plan.scatter[0].ksize, plan.scatter[1].ksize, *tile)
                for n, picture in enumerate(results):
                    col2im(windows[:, :, :, n], picture, plan.scatter, top)
            else:
                result = results[:, :, part]
                _multiply(matrix, operand, result)
                if b is not None:
                    result += b.reshape(groups, made, 1)


def _multiply(matrix: FloatArray, operand: FloatArray, result: FloatArray) -> None:
    """A product for each group; outer products, as those of depthwise convolutions, are faster as what they are."""
    if matrix.shape[2] == 1:
        np.multiply(matrix, operand, out=result)
    else:
        np.matmul(matrix, operand, out=result)


def _equal_part(size: int, most: int) -> int:
    """The part of at most ``most``, but at least 1, that cuts ``size`` into the fewest parts, all about equal."""
    return math.ceil(size / math.ceil(size / max(1, most)))

"""Convolution and transposed convolution where few channels meet: plane by plane, without a matrix product.

A plane is laid out once: padded, and with its columns told apart by their phase, their number modulo the stride. Then each tap
of all windows of a row is a run of the layout, whatever the stride and the dilation.
"""

from __future__ import annotations

import numpy as np

from ..geometry import Pads, Pair, output_shape
from ..reference import convolution as products
from ..reference.im2col import FloatArray
from ..reference.pooling import Switches
from ..reference.relu import Mask
from .jit import compiled
from .layout import inside
from .pooling import unpooling_2d
from .threads import share

#: Channels that a group takes and makes, their product: up to so many, planes are taken one by one.
MEETINGS = 16


def convolution_2d(
    x: FloatArray, W: FloatArray, b: FloatArray | None, stride: Pair, pad: Pads, dilate: Pair, groups: int
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.convolution_2d`."""
    if len(W) // groups * W.shape[1] > MEETINGS:
        return products.convolution_2d(x, W, b, stride, pad, dilate, groups)
    size = output_shape(x.shape, (W.shape[2], W.shape[3]), stride, pad, dilate)
    y = np.empty((len(x), len(W), *size), x.dtype)
    first = -pad[0][0], -pad[1][0]
    _run(_correlate, y, x, np.ascontiguousarray(W).reshape(groups, -1, *W.shape[1:]), b, stride, first, dilate)
    return y


def transposed_convolution_2d(
    x: FloatArray, W: FloatArray, b: FloatArray | None, stride: Pair, pad: Pads, dilate: Pair, groups: int, outsize: Pair
) -> FloatArray:
    """See :func:`dcnn_kernels.convolution.transposed_convolution_2d`."""
    if len(W) // groups * W.shape[1] > MEETINGS:
        return products.transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize)
    y = np.empty((len(x), groups * W.shape[1], *outsize), x.dtype)
    filters = W.reshape(groups, -1, *W.shape[1:]).swapaxes(1, 2)
    if stride == (1, 1):  # a convolution too, its taps turned round
        loop, filters = _correlate, np.flip(filters, (3, 4))
        first = pad[0][0] - dilate[0] * (W.shape[2] - 1), pad[1][0] - dilate[1] * (W.shape[3] - 1)
    else:
        loop, first = _scatter, (-pad[0][0], -pad[1][0])
    _run(loop, y, x, np.ascontiguousarray(filters), b, stride, first, dilate)
    return y


def unpooled_transposed_convolution_2d(
    g: FloatArray,
    switches: Switches,
    W: FloatArray,
    insize: Pair,
    pool_ksize: Pair,
    pool_stride: Pair,
    pool_pad: Pads,
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
    x = unpooling_2d(g, insize, pool_ksize, pool_stride, pool_pad, switches, "switch", mask, rectify)
    return transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize)


def _run(loop, y, x, W, b, stride, first, dilate):
    """Shares the planes of ``y`` out, made of those of ``x`` by filters (groups, outgoing, incoming, kh, kw)."""
    bias = np.zeros(y.shape[1], y.dtype) if b is None else np.ascontiguousarray(b)
    planes = y.reshape(-1, *y.shape[2:])
    share(loop, len(planes), planes[:1].size * W[0, 0].size, planes, np.ascontiguousarray(x), W, bias, *stride, *first, *dilate)


@compiled
def _correlate(first, last, y, x, W, b, sh, sw, top, left, dh, dw):
    """Makes planes by gathering: the window (r, c) begins at pixel ``(r * sh + top, c * sw + left)``."""
    groups, outgoing, incoming, kh, kw = W.shape
    rows, columns = y.shape[1:]
    layout = np.zeros((sw, (rows - 1) * sh + dh * (kh - 1) + 1, columns + dw * (kw - 1) // sw), x.dtype)
    for plane in range(first, last):
        sample, channel = plane // (groups * outgoing), plane % (groups * outgoing)
        group = channel // outgoing
        y[plane] = b[channel]
        for c in range(incoming):
            _lay_out(x[sample, group * incoming + c], layout, top, left)
            filters = W[group, channel % outgoing, c]
            for row in range(rows):
                for i in range(kh):
                    _add_taps(y[plane, row], layout[:, row * sh + i * dh], filters[i], sw, dw)


@compiled
def _lay_out(picture, layout, top, left):
    """Copies pixels from row ``top`` and column ``left`` on, zeros outside the picture; column c to phase c modulo the stride."""
    height, width = picture.shape
    phases, rows, columns = layout.shape
    for row in range(rows):
        source = row + top
        for phase in range(phases):
            line = layout[phase, row]
            if 0 <= source < height:
                begin, end = inside(columns, width, left + phase, phases)
                line[:begin] = 0
                line[end:] = 0
                if begin < end:
                    pixels = picture[source, left + phase + begin * phases :]
                    if phases == 1:
                        line[begin:end] = pixels[: end - begin]
                    elif phases == 2:
                        for n in range(end - begin):
                            line[begin + n] = pixels[2 * n]
                    else:
                        for n in range(end - begin):
                            line[begin + n] = pixels[phases * n]
            else:
                line[:] = 0


@compiled
def _add_taps(line, layout, taps, sw, dw):
    """Adds one row of a filter's taps to one row of results, up to three taps at a time."""
    count = len(line)
    j = 0
    while j < len(taps):
        one = layout[j * dw % sw, j * dw // sw :][:count]
        if j + 2 < len(taps):
            two = layout[(j + 1) * dw % sw, (j + 1) * dw // sw :][:count]
            three = layout[(j + 2) * dw % sw, (j + 2) * dw // sw :][:count]
            for n in range(count):
                line[n] += taps[j] * one[n] + taps[j + 1] * two[n] + taps[j + 2] * three[n]
            j += 3
        else:
            for n in range(count):
                line[n] += taps[j] * one[n]
            j += 1


@compiled
def _scatter(first, last, y, x, W, b, sh, sw, top, left, dh, dw):
    """Makes planes by scattering: the window (r, c) begins at pixel ``(r * sh + top, c * sw + left)`` of the result."""
    groups, outgoing, incoming, kh, kw = W.shape
    height, width = y.shape[1:]
    rows, columns = x.shape[2:]
    layout = np.empty((sw, (rows - 1) * sh + dh * (kh - 1) + 1, columns + dw * (kw - 1) // sw), x.dtype)
    for plane in range(first, last):
        sample, channel = plane // (groups * outgoing), plane % (groups * outgoing)
        group = channel // outgoing
        layout[:] = 0
        for c in range(incoming):
            picture, filters = x[sample, group * incoming + c], W[group, channel % outgoing, c]
            for row in range(rows):
                for i in range(kh):
                    for j in range(kw):
                        sums = layout[j * dw % sw, row * sh + i * dh, j * dw // sw :]
                        for n in range(columns):
                            sums[n] += filters[i, j] * picture[row, n]
        for row in range(height):
            line, source = y[plane, row], row - top
            line[:] = b[channel]
            if source < layout.shape[1]:
                for phase in range(sw):
                    begin, end = inside(layout.shape[2], width, left + phase, sw)
                    pixels = line[left + phase + begin * sw :]
                    for n in range(end - begin):
                        pixels[sw * n] += layout[phase, source, begin + n]

"""Pooling and unpooling, one pass each; unpooling gathers, so that sums have one order and nothing is written twice."""

from __future__ import annotations

import cupy
import numpy as np

from dcnn_kernels.arrays import Array, index_dtype
from dcnn_kernels.cuda.elements import BLOCKS, element_index, launch_elements, mask_rows, pack
from dcnn_kernels.cuda.launch import ctype, launch
from dcnn_kernels.geometry import Pads, Pair, output_shape

#: Squares of this side, and (ksize, stride), for which the kernels have an instance of their own.
KNOWN_KSIZES = (2, 3)
KNOWN_WINDOWS = ((2, 2), (3, 2), (3, 1))

WARP = 32
#: Threads that share a feature map of global average pooling where maps are large: a block.
MAP_THREADS = 256


def max_pooling_2d(
    x: Array, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool, mask: bool
) -> tuple[Array, Array] | tuple[Array, Array, Array]:
    """See :func:`dcnn_kernels.max_pooling_2d`."""
    x = cupy.ascontiguousarray(x)
    windows = output_shape(x.shape, ksize, stride, pad, cover_all=cover_all)
    y = cupy.empty(x.shape[:2] + windows, x.dtype)
    switches = cupy.empty(y.shape, index_dtype(ksize[0] * ksize[1]))
    elements = x.shape[1] * windows[0] * windows[1]
    bits = cupy.empty((x.shape[0], (elements + 7) // 8), np.uint8) if mask else None
    rows, count = mask_rows(x.shape[0], elements) if mask else (1, y.size)
    name, index = element_index(x.size, y.size)
    types = f"{ctype(x.dtype)}, {name}"
    arrays, sizes = (x, y, switches, bits), (index(rows), index(count))
    if _tiles(x.shape[2:], windows, ksize, stride, pad, x.dtype):
        args = (*arrays, *sizes, index(windows[1]))
        launch_elements("pooling.cu", f"max_pool_2x2<{types}>", count, pack(x.dtype) // 2, args, rows)
    else:
        expression = f"max_pool<{ctype(x.dtype)}, {ctype(switches.dtype)}, {name}, {_known_ksize(ksize)}>"
        args = (*arrays, *sizes, *_axes(index, x.shape[2:], windows, ksize, stride, pad))
        launch_elements("pooling.cu", expression, count, 1, args, rows)
    return (y, switches) if bits is None else (y, switches, bits)


def unpooling_2d(
    g: Array,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Array | None,
    mode: str,
    mask: Array | None,
    rectify: bool,
) -> Array:
    """See :func:`dcnn_kernels.unpooling_2d`."""
    if mode != "switch":
        switches = None
    return _unpool(g, outsize, ksize, stride, pad, switches, mode.upper(), mask, rectify, count_include_pad=False)


def _unpool(
    g: Array,
    outsize: Pair,
    ksize: Pair,
    stride: Pair,
    pad: Pads,
    switches: Array | None,
    mode: str,
    mask: Array | None,
    rectify: bool,
    count_include_pad: bool,
) -> Array:
    g, switches, mask = (None if array is None else cupy.ascontiguousarray(array) for array in (g, switches, mask))
    windows = g.shape[2:]
    y = cupy.empty(g.shape[:2] + outsize, g.dtype)
    elements = g.shape[1] * outsize[0] * outsize[1]
    rows, count = (1, y.size) if mask is None else mask_rows(g.shape[0], elements)
    name, index = element_index(g.size, y.size)
    arrays = (g, switches, mask, y, np.int32(rectify))
    if _tiles(outsize, windows, ksize, stride, pad, g.dtype):
        args = (*arrays, index(rows), index(count // 4), index(windows[1]))
        expression = f"unpool_2x2<{ctype(g.dtype)}, {name}, {mode}>"
        launch_elements("pooling.cu", expression, count // 4, pack(g.dtype) // 2, args, rows)
    else:
        square = (ksize[0], stride[0]) if ksize[0] == ksize[1] and stride[0] == stride[1] else None
        known = square if square in KNOWN_WINDOWS else (0, 0)
        place = ctype(np.uint8 if switches is None else switches.dtype)
        expression = f"unpool<{ctype(g.dtype)}, {place}, {name}, {mode}, {known[0]}, {known[1]}>"
        axes = _axes(index, outsize, windows, ksize, stride, pad)
        args = (*arrays, np.int32(count_include_pad), index(rows), index(count), *axes)
        launch_elements("pooling.cu", expression, count, pack(g.dtype), args, rows)
    return y


def average_pooling_2d(x: Array, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> Array:
    """See :func:`dcnn_kernels.average_pooling_2d`."""
    x = cupy.ascontiguousarray(x)
    windows = output_shape(x.shape, ksize, stride, pad)
    y = cupy.empty(x.shape[:2] + windows, x.dtype)
    name, index = element_index(x.size, y.size)
    args = (x, y, np.int32(count_include_pad), index(y.size), *_axes(index, x.shape[2:], windows, ksize, stride, pad))
    launch_elements("pooling.cu", f"average_pool<{ctype(x.dtype)}, {name}, {_known_ksize(ksize)}>", y.size, 1, args)
    return y


def average_pooling_2d_adjoint(g: Array, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool) -> Array:
    """See :func:`dcnn_kernels.average_pooling_2d_adjoint`."""
    return _unpool(g, insize, ksize, stride, pad, None, "SPREAD", None, False, count_include_pad)


def global_average_pooling_2d(x: Array) -> Array:
    """See :func:`dcnn_kernels.global_average_pooling_2d`."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty(x.shape[:2], x.dtype)
    pixels = x.shape[2] * x.shape[3]
    name, index = element_index(x.size)
    if y.size:
        # A warp for a small map, so that eight share a block; a block for a large one.
        threads = WARP if pixels <= WARP * pack(x.dtype) * 8 else MAP_THREADS
        maps = MAP_THREADS // threads
        grid = (min(-(-y.size // maps), BLOCKS),)
        expression = f"global_average_pool<{ctype(x.dtype)}, {name}>"
        launch("pooling.cu", expression, grid, (threads, maps), (x, y, index(y.size), index(pixels)))
    return y


def global_average_pooling_2d_adjoint(g: Array, insize: Pair) -> Array:
    """See :func:`dcnn_kernels.global_average_pooling_2d_adjoint`."""
    g = cupy.ascontiguousarray(g)
    y = cupy.empty(g.shape + insize, g.dtype)
    name, index = element_index(y.size)
    args = (g, y, index(y.size), index(insize[0] * insize[1]))
    launch_elements("pooling.cu", f"global_average_pool_adjoint<{ctype(g.dtype)}, {name}>", y.size, pack(g.dtype), args)
    return y


def _tiles(picture: Pair, windows: Pair, ksize: Pair, stride: Pair, pad: Pads, dtype: np.dtype) -> bool:
    """Whether windows of 2 by 2 tile the picture in rows of whole packs, for which there are faster kernels."""
    twice = (2 * windows[0], 2 * windows[1])
    whole = windows[1] % (pack(dtype) // 2) == 0
    return ksize == stride == (2, 2) and pad == ((0, 0), (0, 0)) and tuple(picture) == twice and whole


def _known_ksize(ksize: Pair) -> int:
    return ksize[0] if ksize[0] == ksize[1] and ksize[0] in KNOWN_KSIZES else 0


def _axes(
    index: type[np.signedinteger], picture: Pair, windows: Pair, ksize: Pair, stride: Pair, pad: Pads
) -> tuple[np.signedinteger, ...]:
    """The arguments height, width, rows, columns, kh, kw, sh, sw, top, left."""
    return tuple(map(index, (*picture, *windows, *ksize, *stride, pad[0][0], pad[1][0])))

"""Launches the kernels of ``src/convolution.cu``: as a matrix product, or directly where one side of it would be narrow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import cupy
import numpy as np

from dcnn_kernels.arrays import Array, BackendError
from dcnn_kernels.cuda import cudnn
from dcnn_kernels.cuda.elements import scalar
from dcnn_kernels.cuda.launch import ctype, index_type, launch
from dcnn_kernels.cuda.pooling import unpooling_2d
from dcnn_kernels.cuda.settings import current_engine, current_precision
from dcnn_kernels.geometry import Pads, Pair, output_shape

FILE = "convolution.cu"
#: Multiprocessors to be kept busy. A constant, so that sums are made in the same order, with the same result, on every device.
MULTIPROCESSORS = 132
#: The longest sums that few_terms makes, with the pixels to a thread, and the outputs to a block.
FEW_TERMS = {4: 4, 12: 4, 28: 2}
FEW_TERMS_OUTPUTS = 32
#: The most outputs of a group that few_outputs makes, and where they are few, the longest sums.
FEW_OUTPUTS, FEW_OUTPUTS_SIZE, FEW_OUTPUTS_TERMS = 4, 1 << 16, 512
#: The most taps along an axis that depthwise holds in registers.
DEPTHWISE_TAPS = 7
#: The most blocks of kernels that loop.
MAX_BLOCKS = 1 << 16

# The structs of src/layout.cuh.
_DIVISOR = np.dtype([("multiplier", np.uint32), ("shift", np.int32)])
_AXIS = np.dtype(
    [
        (name, np.int32)
        for name in (
            *("source", "size", "outputs", "first", "step", "stride", "dilate", "offset"),
            *("taps", "first_tap", "tap_step", "ksize"),
        )
    ]
)
_POOLING = np.dtype(
    [
        (name, np.int32)
        for name in ("rows", "columns", "ksize_rows", "ksize_columns", "stride_rows", "stride_columns", "pad_rows", "pad_columns")
    ]
    + [("by_rows", _DIVISOR), ("by_columns", _DIVISOR), ("rectify", np.int32)]
)
_LAYOUT = np.dtype(
    [(name, np.int64) for name in ("group_stride", "output_stride", "channel_stride")]
    + [(name, np.int32) for name in ("groups", "outputs", "channels")]
    + [("rows", _AXIS), ("columns", _AXIS), ("by_taps", _DIVISOR), ("by_tap_columns", _DIVISOR), ("pooling", _POOLING)],
    align=True,
)


class Tile(NamedTuple):
    """What a block computes of the product: warps along outputs and pixels, and to a warp 32s of outputs and of pixels."""

    warps_m: int
    warps_n: int
    warp_m: int
    warp_n: int
    #: Time for the same work, compared to that of other tiles.
    cost: float

    @property
    def outputs(self) -> int:
        """Rows."""
        return 32 * self.warps_m * self.warp_m

    @property
    def pixels(self) -> int:
        """Columns."""
        return 32 * self.warps_n * self.warp_n

    @property
    def threads(self) -> int:
        """Threads of the block."""
        return 32 * self.warps_m * self.warps_n

    @property
    def resident(self) -> int:
        """Threads that a multiprocessor has room for: each takes more registers where a warp computes more."""
        return 512 // self.warp_n


#: The first is for tensor cores only, which have to wait for shared memory: for 64x64 a warp reads, by the product, half of what
#: it reads for 32x32. Costs are reckoned from the instructions of the loop, not measured.
TILES = (Tile(2, 2, 2, 2, 0.7), Tile(2, 4, 2, 1, 1.0), Tile(1, 4, 2, 1, 1.1), Tile(2, 2, 1, 1, 1.3), Tile(1, 4, 1, 1, 1.4))


class _Pooling(NamedTuple):
    """The pooling that made the switches of a signal that is unpooled while it is read."""

    windows: Pair
    ksize: Pair
    stride: Pair
    pad: Pads
    rectify: bool

    @property
    def overlap(self) -> bool:
        return self.ksize[0] > self.stride[0] or self.ksize[1] > self.stride[1]

    def struct(self) -> np.void:
        fields: dict[str, Any] = {"rectify": self.rectify}
        for axis, name in enumerate(("rows", "columns")):
            fields |= {
                name: self.windows[axis],
                f"ksize_{name}": self.ksize[axis],
                f"stride_{name}": self.stride[axis],
                f"pad_{name}": self.pad[axis][0],
                f"by_{name}": _divisor(self.stride[axis]),
            }
        return _struct(_POOLING, **fields)


class _Source(NamedTuple):
    """The signal that is summed over: as it lies in memory, or pooled, with what it takes to unpool it."""

    values: Array
    size: Pair
    switches: Array | None = None
    mask: Array | None = None
    pooling: _Pooling | None = None

    def type(self, index: str) -> str:
        """The class of ``src/signal.cuh``."""
        element = ctype(self.values.dtype)
        if self.pooling is None or self.switches is None:
            return f"Signal<{element}, {index}>"
        flags = ", ".join("true" if flag else "false" for flag in (self.pooling.overlap, self.mask is not None))
        return f"Unpooled<{element}, {ctype(self.switches.dtype)}, {flags}, {index}>"

    @property
    def arguments(self) -> tuple[Array | None, ...]:
        return self.values, self.switches, self.mask


class _Rectifier(NamedTuple):
    """What sums go through before they are written; unless told, nothing.

    By channel a bias is added, then they are scaled and shifted; they become 0 where a mask's bit isn't set, and are clipped.
    """

    bias: Array | None = None
    scale: Array | None = None
    shift: Array | None = None
    mask: Array | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def idle(self) -> bool:
        return all(array is None for array in self[:4]) and self.low == -math.inf and self.high == math.inf

    def arguments(self, dtype: np.dtype[Any]) -> tuple[Array | np.floating | None, ...]:
        arrays = (None if array is None else cupy.ascontiguousarray(array) for array in self[:4])
        return *arrays, scalar(self.low, dtype), scalar(self.high, dtype)


class _Math(NamedTuple):
    """A way to multiply.

    Attributes:
        name: Its class in ``src/convolution.cu``.
        word: Its words.
        depth: Elements to a word.
        pooled_words: Words along the depth of a tile where the signal is pooled: as many as there are registers for what a
            thread keeps of it. Otherwise they are 16.
        tensor_cores: Whether these multiply.
    """

    name: str
    word: np.dtype[Any]
    depth: int
    pooled_words: int
    tensor_cores: bool = False


def convolution_2d(
    x: Array,
    W: Array,
    b: Array | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    z: float | None,
    scale: Array | None,
    shift: Array | None,
) -> Array:
    """See :func:`dcnn_kernels.convolution_2d`."""
    y = cupy.empty((len(x), len(W), *output_shape(x.shape, W.shape[2:], stride, pad, dilate)), x.dtype)
    source = _Source(cupy.ascontiguousarray(x), x.shape[2:])
    layouts = _layouts(True, source.size, y.shape[2:], W.shape, stride, pad, dilate, groups, None)
    by_cudnn = partial(cudnn.convolution_2d, stride=stride, pad=pad, dilate=dilate)
    rectifier = _Rectifier(b, scale, shift)
    _sum_products(source, W, y, layouts, rectifier if z is None else rectifier._replace(low=0.0, high=z), by_cudnn)
    return y


def transposed_convolution_2d(
    x: Array,
    W: Array,
    b: Array | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Array | None,
    rectify: bool,
) -> Array:
    """See :func:`dcnn_kernels.transposed_convolution_2d`."""
    y = cupy.empty((len(x), groups * W.shape[1], *outsize), x.dtype)
    source = _Source(cupy.ascontiguousarray(x), x.shape[2:])
    layouts = _layouts(False, source.size, outsize, W.shape, stride, pad, dilate, groups, None)
    by_cudnn = partial(cudnn.transposed_convolution_2d, stride=stride, pad=pad, dilate=dilate)
    _sum_products(source, W, y, layouts, _way_back(b, mask, rectify), by_cudnn)
    return y


def unpooled_transposed_convolution_2d(
    g: Array,
    switches: Array,
    W: Array,
    insize: Pair,
    pool_ksize: Pair,
    pool_stride: Pair,
    pool_pad: Pads,
    pool_mask: Array | None,
    pool_rectify: bool,
    b: Array | None,
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    outsize: Pair,
    mask: Array | None,
    rectify: bool,
) -> Array:
    """See :func:`dcnn_kernels.unpooled_transposed_convolution_2d`."""
    if current_engine() == "cudnn":
        x = unpooling_2d(g, insize, pool_ksize, pool_stride, pool_pad, switches, "switch", pool_mask, pool_rectify)
        return transposed_convolution_2d(x, W, b, stride, pad, dilate, groups, outsize, mask, rectify)
    y = cupy.empty((len(g), groups * W.shape[1], *outsize), g.dtype)
    pooling = _Pooling(g.shape[2:], pool_ksize, pool_stride, pool_pad, pool_rectify)
    g, switches = cupy.ascontiguousarray(g), cupy.ascontiguousarray(switches)
    source = _Source(g, insize, switches, None if pool_mask is None else cupy.ascontiguousarray(pool_mask), pooling)
    layouts = _layouts(False, insize, outsize, W.shape, stride, pad, dilate, groups, pooling)
    _sum_products(source, W, y, layouts, _way_back(b, mask, rectify))
    return y


def _way_back(b: Array | None, mask: Array | None, rectify: bool) -> _Rectifier:
    return _Rectifier(b, mask=mask, low=0.0 if rectify else -math.inf)


def _struct(dtype: np.dtype[np.void], **fields: Any) -> np.void:
    """A struct as kernels take it; fields left out are 0."""
    struct = np.zeros(1, dtype)
    for name, value in fields.items():
        struct[name] = value
    return struct[0]


@lru_cache(maxsize=1024)
def _layouts(
    forward: bool,
    size: Pair,
    outsize: Pair,
    W: tuple[int, int, int, int],
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    groups: int,
    pooling: _Pooling | None,
) -> tuple[np.void, ...]:
    """The launches' structs Layout, one a phase; together they cover the result.

    Args:
        forward: Whether it is a convolution, not a transposed one.
        size: (rows, columns) of the source.
        outsize: (rows, columns) of the result.
        W: The filters' shape.
        stride: Of the convolution, as all that follows.
        pad: Padding.
        dilate: Step between taps.
        groups: Groups.
        pooling: Where the source is pooled.
    """
    filters, channels, kh, kw = W
    axes = (_axes(forward, *along) for along in zip(size, outsize, (kh, kw), stride, (pad[0][0], pad[1][0]), dilate, strict=True))
    one, other = channels * kh * kw, kh * kw
    layouts = []
    for rows, columns in product(*axes):
        taps = int(rows["taps"]) * int(columns["taps"])
        layouts.append(
            _struct(
                _LAYOUT,
                group_stride=filters // groups * one,
                output_stride=one if forward else other,
                channel_stride=other if forward else one,
                groups=groups,
                outputs=filters // groups if forward else channels,
                channels=channels if forward else filters // groups,
                rows=rows,
                columns=columns,
                by_taps=_divisor(max(1, taps)),
                by_tap_columns=_divisor(max(1, int(columns["taps"]))),
                **({} if pooling is None else {"pooling": pooling.struct()}),
            )
        )
    return tuple(layouts)


def _axes(forward: bool, source: int, size: int, ksize: int, stride: int, before: int, dilate: int) -> list[np.void]:
    """One axis; of a transposed convolution, one for each phase: every stride-th output sees the same taps, at stride 1.

    Output p of a transposed convolution takes tap i from source element (p + before - i * dilate) / stride, where that is a
    whole number. The last tap comes first, so that the source is read forwards.
    """
    if forward:
        at = {"stride": stride, "dilate": dilate, "offset": -before}
        return [_struct(_AXIS, source=source, size=size, outputs=size, step=1, **at, taps=ksize, tap_step=1, ksize=ksize)]
    common = math.gcd(stride, dilate)
    axes = []
    for phase in range(min(stride, size)):
        taps = [i for i in range(ksize) if (phase + before - i * dilate) % stride == 0]
        axes.append(
            _struct(
                _AXIS,
                source=source,
                size=size,
                outputs=-((phase - size) // stride),
                first=phase,
                step=stride,
                stride=1,
                dilate=dilate // common,
                offset=(phase + before - taps[-1] * dilate) // stride if taps else 0,
                taps=len(taps),
                first_tap=taps[-1] if taps else 0,
                tap_step=-stride // common,
                ksize=ksize,
            )
        )
    return axes


def _divisor(number: int) -> tuple[int, int]:
    """Multiplier and shift of ``src/layout.cuh``: n // number == n * multiplier >> shift for 0 <= n < 2^31."""
    shift = 31 + (number - 1).bit_length()
    return (1 << shift) // number + 1, shift


def _sum_products(
    source: _Source,
    W: Array,
    y: Array,
    layouts: tuple[np.void, ...],
    rectifier: _Rectifier,
    by_cudnn: Callable[[Array, Array, Array], None] | None = None,
) -> None:
    """Writes y, one launch a layout, or has cuDNN write it: unasked only what would be a matrix product here."""
    if not y.size:
        return
    W = cupy.ascontiguousarray(W)
    outputs, terms = int(layouts[0]["outputs"]), int(layouts[0]["channels"]) * max(map(_taps, layouts))
    few_outputs = outputs <= FEW_OUTPUTS and (terms <= FEW_OUTPUTS_TERMS or y.size >= FEW_OUTPUTS_SIZE)
    few_terms = terms <= max(FEW_TERMS)
    engine = current_engine()
    if by_cudnn and (engine == "cudnn" or (engine == "auto" and not few_outputs and not few_terms)):
        try:
            by_cudnn(source.values, W, y)
        except BackendError:
            if engine == "cudnn":
                raise
        else:
            if not rectifier.idle:
                _sum_splits(y, y, 1, rectifier)
            return
    if few_outputs:
        _few_outputs(source, W, y, layouts, rectifier)
    elif few_terms:
        _few_terms(source, W, y, layouts, rectifier, terms)
    else:
        _implicit_gemm(source, W, y, layouts, rectifier)


def _taps(layout: np.void) -> int:
    return int(layout["rows"]["taps"]) * int(layout["columns"]["taps"])


def _pixels(y: Array, layout: np.void) -> int:
    """Pixels of a phase in the whole batch."""
    return len(y) * int(layout["rows"]["outputs"]) * int(layout["columns"]["outputs"])


def _index(source: _Source, y: Array, splits: int = 1) -> tuple[str, type[np.signedinteger]]:
    # Pooled, the source has more elements than its array. The last block's threads count on beyond the last pixel.
    elements = math.prod(source.values.shape[:2]) * math.prod(source.size)
    return index_type(elements, splits * y.size + (1 << 16), _bits(y))


def _bits(y: Array) -> int:
    """Bits of a mask of y, with those at the end of each row."""
    return len(y) * _padded(math.prod(y.shape[1:]), 8)


def _whole(layout: np.void, pixels: int) -> bool:
    """Whether the phase is all of y, so that its pixels follow one another, and always so many of them are aligned."""
    axes = layout["rows"], layout["columns"]
    return all(axis["step"] == 1 for axis in axes) and math.prod(int(axis["size"]) for axis in axes) % pixels == 0


def _few_outputs(source: _Source, W: Array, y: Array, layouts: tuple[np.void, ...], rectifier: _Rectifier) -> None:
    index, Index = _index(source, y)
    finish = rectifier.arguments(y.dtype)
    for layout in layouts:
        rows, columns = layout["rows"], layout["columns"]
        if _depthwise(source, layout):
            pixels = 8
            kernel = f"depthwise<{source.type(index)}, {rows['taps']}, {columns['taps']}, {rows['stride']}, {pixels}, {index}>"
        else:
            # Fewer where each takes many registers.
            pixels = 2 if y.dtype == np.float64 or (source.pooling and source.pooling.overlap) else 4
            kernel = f"few_outputs<{source.type(index)}, {layout['outputs']}, {pixels}, {index}>"
        strips = -(int(rows["outputs"]) // -pixels) * int(columns["outputs"])
        count = len(y) * int(layout["groups"]) * strips
        launch(FILE, kernel, (-(count // -256),), (256,), (*source.arguments, layout, W, y, Index(count), *finish))


def _depthwise(source: _Source, layout: np.void) -> bool:
    """Whether a group is one channel of a signal as it lies, with taps side by side and few enough for registers."""
    return (
        source.pooling is None
        and layout["outputs"] == layout["channels"] == 1
        and all(1 <= axis["taps"] <= DEPTHWISE_TAPS and axis["dilate"] == 1 for axis in (layout["rows"], layout["columns"]))
        and layout["rows"]["stride"] <= 2
    )


def _few_terms(source: _Source, W: Array, y: Array, layouts: tuple[np.void, ...], rectifier: _Rectifier, terms: int) -> None:
    index, Index = _index(source, y)
    finish = rectifier.arguments(y.dtype)
    room = min(size for size in FEW_TERMS if size >= terms)
    each = FEW_TERMS[room]
    for layout in layouts:
        parts = int(layout["groups"]) * -(int(layout["outputs"]) // -FEW_TERMS_OUTPUTS)
        pixels = _pixels(y, layout)
        launch(
            FILE,
            f"few_terms<{source.type(index)}, {room}, {each}, {index}>",
            (parts * -(pixels // -(128 * each)),),
            (128,),
            (*source.arguments, layout, W, y, Index(pixels), np.int32(_whole(layout, each)), *finish),
        )


def _implicit_gemm(source: _Source, W: Array, y: Array, layouts: tuple[np.void, ...], rectifier: _Rectifier) -> None:
    way = _way(y.dtype)
    groups, outputs, channels = (int(layouts[0][name]) for name in ("groups", "outputs", "channels"))
    words = 16 if source.pooling is None else way.pooled_words
    depth = words * way.depth
    # Channels side by side in a tile: all its depth, or a few where so many would be mostly padding.
    few = 4 * way.depth
    side = few if 4 * _padded(channels, depth) > 5 * _padded(channels, few) else depth
    units = [-(channels // -side) * _taps(layout) for layout in layouts]
    tiles = [-(number // -(depth // side)) for number in units]
    tile, splits = _plan(outputs, max(_pixels(y, layout) for layout in layouts), groups, max(tiles), way)
    width = _padded(outputs, tile.outputs)
    index, Index = _index(source, y, splits)
    sums = y if splits == 1 else cupy.empty((splits, *y.shape), np.promote_types(y.dtype, np.float32))
    finish = (rectifier if splits == 1 else _Rectifier()).arguments(y.dtype)
    shape = f"Tile<{tile.warps_m}, {tile.warps_n}, {tile.warp_m}, {tile.warp_n}, {words}>"
    for layout, depth_tiles in zip(layouts, tiles, strict=True):
        filters = cupy.empty((groups, depth_tiles * words, width), way.word)
        if filters.size:
            launch(
                FILE,
                f"pack_filters<{way.name}, {side}>",
                (min(groups * -(channels // -side) * (width // 32), MAX_BLOCKS),),
                (256,),
                (W, layout, filters, np.int32(depth_tiles * (depth // side)), np.int32(width)),
            )
        pixels = _pixels(y, layout)
        windows = "Contiguous" if _contiguous(source, layout) else "Gathered"
        launch(
            FILE,
            f"implicit_gemm<{way.name}, {source.type(index)}, {shape}, {windows}<{side}>, {ctype(sums.dtype)}, {index}>",
            (width // tile.outputs * -(pixels // -tile.pixels) * splits * groups,),
            (tile.threads,),
            (
                *source.arguments,
                layout,
                filters,
                sums,
                Index(pixels),
                np.int32(width),
                np.int32(depth_tiles),
                np.int32(splits),
                np.int32(_whole(layout, 4)),
                *finish,
            ),
        )
    if splits > 1:
        _sum_splits(sums, y, splits, rectifier)


def _sum_splits(parts: Array, y: Array, splits: int, rectifier: _Rectifier) -> None:
    index, Index = index_type(splits * y.size + 256 * MAX_BLOCKS, _bits(y))
    launch(
        FILE,
        f"sum_splits<{ctype(parts.dtype)}, {ctype(y.dtype)}, {index}>",
        (min(-(y.size // -256), MAX_BLOCKS),),
        (256,),
        (
            parts,
            y,
            np.int32(splits),
            Index(y.size),
            Index(math.prod(y.shape[2:])),
            Index(math.prod(y.shape[1:])),
            *rectifier.arguments(y.dtype),
        ),
    )


def _way(dtype: np.dtype[Any]) -> _Math:
    if dtype == np.float16:
        return _Math("Half", np.dtype(np.uint32), depth=2, pooled_words=8, tensor_cores=True)
    if dtype == np.float32 and current_precision() == "tf32" and int(cupy.cuda.Device().compute_capability) >= 80:
        return _Math("TensorFloat32", np.dtype(np.uint32), depth=1, pooled_words=16, tensor_cores=True)
    return _Math(f"Exact<{ctype(dtype)}>", dtype, depth=1, pooled_words=8)


def _plan(outputs: int, pixels: int, groups: int, tiles: int, way: _Math) -> tuple[Tile, int]:
    """The tile of least cost, and in how many parts to split its sums.

    Padding costs, and so do multiprocessors without a block, so far as the sums are too short to be split.
    """
    plans = []
    for tile in TILES:
        if (way.word.itemsize == 8 and tile.warp_m > 1) or (not way.tensor_cores and tile.warp_n > 1):
            continue  # too many registers
        blocks = groups * -(outputs // -tile.outputs) * -(pixels // -tile.pixels)
        room = MULTIPROCESSORS * tile.resident // tile.threads
        splits = max(1, min(room // blocks, tiles // 8))
        cost = blocks * tile.outputs * tile.pixels * tile.cost * max(1.0, room / (blocks * splits))
        plans.append((cost, tile, splits))
    _, tile, splits = min(plans, key=lambda plan: plan[0])
    return tile, splits


def _padded(number: int, multiple: int) -> int:
    return -(number // -multiple) * multiple


def _contiguous(source: _Source, layout: np.void) -> bool:
    """Whether the windows are the pixels as they lie in memory, four of them always aligned."""
    axes = layout["rows"], layout["columns"]
    return (
        source.pooling is None
        and all(axis["taps"] == axis["stride"] == axis["step"] == 1 and axis["offset"] == 0 for axis in axes)
        and all(axis["outputs"] == axis["source"] for axis in axes)
        and math.prod(source.size) % 4 == 0
        and source.values.data.ptr % (4 * source.values.itemsize) == 0
    )

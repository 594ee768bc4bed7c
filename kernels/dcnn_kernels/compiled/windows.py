"""Windows over a plane, a vector of them side by side: pixels are read where they lie, and nothing is laid out before.

Lanes that see no pixel are masked. Rows that lie outside are read from a row of what padding holds.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..geometry import Pads, Pair
from .jit import compiled
from .microkernel import VECTOR, concatenated, places_of, pointer_to, vector_of

#: Rows of windows whose sums grow at once: an addition takes some cycles, and networks' maps are multiples of 7.
TOGETHER = 7
#: Rows of windows whose maxima are found at once: each takes a register for its place too.
COMPARED = 4
#: The most columns between windows, or between what a window's pixels go to, that vectors are dealt out or joined for.
STEPS = 2


class Taps(NamedTuple):
    """The taps of all phases of windows, by axis.

    A phase is a row's or column's number modulo the step between what a window's pixels go to; there is one alone where pixels
    come together in a window.

    Attributes:
        rows: (taps, 2): the pixel's row less the window's, and the place of the tap's row in the filter.
        columns: (taps, 2): the same of columns.
        row_ends: Where each phase's begin in ``rows``, and where the last one's end.
        column_ends: The same of ``columns``.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    row_ends: npt.NDArray[np.int64]
    column_ends: npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def gathered(ksize: Pair, pad: Pads, dilate: Pair = (1, 1)) -> Taps:
    """Those of windows over a picture."""
    rows, columns = ([[(n * d - side[0], n) for n in range(k)]] for k, side, d in zip(ksize, pad, dilate, strict=True))
    return _taps(rows, columns, ksize[1])


@lru_cache(maxsize=256)
def scattered(ksize: Pair, stride: Pair, pad: Pads, dilate: Pair = (1, 1)) -> Taps:
    """Those of the windows' adjoint: for each pixel, the windows that see it."""
    rows, columns = (
        [[((p + side[0] - n * d) // s, n) for n in range(k) if (p + side[0] - n * d) % s == 0] for p in range(s)]
        for k, s, side, d in zip(ksize, stride, pad, dilate, strict=True)
    )
    return _taps(rows, columns, ksize[1])


def _taps(rows: list[list[tuple[int, int]]], columns: list[list[tuple[int, int]]], width: int) -> Taps:
    rows = [sorted((shift, place * width) for shift, place in phase) for phase in rows]
    tables = [np.array([tap for phase in phases for tap in phase], np.int64).reshape(-1, 2) for phases in (rows, columns)]
    ends = [np.cumsum([0, *map(len, phases)]) for phases in (rows, columns)]
    return Taps(tables[0], tables[1], ends[0], ends[1])


@compiled
def sum_windows(
    y,
    y_start,
    rows,
    columns,
    x,
    x_start,
    height,
    width,
    outside,
    stride,
    taps,
    W,
    W_start,
    bias,
):
    """Fills a plane with sums of products over the windows of another.

    Args:
        y: Flat.
        y_start: Where its plane begins.
        rows: Of that.
        columns: Of that.
        x: Flat.
        x_start: Where its plane begins.
        height: Of that.
        width: Of that.
        outside: That many zeros.
        stride: Step between windows, at most ``STEPS`` columns.
        taps: Of the windows, of at most ``STEPS`` phases of columns, and then of a stride of 1.
        W: Filters, flat.
        W_start: Where the filter begins.
        bias: What is added to each sum.
    """
    lanes, down, across = VECTOR // x.itemsize, len(taps.row_ends) - 1, len(taps.column_ends) - 1
    for phase in range(down):
        some = taps.row_ends[phase], taps.row_ends[phase + 1]
        # Where a phase's taps are rows side by side, each row of pixels is read once for all of its windows.
        tall = some[1] - some[0]
        if stride[0] != stride[1] or (tall and taps.rows[some[1] - 1, 0] - taps.rows[some[0], 0] != tall - 1):
            tall = 0
        # Counting on saves divisions, which take as long as all else that a small block needs besides its sums.
        row, seen = phase, 0
        while row < rows:
            column, there = 0, 0
            while column < columns:
                to = y_start + row * columns + column, down * columns, (rows - row) * columns, columns - column
                at, source = (seen, stride[0], there), (x_start, height, width)
                if across == 2:
                    if tall == 2:
                        _sums(TOGETHER, 2, 1, 2, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                    elif tall == 3:
                        _sums(TOGETHER, 3, 1, 2, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                    else:
                        _sums(TOGETHER, 0, 1, 2, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                elif stride[1] == 2:
                    if tall == 3:
                        _sums(TOGETHER, 3, 2, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                    elif tall == 5:
                        _sums(TOGETHER, 5, 2, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                    else:
                        _sums(TOGETHER, 0, 2, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                elif tall == 3:
                    _sums(TOGETHER, 3, 1, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                elif tall == 7:
                    _sums(TOGETHER, 7, 1, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                elif tall == 5:
                    _sums(TOGETHER, 5, 1, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                else:
                    _sums(TOGETHER, 0, 1, 1, y, to, x, source, outside, at, taps, some, W, W_start, bias)
                column += lanes * across
                there += lanes * stride[1]
            row += TOGETHER * down
            seen += TOGETHER * stride[0]


@compiled
def find_maxima(y, switches, y_start, rows, columns, x, x_start, height, width, outside, stride, taps):
    """Fills a plane with the maxima of another's windows and their places; see :func:`sum_windows`.

    The first maximum in row order wins, and a NaN is larger than any number. What lies outside is minus infinity.
    """
    lanes, source, some = VECTOR // x.itemsize, (x_start, height, width), (taps.row_ends[0], taps.row_ends[1])
    row, seen = 0, 0
    while row < rows:
        column, there = 0, 0
        while column < columns:
            to = y_start + row * columns + column, columns, (rows - row) * columns, columns - column
            at = seen, stride[0], there
            if stride[1] == 2:
                _maxima(COMPARED, 2, y, switches, to, x, source, outside, at, taps, some)
            else:
                _maxima(COMPARED, 1, y, switches, to, x, source, outside, at, taps, some)
            column += lanes
            there += lanes * stride[1]
        row += COMPARED
        seen += COMPARED * stride[0]


@compiled
def unpool_windows(
    y,
    y_start,
    rows,
    columns,
    g,
    switches,
    g_start,
    switches_start,
    height,
    width,
    outside,
    taps,
):
    """Fills a plane with sums of the signals of those windows whose switch points at a pixel; see :func:`sum_windows`.

    ``outside`` is as many switches, of whatever value.
    """
    lanes, down, across = VECTOR // g.itemsize, len(taps.row_ends) - 1, len(taps.column_ends) - 1
    for phase in range(down):
        some = taps.row_ends[phase], taps.row_ends[phase + 1]
        # Counting on saves divisions, which take as long as all else that a small block needs besides its sums.
        row, seen = phase, 0
        while row < rows:
            column, there = 0, 0
            while column < columns:
                to = y_start + row * columns + column, down * columns, (rows - row) * columns, columns - column
                at, source = (seen, 1, there), (g_start, height, width)
                if across == 2:
                    _unpooled(TOGETHER, 2, y, to, g, switches, switches_start, source, outside, at, taps, some)
                else:
                    _unpooled(TOGETHER, 1, y, to, g, switches, switches_start, source, outside, at, taps, some)
                column += lanes * across
                there += lanes
            row += TOGETHER * down
            seen += TOGETHER


@intrinsic(prefer_literal=True)
def _sums(typing, together, tall, step, spread, y, to, x, source, outside, at, taps, some, W, W_start, bias):
    """A block of sums.

    Args:
        typing: Numba's own.
        together: Rows, a literal.
        tall: How many rows side by side a window's taps are, a literal, where rows of windows are ``step`` apart; else 0.
        step: Columns between windows, a literal.
        spread: Phases of columns, a literal.
        y: Flat.
        to: Where the sums go, the step between rows, and how many values there are from there to the plane's and the row's end.
        x: Flat.
        source: Where the plane begins, its height and its width.
        outside: A row of what lies outside.
        at: The row of the plane that the first window begins at, the step between rows, and the column.
        taps: Of all phases.
        some: Which of ``taps.rows`` are of this phase of rows.
        W: Flat.
        W_start: Where the filter begins.
        bias: The sums before any product.
    """
    integer = types.int64
    signature = types.void(together, tall, step, spread, y, to, x, source, outside, at, taps, some, W, integer, bias)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, x)
        fma = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, fma, f"llvm.fma.v{lanes}f{x.dtype.bitwidth}")
        broad, zero = builder.extract_value(values[5], 3), ir.Constant(vector, None)
        literals = together.literal_value, tall.literal_value, step.literal_value
        first, results = _everywhere(builder, values[14], vector), []
        for phase in range(spread.literal_value):
            sums = [cgutils.alloca_once(builder, vector) for _ in range(together.literal_value)]
            for total in sums:
                builder.store(first, total)

            def add(reads, column, width, sums=sums):
                for (line,), uses in reads:
                    pixels = _pixels(context, builder, x, line, column, width, step.literal_value, zero, broad)
                    for r, place in uses:
                        weight = pointer_to(context, builder, W, values[12], builder.add(values[13], place))
                        weight = _everywhere(builder, builder.load(weight), vector)
                        builder.store(builder.call(fma, [weight, pixels, builder.load(sums[r])]), sums[r])

            planes = [(x, values[6], builder.extract_value(values[7], 0))]
            edge = pointer_to(context, builder, outside, values[8], ir.IntType(64)(0))
            _sweep(context, builder, taps, planes, edge, *values[9:12], values[7], literals, phase, add)
            results.append([builder.load(total) for total in sums])
        _write(context, builder, y, values[4], values[5], results)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _maxima(typing, together, step, y, switches, to, x, source, outside, at, taps, some):
    """A block of maxima and their places; see :func:`_sums`."""
    signature = types.void(together, step, y, switches, to, x, source, outside, at, taps, some)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, x)
        whole = ir.VectorType(ir.IntType(x.dtype.bitwidth), lanes)
        maxima, places = ([cgutils.alloca_once(builder, kind) for _ in range(together.literal_value)] for kind in (vector, whole))
        broad = builder.extract_value(values[4], 3)
        least = ir.Constant(vector, [float("-inf")] * lanes)
        for best, where in zip(maxima, places, strict=True):
            builder.store(least, best)
            builder.store(ir.Constant(whole, None), where)

        def compare(reads, column, width):
            for (line,), ((r, place),) in reads:
                place = _everywhere(builder, _narrowed(builder, place, whole.element), whole)
                pixels = _pixels(context, builder, x, line, column, width, step.literal_value, least, broad)
                before, where = builder.load(maxima[r]), builder.load(places[r])
                larger = builder.fcmp_unordered(">", pixels, before)
                larger = builder.and_(larger, builder.fcmp_ordered("ord", before, before))
                builder.store(builder.select(larger, pixels, before), maxima[r])
                builder.store(builder.select(larger, place, where), places[r])

        planes = [(x, values[5], builder.extract_value(values[6], 0))]
        edge = pointer_to(context, builder, outside, values[7], ir.IntType(64)(0))
        _sweep(context, builder, taps, planes, edge, *values[8:11], values[6], (together.literal_value, 0, 0), 0, compare)
        _write(context, builder, y, values[2], values[4], [[builder.load(best) for best in maxima]])
        kind = ir.VectorType(context.get_value_type(switches.dtype), lanes)
        narrow = [_narrowed(builder, builder.load(where), kind) for where in places]
        _write(context, builder, switches, values[3], values[4], [narrow])
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _unpooled(typing, together, spread, y, to, g, switches, switches_start, source, outside, at, taps, some):
    """A block of sums of signals whose switches point there; see :func:`_sums`."""
    signature = types.void(together, spread, y, to, g, switches, types.int64, source, outside, at, taps, some)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, g)
        zero, broad, results = ir.Constant(vector, None), builder.extract_value(values[3], 3), []
        for phase in range(spread.literal_value):
            sums = [cgutils.alloca_once(builder, vector) for _ in range(together.literal_value)]
            for total in sums:
                builder.store(zero, total)

            def add(reads, column, width, sums=sums):
                kind = ir.VectorType(context.get_value_type(switches.dtype), lanes)
                for (signals, chosen), ((r, place),) in reads:
                    place = _everywhere(builder, _narrowed(builder, place, kind.element), kind)
                    signal = _pixels(context, builder, g, signals, column, width, 1, zero, broad)
                    switch = _pixels(context, builder, switches, chosen, column, width, 1, ir.Constant(kind, None), broad)
                    value = builder.select(builder.icmp_unsigned("==", switch, place), signal, zero)
                    builder.store(builder.fadd(builder.load(sums[r]), value), sums[r])

            planes = [(g, values[4], builder.extract_value(values[7], 0)), (switches, values[5], values[6])]
            edge = pointer_to(context, builder, outside, values[8], ir.IntType(64)(0))
            _sweep(context, builder, taps, planes, edge, *values[9:12], values[7], (together.literal_value, 0, 0), phase, add)
            results.append([builder.load(total) for total in sums])
        _write(context, builder, y, values[2], values[3], results)
        return context.get_dummy_value()

    return signature, generate


def _sweep(context, builder, taps, planes, edge, at, tables, some, source, literals, phase, visit):
    """Visits the taps of a block of windows, in row order.

    Args:
        context: Numba's own.
        builder: The block's.
        taps: The type of ``tables``.
        planes: Type, value and begin of each array that is read.
        edge: A row of what lies outside the first of them; of others it doesn't matter.
        at: See :func:`_sums`.
        tables: Of them, a :class:`Taps`.
        some: See :func:`_sums`.
        source: See :func:`_sums`.
        literals: Rows of windows, and ``tall`` and ``step`` of :func:`_sums`.
        phase: Of columns.
        visit: ``visit(reads, column, width)`` is given, for each row that is read, where it begins in each plane, and the rows of
            windows that see it, each with the tap's place in the filter; and there the first window's column.
    """
    integer = ir.IntType(64)
    rows, columns, _, ends = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(taps.types, cgutils.unpack_tuple(builder, tables), strict=True)
    )

    def word(table, number):
        return builder.load(builder.gep(table, [number]))

    row, row_step, column = (builder.extract_value(at, n) for n in range(3))
    _, height, width = (builder.extract_value(source, n) for n in range(3))
    one, two, zero = integer(1), integer(2), integer(0)
    first, last = (builder.extract_value(some, n) for n in range(2))
    left, right = (word(ends, integer(phase + n)) for n in range(2))
    together, tall, step = literals
    pixels, begin, pitch = (builder.mul(number, width) for number in (height, row, row_step))
    starts = [pointer_to(context, builder, *plane) for plane in planes]

    def line_at(offset):
        inside = builder.icmp_unsigned("<", offset, pixels)
        line = [builder.select(inside, builder.gep(starts[0], [offset]), edge)]
        return line + [builder.gep(start, [builder.select(inside, offset, zero)]) for start in starts[1:]]

    @contextmanager
    def columns_of_taps():
        with cgutils.for_range_slice(builder, left, right, one, integer) as (j, _):
            j = builder.mul(j, two)
            yield word(columns, builder.add(j, one)), builder.add(column, word(columns, j))

    if tall:
        taps_of_rows = [builder.mul(builder.add(first, integer(n)), two) for n in range(tall)]
        begin = builder.add(begin, builder.mul(word(rows, taps_of_rows[0]), width))
        of_rows = [word(rows, builder.add(i, one)) for i in taps_of_rows]
        lines = [line_at(builder.add(begin, builder.mul(width, integer(q)))) for q in range((together - 1) * step + tall)]
        with columns_of_taps() as (place, here):
            places = [builder.add(of_row, place) for of_row in of_rows]
            seen = [[(r, q - r * step) for r in range(together) if 0 <= q - r * step < tall] for q in range(len(lines))]
            reads = [(line, [(r, places[n]) for r, n in uses]) for line, uses in zip(lines, seen, strict=True)]
            visit(reads, here, width)
        return
    steps = [builder.mul(pitch, integer(r)) for r in range(together)]
    with cgutils.for_range_slice(builder, first, last, one, integer) as (i, _):
        i = builder.mul(i, two)
        begin_of_tap, of_row = builder.add(begin, builder.mul(word(rows, i), width)), word(rows, builder.add(i, one))
        lines = [line_at(builder.add(begin_of_tap, step)) for step in steps]
        with columns_of_taps() as (place, here):
            place = builder.add(of_row, place)
            visit([(line, [(r, place)]) for r, line in enumerate(lines)], here, width)


def _pixels(context, builder, array, line, column, width, step, outside, broad):
    """A vector of a line's every ``step``-th value from ``column`` on, that of ``outside`` where there is none.

    Of those, ``broad`` will be used, which matters where ``step`` is more than 1.
    """
    vector, size = outside.type, array.dtype.bitwidth // 8
    lanes, four, integer = vector.count, ir.IntType(32), ir.IntType(64)
    kind, words = f"v{lanes}{'f' if isinstance(array.dtype, types.Float) else 'i'}{8 * size}", ir.VectorType(four, lanes)
    load = ir.FunctionType(vector, [vector.as_pointer(), four, ir.VectorType(ir.IntType(1), lanes), vector])
    load = cgutils.get_or_insert_function(builder.module, load, f"llvm.masked.load.{kind}.p0{kind}")
    begin, end = (_everywhere(builder, builder.trunc(value, four), words) for value in (column, width))
    read = []
    for n in range(step):
        part = cgutils.alloca_once_value(builder, outside)
        some = builder.icmp_signed(">", builder.mul(broad, integer(step)), integer(n * lanes))
        with builder.if_then(some) if n else nullcontext():
            here = builder.add(begin, ir.Constant(words, list(range(n * lanes, (n + 1) * lanes))))
            pointer = builder.gep(line, [builder.add(column, integer(n * lanes))])
            pointer = builder.bitcast(pointer, vector.as_pointer())
            within = builder.icmp_unsigned("<", here, end)
            builder.store(builder.call(load, [pointer, four(size), within, outside]), part)
        read.append(builder.load(part))
    if step == 1:
        return read[0]
    read = concatenated(builder, read)
    return builder.shuffle_vector(read, ir.Constant(read.type, ir.Undefined), places_of(range(0, step * lanes, step)))


def _write(context, builder, array, value, to, results):
    """Writes the results of all phases of columns, a list of rows each, as far as they are wanted."""
    start, pitch, left, broad = (builder.extract_value(to, n) for n in range(4))
    vector, size = results[0][0].type, array.dtype.bitwidth // 8
    lanes, four, integer = vector.count, ir.IntType(32), ir.IntType(64)
    kind, words = f"v{lanes}{'f' if isinstance(array.dtype, types.Float) else 'i'}{8 * size}", ir.VectorType(four, lanes)
    store = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), four, ir.VectorType(ir.IntType(1), lanes)])
    store = cgutils.get_or_insert_function(builder.module, store, f"llvm.masked.store.{kind}.p0{kind}")
    end = _everywhere(builder, builder.trunc(broad, four), words)
    for r, row in enumerate(zip(*results, strict=True)):
        with builder.if_then(builder.icmp_signed("<", builder.mul(pitch, integer(r)), left)):
            for n in range(len(row)):
                part = row[0]
                if len(row) > 1:
                    turns = [k // 2 + k % 2 * lanes for k in range(n * lanes, (n + 1) * lanes)]
                    part = builder.shuffle_vector(*row, places_of(turns))
                here = ir.Constant(words, list(range(n * lanes, (n + 1) * lanes)))
                offset = builder.add(start, builder.add(builder.mul(pitch, integer(r)), integer(n * lanes)))
                pointer = builder.bitcast(pointer_to(context, builder, array, value, offset), vector.as_pointer())
                # To write no lane at all takes longer than to look whether there is one.
                with builder.if_then(builder.icmp_signed("<", integer(n * lanes), broad)):
                    builder.call(store, [part, pointer, four(size), builder.icmp_signed("<", here, end)])


def _everywhere(builder, value, vector):
    """A vector of one value."""
    undefined = ir.Constant(vector, ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, everywhere)


def _narrowed(builder, value, kind):
    """A whole number, or a vector of such, of a type that is as wide or narrower."""
    return value if value.type == kind else builder.trunc(value, kind)

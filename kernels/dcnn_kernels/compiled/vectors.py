"""Passes over elements as vectors: Numba makes no vectors of loops that deal in single bits, or in every other value.

What is too short for a vector goes element by element, in the loops that call these.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .microkernel import VECTOR, pointer_to

#: Elements whose bits go together: a word of a mask.
WORD = 64


@intrinsic
def positive_bits(typing, mask, byte, x, start, z):
    """Notes which of :data:`WORD` elements from ``x[start]`` on lie between 0 and ``z``, in a bit each from ``mask[byte]`` on.

    Args:
        typing: Numba's own.
        mask: uint8 array.
        byte: Offset.
        x: Float array.
        start: Offset.
        z: NaN for no bound.
    """

    def generate(context, builder, signature, values):
        vector = ir.VectorType(context.get_value_type(x.dtype), WORD)
        pointer = pointer_to(context, builder, x, values[2], values[3])
        read = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=x.dtype.bitwidth // 8)
        positive = builder.fcmp_ordered(">", read, ir.Constant(vector, None))
        above = builder.fcmp_ordered(">=", read, broadcast(builder, values[4], WORD))
        bits = builder.bitcast(builder.and_(positive, builder.not_(above)), ir.IntType(WORD))
        pointer = pointer_to(context, builder, mask, values[0], values[1])
        builder.store(bits, builder.bitcast(pointer, bits.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(mask, types.int64, x, types.int64, x.dtype), generate


@intrinsic
def word(typing, mask, byte):
    """The eight bytes from ``mask[byte]`` on, as uint64."""

    def generate(context, builder, signature, values):
        pointer = pointer_to(context, builder, mask, values[0], values[1])
        return builder.load(builder.bitcast(pointer, ir.IntType(WORD).as_pointer()), align=1)

    return types.uint64(mask, types.int64), generate


@intrinsic
def gate(typing, y, y_start, x, x_start, bits, rectify):
    """Copies :data:`WORD` elements: 0 instead where their bit isn't set, and with ``rectify`` where they are negative."""

    def generate(context, builder, signature, values):
        vector, size = ir.VectorType(context.get_value_type(x.dtype), WORD), x.dtype.bitwidth // 8
        pointer = pointer_to(context, builder, x, values[2], values[3])
        read, zero = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size), ir.Constant(vector, None)
        stopped = builder.not_(builder.bitcast(values[4], ir.VectorType(ir.IntType(1), WORD)))
        rectified = builder.trunc(values[5], ir.IntType(1))
        negative = builder.and_(builder.fcmp_ordered("<", read, zero), broadcast(builder, rectified, WORD))
        kept = builder.select(builder.or_(stopped, negative), zero, read)
        pointer = pointer_to(context, builder, y, values[0], values[1])
        builder.store(kept, builder.bitcast(pointer, vector.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(y, types.int64, x, types.int64, types.uint64, types.boolean), generate


@intrinsic
def pool_2x2(typing, y, switches, to, x, upper, lower):
    """Writes a vector of maxima and their switches at ``to``, of windows whose rows start at ``x[upper]`` and ``x[lower]``.

    The first maximum in row order wins, and a NaN is larger than any number.
    """

    def generate(context, builder, signature, values):
        count, size = VECTOR * 8 // x.dtype.bitwidth, x.dtype.bitwidth // 8
        vector, places = ir.VectorType(context.get_value_type(x.dtype), count), ir.VectorType(ir.IntType(8), count)
        rows = []
        for start in values[4:6]:
            pointer = pointer_to(context, builder, x, values[3], start)
            double = ir.VectorType(vector.element, 2 * count)
            rows.append(builder.load(builder.bitcast(pointer, double.as_pointer()), align=size))
        best, place = None, ir.Constant(places, None)
        for number in range(4):
            row = rows[number // 2]
            value = builder.shuffle_vector(row, ir.Constant(row.type, ir.Undefined), _steps(number % 2, 2, count))
            if best is None:
                best = value
                continue
            larger = builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))
            best = builder.select(larger, value, best)
            place = builder.select(larger, ir.Constant(places, [number] * count), place)
        for array, at, written in ((y, 0, best), (switches, 1, place)):
            pointer = pointer_to(context, builder, array, values[at], values[2])
            builder.store(written, builder.bitcast(pointer, written.type.as_pointer()), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(y, switches, types.int64, x, types.int64, types.int64), generate


@intrinsic
def unpool_2x2(typing, y, upper, lower, g, g_start, switches, switches_start):
    """The reverse: writes the windows of a vector of signals whole, each signal at its switch and zeros elsewhere."""

    def generate(context, builder, signature, values):
        count, size = VECTOR * 8 // g.dtype.bitwidth, g.dtype.bitwidth // 8
        vector, places = ir.VectorType(context.get_value_type(g.dtype), count), ir.VectorType(ir.IntType(8), count)
        pointer = pointer_to(context, builder, g, values[3], values[4])
        signal = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)
        pointer = pointer_to(context, builder, switches, values[5], values[6])
        place = builder.load(builder.bitcast(pointer, places.as_pointer()), align=1)
        parts = []
        for number in range(4):
            here = builder.icmp_unsigned("==", place, ir.Constant(places, [number] * count))
            parts.append(builder.select(here, signal, ir.Constant(vector, None)))
        turns = ir.Constant(ir.VectorType(ir.IntType(32), 2 * count), [n // 2 + n % 2 * count for n in range(2 * count)])
        for row, start in enumerate(values[1:3]):
            joined = builder.shuffle_vector(parts[2 * row], parts[2 * row + 1], turns)
            pointer = pointer_to(context, builder, y, values[0], start)
            builder.store(joined, builder.bitcast(pointer, joined.type.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(y, types.int64, types.int64, g, types.int64, switches, types.int64), generate


def broadcast(builder, value, count):
    """A vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), count), None))


def _steps(first, step, count):
    return ir.Constant(ir.VectorType(ir.IntType(32), count), [first + step * n for n in range(count)])

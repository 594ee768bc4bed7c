"""The heart of every matrix product: a block of sums that stays in vector registers while its terms stream by.

Numba has no vectors, so the block is written in LLVM's own language. The idea is that of Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication" (ACM TOMS 34, 2008), without its packing: terms are found by tables of offsets.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_features = binding.get_host_cpu_features()
#: Bytes of a vector; rows of a block and most vectors of a row: its sums and a row of terms must fit the registers.
VECTOR, ROWS, VECTORS = (64, 6, 4) if _features.get("avx512f") else (32 if _features.get("avx2") else 16, 4, 2)
#: Bytes of a line of cache.
LINE_BYTES = 64


@intrinsic(prefer_literal=True)
def sums_of_products(
    typing, rows, vectors, a, a_start, a_row, a_steps, b, b_start, b_steps, bias, bias_start, out, out_start, out_row, ahead
):
    """Writes a block of ``rows`` by ``vectors`` vectors: ``out[r, n] = bias[r] + sum over d of a[r, d] * b[d, n]``.

    All arrays are flat. ``a[r, d]`` lies at ``a_start + r * a_row + a_steps[d]``, ``b[d, n]`` at ``b_start + b_steps[d] + n``,
    ``bias[r]`` at ``bias_start + r``, ``out[r, n]`` at ``out_start + r * out_row + n``. There must be one d at least.

    Args:
        typing: Numba's own.
        rows: A literal integer.
        vectors: A literal integer.
        a: Float array.
        a_start: Offset.
        a_row: Step between rows.
        a_steps: int64 array of offsets, as long as the sums.
        b: Float array.
        b_start: Offset.
        b_steps: int64 array of offsets, as long as ``a_steps``.
        bias: Float array, or None: the sums are added to what ``out`` has.
        bias_start: Offset.
        out: Float array.
        out_start: Offset.
        out_row: Step between rows.
        ahead: int64 array of offsets from ``a_start`` of what will be needed soon, as long as ``a_steps``; or None.
    """
    height, width, word = rows.literal_value, vectors.literal_value, types.int64
    signature = types.void(rows, vectors, a, word, word, a_steps, b, word, b_steps, bias, word, out, word, word, ahead)

    def generate(context, builder, signature, values):
        _, _, a_at, a_start, a_row, a_steps, b_at, b_start, b_steps, bias_at, bias_start, out_at, out_start, out_row, _ = values
        integer = ir.IntType(64)
        size = a.dtype.bitwidth // 8
        lanes, vector = vector_of(context, a)
        name = f"llvm.fma.v{lanes}f{a.dtype.bitwidth}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        undefined, everywhere = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)

        def array(position, value):
            return context.make_array(signature.args[position])(context, builder, value)

        def vector_at(pointer, number):
            return builder.bitcast(builder.gep(pointer, [integer(number * lanes)]), vector.as_pointer())

        def broadcast(pointer, offset):
            value = builder.load(builder.gep(pointer, [offset]), align=size)
            return builder.shuffle_vector(builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, everywhere)

        depth = cgutils.unpack_tuple(builder, array(5, a_steps).shape)[0]
        steps = array(5, a_steps).data, array(8, b_steps).data
        places = [(2, a_at, a_start), (6, b_at, b_start), (11, out_at, out_start)]
        starts = [builder.gep(array(position, value).data, [start]) for position, value, start in places]
        offsets = [builder.mul(a_row, integer(r)) for r in range(height)]
        results = [builder.gep(starts[2], [builder.mul(out_row, integer(r))]) for r in range(height)]
        if bias is types.none:
            first = [[builder.load(vector_at(result, n), align=size) for n in range(width)] for result in results]
        else:
            of_bias = builder.gep(array(9, bias_at).data, [bias_start])
            first = [[broadcast(of_bias, integer(r))] * width for r in range(height)]
        before, body, after = builder.block, builder.append_basic_block("products"), builder.append_basic_block("sums")
        builder.branch(body)

        builder.position_at_end(body)
        d = builder.phi(integer)
        sums = [[builder.phi(vector) for _ in range(width)] for _ in range(height)]
        left, right = (builder.gep(starts[n], [builder.load(builder.gep(steps[n], [d]))]) for n in range(2))
        if ahead is not types.none:
            place = builder.load(builder.gep(array(14, values[14]).data, [d]))
            _fetch(builder, builder.gep(starts[0], [place]), False)
        terms = [builder.load(vector_at(right, n), align=size) for n in range(width)]
        totals = []
        for offset, row in zip(offsets, sums, strict=True):
            factor = broadcast(left, offset)
            totals.append([builder.call(fma, [factor, term, total]) for term, total in zip(terms, row, strict=True)])
        following = builder.add(d, integer(1))
        d.add_incoming(integer(0), before)
        d.add_incoming(following, body)
        for r in range(height):
            for phi, start, total in zip(sums[r], first[r], totals[r], strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(total, body)
        builder.cbranch(builder.icmp_signed("<", following, depth), body, after)

        builder.position_at_end(after)
        for r in range(height):
            for n, total in enumerate(totals[r]):
                builder.store(total, vector_at(results[r], n), align=size)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def fetch(typing, written, array, start, count):
    """Has the lines of cache brought that ``count`` values of a flat array lie in; ``written``, a literal, if to be written."""
    signature = types.void(written, array, types.int64, types.int64)

    def generate(context, builder, signature, values):
        integer, step = ir.IntType(64), LINE_BYTES // (array.dtype.bitwidth // 8)
        with cgutils.for_range_slice(builder, values[2], builder.add(values[2], values[3]), integer(step), integer) as (at, _):
            _fetch(builder, pointer_to(context, builder, array, values[1], at), written.literal_value)
        return context.get_dummy_value()

    return signature, generate


def _fetch(builder, pointer, written):
    four = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[four] * 3])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(prefetch, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), *map(four, (int(written), 3, 1))])


@intrinsic
def copy(typing, target, target_start, source, source_start, count):
    """Copies ``count`` values of a flat array to another: Numba's own assignment of short slices takes ten times as long."""
    signature = types.void(target, types.int64, source, types.int64, types.int64)

    def generate(context, builder, signature, values):
        pointers = [pointer_to(context, builder, signature.args[n], values[n], values[n + 1]) for n in (0, 2)]
        cgutils.raw_memcpy(builder, *pointers, values[4], target.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def copy_inside(typing, step, target, target_start, source, source_start, first, last):
    """Writes a vector of every ``step``-th value from ``source_start`` on, 0 for those not numbered ``first`` up to ``last``.

    Those aren't read. ``step`` is a literal integer.
    """
    word, every = types.int64, step.literal_value
    signature = types.void(step, target, word, source, word, word, word)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, target)
        integer = ir.IntType(64)
        least = builder.select(builder.icmp_signed("<", values[5], integer(0)), integer(0), values[5])
        count = builder.sub(values[6], least)
        count = builder.select(builder.icmp_signed("<", count, integer(0)), integer(0), count)
        read = []
        for n in range(every):
            pointer = pointer_to(context, builder, source, values[3], builder.add(values[4], integer(n * lanes)))
            numbers = [(n * lanes + k) // every if (n * lanes + k) % every == 0 else None for k in range(lanes)]
            read.append(masked_load(context, builder, target, pointer, numbers, least, count))
        places = places_of(n * every for n in range(lanes))
        read = concatenated(builder, read)
        read = builder.shuffle_vector(read, ir.Constant(read.type, ir.Undefined), places)
        pointer = pointer_to(context, builder, target, values[1], values[2])
        builder.store(read, builder.bitcast(pointer, vector.as_pointer()), align=target.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def deal(typing, step, target, target_start, source, source_start, apart):
    """Writes the values of ``step`` vectors, ``apart`` from each other, in turn: the reverse of :func:`copy_inside`."""
    word, every = types.int64, step.literal_value
    signature = types.void(step, target, word, source, word, word)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, target)
        size, read = target.dtype.bitwidth // 8, []
        for n in range(every):
            offset = builder.add(values[4], builder.mul(values[5], ir.IntType(64)(n)))
            pointer = pointer_to(context, builder, source, values[3], offset)
            read.append(builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size))
        read = concatenated(builder, read)
        places = places_of(n % every * lanes + n // every for n in range(every * lanes))
        read = builder.shuffle_vector(read, ir.Constant(read.type, ir.Undefined), places)
        pointer = pointer_to(context, builder, target, values[1], values[2])
        builder.store(read, builder.bitcast(pointer, read.type.as_pointer()), align=size)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def rectify(typing, target, target_start, source, source_start, count, bias, scale, shift, limits, masked, bits, bit):
    """Writes ``(value + bias) * scale + shift`` of ``count`` values of a vector, clipped, and 0 where no bit is set.

    Args:
        typing: Numba's own.
        target: Flat float array.
        target_start: Where the results go.
        source: Flat float array, of which a whole vector is read; may be ``target``.
        source_start: Of the vector.
        count: Values to write, at most a vector's.
        bias: Float, as the two that follow.
        scale: See above.
        shift: See above.
        limits: The least and the largest result.
        masked: Whether bits are looked at.
        bits: Flat uint8 array, with 3 bytes more than are used.
        bit: The number of the first value's.
    """
    word = types.int64
    signature = types.void(target, word, source, word, word, *[target.dtype] * 3, limits, types.boolean, bits, word)

    def generate(context, builder, signature, values):
        _, to, _, at, count, bias, scale, shift, _, some_masked, _, bit = values
        lanes, vector = vector_of(context, target)
        size, integer, four = target.dtype.bitwidth // 8, ir.IntType(64), ir.IntType(32)
        undefined, everywhere = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(four, lanes), None)

        def broadcast(value):
            return builder.shuffle_vector(builder.insert_element(undefined, value, four(0)), undefined, everywhere)

        pointer = builder.bitcast(pointer_to(context, builder, source, values[2], at), vector.as_pointer())
        result = builder.fadd(builder.load(pointer, align=size), broadcast(bias))
        fma = ir.FunctionType(vector, [vector] * 3)
        fma = cgutils.get_or_insert_function(builder.module, fma, f"llvm.fma.v{lanes}f{target.dtype.bitwidth}")
        result = builder.call(fma, [result, broadcast(scale), broadcast(shift)])
        for n, comparison in enumerate("<>"):  # neither holds for NaN, which stays
            limit = builder.load(pointer_to(context, builder, limits, values[8], integer(n)), align=size)
            limit = broadcast(limit)
            result = builder.select(builder.fcmp_ordered(comparison, result, limit), limit, result)
        read = cgutils.alloca_once_value(builder, four(-1))
        with builder.if_then(some_masked):
            byte = builder.lshr(bit, integer(3))
            address = builder.bitcast(pointer_to(context, builder, bits, values[10], byte), four.as_pointer())
            rest = builder.trunc(builder.and_(bit, integer(7)), four)
            builder.store(builder.lshr(builder.load(address, align=1), rest), read)

        def lanes_of(word):
            return builder.bitcast(builder.trunc(word, ir.IntType(lanes)), ir.VectorType(ir.IntType(1), lanes))

        result = builder.select(lanes_of(builder.load(read)), result, ir.Constant(vector, None))
        within = builder.not_(builder.shl(integer(-1), count))
        kind = f"v{lanes}f{target.dtype.bitwidth}"
        store = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), four, ir.VectorType(ir.IntType(1), lanes)])
        store = cgutils.get_or_insert_function(builder.module, store, f"llvm.masked.store.{kind}.p0{kind}")
        pointer = builder.bitcast(pointer_to(context, builder, target, values[0], to), vector.as_pointer())
        with builder.if_else(builder.icmp_signed(">=", count, integer(lanes))) as (whole, part):
            with whole:
                builder.store(result, pointer, align=size)
            with part:
                builder.call(store, [result, pointer, four(size), lanes_of(within)])
        return context.get_dummy_value()

    return signature, generate


def masked_load(context, builder, array, pointer, numbers, first, count):
    """A vector of an array's values: of those numbered so, or None, it reads ``count`` from ``first`` on; the others are 0."""
    lanes, vector = vector_of(context, array)
    kind, four = f"v{lanes}f{array.dtype.bitwidth}", ir.IntType(32)
    words = ir.VectorType(four, lanes)
    arguments = [vector.as_pointer(), four, ir.VectorType(ir.IntType(1), lanes), vector]
    load = ir.FunctionType(vector, arguments)
    load = cgutils.get_or_insert_function(builder.module, load, f"llvm.masked.load.{kind}.p0{kind}")

    def broadcast(value):
        value = builder.insert_element(ir.Constant(words, ir.Undefined), builder.trunc(value, four), four(0))
        return builder.shuffle_vector(value, ir.Constant(words, ir.Undefined), ir.Constant(words, None))

    number = ir.Constant(words, [-(1 << 31) if number is None else number for number in numbers])
    inside = builder.icmp_unsigned("<", builder.sub(number, broadcast(first)), broadcast(count))
    pointer = builder.bitcast(pointer, vector.as_pointer())
    return builder.call(load, [pointer, four(array.dtype.bitwidth // 8), inside, ir.Constant(vector, None)])


def concatenated(builder, vectors):
    """Vectors, as many as a power of two, as one."""
    while len(vectors) > 1:
        places = places_of(range(2 * vectors[0].type.count))
        vectors = [builder.shuffle_vector(*pair, places) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def places_of(places):
    """The lanes that a shuffle takes."""
    places = list(places)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)


def vector_of(context, array):
    """Lanes of a vector of an array's values, and its type."""
    lanes = VECTOR // (array.dtype.bitwidth // 8)
    return lanes, ir.VectorType(context.get_value_type(array.dtype), lanes)


def pointer_to(context, builder, array, value, offset):
    """Where a flat array's value lies."""
    return builder.gep(context.make_array(array)(context, builder, value).data, [offset])

"""The transforms of Winograd's F(4x4, 3x3) along one axis, on vectors of tiles, or of filters, side by side.

They are those of Toom and Cook for the points 0, a, -a, b, -b and infinity. What the two points of a pair have in common is
computed once, so that they take a third of the operations of products with their matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .microkernel import concatenated, masked_load, places_of, pointer_to, vector_of

#: The points a and b. With Lavin and Gray's, 1 and 2, errors are four times as large; with these they are about those of a plain
#: sum of as many products.
POINTS = A, B = 0.75, 1.5


class Arithmetic:
    """Sums and products of vectors in LLVM's language."""

    def __init__(self, builder: Any, vector: Any) -> None:
        self._builder, self._vector = builder, vector
        bits = {"float": 32, "double": 64}[str(vector.element)]
        function = ir.FunctionType(vector, [vector] * 3)
        self._fma = cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.v{vector.count}f{bits}")

    def __call__(self, factor: float, x: Any, more: Any = None) -> Any:
        """``factor * x + more``."""
        constant = ir.Constant(self._vector, [factor] * self._vector.count)
        return self._builder.fmul(constant, x) if more is None else self._builder.call(self._fma, [constant, x, more])

    def sum(self, x: Any, y: Any) -> Any:
        """``x + y``."""
        return self._builder.fadd(x, y)

    def pair(self, even: Any, odd: Any) -> tuple[Any, Any]:
        """Values at a point and at its negative, from those of the even and of the odd powers."""
        return self._builder.fadd(even, odd), self._builder.fsub(even, odd)


def _of_pixels(of: Arithmetic, d: list[Any]) -> list[Any]:
    """B' d: coefficients of the polynomials that are zero at all points but one."""
    result = [of(A**2 * B**2, d[0], of(-(A**2 + B**2), d[2], d[4]))]
    for point, other in ((A, B), (B, A)):
        result += of.pair(of(-(other**2), d[2], d[4]), of(point, of(-(other**2), d[1], d[3])))
    return [*result, of(A**2 * B**2, d[1], of(-(A**2 + B**2), d[3], d[5]))]


def _of_filters(of: Arithmetic, g: list[Any]) -> list[Any]:
    """G g: values at the points, over what those polynomials are there."""
    result = [of(1 / (A**2 * B**2), g[0])]
    for point, other in ((A, B), (B, A)):
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        result += of.pair(of(scale, g[0], of(scale * point**2, g[2])), of(scale * point, g[1]))
    return [*result, g[2]]


def _of_sums(of: Arithmetic, m: list[Any]) -> list[Any]:
    """A' m: powers of the points."""
    even_a, odd_a = of.pair(m[1], m[2])
    even_b, odd_b = of.pair(m[3], m[4])
    return [
        of.sum(m[0], of.sum(even_a, even_b)),
        of(A, odd_a, of(B, odd_b)),
        of(A**2, even_a, of(B**2, even_b)),
        of(A**3, odd_a, of(B**3, odd_b, m[5])),
    ]


@intrinsic
def transform_line(typing, target, start, again, step, source, source_start, first, last):
    """Transforms a line of pixels along itself, of as many tiles as a vector has lanes.

    Result j of all tiles is written at ``start + j * step``, and again at ``again + j * step`` if ``again`` isn't negative.

    Args:
        typing: Numba's own.
        target: Flat float array.
        start: See above.
        again: See above.
        step: See above.
        source: Flat float array.
        source_start: Of the first tile's 6 pixels; the next tile's begin 4 further on.
        first: The first pixel that there is, counted from there.
        last: The first behind those that there are. Others are zero, and aren't read.
    """
    word = types.int64
    signature = types.void(target, word, word, word, source, word, word, word)

    def generate(context, builder, signature, values):
        _, to, again, step, _, at, first, last = values
        lanes, vector = vector_of(context, target)
        size, integer = target.dtype.bitwidth // 8, ir.IntType(64)
        count, read = builder.sub(last, first), []
        for n in range(5):
            pointer = pointer_to(context, builder, source, values[4], builder.add(at, integer(n * lanes)))
            numbers = [n * lanes + k if n < 4 or k < 2 else None for k in range(lanes)]
            read.append(masked_load(context, builder, target, pointer, numbers, first, count))
        rest = read.pop()
        together = concatenated(builder, read)
        pixels = [builder.shuffle_vector(together, together, places_of(range(n, 4 * lanes, 4))) for n in range(4)]
        # A tile's last two pixels are the next tile's first two.
        pixels += [builder.shuffle_vector(pixels[n], rest, places_of([*range(1, lanes), lanes + n])) for n in range(2)]
        results = _of_pixels(Arithmetic(builder, vector), pixels)

        def write(begin):
            for n, result in enumerate(results):
                pointer = pointer_to(context, builder, target, values[0], builder.add(begin, builder.mul(step, integer(n))))
                builder.store(result, builder.bitcast(pointer, vector.as_pointer()), align=size)

        write(to)
        with builder.if_then(builder.icmp_signed(">=", again, integer(0))):
            write(again)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def transform_filters(typing, turned, target, start, step, W, W_start, count):
    """Transforms the filters of 9 taps that begin at ``W_start``, one after the other, as many as a vector has lanes.

    Value n of all of them is written at ``start + n * step``.

    Args:
        typing: Numba's own.
        turned: A literal boolean: whether the taps are turned round.
        target: Flat float array.
        start: See above.
        step: See above.
        W: Flat float array.
        W_start: See above.
        count: Filters that there are; the others are zero, and aren't read.
    """
    word, reverse = types.int64, turned.literal_value
    signature = types.void(turned, target, word, word, W, word, word)

    def generate(context, builder, signature, values):
        _, _, start, step, _, at, count = values
        lanes, vector = vector_of(context, target)
        size, integer = target.dtype.bitwidth // 8, ir.IntType(64)
        count, read = builder.mul(count, integer(9)), []
        for n in range(9):
            pointer = pointer_to(context, builder, W, values[4], builder.add(at, integer(n * lanes)))
            numbers = list(range(n * lanes, (n + 1) * lanes))
            read.append(masked_load(context, builder, target, pointer, numbers, integer(0), count))
        taps = []
        for tap in range(9):
            # Lanes are as many as a power of two, so that one tap of all filters is at a different lane for each.
            places = [(9 * k + tap) % lanes for k in range(lanes)]
            tap_of = read[0]
            for n in range(1, 9):
                here = [lanes + k if (n * lanes + k) % 9 == tap else k for k in range(lanes)]
                tap_of = builder.shuffle_vector(tap_of, read[n], places_of(here))
            taps.append(builder.shuffle_vector(tap_of, tap_of, places_of(places)))
        if reverse:
            taps.reverse()
        of = Arithmetic(builder, vector)
        columns = [_of_filters(of, taps[j::3]) for j in range(3)]
        for i in range(6):
            for j, value in enumerate(_of_filters(of, [column[i] for column in columns])):
                place = builder.add(start, builder.mul(step, integer(6 * i + j)))
                pointer = pointer_to(context, builder, target, values[1], place)
                builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=size)
        return context.get_dummy_value()

    return signature, generate


def _transform(compute: Callable[[Arithmetic, list[Any]], list[Any]], joined: bool) -> Any:
    """An intrinsic that applies a transform to 6 vectors.

    Term n is read at ``source_start + n * source_step``, and result n written at ``target_start + n * target_step``; or, where
    they are ``joined``, the first of all results, the second, and so on, from ``target_start`` on.
    """

    @intrinsic
    def transform(typing, target, target_start, target_step, source, source_start, source_step):
        word = types.int64
        signature = types.void(target, word, word, source, word, word)

        def generate(context, builder, signature, values):
            _, to, step, _, at, source_step = values
            lanes, vector = vector_of(context, target)
            size, integer = target.dtype.bitwidth // 8, ir.IntType(64)
            terms = []
            for n in range(6):
                place = builder.add(at, builder.mul(source_step, integer(n)))
                pointer = pointer_to(context, builder, source, values[3], place)
                terms.append(builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size))
            results = compute(Arithmetic(builder, vector), terms)
            if joined:
                together, many = concatenated(builder, results), len(results)
                step = integer(lanes)
                for n in range(many):
                    places = [k % many * lanes + k // many for k in range(n * lanes, (n + 1) * lanes)]
                    results[n] = builder.shuffle_vector(together, together, places_of(places))
            for n, result in enumerate(results):
                pointer = pointer_to(context, builder, target, values[0], builder.add(to, builder.mul(step, integer(n))))
                builder.store(result, builder.bitcast(pointer, vector.as_pointer()), align=size)
            return context.get_dummy_value()

        return signature, generate

    return transform


#: 6 pixels to 6 values, and 6 sums to 4 results.
transform_pixels, transform_sums, join_sums = (
    _transform(_of_pixels, False),
    _transform(_of_sums, False),
    _transform(_of_sums, True),
)

"""The transforms of Winograd's F(4x4, 3x3) along one axis, on vectors of tiles side by side.

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

from .microkernel import pointer_to, vector_of

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


def _transform(compute: Callable[[Arithmetic, list[Any]], list[Any]], taken: int) -> Any:
    """An intrinsic that applies a transform to one vector each of ``taken`` terms.

    Term n is read at ``source_start + n % 4 * source_step + n // 4 * source_fourth``, and result n written at
    ``target_start + n * target_step``.
    """

    @intrinsic
    def transform(typing, target, target_start, target_step, source, source_start, source_step, source_fourth):
        word = types.int64
        signature = types.void(target, word, word, source, word, word, word)

        def generate(context, builder, signature, values):
            size, vector = target.dtype.bitwidth // 8, vector_of(context, target)[1]
            integer = ir.IntType(64)

            def at(array, value, *offsets):
                offset = offsets[0]
                for more in offsets[1:]:
                    offset = builder.add(offset, more)
                return builder.bitcast(pointer_to(context, builder, array, value, offset), vector.as_pointer())

            terms = []
            for n in range(taken):
                low, high = builder.mul(values[5], integer(n % 4)), builder.mul(values[6], integer(n // 4))
                terms.append(builder.load(at(source, values[3], values[4], low, high), align=size))
            for n, result in enumerate(compute(Arithmetic(builder, vector), terms)):
                step = builder.mul(values[2], integer(n))
                builder.store(result, at(target, values[0], values[1], step), align=size)
            return context.get_dummy_value()

        return signature, generate

    return transform


#: 6 pixels to 6 values, 3 taps to 6, and 6 sums to 4 results.
transform_pixels, transform_filters, transform_sums = (
    _transform(_of_pixels, 6),
    _transform(_of_filters, 3),
    _transform(_of_sums, 6),
)

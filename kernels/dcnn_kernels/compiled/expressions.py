"""Formulas over vectors: Python's operators write LLVM's instructions, so that those of the references serve loops as well.

Where a machine has an instruction that multiplies and adds with one rounding, it's used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from ..reference.activations import polynomial

#: Allow to fuse a product with a sum; named here, so that Numba doesn't add liberties that exponentials couldn't bear.
FLAGS = ("contract",)
#: The logarithm of 2, and what its rounding left out.
LN2, LN2_REST = math.log(2), 2.3190468138462996e-17


class Expression:
    """A vector of floats.

    Args:
        builder: What writes instructions.
        value: Of LLVM's.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return np.dtype(np.float32 if isinstance(self.value.type.element, ir.FloatType) else np.float64)

    def like(self, other: Any) -> Expression:
        """A number as a vector of this one's type; a vector as it is."""
        if isinstance(other, Expression):
            return other
        return Expression(self.builder, ir.Constant(self.value.type, [float(self.dtype.type(other))] * self.value.type.count))

    def __add__(self, other: Any) -> Expression:
        return Expression(self.builder, self.builder.fadd(self.value, self.like(other).value, flags=FLAGS))

    def __sub__(self, other: Any) -> Expression:
        return Expression(self.builder, self.builder.fsub(self.value, self.like(other).value, flags=FLAGS))

    def __mul__(self, other: Any) -> Expression:
        return Expression(self.builder, self.builder.fmul(self.value, self.like(other).value, flags=FLAGS))

    def __truediv__(self, other: Any) -> Expression:
        return Expression(self.builder, self.builder.fdiv(self.value, self.like(other).value, flags=FLAGS))

    def __rtruediv__(self, other: Any) -> Expression:
        return self.like(other) / self

    def __neg__(self) -> Expression:
        return Expression(self.builder, self.builder.fsub(self.like(-0.0).value, self.value, flags=FLAGS))

    def __abs__(self) -> Expression:
        return self.call("fabs")

    def __lt__(self, other: Any) -> Condition:
        return Condition(self, self.builder.fcmp_ordered("<", self.value, self.like(other).value))

    def __gt__(self, other: Any) -> Condition:
        return Condition(self, self.builder.fcmp_ordered(">", self.value, self.like(other).value))

    def call(self, name: str, *others: Expression) -> Expression:
        """What one of LLVM's own functions makes of it."""
        kind = self.value.type
        name = f"llvm.{name}.v{kind.count}f{8 * self.dtype.itemsize}"
        function = ir.FunctionType(kind, [kind] * (1 + len(others)))
        function = cgutils.get_or_insert_function(self.builder.module, function, name)
        return Expression(self.builder, self.builder.call(function, [self.value, *(other.value for other in others)]))


class Condition:
    """What holds of each value of a vector."""

    def __init__(self, of: Expression, value: Any) -> None:
        self.of, self.value = of, value

    def select(self, x: Any, y: Any) -> Expression:
        """Of x where it holds, of y elsewhere."""
        return Expression(self.of.builder, self.of.builder.select(self.value, self.of.like(x).value, self.of.like(y).value))


class OfVectors:
    """What formulas ask for beside operators (``reference.activations.Functions``), within 3 roundings."""

    def where(self, condition: Condition, x: Any, y: Any) -> Expression:
        """Of x where a condition holds, of y elsewhere."""
        return condition.select(x, y)

    def exp(self, x: Expression) -> Expression:
        """2ⁿ·exp(rest), for the whole number n that leaves the least rest; of values that aren't positive."""
        power, less, low = self._parts(x)
        return (x < low).select(0.0, power * less + power)

    def expm1(self, x: Expression) -> Expression:
        """2ⁿ·(exp(rest) - 1) + (2ⁿ - 1), which keeps the digits of what is near 0; of values that aren't positive."""
        power, less, _ = self._parts(x)
        return power * less + (power - 1.0)

    def log1p(self, x: Expression) -> Expression:
        """2·artanh(x/(2 + x)) by its power series, for x from 0 to 1."""
        z = x / (x + 2.0)
        terms = 8 if x.dtype == np.float32 else 17
        return z * polynomial(z * z, [2 / (2 * n + 1) for n in range(terms)])

    def _parts(self, x: Expression) -> tuple[Expression, Expression, float]:
        """2ⁿ for the whole number n next to x/log(2), exp(rest) - 1 of what is left, and the least x that this is right for."""
        info, builder = np.finfo(x.dtype), x.builder
        low = info.minexp * LN2
        x = (x < low).select(low, x)  # NaN stays
        # So large a number has no bits for fractions, and n in its last ones.
        large = 1.5 * 2**info.nmant
        shifted = x * (1 / LN2) + large
        n = shifted - large
        # log(2) in two parts, of which the first has zeros at its end: its products with n are exact.
        coarse = np.floor(LN2 * 2**11) / 2**11 if x.dtype == np.float32 else np.floor(LN2 * 2**32) / 2**32
        rest = x - n * coarse - n * (LN2 - coarse + LN2_REST)
        terms = 8 if x.dtype == np.float32 else 14
        less = rest * polynomial(rest, [1 / math.factorial(k) for k in range(1, terms)])
        kind = ir.VectorType(ir.IntType(8 * x.dtype.itemsize), x.value.type.count)
        places, one = (ir.Constant(kind, [number] * kind.count) for number in (info.nmant, (info.maxexp - 1) << info.nmant))
        power = builder.add(builder.shl(builder.bitcast(shifted.value, kind), places), one)
        return Expression(builder, builder.bitcast(power, x.value.type)), less, low

"""Smooth activations and their derivatives.

The formulas are written once, over operators, for NumPy's arrays here and for vectors in ``compiled``. They take exponentials of
what is negative alone, so that none overflows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dcnn_kernels.reference.blocks import blocks

FloatArray = npt.NDArray[np.floating]
#: What formulas deal in: an array, or whatever else has its operators.
Values = Any


class Functions(Protocol):
    """What formulas ask for beside operators."""

    def exp(self, x: Values) -> Values:
        """The exponential, of values that aren't positive."""

    def expm1(self, x: Values) -> Values:
        """The exponential less 1, likewise."""

    def log1p(self, x: Values) -> Values:
        """The logarithm of 1 + x, for x from 0 to 1."""

    def where(self, condition: Values, x: Values, y: Values) -> Values:
        """Of x where a condition holds, of y elsewhere."""


#: f(x, a, b) by functions.
Formula = Callable[[Functions, Values, Any, Any], Values]

#: Of GELU's approximation.
CUBIC, SLOPE = 0.044715, math.sqrt(2 / math.pi)
#: Of the series for erfc: the input in its middle, and one whose value is 0 to rounding.
MIDDLE, BEYOND = 3.0, 30.0


def _sigmoid(f: Functions, x: Values) -> Values:
    small = f.exp(-abs(x))
    return f.where(x < 0, small, 1.0) / (small + 1.0)


def _sigmoids(f: Functions, x: Values) -> tuple[Values, Values]:
    """Of x and of -x."""
    small = f.exp(-abs(x))
    share = 1.0 / (small + 1.0)
    return f.where(x < 0, small, 1.0) * share, f.where(x < 0, 1.0, small) * share


def _sigmoid_slope(f: Functions, x: Values) -> Values:
    this, other = _sigmoids(f, x)
    return this * other


def _silu_slope(f: Functions, x: Values) -> Values:
    this, other = _sigmoids(f, x)
    return this * (x * other + 1.0)


def _tanh(f: Functions, x: Values) -> Values:
    less = f.expm1(abs(x) * -2.0)
    size = -less / (less + 2.0)
    return f.where(x < 0, -size, size)


def _tanh_slope(f: Functions, x: Values) -> Values:
    return _sigmoid_slope(f, x * 2.0) * 4.0


def _softplus(f: Functions, x: Values) -> Values:
    return f.where(x < 0, 0.0, x) + f.log1p(f.exp(-abs(x)))


def _elu(f: Functions, x: Values, a: Any) -> Values:
    return f.where(x > 0, x, f.expm1(f.where(x > 0, 0.0, x)) * a)


def _elu_slope(f: Functions, x: Values, a: Any) -> Values:
    return f.where(x > 0, 1.0, f.exp(f.where(x > 0, 0.0, x)) * a)


def _erf(f: Functions, x: Values) -> Values:
    terms = 7 if x.dtype == np.float32 else 12
    near = x * polynomial(x * x, [2 / math.sqrt(math.pi) * (-1) ** n / math.factorial(n) / (2 * n + 1) for n in range(terms)])
    far = -_erfc(f, abs(x)) + 1.0
    return f.where(abs(x) < 0.5, near, f.where(x < 0, -far, far))


def _erfc(f: Functions, x: Values) -> Values:
    """1 - erf(x) to its last digits, for x from 0 on."""
    return f.exp(-(x * x)) * _scaled_erfc(f, x)


def _scaled_erfc(f: Functions, x: Values) -> Values:
    """exp(x²)·erfc(x), for x from 0 on, as in Shepherd and Laframboise (Mathematics of Computation 36, 1981)."""
    x = f.where(x > BEYOND, BEYOND, x)
    share = 1.0 / ((x + MIDDLE) * (x + 1.0))  # of both quotients
    return polynomial((x - MIDDLE) * (x + 1.0) * share, _series(x.dtype)) * ((x + MIDDLE) * share)


@functools.cache
def _series(dtype: np.dtype[Any]) -> list[float]:
    """(1 + x)·exp(x²)·erfc(x) by powers of (x - 3)/(x + 3), which Chebyshev polynomials give."""
    terms = 12 if dtype == np.float32 else 24
    angles = (np.arange(200) + 0.5) * np.pi / 200
    values = [(1 + x) * _scaled_erfc_of_number(x) for x in MIDDLE * (1 + np.cos(angles)) / (1 - np.cos(angles))]
    series = [float(np.mean(values * np.cos(n * angles)) * 2) for n in range(terms)]
    return [float(c) for c in np.polynomial.chebyshev.cheb2poly([series[0] / 2, *series[1:]])]


def _scaled_erfc_of_number(x: float) -> float:
    """exp(x²)·erfc(x); far from 0 by a continued fraction (Abramowitz and Stegun 7.1.14)."""
    if x < 2:
        return math.exp(x * x) * math.erfc(x)
    fraction = x
    for n in range(120, 0, -1):
        fraction = x + n / 2 / fraction
    return 1 / (fraction * math.sqrt(math.pi))


def polynomial(x: Values, coefficients: Sequence[float]) -> Values:
    """By Horner's rule, the constant first."""
    total = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total = (total + coefficient) * x
    return total + coefficients[0]


def _erf_slope(f: Functions, x: Values) -> Values:
    return f.exp(-(x * x)) * (2 / math.sqrt(math.pi))


def _gelu(f: Functions, x: Values) -> Values:
    return x * _distribution(f, x, f.exp(x * x * -0.5))


def _gelu_slope(f: Functions, x: Values) -> Values:
    bell = f.exp(x * x * -0.5)
    return x * bell * (1 / math.sqrt(2 * math.pi)) + _distribution(f, x, bell)


def _distribution(f: Functions, x: Values, bell: Values) -> Values:
    tail = bell * _scaled_erfc(f, abs(x) * math.sqrt(0.5)) * 0.5
    return f.where(x < 0, tail, -tail + 1.0)


# (1 + tanh(z))/2 is sigmoid(2z).
def _gelu_tanh(f: Functions, x: Values) -> Values:
    return x * _sigmoid(f, _doubled(x))


def _gelu_tanh_slope(f: Functions, x: Values) -> Values:
    rise = (x * x * (3 * CUBIC) + 1.0) * (2 * SLOPE)
    this, other = _sigmoids(f, _doubled(x))
    return this * (x * other * rise + 1.0)


def _doubled(x: Values) -> Values:
    return x * (x * x * CUBIC + 1.0) * (2 * SLOPE)


def _hard_sigmoid(f: Functions, x: Values, a: Any, b: Any) -> Values:
    line = x * a + b
    return f.where(line < 0, 0.0, f.where(line > 1, 1.0, line))


def _hard_sigmoid_slope(f: Functions, x: Values, a: Any, b: Any) -> Values:
    line = x * a + b
    return f.where(line > 0, f.where(line < 1, a, 0.0), 0.0)


def _hard_swish(f: Functions, x: Values) -> Values:
    return x * _hard_sigmoid(f, x, 1 / 6, 0.5)


def _hard_swish_slope(f: Functions, x: Values) -> Values:
    return f.where(x > -3, f.where(x < 3, x * (1 / 3) + 0.5, 1.0), 0.0)


# With s = exp(-|x|), tanh(log(1 + exp(x))) is n/d: right of zero n = 1 + 2s and d = n + 2s², left n = s² + 2s and d = n + 2.
def _mish_parts(f: Functions, x: Values) -> tuple[Values, Values]:
    small = f.exp(-abs(x))
    upper = f.where(x < 0, small * (small + 2.0), small * 2.0 + 1.0)
    return upper, f.where(x < 0, 2.0, small * small * 2.0)


def _mish(f: Functions, x: Values) -> Values:
    upper, rest = _mish_parts(f, x)
    return x * (upper / (upper + rest))


def _mish_slope(f: Functions, x: Values) -> Values:
    upper, rest = _mish_parts(f, x)
    share = 1.0 / (upper + rest)
    return share * (upper + x * rest * (upper + upper + rest) * share * _sigmoid(f, x))


#: By name: the function, and its derivative.
FORMULAS: dict[str, tuple[Formula, Formula]] = {
    "elu": (lambda f, x, a, b: _elu(f, x, a), lambda f, x, a, b: _elu_slope(f, x, a)),
    "erf": (lambda f, x, a, b: _erf(f, x), lambda f, x, a, b: _erf_slope(f, x)),
    "gelu": (lambda f, x, a, b: _gelu(f, x), lambda f, x, a, b: _gelu_slope(f, x)),
    "gelu_tanh": (lambda f, x, a, b: _gelu_tanh(f, x), lambda f, x, a, b: _gelu_tanh_slope(f, x)),
    "hard_sigmoid": (_hard_sigmoid, _hard_sigmoid_slope),
    "hard_swish": (lambda f, x, a, b: _hard_swish(f, x), lambda f, x, a, b: _hard_swish_slope(f, x)),
    "mish": (lambda f, x, a, b: _mish(f, x), lambda f, x, a, b: _mish_slope(f, x)),
    "sigmoid": (lambda f, x, a, b: _sigmoid(f, x), lambda f, x, a, b: _sigmoid_slope(f, x)),
    "silu": (lambda f, x, a, b: x * _sigmoid(f, x), lambda f, x, a, b: _silu_slope(f, x)),
    "softplus": (lambda f, x, a, b: _softplus(f, x * a) / a, lambda f, x, a, b: _sigmoid(f, x * a)),
    "tanh": (lambda f, x, a, b: _tanh(f, x), lambda f, x, a, b: _tanh_slope(f, x)),
}


class _OfArrays:
    """NumPy's."""

    exp, expm1, log1p, where = np.exp, np.expm1, np.log1p, staticmethod(np.where)


_NUMPY = _OfArrays()


def activation(x: FloatArray, function: str, a: float, b: float) -> FloatArray:
    """See :func:`dcnn_kernels.activation`."""
    return _map(FORMULAS[function][0], x, a, b)


def activation_gradient(x: FloatArray, g: FloatArray, function: str, a: float, b: float) -> FloatArray:
    """See :func:`dcnn_kernels.activation_gradient`."""
    return np.multiply(g, _map(FORMULAS[function][1], x, a, b), order="C")


def _map(formula: Formula, x: FloatArray, a: float, b: float) -> FloatArray:
    flat = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
    y = np.empty_like(flat)
    with np.errstate(all="ignore"):  # infinities and NaN may come and go
        for block in blocks(flat.shape, flat.itemsize):
            y[block] = formula(_NUMPY, flat[block], a, b)
    return y.reshape(x.shape)

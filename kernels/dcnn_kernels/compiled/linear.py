"""Linear layers of few samples, which are bound by reading the weights: once, by all cores, and without BLAS.

BLAS's threads hold their cores for a tenth of a second after a product, and whatever is computed next would have to share.
"""

from __future__ import annotations

import numpy as np

from ..reference import linear as reference
from ..reference.linear import FloatArray
from .team import parted
from .threads import cores, share

#: Samples up to which the weights are what takes time.
FEW = 8
#: Inputs whose sums a core makes at a time on the way back: they stay in the first cache.
INPUTS = 1024


def linear(x: FloatArray, W: FloatArray, b: FloatArray | None) -> FloatArray:
    """See :func:`dcnn_kernels.linear`."""
    if len(x) > FEW:
        return reference.linear(x, W, b)
    y = np.empty((len(x), len(W)), x.dtype)
    bias = np.zeros(len(W), x.dtype) if b is None else b
    share(_sum_inputs, len(W), x.size, np.ascontiguousarray(x), np.ascontiguousarray(W), bias, y)
    return y


def linear_adjoint(g: FloatArray, W: FloatArray) -> FloatArray:
    """See :func:`dcnn_kernels.linear_adjoint`."""
    if len(g) > FEW:
        return reference.linear_adjoint(g, W)
    y = np.zeros((len(g), W.shape[1]), g.dtype)
    inputs = min(INPUTS, max(1, W.shape[1] // (2 * cores())))
    share(_sum_outputs, -(-W.shape[1] // inputs), g.size * inputs, np.ascontiguousarray(g), np.ascontiguousarray(W), y, inputs)
    return y


@parted
def _sum_inputs(first, last, x, W, b, y):
    for m in range(first, last):
        row = W[m]
        for sample in range(len(x)):
            values, total = x[sample], b[m]
            for n in range(len(row)):
                total += row[n] * values[n]
            y[sample, m] = total


@parted
def _sum_outputs(first, last, g, W, y, inputs):
    for part in range(first, last):
        begin, end = part * inputs, min((part + 1) * inputs, W.shape[1])
        whole = len(W) - len(W) % 4
        for m in range(0, whole, 4):
            first_row, second, third, fourth = W[m][begin:end], W[m + 1][begin:end], W[m + 2][begin:end], W[m + 3][begin:end]
            for sample in range(len(g)):
                sums, (p, q, r, s) = y[sample][begin:end], (g[sample, m], g[sample, m + 1], g[sample, m + 2], g[sample, m + 3])
                for n in range(end - begin):
                    sums[n] += p * first_row[n] + q * second[n] + r * third[n] + s * fourth[n]
        for m in range(whole, len(W)):
            row = W[m][begin:end]
            for sample in range(len(g)):
                sums, signal = y[sample][begin:end], g[sample, m]
                for n in range(end - begin):
                    sums[n] += signal * row[n]

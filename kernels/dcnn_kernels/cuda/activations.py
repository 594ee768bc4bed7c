"""Smooth activations and their derivatives, one pass over the elements each, 16 bytes at a time as in ``relu.py``."""

from __future__ import annotations

import math

import cupy

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.elements import element_index, launch_elements, pack, scalar
from dcnn_kernels.cuda.launch import ctype


def activation(x: Array, function: str, a: float, b: float) -> Array:
    """See :func:`dcnn_kernels.activation`."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty(x.shape, x.dtype)
    name, index = element_index(x.size)
    args = (x, y, scalar(a, x.dtype), scalar(b, x.dtype), index(x.size))
    launch_elements("activations.cu", f"activation<{function.upper()}, {ctype(x.dtype)}, {name}>", x.size, pack(x.dtype), args)
    return y


def activation_gradient(x: Array, g: Array, function: str, a: float, b: float) -> Array:
    """See :func:`dcnn_kernels.activation_gradient`."""
    x, g = cupy.ascontiguousarray(x), cupy.ascontiguousarray(g)
    y = cupy.empty(g.shape, g.dtype)
    # Where each signal has its own input, samples are as well one.
    samples = 1 if len(x) == len(g) else len(g)
    count = len(x) * math.prod(g.shape[1:]) if samples else 0
    name, index = element_index(g.size)
    args = (x, g, y, scalar(a, x.dtype), scalar(b, x.dtype), index(samples), index(count))
    expression = f"activation_gradient<{function.upper()}, {ctype(x.dtype)}, {name}>"
    launch_elements("activations.cu", expression, count, pack(x.dtype), args)
    return y

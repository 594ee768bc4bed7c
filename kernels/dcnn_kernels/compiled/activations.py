"""Smooth activations and their derivatives, by the reference's formulas over vectors."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..reference.activations import FORMULAS, FloatArray
from .expressions import Expression, OfVectors
from .jit import compiled
from .memory import empty
from .microkernel import VECTOR, pointer_to, vector_of
from .team import parted
from .threads import share
from .vectors import broadcast

NAMES = sorted(FORMULAS)
#: Elements that a thread takes at a time: few enough for the first cache, and worth more than handing them over.
CHUNK = 1 << 11
#: What a function counts for beside the moving of a value, where threads are shared out.
WEIGHT = 8


def activation(x: FloatArray, function: str, a: float, b: float) -> FloatArray:
    """See :func:`dcnn_kernels.activation`."""
    y = empty(x.shape, x.dtype)
    flat, kind = np.ascontiguousarray(x).reshape(-1), x.dtype.type
    share(_map, math.ceil(flat.size / CHUNK), WEIGHT * CHUNK, flat, y.reshape(-1), NAMES.index(function), kind(a), kind(b))
    return y


def activation_gradient(x: FloatArray, g: FloatArray, function: str, a: float, b: float) -> FloatArray:
    """See :func:`dcnn_kernels.activation_gradient`."""
    y = empty(g.shape, g.dtype)
    of, signals, results = (np.ascontiguousarray(array).reshape(len(array), math.prod(g.shape[1:])) for array in (x, g, y))
    if len(of) == len(signals):  # then samples are as well one
        of, signals, results = (array.reshape(1, -1) for array in (of, signals, results))
    chunks, kind = math.ceil(of.shape[1] / CHUNK), x.dtype.type
    share(_weigh, chunks, (WEIGHT + len(g)) * CHUNK, of[0], signals, results, NAMES.index(function), kind(a), kind(b))
    return y


@parted
def _map(first, last, x, y, function, a, b):
    for chunk in range(first, last):
        start = chunk * CHUNK
        _evaluate(False, function, y, start, x, start, min(CHUNK, len(x) - start), a, b)


@parted
def _weigh(first, last, x, g, y, function, a, b):
    slopes = np.empty(CHUNK, x.dtype)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, len(x) - start)
        _evaluate(True, function, slopes, 0, x, start, count, a, b)
        for sample in range(len(g)):
            signal, weighed = g[sample, start : start + count], y[sample, start : start + count]
            for n in range(count):
                weighed[n] = signal[n] * slopes[n]


@compiled
def _evaluate(derived, function, y, to, x, at, count, a, b):
    """Writes a function of ``count`` values, or its derivative."""
    lanes = VECTOR // x.itemsize
    rest = count % lanes
    whole = count - rest
    _write(derived, function, y, to, x, at, whole, a, b)
    if rest:
        last = np.zeros(lanes, x.dtype)
        last[:rest] = x[at + whole : at + count]
        _write(derived, function, last, 0, last, 0, lanes, a, b)
        y[to + whole : to + count] = last[:rest]


@compiled
def _write(derived, function, y, to, x, at, count, a, b):
    if derived:
        evaluate(True, function, y, to, x, at, count, a, b)
    else:
        evaluate(False, function, y, to, x, at, count, a, b)


@intrinsic(prefer_literal=True)
def evaluate(typing, derived, function, y, to, x, at, count, a, b):
    """Writes a function, numbered as in :data:`NAMES`, of ``count`` values, whole vectors; or, a literal, its derivative."""
    word = types.int64
    signature = types.void(derived, word, y, word, x, word, word, a, b)

    def generate(context, builder, signature, values):
        lanes, vector = vector_of(context, x)
        integer = ir.IntType(64)
        given = [Expression(builder, broadcast(builder, value, lanes)) for value in values[7:]]
        after = builder.append_basic_block("after")
        choice = builder.switch(values[1], after)
        for number, name in enumerate(NAMES):
            block = builder.append_basic_block(name)
            choice.add_case(integer(number), block)
            builder.position_at_end(block)
            with cgutils.for_range_slice(builder, integer(0), values[6], integer(lanes), integer) as (n, _):
                source = pointer_to(context, builder, x, values[4], builder.add(values[5], n))
                target = pointer_to(context, builder, y, values[2], builder.add(values[3], n))
                source, target = (builder.bitcast(pointer, vector.as_pointer()) for pointer in (source, target))
                read = Expression(builder, builder.load(source, align=x.dtype.bitwidth // 8))
                result = FORMULAS[name][derived.literal_value](OfVectors(), read, *given)
                builder.store(result.value, target, align=x.dtype.bitwidth // 8)
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, generate

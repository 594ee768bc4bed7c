"""Finds the traceable layers that a plain callable, such as ``lambda x: F.max_pooling_2d(x, 3, 2)``, amounts to.

Chainer remembers the functions that made a Variable. So a callable is applied to small random maps, and what Chainer
remembers is read. This sees through lambdas, partials and functions alike, with every parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np
from chainer.functions.activation.clipped_relu import ClippedReLU
from chainer.functions.activation.leaky_relu import LeakyReLU
from chainer.functions.activation.relu import ReLU
from chainer.functions.array.reshape import Reshape
from chainer.functions.math.average import Mean
from chainer.functions.normalization.local_response_normalization import LocalResponseNormalization
from chainer.functions.pooling.average_pooling_2d import AveragePooling2D
from chainer.functions.pooling.max_pooling_nd import MaxPoolingND

import dcnn_visualizer.traceable_nodes as tn

# Large enough for any usual window. What differs between the two is what depends on the shape.
_PROBE_SHAPES = [(2, 4, 64, 64), (3, 5, 97, 113)]

_Step = tuple[type[tn.TraceableNode] | str, dict[str, Any]]

_MEAN_OF_MAPS: _Step = ("average over each whole map", {})
_FLATTEN: _Step = (tn.TraceableFlatten, {})


def trace(function: Callable[..., Any]) -> list[tn.TraceableNode]:
    """Finds the traceable layers that a callable amounts to.

    The callable is called a few times, with small random maps. It counts as traced only if it made the same known
    functions each time, in training as at inference, and if the layers then give its very outputs.

    Args:
        function: Callable of one Variable of shape (B, C, H, W).

    Returns:
        The layers in order; none if the callable does something else, or does nothing.
    """
    if function is F.dropout:
        return [tn.TraceableDropout()]
    rng = np.random.default_rng(0)
    probes = [chainer.Variable(rng.standard_normal(shape).astype(np.float32)) for shape in _PROBE_SHAPES]
    # Dropout draws from NumPy's global generator.
    generator_state = np.random.get_state()  # noqa: NPY002
    try:
        with chainer.using_config("enable_backprop", True), chainer.using_config("train", False):
            steps = [_read_steps(function, probe) for probe in probes]
            with chainer.using_config("train", True):
                steps.append(_read_steps(function, probes[0]))
            nodes = [] if any(step != steps[0] for step in steps) else _make_nodes(steps[0])
            return nodes if all(_agree(function, nodes, probe) for probe in probes) else []
    except Exception:
        # Somebody's callable may fail on these maps in any way; then it is not traced.
        return []
    finally:
        np.random.set_state(generator_state)  # noqa: NPY002


def _read_steps(function: Callable[..., Any], x: chainer.Variable) -> list[_Step]:
    steps = []
    variable = function(x).node
    while variable is not x.node:
        maker = variable.creator_node
        if len(maker.inputs) != 1:
            raise ValueError(f"{type(maker).__name__} takes {len(maker.inputs)} inputs")
        steps.append(_STEPS[type(maker)](maker, maker.inputs[0].shape, variable.shape))
        variable = maker.inputs[0]
    return steps[::-1]


def _make_nodes(steps: list[_Step]) -> list[tn.TraceableNode]:
    nodes: list[tn.TraceableNode] = []
    pending = list(steps)
    while pending:
        kind, arguments = pending.pop(0)
        if kind == _MEAN_OF_MAPS[0]:
            if pending[:1] != [_FLATTEN]:
                return []
            pending.pop(0)
            kind, arguments = tn.TraceableGlobalAveragePooling2D, {}
        assert not isinstance(kind, str)
        nodes.append(kind(**arguments))
    return nodes


def _agree(function: Callable[..., Any], nodes: list[tn.TraceableNode], x: chainer.Variable) -> bool:
    expected, h = function(x), x
    for node in nodes:
        h = node(h)
    return h.shape == expected.shape and np.allclose(h.array, expected.array, rtol=1e-5, atol=1e-6)


def _max_pooling(maker: MaxPoolingND, insize: tuple[int, ...], outsize: tuple[int, ...]) -> _Step:
    arguments = {"ksize": maker.ksize, "stride": maker.stride, "pad": maker.pad, "cover_all": maker.cover_all}
    return tn.TraceableMaxPooling2D, arguments


def _average_pooling(maker: AveragePooling2D, insize: tuple[int, ...], outsize: tuple[int, ...]) -> _Step:
    if (maker.kh, maker.kw) == insize[2:] and outsize[2:] == (1, 1) and (maker.ph, maker.pw) == (0, 0):
        return _MEAN_OF_MAPS
    arguments = {"ksize": (maker.kh, maker.kw), "stride": (maker.sy, maker.sx), "pad": (maker.ph, maker.pw)}
    return tn.TraceableAveragePooling2D, arguments


def _mean(maker: Mean, insize: tuple[int, ...], outsize: tuple[int, ...]) -> _Step:
    if maker.axis != (2, 3) or maker.keepdims:
        raise ValueError("a mean over something other than rows and columns")
    return tn.TraceableGlobalAveragePooling2D, {}


def _reshape(maker: Reshape, insize: tuple[int, ...], outsize: tuple[int, ...]) -> _Step:
    if len(outsize) != 2 or outsize[0] != insize[0]:
        raise ValueError("a reshape that does not keep the batch")
    return _FLATTEN


_STEPS: dict[type, Callable[[Any, tuple[int, ...], tuple[int, ...]], _Step]] = {
    ReLU: lambda maker, insize, outsize: (tn.TraceableReLU, {}),
    ClippedReLU: lambda maker, insize, outsize: (tn.TraceableClippedReLU, {"z": maker.cap}),
    LeakyReLU: lambda maker, insize, outsize: (tn.TraceableLeakyReLU, {"slope": maker.slope}),
    LocalResponseNormalization: lambda maker, insize, outsize: (
        tn.TraceableLocalResponseNormalization,
        {"n": maker.n, "k": maker.k, "alpha": maker.alpha, "beta": maker.beta},
    ),
    MaxPoolingND: _max_pooling,
    AveragePooling2D: _average_pooling,
    Mean: _mean,
    Reshape: _reshape,
}

"""Puts the kernels under Chainer's own convolutions, so that an existing model runs on them unchanged.

Chainer 7.8.1 has no cuDNN on a current CuPy and writes every window out in memory, nine times its input for a 3×3 filter; so it
does on the CPU. Within :func:`accelerate` its convolutions and transposed convolutions, and with them the gradients to their
inputs, run through ``dcnn_kernels``. Gradients to weights stay Chainer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import numpy as np
from chainer.functions.connection.convolution_2d import Convolution2DFunction
from chainer.functions.connection.deconvolution_2d import Deconvolution2DFunction

import dcnn_kernels as kernels
from dcnn_kernels.arrays import FLOAT_DTYPES, Array, backend_of
from dcnn_kernels.geometry import output_shape, pads

_active: ContextVar[bool] = ContextVar("accelerated", default=False)


@contextmanager
def accelerate() -> Iterator[None]:
    """Runs Chainer's convolutions through the kernels, on NumPy and CuPy arrays, within this block and this thread.

    What the kernels don't serve (``cover_all``, mixed dtypes, half precision on the CPU, iDeep and ChainerX arrays) stays with
    Chainer.

    Example:
        >>> with dcnn_visualizer.accelerate():
        ...     y = model(x)
    """
    _install()
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def _install() -> None:
    for function, accelerated in ((Convolution2DFunction, _convolve), (Deconvolution2DFunction, _deconvolve)):
        for name in ("forward_cpu", "forward_gpu"):
            original = getattr(function, name)
            if not hasattr(original, "accelerated"):
                setattr(function, name, _choosing(original, accelerated))


def _choosing(original: Callable[..., Any], accelerated: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, inputs: tuple[Array, ...]) -> Any:
        output = accelerated(self, *inputs) if _active.get() and _served(self, inputs) else None
        if output is None:
            return original(self, inputs)
        self.retain_inputs((0, 1))
        return (output,)

    forward.accelerated = True  # type: ignore[attr-defined]
    return forward


def _served(function: Any, inputs: tuple[Array, ...]) -> bool:
    try:
        owners = {backend_of(array) for array in inputs}
    except TypeError:
        return False
    floats = FLOAT_DTYPES if owners == {"reference"} else (*FLOAT_DTYPES, np.dtype(np.float16))
    plain = all(layout is None for layout in function.input_layouts)
    return plain and {array.dtype for array in inputs} <= set(floats) and len({array.dtype for array in inputs}) == 1


def _geometry(function: Any) -> dict[str, Any]:
    return {
        "stride": (function.sy, function.sx),
        "pad": (function.ph, function.pw),
        "dilate": (function.dy, function.dx),
        "groups": function.groups,
    }


def _convolve(function: Any, x: Array, W: Array, b: Array | None = None) -> Array | None:
    if function.cover_all:
        return None
    return kernels.convolution_2d(x, W, b, **_geometry(function))


def _deconvolve(function: Any, x: Array, W: Array, b: Array | None = None) -> Array | None:
    function._calc_out_size(x.shape, W.shape)
    geometry, outsize = _geometry(function), (function.outh, function.outw)
    if output_shape(outsize, W.shape[2:], geometry["stride"], pads(geometry["pad"]), geometry["dilate"]) != x.shape[2:]:
        return None  # An output that only cover_all leads to.
    function.cover_all = False
    return kernels.transposed_convolution_2d(x, W, b, outsize=outsize, **geometry)

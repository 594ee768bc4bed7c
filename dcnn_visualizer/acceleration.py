"""Puts the kernels under Chainer's own functions, so that an existing model runs on them unchanged.

Chainer 7.8.1 has no cuDNN on a current CuPy and writes every window out in memory, nine times its input for a 3×3 filter; so it
does on the CPU. Within :func:`accelerate` its convolutions, poolings, rectifiers and normalizations run through ``dcnn_kernels``,
and so do the gradients to their inputs, wherever they are taken later. Gradients to weights stay Chainer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
from chainer.backends import intel64
from chainer.functions.activation.relu import ReLU
from chainer.functions.connection.convolution_2d import Convolution2DFunction
from chainer.functions.connection.deconvolution_2d import Deconvolution2DFunction
from chainer.functions.normalization.local_response_normalization import (
    LocalResponseNormalization,
    LocalResponseNormalizationGrad,
)
from chainer.functions.pooling.max_pooling_nd import MaxPoolingND, MaxPoolingNDGrad
from chainer.functions.pooling.unpooling_2d import Unpooling2D, Unpooling2DGrad
from chainer.utils.conv import get_conv_outsize, get_deconv_outsize

import dcnn_kernels as kernels
from dcnn_kernels.arrays import FLOAT_DTYPES, Array, backend_of, index_dtype
from dcnn_kernels.geometry import Pads


@contextmanager
def accelerate() -> Iterator[None]:
    """Runs Chainer's functions through the kernels, on NumPy and CuPy arrays, within this block and this thread.

    These are ``convolution_2d``, ``deconvolution_2d``, ``max_pooling_2d``, ``unpooling_2d``, ``relu`` and
    ``local_response_normalization``, called directly or by links. What the kernels don't serve (mixed dtypes, half precision on
    the CPU, iDeep and ChainerX arrays) stays with Chainer.

    Example:
        >>> with dcnn_visualizer.accelerate():
        ...     y = model(x)
    """
    if _HOOK.name in chainer.get_function_hooks():
        yield
        return
    with _HOOK:
        yield


class _ToKernels(chainer.FunctionHook):
    """Makes Chainer's nodes into those of this module just before they run."""

    name = "dcnn_kernels"

    def forward_preprocess(self, function: chainer.FunctionNode, in_data: Sequence[Array]) -> None:
        """Exchanges the node's class, if the kernels serve it."""
        accelerated = _ACCELERATED.get(type(function))
        if accelerated is not None and _are_served(function, in_data) and accelerated.serves(function, *in_data):
            function.__class__ = accelerated


def _are_served(function: chainer.FunctionNode, arrays: Sequence[Array]) -> bool:
    """Whether these are arrays of one backend and of one dtype that it knows, in Chainer's usual layout."""
    try:
        owners = {backend_of(array) for array in arrays}
    except TypeError:
        return False
    if owners == {"reference"} and intel64.should_use_ideep(">=auto"):
        return False
    floats = FLOAT_DTYPES if owners == {"reference"} else (*FLOAT_DTYPES, np.dtype(np.float16))
    plain = all(layout is None for layout in function.input_layouts) and not function._is_chainerx_fallback_mode
    return plain and len(owners) == 1 and len({array.dtype for array in arrays}) == 1 and arrays[0].dtype in floats


class _Accelerated(chainer.FunctionNode):
    """A node of Chainer's whose forward pass runs through the kernels, and whose gradients do so too."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Whether the kernels can do what a node of Chainer's is about to do with these arrays, maps without pixels excepted."""
        return 0 not in arrays[0].shape[1:]

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[chainer.Variable, ...]) -> Any:
        """Chainer's gradients; whatever functions they are made of are accelerated in their turn."""
        with accelerate():
            return super().backward(indexes, grad_outputs)


def _padding(
    function: Any, picture: Sequence[int], windows: Sequence[int], ksize: Sequence[int], dilate: Sequence[int] = (1, 1)
) -> Pads:
    """A node's padding, wide enough at the end for the last windows, which ``cover_all`` lets run over it.

    Args:
        function: The node.
        picture: (H, W).
        windows: Their number along rows and columns.
        ksize: Taps of a window.
        dilate: Step between taps.
    """

    def sides(size: int, count: int, taps: int, stride: int, pad: int, step: int) -> tuple[int, int]:
        return pad, max(pad, stride * (count - 1) + step * (taps - 1) + 1 - size - pad)

    rows, columns = zip(picture, windows, ksize, (function.sy, function.sx), (function.ph, function.pw), dilate, strict=True)
    return sides(*rows), sides(*columns)


class AcceleratedConvolution2D(_Accelerated, Convolution2DFunction):
    """Convolution."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """``cudnn_fast`` asks for cuDNN itself."""
        return not function.cudnn_fast and all(0 not in array.shape[1:] for array in arrays[:2])

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        """x, W and perhaps b; the first two are kept."""
        x, W, b = inputs if len(inputs) == 3 else (*inputs, None)
        dilate = (self.dy, self.dx)
        pad = _padding(self, x.shape[2:], self._get_out_size(x.shape, W.shape), W.shape[2:], dilate)
        self.retain_inputs((0, 1))
        return (kernels.convolution_2d(x, W, b, (self.sy, self.sx), pad, dilate, self.groups),)


class AcceleratedDeconvolution2D(_Accelerated, Deconvolution2DFunction):
    """Transposed convolution."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Maps and filters without pixels stay with Chainer."""
        return all(0 not in array.shape[1:] for array in arrays[:2])

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        """x, W and perhaps b; the first two are kept."""
        x, W, b = inputs if len(inputs) == 3 else (*inputs, None)
        self._calc_out_size(x.shape, W.shape)
        self._set_cover_all(x.shape, W.shape)
        outsize, dilate = (self.outh, self.outw), (self.dy, self.dx)
        pad = _padding(self, outsize, x.shape[2:], W.shape[2:], dilate)
        self.retain_inputs((0, 1))
        return (kernels.transposed_convolution_2d(x, W, b, (self.sy, self.sx), pad, dilate, self.groups, outsize),)


class AcceleratedMaxPooling2D(_Accelerated, MaxPoolingND):
    """Max pooling of pictures. Its ``indexes`` are switches, one byte each, unless the caller asks for them."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Only pictures."""
        return function.ndim == 2

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """Keeps the switches."""
        (x,) = inputs
        self._in_shape, self._in_dtype = x.shape, x.dtype
        y, switches = kernels.max_pooling_2d(x, self.ksize, self.stride, self.pad, self.cover_all)
        # To the caller Chainer gives what argmax gives on the CPU, and int32 on CUDA.
        returned = np.intp if isinstance(x, np.ndarray) else np.int32
        self.indexes = switches.astype(returned) if self.return_indices else switches
        return (y,)


class AcceleratedMaxPooling2DGrad(_Accelerated, MaxPoolingNDGrad):
    """Gradient of max pooling: unpooling by switches."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Only after a pooling of pictures that left places behind, not cuDNN's or iDeep's."""
        pooling = function.func
        return pooling.ndim == 2 and not pooling.is_cudnn_used and type(pooling.indexes) is type(arrays[0])

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """The signal at the windows."""
        pooling = self.func
        switches = pooling.indexes.astype(index_dtype(pooling.ksize[0] * pooling.ksize[1]), copy=False)
        picture = pooling._in_shape[2:]
        return (kernels.unpooling_2d(*inputs, picture, pooling.ksize, pooling.stride, pooling.pad, switches=switches),)


class AcceleratedUnpooling2D(_Accelerated, Unpooling2D):
    """Unpooling that copies each value to all places of its window; the adjoint of average pooling, times the window's size."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Not where windows are laid side by side, which Chainer does by one copy."""
        windows = arrays[0].shape[2:]
        outsize, ksize = _unpooled_size(function, windows), (function.kh, function.kw)
        enlarged = ((windows[0] - function.ph) * function.kh, (windows[1] - function.pw) * function.kw)
        copied = (function.sy, function.sx) == ksize and outsize == enlarged
        return 0 not in arrays[0].shape[1:] and min(outsize) > 0 and not copied

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """The signal at the windows."""
        (x,) = inputs
        ksize = (self.kh, self.kw)
        self.outh, self.outw = outsize = _unpooled_size(self, x.shape[2:])
        pad = _padding(self, outsize, x.shape[2:], ksize)
        summed = x * x.dtype.type(self.kh * self.kw)
        return (kernels.average_pooling_2d_adjoint(summed, outsize, ksize, (self.sy, self.sx), pad),)


class AcceleratedUnpooling2DGrad(_Accelerated, Unpooling2DGrad):
    """Gradient of that unpooling: sums over windows."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """As the unpooling."""
        return min(function.outh, function.outw) > 0 and arrays[0].shape[1] > 0 and not function._use_int_scale_forward

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """The signal at the picture."""
        (gy,) = inputs
        ksize = (self.kh, self.kw)
        picture, strides, pads = (self.outh, self.outw), (self.sy, self.sx), (self.ph, self.pw)
        windows = [get_conv_outsize(*axis, self.cover_all) for axis in zip(picture, ksize, strides, pads, strict=True)]
        gx = kernels.average_pooling_2d(gy, ksize, strides, _padding(self, picture, windows, ksize))
        gx *= gx.dtype.type(self.kh * self.kw)
        return (gx,)


def _unpooled_size(function: Unpooling2D, windows: Sequence[int]) -> tuple[int, int]:
    rows, columns = (function.kh, function.sy, function.ph), (function.kw, function.sx, function.pw)
    return (
        get_deconv_outsize(windows[0], *rows, function.cover_all) if function.outh is None else function.outh,
        get_deconv_outsize(windows[1], *columns, function.cover_all) if function.outw is None else function.outw,
    )


class AcceleratedReLU(_Accelerated, ReLU):
    """Rectifier. Its gradient is one multiplication, and stays Chainer's."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """Arrays of any rank but 0."""
        return arrays[0].ndim > 0

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """Keeps its output."""
        self.retain_outputs((0,))
        return (kernels.relu(*inputs),)


class AcceleratedLocalResponseNormalization(_Accelerated, LocalResponseNormalization):
    """Local response normalization."""

    def forward(self, inputs: tuple[Array]) -> tuple[Array]:
        """Keeps its input, and its output for Chainer's sake."""
        self.retain_inputs((0,))
        self.retain_outputs((0,))
        return (kernels.local_response_normalization(*inputs, self.n, self.k, self.alpha, self.beta),)


class AcceleratedLocalResponseNormalizationGrad(_Accelerated, LocalResponseNormalizationGrad):
    """Gradient of local response normalization; Chainer has no second one."""

    @staticmethod
    def serves(function: Any, *arrays: Array) -> bool:
        """What iDeep began it ends."""
        return not function._use_ideep

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        """x, y and the signal."""
        x, _, gy = inputs
        return (kernels.local_response_normalization_gradient(x, gy, self.n, self.k, self.alpha, self.beta),)


_ACCELERATED: dict[type, type[_Accelerated]] = {
    node.__bases__[1]: node
    for node in (
        AcceleratedConvolution2D,
        AcceleratedDeconvolution2D,
        AcceleratedMaxPooling2D,
        AcceleratedMaxPooling2DGrad,
        AcceleratedUnpooling2D,
        AcceleratedUnpooling2DGrad,
        AcceleratedReLU,
        AcceleratedLocalResponseNormalization,
        AcceleratedLocalResponseNormalizationGrad,
    )
}
_HOOK = _ToKernels()

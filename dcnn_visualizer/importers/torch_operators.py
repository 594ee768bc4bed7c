"""PyTorch's operators as traceable nodes.

Each converter has the parameters of the operator it stands for. Tensors that depend on the network's input come as
:class:`Value`, numbers that depend on its shape as :class:`Derived`, weights and constants as they are. It returns the node
and the values that the node takes.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

import dcnn_visualizer.traceable_nodes as tn
from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Pads, pads
from dcnn_visualizer.importers import nodes
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.traceable_chain import TraceableChain


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the network's input.

    Attributes:
        origin: What makes it.
        shape: Its shape for the example.
    """

    origin: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Derived:
    """A number, or several, that came of a tensor's shape: right for pictures as large as the example only.

    Attributes:
        number: What it is for the example.
        of: The tensor whose shape it is, or one of whose sizes; None of what was calculated.
        axis: Of one size, the tensor's axis; None of a whole shape.
    """

    number: Any
    of: Value | None = None
    axis: int | None = None


Converted = tuple[tn.TraceableNode | TraceableChain, list[Value]]
Converter = Callable[..., Any]


def array_of(tensor: torch.Tensor) -> Array:
    """A tensor's memory as a NumPy or CuPy array; no copy.

    Raises:
        UntraceableError: A dtype or device without arrays.
    """
    if not isinstance(tensor, torch.Tensor):
        raise UntraceableError("its weights depend on the picture")
    tensor = tensor.detach()
    if tensor.dtype not in (torch.float32, torch.float64) and not (tensor.is_cuda and tensor.dtype == torch.float16):
        raise UntraceableError(f"weights must be float32 or float64 (on CUDA also float16), got {tensor.dtype}")
    if tensor.device.type == "cpu":
        return tensor.numpy()
    if tensor.device.type == "cuda":
        import cupy

        return cupy.from_dlpack(tensor)
    raise UntraceableError(f"weights must be on the CPU or on CUDA, got {tensor.device}")


def _optional_array(tensor: torch.Tensor | None) -> Array | None:
    return None if tensor is None else array_of(tensor)


def _pair(value: Any) -> tuple[int, int]:
    """An integer or two, as PyTorch takes them: also a sequence of one."""
    sizes = [value] * 2 if isinstance(value, int) else list(value) * (2 // len(value))
    return sizes[0], sizes[1]


def _ranked(x: Value, rank: int) -> None:
    if len(x.shape) != rank:
        raise UntraceableError(f"its input must have {rank} axes, got shape {tuple(x.shape)}")


def _axes(x: Value, dim: int | Sequence[int]) -> list[int]:
    return sorted(axis % len(x.shape) for axis in ([dim] if isinstance(dim, int) else dim))


def conv2d(
    x: Value,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Converted:
    """Convolution; ``padding="same"`` puts the odd one behind."""
    _ranked(x, 4)
    ksize, dilate = weight.shape[2:], _pair(dilation)
    if padding == "same":
        totals = [step * (taps - 1) for step, taps in zip(dilate, ksize, strict=True)]
        rows, columns = ((total // 2, total - total // 2) for total in totals)
        pad: Pads = (rows, columns)
    else:
        vertical, horizontal = _pair(0 if padding == "valid" else padding)
        pad = ((vertical, vertical), (horizontal, horizontal))
    return nodes.convolution(array_of(weight), _optional_array(bias), _pair(stride), pad, dilate, groups), [x]


def conv1d(
    x: Value,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Converted:
    """Convolution along one axis."""
    _ranked(x, 3)
    (step, _), (gap, _) = _pair(stride), _pair(dilation)
    if padding == "same":
        pad, odd = divmod(gap * (weight.shape[2] - 1), 2)
        if odd:
            raise UntraceableError("it pads one side more than the other")
    else:
        pad, _ = _pair(0 if padding == "valid" else padding)
    return nodes.convolution_1d(array_of(weight), _optional_array(bias), step, pad, gap, groups), [x]


def conv_transpose2d(
    x: Value,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Converted:
    """Transposed convolution."""
    _ranked(x, 4)
    window = _pair(stride), _pair(padding), _pair(dilation), groups, _pair(output_padding)
    return nodes.transposed_convolution(array_of(weight), _optional_array(bias), *window), [x]


def interpolate(
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Converted:
    """Maps in another size; by which factor, may follow from the example if it's a whole one."""
    _ranked(x, 4)
    if mode not in _INTERPOLATIONS or antialias:
        raise UntraceableError(f"it interpolates by {mode!r}{' with antialiasing' if antialias else ''}, which isn't supported")
    way, coordinates, rounding = _INTERPOLATIONS[mode]
    coordinates = "align_corners" if align_corners else coordinates
    outsize = factor = None
    if size is not None:
        sizes = _several(size)
        numbers = _pair([number.number if isinstance(number, Derived) else number for number in sizes])
        outsize = numbers
        factor = numbers[0] / x.shape[2], numbers[1] / x.shape[3]
        if isinstance(size, Derived) or any(isinstance(number, Derived) for number in sizes):
            if any(int(number) != number for number in factor):
                raise UntraceableError(f"its output's size {numbers} depends on the size of the picture, not by whole factors")
            outsize = None
    else:
        down, right = [scale_factor] * 2 if isinstance(scale_factor, int | float) else scale_factor
        factor = float(down), float(right)
        if recompute_scale_factor and any((size * by) % 1 for size, by in zip(x.shape[2:], factor, strict=True)):
            raise UntraceableError(f"it takes factors {factor} from rounded sizes, which isn't supported")
    if outsize is None and way == "nearest" and all(int(number) == number for number in factor):
        return tn.TraceableUpsampling2D((int(factor[0]), int(factor[1]))), [x]
    return tn.TraceableResize2D(None if outsize else factor, outsize, way, coordinates, rounding), [x]


#: The mode, coordinates and rounding of :class:`TraceableResize2D`, by what PyTorch calls them.
_INTERPOLATIONS = {
    "nearest": ("nearest", "asymmetric", "floor"),
    "nearest-exact": ("nearest", "half_pixel", "round_prefer_ceil"),
    "bilinear": ("linear", "half_pixel", "floor"),
    "bicubic": ("cubic", "half_pixel", "floor"),
}


def linear(x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Converted:
    """Fully connected layer, on the last axis."""
    if len(x.shape) < 2:
        raise UntraceableError(f"its input must have 2 axes or more, got shape {tuple(x.shape)}")
    return nodes.linear(array_of(weight), _optional_array(bias), len(x.shape)), [x]


def batch_norm(
    x: Value,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Converted:
    """Batch normalization by its running statistics."""
    if training or running_mean is None or running_var is None:
        raise UntraceableError("it normalizes by the statistics of each batch, at inference too")
    if len(x.shape) not in (2, 4):
        raise UntraceableError(f"its input must have 2 or 4 axes, got shape {tuple(x.shape)}")
    statistics = array_of(running_mean), array_of(running_var)
    return nodes.batch_normalization(_optional_array(weight), _optional_array(bias), *statistics, eps), [x]


def layer_norm(
    x: Value,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> Converted:
    """Layer normalization; over the last axes, but not over the batch."""
    if len(normalized_shape) >= len(x.shape):
        raise UntraceableError(f"it normalizes over all axes of shape {tuple(x.shape)}, the batch too")
    gamma, beta = (None if weights is None else array_of(weights) for weights in (weight, bias))
    return nodes.layer_normalization(gamma, beta, eps, len(normalized_shape)), [x]


def rms_norm(
    x: Value, normalized_shape: Sequence[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> Converted:
    """Root mean square normalization."""
    if weight is None and eps is None:
        raise UntraceableError("its eps follows from the dtype; one that is given is supported")
    smallest = torch.finfo(weight.dtype).eps if weight is not None else 0.0
    eps = smallest if eps is None else eps
    return nodes.layer_normalization(_optional_array(weight), None, eps, len(normalized_shape), centred=False), [x]


def group_norm(
    x: Value, num_groups: int, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> Converted:
    """Group normalization."""
    return nodes.group_normalization(_optional_array(weight), _optional_array(bias), num_groups, eps), [x]


def instance_norm(
    x: Value,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Converted:
    """Instance normalization, or, by its running statistics, batch normalization."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    return group_norm(x, x.shape[1], weight, bias, eps)


def relu(x: Value, inplace: bool = False) -> Converted:
    """ReLU."""
    return tn.TraceableReLU(), [x]


def relu6(x: Value, inplace: bool = False) -> Converted:
    """ReLU6."""
    return tn.TraceableClippedReLU(6.0), [x]


def hardtanh(x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Converted:
    """Values between two bounds."""
    return clamp(x, min_val, max_val)


def clamp(x: Value, min: float | None = None, max: float | None = None) -> Converted:
    """ReLU, clipped ReLU, and values between other bounds."""
    if not all(bound is None or isinstance(bound, int | float) for bound in (min, max)):
        raise UntraceableError("it clips to tensors; only numbers are supported")
    return nodes.clip(-math.inf if min is None else float(min), math.inf if max is None else float(max)), [x]


def leaky_relu(x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Converted:
    """Leaky ReLU."""
    return tn.TraceableLeakyReLU(negative_slope), [x]


def prelu(x: Value, weight: torch.Tensor) -> Converted:
    """Parametric ReLU."""
    return nodes.prelu(array_of(weight)), [x]


def elu(x: Value, alpha: float = 1.0, inplace: bool = False) -> Converted:
    """ELU."""
    return tn.TraceableELU(alpha), [x]


def selu(x: Value, inplace: bool = False) -> Converted:
    """SELU."""
    return nodes.selu(), [x]


def celu(x: Value, alpha: float = 1.0, inplace: bool = False) -> Converted:
    """CELU."""
    return nodes.celu(alpha), [x]


def glu(x: Value, dim: int = -1) -> Converted:
    """The first half along an axis times the sigmoid of the second."""
    (axis,) = _sample_axes(x, dim)
    return nodes.gated(axis), [x]


def softsign(x: Value) -> Converted:
    """Softsign."""
    return tn.TraceableSoftsign(), [x]


def logsigmoid(x: Value) -> Converted:
    """Logarithm of the sigmoid, minus the softplus of the negative."""
    negative, softplus = tn.TraceableAffine(-1.0), tn.TraceableSoftplus()
    return nodes.in_a_row(negative=negative, softplus=softplus, sign=tn.TraceableAffine(-1.0)), [x]


def sigmoid(x: Value) -> Converted:
    """Sigmoid."""
    return tn.TraceableSigmoid(), [x]


def tanh(x: Value) -> Converted:
    """Hyperbolic tangent."""
    return tn.TraceableTanh(), [x]


def silu(x: Value, inplace: bool = False) -> Converted:
    """SiLU, also called swish."""
    return tn.TraceableSiLU(), [x]


def gelu(x: Value, approximate: str = "none") -> Converted:
    """GELU."""
    return (tn.TraceableTanhGELU() if approximate == "tanh" else tn.TraceableGELU()), [x]


def mish(x: Value, inplace: bool = False) -> Converted:
    """Mish."""
    return tn.TraceableMish(), [x]


def softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Converted:
    """Softplus; beyond the threshold, PyTorch gives the input, which is the same to rounding."""
    return tn.TraceableSoftplus(beta), [x]


def hardsigmoid(x: Value, inplace: bool = False) -> Converted:
    """Hard sigmoid."""
    return tn.TraceableHardSigmoid(), [x]


def hardswish(x: Value, inplace: bool = False) -> Converted:
    """Hard swish."""
    return tn.TraceableHardSwish(), [x]


def softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Converted:
    """Softmax along an axis, the channels by default."""
    return _softmax(x, dim, dtype, logarithm=False)


def log_softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Converted:
    """Logarithm of the softmax along an axis."""
    return _softmax(x, dim, dtype, logarithm=True)


def _softmax(x: Value, dim: int | None, dtype: Any, logarithm: bool) -> Converted:
    # Without an axis, PyTorch takes the first one of three.
    axis = 0 if dim is None and len(x.shape) == 3 else 1 if dim is None else dim % len(x.shape)
    if dtype is not None or axis == 0:
        raise UntraceableError(f"it goes along axis {dim} of shape {tuple(x.shape)}, in {dtype}; the batch and dtypes must stay")
    return tn.TraceableSoftmax(logarithm, axis), [x]


def max_pool2d(
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Converted:
    """Max pooling."""
    _ranked(x, 4)
    ksize, pad = _pair(kernel_size), _pair(padding)
    steps = _pair(stride) if stride else ksize
    if _pair(dilation) != (1, 1):
        raise UntraceableError(f"its windows are dilated by {dilation}; only windows without gaps are supported")
    if return_indices:
        raise UntraceableError("it returns indices beside the maxima")
    return nodes.max_pooling(ksize, steps, pads(pad), ceil_mode), [x]


def avg_pool2d(
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Converted:
    """Average pooling; windows as large as the maps, by their own word, are the average of the maps."""
    _ranked(x, 4)
    if isinstance(kernel_size, Derived) or any(isinstance(size, Derived) for size in _several(kernel_size)):
        ksize = _pair([size.number if isinstance(size, Derived) else size for size in _several(kernel_size)])
        if ksize != tuple(x.shape[2:]) or padding not in (0, (0, 0)) or divisor_override:
            raise UntraceableError(f"its windows {ksize} depend on the size of the picture")
        return tn.TraceableAdaptiveAveragePooling2D(1), [x]
    ksize, pad = _pair(kernel_size), _pair(padding)
    steps = _pair(stride) if stride else ksize
    if divisor_override:
        raise UntraceableError(f"it divides by {divisor_override}; only the number of places is supported")
    return nodes.average_pooling(ksize, steps, pads(pad), ceil_mode, count_include_pad), [x]


def _several(value: Any) -> Sequence[Any]:
    value = value.number if isinstance(value, Derived) and isinstance(value.number, Sequence) else value
    return value if isinstance(value, Sequence) else [value]


def adaptive_max_pool2d(x: Value, output_size: Any, return_indices: bool = False) -> Converted:
    """Max pooling to a number of windows that divides the maps."""
    _ranked(x, 4)
    sizes = _pair([size or 0 for size in _several(output_size)])
    if return_indices or 0 in sizes or any(size % windows for size, windows in zip(x.shape[2:], sizes, strict=True)):
        raise UntraceableError(f"it pools maps {tuple(x.shape[2:])} to {output_size} windows; only divisors are supported")
    return tn.TraceableAdaptiveMaxPooling2D(sizes), [x]


def adaptive_avg_pool2d(x: Value, output_size: Any) -> Converted:
    """Average pooling to a number of windows."""
    _ranked(x, 4)
    if any(size is None for size in _several(output_size)):
        raise UntraceableError(f"its output size {output_size} depends on the size of the picture")
    return tn.TraceableAdaptiveAveragePooling2D(_pair(output_size)), [x]


def mean(x: Value, dim: Any = None, keepdim: bool = False) -> Converted:
    """Average over some axes."""
    axes = _sample_axes(x, dim)
    if len(x.shape) == 4 and axes == [2, 3]:
        return (tn.TraceableAdaptiveAveragePooling2D(1) if keepdim else tn.TraceableGlobalAveragePooling2D()), [x]
    return tn.TraceableMean(axes, keepdim), [x]


def sum_(x: Value, dim: Any = None, keepdim: bool = False) -> Converted:
    """Sum over some axes."""
    return tn.TraceableSum(_sample_axes(x, dim), keepdim), [x]


def amax(x: Value, dim: Any = None, keepdim: bool = False) -> Converted:
    """Maximum over some axes."""
    return tn.TraceableMaximum(_sample_axes(x, dim), keepdim), [x]


def var(
    x: Value, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, correction: int | None = None
) -> Converted:
    """Variance over some axes, unbiased by default."""
    # Instead of axes there may be whether it is unbiased.
    axes = _sample_axes(x, None if isinstance(dim, bool) else dim)
    lessened = correction if correction is not None else int(unbiased is not False)
    return tn.TraceableVariance(axes, keepdim, lessened), [x]


def std(
    x: Value, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, correction: int | None = None
) -> Converted:
    """Standard deviation over some axes, unbiased by default."""
    variance, _ = var(x, dim, unbiased, keepdim, correction)
    return nodes.in_a_row(variance=variance, root=tn.TraceablePower(0.5)), [x]


def normalize(x: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Converted:
    """Vectors of unit length along an axis."""
    (axis,) = _sample_axes(x, dim)
    if p != 2:
        raise UntraceableError(f"it divides by the norm of order {p}; only 2 is supported")
    return tn.TraceableUnitVectors(axis, eps), [x]


def norm(x: Value, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Converted:
    """Root of the sum of squares over some axes."""
    if p not in (2, "fro", None):
        raise UntraceableError(f"it's the norm of order {p}; only 2 is supported")
    return tn.TraceableNorm(_sample_axes(x, dim), keepdim), [x]


def _sample_axes(x: Value, dim: Any) -> list[int]:
    """Axes of a sample; all of them, if none are said, would be of the whole batch."""
    axes = [0] if dim is None else _axes(x, dim)
    if 0 in axes:
        raise UntraceableError(f"it goes over axes {dim} of shape {tuple(x.shape)}; the batch must stay")
    return axes


def local_response_norm(x: Value, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Converted:
    """Local response normalization; PyTorch divides alpha by the number of channels in the window."""
    return nodes.local_response_normalization(size, k, alpha, beta), [x]


def dropout(x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Converted:
    """Dropout."""
    if training and p:
        raise UntraceableError("it drops at inference too")
    return (tn.TraceableDropout(p) if p < 1 else tn.TraceableIdentity()), [x]


def identity(x: Value, *arguments: Any, **keywords: Any) -> Converted:
    """What gives back what it was given."""
    return tn.TraceableIdentity(), [x]


def pad(x: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Converted:
    """A border; the sides of the last axis come first, and one number stands for all four."""
    _ranked(x, 4)
    sides = [pad] * 4 if isinstance(pad, int) else [*pad, *[0] * (4 - len(pad))]
    if mode not in ("constant", "reflect", "replicate") or len(sides) > 4 or (mode != "constant" and min(sides) < 0):
        raise UntraceableError(f"it pads {pad} in mode {mode!r}; only borders of rows and columns are supported, not 'circular'")
    left, right, top, bottom = (max(side, 0) for side in sides)
    if mode != "constant":
        return tn.TraceableMirrorPadding2D(((top, bottom), (left, right)), "edge" if mode == "replicate" else mode), [x]
    border = tn.TraceablePadding2D(((top, bottom), (left, right)), value or 0.0)
    if min(sides) >= 0:
        return border, [x]
    # A negative side is cut off.
    rows, columns = (slice(max(-before, 0), min(after, 0) or None) for before, after in (sides[2:], sides[:2]))
    return nodes.in_a_row(cut=tn.TraceableSlice([slice(None), rows, columns]), border=border), [x]


def pad_same(
    x: Value, kernel_size: Any, stride: Any = (1, 1), dilation: Any = (1, 1), value: float = 0.0, pad_mode: str = "constant"
) -> Converted:
    """TensorFlow's SAME padding, a function of timm's."""
    _ranked(x, 4)
    if pad_mode != "constant":
        raise UntraceableError(f"it pads in mode {pad_mode!r}; only constant borders are supported")
    return tn.TraceableSamePadding2D(_pair(kernel_size), _pair(stride), _pair(dilation), value), [x]


def pixel_shuffle(x: Value, upscale_factor: int) -> Converted:
    """Channels to pixels."""
    _ranked(x, 4)
    return tn.TraceablePixelShuffle(upscale_factor), [x]


def pixel_unshuffle(x: Value, downscale_factor: int) -> Converted:
    """Pixels to channels."""
    _ranked(x, 4)
    return tn.TraceablePixelShuffle(downscale_factor, inverse=True), [x]


def channel_shuffle(x: Value, groups: int) -> Converted:
    """Channels of all groups by turns."""
    of_a_group = x.shape[1] // groups
    return tn.TraceableChannels([group * of_a_group + i for i in range(of_a_group) for group in range(groups)]), [x]


def flip(x: Value, *dims: Any) -> Converted:
    """Channels in the opposite order."""
    axes = _axes(x, dims[0] if len(dims) == 1 else dims)
    if axes != [1]:
        raise UntraceableError(f"it flips axes {axes}; only the channels' axis 1 is supported")
    return tn.TraceableChannels(range(x.shape[1])[::-1]), [x]


def cat(tensors: Sequence[Value], dim: int = 0) -> Converted:
    """Concatenation along an axis."""
    values, axis = _alike(tensors, dim)
    return tn.Concatenate(axis), values


def stack(tensors: Sequence[Value], dim: int = 0) -> Converted:
    """Tensors side by side along a new axis."""
    values, _ = _alike(tensors, 1)
    axis = dim % (len(values[0].shape) + 1)
    if axis == 0:
        raise UntraceableError("it puts an axis before the batch")
    return tn.Stack(axis), values


def _alike(tensors: Sequence[Value], dim: int) -> tuple[list[Value], int]:
    """Tensors to be joined along an axis of theirs."""
    values = list(tensors)
    if not all(isinstance(value, Value) for value in values):
        raise UntraceableError("it joins constants with tensors")
    (axis,) = _axes(values[0], dim)
    if axis == 0:
        raise UntraceableError("it joins tensors along the batch")
    return values, axis


def add(x: Any, y: Any, alpha: float = 1) -> Converted:
    """Sum of two tensors, or of a tensor and a constant."""
    if alpha != 1:
        raise UntraceableError(f"it weighs a summand by alpha {alpha}")
    if isinstance(x, Value) and isinstance(y, Value):
        return _joined(tn.Add() if x.shape == y.shape else tn.BroadcastAdd(), x, y)
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return tn.TraceableAffine(shift=_constant(constant)), [value]


def sub(x: Any, y: Any, alpha: float = 1) -> Converted:
    """Difference of two tensors, or of a tensor and a constant."""
    if alpha != 1:
        raise UntraceableError(f"it weighs what it subtracts by alpha {alpha}")
    if isinstance(x, Value) and isinstance(y, Value):
        return _joined(tn.Subtract(), x, y)
    if isinstance(x, Value):
        return tn.TraceableAffine(shift=-_constant(y)), [x]
    return tn.TraceableAffine(-1.0, _constant(x)), [y]


def mul(x: Any, y: Any) -> Converted:
    """Product of two tensors, or of a tensor and a constant."""
    if isinstance(x, Value) and isinstance(y, Value):
        return _joined(tn.Multiply(), x, y)
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return tn.TraceableAffine(_constant(constant)), [value]


def div(x: Any, y: Any) -> Converted:
    """Quotient of two tensors, or of a tensor and a constant, or one over a tensor."""
    if isinstance(x, Value) and isinstance(y, Value):
        return _joined(tn.Divide(), x, y)
    if isinstance(x, Value):
        return tn.TraceableAffine(1 / _constant(y)), [x]
    if isinstance(x, torch.Tensor) or x != 1:
        raise UntraceableError("of constants, only the number 1 can be divided by a tensor")
    return tn.TraceablePower(-1), [y]


def maximum(x: Any, y: Any = None) -> Converted:
    """The larger of two tensors, or of a tensor and a constant."""
    return _bounded(x, y, tn.Maximum(), nodes.bounded_below)


def minimum(x: Any, y: Any = None) -> Converted:
    """The smaller of two tensors, or of a tensor and a constant."""
    return _bounded(x, y, tn.Maximum(smaller=True), nodes.bounded_above)


def _bounded(x: Any, y: Any, node: tn.TraceableNode, by_constant: Callable[[Any], TraceableChain]) -> Converted:
    if y is None:
        raise UntraceableError("it goes over the whole batch; axes of a sample are supported")
    if isinstance(x, Value) and isinstance(y, Value):
        return _joined(node, x, y)
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return by_constant(_constant(constant)), [value]


def addcmul(x: Any, y: Any, z: Any, value: float = 1) -> Converted:
    """A constant plus the product of a tensor and another constant."""
    tensors = [one for one in (y, z) if isinstance(one, Value)]
    if isinstance(x, Value) or len(tensors) != 1 or value != 1:
        raise UntraceableError("only a constant plus the product of a tensor and a constant is supported")
    return tn.TraceableAffine(_constant(y if z is tensors[0] else z), _constant(x)), tensors


def _joined(node: tn.TraceableNode, x: Value, y: Value) -> Converted:
    if len(x.shape) != len(y.shape):
        raise UntraceableError(f"it joins shapes {tuple(x.shape)} and {tuple(y.shape)}; they must have as many axes")
    return node, [x, y]


def neg(x: Value) -> Converted:
    """The negative."""
    return tn.TraceableAffine(-1.0), [x]


def power(x: Value, exponent: Any) -> Converted:
    """A fixed power."""
    if isinstance(x, Value) and isinstance(exponent, int | float):
        return tn.TraceablePower(exponent), [x]
    raise UntraceableError("only powers of a tensor by a number are supported")


def absolute(x: Value) -> Converted:
    """The absolute value."""
    return tn.TraceableAbsolute(), [x]


def exp(x: Value) -> Converted:
    """The exponential."""
    return tn.TraceableExponential(), [x]


def log(x: Value) -> Converted:
    """The natural logarithm."""
    return tn.TraceableLogarithm(), [x]


def square(x: Value) -> Converted:
    """The square."""
    return power(x, 2)


def sqrt(x: Value) -> Converted:
    """The square root."""
    return power(x, 0.5)


def rsqrt(x: Value) -> Converted:
    """One over the square root."""
    return power(x, -0.5)


def matmul(x: Any, y: Any) -> Converted:
    """Matrix product of two tensors, or of a tensor and constant weights."""
    if isinstance(x, Value) and isinstance(y, Value):
        if len(x.shape) < 3:
            raise UntraceableError(f"it multiplies shapes {tuple(x.shape)} and {tuple(y.shape)}, which would mix the batch")
        return _joined(tn.MatrixMultiply(), x, y)
    if not isinstance(x, Value) or y.ndim != 2:
        raise UntraceableError("only a tensor times another, or times a constant matrix, is supported")
    return linear(x, y.T)


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Converted:
    """Scaled dot product attention; what is added to the scores must be a constant."""
    values = [one for one in (q, k, v) if isinstance(one, Value)]
    if len(values) < 3 or len({len(value.shape) for value in values}) > 1 or len(q.shape) < 3:
        raise UntraceableError("queries, keys and values must be tensors of as many axes, three or more")
    if is_causal or dropout_p or enable_gqa or isinstance(attn_mask, Value):
        raise UntraceableError("only attention to all places is supported, without dropout, and with a constant added to scores")
    node = tn.Attention(q.shape[-1] ** -0.5 if scale is None else scale, 0.0 if attn_mask is None else _constant(attn_mask))
    return node, values


def expand_as(x: Value, other: Value) -> Converted:
    """A tensor stretched to another's shape."""
    return _joined(tn.StretchTo(), x, other)


def _constant(value: Any) -> Any:
    """A number, or a tensor's memory, without its batch axis of one."""
    if not isinstance(value, torch.Tensor):
        return float(value)
    if value.ndim > 3:
        if value.shape[0] != 1:
            raise UntraceableError(f"its constant of shape {tuple(value.shape)} differs from sample to sample")
        value = value[0]
    return array_of(value)


def expand(x: Value, *sizes: Any) -> Converted:
    """A tensor stretched to sizes that another has, or that change nothing."""
    target = sizes_of(sizes)
    numbers = [size.number if isinstance(size, Derived) else size for size in target]
    if len(numbers) == len(x.shape) and all(size in (-1, own) for size, own in zip(numbers, x.shape, strict=True)):
        return tn.TraceableIdentity(), [x]
    for like in (size.of for size in target if isinstance(size, Derived) and size.of):
        if like.shape == tuple(own if size == -1 else size for size, own in zip(numbers, x.shape, strict=True)):
            return expand_as(x, like)
    stretched = [-1 if size in (-1, own) else size for size, own in zip(numbers, x.shape, strict=False)]
    if len(numbers) != len(x.shape) or stretched[0] != -1 or any(isinstance(size, Derived) for size in target):
        raise UntraceableError(f"it stretches shape {tuple(x.shape)} to {numbers}; only to numbers or another tensor's shape")
    return tn.TraceableStretch(stretched[1:]), [x]


def sizes_of(arguments: Sequence[Any]) -> list[Any]:
    """Sizes that were asked for, one by one, of the arguments of an operator that takes several or a shape."""
    if len(arguments) == 1 and isinstance(arguments[0], Derived) and isinstance(arguments[0].number, Sequence):
        shape, of = arguments[0].number, arguments[0].of
        return [Derived(number, of, None if of is None else axis) for axis, number in enumerate(shape)]
    if len(arguments) == 1 and isinstance(arguments[0], Sequence):
        return list(arguments[0])
    return list(arguments)


def reshape(x: Value, outshape: tuple[int, ...], sizes: Sequence[Any] = ()) -> Converted:
    """Whatever keeps the values in their order: view, reshape, flatten, squeeze, unsqueeze.

    Args:
        x: The input.
        outshape: The output's shape for the example.
        sizes: Of view and reshape: the shape that was asked for, as it was asked for.
    """
    if len(outshape) < 2 or outshape[0] != x.shape[0]:
        raise UntraceableError(f"it turns shape {tuple(x.shape)} into {tuple(outshape)}; the batch must stay the first axis")
    if outshape == x.shape:
        return tn.TraceableIdentity(), [x]
    if len(outshape) == 2:
        return tn.TraceableFlatten(), [x]
    if 0 in outshape:
        raise UntraceableError(f"nothing is left of shape {tuple(x.shape)}")
    asked = list(sizes[1:]) or [None] * (len(outshape) - 1)
    steps: list[tn.TraceableNode] = []
    used = made = 0
    for taken, given in _matched(x.shape[1:], outshape[1:]):
        before, made, used = made, made + len(given), used + len(taken)
        if taken == given:
            continue
        # A size that isn't a number of the network's is what the others leave, in pictures of another size too.
        wanted, kept = asked[before:made], len(x.shape) - 1 - used
        shape = [-1 if size == -1 or isinstance(size, Derived) else own for size, own in zip(wanted, given, strict=True)]
        if not sizes:
            last = max((place for place, size in enumerate(given) if size != 1), default=0)
            shape[last] = -1
        if shape.count(-1) > 1:
            # Before rows and columns there are channels, which are as many in every picture.
            if kept < 2:
                return _reshape_like(x, outshape, asked)
            shape = list(given)
        steps.append(tn.TraceableReshape(shape, kept, before))
    return nodes.in_a_row(**{f"part{i}": step for i, step in enumerate(steps)}) if len(steps) > 1 else steps[0], [x]


def _reshape_like(x: Value, outshape: tuple[int, ...], asked: Sequence[Any]) -> Converted:
    """A reshape whose sizes are those of another tensor, as of attention that makes maps of places again."""
    tensors = [size.of for size in asked if isinstance(size, Derived) and size.of is not None]
    like = max(tensors, key=tensors.count, default=x)
    shape, axes = list(outshape[1:]), {}
    for place, size in enumerate(asked):
        if isinstance(size, Derived) and size.of == like and size.axis is not None:
            axes[place] = size.axis
        elif size == -1 or isinstance(size, Derived):
            shape[place] = -1
    if shape.count(-1) > 1 or not axes:
        raise UntraceableError(f"its shape {tuple(outshape)} depends on the size of the picture")
    return tn.ReshapeLike(shape, axes), [x, like]


def _matched(shape: Sequence[int], other: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Two shapes of as many values, in the smallest parts that hold as many."""
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(shape) or j < len(other):
        start, begin = i, j
        i, j = min(i + 1, len(shape)), min(j + 1, len(other))
        while (a := math.prod(shape[start:i])) != (b := math.prod(other[begin:j])):
            if a < b:
                i += 1
            else:
                j += 1
        # Axes of one place go with what is before them.
        while j < len(other) and other[j] == 1 and shape[i : i + 1] != (1,):
            j += 1
        parts.append((tuple(shape[start:i]), tuple(other[begin:j])))
    while len(parts) > 1 and not all(parts[-1]):
        last, before = parts.pop(), parts.pop()
        parts.append((before[0] + last[0], before[1] + last[1]))
    return parts


def permute(x: Value, dims: Sequence[int]) -> Converted | Pieces:
    """Axes in another order; or pieces along the first, if the batch is the second."""
    axes = [axis % len(x.shape) for axis in dims]
    if axes[1] == 0:
        # As of queries, keys and values.
        first, *rest = axes
        order = tn.TraceableTranspose([axis - (axis > first) for axis in rest])
        return Pieces(x, [nodes.in_a_row(part=_place(first, number), order=order) for number in range(x.shape[first])])
    if axes[0] != 0:
        raise UntraceableError(f"it puts the axes in the order {axes}; the batch must stay first")
    return tn.TraceableTranspose(axes), [x]


def transpose(x: Value, dim0: int, dim1: int) -> Converted | Pieces:
    """Two axes exchanged."""
    axes = list(range(len(x.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return permute(x, axes)


@dataclass(frozen=True)
class Pieces:
    """Several tensors that one makes, as ``chunk``, ``split`` and ``max`` give them.

    Attributes:
        x: The one.
        nodes: What makes each of it; None of what isn't supported.
    """

    x: Value
    nodes: Sequence[tn.TraceableNode | TraceableChain | None]


def split(x: Value, sizes: Any, dim: int = 0, *, outputs: Sequence[torch.Tensor]) -> Pieces:
    """``split``: along the channels, or by given sizes along any axis."""
    (axis,) = _axes(x, dim)
    if axis != 1 and not (axis and isinstance(sizes, Sequence) and all(type(size) is int for size in sizes)):
        raise UntraceableError(f"it splits along axis {dim}; only the channels' axis 1 is supported, or given sizes")
    ends = [sum(output.shape[axis] for output in outputs[: i + 1]) for i in range(len(outputs))]
    before: list[slice | int] = [slice(None)] * (axis - 1)
    parts = [slice(end - output.shape[axis], end) for end, output in zip(ends, outputs, strict=True)]
    return Pieces(x, [tn.TraceableSlice([*before, part]) for part in parts])


def chunk(x: Value, chunks: int, dim: int = 0, *, outputs: Sequence[torch.Tensor]) -> Pieces:
    """``chunk``: along any axis of a sample."""
    (axis,) = _sample_axes(x, dim)
    if axis == 1:
        return split(x, None, dim, outputs=outputs)
    return Pieces(x, [tn.TraceablePiece(axis, number, chunks) for number in range(len(outputs))])


def unbind(x: Value | Pieces, dim: int = 0, *, outputs: Sequence[torch.Tensor]) -> Pieces:
    """``unbind``: each place along an axis, which goes."""
    if isinstance(x, Pieces) and dim == 0:
        return x
    if isinstance(x, Pieces) or _axes(x, dim) == [0]:
        raise UntraceableError("it takes the batch apart")
    (axis,) = _axes(x, dim)
    return Pieces(x, [_place(axis, place) for place in range(len(outputs))])


def _place(axis: int, number: int) -> tn.TraceableSlice:
    """One place along an axis, which goes."""
    return tn.TraceableSlice([*[slice(None)] * (axis - 1), number])


def maximum_along(x: Value, dim: Any = None, keepdim: bool = False, *, outputs: Any) -> Pieces:
    """``max`` along an axis: the maxima, and where they are."""
    return Pieces(x, [tn.TraceableMaximum(_sample_axes(x, dim), keepdim), None])


def getitem(x: Any, index: Any) -> Converted:
    """One of several pieces, or a part of a tensor by slices and integers, or channels by a list."""
    if isinstance(x, Pieces):
        node = x.nodes[index] if isinstance(index, int) else None
        if node is None:
            raise UntraceableError("places of maxima aren't supported")
        return node, [x.x]
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(x.shape) - len(parts) + parts.count(None) + 1)
    if len(parts) == 2 and parts[0] == slice(None) and isinstance(parts[1], list | torch.Tensor):
        order = torch.as_tensor(parts[1])
        if order.ndim == 1 and order.dtype == torch.int64:
            return tn.TraceableChannels([int(channel) % x.shape[1] for channel in order]), [x]
    taken = [part for part in parts if part is not None]
    if any(isinstance(end, Derived) for part in taken if isinstance(part, slice) for end in (part.start, part.stop, part.step)):
        raise UntraceableError("its part depends on the size of the picture")
    if parts[0] != slice(None) or not all(type(part) is int or isinstance(part, slice) for part in taken):
        raise UntraceableError(f"it takes the part {index}; only slices and integers behind a whole batch are supported")
    rank = len(x.shape) - sum(type(part) is int for part in parts)
    layers: dict[str, tn.TraceableNode] = {"part": tn.TraceableSlice(taken[1:])}
    for place, part in enumerate(part for part in parts if type(part) is not int):
        if part is None:
            layers[f"axis{place}"] = tn.TraceableReshape((1,), rank - place, place - 1)
            rank += 1
    return nodes.in_a_row(**layers) if len(layers) > 1 else layers["part"], [x]


def stochastic_depth(x: Value, p: float, mode: str, training: bool = True) -> Converted:
    """Dropping of whole branches, a function of torchvision's."""
    return dropout(x, p, training)


#: Functions, and by name the methods of tensors, that keep the values in their order.
RESHAPES = (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "view", "reshape", "flatten", "squeeze", "unsqueeze")
#: Those among them whose arguments are the new shape.
SHAPED = (torch.reshape, "view", "reshape")
#: Methods whose argument has the new shape.
SHAPED_LIKE = ("view_as", "reshape_as")
#: Converters that take sizes that came of the picture's.
SIZED = (avg_pool2d, expand, interpolate)
#: Functions and methods that give several tensors.
SPLITS: dict[Any, Callable[..., Pieces]] = {
    torch.chunk: chunk,
    "chunk": chunk,
    torch.split: split,
    "split": split,
    torch.unbind: unbind,
    "unbind": unbind,
    torch.max: maximum_along,
    "max": maximum_along,
}

_TARGETS: dict[Converter, tuple[Any, ...]] = {
    conv2d: (F.conv2d, torch.conv2d),
    conv1d: (F.conv1d, torch.conv1d),
    linear: (F.linear,),
    batch_norm: (F.batch_norm,),
    layer_norm: (F.layer_norm, torch.layer_norm),
    rms_norm: (F.rms_norm,),
    group_norm: (F.group_norm, torch.group_norm),
    instance_norm: (F.instance_norm,),
    relu: (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    relu6: (F.relu6,),
    hardtanh: (F.hardtanh, F.hardtanh_),
    clamp: (torch.clamp, torch.clamp_, torch.clip, "clamp", "clamp_", "clip", "clip_"),
    leaky_relu: (F.leaky_relu, F.leaky_relu_),
    prelu: (F.prelu, torch.prelu),
    elu: (F.elu, F.elu_),
    selu: (F.selu, F.selu_, torch.selu, torch.selu_),
    celu: (F.celu, F.celu_, torch.celu, torch.celu_),
    glu: (F.glu,),
    softsign: (F.softsign,),
    logsigmoid: (F.logsigmoid,),
    sigmoid: (torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_"),
    tanh: (torch.tanh, torch.tanh_, F.tanh, "tanh", "tanh_"),
    silu: (F.silu,),
    gelu: (F.gelu,),
    mish: (F.mish,),
    softplus: (F.softplus,),
    interpolate: (F.interpolate,),
    conv_transpose2d: (F.conv_transpose2d, torch.conv_transpose2d),
    hardsigmoid: (F.hardsigmoid,),
    hardswish: (F.hardswish,),
    softmax: (F.softmax, torch.softmax, "softmax"),
    log_softmax: (F.log_softmax, torch.log_softmax, "log_softmax"),
    max_pool2d: (F.max_pool2d, torch.max_pool2d),
    avg_pool2d: (F.avg_pool2d,),
    adaptive_avg_pool2d: (F.adaptive_avg_pool2d,),
    adaptive_max_pool2d: (F.adaptive_max_pool2d,),
    mean: (torch.mean, "mean"),
    sum_: (torch.sum, "sum"),
    amax: (torch.amax, "amax"),
    var: (torch.var, "var"),
    std: (torch.std, "std"),
    norm: (torch.norm, "norm", torch.linalg.vector_norm),
    normalize: (F.normalize,),
    local_response_norm: (F.local_response_norm,),
    dropout: (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout),
    identity: ("contiguous", "clone", "detach", torch.clone, "to", "type", "type_as", "float", "double", "half"),
    pad: (F.pad,),
    pad_same: ("timm.layers.padding.pad_same",),
    pixel_shuffle: (F.pixel_shuffle, torch.pixel_shuffle),
    pixel_unshuffle: (F.pixel_unshuffle, torch.pixel_unshuffle),
    channel_shuffle: (F.channel_shuffle, torch.channel_shuffle),
    flip: (torch.flip, "flip"),
    stack: (torch.stack,),
    cat: (torch.cat, torch.concat, torch.concatenate),
    add: (operator.add, operator.iadd, torch.add, "add", "add_"),
    sub: (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"),
    mul: (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
    div: (operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_"),
    maximum: (torch.maximum, torch.max, "maximum", "max"),
    minimum: (torch.minimum, torch.min, "minimum", "min"),
    addcmul: (torch.addcmul, "addcmul"),
    neg: (operator.neg, torch.neg, "neg", "neg_"),
    power: (operator.pow, torch.pow, "pow"),
    absolute: (operator.abs, torch.abs, torch.absolute, "abs", "absolute"),
    exp: (torch.exp, "exp"),
    log: (torch.log, "log"),
    square: (torch.square, "square"),
    sqrt: (torch.sqrt, "sqrt"),
    rsqrt: (torch.rsqrt, "rsqrt"),
    matmul: (operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"),
    attention: (F.scaled_dot_product_attention,),
    expand: ("expand",),
    expand_as: ("expand_as",),
    permute: (torch.permute, "permute"),
    transpose: (torch.transpose, "transpose"),
    getitem: (operator.getitem,),
    stochastic_depth: ("torchvision.ops.stochastic_depth.stochastic_depth",),
}
#: Converters by function, and by name of a tensor's method or of a function elsewhere.
FUNCTIONS = {target: converter for converter, targets in _TARGETS.items() for target in targets}


def named_functions() -> tuple[Callable[..., Any], ...]:
    """Functions of libraries that have converters, as far as the libraries are there: fx is to take them as a whole."""
    found = []
    for name in FUNCTIONS:
        library, _, function = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        if library in sys.modules:
            found.append(getattr(sys.modules[library], function, None))
    return tuple(function for function in found if callable(function))


def _convolution(module: Any, x: Value) -> Converted:
    if module.padding_mode in ("reflect", "replicate") and isinstance(module, nn.Conv2d) and module.padding != "valid":
        border, _ = pad(x, module._reversed_padding_repeated_twice, module.padding_mode)
        conv, _ = conv2d(x, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)
        return nodes.in_a_row(border=border, conv=conv), [x]
    if module.padding_mode != "zeros":
        raise UntraceableError(f"it pads in mode {module.padding_mode!r}, which isn't supported")
    options = module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups
    return conv1d(x, *options) if isinstance(module, nn.Conv1d) else conv2d(x, *options)


def _transposed_convolution(module: Any, x: Value) -> Converted:
    window = module.stride, module.padding, module.output_padding, module.groups, module.dilation
    return conv_transpose2d(x, module.weight, module.bias, *window)


def _batch_normalization(module: Any, x: Value) -> Converted:
    return batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)


def _instance_normalization(module: Any, x: Value) -> Converted:
    statistics = module.running_mean, module.running_var
    return instance_norm(x, *statistics, module.weight, module.bias, statistics[0] is None, eps=module.eps)


def _max_pooling(module: Any, x: Value) -> Converted:
    options = module.padding, module.dilation, module.ceil_mode, module.return_indices
    return max_pool2d(x, module.kernel_size, module.stride, *options)


def _average_pooling(module: Any, x: Value) -> Converted:
    options = module.padding, module.ceil_mode, module.count_include_pad, module.divisor_override
    return avg_pool2d(x, module.kernel_size, module.stride, *options)


def _upsampling(module: Any, x: Value) -> Converted:
    corners, recompute = module.align_corners, module.recompute_scale_factor
    return interpolate(x, module.size, module.scale_factor, module.mode, corners, recompute)


#: Converters by the class of a module.
MODULES: dict[type, Converter] = {
    nn.Conv2d: _convolution,
    nn.Conv1d: _convolution,
    nn.Linear: lambda module, x: linear(x, module.weight, module.bias),
    nn.BatchNorm1d: _batch_normalization,
    nn.BatchNorm2d: _batch_normalization,
    nn.SyncBatchNorm: _batch_normalization,
    nn.LayerNorm: lambda module, x: layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps),
    nn.RMSNorm: lambda module, x: rms_norm(x, module.normalized_shape, module.weight, module.eps),
    nn.GroupNorm: lambda module, x: group_norm(x, module.num_groups, module.weight, module.bias, module.eps),
    nn.InstanceNorm2d: _instance_normalization,
    nn.ReLU: lambda module, x: relu(x),
    nn.ReLU6: lambda module, x: relu6(x),
    nn.Hardtanh: lambda module, x: hardtanh(x, module.min_val, module.max_val),
    nn.LeakyReLU: lambda module, x: leaky_relu(x, module.negative_slope),
    nn.PReLU: lambda module, x: prelu(x, module.weight),
    nn.ELU: lambda module, x: elu(x, module.alpha),
    nn.SELU: lambda module, x: selu(x),
    nn.CELU: lambda module, x: celu(x, module.alpha),
    nn.GLU: lambda module, x: glu(x, module.dim),
    nn.Softsign: lambda module, x: softsign(x),
    nn.LogSigmoid: lambda module, x: logsigmoid(x),
    nn.Sigmoid: lambda module, x: sigmoid(x),
    nn.Tanh: lambda module, x: tanh(x),
    nn.SiLU: lambda module, x: silu(x),
    nn.GELU: lambda module, x: gelu(x, module.approximate),
    nn.Mish: lambda module, x: mish(x),
    nn.Softplus: lambda module, x: softplus(x, module.beta),
    nn.Upsample: _upsampling,
    nn.UpsamplingNearest2d: _upsampling,
    nn.UpsamplingBilinear2d: _upsampling,
    nn.PixelShuffle: lambda module, x: pixel_shuffle(x, module.upscale_factor),
    nn.PixelUnshuffle: lambda module, x: pixel_unshuffle(x, module.downscale_factor),
    nn.ChannelShuffle: lambda module, x: channel_shuffle(x, module.groups),
    nn.ConvTranspose2d: _transposed_convolution,
    nn.Hardsigmoid: lambda module, x: hardsigmoid(x),
    nn.Hardswish: lambda module, x: hardswish(x),
    nn.Softmax: lambda module, x: softmax(x, module.dim),
    nn.Softmax2d: lambda module, x: softmax(x, 1),
    nn.LogSoftmax: lambda module, x: log_softmax(x, module.dim),
    nn.MaxPool2d: _max_pooling,
    nn.AvgPool2d: _average_pooling,
    nn.AdaptiveAvgPool2d: lambda module, x: adaptive_avg_pool2d(x, module.output_size),
    nn.AdaptiveMaxPool2d: lambda module, x: adaptive_max_pool2d(x, module.output_size, module.return_indices),
    nn.LocalResponseNorm: lambda module, x: local_response_norm(x, module.size, module.alpha, module.beta, module.k),
    nn.Dropout: lambda module, x: dropout(x, module.p, module.training),
    nn.Dropout2d: lambda module, x: dropout(x, module.p, module.training),
    nn.AlphaDropout: lambda module, x: dropout(x, module.p, module.training),
    nn.FeatureAlphaDropout: lambda module, x: dropout(x, module.p, module.training),
    nn.Identity: lambda module, x: identity(x),
    nn.ConstantPad2d: lambda module, x: pad(x, module.padding, value=module.value),
    nn.ZeroPad2d: lambda module, x: pad(x, module.padding),
    nn.ReflectionPad2d: lambda module, x: pad(x, module.padding, "reflect"),
    nn.ReplicationPad2d: lambda module, x: pad(x, module.padding, "replicate"),
}

#: Modules that keep the values in their order.
RESHAPING_MODULES = (nn.Flatten, nn.Unflatten)

"""PyTorch's operators as traceable nodes.

Each converter has the parameters of the operator it stands for. Tensors that depend on the network's input come as
:class:`Value`, numbers that depend on its shape as :class:`Derived`, weights and constants as they are. It returns the node
and the values that the node takes.
"""

from __future__ import annotations

import operator
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
    """

    number: Any


Converted = tuple[tn.TraceableNode, list[Value]]
Converter = Callable[..., Converted]


def array_of(tensor: torch.Tensor) -> Array:
    """A tensor's memory as a NumPy or CuPy array; no copy.

    Raises:
        UntraceableError: A dtype or device without arrays.
    """
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
    if _pair(output_padding) != (0, 0):
        raise UntraceableError(f"its output_padding is {output_padding}; only 0 is supported")
    window = _pair(stride), _pair(padding), _pair(dilation)
    return nodes.transposed_convolution(array_of(weight), _optional_array(bias), *window, groups), [x]


def interpolate(
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Converted:
    """Maps made larger by whole factors, each pixel repeated; by which, may follow from the example."""
    _ranked(x, 4)
    if mode not in ("nearest", "nearest-exact") or antialias:
        raise UntraceableError(f"it interpolates by {mode!r}; only the nearest pixel is supported")
    if size is not None:
        size = size.number if isinstance(size, Derived) else size
        size = [number.number if isinstance(number, Derived) else number for number in _pair(size)]
        factors = [new / old for new, old in zip(size, x.shape[2:], strict=True)]
    else:
        factors = [scale_factor] * 2 if isinstance(scale_factor, int | float) else list(scale_factor)
    if any(factor < 1 or int(factor) != factor for factor in factors):
        raise UntraceableError(f"it enlarges by {factors}; only whole factors are supported")
    return tn.TraceableUpsampling2D((int(factors[0]), int(factors[1]))), [x]


def linear(x: Value, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Converted:
    """Fully connected layer on vectors."""
    _ranked(x, 2)
    return nodes.linear(array_of(weight), _optional_array(bias)), [x]


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


def relu(x: Value, inplace: bool = False) -> Converted:
    """ReLU."""
    return tn.TraceableReLU(), [x]


def relu6(x: Value, inplace: bool = False) -> Converted:
    """ReLU6."""
    return tn.TraceableClippedReLU(6.0), [x]


def hardtanh(x: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Converted:
    """Clipped ReLU."""
    return clamp(x, min_val, max_val)


def clamp(x: Value, min: float | None = None, max: float | None = None) -> Converted:
    """ReLU and clipped ReLU."""
    if min != 0 or not (max is None or max > 0):
        raise UntraceableError(f"it clips to {min}..{max}; only the lower end 0 is supported")
    return (tn.TraceableReLU() if max is None else tn.TraceableClippedReLU(float(max))), [x]


def leaky_relu(x: Value, negative_slope: float = 0.01, inplace: bool = False) -> Converted:
    """Leaky ReLU."""
    return tn.TraceableLeakyReLU(negative_slope), [x]


def prelu(x: Value, weight: torch.Tensor) -> Converted:
    """Parametric ReLU."""
    return nodes.prelu(array_of(weight)), [x]


def elu(x: Value, alpha: float = 1.0, inplace: bool = False) -> Converted:
    """ELU."""
    return tn.TraceableELU(alpha), [x]


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
    if approximate != "none":
        raise UntraceableError(f"its approximation {approximate!r} isn't supported")
    return tn.TraceableGELU(), [x]


def hardsigmoid(x: Value, inplace: bool = False) -> Converted:
    """Hard sigmoid."""
    return tn.TraceableHardSigmoid(), [x]


def hardswish(x: Value, inplace: bool = False) -> Converted:
    """Hard swish."""
    return tn.TraceableHardSwish(), [x]


def softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Converted:
    """Softmax over the channels."""
    return _softmax(x, dim, dtype, logarithm=False)


def log_softmax(x: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Converted:
    """Logarithm of the softmax over the channels."""
    return _softmax(x, dim, dtype, logarithm=True)


def _softmax(x: Value, dim: int | None, dtype: Any, logarithm: bool) -> Converted:
    if dtype is not None or (_axes(x, dim) != [1] if dim is not None else len(x.shape) not in (2, 4)):
        raise UntraceableError(
            f"it goes along axis {dim} of shape {tuple(x.shape)}; only axis 1 is supported, in the input's dtype"
        )
    return tn.TraceableSoftmax(logarithm), [x]


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
    """Average of each map."""
    _ranked(x, 4)
    if dim is None or _axes(x, dim) != [2, 3]:
        raise UntraceableError(f"it averages over axes {dim}; only rows and columns, (2, 3), are supported")
    return (tn.TraceableAdaptiveAveragePooling2D(1) if keepdim else tn.TraceableGlobalAveragePooling2D()), [x]


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


def pad(x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Converted:
    """A border of one number; the sides of the last axis come first."""
    _ranked(x, 4)
    sides = [*pad, *[0] * (4 - len(pad))]
    if mode != "constant" or len(sides) > 4 or min(sides) < 0:
        raise UntraceableError(f"it pads {list(pad)} in mode {mode!r}; only constant borders of rows and columns are supported")
    return tn.TraceablePadding2D(((sides[2], sides[3]), (sides[0], sides[1])), value or 0.0), [x]


def cat(tensors: Sequence[Value], dim: int = 0) -> Converted:
    """Concatenation along the channels."""
    values = list(tensors)
    if not all(isinstance(value, Value) for value in values):
        raise UntraceableError("it concatenates constants")
    if _axes(values[0], dim) != [1]:
        raise UntraceableError(f"it concatenates along axis {dim}; only the channels' axis 1 is supported")
    return tn.Concatenate(), values


def add(x: Any, y: Any, alpha: float = 1) -> Converted:
    """Sum of two tensors, or of a tensor and a constant."""
    if alpha != 1:
        raise UntraceableError(f"it weighs a summand by alpha {alpha}")
    if isinstance(x, Value) and isinstance(y, Value):
        return (tn.Add() if x.shape == y.shape else tn.BroadcastAdd()), [x, y]
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return tn.TraceableAffine(shift=_constant(constant)), [value]


def sub(x: Any, y: Any, alpha: float = 1) -> Converted:
    """Difference of a tensor and a constant."""
    if alpha != 1 or (isinstance(x, Value) and isinstance(y, Value)):
        raise UntraceableError("only constants can be subtracted, or subtracted from")
    if isinstance(x, Value):
        return tn.TraceableAffine(shift=-_constant(y)), [x]
    return tn.TraceableAffine(-1.0, _constant(x)), [y]


def mul(x: Any, y: Any) -> Converted:
    """Product of two tensors, or of a tensor and a constant."""
    if isinstance(x, Value) and isinstance(y, Value):
        return tn.Multiply(), [x, y]
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    return tn.TraceableAffine(_constant(constant)), [value]


def div(x: Any, y: Any) -> Converted:
    """Quotient of a tensor and a constant."""
    if not isinstance(x, Value) or isinstance(y, Value):
        raise UntraceableError("only a constant can divide")
    return tn.TraceableAffine(1 / _constant(y)), [x]


def neg(x: Value) -> Converted:
    """The negative."""
    return tn.TraceableAffine(-1.0), [x]


def _constant(value: Any) -> Any:
    """A number, or a tensor's memory, without its batch axis of one."""
    if not isinstance(value, torch.Tensor):
        return float(value)
    if value.ndim > 3:
        if value.shape[0] != 1:
            raise UntraceableError(f"its constant of shape {tuple(value.shape)} differs from sample to sample")
        value = value[0]
    return array_of(value)


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
    kept = 0
    while kept < min(len(x.shape), len(outshape)) - 2 and x.shape[-1 - kept] == outshape[-1 - kept]:
        kept += 1
    shape = list(outshape[1 : len(outshape) - kept])
    # Sizes that don't come from rows and columns are the same for every picture.
    rows_and_columns_kept = kept >= min(2, len(x.shape) - 2)
    if not sizes:
        # The last size is what the others leave, in pictures of another size too.
        shape[-1] = -1
    for axis, size in enumerate(sizes[1 : 1 + len(shape)]):
        if size == -1:
            shape[axis] = -1
        elif isinstance(size, Derived) and not rows_and_columns_kept and (axis, size.number) != (0, x.shape[1]):
            raise UntraceableError(f"its shape {tuple(outshape)} depends on the size of the picture")
    return tn.TraceableReshape(shape, kept), [x]


def permute(x: Value, dims: Sequence[int]) -> Converted:
    """Axes in another order."""
    axes = [axis % len(x.shape) for axis in dims]
    if axes[0] != 0:
        raise UntraceableError(f"it puts the axes in the order {axes}; the batch must stay first")
    return tn.TraceableTranspose(axes), [x]


def transpose(x: Value, dim0: int, dim1: int) -> Converted:
    """Two axes exchanged."""
    axes = list(range(len(x.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return permute(x, axes)


@dataclass(frozen=True)
class Pieces:
    """A tensor in pieces along an axis, as ``chunk`` and ``split`` give them.

    Attributes:
        x: The whole.
        axis: The axis.
        sizes: Their sizes.
    """

    x: Value
    axis: int
    sizes: tuple[int, ...]


def pieces(x: Value, outputs: Sequence[torch.Tensor], dim: int) -> Pieces:
    """The result of ``chunk`` and ``split``.

    Args:
        x: The whole.
        outputs: What came out for the example.
        dim: The axis.
    """
    if _axes(x, dim) != [1]:
        raise UntraceableError(f"it splits along axis {dim}; only the channels' axis 1 is supported")
    return Pieces(x, 1, tuple(output.shape[1] for output in outputs))


def getitem(x: Any, index: Any) -> Converted:
    """One of several pieces, or a part of a tensor by slices and integers."""
    if isinstance(x, Pieces):
        place = range(len(x.sizes))[index]
        start = sum(x.sizes[:place])
        return tn.TraceableSlice([slice(start, start + x.sizes[place])]), [x.x]
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(x.shape) - len(parts) + 1)
    if parts[0] != slice(None) or not all(type(part) is int or isinstance(part, slice) for part in parts):
        raise UntraceableError(f"it takes the part {index}; only slices and integers behind a whole batch are supported")
    if any(part.step not in (None, 1) for part in parts if isinstance(part, slice)):
        raise UntraceableError(f"it takes the part {index}; only slices without steps are supported")
    return tn.TraceableSlice(parts[1:]), [x]


def stochastic_depth(x: Value, p: float, mode: str, training: bool = True) -> Converted:
    """Dropping of whole branches, a function of torchvision's."""
    return dropout(x, p, training)


#: Functions, and by name the methods of tensors, that keep the values in their order.
RESHAPES = (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, "view", "reshape", "flatten", "squeeze", "unsqueeze")
#: Those among them whose arguments are the new shape.
SHAPED = (torch.reshape, "view", "reshape")
#: Functions and methods that give pieces.
SPLITS = (torch.chunk, torch.split, "chunk", "split")

_TARGETS: dict[Converter, tuple[Any, ...]] = {
    conv2d: (F.conv2d, torch.conv2d),
    linear: (F.linear,),
    batch_norm: (F.batch_norm,),
    relu: (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    relu6: (F.relu6,),
    hardtanh: (F.hardtanh, F.hardtanh_),
    clamp: (torch.clamp, torch.clamp_, torch.clip, "clamp", "clamp_", "clip", "clip_"),
    leaky_relu: (F.leaky_relu, F.leaky_relu_),
    prelu: (F.prelu, torch.prelu),
    elu: (F.elu, F.elu_),
    sigmoid: (torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_"),
    tanh: (torch.tanh, torch.tanh_, F.tanh, "tanh", "tanh_"),
    silu: (F.silu,),
    gelu: (F.gelu,),
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
    local_response_norm: (F.local_response_norm,),
    dropout: (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout),
    identity: ("contiguous", "clone", "detach", torch.clone),
    pad: (F.pad,),
    cat: (torch.cat, torch.concat, torch.concatenate),
    add: (operator.add, operator.iadd, torch.add, "add", "add_"),
    sub: (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"),
    mul: (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
    div: (operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_"),
    neg: (operator.neg, torch.neg, "neg", "neg_"),
    permute: (torch.permute, "permute"),
    transpose: (torch.transpose, "transpose"),
    getitem: (operator.getitem,),
    stochastic_depth: ("torchvision.ops.stochastic_depth.stochastic_depth",),
}
#: Converters by function, and by name of a tensor's method or of a function elsewhere.
FUNCTIONS = {target: converter for converter, targets in _TARGETS.items() for target in targets}


def _convolution(module: Any, x: Value) -> Converted:
    if module.padding_mode != "zeros":
        raise UntraceableError(f"it pads in mode {module.padding_mode!r}; only zeros are supported")
    return conv2d(x, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


def _transposed_convolution(module: Any, x: Value) -> Converted:
    window = module.stride, module.padding, module.output_padding, module.groups, module.dilation
    return conv_transpose2d(x, module.weight, module.bias, *window)


def _batch_normalization(module: Any, x: Value) -> Converted:
    return batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)


def _max_pooling(module: Any, x: Value) -> Converted:
    options = module.padding, module.dilation, module.ceil_mode, module.return_indices
    return max_pool2d(x, module.kernel_size, module.stride, *options)


def _average_pooling(module: Any, x: Value) -> Converted:
    options = module.padding, module.ceil_mode, module.count_include_pad, module.divisor_override
    return avg_pool2d(x, module.kernel_size, module.stride, *options)


#: Converters by the class of a module.
MODULES: dict[type, Converter] = {
    nn.Conv2d: _convolution,
    nn.Linear: lambda module, x: linear(x, module.weight, module.bias),
    nn.BatchNorm1d: _batch_normalization,
    nn.BatchNorm2d: _batch_normalization,
    nn.ReLU: lambda module, x: relu(x),
    nn.ReLU6: lambda module, x: relu6(x),
    nn.Hardtanh: lambda module, x: hardtanh(x, module.min_val, module.max_val),
    nn.LeakyReLU: lambda module, x: leaky_relu(x, module.negative_slope),
    nn.PReLU: lambda module, x: prelu(x, module.weight),
    nn.ELU: lambda module, x: elu(x, module.alpha),
    nn.Sigmoid: lambda module, x: sigmoid(x),
    nn.Tanh: lambda module, x: tanh(x),
    nn.SiLU: lambda module, x: silu(x),
    nn.GELU: lambda module, x: gelu(x, module.approximate),
    nn.Upsample: lambda module, x: interpolate(x, module.size, module.scale_factor, module.mode),
    nn.UpsamplingNearest2d: lambda module, x: interpolate(x, module.size, module.scale_factor),
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
}

#: Modules that keep the values in their order.
RESHAPING_MODULES = (nn.Flatten, nn.Unflatten)

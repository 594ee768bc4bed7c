"""ONNX operators as traceable nodes.

Each converter takes a :class:`Setting`, then the operator's inputs, and its attributes by their names in the
standard. An input that depends on the network's comes as :class:`Tensor`, a constant as an array, one left out as None.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

import dcnn_visualizer.traceable_nodes as tn
from dcnn_kernels.geometry import Pads, Pair, output_size, pair
from dcnn_visualizer.importers import nodes
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx_constants import BATCH, Calculator
from dcnn_visualizer.importers.onnx_file import DTYPES, Size
from dcnn_visualizer.traceable_chain import TraceableChain

#: Of numbers beyond these, a file means that there is no bound.
UNBOUNDED = 3.4e38


class Tensor(NamedTuple):
    """A tensor that depends on the network's input.

    Attributes:
        name: Its name in the file.
        shape: Its sizes, the first of which is ``BATCH``; names where they are known only when the network runs.
        dtype: Its dtype.
        order: Its axes as the file has them, if the batch isn't the first of them: the file may have put them in another order,
            left out axes of one place, and put in such ones, which are None here. ``shape`` is without all that.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: np.dtype
    order: tuple[int | None, ...] | None = None


class Setting(NamedTuple):
    """Where an operator stands.

    Attributes:
        opset: Version of the operators.
        batch: How many pictures the file's network takes at once, or None for any number.
        outputs: How many values the operator makes.
        calculate: Calculates with constants.
    """

    opset: int
    batch: int | None
    outputs: int
    calculate: Calculator


class Converted(NamedTuple):
    """What an operator amounts to.

    Attributes:
        node: The node, or several in a row.
        sources: The tensors that it takes.
        shape: Of what it makes.
        order: As of :class:`Tensor`.
    """

    node: tn.TraceableNode | TraceableChain
    sources: list[Tensor]
    shape: tuple[Size, ...]
    order: tuple[int | None, ...] | None = None


def _tensor(x: Any, *ranks: int) -> Tensor:
    if not isinstance(x, Tensor):
        raise UntraceableError("it isn't supported on a constant")
    if x.order is not None:
        raise UntraceableError(
            f"the batch must stay the first axis of shape {x.shape}, which the file has put in the order {x.order}; "
            "output= chooses a value before that"
        )
    if ranks and len(x.shape) not in ranks:
        raise UntraceableError(f"its input must have {' or '.join(map(str, ranks))} axes, got shape {x.shape}")
    return x


def _weights(name: str, value: Any, x: Tensor, *ranks: int) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise UntraceableError(f"{name} must be a constant")
    if value.dtype != x.dtype or (ranks and value.ndim not in ranks):
        raise UntraceableError(f"{name} must be {x.dtype} with {ranks} axes, got {value.dtype} of shape {value.shape}")
    return value


def integers(name: str, value: Any) -> list[int]:
    """Constant integers.

    Raises:
        UntraceableError: They aren't.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind != "i":
        raise UntraceableError(f"{name} must be constant integers")
    return [int(number) for number in value.reshape(-1)]


def _sizes(name: str, value: Any) -> list[Size]:
    """Constant integers, of which some may be known only when the network runs."""
    return list(value) if isinstance(value, np.ndarray) and value.dtype == object else [*integers(name, value)]


def _axis(axis: int, x: Tensor) -> int:
    if not -len(x.shape) <= axis < len(x.shape):
        raise UntraceableError(f"axis {axis} isn't one of shape {x.shape}")
    return axis % len(x.shape)


def _pads(x: Tensor, ksize: Pair, stride: Pair, dilate: Pair, auto_pad: str, pads: Sequence[int] | None) -> Pads:
    """((top, bottom), (left, right)); SAME puts the odd one behind (UPPER) or before (LOWER)."""
    if auto_pad == "NOTSET":
        top, left, bottom, right = pads or (0, 0, 0, 0)
        return (top, bottom), (left, right)
    if auto_pad == "VALID":
        return (0, 0), (0, 0)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise UntraceableError(f"auto_pad is {auto_pad!r}")
    sides = []
    for size, taps, step, gap in zip(x.shape[2:], ksize, stride, dilate, strict=True):
        if isinstance(size, str) and step > 1:
            raise UntraceableError("its padding depends on the size of the picture, which the file leaves open: say insize")
        # With steps of one, the padding is the same for all sizes.
        extent = size if isinstance(size, int) else 1
        total = max((-(-extent // step) - 1) * step + gap * (taps - 1) + 1 - extent, 0)
        less, more = total // 2, total - total // 2
        sides.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return sides[0], sides[1]


def _outsize(
    x: Tensor, ksize: Pair, stride: Pair, pads: Pads, dilate: Pair = (1, 1), ceil_mode: bool = False
) -> tuple[Size, ...]:
    sizes: list[Size] = []
    for axis, size in enumerate(x.shape[2:]):
        if isinstance(size, str):
            unchanged = (stride[axis], sum(pads[axis])) == (1, dilate[axis] * (ksize[axis] - 1))
            sizes.append(size if unchanged else f"{size} of {x.name}")
            continue
        count = output_size(size, ksize[axis], stride[axis], pads[axis], dilate[axis], ceil_mode)
        # In ceil_mode a window starts before the end.
        late = ceil_mode and (count - 1) * stride[axis] >= size + pads[axis][0]
        sizes.append(count - 1 if late else count)
    return tuple(sizes)


def conv(
    file: Setting,
    x: Any,
    W: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Converted:
    """Convolution, along rows and columns or along one axis."""
    x = _tensor(x, 3, 4)
    if len(x.shape) == 3:
        return _conv_1d(x, W, B, auto_pad, dilations, group, kernel_shape, pads or (0, 0), strides)
    W = _weights("W", W, x, 4)
    B = None if B is None else _weights("B", B, x, 1)
    ksize, stride, dilate = pair("kernel_shape", W.shape[2:]), pair("strides", strides or 1), pair("dilations", dilations or 1)
    if kernel_shape is not None and tuple(kernel_shape) != ksize:
        raise UntraceableError(f"kernel_shape is {tuple(kernel_shape)}, its weights have shape {W.shape}")
    if group < 1 or x.shape[1] != W.shape[1] * group or W.shape[0] % group or (B is not None and B.shape != W.shape[:1]):
        raise UntraceableError(f"weights {W.shape} in {group} groups don't fit an input of shape {x.shape}")
    padding = _pads(x, ksize, stride, dilate, auto_pad, pads)
    node = nodes.convolution(W, B, stride, padding, dilate, group)
    return Converted(node, [x], (BATCH, W.shape[0], *_outsize(x, ksize, stride, padding, dilate)))


def _conv_1d(
    x: Tensor,
    W: Any,
    B: Any,
    auto_pad: str,
    dilations: Sequence[int] | None,
    group: int,
    kernel_shape: Sequence[int] | None,
    pads: Sequence[int],
    strides: Sequence[int] | None,
) -> Converted:
    W, B = _weights("W", W, x, 3), None if B is None else _weights("B", B, x, 1)
    (stride,), (dilate,), (before, after) = strides or (1,), dilations or (1,), pads
    if auto_pad != "NOTSET" or before != after or (kernel_shape is not None and tuple(kernel_shape) != W.shape[2:]):
        raise UntraceableError("along one axis, only equal pads on both sides are supported, without auto_pad")
    if min(stride, dilate, *W.shape, group) < 1 or before < 0:
        raise UntraceableError(f"strides {stride}, dilations {dilate}, group {group} or pads {tuple(pads)} are too small")
    if x.shape[1] != W.shape[1] * group or W.shape[0] % group or (B is not None and B.shape != W.shape[:1]):
        raise UntraceableError(f"weights {W.shape} in {group} groups don't fit an input of shape {x.shape}")
    size = x.shape[2]
    outsize = f"{size} of {x.name}" if isinstance(size, str) else output_size(size, W.shape[2], stride, (before, after), dilate)
    return Converted(nodes.convolution_1d(W, B, stride, before, dilate, group), [x], (BATCH, W.shape[0], outsize))


def conv_transpose(
    file: Setting,
    x: Any,
    W: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] = (0, 0),
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] = (0, 0, 0, 0),
    strides: Sequence[int] = (1, 1),
) -> Converted:
    """Transposed convolution."""
    x, W = _tensor(x, 4), _weights("W", W, x, 4)
    B = None if B is None else _weights("B", B, x, 1)
    stride, dilate, (top, left, bottom, right) = pair("strides", strides), pair("dilations", dilations), pads
    if auto_pad != "NOTSET" or output_shape is not None or (top, left) != (bottom, right):
        raise UntraceableError("only equal pads on both sides are supported, without auto_pad and output_shape")
    down, right_hand = output_padding
    if not (0 <= down < stride[0] and 0 <= right_hand < stride[1]):
        raise UntraceableError(f"output_padding {tuple(output_padding)} must be below the strides {stride}")
    if kernel_shape is not None and tuple(kernel_shape) != W.shape[2:]:
        raise UntraceableError(f"kernel_shape is {tuple(kernel_shape)}, its weights have shape {W.shape}")
    if min(*stride, *dilate, *W.shape, group) < 1 or min(top, left) < 0:
        raise UntraceableError(f"strides {stride}, dilations {dilate}, group {group} or pads {tuple(pads)} are too small")
    filters = W.shape[1] * group
    if x.shape[1] != W.shape[0] or W.shape[0] % group or (B is not None and B.shape != (filters,)):
        raise UntraceableError(f"weights {W.shape} in {group} groups don't fit an input of shape {x.shape}")
    sizes: list[Size] = []
    extra = down, right_hand
    for size, taps, step, gap, pad, more in zip(x.shape[2:], W.shape[2:], stride, dilate, (top, left), extra, strict=True):
        grown = size if isinstance(size, str) else step * (size - 1) + gap * (taps - 1) + 1 - 2 * pad + more
        if isinstance(grown, int) and grown < 1:
            raise UntraceableError(f"pads {tuple(pads)} leave nothing of an input of shape {x.shape}")
        sizes.append(f"{grown} of {x.name}" if isinstance(grown, str) else grown)
    node = nodes.transposed_convolution(W, B, stride, (top, left), dilate, group, extra)
    return Converted(node, [x], (BATCH, filters, *sizes))


def gemm(
    file: Setting, A: Any, B: Any, C: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Converted:
    """Fully connected layer, alpha·A·B + beta·C, each of A and B transposed if so said."""
    if isinstance(A, Tensor) and A.order == (1, 0) and transA:
        A, transA = A._replace(order=None), 0
    x, W = _tensor(A, 2), _weights("B", B, A, 2)
    if transA:
        raise UntraceableError("it transposes the batch")
    W = W if transB else W.T
    W = W if alpha == 1 else file.calculate(lambda W: W * W.dtype.type(alpha), W)
    if C is None or beta == 0:
        return _linear(x, W, None)
    C = _weights("C", C, x)
    if C.size not in (1, W.shape[0]) or math.prod(C.shape[:-1]) != 1:
        raise UntraceableError(f"C must hold one number an output, got shape {C.shape}")
    b = C.reshape(-1) if C.size == W.shape[0] else np.broadcast_to(C.reshape(-1), W.shape[:1])
    return _linear(x, W, b if beta == 1 else file.calculate(lambda b: b * b.dtype.type(beta), b))


def matmul(file: Setting, A: Any, B: Any) -> Converted:
    """Fully connected layer without a bias, on the last axis; or the product of two tensors' matrices."""
    x = _tensor(A)
    if not isinstance(B, Tensor):
        return _linear(x, _weights("B", B, x, 2).T, None)
    y = _tensor(B)
    if len(x.shape) != len(y.shape) or len(x.shape) < 3 or not _differ_nowhere(x.shape[-1:], y.shape[-2:-1]):
        raise UntraceableError(f"it multiplies matrices of shapes {x.shape} and {y.shape}")
    before = _broadcast(x._replace(shape=x.shape[:-2]), y._replace(shape=y.shape[:-2]))
    return Converted(tn.MatrixMultiply(), [x, y], (*before, x.shape[-2], y.shape[-1]))


def _linear(x: Tensor, W: np.ndarray, b: np.ndarray | None) -> Converted:
    if len(x.shape) < 2 or x.shape[-1] != W.shape[1]:
        raise UntraceableError(f"weights for {W.shape[1]} numbers don't fit an input of shape {x.shape}")
    return Converted(nodes.linear(W, b, len(x.shape)), [x], (*x.shape[:-1], W.shape[0]))


def batch_normalization(
    file: Setting,
    x: Any,
    scale: Any,
    B: Any,
    mean: Any,
    var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Converted:
    """Batch normalization by its running statistics."""
    x = _tensor(x, 2, 4)
    arrays = [_weights(name, array, x, 1) for name, array in (("scale", scale), ("B", B), ("mean", mean), ("var", var))]
    if training_mode or not spatial or any(array.shape != (x.shape[1],) for array in arrays):
        raise UntraceableError("only one scale, shift, mean and variance a channel are supported, and those at inference")
    gamma, beta, average, variance = arrays
    return Converted(nodes.batch_normalization(gamma, beta, average, variance, epsilon), [x], x.shape)


def layer_normalization(
    file: Setting, x: Any, Scale: Any, B: Any = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Converted:
    """Layer normalization over the axes from one on."""
    return _layer_normalization(file, x, Scale, B, axis, epsilon, centred=True)


def rms_normalization(
    file: Setting, x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Converted:
    """Root mean square normalization over the axes from one on."""
    return _layer_normalization(file, x, scale, None, axis, epsilon, centred=False)


def _layer_normalization(file: Setting, x: Any, scale: Any, B: Any, axis: int, epsilon: float, centred: bool) -> Converted:
    x = _tensor(x)
    first = _axis(axis, x)
    gamma = _weights("scale", scale, x)
    beta = None if B is None else _weights("B", B, x)
    if first == 0 or file.outputs > 1 or any(array is not None and array.shape != x.shape[first:] for array in (gamma, beta)):
        raise UntraceableError(f"scale and shift must have the shape of the axes from {axis} on, behind the batch, of {x.shape}")
    node = nodes.layer_normalization(gamma, beta, epsilon, len(x.shape) - first, centred)
    return Converted(node, [x], x.shape)


def instance_normalization(file: Setting, x: Any, scale: Any, B: Any, *, epsilon: float = 1e-5) -> Converted:
    """Instance normalization."""
    x = _tensor(x)
    return group_normalization(file, x, scale, B, epsilon=epsilon, num_groups=x.shape[1] if isinstance(x.shape[1], int) else 0)


def group_normalization(
    file: Setting, x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Converted:
    """Group normalization; weights are one a group before version 21, and one a channel since."""
    x = _tensor(x)
    channels = x.shape[1]
    if not isinstance(channels, int) or num_groups < 1 or channels % num_groups:
        raise UntraceableError(f"{channels} channels don't fall into {num_groups} groups")
    arrays = [_weights(name, array, x, 1) for name, array in (("scale", scale), ("bias", bias))]
    if all(array.shape == (num_groups,) != (channels,) for array in arrays) and file.opset < 21:
        arrays = [array.repeat(channels // num_groups) for array in arrays]
    if any(array.shape != (channels,) for array in arrays):
        raise UntraceableError(f"scale and bias must hold one number a channel, got shapes {[array.shape for array in arrays]}")
    gamma, beta = arrays
    return Converted(nodes.group_normalization(gamma, beta, num_groups, epsilon), [x], x.shape)


def _elementwise(make: Callable[..., tn.TraceableNode | TraceableChain]) -> Callable[..., Converted]:
    """The converter of an operator on each element, whose attributes are those of the node."""

    def convert(file: Setting, x: Any, **attributes: float) -> Converted:
        return Converted(make(**attributes), [_tensor(x)], x.shape)

    return convert


def thresholded_relu(file: Setting, x: Any, *, alpha: float = 1.0) -> Converted:
    """X where it's above a threshold, and zero elsewhere; of zero, it's the ReLU."""
    x = _tensor(x)
    if alpha != 0:
        raise UntraceableError(f"its threshold is {alpha}; only 0 is supported")
    return Converted(tn.TraceableReLU(), [x], x.shape)


def maximum(file: Setting, *inputs: Any) -> Converted:
    """The larger of two tensors, or of a tensor and a constant."""
    return _bounded(inputs, tn.Maximum(), nodes.bounded_below)


def minimum(file: Setting, *inputs: Any) -> Converted:
    """The smaller of two tensors, or of a tensor and a constant."""
    return _bounded(inputs, tn.Maximum(smaller=True), nodes.bounded_above)


def _bounded(inputs: Sequence[Any], node: tn.TraceableNode, by_constant: Callable[[Any], TraceableChain]) -> Converted:
    if len(inputs) != 2:
        raise UntraceableError(f"it takes {len(inputs)} inputs; two are supported")
    x, y = inputs
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return Converted(node, [_tensor(x), _tensor(y)], _broadcast(x, y))
    value, constant = (x, y) if isinstance(x, Tensor) else (y, x)
    return Converted(by_constant(_constant(constant, value)), [_tensor(value)], value.shape)


def lp_normalization(file: Setting, x: Any, *, axis: int = -1, p: int = 2) -> Converted:
    """Vectors of unit length along an axis."""
    x = _tensor(x)
    place = _axis(axis, x)
    if p != 2 or place == 0:
        raise UntraceableError(f"it divides by the norm of order {p} along axis {axis}; only 2 behind the batch is supported")
    return Converted(tn.TraceableUnitVectors(place), [x], x.shape)


def expand(file: Setting, x: Any, shape: Any) -> Converted:
    """A tensor stretched to sizes."""
    x, sizes = _tensor(x), _sizes("shape", shape)
    if len(sizes) > len(x.shape):
        raise UntraceableError(f"it stretches shape {x.shape} to {sizes}, which has more axes")
    target = [*x.shape[: len(x.shape) - len(sizes)], *sizes]
    target[0] = BATCH if target[0] in (1, file.batch) else target[0]
    if target[0] != BATCH or not _differ_nowhere(x.shape, target, stretched=True):
        raise UntraceableError(f"it stretches shape {x.shape} to {sizes}; the batch must stay")
    made = [own if size == 1 else size for own, size in zip(x.shape, target, strict=True)]
    stretched = [-1 if own == size else size for own, size in zip(x.shape, made, strict=True)]
    if not all(isinstance(size, int) for size in stretched):
        raise UntraceableError(f"it stretches shape {x.shape} to {sizes}, which the file leaves open: say insize")
    return Converted(tn.TraceableStretch([int(size) for size in stretched[1:]]), [x], tuple(made))


def prelu(file: Setting, x: Any, slope: Any) -> Converted:
    """Parametric ReLU of one slope, or one a channel."""
    x, slope = _tensor(x), _weights("slope", slope, x)
    by_channel = slope.ndim == len(x.shape) - 1 and slope.shape == (x.shape[1], *[1] * (slope.ndim - 1))
    if not by_channel and slope.size != 1:
        raise UntraceableError(f"slope must be one number, or one a channel, got shape {slope.shape} for {x.shape}")
    return Converted(nodes.prelu(slope.reshape(-1)), [x], x.shape)


def clip(file: Setting, x: Any, lowest: Any = None, highest: Any = None, *, min: Any = None, max: Any = None) -> Converted:
    """ReLU, clipped ReLU, and values between other bounds; these are attributes before version 11, and inputs since."""
    x = _tensor(x)
    low, high = (_number("min", lowest, min), _number("max", highest, max))
    low = -math.inf if low is None or low < -UNBOUNDED else low
    high = math.inf if high is None or high > UNBOUNDED else high
    return Converted(nodes.clip(low, high), [x], x.shape)


def _number(name: str, value: Any, attribute: Any = None) -> float | None:
    """A constant of one element, or an attribute; None if neither is there."""
    if value is None:
        return None if attribute is None else float(attribute)
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise UntraceableError(f"{name} must be one constant number")
    return float(value.reshape(())[()])


def softmax(file: Setting, x: Any, *, axis: int | None = None) -> Converted:
    """Softmax along an axis."""
    return _softmax(file, x, axis, logarithm=False)


def log_softmax(file: Setting, x: Any, *, axis: int | None = None) -> Converted:
    """Logarithm of the softmax along an axis."""
    return _softmax(file, x, axis, logarithm=True)


def _softmax(file: Setting, x: Any, axis: int | None, logarithm: bool) -> Converted:
    x = _tensor(x)
    # Before version 13 all axes from this one on were taken together, the first by default; since, it's one, the last by default.
    chosen = _axis((1 if file.opset < 13 else -1) if axis is None else axis, x)
    if chosen == 0 or (file.opset < 13 and any(size != 1 for size in x.shape[chosen + 1 :])):
        raise UntraceableError(f"it goes along axis {axis} of shape {x.shape}; only one axis of a sample is supported")
    return Converted(tn.TraceableSoftmax(logarithm, chosen), [x], x.shape)


def max_pool(
    file: Setting,
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] = (1, 1),
) -> Converted:
    """Max pooling."""
    x, ksize, stride = _tensor(x, 4), pair("kernel_shape", kernel_shape), pair("strides", strides)
    if pair("dilations", dilations) != (1, 1):
        raise UntraceableError(f"its windows are dilated by {dilations}; only windows without gaps are supported")
    padding = _pads(x, ksize, stride, (1, 1), auto_pad, pads)
    node = nodes.max_pooling(ksize, stride, padding, bool(ceil_mode))
    return Converted(node, [x], (*x.shape[:2], *_outsize(x, ksize, stride, padding, ceil_mode=bool(ceil_mode))))


def average_pool(
    file: Setting,
    x: Any,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None,
    strides: Sequence[int] = (1, 1),
) -> Converted:
    """Average pooling."""
    x, ksize, stride = _tensor(x, 4), pair("kernel_shape", kernel_shape), pair("strides", strides)
    if pair("dilations", dilations) != (1, 1):
        raise UntraceableError(f"its windows are dilated by {dilations}; only windows without gaps are supported")
    padding = _pads(x, ksize, stride, (1, 1), auto_pad, pads)
    node = nodes.average_pooling(ksize, stride, padding, bool(ceil_mode), bool(count_include_pad))
    return Converted(node, [x], (*x.shape[:2], *_outsize(x, ksize, stride, padding, ceil_mode=bool(ceil_mode))))


def global_average_pool(file: Setting, x: Any) -> Converted:
    """Average of each map."""
    return Converted(tn.TraceableAdaptiveAveragePooling2D(1), [_tensor(x, 4)], (*x.shape[:2], 1, 1))


def global_max_pool(file: Setting, x: Any) -> Converted:
    """Maximum of each map."""
    return Converted(tn.TraceableAdaptiveMaxPooling2D(1), [_tensor(x, 4)], (*x.shape[:2], 1, 1))


def _reduction(make: Callable[..., tn.TraceableNode]) -> Callable[..., Converted]:
    """The converter of a reduction; its axes are an attribute in older versions, and an input since."""

    def convert(
        file: Setting, x: Any, axes_input: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Converted:
        x = _tensor(x)
        chosen = axes if axes_input is None else integers("axes", axes_input)
        places = sorted({_axis(axis, x) for axis in chosen or [0]})
        if 0 in places:
            raise UntraceableError(f"it goes over axes {chosen} of shape {x.shape}; the batch must stay")
        shape = (1 if axis in places else size for axis, size in enumerate(x.shape))
        kept = tuple(size for axis, size in enumerate(shape) if keepdims or axis not in places)
        return Converted(make(places, bool(keepdims)), [x], kept)

    return convert


def _mean(axes: Sequence[int], keepdims: bool) -> tn.TraceableNode:
    if tuple(axes) != (2, 3):
        return tn.TraceableMean(axes, keepdims)
    return tn.TraceableAdaptiveAveragePooling2D(1) if keepdims else tn.TraceableGlobalAveragePooling2D()


def lrn(file: Setting, x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Converted:
    """Local response normalization."""
    return Converted(nodes.local_response_normalization(size, bias, alpha, beta), [_tensor(x)], x.shape)


def dropout(
    file: Setting, x: Any, ratio_input: Any = None, training: Any = None, *, ratio: float = 0.5, seed: int = 0
) -> Converted:
    """Dropout; the ratio is an attribute before version 12, and an input since."""
    if training is not None and (not isinstance(training, np.ndarray) or training.any()):
        raise UntraceableError("it drops at inference too")
    share = _number("ratio", ratio_input, ratio) or 0.0
    return Converted(tn.TraceableDropout(share) if 0 <= share < 1 else tn.TraceableIdentity(), [_tensor(x)], x.shape)


def concat(file: Setting, *inputs: Any, axis: int) -> Converted:
    """Concatenation along an axis."""
    tensors = [_tensor(x) for x in inputs]
    first, place = tensors[0].shape, _axis(axis, tensors[0])

    def others(x: Tensor) -> tuple[Size, ...]:
        return x.shape[:place] + x.shape[place + 1 :]

    alike = all(len(x.shape) == len(first) and _differ_nowhere(others(x), others(tensors[0])) for x in tensors)
    if place == 0 or not alike:
        raise UntraceableError(f"it joins shapes {[x.shape for x in tensors]} along axis {axis}, which don't fit, or the batch")
    sizes = [x.shape[place] for x in tensors]
    numbers = [size for size in sizes if isinstance(size, int)]
    joined = sum(numbers) if len(numbers) == len(sizes) else f"sum of {', '.join(x.name for x in tensors)}"
    return Converted(tn.Concatenate(place), tensors, (*first[:place], joined, *first[place + 1 :]))


def _differ_nowhere(shape: Sequence[Size], other: Sequence[Size], stretched: bool = False) -> bool:
    """Whether two shapes may be equal, as far as they are known; or once axes of one place are ``stretched``."""
    pairs = list(zip(shape, other, strict=True))
    return all(a == b or isinstance(a, str) or isinstance(b, str) or (stretched and 1 in (a, b)) for a, b in pairs)


def add(file: Setting, x: Any, y: Any) -> Converted:
    """Sum of two tensors, or of a tensor and a constant."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        if len(x.shape) == len(y.shape) and x.shape == y.shape:
            return Converted(tn.Add(), [_tensor(x), _tensor(y)], x.shape)
        return Converted(tn.BroadcastAdd(), [_tensor(x), _tensor(y)], _broadcast(x, y))
    value, constant = (x, y) if isinstance(x, Tensor) else (y, x)
    return _affine(value, 1.0, _constant(constant, value))


def summed(file: Setting, *inputs: Any) -> Converted:
    """Sum of tensors of one shape."""
    tensors = [_tensor(x) for x in inputs]
    if len(tensors) == 1:
        return Converted(tn.TraceableIdentity(), tensors, tensors[0].shape)
    if any(x.shape != tensors[0].shape for x in tensors):
        raise UntraceableError(f"it adds shapes {[x.shape for x in tensors]}; they must be the same")
    return Converted(tn.Add(), tensors, tensors[0].shape)


def sub(file: Setting, x: Any, y: Any) -> Converted:
    """Difference of two tensors, or of a tensor and a constant."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return Converted(tn.Subtract(), [_tensor(x), _tensor(y)], _broadcast(x, y))
    if isinstance(x, Tensor):
        return _affine(x, 1.0, file.calculate(operator.neg, _constant(y, x)))
    return _affine(y, -1.0, _constant(x, y))


def mul(file: Setting, x: Any, y: Any) -> Converted:
    """Product of two tensors, or of a tensor and a constant."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return Converted(tn.Multiply(), [_tensor(x), _tensor(y)], _broadcast(x, y))
    value, constant = (x, y) if isinstance(x, Tensor) else (y, x)
    return _affine(value, _constant(constant, value), 0.0)


def div(file: Setting, x: Any, y: Any) -> Converted:
    """Quotient of two tensors, or of a tensor and a constant, or one over a tensor."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return Converted(tn.Divide(), [_tensor(x), _tensor(y)], _broadcast(x, y))
    if isinstance(y, Tensor):
        if _constant(x, y) != 1:
            raise UntraceableError("of constants, only the number 1 can be divided by a tensor")
        return Converted(tn.TraceablePower(-1), [_tensor(y)], y.shape)
    return _affine(x, file.calculate(lambda divisor: 1 / divisor, _constant(y, x)), 0.0)


def power(file: Setting, x: Any, exponent: Any) -> Converted:
    """A fixed power."""
    x, number = _tensor(x), _number("the exponent", exponent)
    if number is None:
        raise UntraceableError("it has no exponent")
    return Converted(tn.TraceablePower(number), [x], x.shape)


def neg(file: Setting, x: Any) -> Converted:
    """The negative."""
    return _affine(x, -1.0, 0.0)


def _affine(x: Any, scale: Any, shift: Any) -> Converted:
    x = _tensor(x)
    return Converted(tn.TraceableAffine(scale, shift), [x], x.shape)


def _constant(value: Any, x: Tensor) -> Any:
    """A number, or an array without its batch axis of one, that stretches no sample."""
    array = _weights("the constant", value, x)
    if array.size == 1 and array.ndim <= len(x.shape):
        return float(array.reshape(-1)[0])
    if array.ndim == len(x.shape):
        if array.shape[0] != 1:
            raise UntraceableError(f"its constant of shape {array.shape} differs from sample to sample")
        array = array[0]
    sample = x.shape[1:][len(x.shape) - 1 - array.ndim :]
    if array.ndim > len(x.shape) - 1 or any(own not in (1, size) for own, size in zip(array.shape, sample, strict=True)):
        raise UntraceableError(f"its constant of shape {array.shape} doesn't fit an input of shape {x.shape}")
    return array


def _broadcast(x: Tensor, y: Tensor) -> tuple[Size, ...]:
    if len(x.shape) != len(y.shape):
        raise UntraceableError(f"it joins shapes {x.shape} and {y.shape}; they must have as many axes")
    sizes: list[Size] = []
    for a, b in zip(x.shape, y.shape, strict=True):
        if not (a == b or 1 in (a, b) or isinstance(a, str) or isinstance(b, str)):
            raise UntraceableError(f"shapes {x.shape} and {y.shape} don't fit")
        sizes.append(b if a == 1 else a if b == 1 or isinstance(a, int) else b)
    return tuple(sizes)


def flatten(file: Setting, x: Any, *, axis: int = 1) -> Converted:
    """All of a sample in a row."""
    x = _tensor(x)
    if axis not in (1, 1 - len(x.shape)):
        raise UntraceableError(f"it flattens from axis {axis}; only the whole sample, axis 1, is supported")
    return Converted(tn.TraceableFlatten(), [x], (BATCH, _elements(x)))


def _elements(x: Tensor) -> Size:
    sizes = x.shape[1:]
    return math.prod(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else f"elements of {x.name}"


def reshape(file: Setting, x: Any, shape: Any, *, allowzero: int = 0) -> Converted:
    """Another shape for each sample."""
    x, sizes = _tensor(x), _sizes("shape", shape)
    if len(sizes) == 1 and file.batch == 1 and sizes[0] in (-1, _elements(x)):
        # All numbers of one picture: no axis is the batch.
        return Converted(tn.TraceableFlatten(), [x], (BATCH, _elements(x)), order=(1,))
    if len(sizes) < 2 or (allowzero and 0 in sizes):
        raise UntraceableError(f"it makes shape {sizes}; the batch must stay the first of several axes")
    target: list[Size] = [x.shape[i] if size == 0 and i < len(x.shape) else size for i, size in enumerate(sizes)]
    if target[0] == (file.batch or 1):
        target[0] = BATCH
    return _reshaped(x, target)


def _reshaped(x: Tensor, target: Sequence[Size]) -> Converted:
    """Reshapes to sizes of which one may be -1, and of which the first is the batch's."""
    first, sample, elements = target[0], list(target[1:]), _elements(x)
    known = math.prod(size for size in sample if isinstance(size, int) and size != -1)
    if any(isinstance(size, int) and size < -1 for size in sample) or 0 in sample:
        raise UntraceableError(f"it reshapes to {tuple(target)}")
    if first != BATCH and (first != -1 or isinstance(elements, str) or known != elements):
        raise UntraceableError(f"it turns shape {x.shape} into {tuple(target)}; the batch must stay the first axis")
    if -1 in sample and isinstance(elements, int) and all(isinstance(size, int) for size in sample):
        if sample.count(-1) > 1 or elements % known:
            raise UntraceableError(f"shape {x.shape} can't become {tuple(target)}")
        sample[sample.index(-1)] = elements // known
    numbers = [size for size in sample if isinstance(size, int)]
    if len(numbers) == len(sample) and isinstance(elements, int) and math.prod(numbers) != elements:
        raise UntraceableError(f"shape {x.shape} can't become {tuple(target)}")
    if len(sample) == 1:
        return Converted(tn.TraceableFlatten(), [x], (BATCH, elements))
    kept = 0
    while kept < min(len(x.shape) - 2, len(sample) - 1) and x.shape[-1 - kept] == sample[-1 - kept]:
        kept += 1
    sizes = [size for size in sample[: len(sample) - kept] if isinstance(size, int)]
    if len(sizes) + kept != len(sample):
        raise UntraceableError(f"its shape {tuple(target)} depends on the size of the picture: say insize")
    shape: list[Size] = [f"rest of {x.name}" if size == -1 else size for size in sample]
    return Converted(tn.TraceableReshape(sizes, kept), [x], (BATCH, *shape))


def squeeze(file: Setting, x: Any, axes_input: Any = None, *, axes: Any = None) -> Converted:
    """Axes of one place left out; which, is an attribute before version 13, and an input since."""
    x = _tensor(x)
    chosen = axes if axes_input is None else integers("axes", axes_input)
    left_out = {_axis(axis, x) for axis in chosen} if chosen else {i for i, size in enumerate(x.shape) if size == 1}
    if 0 in left_out or any(x.shape[axis] != 1 for axis in left_out):
        raise UntraceableError(f"it leaves axes {sorted(left_out)} out of shape {x.shape}")
    return _reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in left_out])


def unsqueeze(file: Setting, x: Any, axes_input: Any = None, *, axes: Any = None) -> Converted:
    """Axes of one place put in; where, is an attribute before version 13, and an input since."""
    x = _tensor(x)
    chosen = list(axes or []) if axes_input is None else integers("axes", axes_input)
    rank = len(x.shape) + len(chosen)
    places = {axis % rank for axis in chosen}
    sizes = iter(x.shape)
    if 0 in places or len(places) != len(chosen):
        raise UntraceableError(f"it puts axes {chosen} into shape {x.shape}; the batch must stay first")
    return _reshaped(x, [1 if axis in places else next(sizes) for axis in range(rank)])


def transpose(file: Setting, x: Any, *, perm: Sequence[int] | None = None) -> Converted:
    """Axes in another order."""
    x = _tensor(x)
    order = [_axis(axis, x) for axis in (range(len(x.shape))[::-1] if perm is None else perm)]
    if sorted(order) != list(range(len(x.shape))) or order[0] != 0:
        raise UntraceableError(f"it puts the axes in the order {order}; the batch must stay first")
    return Converted(tn.TraceableTranspose(order), [x], tuple(x.shape[axis] for axis in order))


#: Which pixel is nearest to one of the larger map, by how the two maps' coordinates go together; alike for whole factors.
_REPEATING = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
}
#: Ways that coordinates go together.
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def resize(
    file: Setting,
    x: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
    axes: Any = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> Converted:
    """Maps in another size; Resize of version 10 has no ``roi``."""
    if file.opset < 11:
        scales, coordinate_transformation_mode, nearest_mode = roi, "asymmetric", "floor"
    x = _tensor(x, 4)
    way = coordinate_transformation_mode, nearest_mode
    plain = not antialias and not (exclude_outside and mode == "cubic") and keep_aspect_ratio_policy == "stretch"
    if mode not in ("nearest", "linear", "cubic") or way[0] not in _COORDINATES or axes is not None or not plain:
        raise UntraceableError(f"it resizes by {mode}, {', '.join(way)}, or with antialiasing or axes, which isn't supported")
    outsize: Pair | None = None
    if sizes is not None:
        known = _sizes("sizes", sizes)
        if len(known) != 4 or known[1] != x.shape[1] or not all(isinstance(size, int) for size in (*known[2:], *x.shape[2:])):
            raise UntraceableError(f"it makes {known} of shape {x.shape}; only rows and columns can change, which must be known")
        outsize = int(known[2]), int(known[3])
        factor = outsize[0] / int(x.shape[2]), outsize[1] / int(x.shape[3])
    else:
        if not isinstance(scales, np.ndarray) or scales.dtype.kind != "f" or scales.shape != (4,):
            raise UntraceableError("its scales must be constants, one for each of four axes")
        if scales[0] != 1 or scales[1] != 1 or not scales.min() > 0 or not np.isfinite(scales).all():
            raise UntraceableError(f"it enlarges by {scales.tolist()}; only rows and columns can change")
        factor = _unrounded(scales[2]), _unrounded(scales[3])
    if mode == "nearest" and way in _REPEATING and all(number >= 1 and number.is_integer() for number in factor):
        node: tn.TraceableNode = tn.TraceableUpsampling2D((int(factor[0]), int(factor[1])))
    else:
        size = {"outsize": outsize} if outsize else {"factor": factor}
        node = tn.TraceableResize2D(**size, mode=mode, coordinates=way[0], rounding=way[1], cubic=cubic_coeff_a)
    grown = outsize or (
        f"{size} of {x.name}" if isinstance(size, str) else math.floor(size * by)
        for size, by in zip(x.shape[2:], factor, strict=True)
    )
    return Converted(node, [x], (*x.shape[:2], *grown))


def _unrounded(scale: Any) -> float:
    """The simple fraction, such as 7/10, that a scale in float32 was rounded from, if there is one; sizes times it are exact."""
    fraction = Fraction(float(scale)).limit_denominator(1 << 10)
    return float(fraction) if np.float32(fraction) == scale else float(scale)


def upsample(file: Setting, x: Any, scales_input: Any = None, *, mode: str = "nearest", scales: Any = None) -> Converted:
    """Resize of versions before 10; its scales are an attribute before version 9, and an input since."""
    factors = np.array(scales, np.float32) if scales_input is None else scales_input
    return resize(file._replace(opset=10), x, factors, mode=mode)


def depth_to_space(file: Setting, x: Any, *, blocksize: int, mode: str = "DCR") -> Converted:
    """Channels to pixels."""
    x = _tensor(x, 4)
    channels = x.shape[1]
    if blocksize < 1 or mode not in ("DCR", "CRD") or not isinstance(channels, int) or channels % blocksize**2:
        raise UntraceableError(f"it makes blocks of {blocksize}x{blocksize} of {channels} channels, in mode {mode!r}")
    grown = [f"{size} of {x.name}" if isinstance(size, str) else size * blocksize for size in x.shape[2:]]
    node = tn.TraceablePixelShuffle(blocksize, depth_first=mode == "DCR")
    return Converted(node, [x], (BATCH, channels // blocksize**2, *grown))


def space_to_depth(file: Setting, x: Any, *, blocksize: int) -> Converted:
    """Pixels to channels."""
    x = _tensor(x, 4)
    sizes = [size for size in x.shape[2:] if isinstance(size, int)]
    if blocksize < 1 or not isinstance(x.shape[1], int) or any(size % blocksize for size in sizes):
        raise UntraceableError(f"it makes channels of blocks of {blocksize}x{blocksize} of shape {x.shape}")
    shrunk = [f"{size} of {x.name}" if isinstance(size, str) else size // blocksize for size in x.shape[2:]]
    node = tn.TraceablePixelShuffle(blocksize, inverse=True, depth_first=True)
    return Converted(node, [x], (BATCH, x.shape[1] * blocksize**2, *shrunk))


def gelu(file: Setting, x: Any, *, approximate: str = "none") -> Converted:
    """GELU."""
    if approximate not in ("none", "tanh"):
        raise UntraceableError(f"its approximation {approximate!r} isn't supported")
    return Converted(tn.TraceableGELU() if approximate == "none" else tn.TraceableTanhGELU(), [_tensor(x)], x.shape)


def pad(
    file: Setting,
    x: Any,
    pads_input: Any = None,
    value_input: Any = None,
    axes_input: Any = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    value: float = 0.0,
) -> Converted:
    """A border; how wide, is an attribute before version 11, and an input since."""
    x = _tensor(x, 4)
    widths = list(pads or []) if pads_input is None else integers("pads", pads_input)
    axes = [0, 1, 2, 3] if axes_input is None else [_axis(axis, x) for axis in integers("axes", axes_input)]
    if mode not in ("constant", "reflect", "edge") or len(widths) != 2 * len(axes) or min(widths) < 0:
        raise UntraceableError(f"it pads {widths} in mode {mode!r}, which isn't supported")
    sides = dict(zip(axes, zip(widths[: len(axes)], widths[len(axes) :], strict=True), strict=True))
    if any(sides.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)):
        raise UntraceableError("it pads the batch or the channels")
    border = sides.get(2, (0, 0)), sides.get(3, (0, 0))
    node: tn.TraceableNode
    if mode == "constant":
        node = tn.TraceablePadding2D(border, _number("value", value_input, value) or 0.0)
    else:
        node = tn.TraceableMirrorPadding2D(border, mode)
    return Converted(node, [x], (*x.shape[:2], *_outsize(x, (1, 1), (1, 1), border)))


def slice_(
    file: Setting,
    x: Any,
    starts_input: Any = None,
    ends_input: Any = None,
    axes_input: Any = None,
    steps_input: Any = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Converted:
    """A part; which, are attributes before version 10, and inputs since."""
    x = _tensor(x)
    given = [
        list(attribute or []) if value is None else integers(name, value)
        for name, value, attribute in (("starts", starts_input, starts), ("ends", ends_input, ends), ("axes", axes_input, axes))
    ]
    steps = [] if steps_input is None else integers("steps", steps_input)
    places = [_axis(axis, x) for axis in given[2] or range(len(given[0]))]
    parts, shape = [slice(None)] * (len(x.shape) - 1), list(x.shape)
    if any(step < 1 for step in steps) or 0 in places:
        raise UntraceableError("only slices with steps above zero behind a whole batch are supported")
    for axis, start, stop, step in zip(places, given[0], given[1], steps or [1] * len(places), strict=True):
        size = shape[axis]
        parts[axis - 1] = slice(start, stop if stop < np.iinfo(np.int32).max else None, step)
        shape[axis] = f"part of {x.name}" if isinstance(size, str) else len(range(size)[parts[axis - 1]])
    return Converted(tn.TraceableSlice(parts), [x], tuple(shape))


def gather(file: Setting, x: Any, indices: Any, *, axis: int = 0) -> Converted:
    """One place along an axis, which goes, or several in a row."""
    x, places = _tensor(x), integers("indices", indices)
    axis = _axis(axis, x)
    channels = x.shape[1]
    if axis == 1 and isinstance(indices, np.ndarray) and indices.ndim == 1 and isinstance(channels, int):
        if not all(-channels <= place < channels for place in places):
            raise UntraceableError(f"it takes the places {places} of {channels}")
        return Converted(tn.TraceableChannels([p % channels for p in places]), [x], (BATCH, len(places), *x.shape[2:]))
    first = places[0] if places else 0
    if axis == 0 or not places or places != list(range(first, first + len(places))) or (first < 0 <= places[-1]):
        raise UntraceableError(f"it takes the places {places} along axis {axis}; only places in a row of a sample are supported")
    if not isinstance(indices, np.ndarray) or indices.ndim > 1:
        raise UntraceableError("its indices must be a constant, one or several")
    parts: list[slice | int] = [slice(None)] * (axis - 1)
    shape = x.shape[axis + 1 :] if indices.ndim == 0 else (len(places), *x.shape[axis + 1 :])
    parts.append(first if indices.ndim == 0 else slice(first, places[-1] + 1 or None))
    size = x.shape[axis]
    if isinstance(size, int) and not -size <= first <= places[-1] < size:
        raise UntraceableError(f"it takes the places {places} of {size}")
    return Converted(tn.TraceableSlice(parts), [x], (*x.shape[:axis], *shape))


def split(file: Setting, x: Any, sizes_input: Any = None, *, split: Any = None, axis: int = 0, num_outputs: int = 0) -> Any:
    """Pieces along an axis; their sizes are an attribute before version 13, and an input since.

    Args:
        file: Where the operator stands.
        x: The tensor.
        sizes_input: Sizes of the pieces.
        split: Sizes of the pieces.
        axis: Along which it is split.
        num_outputs: How many pieces there are, once more.

    Returns:
        A list, one piece each.
    """
    x = _tensor(x)
    place = _axis(axis, x)
    whole = x.shape[place]
    if place == 0 or isinstance(whole, str) or not file.outputs:
        raise UntraceableError(f"it splits shape {x.shape} along axis {axis}; the batch and open sizes can't be split")
    sizes = split if sizes_input is None else integers("split", sizes_input)
    if sizes is None:
        # Even pieces, of which the last may be smaller.
        piece = -(-whole // file.outputs)
        sizes = [min(piece, whole - i * piece) for i in range(file.outputs)]
    if len(sizes) != file.outputs or sum(sizes) != whole or min(sizes) < 1:
        raise UntraceableError(f"pieces {sizes} don't make {whole}")
    ends = [sum(sizes[: i + 1]) for i in range(file.outputs)]
    before: list[slice | int] = [slice(None)] * (place - 1)
    return [
        Converted(tn.TraceableSlice([*before, slice(end - size, end)]), [x], (*x.shape[:place], size, *x.shape[place + 1 :]))
        for size, end in zip(sizes, ends, strict=True)
    ]


def cast(file: Setting, x: Any, *, to: int) -> Converted:
    """A change of dtype that changes nothing."""
    x = _tensor(x)
    if DTYPES.get(to) != x.dtype:
        raise UntraceableError(f"it turns {x.dtype} into another dtype")
    return identity(file, x)


def identity(file: Setting, x: Any) -> Converted:
    """What gives back what it was given."""
    return Converted(tn.TraceableIdentity(), [_tensor(x)], x.shape)


#: Converters by the operator's name.
OPERATORS: dict[str, Callable[..., Converted]] = {
    "Abs": _elementwise(tn.TraceableAbsolute),
    "Add": add,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Celu": _elementwise(lambda alpha=1.0: nodes.celu(alpha)),
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": div,
    "Dropout": dropout,
    "Elu": _elementwise(tn.TraceableELU),
    "Erf": _elementwise(tn.TraceableErf),
    "Exp": _elementwise(tn.TraceableExponential),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "GroupNormalization": group_normalization,
    "HardSigmoid": _elementwise(lambda alpha=0.2, beta=0.5: tn.TraceableHardSigmoid(alpha, beta)),
    "HardSwish": _elementwise(tn.TraceableHardSwish),
    "Identity": identity,
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": _elementwise(lambda alpha=0.01: tn.TraceableLeakyReLU(alpha)),
    "Log": _elementwise(tn.TraceableLogarithm),
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "Max": maximum,
    "MaxPool": max_pool,
    "Min": minimum,
    "Mish": _elementwise(tn.TraceableMish),
    "Mul": mul,
    "Neg": neg,
    "PRelu": prelu,
    "Pad": pad,
    "ReduceL2": _reduction(tn.TraceableNorm),
    "ReduceMax": _reduction(tn.TraceableMaximum),
    "ReduceMean": _reduction(_mean),
    "ReduceSum": _reduction(tn.TraceableSum),
    "Pow": power,
    "RMSNormalization": rms_normalization,
    "Reciprocal": _elementwise(lambda: tn.TraceablePower(-1)),
    "Relu": _elementwise(tn.TraceableReLU),
    "Reshape": reshape,
    "Resize": resize,
    "Selu": _elementwise(nodes.selu),
    "Sigmoid": _elementwise(tn.TraceableSigmoid),
    "Slice": slice_,
    "Softmax": softmax,
    "Softplus": _elementwise(tn.TraceableSoftplus),
    "Softsign": _elementwise(tn.TraceableSoftsign),
    "SpaceToDepth": space_to_depth,
    "Sqrt": _elementwise(lambda: tn.TraceablePower(0.5)),
    "Squeeze": squeeze,
    "Sub": sub,
    "Sum": summed,
    "Tanh": _elementwise(tn.TraceableTanh),
    "ThresholdedRelu": thresholded_relu,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Upsample": upsample,
}

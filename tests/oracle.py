"""The definition of every primitive, in plain Python loops over NumPy scalars: slow, obvious, and computed in float64.

Nothing here is shared with the package. Pictures are (B, C, H, W); ``ksize`` and ``stride`` are pairs and ``pad`` is
((top, bottom), (left, right)). Results are float64 (switches: int64).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def window_count(size: int, ksize: int, stride: int, pad: Pair, cover_all: bool = False) -> int:
    """Windows are counted by laying them down: while they fit, or (cover_all) until the last pixel and its pad are seen."""
    padded, count = size + sum(pad), 0
    while count * stride + ksize <= padded:
        count += 1
    if cover_all and (count == 0 or (count - 1) * stride + ksize < padded):
        count += 1
    return count


def window_counts(shape: tuple[int, ...], ksize: Pair, stride: Pair, pad: Pads, cover_all: bool = False) -> Pair:
    height, width = shape[-2:]
    return (
        window_count(height, ksize[0], stride[0], pad[0], cover_all),
        window_count(width, ksize[1], stride[1], pad[1], cover_all),
    )


def places(row: int, column: int, picture: Pair, ksize: Pair, stride: Pair, pad: Pads) -> Iterator[tuple[int, int, int, bool]]:
    """The places of one window in row order: index in the window, pixel row and column, whether it is in the picture."""
    for index, (i, j) in enumerate(product(range(ksize[0]), range(ksize[1]))):
        y, x = row * stride[0] + i - pad[0][0], column * stride[1] + j - pad[1][0]
        yield index, y, x, 0 <= y < picture[0] and 0 <= x < picture[1]


def linear(x: Array, W: Array, b: Array | None = None) -> Array:
    y = np.zeros((len(x), len(W)))
    for sample, unit in np.ndindex(y.shape):
        y[sample, unit] = math.fsum(float(a) * float(w) for a, w in zip(x[sample], W[unit], strict=True))
        if b is not None:
            y[sample, unit] += float(b[unit])
    return y


def linear_adjoint(g: Array, W: Array) -> Array:
    x = np.zeros((len(g), W.shape[1]))
    for sample, unit, source in product(range(len(g)), range(len(W)), range(W.shape[1])):
        x[sample, source] += float(g[sample, unit]) * float(W[unit, source])
    return x


def max_pooling_2d(x: Array, ksize: Pair, stride: Pair, pad: Pads, cover_all: bool) -> tuple[Array, Array]:
    y = np.empty(x.shape[:2] + window_counts(x.shape, ksize, stride, pad, cover_all))
    switches = np.zeros(y.shape, np.int64)
    for at in np.ndindex(y.shape):
        values = [
            float(x[at[0], at[1], row, column]) if inside else -math.inf
            for _, row, column, inside in places(at[2], at[3], x.shape[2:], ksize, stride, pad)
        ]
        best = 0
        for index, value in enumerate(values):
            if not math.isnan(values[best]) and (value > values[best] or math.isnan(value)):
                best = index
        y[at], switches[at] = values[best], best
    return y, switches


def unpooling_2d(
    g: Array, outsize: Pair, ksize: Pair, stride: Pair, pad: Pads, switches: Array | None = None, mode: str = "switch"
) -> Array:
    y = np.zeros(g.shape[:2] + outsize)
    for at in np.ndindex(g.shape):
        inside = [place[:3] for place in places(at[2], at[3], outsize, ksize, stride, pad) if place[3]]
        center = (ksize[0] - 1) // 2 * ksize[1] + (ksize[1] - 1) // 2
        for index, row, column in inside:
            if mode == "spread":
                y[at[0], at[1], row, column] += float(g[at]) / len(inside)
            elif index == (center if mode == "center" else switches[at]):
                y[at[0], at[1], row, column] += float(g[at])
    return y


def average_pooling_2d(x: Array, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool = True) -> Array:
    y = np.zeros(x.shape[:2] + window_counts(x.shape, ksize, stride, pad))
    for at in np.ndindex(y.shape):
        inside = [place[1:3] for place in places(at[2], at[3], x.shape[2:], ksize, stride, pad) if place[3]]
        for row, column in inside:
            y[at] += float(x[at[0], at[1], row, column]) / (ksize[0] * ksize[1] if count_include_pad else len(inside))
    return y


def average_pooling_2d_adjoint(
    g: Array, insize: Pair, ksize: Pair, stride: Pair, pad: Pads, count_include_pad: bool = True
) -> Array:
    x = np.zeros(g.shape[:2] + insize)
    for at in np.ndindex(g.shape):
        inside = [place[1:3] for place in places(at[2], at[3], insize, ksize, stride, pad) if place[3]]
        for row, column in inside:
            x[at[0], at[1], row, column] += float(g[at]) / (ksize[0] * ksize[1] if count_include_pad else len(inside))
    return x


def global_average_pooling_2d(x: Array) -> Array:
    y = np.zeros(x.shape[:2])
    for at in np.ndindex(y.shape):
        y[at] = math.fsum(float(value) for value in x[at].flat) / x[at].size
    return y


def global_average_pooling_2d_adjoint(g: Array, insize: Pair) -> Array:
    x = np.zeros(g.shape + insize)
    for at in np.ndindex(x.shape):
        x[at] = float(g[at[:2]]) / (insize[0] * insize[1])
    return x


def clipped_relu(x: Array, z: float = math.inf) -> Array:
    """With ``z = inf``, the ReLU."""
    y = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        value = float(x[at])
        y[at] = 0 if value < 0 else z if value > z else value
    return y


def prelu(x: Array, slope: float | Array) -> Array:
    """One slope, or one a channel; with a number, the leaky ReLU."""
    y = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        value = float(x[at])
        y[at] = value if value >= 0 else value * float(slope if np.ndim(slope) == 0 else slope[at[1]])
    return y


def passes(x: Array, z: float = math.inf) -> npt.NDArray[np.bool_]:
    """Where a rectifier lets the gradient pass."""
    gate = np.zeros(x.shape, bool)
    for at in np.ndindex(x.shape):
        gate[at] = x[at] > 0 and (z == math.inf or x[at] < z)
    return gate


def relu_mask(x: Array, z: float = math.inf) -> npt.NDArray[np.uint8]:
    gate = passes(x, z)
    mask = np.zeros((len(x), math.ceil(math.prod(x.shape[1:]) / 8)), np.uint8)
    for sample in range(len(x)):
        for element, bit in enumerate(gate[sample].flat):
            mask[sample, element // 8] |= int(bit) << element % 8
    return mask


def relu_reverse(g: Array, gate: npt.NDArray[np.bool_] | None = None, rectify: bool = False, slope: float | Array = 0.0) -> Array:
    """``gate`` is that of :func:`passes`, not yet packed."""
    y = np.empty(g.shape)
    for at in np.ndindex(g.shape):
        y[at] = float(g[at])
        if gate is not None and not gate[at]:
            factor = float(slope if np.ndim(slope) == 0 else slope[at[1]])
            y[at] = y[at] * factor if factor else 0
        if rectify and y[at] < 0:
            y[at] = 0
    return y


def _channel_window(channel: int, channels: int, n: int) -> range:
    return range(max(0, channel - n // 2), min(channels, channel + n // 2 + 1))


def _lrn_scale(x: Array, at: tuple[int, ...], n: int, k: float, alpha: float) -> float:
    window = _channel_window(at[1], x.shape[1], n)
    return k + alpha * math.fsum(float(x[(at[0], channel, *at[2:])]) ** 2 for channel in window)


def local_response_normalization(x: Array, n: int, k: float, alpha: float, beta: float) -> Array:
    y = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        y[at] = float(x[at]) / _lrn_scale(x, at, n, k, alpha) ** beta
    return y


def local_response_normalization_gradient(x: Array, g: Array, n: int, k: float, alpha: float, beta: float) -> Array:
    """Output j by output j: what each of its inputs i contributes, by the quotient rule."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        scale = _lrn_scale(x, at, n, k, alpha)
        gradient[at] += float(g[at]) * scale**-beta
        for channel in _channel_window(at[1], x.shape[1], n):
            source = (at[0], channel, *at[2:])
            slope = -beta * scale ** (-beta - 1) * 2 * alpha * float(x[source])
            gradient[source] += float(g[at]) * float(x[at]) * slope
    return gradient


def layer_normalization(x: Array, gamma: Array, beta: Array, eps: float, centred: bool) -> Array:
    y = np.empty(x.shape)
    for at in np.ndindex(x.shape[:-1]):
        row = [float(value) for value in x[at]]
        mean = math.fsum(row) / len(row) if centred else 0
        var = math.fsum((value - mean) ** 2 for value in row) / len(row)
        for n, value in enumerate(row):
            y[at][n] = float(gamma[n]) * (value - mean) / math.sqrt(var + eps) + float(beta[n])
    return y


def layer_normalization_gradient(x: Array, g: Array, gamma: Array, eps: float, centred: bool) -> Array:
    """Input by input: what each output of its row hears of it, by the quotient rule."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:-1]):
        row, count = [float(value) for value in x[at]], x.shape[-1]
        mean = math.fsum(row) / count if centred else 0
        scale = math.fsum((value - mean) ** 2 for value in row) / count + eps
        for i, j in product(range(count), repeat=2):
            own = (i == j) - (1 / count if centred else 0)
            slope = own * scale**-0.5 - (row[j] - mean) * (row[i] - mean) / count * scale**-1.5
            gradient[at][i] += float(g[at][j]) * float(gamma[j]) * slope
    return gradient


def batch_normalization(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> Array:
    y = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        c = at[1]
        y[at] = float(gamma[c]) * (float(x[at]) - float(mean[c])) / math.sqrt(float(var[c]) + eps) + float(beta[c])
    return y


def batch_normalization_adjoint(g: Array, gamma: Array, var: Array, eps: float) -> Array:
    x = np.empty(g.shape)
    for at in np.ndindex(g.shape):
        x[at] = float(g[at]) * float(gamma[at[1]]) / math.sqrt(float(var[at[1]]) + eps)
    return x


def occlude(x: Array, windows: Array, fill: float | Array) -> Array:
    y = np.empty((len(windows), *x.shape))
    filled = np.broadcast_to(fill, x.shape)
    for at in np.ndindex(y.shape):
        top, left, bottom, right = windows[at[0]]
        hidden = top <= at[2] < bottom and left <= at[3] < right
        y[at] = float(filled[at[1:]] if hidden else x[at[1:]])
    return y


def _products(
    x: Pair, out: Pair, W: tuple[int, ...], stride: Pair, pad: Pads, dilate: Pair, groups: int
) -> Iterator[tuple[int, ...]]:
    """Every product of a convolution: its filter, output row and column, then channel, pixel row and column, then its tap."""
    filters, channels, kh, kw = W
    for o, row, column, c, i, j in product(range(filters), *map(range, out), range(channels), range(kh), range(kw)):
        r = row * stride[0] + i * dilate[0] - pad[0][0]
        s = column * stride[1] + j * dilate[1] - pad[1][0]
        if 0 <= r < x[0] and 0 <= s < x[1]:
            group = o // (filters // groups)
            yield o, row, column, group * channels + c, r, s, c, i, j


def convolution_2d(x: Array, W: Array, b: Array | None, stride: Pair, pad: Pads, dilate: Pair = (1, 1), groups: int = 1) -> Array:
    extent = (dilate[0] * (W.shape[2] - 1) + 1, dilate[1] * (W.shape[3] - 1) + 1)
    out = window_counts(x.shape, extent, stride, pad)
    y = np.zeros((len(x), len(W), *out))
    for n in range(len(x)):
        for o, row, column, channel, r, s, c, i, j in _products(x.shape[2:], out, W.shape, stride, pad, dilate, groups):
            y[n, o, row, column] += float(W[o, c, i, j]) * float(x[n, channel, r, s])
        for o in range(len(W)):
            y[n, o] += 0.0 if b is None else float(b[o])
    return y


def transposed_convolution_2d(
    x: Array, W: Array, b: Array | None, stride: Pair, pad: Pads, dilate: Pair, groups: int, outsize: Pair
) -> Array:
    channels = groups * W.shape[1]
    y = np.zeros((len(x), channels, *outsize))
    for n in range(len(x)):
        for o, row, column, channel, r, s, c, i, j in _products(outsize, x.shape[2:], W.shape, stride, pad, dilate, groups):
            y[n, channel, r, s] += float(W[o, c, i, j]) * float(x[n, o, row, column])
        for channel in range(channels):
            y[n, channel] += 0.0 if b is None else float(b[channel])
    return y


def activation(x: Array, function: str, a: float, b: float) -> Array:
    y = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        y[place] = _activation(float(x[place]), function, a, b)
    return y


def _activation(x: float, function: str, a: float, b: float) -> float:
    match function:
        case "elu":
            return x if x > 0 else a * math.expm1(x)
        case "erf":
            return math.erf(x)
        case "gelu":
            return x * (1 + math.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "hard_sigmoid":
            return min(max(a * x + b, 0), 1)
        case "hard_swish":
            return x * min(max(x / 6 + 0.5, 0), 1)
        case "mish":
            return x * math.tanh(math.log1p(math.exp(x)))
        case "sigmoid":
            return 1 / (1 + math.exp(-x))
        case "silu":
            return x / (1 + math.exp(-x))
        case "softplus":
            return math.log1p(math.exp(a * x)) / a
        case "tanh":
            return math.tanh(x)
    raise ValueError(function)

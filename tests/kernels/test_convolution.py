import threading
import tracemalloc
from types import SimpleNamespace

import chainer.functions as F
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import dcnn_kernels as reference
from dcnn_kernels import geometry
from dcnn_kernels.arrays import index_dtype
from tests import oracle
from tests.kernels.device import cuda_only, host_only, kernels
from tests.kernels.properties import assert_adjoint, assert_close, check_calls, normal, shifted

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
#: Convolutions of the kinds that networks have: (H, W), W's shape, stride, pad, dilate, groups.
CONVOLUTIONS = {
    "3x3": ((8, 9), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "valid": ((8, 9), (4, 3, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1": ((5, 4), (6, 4, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 padded below": ((5, 4), (6, 4, 1, 1), (1, 1), ((0, 2), (0, 1)), (1, 1), 1),
    "1x1 stride 2": ((5, 6), (6, 4, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "7x7 stride 2": ((12, 13), (4, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "TensorFlow's SAME": ((8, 8), (4, 3, 3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    "dilated": ((9, 8), (4, 3, 3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "grouped": ((6, 7), (6, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise": ((7, 8), (5, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 5),
    "depthwise 5x5 stride 2": ((8, 8), (5, 1, 5, 5), (2, 2), ((1, 2), (1, 2)), (1, 1), 5),
    "depthwise with two filters a channel": ((5, 6), (6, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise of many windows": ((17, 37), (4, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise 5x5 stride 2 of many windows": ((18, 41), (2, 1, 5, 5), (2, 2), ((2, 1), (2, 2)), (1, 1), 2),
    "depthwise 7x7 of many windows": ((16, 35), (2, 1, 7, 7), (1, 1), ((3, 3), (3, 3)), (1, 1), 2),
    "depthwise dilated": ((12, 20), (2, 1, 5, 3), (1, 2), ((4, 4), (3, 2)), (2, 3), 2),
    "depthwise stride beyond its windows": ((9, 20), (2, 1, 1, 2), (3, 2), ((0, 0), (1, 0)), (1, 1), 2),
    "oblong": ((9, 7), (4, 2, 2, 4), (3, 1), ((2, 0), (1, 3)), (1, 2), 1),
    "padded beyond its windows": ((3, 2), (2, 2, 2, 2), (1, 1), ((4, 3), (5, 0)), (1, 1), 1),
    "stride beyond its windows": ((9, 8), (2, 2, 2, 1), (4, 3), ((1, 0), (0, 0)), (1, 1), 1),
}
convolutions = pytest.mark.parametrize(
    ("shape", "W_shape", "stride", "pad", "dilate", "groups"), CONVOLUTIONS.values(), ids=CONVOLUTIONS
)


@st.composite
def layouts(draw):
    """A convolution that fits: (H, W), W's shape, stride, pad, dilate, groups."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    groups = draw(st.integers(1, 3))
    W_shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride, dilate = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
    pad = draw(st.tuples(sides, sides))
    assume(all(shape[n] + sum(pad[n]) > dilate[n] * (W_shape[2 + n] - 1) for n in range(2)))
    return shape, W_shape, stride, pad, dilate, groups


def arrays(seed, shape, W_shape, stride, pad, dilate, groups, batch=2, dtype=np.float64):
    """x, W, a signal at the convolution's output, and the biases of both directions; W of unit gain."""
    channels = W_shape[1] * groups
    out = geometry.output_shape(shape, W_shape[2:], stride, pad, dilate)
    W = normal(seed + 1, W_shape, dtype) / np.sqrt(np.prod(W_shape[1:])).astype(dtype)
    return (
        normal(seed, (batch, channels, *shape), dtype),
        W,
        normal(seed + 2, (batch, W_shape[0], *out), dtype),
        normal(seed + 3, (W_shape[0],), dtype),
        normal(seed + 4, (channels,), dtype),
    )


@dtypes
@convolutions
def test_both_directions_are_the_oracles(shape, W_shape, stride, pad, dilate, groups, dtype):
    x, W, g, b, c = arrays(0, shape, W_shape, stride, pad, dilate, groups, dtype=dtype)
    how = (stride, pad, dilate, groups)
    y = kernels.convolution_2d(x, W, b, *how)
    assert_close(y, oracle.convolution_2d(x, W, b, *how))
    assert_close(kernels.convolution_2d(x, W, None, *how), oracle.convolution_2d(x, W, None, *how))
    back = kernels.transposed_convolution_2d(g, W, c, *how, shape)
    assert_close(back, oracle.transposed_convolution_2d(g, W, c, *how, shape))
    assert y.dtype == back.dtype == dtype
    assert y.flags.c_contiguous
    assert back.flags.c_contiguous


@given(layouts(), st.integers(0, 99))
def test_both_directions_are_the_oracles_whatever_the_layout(layout, seed):
    x, W, g, b, c = arrays(seed, *layout, batch=1)
    assert_close(kernels.convolution_2d(x, W, b, *layout[2:]), oracle.convolution_2d(x, W, b, *layout[2:]))
    assert_close(
        kernels.transposed_convolution_2d(g, W, c, *layout[2:], layout[0]),
        oracle.transposed_convolution_2d(g, W, c, *layout[2:], layout[0]),
    )


def gate_of(mask, shape):
    """The bits of a mask, as the oracle takes them."""
    count = int(np.prod(shape[1:]))
    return None if mask is None else np.unpackbits(mask, axis=1, count=count, bitorder="little").astype(bool).reshape(shape)


gates = pytest.mark.parametrize(("masked", "rectify"), [(False, False), (True, False), (False, True), (True, True)])


@dtypes
@pytest.mark.parametrize("z", [np.inf, 0.5])
@convolutions
def test_what_is_rectified_on_the_way_is_the_oracles(shape, W_shape, stride, pad, dilate, groups, z, dtype):
    x, W, _, b, _ = arrays(0, shape, W_shape, stride, pad, dilate, groups, dtype=dtype)
    how = (stride, pad, dilate, groups)
    y = kernels.convolution_2d(x, W, b, *how, z)
    assert_close(y, oracle.clipped_relu(oracle.convolution_2d(x, W, b, *how), z))
    assert y.dtype == dtype
    assert y.flags.c_contiguous


@dtypes
@gates
@convolutions
def test_the_way_back_through_the_rectifier_before_is_the_oracles(
    shape, W_shape, stride, pad, dilate, groups, masked, rectify, dtype
):
    x, W, g, _, c = arrays(0, shape, W_shape, stride, pad, dilate, groups, dtype=dtype)
    how, mask = (stride, pad, dilate, groups), oracle.relu_mask(x) if masked else None
    back = kernels.transposed_convolution_2d(g, W, c, *how, shape, mask, rectify)
    expected = oracle.transposed_convolution_2d(g, W, c, *how, shape)
    assert_close(back, oracle.relu_reverse(expected, gate_of(mask, x.shape), rectify))
    assert back.dtype == dtype
    assert back.flags.c_contiguous


@given(layouts(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_rectifiers_on_the_way_are_the_oracles_whatever_the_layout(layout, masked, rectify, seed):
    x, W, g, b, c = arrays(seed, *layout)
    y = kernels.convolution_2d(x, W, b, *layout[2:], 0.5)
    assert_close(y, oracle.clipped_relu(oracle.convolution_2d(x, W, b, *layout[2:]), 0.5))
    mask = oracle.relu_mask(x) if masked else None
    back = kernels.transposed_convolution_2d(g, W, c, *layout[2:], layout[0], mask, rectify)
    expected = oracle.transposed_convolution_2d(g, W, c, *layout[2:], layout[0])
    assert_close(back, oracle.relu_reverse(expected, gate_of(mask, x.shape), rectify))


@given(layouts(), st.sampled_from([None, np.inf, 0.5]), st.booleans(), st.integers(0, 99))
def test_results_are_scaled_and_shifted_before_they_are_rectified(layout, z, biased, seed):
    x, W, _, b, _ = arrays(seed, *layout)
    scale, shift = normal(seed + 5, (len(W),)), normal(seed + 6, (len(W),))
    y = oracle.convolution_2d(x, W, b if biased else np.zeros(len(W)), *layout[2:]) * scale[:, None, None] + shift[:, None, None]
    made = kernels.convolution_2d(x, W, b if biased else None, *layout[2:], z, scale, shift)
    assert_close(made, y if z is None else oracle.clipped_relu(y, z))


def test_rectifiers_on_the_way_stop_infinite_signals_and_let_nan_pass():
    x, W = np.array([np.inf, -np.inf, np.nan]) * np.ones((1, 1, 3, 1)), np.ones((1, 1, 1, 1))
    nowhere = np.zeros((1, 2), np.uint8)
    np.testing.assert_array_equal(kernels.transposed_convolution_2d(x, W, mask=nowhere), np.zeros(x.shape))
    np.testing.assert_array_equal(kernels.transposed_convolution_2d(x, W, rectify=True), np.maximum(x, 0))
    np.testing.assert_array_equal(kernels.convolution_2d(x, W, z=6.0), oracle.clipped_relu(x, 6.0))


@given(layouts(), st.integers(0, 99))
def test_the_directions_are_adjoint_and_linear(layout, seed):
    x, W, g, _, _ = arrays(seed, *layout)
    assert_adjoint(
        lambda x: kernels.convolution_2d(x, W, None, *layout[2:]),
        lambda g: kernels.transposed_convolution_2d(g, W, None, *layout[2:], outsize=layout[0]),
        x,
        g,
    )
    y = kernels.convolution_2d(x, W, None, *layout[2:])
    V = normal(seed + 5, W.shape)
    assert_close(
        kernels.convolution_2d(x, 2 * W - V, None, *layout[2:]),
        2 * y - kernels.convolution_2d(x, V, None, *layout[2:]),
    )


@dtypes
@given(layouts(), st.integers(0, 99))
def test_both_directions_are_chainers(dtype, layout, seed):
    shape, W_shape, stride, pad, dilate, groups = layout
    pad = ((pad[0][0],) * 2, (pad[1][0],) * 2)
    assume(all(shape[n] + sum(pad[n]) > dilate[n] * (W_shape[2 + n] - 1) for n in range(2)))
    x, W, g, b, c = arrays(seed, shape, W_shape, stride, pad, dilate, groups, dtype=dtype)
    how = (stride, (pad[0][0], pad[1][0]))
    y = kernels.convolution_2d(x, W, b, *how, dilate, groups)
    assert_close(y, F.convolution_2d(x, W, b, *how, dilate=dilate, groups=groups).array)
    back = kernels.transposed_convolution_2d(g, W, c, *how, dilate, groups, shape)
    assert_close(back, F.deconvolution_2d(g, W, c, *how, outsize=shape, dilate=dilate, groups=groups).array)


@given(layouts())
def test_outsizes_are_those_from_which_the_convolution_makes_the_signal(layout):
    shape, W_shape, stride, pad, dilate, groups = layout
    _, W, g, _, _ = arrays(0, *layout, batch=1)
    window = (W_shape[2:], stride, pad, dilate)
    for rows in range(1, shape[0] + 2 * stride[0]):
        try:
            fits = geometry.output_shape((rows, shape[1]), *window) == g.shape[2:]
        except ValueError:
            fits = False
        if fits:
            back = kernels.transposed_convolution_2d(g, W, None, *layout[2:], outsize=(rows, shape[1]))
            assert back.shape == (1, W_shape[1] * groups, rows, shape[1])
        else:
            with pytest.raises(ValueError, match="outsize"):
                kernels.transposed_convolution_2d(g, W, None, *layout[2:], outsize=(rows, shape[1]))


@dtypes
@convolutions
def test_calls(shape, W_shape, stride, pad, dilate, groups, dtype):
    x, W, g, b, c = arrays(0, shape, W_shape, stride, pad, dilate, groups, dtype=dtype)
    how = (stride, pad, dilate, groups)
    check_calls(lambda x, W, b: kernels.convolution_2d(x, W, b, *how), x, W, b)
    check_calls(lambda x, W, b: kernels.convolution_2d(x, W, b, *how, 0.5), x, W, b)
    check_calls(lambda g, W, c: kernels.transposed_convolution_2d(g, W, c, *how, shape), g, W, c)
    back = kernels.transposed_convolution_2d
    check_calls(lambda g, m, W, c: back(g, W, c, *how, shape, m, True), g, oracle.relu_mask(x), W, c, batched=2)
    assert kernels.transposed_convolution_2d(g, W, None, *how).shape[:2] == x.shape[:2]


#: A layer of each size of picture and of filters, large enough to be cut into tiles: batch, channels, filters, side, ksize.
LAYERS = [
    (2, 16, 24, 96, 3),
    (2, 48, 32, 40, 3),
    (5, 40, 300, 14, 3),
    (9, 200, 160, 7, 3),
    (6, 64, 48, 5, 1),
    (3, 96, 160, 56, 1),
    (2, 8, 8, 64, 5),
]


@pytest.mark.parametrize(("batch", "channels", "filters", "side", "ksize"), LAYERS)
def test_layers_of_many_tiles_are_chainers(batch, channels, filters, side, ksize):
    layout = ((side, side), (filters, channels, ksize, ksize), (1, 1), ((ksize // 2,) * 2,) * 2, (1, 1), 1)
    x, W, g, b, c = arrays(0, *layout, batch=batch, dtype=np.float32)
    W /= np.float32(ksize * np.sqrt(max(channels, filters)))  # to results near 1, as rounding of such
    assert_close(kernels.convolution_2d(x, W, b, 1, ksize // 2), F.convolution_2d(x, W, b, 1, ksize // 2).array)
    assert_close(kernels.transposed_convolution_2d(g, W, c, 1, ksize // 2), F.deconvolution_2d(g, W, c, 1, ksize // 2).array)


@host_only
@pytest.mark.parametrize("direction", [kernels.convolution_2d, kernels.transposed_convolution_2d])
@pytest.mark.parametrize(("channels", "side"), [(32, 80), (128, 28), (256, 14)])
def test_working_memory_does_not_grow_with_the_batch(direction, channels, side):
    W, peaks = normal(0, (channels, channels, 3, 3), np.float32), []
    direction(np.ones((1, channels, side, side), np.float32), W, None, 1, 1)  # what is compiled takes memory too
    for batch in (2, 16):
        x = normal(1, (batch, channels, side, side), np.float32)
        tracemalloc.start()
        result = direction(x, W, None, 1, 1)
        peaks.append(tracemalloc.get_traced_memory()[1] - result.nbytes)
        tracemalloc.stop()
    assert max(peaks) < 24 << 20


x, W, g, b, c = arrays(0, (6, 7), (4, 3, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
forward, backward = kernels.convolution_2d, kernels.transposed_convolution_2d


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: forward(x[0], W), ValueError, r"x must have 4 dimensions, got shape \(3, 6, 7\)"),
        (lambda: forward(x, W[0]), ValueError, r"W must have 4 dimensions, got shape \(3, 3, 3\)"),
        (lambda: forward(x, W.astype(np.float32)), TypeError, "W must be of the same dtype .*, float64, got float32"),
        (lambda: forward(x.astype(int), W), TypeError, "x must be of dtype .*float32 or float64, got int64"),
        (lambda: forward(x, W, b.astype(np.float32)), TypeError, "b must be of the same dtype .*, float64, got float32"),
        (lambda: forward(x, W, b[:3]), ValueError, r"b must have shape \(4,\), got \(3,\)"),
        (lambda: backward(g, W, b), ValueError, r"b must have shape \(3,\), got \(4,\)"),
        (lambda: forward(x, W, groups=2), ValueError, r"x must have 6 channels \(W \(4, 3, 3, 3\) with groups 2 .*\), got shape"),
        (lambda: forward(x, W, groups=3), ValueError, r"groups must divide the 4 filters of W \(4, 3, 3, 3\), got 3"),
        (lambda: forward(x, W, groups=0), ValueError, "groups must be at least 1, got 0"),
        (lambda: forward(x, W, groups=(1, 1)), TypeError, "groups must be of integers"),
        (lambda: backward(x, W), ValueError, r"x must have 4 channels \(one for each filter of W \(4, 3, 3, 3\)\), got shape"),
        (lambda: forward(x, W, dilate=4), ValueError, r"a window of extent 9 \(ksize 3, dilate 4\) is larger than .* 6 pixels"),
        (lambda: forward(x[:, :0], W[:, :0]), ValueError, r"W must have filters, channels and taps, got shape \(4, 0, 3, 3\)"),
        (lambda: forward(x, W[:0]), ValueError, r"W must have filters, channels and taps, got shape \(0, 3, 3, 3\)"),
        (lambda: forward(x[:, :, :0], W, pad=2), ValueError, r"x must have pixels, got shape \(2, 3, 0, 7\)"),
        (lambda: backward(g[:, :, :0], W), ValueError, r"x must have pixels, got shape"),
        (lambda: backward(g, W, None, 2, 1, outsize=(7, 7)), ValueError, r"outsize must have 5 or 6 rows .* 3 windows .* got 7"),
        (
            lambda: backward(g, W, None, 2, 1, outsize=(6, 6)),
            ValueError,
            r"outsize must have 7 or 8 columns .* 4 windows .* got 6",
        ),
        (lambda: backward(g, W, None, 5, 1, outsize=9), ValueError, "outsize must have 11 to 15 rows .* got 9"),
        (lambda: backward(g, W, pad=3), ValueError, r"padding \(3, 3\) leaves no pixel of 3 windows with ksize 3"),
        (lambda: forward(x, W, stride=0), ValueError, "stride must be at least 1, got 0"),
        (lambda: forward(x, W, pad=-1), ValueError, "pad must be at least 0, got -1"),
        (lambda: forward(x, W, dilate=0), ValueError, "dilate must be at least 1, got 0"),
        (lambda: forward(x, W, z=0), ValueError, "z must be positive, got 0"),
        (lambda: forward(x, W, scale=b), ValueError, "scale and shift must be given together, got scale alone"),
        (lambda: forward(x, W, scale=b, shift=b[1:]), ValueError, "shift must have shape"),
        (lambda: forward(x, W, z="6"), TypeError, "z must be a number, got '6'"),
        (
            lambda: backward(g, W, None, 2, 1, outsize=(6, 7), mask=np.zeros((2, 15), np.uint8)),
            ValueError,
            r"mask must have shape \(2, 16\), got \(2, 15\)",
        ),
        (lambda: backward(g, W, mask=np.zeros((2, 16), bool)), TypeError, "mask must be of dtype uint8, .* got bool"),
        (lambda: forward(list(x), W), TypeError, "x: expected a numpy.ndarray or a cupy.ndarray, got builtins.list"),
    ],
)
def test_errors_name_what_was_given_and_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


#: Poolings of the kinds that networks have, and of others: ksize, stride, pad, cover_all.
POOLINGS = {
    "2x2": ((2, 2), (2, 2), ((0, 0), (0, 0)), True),
    "2x2, windows inside": ((2, 2), (2, 2), ((0, 0), (0, 0)), False),
    "2x2 padded": ((2, 2), (2, 2), ((1, 0), (0, 1)), True),
    "3x3 stride 2": ((3, 3), (2, 2), ((0, 0), (0, 0)), True),
    "3x3 stride 1 padded": ((3, 3), (1, 1), ((1, 1), (1, 1)), True),
    "oblong, overlapping one way": ((3, 2), (1, 3), ((2, 1), (0, 1)), False),
    "gaps between windows": ((1, 2), (3, 4), ((0, 0), (1, 1)), False),
    "all": ((9, 8), (9, 8), ((0, 0), (0, 0)), True),
    "windows of more than 256 places": ((17, 16), (6, 5), ((8, 8), (8, 8)), True),
}
poolings = pytest.mark.parametrize(("ksize", "step", "padding", "cover_all"), POOLINGS.values(), ids=POOLINGS)


def unpooled(seed, shape, ksize, step, padding, cover_all, batch=2, channels=4, dtype=np.float64):
    """A signal at the windows of a pooling of random pictures, its switches, and the mask of the pictures."""
    pictures = normal(seed, (batch, channels, *shape), dtype)
    _, switches = oracle.max_pooling_2d(pictures, ksize, step, padding, cover_all)
    return normal(seed + 1, switches.shape, dtype), switches.astype(index_dtype(ksize[0] * ksize[1])), oracle.relu_mask(pictures)


def in_two_steps(g, switches, W, shape, pooling, pool_mask, pool_rectify, b, how, outsize, mask=None, rectify=False):
    """What unpooled_transposed_convolution_2d is defined as."""
    x = oracle.unpooling_2d(g, shape, *pooling, switches)
    x = oracle.relu_reverse(x, gate_of(pool_mask, x.shape), pool_rectify)
    y = oracle.transposed_convolution_2d(x, W, b, *how, outsize)
    return oracle.relu_reverse(y, gate_of(mask, y.shape), rectify)


@dtypes
@gates
@poolings
def test_unpooling_on_the_way_is_the_oracles(ksize, step, padding, cover_all, masked, rectify, dtype):
    shape, how = (9, 8), ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    g, switches, pool_mask = unpooled(0, shape, ksize, step, padding, cover_all, dtype=dtype)
    W, b = normal(2, (4, 3, 3, 3), dtype) / 6, normal(3, (3,), dtype)
    # The ReLU before the convolution is gone through by the other rule.
    gate, mask = pool_mask if masked else None, None if masked else oracle.relu_mask(normal(4, (2, 3, *shape)))
    pooling, run = (ksize, step, padding), kernels.unpooled_transposed_convolution_2d
    y = run(g, switches, W, shape, *pooling, gate, rectify, b, *how, None, mask, not rectify)
    assert_close(y, in_two_steps(g, switches, W, shape, pooling, gate, rectify, b, how, shape, mask, not rectify))
    assert y.dtype == dtype
    assert y.flags.c_contiguous


@given(layouts(), st.sampled_from(list(POOLINGS.values())[:7]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_unpooling_on_the_way_is_the_oracles_whatever_the_layout(layout, pooling, masked, rectify, seed):
    outsize, W_shape, *how = layout
    shape = geometry.output_shape(outsize, W_shape[2:], *how[:3])
    assume(all(shape[n] + sum(pooling[2][n]) >= pooling[0][n] for n in range(2)))
    g, switches, pool_mask = unpooled(seed, shape, *pooling, channels=W_shape[0])
    W, run = normal(seed + 2, W_shape) / 4, kernels.unpooled_transposed_convolution_2d
    before = oracle.relu_mask(normal(seed + 3, (2, W_shape[1] * how[3], *outsize)))
    gate, mask = (pool_mask, None) if masked else (None, before)
    y = run(g, switches, W, shape, *pooling[:3], gate, rectify, None, *how, outsize, mask, not rectify)
    assert_close(y, in_two_steps(g, switches, W, shape, pooling[:3], gate, rectify, None, how, outsize, mask, not rectify))


@poolings
def test_calls_of_unpooling_on_the_way(ksize, step, padding, cover_all):
    shape, W, b = (9, 8), normal(2, (4, 3, 3, 3)), normal(3, (3,))
    g, switches, mask = unpooled(0, shape, ksize, step, padding, cover_all)
    run = kernels.unpooled_transposed_convolution_2d
    how = (shape, ksize, step, padding)
    check_calls(lambda g, s, W, b: run(g, s, W, *how, b=b, pad=1), g, switches, W, b, batched=2)
    check_calls(lambda g, s, m, W: run(g, s, W, *how, pool_mask=m), g, switches, mask, W, batched=3)
    before = oracle.relu_mask(normal(4, (2, 3, *shape)))
    check_calls(lambda g, s, m, W: run(g, s, W, *how, pad=1, mask=m, rectify=True), g, switches, before, W, batched=3)


def unpool(**changes):
    """A call that is right but for the changes."""
    given = {"g": np.ones((1, 4, 3, 3)), "switches": np.zeros((1, 4, 3, 3), np.uint8), "W": np.ones((4, 2, 3, 3)), "insize": 6}
    return kernels.unpooled_transposed_convolution_2d(**(given | {"pool_ksize": 2} | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"g": np.ones((4, 3, 3))}, ValueError, r"g must have 4 dimensions, got shape \(4, 3, 3\)"),
        ({"g": np.ones((1, 3, 3, 3))}, ValueError, r"g must have 4 channels \(one for each filter of W \(4, 2, 3, 3\)\), got"),
        ({"W": np.ones((4, 2, 3, 3), np.float32)}, TypeError, "W must be of the same dtype .*, float64, got float32"),
        ({"b": np.ones(4)}, ValueError, r"b must have shape \(2,\), got \(4,\)"),
        ({"insize": 9}, ValueError, r"g must have 4 or 5 rows of windows for insize \(9, 9\), .* got shape \(1, 4, 3, 3\)"),
        ({"insize": 0}, ValueError, "insize must be at least 1, got 0"),
        ({"pool_ksize": 0}, ValueError, "pool_ksize must be at least 1, got 0"),
        ({"pool_stride": 0}, ValueError, "pool_stride must be at least 1, got 0"),
        ({"pool_pad": -1}, ValueError, "pad must be at least 0, got -1"),
        ({"switches": np.zeros((1, 4, 3, 3), int)}, TypeError, r"switches of \(2, 2\) windows must be of dtype uint8, got int64"),
        (
            {"switches": np.zeros((1, 4, 3, 2), np.uint8)},
            ValueError,
            r"switches must have shape \(1, 4, 3, 3\), got \(1, 4, 3, 2\)",
        ),
        ({"pool_mask": np.zeros((1, 17), np.uint8)}, ValueError, r"pool_mask must have shape \(1, 18\), got \(1, 17\)"),
        ({"mask": np.zeros((1, 17), np.uint8)}, ValueError, r"mask must have shape \(1, 16\), got \(1, 17\)"),
        ({"outsize": (9, 8)}, ValueError, r"outsize must have 8 rows .* 6 windows .* got 9"),
    ],
)
def test_errors_of_unpooling_on_the_way(changes, error, message):
    with pytest.raises(error, match=message):
        unpool(**changes)
    assert unpool().shape == (1, 2, 8, 8)


def rounded(x, bits):
    """Float32 numbers rounded to so many bits of mantissa, ties away from zero."""
    half = np.uint32(1 << 22 - bits)
    return ((x.view(np.uint32) + half) & ~np.uint32(2 * half - 1)).view(np.float32)


#: Ways to multiply: dtype, precision, what the factors are rounded to, and the tolerance of the sums.
WAYS = {
    "exact float32": (np.float32, "exact", lambda x: x, 1e-5),
    "float64": (np.float64, "exact", lambda x: x, 1e-12),
    "TF32": (np.float32, "tf32", lambda x: rounded(x, 10), 1e-5),
    "float16": (np.float16, "exact", lambda x: x, 1e-3),
}
ways = pytest.mark.parametrize(("dtype", "precision", "factor", "tolerance"), WAYS.values(), ids=WAYS)
#: Matrix products: (H, W), W's shape, stride, pad, dilate, groups; widths about those of tiles, and primes. And what they take.
PRODUCTS = {
    "a tile and a bit": (((11, 12), (129, 37, 1, 2), (1, 1), ((0, 0), (0, 1)), (1, 1), 1), "implicit_gemm"),
    "pixels as they lie": (((2, 18), (33, 31, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1), "Contiguous"),
    "a few channels": (((9, 7), (31, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1), "Gathered"),
    "phases": (((9, 10), (38, 5, 5, 5), (2, 3), ((2, 1), (0, 2)), (1, 2), 2), "Gathered"),
    "long sums": (((3, 3), (17, 257, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1), "sum_splits"),
}
products = pytest.mark.parametrize(("layout", "kernel"), PRODUCTS.values(), ids=PRODUCTS)


@pytest.fixture
def launched(monkeypatch):
    """The kernels that convolution launches, as they are launched."""
    from dcnn_kernels.cuda import convolution

    names, launch = [], convolution.launch
    monkeypatch.setattr(convolution, "launch", lambda file, name, *rest: (names.append(name), launch(file, name, *rest)))
    return names


@cuda_only
@products
@ways
def test_every_way_to_multiply(dtype, precision, factor, tolerance, layout, kernel, launched):
    from dcnn_kernels.cuda import settings

    x, W, g, b, c = arrays(0, *layout, dtype=dtype)
    with settings.precision(precision):
        y = kernels.convolution_2d(x, W, b, *layout[2:])
        assert any(kernel in name for name in launched)
        back = kernels.transposed_convolution_2d(g, W, c, *layout[2:], layout[0])
    x, W, g = (factor(array).astype(np.float64) for array in (x, W, g))
    b, c = (array.astype(np.float64) for array in (b, c))
    expected = reference.convolution_2d(x, W, b, *layout[2:])
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    expected = reference.transposed_convolution_2d(g, W, c, *layout[2:], layout[0])
    np.testing.assert_allclose(back, expected, rtol=tolerance, atol=tolerance)
    assert y.dtype == back.dtype == dtype


def assert_rectified_as_afterwards(x, W, g, b, c, how):
    """Holds what is rectified on the way to what is rectified afterwards, to the bit, infinite and NaN among the results.

    And what is scaled and shifted on the way to what is so afterwards.
    """
    scale, shift = normal(5, b.shape, b.dtype), normal(6, b.shape, b.dtype)
    for bias in (None, b):
        exactly = kernels.convolution_2d(x, W, bias, *how).astype(np.float64) * scale[:, None, None] + shift[:, None, None]
        tolerance = 8 * np.finfo(x.dtype).eps * np.abs(exactly).max()
        for z in (None, np.inf, 0.3):
            y = kernels.convolution_2d(x, W, bias, *how, z, scale, shift)
            assert y.dtype == x.dtype
            np.testing.assert_allclose(y, exactly if z is None else np.clip(exactly, 0, z), rtol=0, atol=tolerance)
    for signal in (x, g):
        signal[0, 0, 0, 0], signal[-1, -1, -1, -1] = np.nan, np.inf
    y = kernels.convolution_2d(x, W, b, *how)
    for z in (np.inf, 0.3):
        np.testing.assert_array_equal(kernels.convolution_2d(x, W, b, *how, z), kernels.clipped_relu(y, z))
    back, given = kernels.transposed_convolution_2d(g, W, c, *how, x.shape[2:]), kernels.relu_mask(x)
    for mask, rectify in ((given, False), (None, True), (given, True)):
        rectified = kernels.transposed_convolution_2d(g, W, c, *how, x.shape[2:], mask, rectify)
        np.testing.assert_array_equal(rectified, kernels.relu_reverse(back, mask, rectify))


@cuda_only
@products
@ways
def test_every_way_to_multiply_rectifies_as_afterwards(dtype, precision, factor, tolerance, layout, kernel):
    from dcnn_kernels.cuda import settings

    with settings.precision(precision):
        assert_rectified_as_afterwards(*arrays(0, *layout, dtype=dtype), layout[2:])


@cuda_only
@ways
def test_pixels_are_not_read_in_packs_where_they_begin_between_them(dtype, precision, factor, tolerance, launched):
    from dcnn_kernels.cuda import settings

    layout = PRODUCTS["pixels as they lie"][0]
    x, W, g, b, c = arrays(0, *layout, dtype=dtype)
    with settings.precision(precision):
        for direction, signal, bias in ((kernels.convolution_2d, x, b), (kernels.transposed_convolution_2d, g, c)):
            expected = direction(signal, W, bias)
            assert any("Contiguous" in name for name in launched)
            launched.clear()
            np.testing.assert_allclose(direction(shifted(signal), W, bias), expected, rtol=tolerance, atol=tolerance)
            assert not any("Contiguous" in name for name in launched)
            launched.clear()


@cuda_only
@pytest.mark.parametrize(
    ("way", "tile"),
    [
        (way, tile)
        for way in WAYS
        for tile in range(5)
        if not (way == "float64" and tile < 3) and not (way == "exact float32" and tile == 0)
    ],
)
def test_every_tile(way, tile, monkeypatch, launched):
    from dcnn_kernels.cuda import convolution, settings

    dtype, precision, factor, tolerance = WAYS[way]
    tile = convolution.TILES[tile]
    monkeypatch.setattr(convolution, "TILES", (tile,))
    shape, how = (7, 9), ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    for filters, channels, batch, pooling in ((35, 18, 1, POOLINGS["2x2"]), (19, 140, 3, POOLINGS["3x3 stride 2"])):
        g, switches, mask = unpooled(0, shape, *pooling, batch, filters, dtype)
        W, b = (normal(2, (filters, channels, 3, 3)) / np.sqrt(filters * 9)).astype(dtype), normal(3, (channels,), dtype)
        with settings.precision(precision):
            y = kernels.unpooled_transposed_convolution_2d(g, switches, W, shape, *pooling[:3], mask, True, b, *how)
        x = reference.unpooling_2d(g.astype(np.float64), shape, *pooling[:3], switches, mask=mask, rectify=True)
        x = factor(x.astype(dtype)).astype(np.float64)
        expected = reference.transposed_convolution_2d(x, factor(W).astype(np.float64), b.astype(np.float64), *how)
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    assert any(f"Tile<{tile.warps_m}, {tile.warps_n}, {tile.warp_m}, {tile.warp_n}, " in name for name in launched)


#: Convolutions whose product is narrow: (H, W), W's shape, stride, groups; and the kernel that is theirs.
NARROW = [
    ((9, 11), (1, 20, 3, 3), (1, 1), 1, "few_outputs"),
    ((9, 11), (3, 7, 3, 3), (2, 1), 1, "few_outputs"),
    ((9, 11), (8, 7, 1, 1), (1, 1), 2, "few_outputs"),
    ((9, 11), (33, 1, 3, 3), (1, 1), 1, "few_terms"),
    ((9, 12), (33, 3, 3, 3), (1, 1), 1, "few_terms"),
    ((9, 12), (66, 3, 1, 1), (1, 1), 2, "few_terms"),
    ((3, 3), (5, 700, 3, 3), (1, 1), 1, "implicit_gemm"),
    ((3, 3), (2, 700, 3, 3), (1, 1), 1, "implicit_gemm"),
    ((9, 11), (5, 1, 3, 3), (1, 1), 5, "depthwise"),
    ((9, 11), (3, 1, 5, 7), (2, 2), 3, "depthwise"),
    ((9, 11), (3, 1, 3, 9), (1, 1), 3, "few_outputs"),
    ((6, 6), (1, 7, 3, 3), (1, 1), 1, "few_outputs"),
    ((8, 9), (2, 13, 3, 3), (1, 1), 1, "few_outputs"),
    ((9, 10), (1, 7, 3, 3), (2, 2), 1, "few_outputs"),
]
narrow = pytest.mark.parametrize(("shape", "W_shape", "stride", "groups", "kernel"), NARROW)


@cuda_only
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@narrow
def test_narrow_products_have_their_own_kernels(shape, W_shape, stride, groups, kernel, dtype, launched):
    layout = (shape, W_shape, stride, tuple((size // 2, size // 2) for size in W_shape[2:]), (1, 1), groups)
    x, W, g, b, c = arrays(0, *layout, dtype=dtype)
    y = kernels.convolution_2d(x, W, b, *layout[2:])
    assert any(name.startswith(kernel) for name in launched)
    back = kernels.transposed_convolution_2d(g, W, c, *layout[2:], shape)
    x, W, g, b, c = (array.astype(np.float64) for array in (x, W, g, b, c))
    tolerance = 1e-3 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(y, reference.convolution_2d(x, W, b, *layout[2:]), rtol=tolerance, atol=tolerance)
    expected = reference.transposed_convolution_2d(g, W, c, *layout[2:], shape)
    np.testing.assert_allclose(back, expected, rtol=tolerance, atol=tolerance)


@cuda_only
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@narrow
def test_narrow_products_rectify_as_afterwards(shape, W_shape, stride, groups, kernel, dtype):
    layout = (shape, W_shape, stride, tuple((size // 2, size // 2) for size in W_shape[2:]), (1, 1), groups)
    assert_rectified_as_afterwards(*arrays(0, *layout, dtype=dtype), layout[2:])


#: From a pooled signal: filters and channels of a convolution, and the kernel of the way back through it.
UNPOOLED = {(5, 3): "few_outputs", (2, 13): "few_terms", (12, 18): "implicit_gemm", (70, 19): "sum_splits"}


@cuda_only
@pytest.mark.parametrize("shape", [(7, 9), (6, 6)])
@pytest.mark.parametrize("pooling", ["2x2", "3x3 stride 2"])
@pytest.mark.parametrize(("filters", "channels"), UNPOOLED)
@ways
def test_unpooling_on_the_way_rectifies_as_afterwards(
    dtype, precision, factor, tolerance, filters, channels, pooling, shape, launched
):
    from dcnn_kernels.cuda import settings

    pooling = POOLINGS[pooling]
    g, switches, pool_mask = unpooled(0, shape, *pooling, 3, filters, dtype)
    g[0, 0, 0, 0], g[-1, -1, -1, -1] = np.nan, np.inf
    W, b = (normal(2, (filters, channels, 3, 3)) / np.sqrt(filters * 9)).astype(dtype), normal(3, (channels,), dtype)
    given = (g, switches, W, shape, *pooling[:3], pool_mask, True, b, 1, 1)
    before = kernels.relu_mask(normal(4, (3, channels, *shape), dtype))
    with settings.precision(precision):
        y = kernels.unpooled_transposed_convolution_2d(*given)
        assert launched[-1].startswith(UNPOOLED[filters, channels])
        for mask, rectify in ((before, False), (None, True), (before, True)):
            rectified = kernels.unpooled_transposed_convolution_2d(*given, mask=mask, rectify=rectify)
            np.testing.assert_array_equal(rectified, kernels.relu_reverse(y, mask, rectify))


@cuda_only
def test_one_channel_of_a_signal_is_one_channel_of_work(launched):
    W, g = normal(0, (64, 70, 3, 3), np.float32), normal(1, (1, 64, 8, 9), np.float32)
    alone = np.zeros_like(g)
    alone[:, 5] = g[:, 5]
    whole = kernels.transposed_convolution_2d(alone, W, None, 1, 1)
    launched.clear()
    assert_close(kernels.transposed_convolution_2d(g[:, 5:6], W[5:6], None, 1, 1), whole)
    assert [name.partition("<")[0] for name in launched] == ["few_terms"]


@cuda_only
def test_division_by_multiplication():
    from dcnn_kernels.cuda.convolution import _divisor

    numbers = np.unique(
        np.concatenate([np.arange(300), 2**31 - 1 - np.arange(300), np.random.default_rng(0).integers(0, 2**31, 300)])
    )
    for divisor in {*range(1, 70), 121, 1000, 4097, 2**16 - 1, 2**20 + 1, 2**30, 2**30 + 1, 2**31 - 1}:
        multiplier, shift = _divisor(divisor)
        assert 0 < multiplier < 2**32
        near = np.concatenate([numbers, numbers // divisor * divisor])
        assert [int(number) * multiplier >> shift for number in near] == (near // divisor).tolist()


@cuda_only
def test_devices_without_tf32_stay_exact(monkeypatch):
    from dcnn_kernels.cuda import convolution, settings

    names = []
    for capability in ("75", "80", "120"):
        monkeypatch.setattr(convolution.cupy.cuda, "Device", lambda: SimpleNamespace(compute_capability=capability))  # noqa: B023
        with settings.precision("tf32"):
            names.append([convolution._way(np.dtype(dtype)).name for dtype in (np.float16, np.float32, np.float64)])
    assert names == [
        ["Half", "Exact<float>", "Exact<double>"],
        ["Half", "TensorFloat32", "Exact<double>"],
        ["Half", "TensorFloat32", "Exact<double>"],
    ]


@cuda_only
def test_settings_hold_for_the_block_and_the_thread_that_makes_them():
    from dcnn_kernels.cuda import settings

    elsewhere = []
    with settings.precision("tf32"), settings.engine("own"):
        thread = threading.Thread(target=lambda: elsewhere.append((settings.current_precision(), settings.current_engine())))
        thread.start()
        thread.join()
        with settings.precision("exact"):
            assert settings.current_precision() == "exact"
        assert (settings.current_precision(), settings.current_engine()) == ("tf32", "own")
    assert [(settings.current_precision(), settings.current_engine())] == elsewhere == [("exact", "auto")]
    with pytest.raises(ValueError, match=r"precision must be one of \('exact', 'tf32'\), got 'bf16'"), settings.precision("bf16"):
        pass
    with pytest.raises(ValueError, match=r"engine must be one of .*, got 'cutlass'"), settings.engine("cutlass"):
        pass

"""Many signals of one picture: what the primitives for batches of pictures make of them, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnn_kernels
from tests.kernels.device import kernels


def signals_of(rng, count, *shape):
    """Signals that are zero at shared places, and here and there on their own."""
    g = rng.standard_normal((*shape, count)) * (rng.random(shape) < rng.random())[..., None]
    return g * (rng.random(g.shape) < 0.9)


@given(
    seed=st.integers(0, 10_000),
    ksize=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilate=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([(1, 1), (2, 1), (6, 1), (6, 2)]),
    count=st.sampled_from([1, 3, 8, 17]),
    masked=st.booleans(),
    rectify=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_transposed_convolution_and_relu(seed, ksize, stride, dilate, groups, count, masked, rectify):
    rng = np.random.default_rng(seed)
    number, outgoing = groups
    pad = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in ksize)
    size = tuple(int(rng.integers(1, 5)) + d * (k - 1) for k, d in zip(ksize, dilate, strict=True))
    x = rng.standard_normal((1, number * outgoing, *size))
    W = rng.standard_normal((6, outgoing, *ksize))
    window = (stride, pad, dilate, number)
    g = signals_of(rng, count, *dcnn_kernels.convolution_2d(x, W, None, *window).shape[2:], 6)
    mask = dcnn_kernels.relu_mask(x) if masked else None
    got = kernels.shared_transposed_convolution_2d(g, W, *window, size, mask, rectify)
    assert got.shape == (*size, number * outgoing, count)
    for n in range(count):
        back = dcnn_kernels.transposed_convolution_2d(g[..., n].transpose(2, 0, 1)[None], W, None, *window, size)
        expected = dcnn_kernels.relu_reverse(back, mask, rectify)[0]
        np.testing.assert_allclose(got[..., n], expected.transpose(1, 2, 0), rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 10_000),
    ksize=st.integers(1, 4),
    stride=st.integers(1, 4),
    cover_all=st.booleans(),
    count=st.sampled_from([1, 8, 17]),
    masked=st.booleans(),
    rectify=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_unpooling_and_relu(seed, ksize, stride, cover_all, count, masked, rectify):
    rng = np.random.default_rng(seed)
    pad = int(rng.integers(0, (ksize + 1) // 2))
    x = rng.standard_normal((1, 5, int(rng.integers(ksize, 12)), int(rng.integers(ksize, 12))))
    y, switches = dcnn_kernels.max_pooling_2d(x, ksize, stride, pad, cover_all)
    g = signals_of(rng, count, *y.shape[2:], 5)
    mask = dcnn_kernels.relu_mask(x) if masked else None
    window = (x.shape[2:], ksize, stride, pad)
    got = kernels.shared_unpooling_2d(g, *window, switches, mask, rectify)
    for n in range(count):
        signal = g[..., n].transpose(2, 0, 1)[None]
        expected = dcnn_kernels.unpooling_2d(signal, *window, switches, mask=mask, rectify=rectify)[0]
        np.testing.assert_allclose(got[..., n], expected.transpose(1, 2, 0), rtol=1e-12, atol=1e-12)


def test_single_precision_stays():
    g, W = np.ones((3, 3, 16, 16), np.float32), np.ones((16, 9, 3, 3), np.float32)
    got = kernels.shared_transposed_convolution_2d(g, W, pad=1)
    assert got.dtype == np.float32
    assert got[1, 1, 0, 0] == 9 * 16


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("convolution", {"groups": 4}, ValueError, "groups 4 divide"),
        ("convolution", {"outsize": 9}, ValueError, r"outsize \(9, 9\) makes"),
        ("convolution", {"mask": np.zeros((2, 1), np.uint8)}, ValueError, "mask must have shape"),
        ("unpooling", {"switches": None}, TypeError, "switches must be"),
        ("unpooling", {"switches": np.zeros((2, 3, 2, 2), np.uint8)}, ValueError, "switches must have shape"),
        ("unpooling", {"outsize": 9}, ValueError, "windows"),
    ],
)
def test_bad_input_is_a_clear_error(name, arguments, error, message):
    calls = {
        "convolution": (kernels.shared_transposed_convolution_2d, {"g": np.ones((2, 2, 3, 4)), "W": np.ones((3, 1, 1, 1))}),
        "unpooling": (
            kernels.shared_unpooling_2d,
            {"g": np.ones((2, 2, 3, 4)), "outsize": 4, "ksize": 2, "switches": np.zeros((1, 3, 2, 2), np.uint8)},
        ),
    }
    function, call = calls[name]
    with pytest.raises(error, match=message):
        function(**{**call, **arguments})

"""Transposed convolutions without what is zero in all signals of one picture, and when: on the compiled backend only."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dcnn_kernels
from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import normal

pytestmark = pytest.mark.compiled_only


def signals_of(rng, *shape):
    """Signals that are zero at shared places, and here and there on their own."""
    g = rng.standard_normal(shape) * (rng.random(shape[1:]) < rng.random())
    return g * (rng.random(shape) < 0.9)


@given(
    seed=st.integers(0, 10_000),
    ksize=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilate=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    channels=st.sampled_from([(1, 1), (2, 7), (6, 3), (70, 4), (3, 130)]),
    count=st.sampled_from([8, 11, 17]),
    masked=st.booleans(),
    rectify=st.booleans(),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_skipped_changes_nothing(seed, ksize, stride, dilate, channels, count, masked, rectify):
    from dcnn_kernels.compiled import settings, sparse

    rng = np.random.default_rng(seed)
    made, taken = channels
    pad = tuple((int(rng.integers(0, k)), int(rng.integers(0, k))) for k in ksize)
    size = tuple(int(rng.integers(1, 5)) + d * (k - 1) for k, d in zip(ksize, dilate, strict=True))
    x, W, b = rng.standard_normal((1, made, *size)), rng.standard_normal((taken, made, *ksize)), rng.standard_normal(made)
    outs = dcnn_kernels.convolution_2d(x, W, None, stride, pad, dilate).shape[2:]
    g, bits = signals_of(rng, count, taken, *outs), dcnn_kernels.relu_mask(x)
    mask = np.broadcast_to(bits, (count, bits.shape[1])) if masked else None
    with settings.algorithm("sparse"), pytest.MonkeyPatch.context() as patch:
        calls = []
        multiply = sparse.multiply
        patch.setattr(sparse, "multiply", lambda *arguments: calls.append(1) or multiply(*arguments))
        got = kernels.transposed_convolution_2d(g, W, b, stride, pad, dilate, 1, size, mask, rectify)
    assert calls
    back = oracle.transposed_convolution_2d(g, W, b, stride, pad, dilate, 1, size)
    expected = dcnn_kernels.relu_reverse(back, mask, rectify)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def way_back(count, on, mask=None, algorithm="auto"):
    """Whether 3x3 windows of 64 channels go back without zeros, given which share of the places isn't zero."""
    from dcnn_kernels.compiled import settings, sparse

    g = normal(0, (count, 64, 12, 12), np.float32) * (np.random.default_rng(1).random((64, 12, 12)) < on)
    W, calls = normal(1, (64, 64, 3, 3), np.float32), []
    with pytest.MonkeyPatch.context() as patch, settings.algorithm(algorithm):
        patch.setattr(sparse, "multiply", lambda y, *_: calls.append(y.fill(0)))
        kernels.transposed_convolution_2d(g, W, None, 1, 1, mask=mask)
    return bool(calls)


def test_zeros_are_skipped_where_that_pays():
    bits = dcnn_kernels.relu_mask(np.where(np.random.default_rng(2).random((1, 64, 12, 12)) < 0.2, 1.0, -1.0))
    of_one = np.broadcast_to(bits, (32, bits.shape[1]))
    assert way_back(32, 0.05)
    assert way_back(32, 0.1, of_one)
    assert not way_back(32, 1)
    assert not way_back(7, 0.05)
    assert not way_back(32, 0.05, of_one.copy())
    assert not way_back(32, 0.05, algorithm="products")
    assert not way_back(32, 0.05, algorithm="winograd")


def test_what_is_not_a_number_stays_so():
    from dcnn_kernels.compiled import settings

    g = np.zeros((8, 2, 3, 3))
    g[3, 1, 1, 1] = math.nan
    with settings.algorithm("sparse"):
        got = kernels.transposed_convolution_2d(g, np.ones((2, 1, 1, 1)), rectify=True)
    np.testing.assert_array_equal(got, g[:, 1:])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 14, 57])
def test_the_share_of_zeros_is_told_from_some_rows(rows):
    from dcnn_kernels.compiled import sparse

    x = np.zeros((9, 150, rows, 6), np.float32)
    assert sparse._share_of_nonzero(x) == 0
    x[4] = math.nan
    assert sparse._share_of_nonzero(x) == 1
    x[:, :, :, ::3] = 0
    assert sparse._share_of_nonzero(x) == pytest.approx(2 / 3)

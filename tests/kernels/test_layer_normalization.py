import functools

import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_close, check_calls, dtypes, normal

centred = pytest.mark.parametrize("centred", [True, False])


@dtypes
@centred
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(2, 7), (3, 1), (2, 3, 33), (2, 2, 3, 40), (2, 517)])
def test_rows_and_their_gradients_are_the_oracles(shape, weighted, centred, dtype):
    x, g = normal(0, shape, dtype) + dtype(0.5), normal(1, shape, dtype)
    gamma, beta = normal(2, (2, shape[-1]), dtype) if weighted else (None, None)
    one, zero = (gamma, beta) if weighted else (np.ones(shape[-1]), np.zeros(shape[-1]))
    y = kernels.layer_normalization(x, gamma, beta, 0.1, centred)
    assert y.dtype == dtype
    assert_close(y, oracle.layer_normalization(x, one, zero, 0.1, centred))
    back = kernels.layer_normalization_gradient(x, g, gamma, 0.1, centred)
    assert back.dtype == dtype
    assert_close(back, oracle.layer_normalization_gradient(x, g, one, 0.1, centred))


@dtypes
def test_rows_longer_than_a_block_of_threads_takes_at_once(dtype):
    x, g = normal(3, (2, 3, 5003), dtype), normal(4, (2, 3, 5003), dtype)
    x64, g64 = x.astype(np.float64), g.astype(np.float64)
    mean, scale = x64.mean(-1, keepdims=True), 1 / np.sqrt(x64.var(-1, keepdims=True) + 1e-5)
    normalized = (x64 - mean) * scale
    assert_close(kernels.layer_normalization(x), normalized)
    along = (g64 * normalized).mean(-1, keepdims=True)
    assert_close(kernels.layer_normalization_gradient(x, g), (g64 - g64.mean(-1, keepdims=True) - normalized * along) * scale)


def test_rows_and_their_gradients_are_chainers():
    x, gamma, beta, g = normal(5, (6, 31)), *normal(6, (2, 31)), normal(7, (6, 31))
    variable = chainer.Variable(x)
    y = F.layer_normalization(variable, gamma, beta, eps=1e-3)
    y.grad = g.copy()
    y.backward()
    assert_close(kernels.layer_normalization(x, gamma, beta, 1e-3), y.array)
    assert_close(kernels.layer_normalization_gradient(x, g, gamma, 1e-3), variable.grad)


def test_groups_are_chainers():
    x, ones = normal(8, (2, 6, 4, 5)), np.ones(6)
    expected = F.group_normalization(x, 3, ones, 0 * ones, eps=1e-5).array
    assert_close(kernels.layer_normalization(x.reshape(2, 3, -1)).reshape(x.shape), expected)


@given(st.integers(1, 3), st.integers(2, 70), st.booleans(), st.integers(0, 99))
def test_gradients_are_the_slope_and_linear(rows, count, centred, seed):
    x, g, step = (normal(seed + i, (rows, count)) for i in range(3))
    ahead, behind = (kernels.layer_normalization(x + h * step, None, None, 0.1, centred) for h in (1e-5, -1e-5))
    back = functools.partial(kernels.layer_normalization_gradient, x, eps=0.1, centred=centred)
    np.testing.assert_allclose(np.vdot(g, ahead - behind) / 2e-5, np.vdot(back(g), step), rtol=1e-6, atol=1e-7)
    assert_close(back(2 * g - 3 * step), 2 * back(g) - 3 * back(step))


def test_a_large_mean_costs_no_digits():
    x = (10000 + np.arange(8, dtype=np.float32) / 8).reshape(1, 8)
    expected = (x[0].astype(np.float64) - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    np.testing.assert_allclose(kernels.layer_normalization(x, eps=0)[0], expected, rtol=1e-5)


@centred
def test_dtypes_layouts_and_batches(centred):
    x, g, weights = normal(9, (3, 4, 21), np.float32), normal(10, (3, 4, 21), np.float32), normal(11, (2, 21), np.float32)
    check_calls(functools.partial(kernels.layer_normalization, centred=centred), x)
    check_calls(kernels.layer_normalization, x, *weights)
    check_calls(functools.partial(kernels.layer_normalization_gradient, centred=centred), x, g, batched=2)
    check_calls(kernels.layer_normalization_gradient, x, g, weights[0], batched=2)


@dtypes
def test_one_sample_serves_all_signals(dtype):
    x, g, gamma = normal(12, (1, 5, 37), dtype), normal(13, (4, 5, 37), dtype), normal(14, (37,), dtype)
    shared = kernels.layer_normalization_gradient(x, g, gamma)
    assert_close(shared, kernels.layer_normalization_gradient(np.repeat(x, 4, axis=0), g, gamma))
    assert kernels.layer_normalization_gradient(x, g[:0], gamma).shape == (0, 5, 37)


def test_bad_arguments_are_named():
    x = normal(15, (2, 3))
    with pytest.raises(ValueError, match=r"gamma must have shape \(3,\), got \(2,\)"):
        kernels.layer_normalization(x, x[:, 0])
    with pytest.raises(ValueError, match=r"rows of x must have a value at least, got shape \(2, 0\)"):
        kernels.layer_normalization(x[:, :0])
    with pytest.raises(ValueError, match=r"x must have shape \(4, 3\), got \(2, 3\)"):
        kernels.layer_normalization_gradient(x, normal(16, (4, 3)))
    with pytest.raises(TypeError, match="eps must be a number, got None"):
        kernels.layer_normalization(x, eps=None)
    with pytest.raises(TypeError, match="beta must be of the same dtype"):
        kernels.layer_normalization(x, beta=np.zeros(3, np.float32))

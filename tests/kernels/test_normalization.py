import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn_kernels.reference import blocks
from tests import oracle
from tests.kernels.device import cuda_only, kernels, reference_only
from tests.kernels.properties import assert_adjoint, assert_close, check_calls, dtypes, normal

#: Strong enough for the sum to matter: AlexNet's alpha moves values of size 1 by a ten-thousandth only.
STRONG = {"n": 5, "k": 1.5, "alpha": 0.3, "beta": 0.75}
parameters = pytest.mark.parametrize(
    ("n", "k", "alpha", "beta"),
    [(5, 2.0, 1e-4, 0.75), (5, 1.5, 0.3, 0.75), (1, 1.0, 0.5, 1.0), (4, 1.0, 0.1, 0.5), (99, 2.0, 0.1, 1.3), (3, 1.0, 0.2, 0.0)],
)


@dtypes
@parameters
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (3, 6), (2, 1, 4), (2, 2, 3, 1), (1, 37, 3)])
def test_local_response_normalization_is_the_oracles(shape, n, k, alpha, beta, dtype):
    x, g = normal(0, shape, dtype), normal(1, shape, dtype)
    y = kernels.local_response_normalization(x, n, k, alpha, beta)
    assert_close(y, oracle.local_response_normalization(x, n, k, alpha, beta))
    back = kernels.local_response_normalization_gradient(x, g, n, k, alpha, beta)
    assert_close(back, oracle.local_response_normalization_gradient(x, g, n, k, alpha, beta))


@parameters
def test_local_response_normalization_and_its_gradient_are_chainers(n, k, alpha, beta):
    x, g = chainer.Variable(normal(0, (2, 7, 3, 4), np.float32)), normal(1, (2, 7, 3, 4), np.float32)
    expected = F.local_response_normalization(x, n, k, alpha, beta)
    expected.grad = g.copy()
    expected.backward()
    assert_close(kernels.local_response_normalization(x.array, n, k, alpha, beta), expected.array)
    assert_close(kernels.local_response_normalization_gradient(x.array, g, n, k, alpha, beta), x.grad)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_local_response_normalization_gradient_is_the_slope(channels, n, seed):
    x, g, step = (normal(seed + i, (1, channels, 2, 2)) for i in range(3))
    parameters = (n, 1.5, 0.3, 0.75)
    ahead, behind = (kernels.local_response_normalization(x + h * step, *parameters) for h in (1e-5, -1e-5))
    slope = np.vdot(kernels.local_response_normalization_gradient(x, g, *parameters), step)
    np.testing.assert_allclose(np.vdot(g, ahead - behind) / 2e-5, slope, rtol=1e-6, atol=1e-7)


def test_sums_of_very_different_channels_lose_no_digits():
    x = np.full((1, 9, 1, 1), 1e-3, np.float32)
    x[0, 0] = 1e4
    y = kernels.local_response_normalization(x, 3, 0.0, 1.0, 0.5)
    np.testing.assert_allclose(y[0, 3:-1].ravel(), 1 / np.sqrt(3), rtol=1e-6)


@dtypes
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 3), (2, 3, 17, 13)])
def test_batch_normalization_is_the_oracles_and_chainers(shape, dtype):
    x, g = normal(0, shape, dtype), normal(1, shape, dtype)
    gamma, beta, mean, deviation = normal(2, (4, 3), dtype)
    var = deviation**2
    y = kernels.batch_normalization(x, gamma, beta, mean, var, 1e-3)
    assert_close(y, oracle.batch_normalization(x, gamma, beta, mean, var, 1e-3))
    variable = chainer.Variable(x)
    expected = F.fixed_batch_normalization(variable, gamma, beta, mean, var, eps=1e-3)
    assert_close(y, expected.array)
    expected.grad = g.copy()
    expected.backward()
    back = kernels.batch_normalization_adjoint(g, gamma, var, 1e-3)
    assert_close(back, oracle.batch_normalization_adjoint(g, gamma, var, 1e-3))
    assert_close(back, variable.grad)
    default = F.fixed_batch_normalization(x, gamma, beta, mean, var).array
    assert_close(kernels.batch_normalization(x, gamma, beta, mean, var), default)


def test_a_large_mean_costs_batch_normalization_no_digits():
    x = (10000 + np.arange(8, dtype=np.float32) / 8).reshape(8, 1)
    one = np.ones(1, np.float32)
    y = kernels.batch_normalization(x, one, 0 * one, 10000 * one, one, 0.0)
    np.testing.assert_array_equal(y.ravel(), np.arange(8) / 8)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (3, 2)]), st.integers(0, 99))
def test_batch_normalization_adjointness(batch, channels, picture, seed):
    gamma, var = normal(seed, (channels,)), normal(seed + 1, (channels,)) ** 2 + 0.1
    zero = np.zeros(channels)
    shape = (batch, channels, *picture)
    assert_adjoint(
        lambda x: kernels.batch_normalization(x, gamma, zero, zero, var),
        lambda g: kernels.batch_normalization_adjoint(g, gamma, var),
        normal(seed + 2, shape),
        normal(seed + 3, shape),
    )


@dtypes
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (3, 7)])
def test_calls(shape, dtype):
    x, g = normal(0, shape, dtype), normal(1, shape, dtype)
    gamma, beta, mean, var = np.abs(normal(2, (4, 7), dtype))
    check_calls(lambda x: kernels.local_response_normalization(x, **STRONG), x)
    check_calls(lambda x, g: kernels.local_response_normalization_gradient(x, g, **STRONG), x, g, batched=2)
    check_calls(kernels.batch_normalization, x, gamma, beta, mean, var)
    check_calls(kernels.batch_normalization_adjoint, g, gamma, var)


@cuda_only
@dtypes
@pytest.mark.parametrize("n", [5, 11])
def test_results_do_not_depend_on_the_grid_or_on_segments(n, dtype, monkeypatch):
    x, g = normal(0, (3, 23, 13, 17), dtype), normal(1, (3, 23, 13, 17), dtype)
    gamma, beta, mean, var = np.abs(normal(2, (4, 23), dtype))

    def results():
        return (
            kernels.local_response_normalization(x, n, 1.5, 0.3, 0.75),
            kernels.local_response_normalization_gradient(x, g, n, 1.5, 0.3, 0.75),
            kernels.batch_normalization(x, gamma, beta, mean, var),
            kernels.batch_normalization_adjoint(g, gamma, var),
        )

    expected = results()
    for threads, segment in ((1, 16), (1 << 18, 1), (3 * 13 * 17 * 4, 1)):
        monkeypatch.setattr("dcnn_kernels.cuda.normalization.BUSY_THREADS", threads)
        monkeypatch.setattr("dcnn_kernels.cuda.normalization.SEGMENT", segment)
        for module in ("elements", "normalization"):
            monkeypatch.setattr(f"dcnn_kernels.cuda.{module}.BLOCKS", 1)
        for again, once in zip(results(), expected, strict=True):
            np.testing.assert_array_equal(again, once)


@reference_only
@pytest.mark.parametrize("size", [1, 300, 3000])
def test_results_do_not_depend_on_the_blocks(size, monkeypatch):
    x, g = normal(0, (3, 5, 4, 3)), normal(1, (3, 5, 4, 3))
    gamma, beta, mean, var = np.abs(normal(2, (4, 5)))
    calls = [
        lambda: kernels.local_response_normalization(x, **STRONG),
        lambda: kernels.local_response_normalization_gradient(x, g, **STRONG),
        lambda: kernels.batch_normalization(x, gamma, beta, mean, var),
    ]
    expected = [call() for call in calls]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    for call, result in zip(calls, expected, strict=True):
        np.testing.assert_allclose(call(), result, rtol=1e-14)


def test_errors_name_what_was_given_and_expected():
    x, one = normal(0, (2, 3, 4, 4)), np.ones(3)
    with pytest.raises(ValueError, match=r"x must have 2 or .* dimensions, got shape \(2,\)"):
        kernels.local_response_normalization(x[:, 0, 0, 0])
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        kernels.local_response_normalization(x, 0)
    with pytest.raises(TypeError, match=r"n must be an integer, got 2\.5"):
        kernels.local_response_normalization(x, 2.5)
    with pytest.raises(TypeError, match="alpha must be a number, got 'much'"):
        kernels.local_response_normalization_gradient(x, x, alpha="much")
    with pytest.raises(ValueError, match=r"g must have shape \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        kernels.local_response_normalization_gradient(x, x[:1])
    with pytest.raises(TypeError, match="g must be of the same dtype as the other arrays, float64, got float32"):
        kernels.local_response_normalization_gradient(x, x.astype(np.float32))
    with pytest.raises(ValueError, match=r"x must have 2 or 4 dimensions, got shape \(3, 4, 4\)"):
        kernels.batch_normalization(x[0], one, one, one, one)
    with pytest.raises(ValueError, match=r"mean must have shape \(3,\), got \(2,\)"):
        kernels.batch_normalization(x, one, one, one[:2], one)
    with pytest.raises(TypeError, match="var must be of the same dtype as the other arrays, float64, got float32"):
        kernels.batch_normalization(x, one, one, one, one.astype(np.float32))
    with pytest.raises(TypeError, match="eps must be a number, got None"):
        kernels.batch_normalization(x, one, one, one, one, None)
    with pytest.raises(ValueError, match=r"gamma must have shape \(3,\), got \(4,\)"):
        kernels.batch_normalization_adjoint(x, np.ones(4), one)

import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_adjoint, assert_close, check_calls, dtypes, normal


@dtypes
def test_linear_is_the_oracles(dtype):
    x, W, b = normal(0, (3, 7), dtype), normal(1, (4, 7), dtype), normal(2, (4,), dtype)
    assert_close(kernels.linear(x, W, b), oracle.linear(x, W, b))
    assert_close(kernels.linear(x, W), oracle.linear(x, W))
    assert_close(kernels.linear(x, W, b), F.linear(x, W, b).array)


@dtypes
def test_adjoint_is_the_oracles(dtype):
    g, W = normal(0, (3, 4), dtype), normal(1, (4, 7), dtype)
    assert_close(kernels.linear_adjoint(g, W), oracle.linear_adjoint(g, W))


@dtypes
def test_calls(dtype):
    x, W, b = normal(0, (3, 7), dtype), normal(1, (4, 7), dtype), normal(2, (4,), dtype)
    check_calls(kernels.linear, x, W, b)
    check_calls(kernels.linear_adjoint, x[:, :4], W)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_adjointness(batch, inputs, outputs, seed):
    W = normal(seed, (outputs, inputs))
    assert_adjoint(
        lambda x: kernels.linear(x, W),
        lambda g: kernels.linear_adjoint(g, W),
        normal(seed + 1, (batch, inputs)),
        normal(seed + 2, (batch, outputs)),
    )


def test_errors_name_what_was_given_and_expected():
    x, W, b = normal(0, (3, 7)), normal(1, (4, 7)), normal(2, (4,))
    with pytest.raises(ValueError, match=r"x must have 2 dimensions, got shape \(3, 7, 1\)"):
        kernels.linear(x[..., None], W)
    with pytest.raises(ValueError, match=r"W must have shape \(any, 7\), got \(7, 4\)"):
        kernels.linear(x, W.T)
    with pytest.raises(ValueError, match=r"b must have shape \(4,\), got \(3,\)"):
        kernels.linear(x, W, b[:3])
    with pytest.raises(TypeError, match="b must be of the same dtype as the other arrays, float64, got float32"):
        kernels.linear(x, W, b.astype(np.float32))
    with pytest.raises(ValueError, match=r"W must have shape \(7, any\), got \(4, 7\)"):
        kernels.linear_adjoint(x, W)
    with pytest.raises(TypeError, match="W must be of the same dtype as the other arrays, float64, got float32"):
        kernels.linear_adjoint(x[:, :4], W.astype(np.float32))
    with pytest.raises(ValueError, match=r"g must have 2 dimensions, got shape \(3,\)"):
        kernels.linear_adjoint(x[:, 0], W)

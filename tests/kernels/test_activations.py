import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn_kernels.activations import FUNCTIONS
from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import TOLERANCE, assert_close, check_calls, dtypes, normal

#: With values of a and b, where they are read.
CALLS = [(name, 1.0, 0.0) for name in FUNCTIONS] + [
    ("elu", 0.4, 0.0),
    ("hard_sigmoid", 0.3, 0.4),
    ("softplus", 3.0, 0.0),
    ("softplus", -0.5, 0.0),
]
functions = pytest.mark.parametrize(("function", "a", "b"), CALLS)
#: The last has more elements than a thread takes at once, and no whole number of vectors.
shapes = pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 19, 23)])
#: Where functions have corners, for a and b as above.
CORNERS = {
    ("elu", 1.0, 0.0): [0],
    ("elu", 0.4, 0.0): [0],
    ("hard_sigmoid", 1.0, 0.0): [0, 1],
    ("hard_sigmoid", 0.3, 0.4): [-4 / 3, 2],
    ("hard_swish", 1.0, 0.0): [-3, 3],
}


def inputs(seed, shape, dtype):
    """Values around zero and far from it, zeros among them."""
    x = normal(seed, shape, dtype) * np.random.default_rng(seed).choice([1e-3, 1, 5], shape)
    x.flat[::7] = 0
    return x.astype(dtype)


def slopes(x, function, a, b):
    """Central differences of the definition; zero where a corner is near."""
    step = 1e-5
    y = [oracle.activation(x.astype(np.float64) + way * step, function, a, b) for way in (1, -1)]
    near = [np.abs(x - corner) < 2 * step for corner in CORNERS.get((function, a, b), [])]
    return np.where(np.logical_or.reduce([np.zeros(x.shape, bool), *near]), 0, (y[0] - y[1]) / (2 * step)), near


@dtypes
@shapes
@functions
def test_values_are_the_oracles(function, a, b, shape, dtype):
    x = inputs(0, shape, dtype)
    y = kernels.activation(x, function, a, b)
    assert y.dtype == dtype
    assert_close(y, oracle.activation(x, function, a, b))


@dtypes
@shapes
@functions
def test_gradients_are_central_differences(function, a, b, shape, dtype):
    x, g = inputs(1, shape, dtype), normal(2, shape, dtype)
    expected, near = slopes(x, function, a, b)
    back = kernels.activation_gradient(x, np.where(np.logical_or.reduce([x != x, *near]), 0, g).astype(dtype), function, a, b)
    assert back.dtype == dtype
    tolerance = max(1e-9, TOLERANCE[back.dtype])
    np.testing.assert_allclose(back, g * expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("function", "corner", "slope"),
    [("elu", 0, 0.4), ("hard_sigmoid", 0, 0), ("hard_sigmoid", 2.5, 0), ("hard_swish", -3, 0), ("hard_swish", 3, 1)],
)
def test_at_corners_elu_rises_and_hard_functions_go_on_as_outside(function, corner, slope):
    x = np.array([[corner]], np.float64)
    assert kernels.activation_gradient(x, np.ones_like(x), function, 0.4, 0.0).item() == slope


@dtypes
def test_far_from_zero_functions_are_their_limits_and_nothing_overflows(dtype):
    x = np.array([[-np.inf, -6e4, -800, -100, 100, 800, 6e4, np.inf]]).astype(dtype)
    for function in ("erf", "hard_sigmoid", "sigmoid", "tanh"):
        low = -1 if function in ("erf", "tanh") else 0
        expected = np.where(x < 0, low, 1)
        assert_close(kernels.activation(x, function), expected)
        assert_close(kernels.activation_gradient(x, np.ones_like(x), function), np.zeros_like(x))
    assert_close(kernels.activation(x, "elu", 2.0), np.where(x < 0, -2, x))
    assert_close(kernels.activation(x, "softplus"), np.where(x < 0, 0, x))
    finite = x[:, 1:-1].copy()
    for function in ("gelu", "gelu_tanh", "hard_swish", "mish", "silu"):
        assert_close(kernels.activation(finite, function), np.where(finite < 0, 0, finite))
        assert_close(kernels.activation_gradient(finite, np.ones_like(finite), function), (finite > 0).astype(dtype))


@dtypes
@functions
def test_nan_stays_and_touches_nothing_else(function, a, b, dtype):
    x = inputs(3, (1, 83), dtype)
    expected = kernels.activation(x, function, a, b)
    x[0, 41] = np.nan
    y = kernels.activation(x, function, a, b)
    assert np.isnan(y[0, 41])
    np.testing.assert_array_equal(np.delete(y, 41, axis=1), np.delete(expected, 41, axis=1))


def test_small_values_keep_their_digits():
    """What 1 + x would round away."""
    x = np.array([[1e-12, -1e-12, 1e-20, -3e-7]], np.float64)
    np.testing.assert_allclose(kernels.activation(x, "tanh"), x, rtol=1e-12)
    np.testing.assert_allclose(kernels.activation(x, "elu"), np.where(x > 0, x, np.expm1(x)), rtol=1e-12)
    np.testing.assert_allclose(kernels.activation(x, "erf"), x * 2 / np.sqrt(np.pi), rtol=1e-12)


def test_what_is_left_far_below_zero_keeps_its_digits():
    """Where 1 + erf would round all away."""
    x = np.array([[-1.0, -3.0, -6.0, -9.0, -30.0]])
    tails = [0.15865525393145705, 1.3498980316300946e-3, 9.865876450376981e-10, 1.1285884059538406e-19, 4.9067139271484e-198]
    np.testing.assert_allclose(kernels.activation(x, "gelu"), x * tails, rtol=1e-11)
    x, tails = x[:, :-1].astype(np.float32), tails[:-1]
    np.testing.assert_allclose(kernels.activation(x, "gelu"), x * tails, rtol=1e-5)


@functions
def test_dtypes_layouts_and_batches(function, a, b):
    x, g = inputs(4, (3, 4, 5, 7), np.float32), normal(5, (3, 4, 5, 7), np.float32)
    check_calls(functools.partial(kernels.activation, function=function, a=a, b=b), x)
    check_calls(functools.partial(kernels.activation_gradient, function=function, a=a, b=b), x, g, batched=2)


@dtypes
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 19, 23), (5, 2051)])
def test_one_sample_serves_all_signals(shape, dtype):
    x, g = inputs(6, (1, *shape[1:]), dtype), normal(7, shape, dtype)
    shared = kernels.activation_gradient(x, g, "silu")
    np.testing.assert_array_equal(shared, kernels.activation_gradient(np.repeat(x, len(g), axis=0), g, "silu"))
    assert kernels.activation_gradient(x, g[:0], "silu").shape == (0, *shape[1:])


@given(st.integers(1, 3), st.integers(0, 200), st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 99))
def test_gradients_are_linear_in_the_signal(batch, size, function, seed):
    x, g, h = (normal(seed + n, (batch, size)) for n in range(3))
    back = functools.partial(kernels.activation_gradient, x, function=function)
    assert_close(back(2 * g - 3 * h), 2 * back(g) - 3 * back(h))


def test_bad_arguments_are_named():
    x = normal(8, (2, 3))
    with pytest.raises(ValueError, match=r"function must be one of elu, erf, .*, got 'swish'"):
        kernels.activation(x, "swish")
    with pytest.raises(ValueError, match="a of softplus must not be 0"):
        kernels.activation(x, "softplus", 0)
    with pytest.raises(TypeError, match="b must be a number, got None"):
        kernels.activation(x, "hard_sigmoid", 1.0, None)
    with pytest.raises(ValueError, match=r"x must have shape \(4, 3\), got \(2, 3\)"):
        kernels.activation_gradient(x, normal(9, (4, 3)), "silu")
    with pytest.raises(ValueError, match=r"x must have shape \(1, 4\), got \(1, 3\)"):
        kernels.activation_gradient(x[:1], normal(9, (1, 4)), "silu")
    with pytest.raises(TypeError, match="g must be of the same dtype"):
        kernels.activation_gradient(x, x.astype(np.float32), "silu")

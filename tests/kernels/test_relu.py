import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn_kernels.reference import blocks
from tests import oracle
from tests.kernels.device import cuda_only, kernels, reference_only
from tests.kernels.properties import assert_close, check_calls, dtypes, normal

#: The last two have more elements than a block of threads takes at once, and samples that don't fill their last byte.
SHAPES = [(3, 5), (2, 3, 4, 5), (4,), (2, 3, 4), (2, 3, 19, 23), (2, 2, 45, 47)]
shapes = pytest.mark.parametrize("shape", SHAPES)


def around_the_edges(seed, shape, dtype=np.float64):
    """Normal values, among them both zeros, the bounds of clipped rectifiers, and infinities."""
    x = normal(seed, shape, dtype)
    special = np.array([0.0, -0.0, 6.0, 0.5, np.inf, -np.inf], dtype)
    chosen = np.random.default_rng(seed).integers(0, 4 * len(special), shape)
    return np.where(chosen < len(special), special[chosen % len(special)], x)


@dtypes
@shapes
def test_rectifiers_are_the_oracles(shape, dtype):
    x = around_the_edges(0, shape, dtype)
    np.testing.assert_array_equal(kernels.relu(x), oracle.clipped_relu(x))
    np.testing.assert_array_equal(kernels.clipped_relu(x, 0.5), oracle.clipped_relu(x, 0.5))
    np.testing.assert_array_equal(kernels.clipped_relu(x), oracle.clipped_relu(x, 6))
    assert_close(kernels.leaky_relu(x, 0.3), oracle.prelu(x, 0.3))
    assert_close(kernels.leaky_relu(x, -1.5), oracle.prelu(x, -1.5))
    assert_close(kernels.prelu(x, np.array(0.1, dtype)), oracle.prelu(x, 0.1))
    if len(shape) > 1:
        W = normal(1, shape[1:2], dtype)
        assert_close(kernels.prelu(x, W), oracle.prelu(x, W))


@dtypes
def test_nan_passes_through_rectifiers_but_not_through_masks(dtype):
    x = np.array([[np.nan, 1, -1]], dtype)
    for rectified in (kernels.relu(x), kernels.clipped_relu(x), kernels.leaky_relu(x)):
        np.testing.assert_array_equal(np.isnan(rectified), [[True, False, False]])
    assert kernels.relu_mask(x).tolist() == [[0b010]]


@dtypes
@pytest.mark.parametrize("z", [np.inf, 6.0, 0.5])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 8), (1, 1), (2, 3, 0), (3, 1031), (2, 1032), (2, 4170)])
def test_masks_are_the_oracles(shape, z, dtype):
    x = around_the_edges(0, shape, dtype)
    mask = kernels.relu_mask(x, z)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, oracle.relu_mask(x, z))


@dtypes
@shapes
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.25, -2.0, "array", "channels"])
def test_the_four_rules_are_the_oracles(shape, masked, rectify, slope, dtype):
    if slope == "array":
        slope = np.array(0.25, dtype)
    elif slope == "channels":
        slope = normal(2, shape[1:2] or (), dtype)
    x, g = around_the_edges(0, shape, dtype), normal(1, shape, dtype)
    mask, gate = (kernels.relu_mask(x), oracle.passes(x)) if masked else (None, None)
    back = kernels.relu_reverse(g, mask, rectify, slope)
    assert back.dtype == dtype
    assert back.shape == shape
    assert_close(back, oracle.relu_reverse(g, gate, rectify, slope))


def test_the_mask_stops_infinite_signals():
    g = np.array([[np.inf, -np.inf, np.inf]], np.float32)
    mask = kernels.relu_mask(np.array([[-1, -1, 1]], np.float32))
    np.testing.assert_array_equal(kernels.relu_reverse(g, mask), [[0, 0, np.inf]])


def gradient(function, x, g):
    """What Chainer carries back through a function."""
    x = chainer.Variable(x)
    y = function(x)
    y.grad = g.copy()
    y.backward()
    return y.array, x.grad


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 5)])
def test_forward_and_gradient_are_chainers(shape):
    x, g, W = (normal(seed, size, np.float32) for seed, size in enumerate((shape, shape, shape[1:2])))
    x[0] = 3 * np.abs(x[0])  # some beyond the bound of the clipped ReLU
    mask = kernels.relu_mask(x)
    for function, ours, back in [
        (F.relu, kernels.relu(x), kernels.relu_reverse(g, mask)),
        (
            lambda x: F.clipped_relu(x, 1.5),
            kernels.clipped_relu(x, 1.5),
            kernels.relu_reverse(g, kernels.relu_mask(x, 1.5)),
        ),
        (
            lambda x: F.leaky_relu(x, 0.3),
            kernels.leaky_relu(x, 0.3),
            kernels.relu_reverse(g, mask, slope=0.3),
        ),
        (lambda x: F.prelu(x, W), kernels.prelu(x, W), kernels.relu_reverse(g, mask, slope=W)),
        (lambda x: F.prelu(x, W[0, ...]), kernels.prelu(x, W[0, ...]), kernels.relu_reverse(g, mask, slope=W[0, ...])),
    ]:
        y, expected = gradient(function, x, g)
        assert_close(ours, y)
        assert_close(back, expected)


@given(st.integers(1, 4), st.integers(1, 40), st.booleans(), st.floats(-2, 2), st.integers(0, 99))
def test_reversal_is_positively_homogeneous_and_without_rectifying_linear(batch, size, rectify, slope, seed):
    x, g, h = (normal(seed + i, (batch, size)) for i in range(3))
    mask = kernels.relu_mask(x)
    back = kernels.relu_reverse(g, mask, rectify, slope)
    assert_close(kernels.relu_reverse(3 * g, mask, rectify, slope), 3 * back)
    if rectify:
        assert (back >= 0).all()
    else:
        both = kernels.relu_reverse(g + h, mask, rectify, slope)
        assert_close(both, back + kernels.relu_reverse(h, mask, rectify, slope))


@dtypes
def test_calls(dtype):
    x, W = normal(0, (3, 4, 5, 3), dtype), normal(1, (4,), dtype)
    mask = kernels.relu_mask(x)
    for function in (kernels.relu, kernels.clipped_relu, kernels.leaky_relu):
        check_calls(function, x)
    check_calls(kernels.prelu, x, W)
    check_calls(lambda g: kernels.relu_reverse(g), x)
    check_calls(lambda g: kernels.relu_reverse(g, rectify=True), x)
    check_calls(kernels.relu_reverse, x, mask, batched=2)
    check_calls(lambda g, mask, slope: kernels.relu_reverse(g, mask, True, slope), x, mask, W, batched=2)


def test_masks_do_not_depend_on_the_layout_and_leave_the_input_alone():
    x = normal(0, (3, 4, 5, 3))
    before, mask = x.copy(), kernels.relu_mask(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(kernels.relu_mask(np.asfortranarray(x)), mask)
    np.testing.assert_array_equal(kernels.relu_mask(x[1:2]), mask[1:2])
    assert kernels.relu_mask(x[:0]).shape == (0, 8)


@cuda_only
@dtypes
@pytest.mark.parametrize("shape", [(5, 3, 700), (5, 3, 701)])
def test_results_do_not_depend_on_the_grid(shape, dtype, monkeypatch):
    x, W = normal(0, shape, dtype), normal(1, (3,), dtype)
    mask = kernels.relu_mask(x)

    def results():
        masked = kernels.relu_reverse(x, mask, True), kernels.relu_reverse(x, mask, False, W)
        return (kernels.relu_mask(x), kernels.clipped_relu(x, 0.5), kernels.prelu(x, W), *masked)

    expected = results()
    monkeypatch.setattr("dcnn_kernels.cuda.elements.BLOCKS", 1)
    monkeypatch.setattr("dcnn_kernels.cuda.elements.ROWS", 2)
    for again, once in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(again, once)


@reference_only
@pytest.mark.parametrize("size", [64, 128, 1024, 4096])
def test_results_do_not_depend_on_the_blocks(size, monkeypatch):
    x, g, W = normal(0, (3, 11, 5, 3)), normal(1, (3, 11, 5, 3)), normal(2, (11,))
    expected = kernels.relu_mask(x), kernels.prelu(x, W)
    back = kernels.relu_reverse(g, expected[0], True, W)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    np.testing.assert_array_equal(kernels.relu_mask(x), expected[0])
    np.testing.assert_array_equal(kernels.prelu(x, W), expected[1])
    np.testing.assert_array_equal(kernels.relu_reverse(g, expected[0], True, W), back)


def test_errors_name_what_was_given_and_expected():
    x, W = normal(0, (2, 3, 4)), normal(1, (3,))
    mask = kernels.relu_mask(x)
    for function in (kernels.relu, kernels.clipped_relu, kernels.leaky_relu, kernels.relu_mask):
        with pytest.raises(TypeError, match=r"x must be of dtype .*float32 or float64, got int64"):
            function(x.astype(int))
        with pytest.raises(ValueError, match=r"x must have 1 or .* dimensions, got shape \(\)"):
            function(np.array(1.0))
    for function in (kernels.clipped_relu, kernels.relu_mask):
        with pytest.raises(ValueError, match="z must be positive, got 0"):
            function(x, 0)
        with pytest.raises(ValueError, match="z must be positive, got nan"):
            function(x, np.nan)
        with pytest.raises(TypeError, match="z must be a number, got '6'"):
            function(x, "6")
    with pytest.raises(TypeError, match="slope must be a number, got None"):
        kernels.leaky_relu(x, None)
    with pytest.raises(ValueError, match=r"W must have shape \(3,\), got \(2,\)"):
        kernels.prelu(x, W[:2])
    with pytest.raises(ValueError, match=r"W must have 0 or 1 dimensions, got shape \(3, 1\)"):
        kernels.prelu(x, W[:, None])
    with pytest.raises(ValueError, match=r"W of one slope a channel needs inputs \(B, C, \.\.\.\), got shape \(2,\)"):
        kernels.prelu(x[:, 0, 0], W)
    with pytest.raises(TypeError, match="W must be of the same dtype as the other arrays, float64, got float32"):
        kernels.prelu(x, W.astype(np.float32))
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 2\), got \(2, 1\)"):
        kernels.relu_reverse(x, mask[:, :1])
    with pytest.raises(TypeError, match="mask must be of dtype uint8, as relu_mask makes it, got bool"):
        kernels.relu_reverse(x, x > 0)
    with pytest.raises(ValueError, match=r"slope must have shape \(3,\), got \(2,\)"):
        kernels.relu_reverse(x, mask, slope=W[:2])
    with pytest.raises(TypeError, match=r"slope: expected .*, got builtins\.str"):
        kernels.relu_reverse(x, mask, slope="steep")

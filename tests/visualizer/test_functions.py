"""Chainer's functions over the kernels: equal to Chainer's own, with their gradients."""

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import chainer
import chainer.functions as F
import numpy as np
import pytest
from chainer import gradient_check
from chainer.utils import type_check
from hypothesis import given
from hypothesis import strategies as st

import dcnn_visualizer.functions as ours
from tests.visualizer.networks import watch_kernels

ROOT = Path(__file__).parent.parent.parent
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-11}
NAMES = (
    "convolution_2d",
    "deconvolution_2d",
    "max_pooling_2d",
    "unpooling_2d",
    "relu",
    "local_response_normalization",
)
#: Name, shapes of the differentiable inputs, other arguments.
CASES = [
    ("convolution_2d", [(2, 4, 9, 11), (6, 4, 3, 3), (6,)], {}),
    ("convolution_2d", [(2, 4, 9, 11), (6, 2, 3, 2)], {"stride": (1, 2), "pad": (2, 1), "groups": 2}),
    ("convolution_2d", [(2, 3, 9, 11), (4, 3, 3, 3), (4,)], {"dilate": 2, "pad": 1}),
    ("convolution_2d", [(2, 3, 8, 9), (4, 3, 3, 3), (4,)], {"stride": 3, "pad": 1, "cover_all": True}),
    ("deconvolution_2d", [(2, 4, 5, 6), (4, 3, 3, 3), (3,)], {}),
    ("deconvolution_2d", [(2, 4, 5, 6), (4, 3, 3, 2), (6,)], {"stride": 2, "pad": 1, "groups": 2}),
    ("deconvolution_2d", [(2, 4, 5, 6), (4, 3, 3, 3)], {"stride": 2, "pad": 1, "outsize": (10, 12)}),
    ("deconvolution_2d", [(2, 4, 5, 6), (4, 3, 3, 3)], {"stride": 3, "outsize": (13, 16)}),
    ("max_pooling_2d", [(2, 3, 9, 11)], {"ksize": 2}),
    ("max_pooling_2d", [(2, 3, 9, 11)], {"ksize": (3, 2), "stride": (2, 1), "pad": 1, "cover_all": False}),
    ("unpooling_2d", [(2, 3, 4, 5)], {"ksize": 2}),
    ("unpooling_2d", [(2, 3, 4, 5)], {"ksize": 2, "cover_all": False}),
    ("unpooling_2d", [(2, 3, 4, 5)], {"ksize": 3, "stride": 2, "pad": 1, "outsize": (7, 8)}),
    ("relu", [(2, 3, 4, 5)], {}),
    ("relu", [(3,)], {}),
    ("local_response_normalization", [(2, 7, 4, 5)], {"n": 3, "alpha": 0.1}),
    ("local_response_normalization", [(2, 7)], {}),
]
#: What stays with Chainer, which lays the windows side by side by one copy.
PLAIN = [("unpooling_2d", {"ksize": 2, "cover_all": False})]


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels that ran."""
    return watch_kernels(monkeypatch)


def arrays(shapes, dtype=np.float64):
    """Numbers on a grid that ties and zeros are frequent on, or unique ones where a gradient must be smooth."""
    rng = np.random.default_rng(len(shapes))
    return [(rng.integers(-6, 7, shape) / 4).astype(dtype) for shape in shapes]


def smooth(shapes):
    rng = np.random.default_rng(0)
    return [(rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) / 2 + 0.25) / 7 for shape in shapes]


def outputs_and_gradients(function, inputs, settings):
    variables = [chainer.Variable(array) for array in inputs]
    y = function(*variables, **settings)
    y.grad = np.random.default_rng(9).integers(-4, 5, y.shape).astype(y.dtype)
    y.backward()
    return [y.array, *(variable.grad for variable in variables)]


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        tolerance = TOLERANCE[other.dtype]
        assert one.dtype == other.dtype
        largest = np.abs(other[np.isfinite(other)]).max(initial=1)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_chainers(name):
    def described(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert described(getattr(ours, name)) == described(getattr(F, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "shapes", "settings"), CASES)
def test_results_and_gradients_equal_chainers(name, shapes, settings, dtype, calls):
    inputs = arrays(shapes, dtype)
    expected = outputs_and_gradients(getattr(F, name), inputs, settings)
    assert not calls
    # The gradient is taken after the call, and still comes through the kernels.
    assert_equal(outputs_and_gradients(getattr(ours, name), inputs, settings), expected)
    assert bool(calls) == ((name, settings) not in PLAIN)
    strided = [np.repeat(array, 2, axis=-1)[..., ::2] for array in inputs]
    assert_equal(outputs_and_gradients(getattr(ours, name), strided, settings), expected)


@pytest.mark.parametrize(("name", "shapes", "settings"), CASES)
def test_gradients_are_those_of_small_steps(name, shapes, settings):
    inputs = smooth(shapes)

    def function(*variables):
        return getattr(ours, name)(*variables, **settings)

    y = function(*inputs)
    g = np.random.default_rng(1).standard_normal(y.shape)
    gradient_check.check_backward(function, tuple(inputs), g, dtype=np.float64, atol=1e-5, rtol=1e-4, eps=1e-4)
    if name == "local_response_normalization":
        return  # Chainer has no second gradient of it.
    gg = [np.random.default_rng(2).standard_normal(shape) for shape in shapes]
    # A linear function's second gradient is zero; the square in front gives it something to find.
    gradient_check.check_double_backward(
        lambda *variables: function(*(v * v for v in variables)) if name == "relu" else function(*variables),
        tuple(inputs),
        g,
        tuple(gg),
        dtype=np.float64,
        atol=1e-4,
        rtol=1e-3,
        eps=1e-4,
    )


def test_first_maximum_wins_ties_and_indices_are_chainers():
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 1, 1:3] = x[0, 0, 4, 4] = 1
    for settings in ({"ksize": 2}, {"ksize": 3, "stride": 2, "pad": 1}, {"ksize": 3, "stride": 2, "cover_all": False}):
        y, indices = ours.max_pooling_2d(x, **settings, return_indices=True)
        expected, expected_indices = F.max_pooling_2d(x, **settings, return_indices=True)
        np.testing.assert_array_equal(y.array, expected.array)
        np.testing.assert_array_equal(indices, expected_indices, strict=True)
        up, expected_up = (F.upsampling_2d(part, indices, **settings, outsize=(5, 5)) for part in (y, expected))
        np.testing.assert_array_equal(up.array, expected_up.array)
        got, wanted = (outputs_and_gradients(function, [x], settings) for function in (ours.max_pooling_2d, F.max_pooling_2d))
        assert_equal(got, wanted)


def test_padding_and_nan_in_a_pool_are_as_in_chainer():
    x = np.full((1, 1, 2, 2), -np.inf)
    x[0, 0, 1, 0] = np.nan
    settings = {"ksize": 2, "stride": 1, "pad": 1}
    got, expected = (outputs_and_gradients(function, [x], settings) for function in (ours.max_pooling_2d, F.max_pooling_2d))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ksize=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    cover_all=st.booleans(),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_every_geometry_of_chainers_is_served(sizes, ksize, stride, pad, cover_all, more):
    x, W = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(((2, 2, *sizes), (2, 2, *ksize))))
    geometry = {"stride": stride, "pad": pad}
    axes = zip(sizes, ksize, stride, pad, more, strict=True)
    larger = {"outsize": tuple(max(1, s * (n - 1) + k - 2 * p + m - 1) for n, k, s, p, m in axes)}
    for name, inputs, settings in (
        ("convolution_2d", [x, W], {**geometry, "cover_all": cover_all}),
        ("deconvolution_2d", [x, W], geometry),
        ("deconvolution_2d", [x, W], {**geometry, **larger}),
        ("max_pooling_2d", [x], {**geometry, "ksize": ksize, "cover_all": cover_all}),
        ("unpooling_2d", [x], {**geometry, "ksize": ksize, "cover_all": cover_all}),
        ("unpooling_2d", [x], {**geometry, **larger, "ksize": ksize, "cover_all": cover_all}),
    ):
        try:
            expected = outputs_and_gradients(getattr(F, name), inputs, settings)
        except (AssertionError, RuntimeError, ValueError, TypeError, ZeroDivisionError, type_check.InvalidType):
            continue  # No such geometry.
        assert_equal(outputs_and_gradients(getattr(ours, name), inputs, settings), expected)


@pytest.mark.parametrize(("name", "shapes", "settings"), CASES)
def test_types_are_checked_by_chainer(name, shapes, settings):
    for dtype in (np.int64, np.float64):
        inputs = arrays(shapes, dtype)
        if dtype == np.float64:
            inputs[0] = inputs[0][0] if name not in ("relu", "local_response_normalization") else np.zeros(3, np.int32)
        raised = []
        for module in (ours, F):
            with pytest.raises((type_check.InvalidType, ValueError)) as error:
                getattr(module, name)(*inputs, **settings)
            raised.append(error)
        assert raised[0].type is raised[1].type
        assert str(raised[0].value) == str(raised[1].value)


@pytest.mark.parametrize("name", ["convolution_2d", "deconvolution_2d"])
def test_unknown_keywords_are_refused_as_by_chainer(name):
    with pytest.raises(TypeError, match="dilation"):
        getattr(ours, name)(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)), dilation=2)
    with pytest.raises(ValueError, match="deterministic argument is not supported"):
        getattr(ours, name)(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)), deterministic=True)


@pytest.mark.parametrize(("name", "shapes", "settings"), CASES)
def test_half_precision_on_the_cpu_stays_with_chainer(name, shapes, settings, calls):
    inputs = arrays(shapes, np.float16)
    y = getattr(ours, name)(*inputs, **settings)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y.array, getattr(F, name)(*inputs, **settings).array)
    assert not calls


def test_mixed_dtypes_stay_with_chainer(calls):
    x, W = arrays([(2, 4, 9, 11), (6, 4, 3, 3)])
    for inputs in ((x, W.astype(np.float32)), (x.astype(np.float32), W)):
        y = ours.convolution_2d(*inputs)
        assert y.dtype == inputs[0].dtype
        np.testing.assert_array_equal(y.array, F.convolution_2d(*inputs).array)
    assert not calls


def test_with_ideep_asked_for_arrays_stay_with_chainer(calls, monkeypatch):
    # iDeep itself can't be installed on a current Python; without it Chainer's own NumPy code follows.
    asked = []
    monkeypatch.setattr("chainer.backends.intel64.should_use_ideep", lambda level: asked.append(level) or True)
    monkeypatch.setattr("chainer.backends.intel64.inputs_all_ready", lambda *arguments: False)
    x = arrays([(2, 3, 4, 5)])[0]
    np.testing.assert_array_equal(ours.relu(x).array, F.relu(x).array)
    ours.max_pooling_2d(x, 2)
    assert asked
    assert not calls


def test_a_scalar_and_a_map_without_pixels_stay_with_chainer(calls):
    assert ours.relu(np.array(-2.0)).array == 0
    y = ours.convolution_2d(np.zeros((1, 2, 0, 3)), np.zeros((1, 2, 1, 1)), pad=1)
    assert y.shape == (1, 1, 2, 5)
    assert not calls


def test_cudnn_fast_is_chainers_to_refuse(calls):
    with pytest.raises(RuntimeError, match="cudnn_fast"):
        ours.convolution_2d(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)), cudnn_fast=True)
    assert not calls


PROGRAM = """
    import cupy
    import dcnn_visualizer.chainer_compat
    import chainer
    import numpy as np
    from chainer.backends import cuda

    # Chainer finds no complete CuPy; of what it asks, the stand-in has what the functions need.
    cuda.cupy, cuda.ndarray, cuda.Device, cuda.available, cuda._cudnn_disabled_by_user = (
        cupy, cupy.ndarray, cupy.cuda.Device, True, True
    )

    import dcnn_visualizer.functions as F
    from tests.visualizer.test_functions import CASES, PLAIN, arrays, assert_equal, outputs_and_gradients

    compared = 0
    for name, shapes, settings in CASES:
        function = getattr(F, name)
        if (name, settings) in PLAIN:
            continue
        host = [chainer.Variable(array) for array in arrays(shapes, np.float32)]
        device = [chainer.Variable(cupy.asarray(variable.array)) for variable in host]
        y, expected = function(*device, **settings), function(*host, **settings)
        assert isinstance(y.array, cupy.ndarray), type(y.array)
        assert_equal([y.array.get()], [expected.array])
        # Gradients to weights, and that of relu, are Chainer's own, and beyond the stand-in.
        if name != "relu":
            (x,), (wanted,) = (
                chainer.grad([result], [inputs[0]], [chainer.Variable(result.array)])
                for result, inputs in ((y, device), (expected, host))
            )
            assert isinstance(x.array, cupy.ndarray), type(x.array)
            assert_equal([x.array.get()], [wanted.array])
        if name == "max_pooling_2d":
            places = function(*device, **settings, return_indices=True)[1]
            assert places.dtype == np.int32
        compared += 1
    print("compared", compared)
"""


def test_cupy_arrays_take_the_same_way():
    path = [ROOT / "tests" / "host", ROOT, ROOT / "kernels"]
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n" + textwrap.dedent(PROGRAM)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"compared {len(CASES) - len(PLAIN)}" in run.stdout

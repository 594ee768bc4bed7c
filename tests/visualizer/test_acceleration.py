import threading

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest

import dcnn_visualizer
from tests.visualizer.networks import watch_kernels


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels that ran."""
    return watch_kernels(monkeypatch)


def outputs_and_gradients(function, x, *parameters):
    x = chainer.Variable(x)
    y = function(x, *parameters)
    y.grad = np.random.default_rng(9).standard_normal(y.shape).astype(y.dtype)
    y.backward()
    return [y.array, x.grad, *(p.grad for p in parameters)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2, "pad": 1}, {"pad": (2, 1), "dilate": 2}, {"groups": 2, "stride": (1, 2)}, {"stride": 3}]
)
def test_convolutions_and_their_gradients_equal_chainers(settings, dtype, calls):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 9, 11)).astype(dtype)

    def run(function, shape, width):
        W = chainer.Parameter(np.random.default_rng(1).standard_normal(shape).astype(dtype))
        b = chainer.Parameter(np.random.default_rng(2).standard_normal(width).astype(dtype))
        return outputs_and_gradients(lambda x, W, b: function(x, W, b, **settings), x, W, b)

    groups = settings.get("groups", 1)
    for function, shape in ((F.convolution_2d, (6, 4 // groups, 3, 3)), (F.deconvolution_2d, (4, 6 // groups, 3, 3))):
        plain = run(function, shape, 6)
        assert not calls
        with dcnn_visualizer.accelerate():
            fast = run(function, shape, 6)
        assert set(calls) == {"convolution_2d", "transposed_convolution_2d"}
        calls.clear()
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        for one, other in zip(plain, fast, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * np.abs(one).max())


def test_links_and_functions_go_through_the_kernels_and_others_stay(calls):
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    layers = [
        (L.Convolution2D(3, 4, 3), "convolution_2d"),
        (F.relu, "relu"),
        (F.local_response_normalization, "local_response_normalization"),
        (lambda x: F.max_pooling_2d(x, 2), "max_pooling_2d"),
        (lambda x: F.unpooling_2d(x, 3, 2), "average_pooling_2d_adjoint"),
        (L.Deconvolution2D(4, 2, 3), "transposed_convolution_2d"),
        (F.sigmoid, None),
        (lambda x: F.max_pooling_nd(x[:, :, 0], 2), None),
    ]
    plain = chainer.Sequential(*(layer for layer, _ in layers))(x)
    assert not calls
    for layer, kernel in layers:
        with dcnn_visualizer.accelerate():
            x = layer(x)
        assert calls == [kernel] * (kernel is not None)
        calls.clear()
    np.testing.assert_allclose(x.array, plain.array, rtol=1e-4, atol=1e-5)


def test_gradients_follow_however_the_forward_pass_was_made(calls):
    x = chainer.Variable(np.random.default_rng(0).standard_normal((1, 2, 9, 9)))
    W = np.random.default_rng(1).standard_normal((2, 2, 3, 3))

    def network(x):
        return F.sum(F.local_response_normalization(F.max_pooling_2d(F.convolution_2d(x, W), 3, 2)) ** 2)

    (expected,) = chainer.grad([network(x)], [x])
    assert not calls
    back = {"transposed_convolution_2d", "unpooling_2d", "local_response_normalization_gradient"}
    with dcnn_visualizer.accelerate():
        inside = network(x)
    calls.clear()
    (gradient,) = chainer.grad([inside], [x])
    assert set(calls) == back
    np.testing.assert_allclose(gradient.array, expected.array, rtol=1e-10)
    outside = network(x)
    calls.clear()
    with dcnn_visualizer.accelerate():
        (gradient,) = chainer.grad([outside], [x])
    assert set(calls) == back
    np.testing.assert_allclose(gradient.array, expected.array, rtol=1e-10)


def test_a_whole_model_trains_on(calls):
    model = chainer.Sequential(L.Convolution2D(3, 4, 3), F.relu, L.Convolution2D(4, 4, 3, stride=2), F.relu, L.Linear(None, 2))
    optimizer = chainer.optimizers.SGD(0.05).setup(model)
    x = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    losses = []
    with dcnn_visualizer.accelerate():
        for _ in range(10):
            loss = F.softmax_cross_entropy(model(x), np.array([0, 1, 0, 1], np.int32))
            model.cleargrads()
            loss.backward()
            optimizer.update()
            losses.append(float(loss.array))
    assert losses[-1] < losses[0]
    assert calls


def test_it_ends_with_the_block_and_keeps_to_its_thread(calls):
    layer = L.Convolution2D(3, 4, 3)
    x = np.zeros((1, 3, 5, 5), np.float32)

    def fail():
        with dcnn_visualizer.accelerate(), dcnn_visualizer.accelerate():
            thread = threading.Thread(target=layer, args=(x,))
            thread.start()
            thread.join()
            assert not calls
            layer(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(calls) == 1
    layer(x)
    assert len(calls) == 1


def test_unknown_names_of_the_package_are_errors():
    with pytest.raises(AttributeError, match="'accelerat'"):
        dcnn_visualizer.accelerat  # noqa: B018

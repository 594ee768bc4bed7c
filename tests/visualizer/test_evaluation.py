"""Steps that go forward in one call give what each gives on its own."""

import chainer
import numpy as np
import pytest

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.evaluation import compute, evaluate
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_graph import TraceableGraph


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)


@pytest.fixture
def convolutions(monkeypatch):
    """What each forward convolution was told of the steps behind: by ``z`` and ``scale``."""
    calls = []
    original = dcnn_kernels.convolution_2d

    def convolution_2d(x, W, b, stride, pad, dilate, groups, z=None, scale=None, shift=None):
        calls.append((z is not None, scale is not None))
        return original(x, W, b, stride, pad, dilate, groups, z, scale, shift)

    monkeypatch.setattr(dcnn_kernels, "convolution_2d", convolution_2d)
    return calls


def network(seed=1):
    """All pairs and triples that go together, and some that don't: what two take, and a leaky rectifier."""
    rng = np.random.default_rng(seed)
    model = TraceableGraph()
    for name, layer, *sources in (
        ("c1", tn.TraceableConvolution2D(3, 5, 3)),
        ("b1", tn.TraceableBatchNormalization(5)),
        ("r1", tn.TraceableReLU()),
        ("c2", tn.TraceableConvolution2D(5, 5, 3, pad=1, nobias=True)),
        ("r2", tn.TraceableClippedReLU(0.8)),
        ("c3", tn.TraceableConvolution2D(5, 5, 1)),
        ("b3", tn.TraceableBatchNormalization(5)),
        ("l3", tn.TraceableLeakyReLU()),
        ("c4", tn.TraceableConvolution2D(5, 5, 1)),
        ("r4", tn.TraceableReLU()),
        ("sum", tn.Add(), "r4", "c4"),
    ):
        model.connect(name, layer, *sources)
    for name in ("b1", "b3"):
        bn = model[name]
        bn.gamma.array[...], bn.beta.array[...], bn.avg_mean[...] = rng.standard_normal((3, 5))
        bn.avg_var[...] = rng.uniform(0.5, 2, 5)
    return model


def alone(graph, x, targets):
    return graph.evaluate(x, targets, compute)


def test_every_step_is_what_it_is_alone(x):
    with chainer.using_config("train", False):
        graph = network().graph()
        for index, step in enumerate(graph.steps):
            (together,), (expected,) = evaluate(graph, x, [index]), alone(graph, x, [index])
            np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5, err_msg=step.path)


def test_what_goes_together(x, convolutions):
    graph = network().graph()
    with chainer.using_config("train", False):
        evaluate(graph, x, [graph.index("sum")])
        assert convolutions == [(True, True), (True, False), (False, True), (False, False)]
        convolutions.clear()
        # What is asked for is written.
        found = evaluate(graph, x, [graph.index("c1"), graph.index("b3"), graph.index("c2")])
        assert convolutions == [(False, False), (False, False), (False, True)]
        for one, expected in zip(found, alone(graph, x, [graph.index(name) for name in ("c1", "b3", "c2")]), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_normalization_in_training_goes_alone_and_learns(x, convolutions):
    chain = TraceableChain(c=tn.TraceableConvolution2D(3, 5, 3), b=tn.TraceableBatchNormalization(5), r=tn.TraceableReLU())
    chain.pick = "r"
    with chainer.no_backprop_mode(), chainer.using_config("train", True):
        chain(x)
    assert chain["b"].avg_mean.any()
    assert convolutions == [(False, False)]
    convolutions.clear()
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        chain(x)
    assert convolutions == [(True, True)]

"""Nodes that importers need: forward through the kernels as through Chainer, back by Chainer's gradient or the adjoint."""

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import pytest

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.traceable_graph import TraceableGraph
from tests.visualizer.networks import picture

RNG = np.random.default_rng(0)

NORMAL = chainer.initializers.Normal(1.0, np.float64)

NODES = {
    "identity": tn.TraceableIdentity(),
    "sigmoid": tn.TraceableSigmoid(),
    "tanh": tn.TraceableTanh(),
    "silu": tn.TraceableSiLU(),
    "hard sigmoid": tn.TraceableHardSigmoid(),
    "hard sigmoid of ONNX": tn.TraceableHardSigmoid(0.2, 0.4),
    "hard swish": tn.TraceableHardSwish(),
    "erf": tn.TraceableErf(),
    "gelu": tn.TraceableGELU(),
    "upsampling": tn.TraceableUpsampling2D((2, 3)),
    "transposed convolution": tn.TraceableDeconvolution2D(
        4, 6, (3, 2), 2, 1, False, None, NORMAL, NORMAL, dilate=(1, 2), groups=2
    ),
    "transposed convolution with more behind": tn.TraceableDeconvolution2D(
        4, 3, (3, 2), (3, 2), 1, False, None, NORMAL, NORMAL, dilate=(1, 2), extra=(2, 1)
    ),
    "elu": tn.TraceableELU(0.7),
    "tanh gelu": tn.TraceableTanhGELU(),
    "softplus": tn.TraceableSoftplus(1.5),
    "mish": tn.TraceableMish(),
    "clip": tn.TraceableClip(-1.5, 2.0),
    "absolute": tn.TraceableAbsolute(),
    "exponential": tn.TraceableExponential(),
    "softsign": tn.TraceableSoftsign(),
    "square": tn.TraceablePower(2),
    "softmax along rows": tn.TraceableSoftmax(axis=2),
    "layer normalization": tn.TraceableLayerNormalization(RNG.standard_normal(10), RNG.standard_normal(10), 0.1),
    "layer normalization of maps": tn.TraceableLayerNormalization(RNG.standard_normal((9, 10)), None, 1e-5, 2),
    "root mean square normalization": tn.TraceableLayerNormalization(RNG.standard_normal(10), None, 1e-5, centred=False),
    "group normalization": tn.TraceableGroupNormalization(RNG.standard_normal(4), RNG.standard_normal(4), 2),
    "instance normalization": tn.TraceableGroupNormalization(None, None, 4, 0.1),
    "sum": tn.TraceableSum((1, 3), keepdims=True),
    "mean": tn.TraceableMean((1,)),
    "norm": tn.TraceableNorm((2, 3), keepdims=True),
    "variance": tn.TraceableVariance((2, 3), keepdims=True),
    "unbiased variance": tn.TraceableVariance((1,), correction=1),
    "unit vectors": tn.TraceableUnitVectors(),
    "unit vectors along rows": tn.TraceableUnitVectors(3, 5.0),
    "maximum": tn.TraceableMaximum((1,), keepdims=True),
    "maximum of the map": tn.TraceableMaximum((3, 2)),
    "linear by place": tn.TraceablePlacewiseLinear(10, 6, False, NORMAL, NORMAL),
    "linear resizing": tn.TraceableResize2D((1.7, 0.6)),
    "resizing with aligned corners": tn.TraceableResize2D(None, (5, 23), coordinates="align_corners"),
    "cubic resizing": tn.TraceableResize2D((2, 1.3), mode="cubic"),
    "nearest pixels": tn.TraceableResize2D(None, (13, 4), "nearest", "asymmetric"),
    "same padding": tn.TraceableSamePadding2D(3, 2, (1, 2), 0.5),
    "mirrored border": tn.TraceableMirrorPadding2D(((3, 8), (0, 2))),
    "border repeated": tn.TraceableMirrorPadding2D(((1, 0), (2, 3)), "edge"),
    "pixel shuffle": tn.TraceablePixelShuffle(2),
    "pixel shuffle, depth first": tn.TraceablePixelShuffle(2, depth_first=True),
    "channels in another order": tn.TraceableChannels((2, 0, 1)),
    "channels twice": tn.TraceableChannels((2, 0, 2)),
    "every second": tn.TraceableSlice((slice(None), slice(1, None, 2), slice(None, None, 3))),
    "softmax": tn.TraceableSoftmax(),
    "log softmax": tn.TraceableSoftmax(logarithm=True),
    "average of the map": tn.TraceableAdaptiveAveragePooling2D(1),
    "adaptive average": tn.TraceableAdaptiveAveragePooling2D((3, 4)),
    "adaptive maximum": tn.TraceableAdaptiveMaxPooling2D((3, 2)),
    "average of what is inside": tn.TraceableAveragePooling2D(3, 2, ((2, 0), (0, 1)), count_include_pad=False),
    "average with one side padded": tn.TraceableAveragePooling2D((3, 2), None, ((0, 1), (1, 0))),
    "average of windows in the padding": tn.TraceableAveragePooling2D(2, 2, 2, count_include_pad=False),
    "average up to the end": tn.TraceableCeilAveragePooling2D(3, 2),
    "maximum up to the end": tn.TraceableCeilMaxPooling2D(2, 2, ((1, 1), (0, 1))),
    "maximum with gaps": tn.TraceableCeilMaxPooling2D(1, 4),
    "padding": tn.TraceablePadding2D(((1, 0), (2, 3)), 0.5),
    "reshape": tn.TraceableReshape((2, -1), kept=1),
    "reshape in the middle": tn.TraceableReshape((3, -1), kept=1, before=1),
    "second piece": tn.TraceablePiece(2, 1, 2),
    "last piece": tn.TraceablePiece(3, 2, 3),
    "transpose": tn.TraceableTranspose((0, 3, 1, 2)),
    "slice": tn.TraceableSlice((slice(1, 3), slice(None), slice(2, -1))),
    "one channel": tn.TraceableSlice((1,)),
    "affine": tn.TraceableAffine(RNG.standard_normal((4, 1, 1)), 0.5),
    "affine by place": tn.TraceableAffine(-2.0, RNG.standard_normal((9, 10))),
}


def assert_is_gradient(chain, x):
    variable = chainer.Variable(x)
    with chainer.using_config("train", False):
        y = chain(variable)
    (computed,) = chain.graph().evaluate(x, [len(chain.graph().steps) - 1], lambda n, *i: n.compute(*i))
    np.testing.assert_allclose(computed, y.array, atol=1e-12)
    (gradient,) = chainer.grad([y], [variable], [chainer.Variable(y.array)])
    back = SaliNet(chain).analyze(x, chain.layer_names[-1])
    assert abs(back).max() > 0
    np.testing.assert_allclose(back, gradient.array, atol=1e-12)


def alone(node):
    chain = TraceableGraph()
    chain.connect("node", node)
    chain.pick = None
    return chain


@pytest.mark.parametrize("name", NODES)
def test_forward_and_back(name):
    # Away from the corners of hard sigmoid and hard swish.
    x = np.random.default_rng(1).standard_normal((2, 4, 9, 10)) * 2
    chain = alone(NODES[name])
    assert_is_gradient(chain, x)
    single = np.stack([SaliNet(chain).analyze(one, "node") for one in x])
    np.testing.assert_allclose(SaliNet(chain).analyze(x, "node"), single, atol=1e-12)
    assert SaliNet(chain).analyze(x[:0], "node").shape == (0, 4, 9, 10)
    # Several signals of one picture go back together.
    places = [tuple(place) for place in np.argwhere(np.ones(chain(x).shape[1:]))[::7][:3].tolist()]
    together = SaliNet(chain).analyze(x[0], "node", places)
    for place, projection in zip(places, together, strict=True):
        np.testing.assert_allclose(projection, SaliNet(chain).analyze(x[0], "node", place), atol=1e-12)
    assert "passed over" not in SaliNet(chain).coverage()["node"]


@pytest.mark.parametrize("name", ["sigmoid", "silu", "hard swish", "softmax", "affine"])
def test_every_method_goes_back_alike_where_nothing_is_rectified(name):
    x = picture(np.random.default_rng(2), 1, 4, 5, 5)
    chain = alone(NODES[name])
    expected = SaliNet(chain).analyze(x, "node")
    for method in (DeconvNet, DeSaliNet):
        np.testing.assert_array_equal(method(chain).analyze(x, "node"), expected)


def test_activations_far_from_zero():
    x = np.array([-1e4, -100.0, 100.0, 1e4], np.float32).reshape(1, 1, 2, 2)
    for name in ("sigmoid", "silu", "erf", "gelu", "tanh", "hard swish", "elu", "softmax", "log softmax"):
        y = NODES[name].compute(x)
        back = NODES[name].reverse(np.ones_like(x), NODES[name].record(x)[1], SaliNet(alone(NODES[name])).rule)
        assert np.isfinite(y).all(), name
        assert np.isfinite(back).all(), name
        assert y.dtype == back.dtype == np.float32, name


@pytest.mark.parametrize("shapes", [((2, 4, 5, 6), (2, 4, 1, 1)), ((2, 4, 5, 6), (2, 1, 5, 6)), ((2, 1, 1, 6), (2, 4, 5, 1))])
@pytest.mark.parametrize(
    "node", [tn.Multiply(), tn.BroadcastAdd(), tn.Subtract(), tn.Divide(), tn.Maximum(), tn.Maximum(smaller=True)]
)
def test_two_inputs_that_stretch(node, shapes):
    rng = np.random.default_rng(3)
    inputs = [chainer.Variable(rng.standard_normal(shape)) for shape in shapes]
    assert_gradients_of_all(node, inputs)


def assert_gradients_of_all(node, inputs):
    rng = np.random.default_rng(5)
    y = node.forward(*inputs)
    output, record = node.record(*(x.array for x in inputs))
    np.testing.assert_allclose(output, y.array, rtol=1e-12)
    signal = rng.standard_normal(y.shape)
    expected = chainer.grad([y], inputs, [chainer.Variable(signal)])
    rule = SaliNet(alone(NODES["identity"])).rule
    back = node.reverse(signal, record, rule)
    for part, gradient, x in zip(back, expected, inputs, strict=True):
        np.testing.assert_allclose(part, np.zeros(x.shape) if gradient is None else gradient.array, atol=1e-10)
    # The record of one picture serves several signals.
    _, record = node.record(*(x.array[:1] for x in inputs))
    for part, one in zip(node.reverse(signal, record, rule), node.reverse(signal[1:], record, rule), strict=True):
        assert part.shape == (2, *one.shape[1:])
        np.testing.assert_allclose(part[1:], one, atol=1e-12)


@pytest.mark.parametrize("shapes", [((2, 3, 4, 5), (2, 3, 5, 6)), ((2, 4, 5), (2, 5, 1)), ((2, 3, 4, 5), (2, 1, 5, 6))])
def test_matrix_products(shapes):
    rng = np.random.default_rng(3)
    assert_gradients_of_all(tn.MatrixMultiply(), [chainer.Variable(rng.standard_normal(shape)) for shape in shapes])


@pytest.mark.parametrize("shift", [0.0, RNG.standard_normal((4, 6))])
@pytest.mark.parametrize("heads", [3, 1])
def test_attention(heads, shift):
    rng = np.random.default_rng(3)
    shapes = (2, 3, 4, 5), (2, heads, 6, 5), (2, heads, 6, 2)
    assert_gradients_of_all(tn.Attention(0.7, shift), [chainer.Variable(rng.standard_normal(shape)) for shape in shapes])


@pytest.mark.parametrize("node", [tn.Concatenate(2), tn.Stack(), tn.Stack(4)])
def test_inputs_joined_along_any_axis(node):
    rng = np.random.default_rng(3)
    assert_gradients_of_all(node, [chainer.Variable(rng.standard_normal((2, 3, 4, 5))) for _ in range(2)])


@pytest.mark.parametrize(("shape", "axes"), [((4, 0, 0), {1: 2, 2: 3}), ((0, -1, 2, 2), {0: 3})])
def test_an_input_shaped_like_another(shape, axes):
    rng = np.random.default_rng(3)
    shapes = (2, 4, 30), (2, 7, 5, 6)
    assert_gradients_of_all(tn.ReshapeLike(shape, axes), [chainer.Variable(rng.standard_normal(shape)) for shape in shapes])


def test_an_input_stretched_to_another():
    rng = np.random.default_rng(3)
    shapes = (2, 4, 1, 1), (2, 4, 5, 6)
    assert_gradients_of_all(tn.StretchTo(), [chainer.Variable(rng.standard_normal(shape)) for shape in shapes])


def test_pixel_shuffles_undo_each_other():
    x = np.arange(2 * 8 * 3 * 2.0).reshape(2, 8, 3, 2)
    for depth_first in (False, True):
        y, _ = tn.TraceablePixelShuffle(2, depth_first=depth_first).record(x)
        assert y.shape == (2, 2, 6, 4)
        # The block of the first pixel and channel.
        np.testing.assert_array_equal(y[0, 0, :2, :2].reshape(-1), x[0, ::2, 0, 0] if depth_first else x[0, :4, 0, 0])
        back, _ = tn.TraceablePixelShuffle(2, inverse=True, depth_first=depth_first).record(y)
        np.testing.assert_array_equal(back, x)


def test_convolution_along_one_axis():
    rng = np.random.default_rng(6)
    chain = TraceableGraph()
    chain.connect("rows", tn.TraceableReshape((4, -1)))
    chain.connect("conv", tn.TraceableConvolution1D(4, 6, (1, 3), (1, 2), (0, 1), False, NORMAL, NORMAL, groups=2))
    chain.connect("relu", tn.TraceableReLU())
    chain.pick = None
    assert_is_gradient(chain, rng.standard_normal((2, 4, 3, 5)))


def test_a_gate():
    """Squeeze-and-excitation: what the gate saw and what it weighed both get their share; squares count twice."""
    rng = np.random.default_rng(4)
    chain = TraceableGraph()
    W = rng.standard_normal((4, 3, 3, 3))
    with chainer.using_config("dtype", np.float64):
        chain.connect("conv", tn.TraceableConvolution2D(3, 4, 3, initialW=W, initial_bias=W[:, 0, 0, 0]))
    chain.connect("gate/pool", tn.TraceableAdaptiveAveragePooling2D(1))
    chain.connect("gate/sigmoid", tn.TraceableSigmoid())
    chain.connect("scaled", tn.Multiply(), "gate/sigmoid", "conv")
    chain.connect("square", tn.Multiply(), "scaled", "scaled")
    chain.connect("moved", tn.BroadcastAdd(), "square", "gate/pool")
    chain.connect("joined", tn.Concatenate(), "moved", "conv")
    chain.connect("last", tn.TraceableSlice((slice(1, 6),)))
    chain.pick = None
    assert_is_gradient(chain, rng.standard_normal((2, 3, 7, 8)))
    assert chain.sources("conv") == (PICTURE,)


def test_windows_that_would_start_behind_the_picture_are_dropped():
    x = np.arange(25.0).reshape(1, 1, 5, 5)
    # Windows of 2 at -1, 1, 3, and one at 5 that cover_all would add.
    y, _ = tn.TraceableCeilMaxPooling2D(2, 2, 1).record(x)
    np.testing.assert_array_equal(y[0, 0], [[0, 2, 4], [10, 12, 14], [20, 22, 24]])
    y, _ = tn.TraceableCeilAveragePooling2D(2).record(x)
    np.testing.assert_array_equal(y[0, 0], [[3, 5, 6.5], [13, 15, 16.5], [20.5, 22.5, 24]])


def test_adaptive_windows_overlap():
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    y, _ = tn.TraceableAdaptiveAveragePooling2D((1, 3)).record(x)
    np.testing.assert_allclose(y[0, 0, 0], [0.5, 2, 3.5])


def test_bad_arguments():
    with pytest.raises(ValueError, match="0 and then the others in some order"):
        tn.TraceableTranspose((1, 0))
    with pytest.raises(ValueError, match="steps of at least 1"):
        tn.TraceableSlice((slice(4, 0, -2),))
    with pytest.raises(ValueError, match="narrower than the maps"):
        tn.TraceableMirrorPadding2D(4).record(np.zeros((1, 1, 4, 5)))
    with pytest.raises(ValueError, match="'reflect' or 'edge'"):
        tn.TraceableMirrorPadding2D(1, "wrap")
    with pytest.raises(ValueError, match="low must be below high"):
        tn.TraceableClip(2, 1)
    with pytest.raises(ValueError, match="from 1 on"):
        tn.TraceableSum((0, 1))
    with pytest.raises(ValueError, match="either factor or outsize"):
        tn.TraceableResize2D()
    with pytest.raises(ValueError, match="no such way to interpolate: 'lanczos'"):
        tn.TraceableResize2D((2, 2), mode="lanczos")
    with pytest.raises(ValueError, match="factor must be at least 1"):
        tn.TraceablePixelShuffle(0)
    with pytest.raises(ValueError, match=r"\(5, 5\) to \(2, 2\) windows: the sizes must divide"):
        tn.TraceableAdaptiveMaxPooling2D(2).record(np.zeros((1, 1, 5, 5)))
    with pytest.raises(ValueError, match="must be at least 1"):
        tn.TraceableAdaptiveAveragePooling2D(0)

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import pytest

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.desalinet import DeSaliNet, SaliNet
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.layer_table import layer_table
from dcnn_visualizer.occlusion import SaliencyVisualizer
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_graph import TraceableGraph


def convolution(inputs, outputs, ksize=3, seed=0):
    W = np.random.default_rng(seed).standard_normal((outputs, inputs, ksize, ksize)).astype(np.float32) * 0.3
    return tn.TraceableConvolution2D(inputs, outputs, ksize, pad=ksize // 2, initialW=W)


@pytest.fixture
def net():
    """No nesting of residual and parallel blocks gives this: b takes a and the picture, d takes a, b and c."""
    net = TraceableGraph()
    net.connect("stem/a", convolution(3, 3, seed=1))
    net.connect("stem/b", tn.Add(), "stem/a", PICTURE)
    net.connect("body/relu", tn.TraceableReLU())
    net.connect("body/c", convolution(3, 3, seed=2), "body/relu")
    net.connect("body/d", tn.Add(), "stem/a", "stem/b", "body/c")
    net.connect("aside", tn.TraceableReLU(), "stem/b")
    net.connect("join", tn.Concatenate(), "body/d", "body/relu")
    net.name_block("stem", "stem/b")
    net.name_block("body", "body/d")
    return net


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)


def by_hand(net, x):
    a = net["stem/a"](x)
    b = a + x
    r = chainer.functions.relu(b)
    d = a + b + net["body/c"](r)
    return {"stem": b, "stem/a": a, "stem/b": b, "body": d, "aside": r, "join": chainer.functions.concat((d, r))}


def test_outputs(net, x):
    expected = by_hand(net, x)
    net.pick = tuple(expected)
    for outputs in (net(x), [chainer.Variable(a.array) for a in without_gradients(net, x)]):
        for name, output in zip(expected, outputs, strict=True):
            np.testing.assert_allclose(output.array, expected[name].array, atol=1e-5, err_msg=name)
    net.pick = None
    np.testing.assert_allclose(net(x).array, expected["join"].array, atol=1e-5)


def without_gradients(net, x):
    with chainer.no_backprop_mode():
        return net(x)


def test_way_back(net, x):
    variable = chainer.Variable(x)
    for layer in ("join", "body", "stem", "body/relu"):
        net.pick = layer
        y = net(variable)
        (gradient,) = chainer.grad([y], [variable], [chainer.Variable(y.array)])
        np.testing.assert_allclose(SaliNet(net).analyze(x, layer), gradient.array, atol=1e-4)
    assert list(SaliNet(net).coverage()) == net.layer_names
    assert DeSaliNet(net).analyze(x[0], "join", [0, 4]).shape == (2, 3, 8, 8)


def test_occlusion_and_table(net, x):
    assert SaliencyVisualizer(net).analyze(x[0], "body", ksize=4, stride=4).data.shape == (2, 2, 3)
    assert "body/relu" in layer_table(net, (3, 8, 8))


def test_within_another_chain(net, x):
    whole = TraceableChain(net=net, head=convolution(6, 2, 1))
    whole.pick = ("net/body", "net", "head")
    body, joined, head = whole(x)
    expected = by_hand(net, x)
    np.testing.assert_allclose(body.array, expected["body"].array, atol=1e-5)
    np.testing.assert_allclose(joined.array, expected["join"].array, atol=1e-5)
    assert head.shape == (2, 2, 8, 8)
    assert whole["net/stem"] is net["stem/b"]
    holder = TraceableGraph()
    holder.connect("inner", TraceableChain(relu=tn.TraceableReLU()))
    assert isinstance(holder["inner/relu"], tn.TraceableReLU)


def test_unused_layers_go(net, x):
    expected = by_hand(net, x)["body"].array
    net.pick = "body"
    with pytest.raises(AttributeError, match="'stem/a' is taken by 'stem/b', 'body/d'"):
        delattr(net, "stem/a")
    net.pick = "join"
    with pytest.raises(AttributeError, match="picked"):
        delattr(net, "join")
    net.pick = "body"
    net.remove_unused()
    with pytest.raises(AttributeError, match="picked"):
        delattr(net, "body/d")
    assert net.layer_names == ["stem/a", "stem/b", "body/relu", "body/c", "body/d"]
    np.testing.assert_allclose(net(x).array, expected, atol=1e-5)


def test_a_layer_between_may_go(net, x):
    net.pick = "aside"
    net.remove_unused()
    assert net.layer_names == ["stem/a", "stem/b", "aside"]
    assert net(x).shape == x.shape


def test_copies_and_weights(net, x, tmp_path):
    copied = net.copy("copy")
    copied["stem/a"].W.array[...] = 0
    assert abs(net["stem/a"].W.array).max() > 0
    copied.connect("more", tn.TraceableReLU())
    assert "more" not in net.layer_names
    net.pick = copied.pick = None
    chainer.serializers.save_npz(tmp_path / "net.npz", net)
    assert "stem/a/W" in np.load(tmp_path / "net.npz").files
    other = net.copy("init")
    chainer.serializers.load_npz(tmp_path / "net.npz", other)
    np.testing.assert_array_equal(other(x).array, net(x).array)


def test_layers_of_init_scope_stand_in_a_row(x):
    net = TraceableGraph()
    with net.init_scope():
        net.conv = convolution(3, 4)
        net.relu = tn.TraceableReLU()
    net.connect("sum", tn.Add(), "conv", "relu")
    net.pick = None
    conv = net.conv(x)
    np.testing.assert_allclose(net(x).array, (conv + chainer.functions.relu(conv)).array, rtol=1e-6)


def test_bad_graphs(net):
    with pytest.raises(ValueError, match="has no layers"):
        TraceableGraph().graph()
    for name in ("join", "body", "graph", "layer_names", ""):
        with pytest.raises(ValueError, match=f"must be free and not empty, got '{name}'"):
            net.connect(name, tn.TraceableReLU())
    with pytest.raises(KeyError, match="takes 'nowhere', which isn't there yet"):
        net.connect("new", tn.TraceableReLU(), "nowhere")
    with pytest.raises(TypeError, match="must be callable"):
        net.connect("new", 3)
    with pytest.raises(TypeError, match="must be a TraceableNode"):
        net.connect("new", chainer.functions.add, "join", "join")
    with pytest.raises(KeyError, match="no layer 'nowhere'"):
        net.name_block("block", "nowhere")
    with pytest.raises(ValueError, match="got 'join'"):
        net.name_block("join", "join")
    for ask in (net.sources, net.__getitem__):
        with pytest.raises(KeyError, match="no layer 'nowhere'"):
            ask("nowhere")

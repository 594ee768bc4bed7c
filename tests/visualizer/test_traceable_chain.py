import io
import re

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableParallel, TraceableResidual
from tests.visualizer.networks import SimpleCNN, picture, random_chain


@pytest.fixture
def model():
    model = SimpleCNN()
    model(np.zeros((1, 3, 32, 32), np.float32))
    return model


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)


def test_every_intermediate_activation_comes_out(model, x):
    activations = dict(zip(model.layer_names, model(x), strict=True))
    assert next(iter(activations)) == "conv1"
    assert all(isinstance(a, chainer.Variable) for a in activations.values())
    assert activations["conv2"].shape == (2, 5, 13, 13)
    np.testing.assert_allclose(
        activations["conv1_lrn"].array, F.local_response_normalization(activations["conv1_mp"]).array, rtol=1e-6
    )


def test_pick(model, x):
    every = dict(zip(model.layer_names, model(x), strict=True))
    model.pick = "conv2"
    assert model.pick == "conv2"
    np.testing.assert_array_equal(model(x).array, every["conv2"].array)
    model.pick = ("fc4", "conv1_relu")
    last, first = model(x)
    np.testing.assert_array_equal(last.array, every["fc4"].array)
    np.testing.assert_array_equal(first.array, every["conv1_relu"].array)
    model.pick = None
    assert model.pick is None
    np.testing.assert_array_equal(model(x).array, every["fc4"].array)
    with pytest.raises(ValueError, match=r"'conv9'.*'conv1'"):
        model.pick = "conv9"


def test_deleting_layers(model, x):
    model.pick = "conv2"
    with pytest.raises(AttributeError, match="picked"):
        del model.conv2
    model.remove_unused()
    assert model.layer_names[-1] == "conv2"
    assert not hasattr(model, "fc4")
    assert model(x).shape == (2, 5, 13, 13)
    assert len(list(model.params())) == 4
    model.pick = None
    del model.conv2
    assert model.layer_names[-1] == "conv1_lrn"
    assert model(x).shape == (2, 10, 15, 15)


def test_a_layer_stays_while_one_within_it_is_picked(x):
    model = TraceableChain(block=TraceableResidual(TraceableChain(relu=tn.TraceableReLU())), tail=tn.TraceableReLU())
    model.pick = "block/relu"
    with pytest.raises(AttributeError, match="picked"):
        del model.block
    del model.tail
    assert model(x).shape == x.shape


def test_a_chain_prints_its_layers_in_order():
    model = TraceableChain(
        stem=tn.TraceableConvolution2D(None, 4, 3, nobias=True),
        relu=tn.TraceableReLU(),
        block=TraceableResidual(TraceableChain(project=tn.TraceableConvolution2D(4, 4, 1))),
        tail=F.relu,
    )
    expected = """\
TraceableChain of 5 layers
layer          kind           weights
stem           Convolution2D  W not known yet
relu           ReLU
block/project  Convolution2D  W 4x4x1x1, b 4
block          Add
tail           relu"""
    assert repr(model) == str(model) == expected
    model(np.zeros((1, 3, 8, 8), np.float32))
    assert "W 4x3x3x3" in repr(model)
    assert repr(TraceableChain()) == "TraceableChain: TraceableChain '' has no layers: set them within init_scope"
    assert repr(model.block).splitlines()[-1] == "(output)  Add"


def test_layers_are_found_by_path_and_not_gone_through():
    model = TraceableChain(relu=tn.TraceableReLU(), block=TraceableResidual(TraceableChain(inner=tn.TraceableReLU())))
    assert "relu" in model
    assert "block/inner" in model
    assert not [path for path in ("inner", "", 0) if path in model]
    with pytest.raises(TypeError, match="not iterable"):
        iter(model)


def test_what_is_no_layer_is_an_error():
    with pytest.raises(TypeError, match="layer 'conv' must be callable, got 3"):
        TraceableChain(conv=3)
    with pytest.raises(TypeError, match=re.escape("got the class TraceableReLU: write TraceableReLU(...)")):
        TraceableChain(relu=tn.TraceableReLU)
    for sizes in ({"ksize": 0}, {"ksize": 3, "stride": 0}, {"ksize": 3, "dilate": 0}):
        with pytest.raises(ValueError, match=f"{list(sizes)[-1]} must be at least 1, got 0"):
            tn.TraceableConvolution2D(3, 4, **sizes)


def test_names_that_are_not_there_are_told_the_nearest():
    model = TraceableChain(
        conv1=tn.TraceableReLU(), block=TraceableResidual(TraceableChain(expand=tn.TraceableReLU(), project=tn.TraceableReLU()))
    )
    for path, nearest in (("Conv1", "did you mean 'conv1'?"), ("block/projct", "did you mean 'project'?")):
        with pytest.raises(KeyError, match=re.escape(nearest)):
            model[path]
        with pytest.raises(KeyError, match="did you mean"):
            model.graph().index(path)
    with pytest.raises(KeyError, match="'conv1' is a single layer"):
        model["conv1/relu"]
    many = TraceableChain(**{f"layer{number}": tn.TraceableReLU() for number in range(40)})
    with pytest.raises(KeyError, match=r"no layer 'pool'; there are 40, from 'layer0' to 'layer39'"):
        many.graph().index("pool")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_equal_chainer(seed, dtype):
    rng = np.random.default_rng(seed)
    model = random_chain(rng, dtype=dtype)
    x = picture(rng, 2, 3, 17, 15, dtype=dtype)
    with chainer.using_config("train", False):
        by_chainer = model(x)
        with chainer.no_backprop_mode():
            by_kernels = model(x)
    for name, one, other in zip(model.layer_names, by_chainer, by_kernels, strict=True):
        assert other.dtype == dtype
        np.testing.assert_allclose(other.array, one.array, rtol=1e-5, atol=1e-5 * np.abs(one.array).max(), err_msg=name)


def test_gradients_off_runs_through_the_kernels(model, x, monkeypatch):
    calls = []
    original = dcnn_kernels.convolution_2d
    monkeypatch.setattr(dcnn_kernels, "convolution_2d", lambda *a, **k: calls.append(1) or original(*a, **k))
    model(x)
    assert not calls
    with chainer.no_backprop_mode():
        model(x)
    assert len(calls) == 2


def test_training_mode_with_gradients_off_keeps_batch_statistics():
    rng = np.random.default_rng(0)
    model = TraceableChain(bn=tn.TraceableBatchNormalization(3), drop=tn.TraceableDropout(0.5))
    x = rng.standard_normal((64, 3, 4, 4)).astype(np.float32) + 3
    with chainer.no_backprop_mode(), chainer.using_config("train", True):
        normalized, dropped = model(x)
    assert abs(float(normalized.array.mean())) < 1e-4
    assert 0.4 < float((dropped.array == 0).mean()) < 0.6


def test_training_learns():
    rng = np.random.default_rng(1)
    model = SimpleCNN()
    model.pick = None
    optimizer = chainer.optimizers.Adam(1e-2).setup(model)
    x = rng.standard_normal((8, 3, 32, 32)).astype(np.float32)
    t = rng.integers(0, 10, 8).astype(np.int32)
    losses = []
    for _ in range(15):
        loss = F.softmax_cross_entropy(model(x), t)
        model.cleargrads()
        loss.backward()
        optimizer.update()
        losses.append(float(loss.array))
    assert losses[-1] < 0.5 * losses[0]


def test_serializers_round_trip(model, x):
    file = io.BytesIO()
    chainer.serializers.save_npz(file, model)
    file.seek(0)
    other = SimpleCNN()
    chainer.serializers.load_npz(file, other)
    np.testing.assert_array_equal(other(x)[-1].array, model(x)[-1].array)


def test_copy_is_independent(model, x):
    copied = model.copy("copy")
    del copied.fc4
    assert "fc4" in model.layer_names
    copied.conv1.W.array[...] = 0
    assert np.abs(model.conv1.W.array).max() > 0
    assert len(model(x)) == len(copied(x)) + 1


def test_to_device(model, x):
    assert model.to_device("@numpy") is model
    assert model.conv1.device == chainer.get_device("@numpy")
    assert model(x)[-1].shape == (2, 10)


def test_composites_are_addressed_by_path():
    block = TraceableResidual(
        TraceableChain(conv=tn.TraceableConvolution2D(4, 6, 3, pad=1), project=tn.TraceableConvolution2D(6, 8, 1)),
        TraceableChain(conv=tn.TraceableConvolution2D(4, 8, 1)),
    )
    mixed = TraceableParallel(tn.TraceableReLU(), pool=TraceableChain(mean=tn.TraceableAveragePooling2D(3, 1, 1)), kept=None)
    model = TraceableChain(block3=block, mixed=mixed)
    graph = model.graph()
    assert list(graph.layers) == [
        "block3/conv",
        "block3/project",
        "block3/shortcut/conv",
        "block3/shortcut",
        "block3",
        "mixed/0",
        "mixed/pool/mean",
        "mixed/pool",
        "mixed",
        "",
    ]
    assert model["block3/project"] is block.body.project
    assert model["block3/shortcut/conv"] is block.shortcut.conv
    assert model["mixed/pool/mean"] is mixed.pool.mean
    assert model.layer_names == ["block3", "mixed"]
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
    summed, concatenated = model(x)
    expected = block.body.project(block.body.conv(x)) + block.shortcut.conv(x)
    np.testing.assert_allclose(summed.array, expected.array, rtol=1e-6)
    np.testing.assert_allclose(
        concatenated.array,
        F.concat([F.relu(summed), F.average_pooling_2d(summed, 3, 1, 1), summed]).array,
        rtol=1e-6,
    )
    model.pick = "block3/project"
    np.testing.assert_allclose(model(x).array, block.body.project(block.body.conv(x)).array, rtol=1e-6)
    np.testing.assert_allclose(block(x).array, expected.array, rtol=1e-6)
    assert {name for name, _ in model.namedparams()} >= {"/block3/body/project/W", "/block3/shortcut/conv/b"}


@pytest.mark.parametrize("path", ["conv9", "conv1/inner", "block/none", "block/body/x"])
def test_unknown_paths_are_errors(path):
    model = TraceableChain(conv1=tn.TraceableReLU(), block=TraceableResidual(tn.TraceableReLU()))
    with pytest.raises((KeyError, TypeError)):
        model[path]


def test_bad_composites_are_errors():
    with pytest.raises(TypeError, match="layers"):
        TraceableResidual(3)
    with pytest.raises(ValueError, match="at least one"):
        TraceableParallel()
    with pytest.raises(TypeError, match="branch 'a'"):
        TraceableParallel(a=3)
    with pytest.raises(ValueError, match="no layers"):
        TraceableChain()(np.zeros((1, 3, 4, 4), np.float32))
    clash = TraceableChain(block=TraceableResidual(TraceableChain(shortcut=tn.TraceableReLU()), tn.TraceableReLU()))
    with pytest.raises(ValueError, match="'shortcut'"):
        clash.graph()
    with pytest.raises(ValueError, match="'/'"):
        TraceableChain(**{"a/b": tn.TraceableReLU()})
    unequal = TraceableChain(block=TraceableResidual(L.Convolution2D(3, 4, 1)))
    with pytest.raises(ValueError, match=r"one shape.*\(1, 4, 4, 4\).*\(1, 3, 4, 4\)"):
        unequal(np.zeros((1, 3, 4, 4), np.float32))


def test_half_precision_stays_with_chainer():
    with chainer.using_config("dtype", np.float16), chainer.no_backprop_mode():
        model = TraceableChain(fc=tn.TraceableLinear(4, 3))
        (y,) = model(np.ones((2, 4), np.float16))
    assert y.dtype == np.float16


def test_nodes_reject_bad_settings():
    with pytest.raises(ValueError, match="above 0"):
        tn.TraceableClippedReLU(0)
    with pytest.raises(ValueError, match="ratio"):
        tn.TraceableDropout(1.0)
    with pytest.raises(ValueError, match="one mean per channel"):
        tn.TraceableBatchNormalization((3, 4, 4))
    with pytest.raises(ValueError, match="one per channel"):
        tn.TraceablePReLU((3, 4))
    with pytest.raises(NotImplementedError, match="forward"):
        tn.TraceableNode()(np.zeros(3))

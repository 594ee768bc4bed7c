"""Imported models: equal outputs, the very same weights, and layers that know their way back."""

import functools

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import chainer.links as L
import chainercv.links as cv
import numpy as np
import pytest
from chainer.links.model.vision import resnet, vgg
from chainercv.links.model.resnet import ResBlock, resblock
from chainercv.links.model.resnet import resnet as cv_resnet
from chainercv.links.model.vgg import vgg16

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.desalinet import SaliNet
from dcnn_visualizer.importers import callables, from_chainer
from dcnn_visualizer.traceable_chain import TraceableChain


def picture(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shake(model, seed=1):
    """Gives biases and running statistics values that show whether they are used."""
    rng = np.random.default_rng(seed)
    for link in model.links():
        if isinstance(link, L.BatchNormalization):
            link.avg_mean[...] = rng.normal(0, 0.1, link.avg_mean.shape)
            link.avg_var[...] = rng.uniform(0.5, 1.5, link.avg_var.shape)
            link.gamma.array[...] = rng.uniform(0.5, 1.5, link.gamma.shape)
            link.beta.array[...] = rng.normal(0, 0.1, link.beta.shape)
        elif getattr(link, "b", None) is not None:
            link.b.array[...] = rng.normal(0, 0.1, link.b.shape)
    return model


def shake_after_call(model, x):
    model(x)
    return shake(model)


def assert_equal_layers(chain, expected, x):
    """Every layer's output equals the model's, through Chainer with gradients and through the kernels without."""
    chain.pick = tuple(expected)
    with_gradients = chain(x)
    with chainer.no_backprop_mode():
        through_kernels = chain(x)
    for name, y, z in zip(expected, with_gradients, through_kernels, strict=True):
        scale = abs(expected[name].array).max()
        assert scale > 0, name
        np.testing.assert_allclose(y.array, expected[name].array, atol=1e-5 * scale, err_msg=name)
        np.testing.assert_allclose(z.array, expected[name].array, atol=1e-5 * scale, err_msg=name)


def assert_same_parameters(chain, model):
    theirs = {id(parameter) for parameter in model.params()}
    assert {id(parameter) for parameter in chain.params()} == theirs


def assert_is_gradient(chain, outputs, x, layer, channel):
    """SaliNet on the chain is the gradient that Chainer finds in the model."""
    variable = chainer.Variable(x)
    y = outputs(variable)[layer]
    seed = np.zeros_like(y.array)
    seed[:, channel] = y.array[:, channel]
    (gradient,) = chainer.grad([y], [variable], [chainer.Variable(seed)])
    np.testing.assert_allclose(SaliNet(chain).analyze(x, layer, channel), gradient.array, atol=1e-5 * abs(gradient.array).max())


def picked(model):
    """The outputs of all layers of a ChainerCV model by name."""

    def outputs(x):
        model.pick = model.layer_names
        layers = dict(zip(model.layer_names, model(x), strict=True))
        model.pick = None
        return layers

    return outputs


@pytest.fixture
def narrow(monkeypatch):
    """Narrows the layers that a module builds its models of, eight times; the models stay what they are."""

    def narrow(module, *names):
        for name in names:
            monkeypatch.setattr(module, name, functools.partial(narrowed, getattr(module, name)))

    def narrowed(kind, *channels, **options):
        sizes = [size // 8 if isinstance(size, int) and size >= 64 else size for size in channels[:2]]
        return kind(*sizes, *channels[2:], **options)

    return narrow


@pytest.fixture
def float64():
    """Weights in double precision: no ReLU or pool of two passes then decides differently by rounding."""
    with chainer.using_config("dtype", np.float64):
        yield


def test_chainer_vgg16(narrow, float64):
    narrow(vgg, "Convolution2D", "Linear")
    model, x = L.VGG16Layers(pretrained_model=None), picture(1, 3, 224, 224).astype(np.float64)
    chain = from_chainer(shake(model))
    np.testing.assert_array_equal(chain(x).array, model(x)["prob"].array)
    assert chain.layer_names == model.available_layers
    assert_equal_layers(chain, model(x, layers=["conv1_1", "pool3", "conv5_3", "fc7", "prob"]), x)
    assert_same_parameters(chain, model)
    assert chain["conv2_1/conv"].W is model.conv2_1.W
    assert isinstance(chain["pool1"], tn.TraceableMaxPooling2D)
    assert [type(layer) for layer in (chain["fc6/relu"], chain["fc6/dropout"])] == [tn.TraceableReLU, tn.TraceableDropout]
    assert_is_gradient(chain, lambda x: model(x, layers=["conv3_3"]), x, "conv3_3", 7)


def test_chainer_vgg19(narrow):
    narrow(vgg, "Convolution2D", "Linear")
    model = L.VGG19Layers(pretrained_model=None)
    assert from_chainer(model).layer_names == model.available_layers


@pytest.mark.parametrize("downsample_fb", [False, True])
def test_chainer_resnet50(narrow, float64, downsample_fb):
    narrow(resnet, "Convolution2D", "Linear", "BatchNormalization")
    x = picture(1, 3, 48, 48).astype(np.float64)
    model = shake(L.ResNet50Layers(pretrained_model=None, downsample_fb=downsample_fb))
    chain = from_chainer(model)
    assert chain.layer_names == model.available_layers
    assert_equal_layers(chain, model(x, layers=model.available_layers), x)
    assert_same_parameters(chain, model)
    assert chain["res2/a/conv1"].W is model.res2.a.conv1.W
    assert chain["res3/a/shortcut/conv4"].W is model.res3.a.conv4.W
    assert chain["res4/b5/bn3"].avg_mean is model.res4.b5.bn3.avg_mean
    assert isinstance(chain["pool5"], tn.TraceableGlobalAveragePooling2D)
    assert_is_gradient(chain, lambda x: model(x, layers=["res3"]), x, "res3", 10)


def test_chainercv_vgg16(narrow, float64):
    narrow(vgg16, "Conv2DActiv", "Linear")
    model, x = cv.VGG16(n_class=7, initialW=chainer.initializers.HeNormal()), picture(2, 3, 32, 32).astype(np.float64)
    chain = from_chainer(model)
    # Weights take their shapes at the first call, on whichever side it comes.
    chain(x)
    shake(model)
    np.testing.assert_array_equal(chain(x).array, model(x).array)
    assert chain.layer_names == model.layer_names
    assert_equal_layers(chain, picked(model)(x), x)
    assert_same_parameters(chain, model)
    assert_is_gradient(chain, picked(model), x, "conv4_2", 3)


@pytest.mark.parametrize("arch", ["fb", "he"])
def test_chainercv_resnet50(narrow, float64, arch):
    narrow(cv_resnet, "Conv2DBNActiv")
    narrow(resblock, "Conv2DBNActiv")
    x = picture(1, 3, 48, 48).astype(np.float64)
    model = shake_after_call(cv.ResNet50(n_class=7, arch=arch), x)
    chain = from_chainer(model)
    assert chain.layer_names == model.layer_names
    assert_equal_layers(chain, picked(model)(x), x)
    assert_same_parameters(chain, model)
    assert chain["res2/a/conv1/conv"].W is model.res2.a.conv1.conv.W
    assert chain["res2/a/shortcut/conv"].W is model.res2.a.residual_conv.conv.W
    assert [type(chain[name]) for name in ("pool1", "pool5")] == [tn.TraceableMaxPooling2D, tn.TraceableGlobalAveragePooling2D]
    assert_is_gradient(chain, picked(model), x, "res3", 10)


def test_squeeze_and_excitation_is_passed_over():
    block = cv.PickableSequentialChain()
    with block.init_scope():
        block.res = ResBlock(2, 4, 16, 32, 1, add_seblock=True)
    x = picture(2, 4, 8, 8)
    chain = from_chainer(shake_after_call(block, x))
    assert_equal_layers(chain, {"res": block(x)}, x)
    assert SaliNet(chain).coverage()["res/a/se"].startswith("passed over: SEBlock")
    assert SaliNet(chain).analyze(x, "res").shape == x.shape


def test_pick_stays():
    model, x = cv.PickableSequentialChain(), picture(2, 3, 9, 9)
    with model.init_scope():
        model.conv = cv.Conv2DActiv(3, 4, 3, pad=2, dilate=2, activ=None)
        model.pool = functools.partial(F.max_pooling_2d, ksize=3, stride=2, pad=1, cover_all=False)
        model.norm = cv.Conv2DBNActiv(4, 4, 3, groups=2, activ=F.leaky_relu)
    model.pick = ("pool", "conv")
    chain = from_chainer(shake(model))
    assert chain.pick == ("pool", "conv")
    for y, expected in zip(chain(x), model(x), strict=True):
        np.testing.assert_allclose(y.array, expected.array, atol=1e-6)
    assert_equal_layers(chain, picked(model)(x), x)
    assert chain["pool"].window == tn.TraceableMaxPooling2D(3, 2, 1, cover_all=False).window
    assert chain["norm/activ"].slope == 0.2


def small_sequential():
    return chainer.Sequential(
        L.Convolution2D(None, 8, 3, stride=2, pad=1, nobias=True),
        L.BatchNormalization(8),
        L.PReLU(),
        chainer.Sequential(
            L.Convolution2D(8, 12, 3, groups=4, dilate=2, pad=(2, 1)), lambda x: F.relu(F.max_pooling_2d(x, 3, 2))
        ),
        L.DilatedConvolution2D(12, 6, 3, pad=2, dilate=2),
        F.sigmoid,
        F.dropout,
        lambda x: F.average_pooling_2d(x, 2),
        L.BatchNormalization(6, use_gamma=False, use_beta=False),
        L.Linear(None, 5),
        L.BatchNormalization(5),
        F.softmax,
    )


def test_sequential():
    model, x = small_sequential(), picture(3, 3, 20, 20)
    with chainer.using_config("train", True):
        model(x)
    chain = from_chainer(model)
    np.testing.assert_array_equal(chain(x).array, model(x).array)
    assert chain.layer_names == [str(i) for i in range(12)]
    assert chain["3/1/0"].ksize == (3, 3)
    assert [type(chain[name]) for name in ("6", "7")] == [tn.TraceableDropout, tn.TraceableAveragePooling2D]
    expected, h = {}, x
    for i, layer in enumerate(model):
        h = expected[str(i)] = layer(h)
    assert_equal_layers(chain, expected, x)
    assert_same_parameters(chain, model)
    assert SaliNet(chain).coverage()["5"].startswith("passed over: sigmoid")


def test_training_one_trains_the_other():
    model, x = small_sequential(), picture(4, 3, 20, 20)
    with chainer.using_config("train", True):
        model(x)
        chain = from_chainer(model)
        before = model[0].W.array.copy()
        optimizer = chainer.optimizers.MomentumSGD(0.1).setup(chain)
        optimizer.update(lambda: F.softmax_cross_entropy(chain(x), np.arange(4)))
    assert abs(model[0].W.array - before).max() > 0
    np.testing.assert_array_equal(chain(x).array, model(x).array)
    np.testing.assert_array_equal(chain["1"].avg_mean, model[1].avg_mean)


def test_weights_saved_on_one_side_load_on_the_other(tmp_path):
    x = picture(2, 3, 16, 16)
    models = [cv.PickableSequentialChain() for _ in range(2)]
    for model in models:
        with model.init_scope():
            model.conv1 = cv.Conv2DBNActiv(3, 4, 3)
            model.pool1 = lambda x: F.max_pooling_2d(x, 2)
            model.fc2 = L.Linear(4 * 7 * 7, 5)
    chainer.serializers.save_npz(tmp_path / "model.npz", shake(models[0]))
    chain = from_chainer(models[1])
    chainer.serializers.load_npz(tmp_path / "model.npz", chain)
    np.testing.assert_array_equal(chain(x).array, models[0](x).array)
    np.testing.assert_array_equal(models[1](x).array, models[0](x).array)


def test_a_subclass_with_its_own_forward_is_another_network():
    class Doubled(L.Convolution2D):
        def forward(self, x):
            return 2 * super().forward(x)

    class Renamed(L.Convolution2D):
        pass

    x = picture(1, 3, 5, 5)
    model = chainer.Sequential(Doubled(3, 4, 3), Renamed(4, 4, 3))
    chain = from_chainer(model)
    assert chain["0"] is model[0]
    assert isinstance(chain["1"], tn.TraceableConvolution2D)
    np.testing.assert_array_equal(chain(x).array, model(x).array)

    class Branched(chainer.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(TypeError, match=r"expected one of .*VGGLayers.* got Branched: write its layers"):
        from_chainer(Branched(F.relu))


def test_batch_normalization_without_statistics():
    model = chainer.Sequential(L.Convolution2D(3, 4, 3), chainer.Sequential(L.BatchNormalization(axis=(0, 2, 3))))
    with pytest.raises(ValueError, match="/1/0 of Sequential: its batch normalization has no statistics yet"):
        from_chainer(model)
    with chainer.using_config("train", True):
        model(picture(2, 3, 8, 8))
    assert from_chainer(model)["1/0"].avg_mean is model[1][0].avg_mean


def test_a_traceable_chain_is_taken_as_it_is():
    chain = TraceableChain(relu=tn.TraceableReLU())
    assert from_chainer(chain) is chain
    assert chain.pick == ("relu",)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.relu, [tn.TraceableReLU()]),
        (F.relu6, [tn.TraceableClippedReLU(6.0)]),
        (lambda x: F.clipped_relu(x, 3.0), [tn.TraceableClippedReLU(3.0)]),
        (functools.partial(F.leaky_relu, slope=0.1), [tn.TraceableLeakyReLU(0.1)]),
        (lambda x: F.max_pooling_2d(x, (3, 2), (2, 1), (1, 0), False), [tn.TraceableMaxPooling2D((3, 2), (2, 1), (1, 0), False)]),
        (functools.partial(F.max_pooling_nd, ksize=2), [tn.TraceableMaxPooling2D(2)]),
        (functools.partial(F.average_pooling_2d, ksize=3, stride=2, pad=1), [tn.TraceableAveragePooling2D(3, 2, 1)]),
        (lambda x: F.average(x, axis=(2, 3)), [tn.TraceableGlobalAveragePooling2D()]),
        (lambda x: F.mean(x, axis=(2, 3)), [tn.TraceableGlobalAveragePooling2D()]),
        (resnet._global_average_pooling_2d, [tn.TraceableGlobalAveragePooling2D()]),
        (functools.partial(F.local_response_normalization, n=3), [tn.TraceableLocalResponseNormalization(3)]),
        (lambda x: F.reshape(x, (len(x), -1)), [tn.TraceableFlatten()]),
        (F.dropout, [tn.TraceableDropout()]),
        (lambda x: F.max_pooling_2d(F.relu(x), 2), [tn.TraceableReLU(), tn.TraceableMaxPooling2D(2)]),
        (F.softmax, []),
        (F.sigmoid, []),
        (F.flatten, []),
        (lambda x: x, []),
        (lambda x: x * F.sigmoid(x), []),
        (lambda x: F.relu(x) + 1, []),
        (lambda x: F.max_pooling_2d(x, x.shape[2] // 8), []),
        (lambda x: F.average_pooling_2d(x, x.shape[2:]), []),
        (lambda x: F.average_pooling_nd(x, 2, pad=1, pad_value=None), []),
        (lambda x: F.reshape(x, (2, -1)), []),
        (lambda x: F.dropout(F.relu(x)), []),
        (lambda x: F.relu(chainer.Variable(x.array)), []),
        (lambda x: F.relu(x, 1, 2, 3), []),
        (lambda x: None, []),
        (lambda x: 1 / 0, []),
    ],
)
def test_callables_are_read_from_what_they_do(function, expected):
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    nodes = callables.trace(function)
    assert [(type(node), vars(node)) for node in nodes] == [(type(node), vars(node)) for node in expected]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002

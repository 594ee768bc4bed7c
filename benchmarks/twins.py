"""A chain's layers in PyTorch, with the same weights: for peers that know PyTorch only."""

from __future__ import annotations

import torch

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.traceable_chain import TraceableChain


class Torch(torch.nn.Module):
    """A chain's layers, up to one of them, in torch, with the same weights."""

    def __init__(self, chain: TraceableChain, layer: str) -> None:
        super().__init__()
        graph = chain.graph()
        self.target = graph.index(layer)
        self.order = graph.ancestors([self.target])
        self.inputs = {index: graph.steps[index].inputs for index in self.order}
        self.layers = torch.nn.ModuleDict({str(index): as_torch(graph.steps[index].node) for index in self.order})

    @property
    def layer(self) -> torch.nn.Module:
        """The layer whose activation is projected."""
        return self.layers[str(self.target)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's activation."""
        values = {PICTURE: x}
        for index in self.order:
            values[index] = self.layers[str(index)](*(values[source] for source in self.inputs[index]))
        return values[self.target]


class Sum(torch.nn.Module):
    """The end of a residual block."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return sum(inputs[1:], inputs[0])


def as_torch(node: tn.TraceableNode) -> torch.nn.Module:
    if isinstance(node, tn.TraceableConvolution2D):
        (top, bottom), (left, right) = node.pads
        outgoing, part, *ksize = node.W.shape
        even = top == bottom and left == right
        layer = torch.nn.Conv2d(
            part * node.groups,
            outgoing,
            ksize,
            node.stride,
            (top, left) if even else 0,
            groups=node.groups,
            bias=node.b is not None,
        )
        layer.weight.data = torch.from_numpy(node.W.array)
        if node.b is not None:
            layer.bias.data = torch.from_numpy(node.b.array)
        return layer if even else torch.nn.Sequential(torch.nn.ZeroPad2d((left, right, top, bottom)), layer)
    if isinstance(node, tn.TraceableBatchNormalization):
        layer = torch.nn.BatchNorm2d(len(node.avg_mean), node.eps).eval()
        layer.weight.data, layer.bias.data = torch.from_numpy(node.gamma.array), torch.from_numpy(node.beta.array)
        layer.running_mean, layer.running_var = torch.from_numpy(node.avg_mean), torch.from_numpy(node.avg_var)
        return layer
    if isinstance(node, tn.TraceableMaxPooling2D):
        (top, _), (left, _) = node.pads
        return torch.nn.MaxPool2d(node.ksize, node.stride, (top, left), ceil_mode=node.cover_all)
    if isinstance(node, tn.TraceableLinear):
        layer = torch.nn.Linear(node.W.shape[1], node.W.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(node.W.array), torch.from_numpy(node.b.array)
        return torch.nn.Sequential(torch.nn.Flatten(), layer)
    if isinstance(node, (tn.TraceableGlobalAveragePooling2D, tn.TraceableAdaptiveAveragePooling2D)):
        return torch.nn.AdaptiveAvgPool2d(1)
    if isinstance(node, tn.TraceableClippedReLU):
        return torch.nn.ReLU6()
    others = {
        tn.TraceableReLU: torch.nn.ReLU,
        tn.TraceableIdentity: torch.nn.Identity,
        tn.TraceableFlatten: torch.nn.Flatten,
        tn.Add: Sum,
    }
    return others[type(node)]()

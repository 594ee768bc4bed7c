"""PyTorch's operators one by one, and in graphs of any shape."""

import inspect
import re
import sys
import types

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.torch import from_torch
from dcnn_visualizer.occlusion import SaliencyVisualizer
from tests.peers.test_importers_torch import assert_equal, pictures


class Function(nn.Module):
    """A module of one function, and of whatever else it needs."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x):
        return self.function(self, x) if inspect.signature(self.function).parameters.keys() > {"x"} else self.function(x)


class Heads(nn.Module):
    """Attention of two heads as timm has it, all but the step from queries, keys and values to what is heard."""

    def __init__(self, attend):
        super().__init__()
        self.attend, self.qkv = attend, nn.Linear(4, 12)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        batch, places, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, places, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        return self.attend(qkv).transpose(1, 2).reshape(batch, places, channels)


def unbound(qkv):
    q, k, v = qkv.unbind(0)
    return F.scaled_dot_product_attention(q, k, v)


def tensor(*shape, seed=3):
    return pictures(*shape, seed=seed)


#: Right for pictures of any size.
OPERATORS = {
    "groups": nn.Conv2d(4, 6, 3, groups=2, dilation=(2, 1), stride=(1, 2), padding=(2, 0)),
    "same": nn.Conv2d(4, 3, (4, 3), padding="same", dilation=(1, 2)),
    "valid": nn.Conv2d(4, 3, 3, padding="valid", bias=False),
    "functional convolution": Function(lambda self, x: F.conv2d(x, self.w, stride=2), w=tensor(3, 4, 3, 3)),
    "batch norm without weights": nn.BatchNorm2d(4, affine=False),
    "functional batch norm": Function(
        lambda self, x: F.batch_norm(x, self.m, self.v, self.w, eps=0.1), m=tensor(4), v=tensor(4).abs(), w=tensor(4)
    ),
    "relu": nn.ReLU(inplace=True),
    "relu method": Function(lambda x: (x + 1).relu_()),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(0, 2),
    "clamp": Function(lambda x: x.clamp(min=0, max=1.5)),
    "clamp below": Function(lambda x: torch.clamp(x, 0)),
    "leaky relu": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(4, 0.3),
    "prelu of one slope": nn.PReLU(),
    "elu": nn.ELU(0.5),
    "selu": nn.SELU(),
    "celu": nn.CELU(0.7),
    "gated linear unit": nn.GLU(1),
    "gated along columns": Function(lambda x: F.glu(x[..., :6])),
    "softsign": nn.Softsign(),
    "log sigmoid": nn.LogSigmoid(),
    "exponential and logarithm": Function(lambda x: torch.exp(-x.abs()) + (x**2 + 1).log()),
    "largest of a window and a constant": Function(
        lambda self, x: torch.maximum(x, self.t) + torch.min(x, self.t) * x.clamp(-2, 1), t=tensor(4, 1, 1)
    ),
    "maxout": Function(lambda x: torch.max(x[:, :2], x[:, 2:]) - torch.minimum(x[:, :2], x[:, 2:])),
    "synchronized batch norm": nn.SyncBatchNorm(4),
    "sigmoid": nn.Sigmoid(),
    "tanh": Function(lambda x: torch.tanh(x)),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "upsampling": nn.Upsample(scale_factor=2),
    "upsampling as a function": Function(lambda x: F.interpolate(x, scale_factor=(1, 3), mode="nearest-exact")),
    "transposed convolution": nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, groups=2, dilation=(1, 2)),
    "transposed convolution with more behind": nn.ConvTranspose2d(4, 2, 3, (3, 2), 1, output_padding=(2, 1)),
    "bilinear upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, aligned corners": nn.UpsamplingBilinear2d(scale_factor=3),
    "bilinear to a size": Function(lambda x: F.interpolate(x, (5, 17), mode="bilinear", align_corners=True)),
    "bilinear by fractions": Function(lambda x: F.interpolate(x, scale_factor=(1.6, 0.7), mode="bilinear")),
    "bilinear to twice the size": Function(
        lambda x: F.interpolate(x, scale_factor=2) * F.interpolate(x, [2 * x.shape[2], 2 * x.shape[3]], mode="bilinear")
    ),
    "bicubic": Function(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic")),
    "nearest by fractions": Function(lambda x: F.interpolate(x, scale_factor=(1.6, 0.7))),
    "nearest to a size": Function(lambda x: F.interpolate(x, (5, 17), mode="nearest-exact")),
    "pixel shuffle": nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(1, 3, 3)),
    "pixel unshuffle": nn.Sequential(nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2)),
    "channel shuffle module": nn.ChannelShuffle(2),
    "channels by a list": Function(lambda x: x[:, [2, 0, 2]]),
    "channels flipped": Function(lambda x: x.flip(1)),
    "mirrored border": nn.ReflectionPad2d((1, 2, 3, 0)),
    "border repeated": nn.ReplicationPad2d(2),
    "layer normalization": Function(
        lambda self, x: self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(4, eps=0.1)
    ),
    "functional layer normalization": Function(lambda self, x: F.layer_norm(x.mean((2, 3)), (4,), self.w), w=tensor(4)),
    "root mean square normalization": Function(lambda self, x: self.norm(x.permute(0, 2, 3, 1)), norm=nn.RMSNorm(4)),
    "group normalization": nn.GroupNorm(2, 4),
    "instance normalization": Function(lambda self, x: self.norm(x) ** 3, norm=nn.InstanceNorm2d(4, affine=True)),
    "instance normalization by running statistics": nn.InstanceNorm2d(4, track_running_stats=True),
    "linear by place": Function(lambda self, x: self.fc(x.permute(0, 2, 3, 1)), fc=nn.Linear(4, 3)),
    "tanh gelu": nn.GELU("tanh"),
    "mish": nn.Mish(),
    "softplus": nn.Softplus(2.0),
    "clip": nn.Hardtanh(-1, 1.5),
    "upper bound": Function(lambda x: x.clamp(max=0.5)),
    "powers": Function(lambda x: x.square() + x**3 + (x * x + 1).sqrt() + torch.rsqrt(x**2 + 1) + 1 / (x**2 + 1)),
    "difference": Function(lambda x: F.avg_pool2d(x, 3, 1, 1) - x),
    "quotient": Function(lambda x: x / (x.norm(p=2, dim=(2, 3), keepdim=True) + 1)),
    "spatial attention": Function(lambda x: torch.cat((x.mean(1, keepdim=True), x.max(dim=1, keepdim=True)[0]), 1)),
    "sums": Function(lambda x: x.sum(dim=1, keepdim=True) * x.amax((2, 3), keepdim=True)),
    "efficient channel attention": Function(
        lambda self, x: x * self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1)).sigmoid().view(x.shape[0], -1, 1, 1).expand_as(x),
        conv=nn.Conv1d(1, 1, 3, padding=1, bias=False),
    ),
    "global context": Function(
        lambda x: (
            (
                x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
                @ x.mean(1, keepdim=True).reshape(x.shape[0], 1, -1).softmax(-1).transpose(1, 2)
            ).view(x.shape[0], x.shape[1], 1, 1)
            + x
        )
    ),
    "constant plus product": Function(lambda self, x: torch.addcmul(self.b, self.w, x), b=tensor(4, 1, 1), w=tensor(1, 4, 1, 1)),
    "layer scale": Function(lambda self, x: self.conv(x) * self.g.reshape(1, -1, 1, 1) + x, conv=nn.Conv2d(4, 4, 1), g=tensor(4)),
    "padded and cut": nn.ZeroPad2d((-1, 1, 2, -2)),
    "convolution with a mirrored border": nn.Conv2d(4, 3, 3, (1, 2), (2, 1), padding_mode="reflect"),
    "convolution with its border repeated": nn.Conv2d(4, 3, (3, 5), padding="same", padding_mode="replicate"),
    "joined along columns": Function(lambda x: torch.cat((x, x[..., 1:]), 3)),
    "stacked": Function(lambda x: torch.stack((x, x * x), 1).sum(dim=2)),
    "every second": Function(lambda x: torch.cat((x[..., ::2, ::2], x[..., ::2, ::2]), 1)),
    "pieces along columns": Function(lambda x: x.chunk(2, -1)[0] * 2),
    "last of uneven pieces": Function(lambda x: torch.chunk(x.permute(0, 2, 3, 1), 3, dim=3)[1]),
    "variance": Function(lambda x: x / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-3).sqrt()),
    "unbiased deviation": Function(lambda x: x / torch.std(x, dim=(1, 2), keepdim=True)),
    "unit vectors": Function(lambda x: F.normalize(x.relu(), dim=1) + F.normalize(x, dim=-1, eps=0.5)),
    "dtype said once more": Function(lambda x: x.float().to(x.dtype).type_as(x) + 1),
    "stretched": Function(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, x.shape[2], x.shape[3]) * x),
    "stretched to a number": Function(lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1) * x[:, :3]),
    "group normalization of a line": Function(lambda self, x: self.norm(x.flatten(2)), norm=nn.GroupNorm(2, 4)),
    "stretched to a shape": Function(lambda x: x.amax(1, keepdim=True).expand(x.shape).expand(-1, 4, -1, -1)),
    "space to depth": nn.Sequential(
        nn.Upsample(scale_factor=2),
        Function(
            lambda x: (
                x.view(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
                .permute(0, 3, 5, 1, 2, 4)
                .reshape(x.shape[0], 4 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
            )
        ),
    ),
    "viewed as what it was": Function(lambda x: (x.unsqueeze(2) * 2).view(x.shape) + x[:, None].reshape_as(x)),
    "maps of places": Function(lambda x: (x.flatten(2).softmax(-1) * 3).view(x.shape) + x.flatten(2).reshape(x.shape)),
    "maps of places, channels last": Function(
        lambda x: x.flatten(2).transpose(1, 2).reshape(x.size(0), x.size(2), x.size(3), x.size(1) // 2, 2).mean(-1)
    ),
    "one channel a group": Function(
        lambda x: x.view(x.shape[0], 4, x.shape[1] // 4, x.shape[2], x.shape[3]).mean((3, 4)).squeeze(-1)
    ),
    "axes of one place": Function(
        lambda x: x.unsqueeze(3).unsqueeze(-1).squeeze(3).view(x.shape[0], 4, x.shape[2], -1, 1).flatten(3)
    ),
    "groups of channels": Function(lambda x: x.reshape(x.shape[0], x.shape[1] // 2, -1, x.shape[2], x.shape[3]).mean((3, 4))),
    "attention": Heads(lambda qkv: (qkv[0] @ qkv[1].transpose(-2, -1) * 0.5).softmax(-1) @ qkv[2]),
    "fused attention": Heads(unbound),
    "attention of many queries to one head": Heads(
        lambda qkv: F.scaled_dot_product_attention(qkv[0], qkv[1][:, :1], qkv[2].mean(1, keepdim=True))
    ),
    "fused attention with a bias": Heads(
        lambda qkv: F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], tensor(1, 2, 1, 1) + 1, scale=0.3)
    ),
    "parts by given sizes": Function(lambda x: x.permute(0, 2, 3, 1).split([1, 3], dim=-1)[1]),
    "channels apart": Function(lambda x: x.unbind(1)[2].unsqueeze(1) + x),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(inplace=True),
    "softmax": nn.Softmax2d(),
    "log softmax": Function(lambda x: F.log_softmax(x, dim=-3)),
    "max pooling": nn.MaxPool2d((3, 2), (2, 1), (1, 0)),
    "max pooling up to the end": nn.MaxPool2d(3, 2, ceil_mode=True),
    "windows dropped behind the picture": nn.MaxPool2d(2, 2, 1, ceil_mode=True),
    "windows with gaps dropped": nn.MaxPool2d(2, 3, ceil_mode=True),
    "functional pooling": Function(lambda x: F.max_pool2d(x, 3, stride=2, padding=1)),
    "average pooling": nn.AvgPool2d(3, 2, 1),
    "average of what is inside": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average up to the end": nn.AvgPool2d(3, 2, ceil_mode=True),
    "average inside up to the end": nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False),
    "average of windows of the picture's size": Function(lambda x: F.avg_pool2d(x, x.shape[2:])),
    "average of the picture's height": Function(lambda x: F.avg_pool2d(x, (x.size(2), x.size(3)))),
    "mean": Function(lambda x: x.mean((-1, -2))),
    "mean that keeps": Function(lambda x: torch.mean(x, [2, 3], keepdim=True)),
    "adaptive average": nn.AdaptiveAvgPool2d((3, 5)),
    "lrn": nn.LocalResponseNorm(3, alpha=0.5, beta=0.6, k=2),
    "dropout": Function(lambda x: F.dropout(x, 0.3, training=False)),
    "identity": nn.Identity(),
    "padding": nn.ConstantPad2d((1, 0, 2, 3), 0.5),
    "zero padding": Function(lambda x: F.pad(x, (1, 2))),
    "concatenation": Function(lambda x: torch.cat([x, x * 2, x[:, 1:3]], dim=1)),
    "sum": Function(lambda x: 1 + x + x.mean((2, 3), keepdim=True)),
    "difference of a buffer": Function(lambda self, x: (x - self.mean) / self.std, mean=tensor(1, 4, 1, 1), std=tensor(4, 1, 1)),
    "from a number": Function(lambda x: 2 - x),
    "negative": Function(lambda x: -x),
    "square": Function(lambda x: x * x),
    "gate": Function(lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x),
    "flatten maps": Function(lambda x: x.flatten(2).unsqueeze(1)),
    "flatten by view": Function(lambda x: x.view(x.size(0), x.size(1), -1)),
    "channel shuffle": Function(
        lambda x: x.view(x.shape[0], 2, x.shape[1] // 2, x.shape[2], x.shape[3]).transpose(1, 2).reshape(x.shape)
    ),
    "permute": Function(lambda x: x.permute(0, 2, 3, 1).contiguous()),
    "pieces": Function(lambda x: torch.cat(torch.split(x, [1, 3], dim=1)[::-1], 1) if False else x.split(3, 1)[0] * 2),
    "new axes": Function(lambda x: x.mean((2, 3))[:, :, None, None] * x + x[..., None, :, 1:2].squeeze(2)),
    "part": Function(lambda x: x[..., 1:-1, 2:]),
    "one channel": Function(lambda x: x[:, 1].unsqueeze(1)),
    "module of a subclass": type("Renamed", (nn.ReLU,), {})(),
    "constant made in forward": Function(lambda x: x * torch.full((4, 1, 1), 2.0)),
    "with defaults": Function(lambda x: F.relu(x)),
}
#: Right for pictures of one size, or for sizes that divide.
SIZED = {
    "vectors": nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 12, 5), nn.BatchNorm1d(5), nn.Softmax(dim=1)),
    "functional linear": Function(lambda self, x: F.linear(torch.flatten(x, 1), self.w, self.b), w=tensor(3, 384), b=tensor(3)),
    "view by number": Function(lambda x: x.view(-1, 384)),
    "unflatten": nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 2, 96))),
    "adaptive maximum": nn.AdaptiveMaxPool2d((4, 3)),
    "squeeze": Function(lambda x: F.avg_pool2d(x, (8, 12)).squeeze(3).squeeze(-1)),
}


def randomized(module):
    """The module at inference, its statistics drawn anew."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    torch.manual_seed(0)
    # Within a Sequential, a module is called as such, and not by the function that it is made of.
    module = randomized(nn.Sequential(OPERATORS[name]))
    chain = from_torch(module, pictures(2, 4, 8, 12))
    for size in ((8, 12), (9, 10), (7, 11)):
        assert_equal(chain, module, pictures(3, 4, *size, seed=1) * 2)
    assert not any("passed over" in rule for rule in coverage(chain).values())


@pytest.mark.parametrize("name", SIZED)
def test_operators_for_one_size(name):
    torch.manual_seed(0)
    module = randomized(nn.Sequential(SIZED[name]))
    chain = from_torch(module, pictures(2, 4, 8, 12))
    assert_equal(chain, module, pictures(3, 4, 8, 12, seed=1) * 2)


def coverage(chain):
    from dcnn_visualizer.desalinet import DeSaliNet

    return DeSaliNet(chain).coverage()


@pytest.mark.parametrize("module", [nn.MaxPool2d, nn.AvgPool2d])
def test_pooling_of_every_geometry(module):
    for ksize in (1, 2, 3):
        for stride in (1, 2, 3, 4):
            for pad in range(ksize // 2 + 1):
                options = [{}] if module is nn.MaxPool2d else [{"count_include_pad": False}]
                for option in options:
                    pooling = module(ksize, stride, pad, ceil_mode=True, **option)
                    chain = from_torch(pooling, pictures(1, 1, 5, 8))
                    for size in ((5, 8), (6, 7), (4, 9)):
                        x = pictures(1, 1, *size)
                        np.testing.assert_allclose(chain(x.numpy()).array, pooling(x).numpy(), rtol=1e-6, atol=1e-6)


class RandomGraph(nn.Module):
    """Steps that each take one or two of what is there already."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in steps)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        values = [x]
        for conv, (kind, first, second) in zip(self.convs, self.steps, strict=True):
            a, b = values[first % len(values)], values[second % len(values)]
            if kind == "conv":
                values.append(conv(a))
            elif kind == "relu":
                values.append(F.relu(a))
            elif kind == "relu in place":
                values.append(self.act(conv(a)))
            elif kind == "relu of what others see":
                values.append(a + 0 if a is x else a.relu_())
            elif kind == "add":
                values.append(a + b)
            elif kind == "multiply":
                values.append(torch.tanh(a) * b)
            elif kind == "gate":
                values.append(torch.sigmoid(a.mean((2, 3), keepdim=True)) * b)
            elif kind == "pool":
                values.append(F.max_pool2d(a, 3, 1, 1))
            else:
                values.append(torch.cat((a[:, :1], b[:, 1:]), 1))
        return torch.cat(values[1:], 1)


KINDS = ["conv", "relu", "relu in place", "relu of what others see", "add", "multiply", "gate", "pool", "join"]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9), st.integers(0, 99)
)
def test_graphs_of_any_shape(steps, seed):
    torch.manual_seed(seed)
    module = RandomGraph(steps).eval()
    x = pictures(2, 3, 6, 7, seed=seed)
    chain = from_torch(module, x)
    if any(kind == "relu of what others see" for kind, _, _ in steps):
        # Autograd refuses where a tensor that it needs was changed; the chain doesn't mind.
        with torch.no_grad():
            expected = module(x.clone()).numpy()
        y = chain(chainer.Variable(x.numpy()))
        np.testing.assert_allclose(y.array, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
    else:
        assert_equal(chain, module, x, may_vanish=True)
    assert SaliencyVisualizer(chain).analyze(x[0].numpy(), chain.layer_names[-1], 3, 3).data.shape == (2, 3, 3 * len(steps))


class InPlace(nn.Module):
    """The ReLU changes what the convolution gave, so both summands are rectified."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        z = y
        r = self.relu(y)
        r *= 2
        return torch.cat((r + y, z), 1)


def test_what_is_changed_in_place_is_changed_for_all():
    module, x = InPlace().eval(), pictures(2, 3, 6, 6)
    chain = from_torch(module, x)
    with torch.no_grad():
        np.testing.assert_allclose(chain(x.numpy()).array, module(x.clone()).numpy(), rtol=1e-5, atol=1e-6)
    assert chain.sources("add") == ("mul", "mul")
    assert chain.sources("cat") == ("add", "mul")


def test_the_picture_itself_may_be_changed():
    module, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)), pictures(1, 3, 5, 5)
    before = x.clone()
    chain = from_torch(module, x)
    assert torch.equal(x, before)
    with torch.no_grad():
        np.testing.assert_allclose(chain(x.numpy()).array, module(x.clone()).numpy(), rtol=1e-5, atol=1e-6)


def test_a_branch_that_inference_leaves_out():
    module = Function(lambda self, x: (self.aux(x), self.conv(x))[1], aux=nn.LPPool2d(2, 2), conv=nn.Conv2d(3, 2, 1))
    with pytest.raises(UntraceableError, match=r"aux \(LPPool2d\)"):
        from_torch(module, pictures(1, 3, 4, 4))
    module.aux = nn.AvgPool2d(2)
    assert from_torch(module, pictures(1, 3, 4, 4)).layer_names == ["conv"]


def test_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.copy = nn.Conv2d(3, 3, 1)
            self.relu_2 = nn.ReLU()
            self.relu = nn.Sequential(nn.ReLU(), nn.ReLU())
            self.again = self.relu[0]

        def forward(self, x):
            x = F.relu(self.copy(x))
            x = self.relu(self.relu_2(x))
            x = self.again(F.relu(x) + 1) + 2
            return self.relu(x)

    chain = from_torch(Net(), pictures(1, 3, 4, 4))
    own = ["copy_2", "relu_3", "relu_2", "relu/0", "relu/1", "relu_4", "add", "relu/0_2", "add_2", "relu/0_3", "relu/1_2"]
    assert chain.layer_names == own
    graph = chain.graph()
    assert graph.index("relu") == graph.index("relu/1")
    assert graph.index("relu_5") == graph.index("relu/1_2")


def test_functions_of_torchvision(monkeypatch):
    """As torchvision has it: a function that torch.fx doesn't look into."""
    library = types.ModuleType("torchvision.ops.stochastic_depth")
    code = (
        "import torch.fx\n"
        "def stochastic_depth(input, p, mode, training=True):\n"
        "    assert not training\n"
        "    return input\n"
        "torch.fx.wrap('stochastic_depth')\n"
        "def forward(module, x):\n"
        "    return stochastic_depth(module.conv(x), 0.2, 'row', module.training) + x\n"
    )
    exec(code, vars(library))
    monkeypatch.setitem(sys.modules, library.__name__, library)
    module = Function(library.forward, conv=nn.Conv2d(3, 3, 1)).eval()
    chain = from_torch(module, pictures(2, 3, 4, 4))
    assert chain.layer_names == ["conv", "stochastic_depth", "add"]
    assert_equal(chain, module, pictures(2, 3, 4, 4))


def test_weights_that_are_computed():
    module = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    assert_equal(from_torch(module, pictures(1, 3, 5, 5)), module, pictures(2, 3, 5, 5))


def test_double_precision_and_memory_formats():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(36, 2)).double().eval()
    assert_equal(from_torch(module, pictures(1, 3, 5, 5).double()), module, pictures(2, 3, 5, 5).double())
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last).eval()
    x = pictures(2, 3, 5, 5).to(memory_format=torch.channels_last)
    assert_equal(from_torch(module, x), module, x)


def test_nothing_is_left_in_the_module():
    module = Function(lambda x: x * torch.full((3, 1, 1), 2.0))
    own = set(vars(module))
    from_torch(module, pictures(1, 3, 4, 4))
    assert set(vars(module)) == own


def test_what_modules_keep_in_dictionaries_stays():
    """As timm keeps biases of attention by device."""

    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias, self.cache = nn.Parameter(tensor(3, 1, 1)), {}

        def forward(self, x):
            key = str(x.device)
            if key not in self.cache:
                self.cache[key] = self.bias * 2
            return x.relu() + self.cache[key].to(dtype=x.dtype)

    module, x = Caching().eval(), pictures(2, 3, 4, 4)
    assert_equal(from_torch(module, x), module, x)
    assert list(module.cache) == ["cpu"]
    assert isinstance(module.cache["cpu"], torch.Tensor)


def hooked():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    module[0].register_forward_hook(lambda module, args, output: output * 3)
    return module


def view_overwritten(x):
    y = x * 2
    y.view(-1)[:3].zero_()
    return y + 1


def view_rectified(x):
    y = x * 2
    y[:, :1].relu_()
    return y + 1


UNTRACEABLE = {
    r"features\.1 \(LPPool2d\): this module isn't supported": nn.Sequential(),
    r"grid_sample in the outermost module: this operator isn't supported": Function(
        lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False)
    ),
    r"torch\.fx can't trace Function: its own forward decides by the values": Function(lambda x: x if x.sum() > 0 else -x),
    r"can't trace Sequential: inner\.0 decides by the values or the size": nn.Sequential(),
    "the module returns a tuple; it must return one tensor": Function(lambda x: (x, x)),
    "by any layer": Function(lambda x: x),
    r"Two\.forward must take one tensor, it takes \['y', 'z'\]": type(
        "Two", (nn.Module,), {"forward": lambda self, y, z, w=None: y}
    )(),
    "gives other outputs than its layers do": hooked(),
    r"add in 0: mul in 0 is used after relu_ in 0 has written": Function(view_rectified),
    r"0\.0 \(BatchNorm2d\): it normalizes by the statistics of each batch": nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False)
    ),
    "it pads in mode 'circular'": nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
    "its windows are dilated by 2": Function(lambda x: F.max_pool2d(x, 2, dilation=2)),
    "its windows .* depend on the size of the picture": Function(lambda x: F.avg_pool2d(x, x.shape[2] // 2)),
    "getitem in .*: its part depends on the size of the picture": Function(lambda x: x[..., : x.shape[3] // 2]),
    "its arguments depend on the size of the picture": Function(lambda x: x * x.shape[2]),
    "view .* its shape .* depends on the size of the picture": Function(
        lambda x: x.view(x.shape[0], x.shape[2] // 2, x.shape[3] // 2, 12)
    ),
    "its output's size .* not by whole factors": Function(lambda x: F.interpolate(x, [x.shape[2] + 1, 7])),
    "it interpolates by 'area'": Function(lambda x: F.interpolate(x, (3, 3), mode="area")),
    "the batch and dtypes must stay": Function(lambda x: F.softmax(x, 0)),
    "places of maxima": Function(lambda x: x + x.max(1, keepdim=True)[1]),
    "they must have as many axes": Function(lambda x: x + x.mean(1)),
    "only powers of a tensor": Function(lambda x: 2**x),
    "only 2 is supported": Function(lambda x: x.norm(p=1, dim=1)),
    "it splits along axis 2": Function(lambda x: x.split(2, 2)[0]),
    "sort in the outermost module isn't supported": Function(lambda x: x.sort(1)[0]),
    "it isn't supported on a constant": Function(lambda x: torch.ones(1, 3, 1, 1).expand_as(x) * x),
    "its weights depend on the picture": Function(lambda x: F.conv2d(x, x)),
    r"it gives torch\.float64 of pictures in torch\.float32": Function(lambda x: x.double()),
    "it goes over the whole batch": Function(lambda x: x - x.max()),
    "only to numbers or another tensor's shape": Function(lambda x: x.mean(1, keepdim=True).expand(-1, x.shape[2] // 2, -1, -1)),
    r"view in .* depends on the size of the picture": Function(
        lambda x: x.flatten(2).view(1, 3, x.shape[2] + 1 - 1, x.shape[3] * 1)
    ),
    "it divides by the norm of order 1": Function(lambda x: F.normalize(x, p=1.0)),
    "the batch apart": Function(lambda x: x.unbind()[0]),
    "it joins tensors along the batch": Function(lambda x: torch.cat((x, x))),
    "an axis before the batch": Function(lambda x: torch.stack((x, x))),
    "it joins constants": Function(lambda x: torch.cat((x, torch.zeros(1, 1, 4, 4)), 1)),
    "the batch must stay": Function(lambda x: x.permute(1, 2, 0, 3)),
    "whose batch isn't the first axis": Function(lambda x: x.transpose(0, 1) * 2),
    "only attention to all places": Function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "queries, keys and values must be tensors": Function(lambda x: F.scaled_dot_product_attention(x, x[:, 0], x[:, 0])),
    "the batch must stay the first": Function(lambda x: x.view(3, 16)),
    "it clips to tensors": Function(lambda x: x.clamp(torch.zeros(4))),
    "has no centre": nn.LocalResponseNorm(4),
    "it counts padding but not what lies beyond": nn.AvgPool2d(2, 2, 1, ceil_mode=True),
    "it divides by 3": nn.AvgPool2d(2, divisor_override=3),
    "it goes over axes .*the batch must stay": Function(lambda x: x.mean((0, 1), keepdim=True)),
    "only divisors are supported": nn.AdaptiveMaxPool2d(3),
    "only the number 1 can be divided": Function(lambda x: 2 / x),
    "behind a whole batch": Function(lambda x: x[:1]),
    "it weighs a summand by alpha 2": Function(lambda x: torch.add(x, x, alpha=2)),
}


@pytest.mark.parametrize("message", UNTRACEABLE)
def test_what_is_not_supported_is_named(message):
    module = UNTRACEABLE[message]
    if "inner" in message:
        module.add_module("inner", nn.Sequential(Function(lambda x: x if x.shape[2] > 3 else -x)))
    if "features" in message:
        module.add_module("features", nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2)))
    module = module if re.search("outermost|Function|Two|inner", message) else nn.Sequential(module)
    with pytest.raises(UntraceableError, match=message):
        from_torch(module.eval(), pictures(1, 3, 4, 4))


def test_bad_arguments():
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got function"):
        from_torch(F.relu, pictures(1, 3, 4, 4))
    with pytest.raises(TypeError, match=r"example must be a torch.Tensor, got ndarray"):
        from_torch(module, pictures(1, 3, 4, 4).numpy())
    for example in (pictures(3, 4, 4), pictures(1, 3, 4, 4) / 0, pictures(0, 3, 4, 4)):
        with pytest.raises(ValueError, match="example must be finite, of shape"):
            from_torch(module, example)
    for example in (pictures(1, 3, 4, 4).half(), torch.zeros(1, 3, 4, 4, dtype=torch.int64)):
        with pytest.raises(UntraceableError, match="must be float32 or float64"):
            from_torch(module, example)

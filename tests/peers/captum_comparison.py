"""The drop-in and Captum, asked the same."""

import warnings

import captum.attr as captums
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcnn_visualizer.dropin import captum
from dcnn_visualizer.dropin.captum import NotAccelerated
from tests.peers import torch_networks as networks

ON_OUTPUTS = ("Saliency", "GuidedBackprop", "Deconvolution")
ON_NEURONS = ("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution")
NAMES = (*ON_OUTPUTS, *ON_NEURONS, "LayerActivation", "Occlusion")


class Mixed(nn.Module):
    """ReLU as a module, as a function and in place, other rectifiers, normalization, branches, and a smooth activation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.LocalResponseNorm(3, alpha=0.5)
        self.relu = nn.ReLU()
        self.left = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 3, padding=1))
        self.right = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 4, 1), nn.LeakyReLU(0.1))
        self.inplace = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 8, 3)
        self.linear = nn.Linear(8, 6)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = F.relu(self.inplace(x) - 0.1)
        x = self.relu(F.max_pool2d(self.last(x), 3, 2, ceil_mode=True))
        return self.linear(x.mean((2, 3)).sigmoid())


class PreActivation(nn.Module):
    """The ReLU's input goes another way too."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu, self.body = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.body(self.relu(x))
        return self.linear(x.mean((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.linear = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x, y, scale=1.0):
        both = torch.cat([self.relu(self.conv(x)).amax((2, 3)), self.relu(self.conv(y)).amax((2, 3))], 1)
        return self.linear(both) * scale


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(kind=Mixed):
    torch.manual_seed(3)
    return networks.shaken(kind()).eval(), pictures(2, 3, 33, 33)


def ask(library, name, arguments, *args, **kwargs):
    """An attribution, and the warnings that came with it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = getattr(library, name)(*arguments).attribute(*args, **kwargs)
    return result, [(one.category, str(one.message)) for one in caught]


def assert_equal(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
        return
    assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
    assert not ours.requires_grad
    if theirs.numel():
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-4, atol=1e-4 * scale)


def compare(name, arguments, *args, accelerated=True, **kwargs):
    """Asks both; the kernels must have answered, or PyTorch, as said."""
    theirs, their_warnings = ask(captums, name, arguments, *args, **kwargs)
    ours, our_warnings = ask(captum, name, arguments, *args, **kwargs)
    assert_equal(ours, theirs)
    told = [message for category, message in our_warnings if category is NotAccelerated]
    assert len(told) == (not accelerated), told
    others = [one for one in our_warnings if one[0] is not NotAccelerated]
    assert others == [one for one in their_warnings if issubclass(one[0], UserWarning)]
    return ours


def assert_refused(name, arguments, *args, **kwargs):
    """Both refuse, by the same kind of error."""
    raised = []
    for library in (captum, captums):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as error:
                getattr(library, name)(*arguments).attribute(*args, **kwargs)
        raised.append(error.type)
    assert raised[0] is raised[1]
    return raised[0]

"""What a question leaves behind: the module, its inputs and the attribution as Captum leaves them, and nothing in memory."""

import copy
import gc
import pickle
import weakref

import captum.attr as captums
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcnn_visualizer.dropin import accelerated, captum
from tests.peers.captum_comparison import NAMES, Mixed, PreActivation, assert_equal, pictures, small

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
]


def ask(library, name, net, layer, x):
    """Asks one question, in words that suit the class."""
    if name == "Occlusion":
        return library.Occlusion(net).attribute(x, (3, 17, 17), 16, target=1)
    if name == "LayerActivation":
        return library.LayerActivation(net, layer).attribute(x)
    if name.startswith("Neuron"):
        return getattr(library, name)(net, layer).attribute(x, lambda value: value.sum())
    return getattr(library, name)(net).attribute(x, 1)


class Counting(nn.Module):
    """Its buffers and attributes change whenever it runs, in training mode by normalization too."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.linear = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("sums", torch.zeros(4))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        x = self.relu(F.batch_norm(self.conv(x), self.mean, self.var, training=self.training))
        self.counted(x)
        return self.linear(x.mean((2, 3)))

    def counted(self, x):
        if not isinstance(x, torch.fx.Proxy):
            self.sums += x.detach().sum((0, 2, 3))


def state_of(net):
    parts = [
        (
            name,
            part.training,
            [
                len(hooks)
                for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
            ],
            sorted(vars(part)),
            {key: value for key, value in vars(part).items() if isinstance(value, (bool, int, float, str))},
        )
        for name, part in net.named_modules()
    ]
    return parts, [(one.requires_grad, one.grad is None, len(one._backward_hooks or ())) for one in net.parameters()]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_runs_count_as_they_do_for_captum(name, train):
    """Whatever it takes to convert a module doesn't show in it."""
    torch.manual_seed(0)
    net, x = Counting().train(train), pictures(2, 3, 33, 33)
    mine, theirs = copy.deepcopy(net), copy.deepcopy(net)
    for _ in range(2):
        assert_equal(ask(captum, name, mine, mine.relu, x.clone()), ask(captums, name, theirs, theirs.relu, x.clone()))
    assert state_of(mine) == state_of(theirs)
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Mixed, PreActivation])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_module_and_the_input_are_left_as_they_were(name, requires_grad, kind):
    net, x = small(kind)
    layer = net.relu
    net.stem.weight.requires_grad_(False)
    net.linear.weight.grad = torch.ones_like(net.linear.weight)
    x.requires_grad_(requires_grad)
    x.grad = torch.ones_like(x) if requires_grad else None
    before, values = state_of(net), copy.deepcopy(net.state_dict())
    given = x.detach().clone()
    for _ in range(4):
        ask(captum, name, net, layer, x)
    assert state_of(net) == before
    torch.testing.assert_close(net.state_dict(), values, rtol=0, atol=0)
    assert torch.equal(net.linear.weight.grad, torch.ones_like(net.linear.weight))
    assert torch.equal(x.detach(), given)
    assert (x.requires_grad, x._backward_hooks, x.grad_fn) == (requires_grad, None, None)
    assert x.grad is None if not requires_grad else torch.equal(x.grad, torch.ones_like(x))


class Failing(nn.Module):
    """Passes gradients and values on, unless it is told to fail."""

    def __init__(self):
        super().__init__()
        self.fails = None

    def forward(self, x):
        if self.fails is not None:
            raise self.fails
        return x


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("fails", [RuntimeError("in the middle"), KeyboardInterrupt("in the middle")], ids=type)
@pytest.mark.parametrize("name", NAMES)
def test_failures_leave_nothing_behind(name, fails, traceable):
    net, x = small(Mixed if traceable else PreActivation)
    whole = nn.Sequential(net, Failing())
    expected = ask(captums, name, whole, net.linear, x.clone())
    for known in (False, True):
        before = state_of(whole)
        whole[1].fails = fails
        failed = x.clone()
        if name in ("LayerActivation", "NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution") and known:
            whole[1].fails = None  # They don't run that far.
        else:
            with pytest.raises(type(fails), match="in the middle"):
                ask(captum, name, whole, net.linear, failed)
        whole[1].fails = None
        assert not failed.requires_grad
        assert failed._backward_hooks is None
        assert state_of(whole) == before
        assert_equal(ask(captum, name, whole, net.linear, x.clone()), expected)


def test_selectors_that_fail_leave_nothing_behind():
    net, x = small()

    def failing(value):
        raise ZeroDivisionError("in the selector")

    before = state_of(net)
    for name in ("NeuronGradient", "NeuronGuidedBackprop"):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError, match="in the selector"):
                getattr(captum, name)(net, net.left).attribute(x, failing)
    assert state_of(net) == before
    assert not x.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_attributions_are_copied_and_pickled(name):
    net, x = small()
    arguments = (net, net.linear) if name.startswith(("Neuron", "Layer")) else (net,)
    further = {"Occlusion": ((3, 17, 17), 16, None, 1), "LayerActivation": ()}.get(name, (1,))
    attribution = getattr(captum, name)(*arguments)
    expected = attribution.attribute(x.clone(), *further)
    for again in (copy.copy(attribution), copy.deepcopy(attribution), pickle.loads(pickle.dumps(attribution))):
        assert_equal(again.attribute(x.clone(), *further), expected)
    deep = copy.deepcopy(attribution)
    assert deep.forward_func is not net
    with torch.no_grad():
        deep.forward_func.stem.weight.mul_(2)
    theirs = ask(captums, name, deep.forward_func, deep.forward_func.linear, x.clone())
    if not name.startswith("Neuron"):
        assert_equal(deep.attribute(x.clone(), *further), theirs)
    assert_equal(attribution.attribute(x.clone(), *further), expected)


@pytest.mark.parametrize("engine", accelerated.ENGINES)
@pytest.mark.parametrize("kind", [Mixed, PreActivation])
def test_modules_and_pictures_may_go(kind, engine, monkeypatch):
    """Nothing that is kept to answer sooner keeps a module alive, nor the picture that was asked about, without the collector."""
    able = accelerated.engines_for
    monkeypatch.setattr(accelerated, "engines_for", lambda *given: [one for one in able(*given) if one == engine] or able(*given))
    net, x = small(kind)
    results = []
    for name in NAMES:
        for _ in range(3):
            results.append(ask(captum, name, net, net.relu, x))
    gone = [weakref.ref(one) for one in (net, net.stem.weight, x)]
    gc.collect()
    gc.disable()
    try:
        del net, x
        assert [one() for one in gone] == [None] * 3
    finally:
        gc.enable()
    assert all(result.isfinite().all() for result in results)

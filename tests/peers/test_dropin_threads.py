"""Several threads ask about one module, or run it, at the same time."""

import itertools
import threading
import warnings
from typing import ClassVar

import pytest
import torch
from torch import fx, nn

from dcnn_visualizer.dropin import captum, conversions
from dcnn_visualizer.dropin.captum import NotAccelerated
from dcnn_visualizer.dropin.contest import Contest
from tests.peers.captum_comparison import NAMES, Mixed, PreActivation, compare, pictures, small

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = {
    "Saliency": lambda net, x: captum.Saliency(net).attribute(x, 1),
    "GuidedBackprop": lambda net, x: captum.GuidedBackprop(net).attribute(x, 1),
    "Deconvolution": lambda net, x: captum.Deconvolution(net).attribute(x, 1),
    "NeuronGradient": lambda net, x: captum.NeuronGradient(net, net[1].stem).attribute(x, lambda value: value.sum()),
    "NeuronGuidedBackprop": lambda net, x: captum.NeuronGuidedBackprop(net, net[1].linear).attribute(x, 2),
    "LayerActivation": lambda net, x: captum.LayerActivation(net, net[1].linear).attribute(x),
    "Occlusion": lambda net, x: captum.Occlusion(net).attribute(x, (3, 17, 17), 16, target=1),
    "forward": lambda net, x: net(x).detach(),
    "gradient": lambda net, x: torch.autograd.grad(net(y := x.clone().requires_grad_()).sum(), y)[0],
}


class Gate(nn.Module):
    """Lets another thread do something in the middle of this one's forward pass, or while it is traced.

    Attributes:
        waiting: What that is, once; not the module's own, so that the module stays what it is.
    """

    waiting: ClassVar[list] = []

    def forward(self, x):
        if self.waiting and isinstance(x, fx.Proxy) == self.waiting[0][0]:
            _, meanwhile = self.waiting.pop()
            other = threading.Thread(target=meanwhile, daemon=True)
            other.start()
            other.join(20)
        return x


@pytest.fixture
def gate(monkeypatch):
    waiting = []
    monkeypatch.setattr(Gate, "waiting", waiting)
    return lambda meanwhile, traced=False: waiting.append((traced, meanwhile))


@pytest.mark.parametrize("kind", [Mixed, PreActivation])
def test_a_question_in_the_middle_of_another(kind, gate, monkeypatch):
    """What the one has changed of the module for the moment the other doesn't meet, nor is the module another one to it."""
    monkeypatch.setattr(Contest, "to_try", lambda self, engines: [])
    monkeypatch.setattr(Contest, "next", lambda self, engines: "pytorch")
    net, x = small(kind)
    y = pictures(2, 3, 33, 33, seed=1)
    whole = nn.Sequential(Gate(), net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: (ask(whole, x), ask(whole, y)) for name, ask in QUESTIONS.items()}
        known = conversions._conversions[whole]
        for outer, inner in itertools.product(QUESTIONS, repeat=2):
            (conversion,) = known.by_picture.values()
            conversion.latest, answers = None, []
            gate(lambda inner=inner, answers=answers: answers.append(QUESTIONS[inner](whole, y.clone())))
            answers.append(QUESTIONS[outer](whole, x.clone()))
            for answer, right in zip(answers, (expected[inner][1], expected[outer][0]), strict=True):
                torch.testing.assert_close(answer, right)
    assert conversions._conversions[whole] is known


def test_a_forward_pass_while_the_module_is_traced(gate):
    """Tracing patches all modules for the moment."""
    net, x = small()
    whole, other = nn.Sequential(Gate(), net), nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    expected, answers = (net(x), other(x)), []
    gate(lambda: answers.extend((net(x), other(x))), traced=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAccelerated)
        attribution = captum.Saliency(whole).attribute(x.clone().requires_grad_(), 1)
    assert all(map(torch.equal, answers, expected))
    torch.testing.assert_close(attribution, QUESTIONS["Saliency"](net, x.clone().requires_grad_()))


def test_several_threads_at_once():
    net, x = small()
    whole = nn.Sequential(nn.Identity(), net)
    names = ["GuidedBackprop", "LayerActivation", "Occlusion", "forward"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: QUESTIONS[name](nn.Sequential(nn.Identity(), net), x) for name in names}
        barrier, wrong = threading.Barrier(len(names)), []

        def run(name):
            barrier.wait()
            for _ in range(4):
                try:
                    torch.testing.assert_close(QUESTIONS[name](whole, x.clone()), expected[name], rtol=1e-4, atol=1e-4)
                except Exception as error:
                    wrong.append((name, error))

        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


class Elsewhere(nn.DataParallel):
    """Runs its module in another thread, as ``DataParallel`` does on several devices."""

    def forward(self, x):
        outputs = []
        gradients = torch.is_grad_enabled()

        def run():
            with torch.set_grad_enabled(gradients):
                outputs.append(self.module(x))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return outputs[0]


@pytest.mark.parametrize("name", NAMES)
def test_networks_that_run_in_threads_of_their_own(name):
    net, x = small()
    whole = Elsewhere(net)
    arguments = (whole, net.left) if name.startswith(("Neuron", "Layer")) else (whole,)
    further = {"Occlusion": ((3, 17, 17), 16, None, 1), "LayerActivation": ()}.get(name)
    if further is None:
        further = (lambda value: value.sum(),) if name.startswith("Neuron") else (1,)
    compare(name, arguments, x, *further, accelerated=False)

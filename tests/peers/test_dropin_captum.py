"""The drop-in answers as Captum does: the same arguments, results, warnings and kinds of errors."""

import gc
import inspect
import subprocess
import sys
import threading
import warnings
import weakref

import captum.attr as captums
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from dcnn_visualizer.dropin import accelerated, captum, conversions, sweeps
from dcnn_visualizer.dropin.captum import NotAccelerated
from dcnn_visualizer.dropin.contest import Contest
from dcnn_visualizer.receptive_field import ReceptiveField
from tests.peers import torch_networks as networks
from tests.peers.captum_comparison import (
    NAMES,
    ON_NEURONS,
    ON_OUTPUTS,
    Mixed,
    PreActivation,
    TwoInputs,
    ask,
    assert_equal,
    assert_refused,
    compare,
    pictures,
    small,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {"vgg": networks.vgg, "resnet": networks.ResNet, "alexnet": networks.AlexNet, "mixed": Mixed}


@pytest.fixture(params=accelerated.ENGINES)
def engine(request, monkeypatch):
    """Lets gradients of whole pictures go through one engine only, where it can take them."""
    able = accelerated.engines_for

    def engines_for(conversion, x):
        return [engine for engine in able(conversion, x) if engine == request.param] or able(conversion, x)

    monkeypatch.setattr(accelerated, "engines_for", engines_for)


@pytest.fixture(params=sweeps.ENGINES)
def sweeping(request, monkeypatch):
    """Lets windows be hidden by one engine only."""
    monkeypatch.setattr(Contest, "to_try", lambda self, engines: [])
    monkeypatch.setattr(Contest, "next", lambda self, engines: request.param)


def network(name):
    torch.manual_seed(0)
    return networks.shaken(NETWORKS[name]()).eval()


def described(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_captums(name):
    ours, theirs = getattr(captum, name), getattr(captums, name)
    assert described(ours) == described(theirs)
    methods = [method for method, value in inspect.getmembers(theirs, inspect.isroutine) if not method.startswith("_")]
    assert "attribute" in methods
    for method in methods:
        assert described(getattr(ours, method)) == described(getattr(theirs, method)), method
    assert ours.get_name() == theirs.get_name()


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_public_is_there(name):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    arguments = (net, net[0]) if "Neuron" in name or "Layer" in name else (net,)
    ours, theirs = (getattr(library, name)(*arguments) for library in (captum, captums))
    # How these overrode ReLUs and averaged windows is their own affair.
    internal = {"backward_hooks", "use_relu_grad_output", "use_weights", "guided_backprop", "deconv"}
    public = {member for member in dir(theirs) if not member.startswith("_")} - internal
    assert public <= set(dir(ours))
    for member in public:
        assert inspect.isroutine(getattr(ours, member)) == inspect.isroutine(getattr(theirs, member)), member
    if hasattr(theirs, "gradient_func"):
        assert described(ours.gradient_func) == described(theirs.gradient_func)
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert hasattr(ours, "compute_convergence_delta") == hasattr(theirs, "compute_convergence_delta")


@pytest.mark.parametrize("name", [*ON_OUTPUTS, *ON_NEURONS])
def test_convergence_deltas(name):
    def delta(library, net, *args, **kwargs):
        arguments = (net, net.linear) if "Neuron" in name else (net,)
        return getattr(library, name)(*arguments).compute_convergence_delta(*args, **kwargs)

    net, x = small()
    attributions = pictures(2, 3, 33, 33, seed=7)
    for start in (None, 0, 0.5, pictures(1, 3, 33, 33, seed=8), pictures(2, 3, 33, 33, seed=8), (0.25,)):
        for target in (1, [0, 3], torch.tensor([4, 2])):
            assert_equal(delta(captum, net, attributions, start, x, target), delta(captums, net, attributions, start, x, target))
    pair, (one, other) = small(TwoInputs)[0], (pictures(2, 3, 9, 9), pictures(2, 3, 9, 9, seed=1))
    arguments = (one, other), (0, other * 2), (one, other), 1, 0.5
    assert_equal(delta(captum, pair, *arguments), delta(captums, pair, *arguments))
    for wrong in (
        (attributions[:1], 0, x, 1),
        (attributions, "0", x, 1),
        (attributions, pictures(2, 3, 9, 9), x, 1),
        (attributions, 0, x, [1]),
    ):
        for library in (captum, captums):
            with pytest.raises(AssertionError):
                delta(library, net, *wrong)


def test_a_gradient_func_of_ones_own_is_used():
    net, x = small()
    for library in (captum, captums):
        attribution = library.Saliency(net)
        given = []
        attribution.gradient_func = lambda forward, inputs, target, further, given=given: (
            given.append(further) or (torch.full_like(inputs[0], -target),)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(attribution.attribute(x, 2), torch.full_like(x, 2))
            attribution.attribute(x, 2, additional_forward_args=7)
        assert given == [None, 7]


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_another_forward_func_than_the_model(name):
    """Whose ReLUs are overridden all the same."""
    net, x = small()
    attributions = [getattr(library, name)(net) for library in (captum, captums)]
    for forward in (lambda x: net(x) * 2, nn.Sequential(net, nn.ReLU())):
        answers = []
        for attribution in attributions:
            attribution.forward_func = forward
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers.append(attribution.attribute(x, 1))
        assert_equal(*answers)


def test_captum_is_not_imported():
    code = "import sys, dcnn_visualizer.dropin.captum; print('captum' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", ON_OUTPUTS)
@pytest.mark.parametrize("of", NETWORKS)
def test_attributions_of_outputs(of, name):
    net, x = network(of), pictures(3, 3, 64, 64)
    for target in (2, (4,), torch.tensor(1), torch.tensor([3]), [0, 5, 1], torch.tensor([2, 2, 4]), [(1,), (3,), (0,)]):
        compare(name, (net,), x, target)
    compare(name, (net,), (x,), target=1)
    compare(name, (net,), x.clone().requires_grad_(), target=1)
    if name == "Saliency":
        compare(name, (net,), x, 3, abs=False)
    compare(name, (net.double(),), x.double()[:1], 0)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", ON_NEURONS)
@pytest.mark.parametrize(
    ("of", "layer"),
    [
        ("vgg", "features.3"),
        ("vgg", "features.2"),
        ("vgg", "features"),
        ("resnet", "layer1.1.relu"),
        ("resnet", "layer2.0"),
        ("alexnet", "features.2"),
        ("mixed", "left"),
        ("mixed", "stem"),
    ],
)
def test_attributions_of_neurons_of_maps(of, layer, name):
    net, x = network(of), pictures(2, 3, 64, 64)
    arguments = (net, net.get_submodule(layer))
    for selector in (
        (1, 2, 3),
        (slice(0, 3), 2, slice(1, 4)),
        (slice(None), slice(None), slice(None)),
        lambda value: value[:, 1].amax((1, 2)),
        lambda value: value.sum(),
    ):
        compare(name, arguments, x, selector)
        composite = layer in ("features", "layer2.0", "left")
        compare(name, arguments, x, selector, attribute_to_neuron_input=True, accelerated=not composite)


@pytest.fixture
def from_receptive_fields(monkeypatch):
    """The sizes of the parts of pictures from which neurons were projected; how large they are doesn't matter here."""
    monkeypatch.setattr(accelerated, "WAYS", 1e-9)
    sizes = []
    project = ReceptiveField.project
    monkeypatch.setattr(
        ReceptiveField, "project", lambda self, parts, *rest: sizes.append(parts.shape) or project(self, parts, *rest)
    )
    return sizes


@pytest.mark.parametrize("name", ON_NEURONS)
@pytest.mark.parametrize(
    ("of", "layer", "seen"),
    [
        ("vgg", "features.3", 8),
        ("vgg", "features.4", 8),
        ("alexnet", "features.2", 11),
        ("mixed", "left.1", 3),
        ("mixed", "norm", 3),
    ],
)
def test_neurons_are_projected_from_their_receptive_fields(of, layer, seen, name, from_receptive_fields):
    """Exactly, also at the borders, with each ReLU by its own rule: only modules are overridden."""
    net, x = network(of), pictures(2, 3, 64, 64)
    arguments = net, net.get_submodule(layer)
    rows, columns = captum.LayerActivation(*arguments).attribute(x).shape[2:]
    places = [(0, 0), (rows - 1, columns - 1), (0, columns // 2), (rows // 2, 3)]
    for place in places:
        compare(name, arguments, x, (1, *place))
    assert from_receptive_fields == [(2, 3, seen, seen)] * len(places)
    compare(name, arguments, x, (-1, 2, 3))
    for outside in ((99, 0, 0), (0, rows, 0), (0, 0, -columns - 1)):
        assert assert_refused(name, arguments, x, outside) is IndexError
    assert len(from_receptive_fields) <= len(places) + 1


def test_neurons_that_see_most_of_the_picture_are_projected_from_all_of_it(from_receptive_fields, monkeypatch):
    monkeypatch.setattr(accelerated, "WAYS", 2)
    net, x = network("vgg"), pictures(1, 3, 10, 10)
    compare("NeuronGradient", (net, net.features[3]), x, (0, 2, 2))
    compare("NeuronGradient", (net, net.features[0]), x, (0, 2, 2))
    assert from_receptive_fields == [(1, 3, 3, 3)]


@pytest.mark.parametrize("name", ON_NEURONS)
def test_attributions_of_neurons_of_vectors(name):
    net, x = network("vgg"), pictures(2, 3, 64, 64)
    for selector in (3, (3,), (slice(2, 5),), (slice(0, 9, 3),), lambda value: value.square().sum(1)):
        for layer in (net.classifier[0], net.classifier[1], net):
            compare(name, (net, layer), x, selector)


@pytest.mark.parametrize("of", NETWORKS)
def test_activations(of):
    net, x = network(of), pictures(2, 3, 64, 64)
    layers = [part for part in net.modules() if not list(part.children()) and not isinstance(part, nn.Dropout)]
    for layer in layers:
        compare("LayerActivation", (net, layer), x)
        compare("LayerActivation", (net, layer), x, attribute_to_layer_input=True)
    compare("LayerActivation", (net, layers), (x,))
    compare("LayerActivation", (net, net), x)


def test_a_network_runs_no_further_than_its_layers():
    ran = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.second(self.second(self.first(x)))
            ran.append("before")
            x = self.last(x)
            ran.append("after")
            return x.mean((2, 3))

    net, x = Counting(), pictures(1, 3, 20, 20)
    captum.Saliency(net).attribute(x, 1)
    for ask_once in (
        lambda: compare("LayerActivation", (net, net.second), x),
        lambda: compare("LayerActivation", (net, [net.last, net.first]), x),
        lambda: compare("NeuronGradient", (net, net.last), x, lambda value: value.sum()),
    ):
        ran.clear()
        ask_once()
        # Captum's run, and ours.
        assert ran.count("after") == 1
    assert ran == ["before", "after", "before"]


def test_runs_of_others_at_the_same_time_are_left_alone():
    """While one thread asks for an early layer, another runs the network as it is, and gets its gradients."""
    net, x = small()
    expected = torch.autograd.grad(net(y := x.clone().requires_grad_()).sum(), y)
    results = []

    def run_meanwhile():
        y = x.clone().requires_grad_()
        results.append(torch.autograd.grad(net(y).sum(), y))

    class Meanwhile(nn.Module):
        def forward(self, x):
            if not results and torch.is_grad_enabled() and not isinstance(x, torch.fx.Proxy) and armed:
                other = threading.Thread(target=run_meanwhile)
                results.append(None)
                other.start()
                other.join()
            return x

    armed = []
    whole = nn.Sequential(Meanwhile(), net)
    compare("GuidedBackprop", (whole,), x, 1)
    armed.append(True)
    attribution = captum.NeuronGuidedBackprop(whole, net.left)
    attribution.attribute(x + 1, lambda value: value.sum())
    torch.testing.assert_close(results[1], expected)


def test_changing_a_returned_activation_changes_nothing():
    net, x = small()
    attribution = captum.LayerActivation(net, net.stem)
    first = attribution.attribute(x)
    kept = first.clone()
    first.zero_()
    assert torch.equal(attribution.attribute(x), kept)


WINDOWS = [
    {"sliding_window_shapes": (3, 5, 7), "strides": 3},
    {"sliding_window_shapes": (3, 33, 33)},
    {"sliding_window_shapes": ((3, 8, 6),), "strides": (3, 8, 5), "baselines": 0.5},
    {"sliding_window_shapes": (1, 16, 16), "strides": (1, 16, 16), "baselines": pictures(1, 3, 33, 33, seed=2)},
    {"sliding_window_shapes": (2, 16, 16), "strides": (1, 8, 16), "baselines": pictures(2, 3, 33, 33, seed=2)},
    {"sliding_window_shapes": (3, 9, 9), "strides": 9, "baselines": pictures(3, 1, 1, seed=2)},
]


@pytest.mark.usefixtures("sweeping")
@pytest.mark.parametrize("windows", WINDOWS)
def test_occlusion(windows):
    net, x = small()
    for target in (1, [0, 3], torch.tensor([4, 2]), None):
        for perturbations in (1, 7):
            compare("Occlusion", (net,), x, target=target, perturbations_per_eval=perturbations, **windows)
    compare("Occlusion", (net.double(),), (x.double(),), target=1, **windows | {"baselines": 0.25})


@pytest.mark.usefixtures("sweeping")
def test_occlusion_of_feature_maps():
    net, _ = small()
    compare("Occlusion", (net.left,), pictures(2, 8, 6, 7), (8, 3, 3), (8, 3, 3), target=(1, 2, 3))
    compare("Occlusion", (net.left,), pictures(2, 8, 6, 7), (8, 3, 3), (8, 3, 3), target=[(1, 2, 3), (0, 0, 0)])
    compare("Occlusion", (net.left,), pictures(2, 8, 6, 7), (8, 3, 3), (8, 3, 3))


@pytest.mark.parametrize("accelerated", [True, False])
def test_progress_is_shown(accelerated, capsys):
    net, x = small()
    forward = net if accelerated else lambda x: net(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotAccelerated)
        captum.Occlusion(forward).attribute(x, (3, 9, 9), 8, target=1, perturbations_per_eval=4, show_progress=True)
    assert "Occlusion attribution: 100%" in capsys.readouterr().err


# What PyTorch answers.


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_a_relu_whose_input_goes_another_way_too(name):
    net, x = small(PreActivation)
    compare(name, (net,), x, 2, accelerated=name == "Saliency")
    neuron = {"Saliency": "NeuronGradient"}.get(name, f"Neuron{name}")
    compare(neuron, (net, net.body), x, (1, 2, 3), accelerated=name == "Saliency")


class Rectified(nn.Module):
    """ReLUs to which Captum's hooks do more than override each by itself.

    Args:
        how: ``in a row``; ``twice`` on one tensor; ``in turns``, one module on two tensors; ``past dropout``, which gives back
            what it takes; ``in place``, on what is used after that.
    """

    def __init__(self, how):
        super().__init__()
        self.stem, self.relu, self.other = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ReLU(inplace=how == "in place")
        self.body, self.dropout, self.linear, self.how = nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(), nn.Linear(4, 5), how

    def forward(self, x):
        x = self.stem(x)
        match self.how:
            case "in a row":
                x = self.relu(self.relu(x)) * 2
            case "twice":
                x = self.relu(x) + self.body(self.relu(x))
            case "in turns":
                y = self.body(x * 2)
                x = self.relu(x * 3)
                x = x - 0.1 + self.relu(y)
            case "past dropout":
                x = self.relu(self.dropout(x)) + self.body(x)
            case "in place":
                self.other(x)
                x = self.body(x)
        return self.linear(x.mean((2, 3)))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", ["in a row", "twice", "in turns", "past dropout", "in place"])
def test_relus_to_which_hooks_do_more(how):
    torch.manual_seed(0)
    net, x = Rectified(how).eval(), pictures(2, 3, 9, 9)
    for name in ON_OUTPUTS:
        compare(name, (net,), x, 2, accelerated=name == "Saliency")
    for name in ON_NEURONS:
        compare(name, (net, net.linear), x, 2, accelerated=name == "NeuronGradient")


@pytest.mark.usefixtures("engine")
def test_a_relu_that_several_modules_hold():
    """Captum gives it hooks for each."""
    relu = nn.ReLU()
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), relu), nn.Sequential(relu, nn.Flatten())),
        pictures(2, 3, 9, 9),
    )
    for name in ON_OUTPUTS:
        compare(name, (net,), x, 2, accelerated=name == "Saliency")


@pytest.mark.parametrize("name", ON_OUTPUTS)
def test_several_inputs_and_further_arguments(name):
    net, x = small(TwoInputs)
    y = pictures(2, 3, 20, 31, seed=5)
    compare(name, (net,), (x, y), 2, accelerated=False)
    compare(name, (net,), x, 2, additional_forward_args=y, accelerated=False)
    compare(name, (net,), (x, y), [1, 4], additional_forward_args=(0.5,), accelerated=False)
    neuron = {"Saliency": "NeuronGradient"}.get(name, f"Neuron{name}")
    compare(neuron, (net, net.linear), (x, y), 2, additional_forward_args=0.5, accelerated=False)


def test_occlusion_of_several_inputs():
    net, x = small(TwoInputs)
    y = pictures(2, 3, 20, 31, seed=5)
    windows = {"sliding_window_shapes": ((3, 11, 11), (1, 10, 31)), "strides": ((3, 11, 11), (1, 10, 31))}
    for perturbations in (1, 4):
        shared = {"perturbations_per_eval": perturbations, "accelerated": False, **windows}
        compare("Occlusion", (net,), (x, y), target=1, **shared)
        compare("Occlusion", (net,), (x, y), target=[1, 2], baselines=(0.5, pictures(2, 3, 20, 31)), **shared)
        scales = torch.tensor([[0.5], [2.0]])
        compare("Occlusion", (net,), (x, y), target=torch.tensor([1, 2]), additional_forward_args=scales, **shared)


def test_vectors_functions_and_numbers():
    linear = nn.Linear(7, 3)
    x = pictures(4, 7)
    compare("Saliency", (linear,), x, 1, accelerated=False)
    compare("Saliency", (lambda x: linear(x).sum(1),), x, accelerated=False)
    compare("LayerActivation", (lambda x: linear(x), linear), x, accelerated=False)
    compare("NeuronGradient", (lambda x: linear(x), linear), x, 1, accelerated=False)
    compare("Occlusion", (linear,), x, (3,), (2,), target=1, accelerated=False)
    compare("Occlusion", (linear,), x, (3,), (2,), target=1, perturbations_per_eval=5, accelerated=False)
    compare("Occlusion", (lambda x: linear(x).sum(),), x, (3,), (2,), accelerated=False)
    compare("Occlusion", (lambda x: float(linear(x).sum()),), x, (3,), (2,), accelerated=False)
    compare("Occlusion", (lambda x: (x * 2).sum(1),), torch.ones(3, 4).long(), (2,), accelerated=False)
    whole = torch.arange(12).reshape(3, 4)
    compare("Occlusion", (lambda x: (x * 2.0).sum(1),), whole, (2,), baselines=0.5, accelerated=False)


def test_a_layer_of_several_tensors_and_one_of_lists():
    class Pairs(nn.Module):
        def forward(self, x):
            return x * 2, x + 1

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pairs = Pairs()

        def forward(self, x):
            first, second = self.pairs(x)
            return (first * second).sum((1, 2, 3))

    net, x = Net(), pictures(2, 3, 5, 5)
    compare("LayerActivation", (net, net.pairs), x, accelerated=False)
    compare("LayerActivation", (net, [net.pairs, net]), x, accelerated=False)
    compare(
        "NeuronGradient", (net, net.pairs), x, lambda values: values[0][:, 0, 1, 1] + values[1].sum((1, 2, 3)), accelerated=False
    )


def test_activations_of_networks_that_take_anything():
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            return self.linear(x["x"] if isinstance(x, dict) else torch.ones(2, 3) if x is None else x)

    net, vectors = Takes(), pictures(2, 3)
    for given in ({"x": vectors}, [vectors], None):
        compare("LayerActivation", (net, net.linear), given, accelerated=False)
    mixed, x = small()
    compare("LayerActivation", (mixed, (mixed.stem, mixed.stem)), [x])
    both, _ = small(TwoInputs)
    compare("LayerActivation", (both, both.linear), [x, x], accelerated=False)
    assert assert_refused("LayerActivation", (mixed, []), x) is AssertionError


def test_baselines_decide_the_dtype_of_what_is_hidden():
    truths, whole = pictures(3, 4) > 0, torch.arange(12, dtype=torch.int32).reshape(3, 4)

    def of_dtype(x):
        return (x * 3).sum(1) + (0.5 if x.dtype is torch.bool else x.dtype.itemsize)

    for baseline in (None, False, 1, torch.ones(4, dtype=torch.bool), torch.tensor(1)):
        for x in (truths, whole):
            compare("Occlusion", (of_dtype,), x, (2,), baselines=baseline, accelerated=False)
    net, x = small()
    for baseline in (torch.tensor(0.5, dtype=torch.float64), torch.ones(3, 33, 33, dtype=torch.float64)):
        assert assert_refused("Occlusion", (net,), x, (3, 16, 16), 16, baselines=baseline, target=1) is RuntimeError
        pool = nn.Sequential(nn.AvgPool2d(3), nn.Flatten())
        compare("Occlusion", (pool,), x, (3, 16, 16), 16, baselines=baseline, target=1, accelerated=False)
    compare("Occlusion", (net,), x, (3, 16, 16), 16, baselines=torch.tensor(1), target=1)


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


def test_where_float64_is_the_default(default_dtype):
    net, x = small()
    default_dtype(torch.float64)
    assert compare("Occlusion", (net,), x, (3, 16, 16), 16, target=1).dtype is torch.float64
    compare("Saliency", (net,), x, 1)


@pytest.mark.parametrize("perturbations", [1, 4])
def test_examples_that_bear_on_each_other(perturbations):
    """Then it matters which windows are hidden in one run, and in what order."""

    class Ranking(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1).cumsum(0)

    x, y = pictures(2, 3, 5, 6), pictures(2, 4, 3, seed=1)
    windows = {"perturbations_per_eval": perturbations, "accelerated": False}
    compare("Occlusion", (Ranking(),), x, (2, 3, 2), (2, 2, 2), **windows)
    both = {"sliding_window_shapes": ((2, 3, 2), (2, 2)), "strides": ((2, 2, 2), (1, 2))}
    compare("Occlusion", (lambda x, y: Ranking()(x) * Ranking()(y),), (x, y), **both, **windows)
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(90, 4))
    states = []
    for library in (captum, captums):
        norm[0].reset_running_stats()
        states.append(ask(library, "Occlusion", (norm,), x, (2, 3, 2), 2, target=1, perturbations_per_eval=perturbations)[0])
        states.append(norm[0].running_mean.clone())
    assert_equal(states[0], states[2])
    assert_equal(states[1], states[3])


@pytest.mark.parametrize("of", ["sparse", "meta", "negative"])
def test_tensors_in_other_memory(of):
    net, x = small()
    if of == "sparse":
        for name in ON_OUTPUTS:
            assert assert_refused(name, (net,), x.to_sparse(), 1) is RuntimeError
    elif of == "meta":
        on_meta = net.to("meta")
        for name in ON_OUTPUTS:
            ours, theirs = (ask(library, name, (on_meta,), x.to("meta"), 1)[0] for library in (captum, captums))
            assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
    else:
        for number in range(8):  # All engines have their turns.
            view = torch.complex(x, x + number).conj().imag
            assert view.is_neg()
            compare("Saliency", (net,), view, 1)
            compare("NeuronGradient", (net, net.stem), view, (1, 2, 3))
            compare("Occlusion", (net,), view, (3, 16, 16), 16, target=1)


def test_training_mode():
    net, x = small()
    compare("Saliency", (net.train(),), x, 1)  # None of its layers is another in training.
    norm = network("resnet").train()
    before = norm.bn1.running_mean.clone()
    captum_norm = network("resnet").train()
    x = pictures(2, 3, 64, 64)
    with pytest.warns(NotAccelerated, match="BatchNorm2d is in training mode"):
        ours = captum.GuidedBackprop(norm).attribute(x, 1)
    assert_equal(ours, captums.GuidedBackprop(captum_norm).attribute(x, 1))
    assert torch.equal(norm.bn1.running_mean, captum_norm.bn1.running_mean)
    assert not torch.equal(norm.bn1.running_mean, before)

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return F.dropout(self.conv(x), training=self.training).mean((2, 3))

    dropping = Dropping()
    state = torch.random.get_rng_state()
    with pytest.warns(NotAccelerated, match="gives other outputs in training mode"):
        ours = captum.Saliency(dropping).attribute(x, 1)
    torch.random.set_rng_state(state)
    assert_equal(ours, captums.Saliency(dropping).attribute(x, 1))
    compare("Saliency", (dropping.eval(),), x, 1)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -2 * gradient


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def without_gradient(x):
    with torch.no_grad():
        return x.sigmoid()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "between",
    [
        lambda x: x * x.detach(),
        lambda x: x * without_gradient(x),
        lambda x: Reversed.apply(x) + x,
        lambda x: Straight.apply(x - 1),
    ],
)
def test_gradients_that_are_not_those_of_the_operators(between):
    class Stopping(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.relu, self.body, self.linear = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.linear(self.relu(self.body(between(self.relu(self.stem(x))))).mean((2, 3)))

    torch.manual_seed(0)
    net, x = Stopping(), pictures(2, 3, 9, 9)
    for name in ON_OUTPUTS:
        compare(name, (net,), x, 1, accelerated=False)
    for name in ON_NEURONS:
        compare(name, (net, net.body), x, (1, 2, 3), accelerated=False)
    compare("LayerActivation", (net, net.body), x)
    compare("Occlusion", (net,), x, (3, 4, 4), 4, target=1)


def test_numbers_that_the_kernels_do_not_know():
    net, x = small()
    half = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 31 * 31, 3)).half()
    compare("GuidedBackprop", (half,), x.half(), 1, accelerated=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare("Saliency", (net,), x, 1, accelerated=False)
    x[0, 0, 0, 0] = torch.inf
    with pytest.warns(NotAccelerated, match="finite"):
        captum.Saliency(net).attribute(x, 1)


def test_noise_tunnel_goes_around():
    net, x = small()

    def smoothed(library):
        torch.manual_seed(0)
        return captums.NoiseTunnel(library.Saliency(net)).attribute(x, nt_samples=4, stdevs=0.1, target=1)

    assert_equal(smoothed(captum).detach(), smoothed(captums).detach())


def test_why_pytorch_answers_is_said_once_an_object():
    attribution = captum.Saliency(lambda x: x.sum((1, 2, 3)))
    x = pictures(2, 3, 5, 5).requires_grad_()
    with pytest.warns(
        NotAccelerated, match=r"Saliency is not accelerated, PyTorch answers: .*torch.nn.Module, got function"
    ) as told:
        attribution.attribute(x)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution.attribute(x)


# Errors.


@pytest.mark.parametrize("accelerated", [True, False])
def test_arguments_that_do_not_fit(accelerated):
    net, x = small()
    forward = net if accelerated else lambda x: net(x)
    for target in (None, (1, 2), [1], [1, 2, 3], torch.tensor([1, 2, 3]), [1.5, 2.5], 1.5, "1"):
        assert assert_refused("Saliency", (forward,), x, target) is AssertionError, target
    assert assert_refused("Saliency", (forward,), x, 6) is IndexError
    assert assert_refused("Saliency", (forward,), [x], 1) is AssertionError
    for selector in ((1, 2, 3, 4), (9, 0, 0)):
        assert_refused("NeuronGradient", (forward, net.stem), x, selector)
    assert_refused("NeuronGradient", (forward, net.stem), x, 1)
    assert assert_refused("LayerActivation", (forward, nn.ReLU()), x) is AssertionError
    assert assert_refused("NeuronGradient", (forward, nn.ReLU()), x, 1) is AssertionError
    for windows in (
        {"sliding_window_shapes": (3, 4)},
        {"sliding_window_shapes": (3, 4, 4), "strides": (1, 2)},
        {"sliding_window_shapes": (3, 4, 4), "strides": 5},
        {"sliding_window_shapes": (3, 40, 4)},
        {"sliding_window_shapes": ((3, 4, 4), (3, 4, 4))},
        {"sliding_window_shapes": (3, 4, 4), "baselines": "black"},
        {"sliding_window_shapes": (3, 4, 4), "perturbations_per_eval": 0},
        {"sliding_window_shapes": (3, 4, 4), "perturbations_per_eval": 1.0},
        {"sliding_window_shapes": (3, 4, 4), "target": (1, 2)},
        {"sliding_window_shapes": (3, 0, 4)},
        {"sliding_window_shapes": (3, 4, 4), "baselines": (0, "black")},
    ):
        assert assert_refused("Occlusion", (forward,), x, **{"target": 1, "strides": 4} | windows) is AssertionError, windows
    assert assert_refused("Occlusion", (forward,), x, (3, 4, 4), 4, baselines=(), target=1) is IndexError
    for step in (0, -1):  # Of which Captum makes nonsense.
        with pytest.raises(AssertionError, match="strides must be at least 1"):
            captum.Occlusion(forward).attribute(x, (3, 4, 4), step, target=1)
    assert assert_refused("NeuronGradient", (forward, net.stem), x, None) is ValueError
    assert assert_refused("NeuronGradient", (forward, net.stem), x, torch.tensor(1)) is TypeError


def test_scores_that_do_not_grow_with_the_batch():
    assert assert_refused("Occlusion", (lambda x: x.sum(),), pictures(2, 5), (2,), perturbations_per_eval=3) is AssertionError


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_only_modules_have_relus_to_override(name):
    for library in (captum, captums):
        with pytest.raises(AssertionError):
            getattr(library, name)(lambda x: x)
        with pytest.raises(AssertionError):
            getattr(library, f"Neuron{name}")(lambda x: x, nn.ReLU())


@pytest.mark.parametrize("name", ["Saliency", "GuidedBackprop", "Deconvolution", "Occlusion"])
def test_there_is_no_attribute_future(name):
    with pytest.raises(NotImplementedError, match=name):
        getattr(captum, name)(nn.ReLU()).attribute_future()


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_nothing_is_left_behind(name):
    net, x = small(TwoInputs)
    x = (x, x.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(captum, name)(net).attribute(x, 1)
        with pytest.raises(AssertionError):
            getattr(captum, name)(net).attribute(x)
    for part in net.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert not any(one.requires_grad or one._backward_hooks for one in x)
    assert all(parameter.grad is None for parameter in net.parameters())


# Conversion.


@pytest.fixture
def traced(monkeypatch):
    """Modules in the order in which they were traced."""
    modules = []
    trace = conversions.trace_module
    monkeypatch.setattr(conversions, "trace_module", lambda *given: modules.append(given[0]) or trace(*given))
    return modules


def test_a_module_is_converted_once(traced):
    net, x = small()
    for _ in range(2):
        for name in ON_OUTPUTS:
            compare(name, (net,), x, 1)
            compare(name, (net,), pictures(1, 3, 33, 33, seed=4), 1)
    assert len(traced) == 1
    compare("Saliency", (net,), pictures(1, 3, 40, 40), 1)
    assert len(traced) == 2


def test_what_cannot_be_traced_is_tried_once(traced):
    class Deciding(nn.Module):
        def forward(self, x):
            return x.sum((1, 2, 3)) if x.sum() > 0 else x.mean((1, 2, 3))

    net = Deciding()
    for _ in range(2):
        compare("Saliency", (net,), pictures(1, 3, 5, 5), accelerated=False)
    assert len(traced) == 1


def assert_all_equal(net, layer, x, accelerated=True):
    """Asks in every way, and again and again about one picture, so that what was kept would be used."""
    for _ in range(3):
        for name in ON_OUTPUTS:
            compare(name, (net,), x, 1, accelerated=accelerated)
    for name in ON_NEURONS:
        compare(name, (net, layer), x, (1, 2, 3), accelerated=accelerated)
    compare("LayerActivation", (net, layer), x, accelerated=accelerated)
    compare("Occlusion", (net,), x, (3, 15, 15), 15, target=1, accelerated=accelerated)


def by_optimizer(net, x):
    net(x).sum().backward()
    torch.optim.SGD(net.parameters(), 0.01).step()
    net.zero_grad()


def in_place(net, x):
    with torch.no_grad():
        net.stem.weight.mul_(0.5)


def through_data(net, x):
    net.stem.weight.data.mul_(0.5)  # Which PyTorch's own counter doesn't count.


def one_number_through_numpy(net, x):
    net.last.weight.detach().numpy()[0, 1, 2, 0] += 0.5


def other_memory(net, x):
    net.stem.weight.data = net.stem.weight.data * 0.5


def by_loading(net, x):
    net.load_state_dict({name: 0.2 * torch.randn_like(value) for name, value in net.state_dict().items()})


def by_assigning(net, x):
    net.load_state_dict({name: 0.2 * torch.randn_like(value) for name, value in net.state_dict().items()}, assign=True)


def another_parameter(net, x):
    net.stem.weight = nn.Parameter(net.stem.weight.detach() * 0.5)


def another_module(net, x):
    net.linear = nn.Linear(8, 6)


def no_bias(net, x):
    net.left[0].bias = None


def other_settings(net, x):
    net.left[1].inplace, net.last.padding = True, (1, 1)


def another_number_in_forward(net, x):
    net.norm.alpha = 2.0


def other_statistics(net, x):
    net.left[1] = nn.BatchNorm2d(4).eval()
    net.left[1].running_mean.data[0] = 0.5


CHANGES = (
    by_optimizer, in_place, through_data, one_number_through_numpy, other_memory, by_loading, by_assigning, another_parameter,
    another_module, no_bias, other_settings, another_number_in_forward, other_statistics,
)  # fmt: skip


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_network_are_seen(change):
    torch.manual_seed(0)
    net, x = small()
    assert_all_equal(net, net.left, x)
    change(net, x)
    assert_all_equal(net, net.left, x)


@pytest.mark.usefixtures("engine")
def test_weights_changed_back_are_seen():
    """What was kept of the changed network is of no use to the old one, though all counters are the same."""
    net, x = small()
    compare("Saliency", (net,), x, 1)
    for _ in range(2):
        for factor in (2, 0.5):
            net.stem.weight.data.mul_(factor)
            compare("Saliency", (net,), x, 1)
            compare("Saliency", (net,), x, 2)


def test_modes_are_seen():
    net, x = small()
    net.left.append(nn.Dropout(0.5))
    net.eval()
    assert_all_equal(net, net.stem, x)
    net.train()
    with pytest.warns(NotAccelerated, match="Dropout is in training mode"):
        captum.Saliency(net).attribute(x, 1)
    net.eval()
    assert_all_equal(net, net.stem, x)


class Constants(nn.Module):
    """Weights that forward makes, and tensors and numbers that are no parameters."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.gain = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.shift, self.options = torch.rand(4, 1, 1), {"factor": 2.0, "shifts": [torch.rand(4, 1, 1)]}

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight * self.gain[..., None], self.conv.bias) - self.shift
        x = F.relu(x) * self.options["factor"] + self.options["shifts"][0]
        return self.linear(F.relu(x).mean((2, 3)))


def test_changes_of_what_weights_are_made_of_are_seen():
    net, x = small(Constants)

    def check():
        for _ in range(2):
            compare("Saliency", (net,), x, 1)
        compare("Occlusion", (net,), x, (3, 15, 15), 15, target=1)

    check()
    net.gain.data.mul_(2)
    check()
    net.conv.weight.detach().numpy()[0, 0, 0, 0] += 1
    check()
    net.shift += 0.3
    check()
    net.shift.data.mul_(2)
    check()
    net.options["factor"] = 0.5
    check()
    net.options["shifts"][0] = torch.rand(4, 1, 1)
    check()


@pytest.mark.usefixtures("engine", "sweeping")
def test_changes_of_what_is_no_module_are_seen(monkeypatch):
    class Settings:
        def __init__(self):
            self.factor, self.inner = 2.0, [np.ones(4, np.float32)]

    class Configured(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.settings, self.flags, self.linear = nn.Conv2d(3, 4, 3), Settings(), {"plain"}, nn.Linear(4, 5)

        def forward(self, x):
            factor = self.settings.factor * float(self.settings.inner[0][0]) * (1 if "plain" in self.flags else 3)
            return self.linear((self.conv(x) * factor).mean((2, 3)))

    net, x = small(Configured)

    def check():
        compare("Saliency", (net,), x, 1)
        compare("Occlusion", (net,), x, (3, 15, 15), 15, target=1)

    check()
    net.settings.factor = 0.5
    check()
    net.settings.inner[0][0] = 7
    check()
    net.flags.clear()
    check()
    monkeypatch.setattr(Configured, "forward", lambda self, x: self.linear(self.conv(x).amin((2, 3)) * 2))
    compare("Saliency", (net,), x, 1, accelerated=False)
    compare("Occlusion", (net,), x, (3, 15, 15), 15, target=1, accelerated=False)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("traceable", [True, False])
def test_what_a_network_notes_about_its_runs_is_no_change(traced, traceable):
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale, self.runs = nn.Conv2d(3, 4, 3), 2.0, 0

        def forward(self, x):
            self.runs += 1
            self.features = self.conv(x)
            kept = self.features * self.scale
            return (kept if traceable or kept.sum() > -1e9 else -kept).mean((2, 3))

    net, x = Noting(), pictures(1, 3, 9, 9)
    for number in range(4):
        compare("Saliency", (net,), x + number, 1, accelerated=traceable)
        compare("LayerActivation", (net, net.conv), x, accelerated=traceable)
    assert len(traced) == 1
    net.scale = 3.0
    compare("Saliency", (net,), x, 1, accelerated=traceable)
    compare("LayerActivation", (net, net.conv), x, accelerated=traceable)
    assert len(traced) == 2


@pytest.mark.usefixtures("engine")
def test_pruned_and_parametrized_weights(traced):
    net, x = small()
    assert_all_equal(net, net.stem, x)
    prune.random_unstructured(net.stem, "weight", 0.5)
    assert_all_equal(net, net.stem, x)
    parametrizations.weight_norm(net.last)
    assert_all_equal(net, net.stem, x)
    assert len(traced) == 3
    net.stem.weight_orig.data.mul_(2)
    assert_all_equal(net, net.stem, x)
    net.last.parametrizations.weight.original0.data.mul_(2)
    assert_all_equal(net, net.stem, x)
    prune.remove(net.stem, "weight")
    parametrize.remove_parametrizations(net.last, "weight")
    assert_all_equal(net, net.stem, x)


@pytest.mark.parametrize(
    "register",
    [
        lambda net: net.stem.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda net: net.stem.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
        lambda net: net.relu.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,)),
        lambda net: net.stem.register_forward_hook(
            lambda module, inputs, output: output.requires_grad and output.register_hook(lambda g: g * 3) and None
        ),
        lambda net: nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None),
    ],
)
def test_with_hooks_pytorch_answers(register):
    net, x = small()
    compare("Saliency", (net,), x, 1)
    handle = register(net)
    try:
        for _ in range(2):
            compare("Saliency", (net,), x, 1, accelerated=False)
    finally:
        handle.remove()
    compare("Saliency", (net,), x, 1)


def test_the_faster_engine_is_taken(monkeypatch):
    asked, clock, seconds = [], [0.0], {"slow": 2.0, "fast": 1.0}

    def engine(name):
        class Fake:
            def __init__(self, *arguments):
                asked.append(name)

            def gradient(self, choose, keep):
                clock[0] += 5 if len(asked) < 2 else seconds[name]
                return torch.zeros(2, 3, 33, 33)

        return Fake

    monkeypatch.setattr(accelerated, "ENGINES", {"slow": engine("slow"), "fast": engine("fast")})
    monkeypatch.setattr(accelerated.time, "perf_counter", lambda: clock[0])
    _, x = small()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    attribution = captum.Saliency(net)
    for number in range(8):
        attribution.attribute(x + number, 1)
    assert asked == ["slow"] * 3 + ["fast"] * 5
    # A network of other weights has the same to do, one of other layers hasn't.
    asked.clear()
    with torch.no_grad():
        net[0].weight.mul_(2)
    for number in range(3):
        attribution.attribute(x + number, 1)
    assert asked == ["fast"] * 3
    asked.clear()
    net.append(nn.ReLU())
    seconds["slow"], seconds["fast"] = 1.0, 2.0
    for number in range(7):
        attribution.attribute(x + number, 1)
    assert asked == ["slow"] * 3 + ["fast"] * 2 + ["slow"] * 2
    # Of those that take about as long, the choice takes longer.
    asked.clear()
    net.append(nn.ReLU())
    seconds["fast"] = 1.1
    for number in range(8):
        attribution.attribute(x + number, 1)
    assert asked == ["slow"] * 3 + ["fast"] * 3 + ["slow"] * 2


@pytest.mark.usefixtures("engine")
def test_a_picture_changed_in_place_is_another():
    net, x = small()
    for change in (lambda: x.mul_(0.5), lambda: x.data.add_(1), lambda: x.numpy().__setitem__((0, 1, 7, 7), 9), lambda: None):
        compare("Saliency", (net,), x, 1)
        compare("GuidedBackprop", (net,), x.clone(), 1)
        change()
        compare("Saliency", (net,), x, 1)


def test_what_disturbs_a_call_decides_nothing():
    contest, engines = Contest(), ("one", "other")
    for seconds in (9.0, 1.0, 9.0):
        contest.note("one", seconds)
    for _ in range(3):
        assert contest.next(engines) == "other"
        contest.note("other", 1.2)
    assert contest.next(engines) == "one"
    # What stays slow has become slow.
    for _ in range(8):
        contest.note("one", 2.0)
    assert contest.next(engines) == "other"


@pytest.fixture
def settled(monkeypatch):
    """PyTorch has turned out to be the fastest."""
    monkeypatch.setattr(Contest, "to_try", lambda self, engines: [])
    monkeypatch.setattr(Contest, "next", lambda self, engines: "pytorch")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
def test_where_pytorch_is_the_fastest_a_network_runs_as_it_is(change, traced):
    """What it was converted to isn't used, so nobody looks at whether it has changed since."""
    torch.manual_seed(0)
    net, x = small()
    for name in ON_OUTPUTS:
        compare(name, (net,), x, 1)
    change(net, x)
    for number, name in enumerate(ON_OUTPUTS, 1):
        compare(name, (net,), x + number, 1)
    assert len(traced) == 1
    # Asked about once more: the forward pass that is then kept is of the network as it is now.
    for _ in range(2):
        for name in ON_OUTPUTS:
            compare(name, (net,), x + number, 2)
    assert len(traced) == 2 - (change in (through_data, one_number_through_numpy))


@pytest.mark.usefixtures("settled")
def test_where_pytorch_is_the_fastest_pictures_are_checked():
    net, x = small()
    for number in range(2):
        compare("GuidedBackprop", (net,), x + number, 1)
    assert assert_refused("Saliency", (net,), x + 2) is AssertionError
    x[0, 0, 0, 0] = torch.nan
    with pytest.warns(NotAccelerated, match="finite"):
        captum.Saliency(net).attribute(x, 1)


def test_the_faster_engine_hides_windows(monkeypatch):
    asked, clock, seconds = [], [0.0], {"_by_pytorch": 3.0, "_by_kernels": 1.0}

    def spied(name, hide):
        def call(*arguments):
            (windows,) = (one for one in arguments if isinstance(one, np.ndarray))
            asked.append((name, len(windows)))
            clock[0] += seconds[name] * len(windows)
            return hide(*arguments)

        return call

    for name in seconds:
        monkeypatch.setattr(sweeps, name, spied(name, getattr(sweeps, name)))
    monkeypatch.setattr(sweeps.time, "perf_counter", lambda: clock[0])
    net, x = small()
    for _ in range(4):
        # 30 places: of so many one run of PyTorch tells.
        compare("Occlusion", (net,), x[:1], (2, 13, 13), (1, 4, 5), target=1, perturbations_per_eval=3)
    tried = [("_by_pytorch", 15), ("_by_kernels", 15)]
    assert asked == tried * 2 + [("_by_kernels", 30)] * 2
    asked.clear()
    seconds["_by_kernels"] = 3.5
    for _ in range(9):
        compare("Occlusion", (net,), x[:1], (3, 33, 20), 13, target=1)
    assert asked == [("_by_pytorch", 2)] * 3 + [("_by_kernels", 2)] * 3 + [("_by_pytorch", 2)] * 3


@pytest.mark.usefixtures("engine", "sweeping")
def test_networks_and_selectors_that_view_memory():
    """Which only one layout of memory allows; pictures may come in another."""

    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 5)

        def forward(self, x):
            return self.linear(F.relu(self.conv(x)).contiguous().view(x.shape[0], -1))

    class OfOneLayout(Viewing):
        def forward(self, x):
            return self.linear(F.relu(self.conv(x)).view(x.shape[0], -1))

    x = pictures(2, 3, 6, 6)
    for net in (Viewing(), OfOneLayout()):
        compare("Saliency", (net,), x, 1)
        compare("GuidedBackprop", (net,), x, 1)
        compare("Occlusion", (net,), x, (3, 2, 2), 2, target=3)
        compare("NeuronGradient", (net, net.conv), x, lambda value: value.view(len(value), -1)[:, 7])
    net = Viewing()
    for other in (
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3),
        x[:, :, ::2, ::2].repeat(1, 1, 2, 2).expand(2, -1, -1, -1),
    ):
        compare("Saliency", (net,), other, 1)
        compare("Occlusion", (net,), other, (3, 2, 2), 2, target=3)
        compare("NeuronGradient", (net, net.conv), other, lambda value: value.sum((1, 2, 3)))


def test_networks_without_a_hash():
    class Compared(nn.Module):
        def __eq__(self, other):
            return False

        def forward(self, x):
            return x.sum((1, 2, 3))

    compare("Saliency", (Compared(),), pictures(2, 3, 9, 9), accelerated=False)


def test_hooks_on_inputs_are_heard():
    net, x = small()
    x.requires_grad_()
    x.register_hook(lambda gradient: gradient * 3)
    compare("Saliency", (net,), x, 1, accelerated=False)


def test_weights_made_in_inference_mode():
    """PyTorch takes no gradients of them; the kernels do."""
    with torch.inference_mode():
        net, _ = small()
    usual, x = small()
    attribution = captum.GuidedBackprop(net)
    for target in range(3):
        assert_equal(attribution.attribute(x, target), captums.GuidedBackprop(usual).attribute(x, target))


def test_a_changed_picture_is_seen():
    net, x = small()
    compare("Saliency", (net,), x, 1)
    x.numpy()[0, :, 3:9] += 1
    compare("Saliency", (net,), x, 1)


def test_a_module_may_go():
    net, x = small()
    captum.Saliency(net).attribute(x.requires_grad_(), 1)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_the_memory_of_pictures_and_weights_is_not_copied(monkeypatch):
    net, x = small()
    monkeypatch.setattr(Contest, "next", lambda self, engines: "kernels")
    seen = []
    original = sweeps.IncrementalSweep
    monkeypatch.setattr(
        sweeps,
        "IncrementalSweep",
        lambda graph, targets, picture: seen.append((graph, picture)) or original(graph, targets, picture),
    )
    captum.Occlusion(net).attribute(x[:1], (3, 20, 20), 10, target=1)
    ((graph, picture),) = seen
    assert np.shares_memory(picture, x.numpy())
    assert np.shares_memory(graph.steps[graph.index("stem")].node.W.array, net.stem.weight.detach().numpy())


def test_gradients_of_the_caller_are_left_alone():
    net, x = small()
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    net(x)  # A graph that is still waiting for its own way back.
    captum.GuidedBackprop(net).attribute(x, 1)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert all(parameter.grad is None for parameter in net.parameters())
    with torch.no_grad():
        assert_equal(captum.Saliency(net).attribute(x, 1), captums.Saliency(net).attribute(x, 1))

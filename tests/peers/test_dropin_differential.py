"""Random networks, asked random questions: the drop-in and Captum agree, in results, warnings and refusals."""

import copy
import math
import warnings
from unittest import mock

import captum.attr as captums
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dcnn_visualizer.dropin import accelerated, captum, sweeps
from dcnn_visualizer.dropin.captum import NotAccelerated
from dcnn_visualizer.dropin.contest import Contest
from tests.peers import torch_networks as networks
from tests.peers.captum_comparison import NAMES, ON_OUTPUTS, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread", "_every_warning")

CHANNELS = 4


@pytest.fixture
def _every_warning():
    """PyTorch gives some warnings once only, to whoever comes first."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


class Functional(nn.Module):
    """A function as a module that isn't one of PyTorch's own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Branches(nn.Module):
    """Two ways, that are added, joined by their channels, or multiplied."""

    def __init__(self, one, other, join):
        super().__init__()
        self.one, self.other, self.join = one, other, join

    def forward(self, x):
        one, other = self.one(x), self.other(x)
        if self.join == "cat":
            return torch.cat([one[:, :2], other[:, 2:]], 1)
        return one + other if self.join == "add" else one * other.sigmoid()


class Unused(nn.Module):
    """Something runs, of which nothing comes."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        self.part(x)
        return x


class Network(nn.Module):
    """What is drawn, and a head or none; a ReLU and a convolution may be shared by several places."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x):
        x = self.body(x)
        if self.head is None:
            return x
        return self.head(x.mean((2, 3)))


LAYERS = {
    "conv": lambda shared: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "grouped": lambda shared: nn.Conv2d(CHANNELS, CHANNELS, (1, 3), groups=2, padding=(0, 1), bias=False),
    "dilated": lambda shared: nn.Conv2d(CHANNELS, CHANNELS, 2, dilation=2, padding=1),
    "relu": lambda shared: nn.ReLU(),
    "shared relu": lambda shared: shared["relu"],
    "shared conv": lambda shared: shared["conv"],
    "unused": lambda shared: Unused(shared["relu"]),
    "unused conv": lambda shared: Unused(nn.Conv2d(CHANNELS, 2, 1)),
    "inplace": lambda shared: nn.ReLU(inplace=True),
    "functional": lambda shared: Functional(lambda x: F.relu(x - 0.1)),
    "relu6": lambda shared: nn.ReLU6(),
    "leaky": lambda shared: nn.LeakyReLU(0.2, inplace=True),
    "tanh": lambda shared: nn.Tanh(),
    "norm": lambda shared: nn.BatchNorm2d(CHANNELS),
    "group norm": lambda shared: nn.GroupNorm(2, CHANNELS),
    "dropout": lambda shared: nn.Dropout2d(),
    "identity": lambda shared: nn.Identity(),
    "added in place": lambda shared: Functional(lambda x: x.mul(2).add_(x)),
    "flattened": lambda shared: Functional(lambda x: x.flatten(2).view(x.shape)),
    "slope": lambda shared: nn.PReLU(CHANNELS),
    "max": lambda shared: nn.MaxPool2d(3, 1, 1),
    "mean": lambda shared: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "detached": lambda shared: Functional(lambda x: x + 0.1 * x.detach()),
}


@st.composite
def bodies(draw, depth=2):
    """Layers in a row, some of them in branches; all keep the number of channels and the size of the picture."""

    def row(depth):
        layers = []
        for kind in draw(st.lists(st.sampled_from([*LAYERS, "branches"]), min_size=1, max_size=4)):
            if kind != "branches":
                layers.append(LAYERS[kind](shared))
            elif depth:
                layers.append(Branches(row(depth - 1), row(depth - 1), draw(st.sampled_from(["add", "cat", "mul"]))))
        return nn.Sequential(*layers)

    shared = {"relu": nn.ReLU(), "conv": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)}
    return row(depth)


@st.composite
def cases(draw):
    """A network, pictures that it takes, and a name of one of its layers."""
    torch.manual_seed(draw(st.integers(0, 99)))
    stem = nn.Conv2d(draw(st.integers(1, 3)), CHANNELS, 3, stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1)))
    body = nn.Sequential(nn.ReLU() if draw(st.booleans()) else nn.Identity(), stem, draw(bodies()))
    net = networks.shaken(Network(body, nn.Linear(CHANNELS, 5) if draw(st.booleans()) else None))
    net.train(draw(st.sampled_from([False] * 7 + [True])) and not any(isinstance(part, nn.Dropout2d) for part in net.modules()))
    dtype = draw(st.sampled_from([torch.float32] * 5 + [torch.float64] * 2 + [torch.bfloat16]))
    x = torch.randn(draw(st.integers(1, 3)), stem.in_channels, draw(st.integers(5, 9)), draw(st.integers(5, 9)), dtype=dtype)
    match draw(st.sampled_from(["as it is", "channels last", "every other", "transposed"])):
        case "channels last":
            x = x.to(memory_format=torch.channels_last)
        case "every other":
            x = x.repeat_interleave(2, 3)[..., ::2]
        case "transposed":
            x = x.transpose(2, 3).contiguous().transpose(2, 3)
    layer = draw(st.sampled_from([name for name, _ in net.named_modules() if name]))
    return net.to(dtype), x, layer


def targets(draw, shape):
    """One of the ways to say which output, most of them right."""
    axes = shape[1:]
    one = st.tuples(*[st.integers(-size, size - 1 + (not draw(st.integers(0, 9)))) for size in axes])
    forms = [one, st.lists(one, min_size=shape[0], max_size=shape[0]), st.none()]
    if len(axes) == 1:
        number = st.integers(0, axes[0] - 1)
        several = st.lists(number, min_size=shape[0], max_size=shape[0] + (not draw(st.integers(0, 9))))
        forms += [
            number,
            number.map(torch.tensor),
            several,
            several.map(torch.tensor),
            number.map(lambda one: torch.tensor([one])),
        ]
    return draw(st.one_of(forms))


def selectors(draw, shape):
    """One of the ways to say which neurons, most of them right."""
    axes = shape[1:]
    place = st.tuples(*[st.integers(-size, size - 1 + (not draw(st.integers(0, 9)))) for size in axes])
    sliced = st.tuples(*[st.one_of(st.integers(0, size - 1), st.slices(size)) for size in axes])
    callables = [
        lambda value: value.sum(),
        lambda value: value.flatten(1).amax(1),
        lambda value: value.mul_(2).flatten(1)[:, 1],
    ]
    return draw(st.one_of(place, place, sliced, st.integers(0, 2), st.sampled_from(callables)))


@st.composite
def questions(draw):
    """The name of a class, what it is made of, and what it is asked."""
    net, x, path = draw(cases())
    name = draw(st.sampled_from(NAMES))
    layer = net.get_submodule(path)
    given = (x,) if draw(st.booleans()) else x
    with torch.no_grad():
        shape = copy.deepcopy(net).eval()(x.clone()).shape
    if name in ON_OUTPUTS:
        further = {"abs": draw(st.booleans())} if name == "Saliency" else {}
        return name, (net,), (given, targets(draw, shape)), further
    if name == "Occlusion":
        sizes = tuple(draw(st.integers(1, size)) for size in x.shape[1:])
        strides = draw(st.one_of(st.tuples(*[st.integers(max(1, size // 2), size) for size in sizes]), st.integers(3, 5)))
        shapes = [(), (1,), x.shape[2:], x.shape[1:], (1, *x.shape[1:]), x.shape]
        tensors = st.sampled_from(shapes).map(lambda shape: torch.randn(shape).to(x.dtype))
        baselines = draw(st.one_of(st.none(), st.sampled_from([0, 0.5, True]), tensors))
        further = {"baselines": baselines, "perturbations_per_eval": draw(st.integers(1, 5))}
        return name, (net,), (given, sizes, strides), further | {"target": targets(draw, shape)}
    of_input = draw(st.booleans())
    if name == "LayerActivation":
        several = draw(st.booleans())
        return name, (net, [layer, net.body[0]] if several else layer), (given,), {"attribute_to_layer_input": of_input}
    # Of which shape the layer is isn't known, so that some selectors don't fit.
    maps = (len(x), CHANNELS, *x.shape[2:])
    selector = selectors(draw, (len(x), 5) if layer is net.head and not of_input else maps)
    return name, (net, layer), (given, selector), {"attribute_to_neuron_input": of_input}


def answer(library, name, arguments, args, kwargs):
    """A result or the kind of an error; and warnings."""
    # The same memory, but no hooks that another question has left.
    given = tuple(x.detach() for x in args[0]) if isinstance(args[0], tuple) else args[0].detach()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = getattr(library, name)(*arguments).attribute(given, *args[1:], **kwargs)
        except Exception as error:
            result = type(error)
    said = [(one.category, " ".join(str(one.message).split())) for one in caught if not issubclass(one.category, NotAccelerated)]
    return result, said


@settings(max_examples=150)
@given(questions(), st.data())
def test_random_questions(question, data):
    name, arguments, args, kwargs = question
    state = {key: value.clone() for key, value in arguments[0].state_dict().items()}
    theirs, their_warnings = answer(captums, name, arguments, args, kwargs)
    after = {key: value.clone() for key, value in arguments[0].state_dict().items()}
    engines = data.draw(st.lists(st.sampled_from([*accelerated.ENGINES, *sweeps.ENGINES]), min_size=3, max_size=3))
    # Neurons from their receptive fields, however large these are, or as it suits.
    ways = data.draw(st.sampled_from([accelerated.WAYS, 1e-9]))
    for engine in engines:
        arguments[0].load_state_dict(state)
        with (
            mock.patch.object(accelerated, "WAYS", ways),
            mock.patch.object(Contest, "to_try", return_value=[]),
            mock.patch.object(Contest, "next", lambda self, able, engine=engine: engine if engine in able else next(iter(able))),
        ):
            ours, our_warnings = answer(captum, name, arguments, args, kwargs)
        if theirs is RuntimeError and not isinstance(ours, type):
            continue  # Autograd refuses what was changed in place; the kernels needn't.
        if isinstance(theirs, type) or isinstance(ours, type):
            assert ours is theirs
        elif args[0][0].dtype is not torch.bfloat16:
            assert_equal(ours, theirs)
        assert our_warnings == their_warnings
        torch.testing.assert_close(arguments[0].state_dict(), after, rtol=1e-5, atol=1e-5)


class Anything(nn.Module):
    """Scores of any shape, from inputs of any shapes and further arguments.

    Args:
        outputs: Shape of the scores of an example; None for one number for the whole batch, as a tensor or a float.
        coupled: Whether examples bear on each other.
    """

    def __init__(self, outputs, coupled):
        super().__init__()
        self.outputs, self.coupled = outputs, coupled
        self.relu, self.linear = nn.ReLU(), nn.Linear(3, math.prod(outputs) if isinstance(outputs, tuple) else 1)

    def forward(self, *arguments):
        sums = 0
        for number, one in enumerate(arguments):
            scale = (
                torch.linspace(0.5, 1.5, one[0].numel()).view(one.shape[1:]) if isinstance(one, torch.Tensor) and one.ndim else 1
            )
            flat = (one * scale).flatten(1).sum(1) if isinstance(one, torch.Tensor) and one.ndim > 1 else one * scale
            sums = sums + flat * (number + 1)
        scores = self.linear(self.relu(torch.stack([sums, sums.square(), -sums], 1).float()))
        scores = scores.cumsum(0) if self.coupled else scores
        if self.outputs is None:
            return scores.sum()
        return float(scores.detach().sum()) if self.outputs is float else scores.view(-1, *self.outputs)


@st.composite
def functions(draw):
    """Any network, its inputs, its further arguments and a target."""
    torch.manual_seed(draw(st.integers(0, 99)))
    batch = draw(st.integers(1, 3))
    kinds = st.sampled_from([torch.float32] * 4 + [torch.float64, torch.int64, torch.bool])
    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)
    inputs = [
        (torch.randn(batch, *draw(shapes)) * 3).to(draw(kinds) if draw(st.booleans()) else torch.float32)
        for _ in range(draw(st.integers(1, 3)))
    ]
    outputs = draw(st.sampled_from([(), (4,), (2, 3), (1,), None, float]))
    further = draw(st.sampled_from([None, 2.0, (0.5, torch.randn(batch, 2)), torch.randn(batch), (torch.tensor(2.0),)]))
    given = tuple(inputs) if len(inputs) > 1 or draw(st.booleans()) else inputs[0]
    target = targets(draw, (batch, *outputs)) if isinstance(outputs, tuple) and outputs else None
    # Of more inputs Captum begins with another window than the first.
    return Anything(outputs, len(inputs) < 3 and draw(st.booleans())), given, further, target


def windows(draw, x):
    """A window and its steps over one input, and what hides it."""
    sizes = tuple(draw(st.integers(1, size)) for size in x.shape[1:])
    strides = draw(st.one_of(st.tuples(*[st.integers(1, size) for size in sizes]), st.just(min(sizes))))
    whole = [torch.randn(shape).to(x.dtype) for shape in ((), x.shape[1:], x.shape)]
    return sizes, strides, draw(st.sampled_from([0, True, 1.5 if x.is_floating_point() else 2, *whole]))


@settings(max_examples=150)
@given(
    functions(),
    st.sampled_from([*ON_OUTPUTS, "NeuronGradient", "NeuronDeconvolution", "LayerActivation"] + ["Occlusion"] * 6),
    st.data(),
)
def test_random_functions(function, name, data):
    net, inputs, further, target = function
    forward = net
    if name in ("Saliency", "NeuronGradient", "LayerActivation", "Occlusion") and data.draw(st.booleans()):
        forward = lambda *arguments: net(*arguments)  # noqa: E731
    layer = data.draw(st.sampled_from([net.relu, net.linear]))
    kwargs = {"additional_forward_args": further}
    if name == "Occlusion":
        of_inputs = [windows(data.draw, x) for x in (inputs if isinstance(inputs, tuple) else (inputs,))]
        sizes, strides, baselines = zip(*of_inputs, strict=True) if isinstance(inputs, tuple) else of_inputs[0]
        kwargs |= {"target": target, "perturbations_per_eval": data.draw(st.integers(1, 4))}
        kwargs |= {"baselines": data.draw(st.sampled_from([None, baselines]))}
        arguments, args = (forward,), (sizes, strides)
    elif name in ON_OUTPUTS:
        arguments, args = (forward,), (target,)
    else:
        arguments, args = (forward, layer), () if name == "LayerActivation" else (data.draw(st.integers(0, 2)),)
    (theirs, their_warnings), (ours, our_warnings) = (
        answer(library, name, arguments, (inputs, *args), kwargs) for library in (captums, captum)
    )
    if isinstance(theirs, type) or isinstance(ours, type):
        # Captum's hooks refuse what needs no gradients before anything else is looked at.
        assert ours is theirs or (theirs is RuntimeError and isinstance(ours, type))
    else:
        assert_equal(ours, theirs)
    assert our_warnings == their_warnings

"""Modules as traceable chains, converted once and kept as long as they stay what they are."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode

from dcnn_kernels.arrays import Array
from dcnn_visualizer.dropin.contest import Contest
from dcnn_visualizer.dropin.hooks import numbers_of
from dcnn_visualizer.fingerprint import fingerprint
from dcnn_visualizer.graph import Step
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.torch import PICTURES, trace_module
from dcnn_visualizer.importers.torch_operators import array_of
from dcnn_visualizer.receptive_field import ReceptiveField
from dcnn_visualizer.traceable_graph import TraceableGraph
from dcnn_visualizer.traceable_nodes import TraceableDropout, TraceableIdentity, TraceableNode

#: Modules that do something else in training than at inference, which is what chains know.
DIFFER_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)
#: Types of values that can't change.
PLAIN = frozenset((bool, float, int, str, type(None)))
#: What every module has, but for its mode: looked at apart, or nothing that it does depends on it.
INTERNAL = frozenset(vars(nn.Module())) - {"training"}
#: How far outputs may be from the module's own, in the mode that it is in, as a share of the largest.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Call:
    """What a layer returns, or takes, in its last call.

    Attributes:
        layer: The layer.
        of_input: Whether what it takes is meant.
        number: How many calls of the layer there are.
        index: The step of the graph whose output it is.
    """

    layer: nn.Module
    of_input: bool
    number: int
    index: int


class Latest:
    """The picture that was asked about last.

    Args:
        picture: The picture; a copy is kept, since the caller's may change.

    Attributes:
        passes: Forward passes that are kept for it, by what else they depend on, and the weights' fingerprints.
    """

    def __init__(self, picture: Tensor) -> None:
        self._picture = picture.clone()
        self.passes: dict[Any, tuple[Any, bytes]] = {}

    def is_of(self, picture: Tensor) -> bool:
        """Whether a picture of the same dtype and device is the same."""
        return torch.equal(self._picture, picture)


class Conversion:
    """A module as a chain.

    Args:
        chain: The chain, which shares the module's weights.
        modules: By path, in the order of their calls, the qualified names of the modules that its layers are.
        relus: Paths of those that are ``nn.ReLU``.
        differentiable: Whether PyTorch can take gradients of the module, which it can't with weights made in inference mode.
        reorders: Whether the module takes pictures whose channels lie together, as PyTorch's convolutions like them.
        largest: Bytes of the largest tensor that the module makes of one picture.
        stop: What passes no gradients in the module, or others than its own, if there is anything; in the chain all pass them.
        rectified: Whether something is used after an ``nn.ReLU`` has rectified it in place.

    Attributes:
        graph: The chain's graph, which stays what it is.
        others: Indices of all steps that aren't ``nn.ReLU`` modules; Captum leaves their gradients alone.
        overrides_as_captum: Whether Captum's hooks do no more than override each ReLU by itself.
        fields: What neurons see, by step; None where that is no small part of the picture.
        contests: Times that engines took, by the step whose gradient was asked for, or by the windows that were hidden.
        latest: The picture that was asked about last.
    """

    def __init__(
        self,
        chain: TraceableGraph,
        modules: dict[str, str],
        relus: frozenset[str],
        differentiable: bool,
        reorders: bool,
        largest: int,
        stop: str | None,
        rectified: bool,
    ) -> None:
        self.chain, self._modules = chain, modules
        self.differentiable, self.reorders, self.largest, self.stop = differentiable, reorders, largest, stop
        self.graph = chain.graph()
        steps = self.graph.steps
        self.others = [index for index, step in enumerate(steps) if step.path not in relus]
        self.fields: dict[int, ReceptiveField | None] = {}
        self.contests: defaultdict[Hashable, Contest] = defaultdict(Contest)
        self.latest: Latest | None = None
        # By the layers' identities: layers of the module are there as long as the conversion serves, others aren't kept here.
        self._calls: dict[tuple[int, bool], tuple[int, int]] = {}
        self._weights: dict[int, list[Array]] = {}
        self.overrides_as_captum = not rectified and _overrides_as_captum(steps, {path: modules[path] for path in relus})

    def call(self, module: nn.Module, layer: nn.Module, of_input: bool) -> Call:
        """Where the graph has what a layer returns, or takes, in its last call.

        Args:
            module: The module that was converted.
            layer: A module in it.
            of_input: Whether what it takes is asked for.

        Raises:
            UntraceableError: The chain has no such step.
        """
        key = id(layer), of_input
        if key not in self._calls:
            self._calls[key] = self._find(module, layer, of_input)
        number, index = self._calls[key]
        return Call(layer, of_input, number, index)

    def take_over(self, former: Conversion) -> None:
        """Takes over the times that engines took for a former conversion, if other weights are all that has changed since."""
        if [(step.path, step.inputs) for step in former.graph.steps] == [(step.path, step.inputs) for step in self.graph.steps]:
            self.contests = former.contests

    def _find(self, module: nn.Module, layer: nn.Module, of_input: bool) -> tuple[int, int]:
        """The number of a layer's calls, and the step of the last."""
        calls = [path for path, name in self._modules.items() if module.get_submodule(name) is layer]
        if calls:
            index = self.graph.index(calls[-1])
            return len(calls), self.graph.steps[index].inputs[0] if of_input else index
        name = next((name.replace(".", "/") for name, part in module.named_modules() if part is layer), None)
        if name is None or name not in self.graph.layers or f"{name}_2" in self.graph.layers or of_input:
            raise UntraceableError(f"what the layer {type(layer).__name__} {'takes' if of_input else 'returns'} can't be traced")
        return 1, self.graph.index(name)

    def weights(self, index: int) -> list[Array]:
        """All arrays on which a step's output depends besides the picture."""
        if index not in self._weights:
            nodes = [self.graph.steps[step].node for step in self.graph.ancestors([index])]
            self._weights[index] = [array for node in nodes for array in _arrays_of(node)]
        return self._weights[index]


def _overrides_as_captum(steps: Sequence[Step], relus: Mapping[str, str]) -> bool:
    """Whether Captum's hooks do no more than override each ReLU by itself.

    They override all of the gradient at what a ReLU takes, even if other steps take it too; note the signal at what a ReLU
    returns before the next ReLU has overridden it; and know one signal of a module, that of the call which was met last.

    Args:
        steps: The network.
        relus: By path, the names of the modules that the ReLUs are.
    """

    def tensor(index: int) -> int:
        """The step that made the tensor that a step returns: some return what they take."""
        while index >= 0 and isinstance(steps[index].node, (TraceableIdentity, TraceableDropout)):
            (index,) = steps[index].inputs
        return index

    passing = {index for index in range(len(steps)) if tensor(index) != index}
    taken = [tensor(source) for index, step in enumerate(steps) if index not in passing for source in step.inputs]
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        if step.path not in relus:
            continue
        source = tensor(step.inputs[0])
        if taken.count(source) > 1 or (source >= 0 and steps[source].path in relus):
            return False
        if source < last.get(relus[step.path], source):
            return False
        last[relus[step.path]] = index
    return True


class _Known:
    """What is known of a module.

    Args:
        state: All that its conversions depend on.

    Attributes:
        by_picture: Its conversions, or why there are none, by the shape, dtype and device of pictures.
        restless: Attributes, as (id of the part, name), that its own forward pass changes, such as a count of its calls.
        copied: Whether its conversions hold copies of its tensors.
        contents: Fingerprint of its tensors, if so.
    """

    def __init__(self, state: Any) -> None:
        self.state = state
        self.by_picture: dict[Any, Conversion | str] = {}
        self.restless: frozenset[tuple[int, str]] = frozenset()
        self.copied, self.contents = False, b""


def _arrays_of(node: TraceableNode) -> list[Array]:
    held = (value.array if isinstance(value, chainer.Variable) else value for value in vars(node).values())
    return [value for value in held if value is not None and chainer.is_arrays_compatible((value,))]


_conversions: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def as_pictures(forward_func: Callable[..., Any], inputs: Sequence[Tensor], further: Sequence[Any]) -> Tensor:
    """The one batch of pictures that a network is asked about.

    Args:
        forward_func: The network.
        inputs: Its inputs.
        further: Its further arguments.

    Raises:
        UntraceableError: The network or its inputs are nothing that a chain knows; the message says what.
    """
    if not isinstance(forward_func, nn.Module):
        raise UntraceableError(f"the network must be a torch.nn.Module, got {type(forward_func).__name__}")
    if type(forward_func).__hash__ is None:
        raise UntraceableError(f"{type(forward_func).__name__} has no hash, by which to know it again")
    if len(inputs) != 1 or further:
        raise UntraceableError(f"it must take one tensor, it takes {len(inputs) + len(further)} arguments")
    (x,) = inputs
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        raise UntraceableError(f"the input must be a dense tensor, got {x.layout if isinstance(x, Tensor) else type(x).__name__}")
    if type(x) not in (Tensor, nn.Parameter) or x.ndim != 4 or x.dtype not in (torch.float32, torch.float64):
        kind = f"{type(x).__name__} of {x.dtype} {tuple(x.shape)}"
        raise UntraceableError(f"the input must be a float32 or float64 tensor (B, C, H, W), got {kind}")
    if x.device.type not in ("cpu", "cuda") or (x.is_cuda and importlib.util.find_spec("cupy") is None):
        raise UntraceableError(f"the input must be on the CPU, or on CUDA with CuPy installed, it is on {x.device}")
    # A finite sum, which costs less, tells of finite values; their sum may still overflow.
    if not x.numel() or not (math.isfinite(x.detach().sum()) or bool(x.isfinite().all())):
        raise UntraceableError("the input must have values, and all of them finite")
    if x._backward_hooks:
        raise UntraceableError("the input has hooks, which may do anything")
    if torch.is_autocast_enabled(x.device.type):
        raise UntraceableError("within autocast PyTorch chooses the precision")
    # The memory of a view may hold its negative, of which only PyTorch knows.
    return x.resolve_neg()


def converted(module: nn.Module, x: Tensor) -> Conversion:
    """The chain of a network.

    It is made at the first call, and again when the module's layers, settings, modes, hooks or weights are others than they were.
    It goes when the module goes.

    Args:
        module: The network.
        x: Pictures, as :func:`as_pictures` gives them.

    Raises:
        UntraceableError: The network is nothing that a chain knows; the message says why.
    """
    with _lock:
        try:
            known = _conversions.get(module)
            state, tensors = _look_at(module, known.restless if known is not None else frozenset())
            key, former = _key(x), known.by_picture.get(_key(x)) if known is not None else None
            if known is None or known.state != state or (known.copied and known.contents != _contents(tensors)):
                known = _conversions[module] = _Known(state)
            if key not in known.by_picture:
                with _left_as_it_is(module) as changed:
                    before = _attributes(module)
                    conversion = _convert(module, x.detach())
                    if changed():
                        conversion = f"{type(module).__name__} changes its buffers whenever it runs"
                    known.by_picture[key] = conversion
                    if isinstance(conversion, Conversion) and isinstance(former, Conversion):
                        conversion.take_over(former)
                    if isinstance(conversion, Conversion) and _attributes(module) != before:
                        # What changes at every run, and not the first time only, is none of the settings.
                        before = _attributes(module)
                        with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                            module(x.clone())
                    after = _attributes(module)
                    known.restless |= {name for name, value in after.items() if before.get(name, value) != value}
                known.state, tensors = _look_at(module, known.restless)
                if isinstance(conversion, Conversion) and _holds_copies(conversion, tensors):
                    known.copied, known.contents = True, _contents(tensors)
        except Exception as error:  # A module may fail in any way as it is traced; as it is run plainly, it will say so itself.
            raise UntraceableError(str(error)) from error
    conversion = known.by_picture[key]
    if isinstance(conversion, str):
        raise UntraceableError(conversion)
    return conversion


@contextmanager
def _left_as_it_is(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Undoes what runs change of buffers and attributes, since a question is one run; tells whether buffers change."""
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    settings = [(part, dict(_settings(part))) for part in module.modules()]

    def changed() -> list[tuple[Tensor, Tensor]]:
        # By contents: normalization changes its statistics without counting their versions.
        return [(buffer, content) for buffer, content in kept if _contents([buffer]) != _contents([content])]

    try:
        yield lambda: bool(changed())
    finally:
        with torch.no_grad():
            for buffer, content in changed():
                buffer.copy_(content)
        for part, before in settings:
            vars(part).update(before)


def last_conversion(module: nn.Module, x: Tensor) -> Conversion | None:
    """What a module was converted to when it was last looked at, if it was; the module may have changed since."""
    known = _conversions.get(module)
    conversion = known.by_picture.get(_key(x)) if known is not None else None
    return conversion if isinstance(conversion, Conversion) else None


def _key(x: Tensor) -> Any:
    return tuple(x.shape[1:]), x.dtype, x.device


def _convert(module: nn.Module, x: Tensor) -> Conversion | str:
    """The conversion, or why there is none."""
    differing = next((part for part in module.modules() if part.training and isinstance(part, DIFFER_IN_TRAINING)), None)
    if differing is not None:
        return f"{type(differing).__name__} is in training mode"
    hooked = next((part for part in module.modules() if _has_hooks(part)), None)
    if hooked is not None or _has_any_global_hook():
        return f"{type(module if hooked is None else hooked).__name__} has hooks, which may do anything"
    x = x[:PICTURES]
    differentiable = not any(tensor.is_inference() for tensor in _look_at(module, frozenset())[1])
    output, largest = _run(module, x, differentiable)
    training = any(part.training for part in module.modules())
    try:
        chain, modules, stop, reread = trace_module(module, x, None if training else output)
    except UntraceableError as error:
        return str(error).partition("\n")[0]
    if training and not _gives_outputs_of(module, chain, x):
        return f"{type(module).__name__} gives other outputs in training mode"
    relus = frozenset(path for path, name in modules.items() if isinstance(module.get_submodule(name), nn.ReLU))
    if differentiable and stop is None:
        stop = _own_backward(output)
    reorders = x.device.type == "cpu" and _reorders(module, x, output)
    # Captum's hooks let a ReLU in place work on a clone, so that what it took stays what it was.
    rectified = any(isinstance(module.get_submodule(name), nn.ReLU) for name in reread)
    return Conversion(chain, modules, relus, differentiable, reorders, largest, stop, rectified)


class _Sizes(TorchDispatchMode):
    """Notes the bytes that the largest tensor which an operator returns has for a picture.

    Args:
        pictures: How many there are.
    """

    def __init__(self, pictures: int) -> None:
        super().__init__()
        self.pictures, self.largest = pictures, 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim and len(result) == self.pictures:
            self.largest = max(self.largest, result.nbytes // self.pictures)
        return result


def _run(module: nn.Module, x: Tensor, differentiable: bool) -> tuple[Any, int]:
    """What a module gives, with its way back if there is one, and bytes of the largest tensor."""
    with torch.set_grad_enabled(differentiable), torch.random.fork_rng([x.device] if x.is_cuda else []), _Sizes(len(x)) as sizes:
        return module(x.clone().requires_grad_(differentiable).clone()), sizes.largest


def _own_backward(output: Tensor) -> str | None:
    """Name of a ``torch.autograd.Function`` on the way; one that returns what it takes leaves no trace in a chain."""
    node = output.grad_fn
    met, ahead = {node}, [node]
    while ahead:
        node = ahead.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return str(type(node).__name__.removesuffix("Backward"))
        further = {source for source, _ in node.next_functions if source is not None} - met if node is not None else set()
        met |= further
        ahead += further
    return None


def _reorders(module: nn.Module, x: Tensor, expected: Tensor) -> bool:
    """Whether pictures with their channels together give the same, which ``view`` refuses."""
    with torch.no_grad(), torch.random.fork_rng([]):
        try:
            output = module(x.clone(memory_format=torch.channels_last))
        except RuntimeError:
            return False
        return bool((output - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _has_hooks(part: nn.Module) -> bool:
    if any(map(numbers_of, (part._forward_hooks, part._backward_hooks, part._backward_pre_hooks))):
        return True
    # Those that PyTorch's own utilities have, such as pruning, make weights and do nothing else.
    hooks = (part._forward_pre_hooks.get(number) for number in numbers_of(part._forward_pre_hooks))
    return not all(type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks)


def _gives_outputs_of(module: nn.Module, chain: TraceableGraph, x: Tensor) -> bool:
    """Whether a chain, which knows inference only, gives what the module gives in its mode; code of its own may ask for that."""
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        expected = array_of(module(x.clone()))
    device = chainer.backend.get_device_from_array(expected)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        output = chain(array_of(x)).array
    return output.shape == expected.shape and bool(abs(output - expected).max() <= TOLERANCE * abs(expected).max())


def _look_at(module: nn.Module, restless: frozenset[tuple[int, str]]) -> tuple[list[Any], list[Tensor]]:
    """All that a conversion depends on, equal as long as the module stays what it was; and the tensors that the module holds."""
    state: list[Any] = [bool(_has_any_global_hook())]
    tensors: list[Tensor] = []
    for part in module.modules():
        hooks = part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks
        # Every hook ever registered has a number of its own.
        state += (weakref.ref(part), type(part), getattr(type(part), "forward", None), *map(numbers_of, hooks))
        for name, value in (*_settings(part), *part._parameters.items(), *part._buffers.items()):
            if restless and (id(part), name) in restless:
                continue
            # Most values are plain; this is done at every question.
            state += (name, value if type(value) in PLAIN else _described(value, tensors))
    return state, tensors


def _settings(part: nn.Module) -> list[tuple[str, Any]]:
    """Attributes that are no parameters, buffers or modules."""
    settings = [item for item in vars(part).items() if item[0] not in INTERNAL]
    if numbers_of(part._forward_pre_hooks):  # Where these make weights, every forward pass makes new ones.
        settings = [item for item in settings if not isinstance(item[1], Tensor)]
    return settings


def _attributes(module: nn.Module) -> dict[tuple[int, str], Any]:
    """The settings of all parts, by the part's id and their name."""
    return {(id(part), name): _described(value, []) for part in module.modules() for name, value in _settings(part)}


def _described(value: Any, tensors: list[Tensor], depth: int = 2) -> Any:
    """What can be compared of a value, which isn't kept alive; the tensors in it are added to the list.

    Args:
        value: The value.
        tensors: The list.
        depth: How far to look into objects, such as settings, that objects hold.
    """
    kind = type(value)
    if kind in PLAIN or (kind is tuple and PLAIN.issuperset(map(type, value))):
        return value
    if isinstance(value, Tensor):
        tensors.append(value)
        # A version counts changes in place, but not those by ``.data`` or NumPy. The chain holds the memory, so no other tensor
        # can come to lie at its address.
        version = None if value.is_inference() else value._version
        return value.data_ptr(), version, value.shape, value.stride(), value.dtype
    if isinstance(value, np.ndarray):
        return fingerprint([value])
    if isinstance(value, (tuple, list)):
        return [kind, *(_described(one, tensors, depth) for one in value)]
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(one if type(one) in PLAIN else id(one) for one in value)
    if isinstance(value, dict):
        return [kind, *((id(key), _described(one, tensors, depth)) for key, one in value.items())]
    if depth and hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        return [id(value), *((name, _described(one, tensors, depth - 1)) for name, one in vars(value).items())]
    return id(value)


def _holds_copies(conversion: Conversion, tensors: list[Tensor]) -> bool:
    """Whether some of the chain's arrays aren't the module's memory but were made of it: changes there don't show here."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    spans = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]
    arrays = [array for step in conversion.graph.steps for array in _arrays_of(step.node)]
    places = [array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr for array in arrays]
    return not all(any(start <= place < stop for start, stop in spans) for place in places)


def _contents(tensors: list[Tensor]) -> bytes:
    octets = (tensor.detach().reshape(-1).view(torch.uint8) for tensor in tensors)
    return fingerprint(one.numpy() if one.device.type == "cpu" else sys.modules["cupy"].from_dlpack(one) for one in octets)

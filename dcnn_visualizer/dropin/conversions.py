"""Modules as traceable chains, converted once and kept as long as they stay what they are."""

from __future__ import annotations

import importlib.util
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import torch
from torch import Tensor, nn

from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.torch import trace_module
from dcnn_visualizer.importers.torch_operators import array_of
from dcnn_visualizer.traceable_graph import TraceableGraph

#: Modules that do something else in training than at inference, which is what chains know.
DIFFER_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)
#: How far outputs may be from the module's own, in the mode that it is in, as a share of the largest.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Conversion:
    """A module as a chain.

    Attributes:
        chain: The chain, which shares the module's weights.
        modules: By path, in the order of their calls, the qualified names of the modules that its layers are.
        relus: Paths of those that are ``nn.ReLU``.
    """

    chain: TraceableGraph
    modules: dict[str, str]
    relus: frozenset[str]

    def index(self, module: nn.Module, layer: nn.Module, of_input: bool) -> int:
        """Index of the step whose output is what a layer returns, or takes, in its last call.

        Args:
            module: The module that was converted.
            layer: A module in it.
            of_input: Whether what it takes is asked for.

        Raises:
            UntraceableError: The chain has no such step.
        """
        graph = self.chain.graph()
        calls = [path for path, name in self.modules.items() if module.get_submodule(name) is layer]
        if calls:
            index = graph.index(calls[-1])
            return graph.steps[index].inputs[0] if of_input else index
        name = next((name.replace(".", "/") for name, part in module.named_modules() if part is layer), None)
        if name is None or name not in graph.layers or f"{name}_2" in graph.layers or of_input:
            raise UntraceableError(f"what the layer {type(layer).__name__} {'takes' if of_input else 'returns'} can't be traced")
        return graph.index(name)

    def overrides_as_captum(self) -> bool:
        """Whether no step but the ReLU takes what a ReLU takes; Captum overrides all of the gradient there."""
        steps = self.chain.graph().steps
        taken = [source for step in steps for source in step.inputs]
        return all(taken.count(step.inputs[0]) == 1 for step in steps if step.path in self.relus)


_conversions: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, Conversion | str]]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def converted(forward_func: Callable[..., Any], inputs: Sequence[Tensor], further: Sequence[Any]) -> Conversion:
    """The chain of a network that is asked about one batch of pictures.

    It is made at the first call, and again when the module's layers, modes, hooks or weights are others than they were. It goes
    when the module goes.

    Args:
        forward_func: The network.
        inputs: Its inputs.
        further: Its further arguments.

    Raises:
        UntraceableError: The network or its inputs are nothing that a chain knows; the message says what.
    """
    if not isinstance(forward_func, nn.Module):
        raise UntraceableError(f"the network must be a torch.nn.Module, got {type(forward_func).__name__}")
    if len(inputs) != 1 or further:
        raise UntraceableError(f"it must take one tensor, it takes {len(inputs) + len(further)} arguments")
    (x,) = inputs
    _check_picture(x)
    with _lock:
        try:
            state = _state_of(forward_func)
            known, by_picture = _conversions.get(forward_func, (None, {}))
            if state != known:
                by_picture = {}
                _conversions[forward_func] = state, by_picture
            key = (tuple(x.shape[1:]), x.dtype, x.device)
            if key not in by_picture:
                by_picture[key] = _convert(forward_func, x.detach())
        except Exception as error:  # A module may fail in any way as it is traced; as it is run plainly, it will say so itself.
            raise UntraceableError(str(error)) from error
    conversion = by_picture[key]
    if isinstance(conversion, str):
        raise UntraceableError(conversion)
    return conversion


def _check_picture(x: Tensor) -> None:
    if type(x) not in (Tensor, nn.Parameter) or x.ndim != 4 or x.dtype not in (torch.float32, torch.float64):
        kind = f"{type(x).__name__} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise UntraceableError(f"the input must be a float32 or float64 tensor (B, C, H, W), got {kind} {tuple(x.shape)}")
    if not x.numel() or not bool(x.isfinite().all()):
        raise UntraceableError("the input must have values, and all of them finite")
    if x.device.type not in ("cpu", "cuda") or (x.is_cuda and importlib.util.find_spec("cupy") is None):
        raise UntraceableError(f"the input must be on the CPU, or on CUDA with CuPy installed, it is on {x.device}")
    if torch.is_autocast_enabled(x.device.type):
        raise UntraceableError("within autocast PyTorch chooses the precision")


def _convert(module: nn.Module, x: Tensor) -> Conversion | str:
    """The conversion, or why there is none."""
    differing = next((part for part in module.modules() if part.training and isinstance(part, DIFFER_IN_TRAINING)), None)
    if differing is not None:
        return f"{type(differing).__name__} is in training mode"
    try:
        chain, modules = trace_module(module, x)
    except UntraceableError as error:
        return str(error).partition("\n")[0]
    if any(part.training for part in module.modules()) and not _gives_outputs_of(module, chain, x):
        return f"{type(module).__name__} gives other outputs in training mode"
    relus = frozenset(path for path, name in modules.items() if isinstance(module.get_submodule(name), nn.ReLU))
    return Conversion(chain, modules, relus)


def _gives_outputs_of(module: nn.Module, chain: TraceableGraph, x: Tensor) -> bool:
    """Whether a chain, which knows inference only, gives what the module gives in its mode; code of its own may ask for that."""
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        expected = array_of(module(x.clone()))
    device = chainer.backend.get_device_from_array(expected)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        output = chain(array_of(x)).array
    return output.shape == expected.shape and bool(abs(output - expected).max() <= TOLERANCE * abs(expected).max())


def _state_of(module: nn.Module) -> Any:
    """All that a conversion depends on; equal as long as the module stays what it was."""

    def describe(part: nn.Module) -> Any:
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        return weakref.ref(part), part.training, part.extra_repr(), "forward" in vars(part), *map(len, hooks)

    def look_at(tensor: Tensor) -> Any:
        # The chain holds the memory, so no other tensor can come to lie at its address.
        version = None if tensor.is_inference() else tensor._version
        return tensor.data_ptr(), version, tensor.shape, tensor.stride(), tensor.dtype, tensor.device

    tensors = itertools.chain(module.parameters(), module.buffers())
    return [describe(part) for part in module.modules()], [look_at(tensor) for tensor in tensors]

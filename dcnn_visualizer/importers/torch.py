"""PyTorch modules as traceable chains."""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from dcnn_visualizer.importers import torch_operators as operators
from dcnn_visualizer.importers.assembly import Assembly
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.torch_operators import Converted, Derived, Pieces, Value, array_of
from dcnn_visualizer.traceable_graph import TraceableGraph

#: How far the chain's output for the example may be from the module's, as a share of its largest value. A different network is
#: further off; rounding stays below, even where PyTorch multiplies in TF32.
TOLERANCE = 1e-2


#: Pictures of the example that a module is run on. Of two, the batch's axis can't be taken for one of a single place.
PICTURES = 2


def from_torch(module: nn.Module, example: torch.Tensor) -> TraceableGraph:
    """Makes a traceable chain of a PyTorch module, with equal outputs at inference and the very same weights.

    The module is traced by ``torch.fx``, so its ``forward`` may do anything with tensors but decide by their values or
    shapes. Any directed acyclic graph of these comes through: convolution, linear layers, batch and local response
    normalization, the ReLU family, smooth activations, max, average and adaptive pooling, dropout, sums, products,
    concatenation, padding, softmax, and whatever only reshapes. Operators without a rule of their own in DeconvNet and DeSaliNet
    (smooth activations, products, softmax) go back by their gradient in every method.

    Layers have the module's qualified names with ``/`` for ``.``: ``layer1/0/conv1``. A functional operator is named after
    itself within the module that calls it, ``layer1/0/add``; the second use of a module or of a name ends in ``_2``. The name of
    a module that holds others, ``layer1/0``, names its output. Layers that the output doesn't need are left out.

    Weights are taken over without a copy: the chain's arrays are the memory of the module's tensors, so changes made there in
    place show here. Weights that ``forward`` computes, such as those of a parametrization, and constants that it subtracts or
    divides by are taken at their present values.

    Args:
        module: The module; left as it is, in training mode too.
        example: Pictures of shape (B, C, H, W) on the module's device, in its dtype, to run it on the first two. Sizes of windows
            and vectors follow from them where the module doesn't say them.

    Returns:
        The chain. It picks the last layer's output.

    Raises:
        TypeError: No module, or no tensor.
        ValueError: The example has another rank, or isn't finite.
        UntraceableError: An operator isn't supported, named with its place in the module; or the module can't be traced, takes or
            returns something other than one tensor, or gives other outputs than its layers do, as with hooks.
    """
    return trace_module(module, example).chain


class Traced(NamedTuple):
    """A module as a chain, and where its layers come from.

    Attributes:
        chain: The chain.
        modules: By path, in the order of their calls, the qualified names of the modules that its layers are. Operators that
            were called as functions, and layers that the output doesn't need, aren't among them.
        stop: A place that PyTorch's gradients don't pass, or pass by a rule of their own, if there is any: ``detach``, what runs
            within ``no_grad``, and the forward pass of a ``torch.autograd.Function``. The chain's gradients pass it.
        reread: Qualified names of modules that change in place what they take, where it is used after that as what they gave.
    """

    chain: TraceableGraph
    modules: dict[str, str]
    stop: str | None
    reread: frozenset[str]


def trace_module(module: nn.Module, example: torch.Tensor, expected: Any = None) -> Traced:
    """Makes a traceable chain as :func:`from_torch` does, and says where its layers come from.

    Args:
        module: The module.
        example: Pictures of shape (B, C, H, W).
        expected: What the module gives for them at inference, where that's known; None to run it.

    Raises:
        TypeError: As :func:`from_torch`.
        ValueError: As :func:`from_torch`.
        UntraceableError: As :func:`from_torch`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if not isinstance(example, torch.Tensor):
        raise TypeError(f"example must be a torch.Tensor, got {type(example).__name__}")
    if example.ndim != 4 or not example.numel() or not bool(example.isfinite().all()):
        raise ValueError(f"example must be finite, of shape (B, C, H, W), got shape {tuple(example.shape)}")
    array_of(example)
    defaults = _defaults(module)
    with torch.no_grad(), _inference(module):
        if expected is None:
            expected = module(example[:PICTURES].clone())
        if not isinstance(expected, torch.Tensor):
            raise UntraceableError(f"the module returns a {type(expected).__name__}; it must return one tensor")
        example, expected = example[:PICTURES], expected[:PICTURES]
        tracer = _Tracer(example.device)
        with _unchanged(module):
            graph = _trace(tracer, module, defaults)
            importer = _Importer(module, graph, example.clone(), tracer.without_gradients)
            chain = importer.chain(tracer.returned)
    _check_output(chain, example, expected)
    modules = {path: name for path, name in importer.modules.items() if path in chain.layer_names}
    return Traced(chain, modules, importer.stop, frozenset(importer.reread))


@contextmanager
def _inference(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Takes away what tracing leaves in a module: tensors that ``forward`` makes become attributes, or lie in a dictionary."""
    own = set(vars(module))
    dictionaries = [value for part in module.modules() for value in vars(part).values() if type(value) is dict]
    contents = [dict(value) for value in dictionaries]
    try:
        yield
    finally:
        for name in set(vars(module)) - own:
            delattr(module, name)
        for value, content in zip(dictionaries, contents, strict=True):
            if value.keys() != content.keys() or any(value[key] is not content[key] for key in content):
                value.clear()
                value.update(content)


def _in_place(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


class _Proxy(fx.Proxy):
    """A tensor that is traced; unlike fx's own it tells ``x += y`` from ``x = x + y``."""

    __iadd__, __isub__ = _in_place(operator.iadd), _in_place(operator.isub)
    __imul__, __itruediv__ = _in_place(operator.imul), _in_place(operator.itruediv)

    @property
    def device(self) -> torch.device:
        # By which modules keep tensors, and which is the same throughout.
        return self.tracer.device


#: Operators of Python's own whose names differ from those of the functions they stand for.
_PLAIN_NAMES = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"}
#: Methods and functions that pass no gradients.
_DETACHING = ("detach", "detach_", torch.detach)


class _Tracer(fx.Tracer):
    """Notes what each call of a module returned.

    Args:
        device: Where all tensors are.

    Attributes:
        returned: Name of the module and what makes its output, in the order in which calls ended.
        in_threads: Whether modules were called in threads of the module's own.
        without_gradients: Steps within ``no_grad``, or within the forward pass of a ``torch.autograd.Function``.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(autowrap_functions=operators.named_functions())
        self.device = device
        self.returned: list[tuple[str, fx.Node]] = []
        self.in_threads = False
        self.without_gradients: set[fx.Node] = set()
        self._thread = threading.get_ident()
        self._names: dict[int, str] = {}

    def trace(self, root: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        # fx goes through all parameters for each that it meets.
        self._names = {id(tensor): name for name, tensor in (*root.named_buffers(), *root.named_parameters())}
        return super().trace(root, concrete_args)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and (name := self._names.get(id(a))):
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.without_gradients.add(node)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        place = next(reversed(self.module_stack.values()), ("", None))[0]
        raise fx.proxy.TraceError(f"{place or 'its own forward'} decides by the values or the size of what it takes")

    # While fx traces, all calls and attributes of modules come here: also those of other threads, which are none of its business.

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        name = self._names.get(id(attr_val)) if isinstance(attr_val, nn.Parameter) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            self.in_threads |= any(isinstance(value, fx.Proxy) for value in tree_leaves((args, kwargs)))
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.returned.append((self.path_of_module(m), output.node))
        return output


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Defaults of the arguments that ``forward`` takes besides the pictures."""
    required, defaults = [], {}
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            required.append(name)
    # A single argument may have a default too.
    if not required and defaults:
        defaults.pop(next(iter(defaults)))
    elif len(required) != 1:
        raise UntraceableError(f"{type(module).__name__}.forward must take one tensor, it takes {required}")
    return defaults


def _trace(tracer: _Tracer, module: nn.Module, defaults: dict[str, Any]) -> fx.Graph:
    try:
        with torch.enable_grad():
            graph = tracer.trace(module, concrete_args=defaults or None)
    except Exception as error:  # The module's own code may meet fx's proxies in any way.
        raise UntraceableError(f"torch.fx can't trace {type(module).__name__}: {error}") from error
    if tracer.in_threads:
        raise UntraceableError(f"{type(module).__name__} runs in threads of its own")
    return graph


class _Importer:
    """Runs a traced graph on an example, step by step, and notes the layer that each step amounts to.

    Args:
        module: The module that was traced.
        graph: What it does.
        example: Pictures, which may be changed in place.
        without_gradients: Steps whose gradients aren't their own.

    Attributes:
        modules: Qualified names of the modules that layers are, by the layers' paths.
        stop: The first step whose gradients aren't its own, if there is any.
        reread: Qualified names of modules that changed what they took, where it was used after that.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, example: torch.Tensor, without_gradients: set[fx.Node]) -> None:
        self._module, self._graph, self._example = module, graph, example
        self._without_gradients = without_gradients
        self.stop: str | None = None
        self.reread: set[str] = set()
        self._picture = next(node for node in graph.nodes if node.op == "placeholder")
        names = [name.replace(".", "/") for name, _ in module.named_modules(remove_duplicate=False)]
        self._layers = Assembly(self._picture, reserved=names)
        self.modules: dict[str, str] = {}
        self._values: dict[fx.Node, Any] = {}
        # Steps that the picture bears on.
        self._dependent = {self._picture}
        # A tensor changed in place is from then on what the step that changed it gave, and tensors that see part of its memory
        # are nothing that a graph could tell.
        self._changed: dict[fx.Node, fx.Node] = {}
        self._overwritten: dict[fx.Node, fx.Node] = {}
        self._versions: dict[fx.Node, int] = {}
        # Steps by the memory of what they gave.
        self._sharing: dict[int, list[fx.Node]] = {}
        self._pieces: dict[fx.Node, Pieces] = {}
        for node in graph.nodes:
            if node.op != "output":
                self._take(node)

    def chain(self, blocks: list[tuple[str, fx.Node]]) -> TraceableGraph:
        """What was noted, as a chain.

        Args:
            blocks: Names of modules and what they returned.
        """
        (returned,) = next(node for node in self._graph.nodes if node.op == "output").args
        composites = [(name.replace(".", "/"), node) for name, node in blocks if (node.op, node.target) != ("call_module", name)]
        for path, _ in composites:
            self._layers.claim(path)
        return self._layers.finish(self._latest(returned), composites)

    def _take(self, n: fx.Node) -> None:
        """Runs one step and notes its layer."""
        dependent = any(source in self._dependent for source in n.all_input_nodes)
        try:
            # Before it runs, for it may change them.
            arguments = fx.map_arg((n.args, n.kwargs), self._argument) if dependent else ((), {})
            value = self._values[n] = self._run(n)
            if dependent and not isinstance(value, torch.dtype):
                self._dependent.add(n)
                parted = n.target in operators.SPLITS and isinstance(arguments[0][0], Value | Pieces)
                if isinstance(value, torch.Tensor) or parted:
                    if self.stop is None and (n in self._without_gradients or n.target in _DETACHING):
                        self.stop = self._place(n)
                    self._add(n, value, *arguments)
        except (UntraceableError, TypeError) as error:
            raise UntraceableError(f"{self._place(n)}: {error}") from error
        self._note_changes(n, value)

    def _run(self, n: fx.Node) -> Any:
        args, kwargs = fx.map_arg((n.args, n.kwargs), self._values.__getitem__)
        match n.op:
            case "placeholder":
                # Arguments beyond the picture have their defaults.
                return self._example if n is self._picture else args[0]
            case "get_attr":
                return functools.reduce(getattr, n.target.split("."), self._module)
            case "call_function":
                return n.target(*args, **kwargs)
            case "call_method":
                return getattr(args[0], n.target)(*args[1:], **kwargs)
            case "call_module":
                return self._module.get_submodule(n.target)(*args, **kwargs)
        raise AssertionError(n.op)

    def _argument(self, node: fx.Node) -> Any:
        """What a converter gets for an argument that another step made."""
        value = self._values[node]
        if node not in self._dependent:
            return value
        if node in self._pieces:
            return self._pieces[node]
        if isinstance(value, torch.Tensor):
            latest = self._latest(node)
            if latest in self._overwritten:
                writer = self._place(self._overwritten[latest])
                raise UntraceableError(f"{self._place(node)} is used after {writer} has written in its memory")
            return Value(latest, tuple(value.shape))
        if any(isinstance(part, torch.Tensor) for part in tree_leaves(value)):
            raise UntraceableError(f"{self._place(node)} isn't supported")
        return Derived(value, *self._shape_of(node))

    def _shape_of(self, node: fx.Node) -> tuple[Value | None, int | None]:
        """The tensor whose shape a step gives, and the axis if it's one size; None of what was calculated."""
        value = self._values[node]
        source, *arguments = node.args or (None,)
        if not isinstance(source, fx.Node) or source not in self._dependent:
            return None, None
        if (node.target is getattr and arguments == ["shape"]) or node.target == "size":
            tensor = self._values[source]
            axis = next((axis % tensor.ndim for axis in arguments if isinstance(axis, int)), None)
            return Value(self._latest(source), tuple(tensor.shape)), axis
        if node.target is operator.getitem and isinstance(value, int) and isinstance(arguments[0], int):
            of, _ = self._shape_of(source)
            return of, None if of is None else arguments[0] % len(of.shape)
        return None, None

    def _latest(self, node: fx.Node) -> fx.Node:
        while node in self._changed:
            node = self._changed[node]
            if node.op == "call_module":
                self.reread.add(node.target)
        return node

    def _note_changes(self, n: fx.Node, value: Any) -> None:
        taken = {_memory(self._values[source]) for source in n.all_input_nodes if source in self._versions}
        for earlier in itertools.chain.from_iterable(self._sharing[memory] for memory in taken):
            tensor = self._values[earlier]
            if tensor._version == self._versions[earlier]:
                continue
            self._versions[earlier] = tensor._version
            whole = isinstance(value, torch.Tensor) and (value.shape, value.stride()) == (tensor.shape, tensor.stride())
            if whole and value.data_ptr() == tensor.data_ptr():
                if earlier not in self._changed:
                    self._changed[earlier] = n
            else:
                self._overwritten[earlier] = n
        if isinstance(value, torch.Tensor) and n in self._dependent:
            self._versions[n] = value._version
            self._sharing.setdefault(_memory(value), []).append(n)

    def _add(self, n: fx.Node, value: Any, args: Any, kwargs: Any) -> None:
        """Notes the layer that a step amounts to."""
        if n.target in operators.SPLITS and not isinstance(value, torch.Tensor):
            self._pieces[n] = operators.SPLITS[n.target](*args, **kwargs, outputs=value)
            return
        converted = self._convert(n, value, args, kwargs)
        if isinstance(converted, Pieces):
            self._pieces[n] = converted
            return
        node, sources = converted
        if not all(isinstance(source, Value) for source in sources):
            raise UntraceableError("it isn't supported on a constant")
        if value.dtype != self._example.dtype:
            raise UntraceableError(f"it gives {value.dtype} of pictures in {self._example.dtype}")
        path = self._path(n)
        if n.op == "call_module":
            self._layers.claim(path)
        path = self._layers.add(n, path, node, [source.origin for source in sources])
        if n.op == "call_module":
            self.modules[path] = n.target

    def _convert(self, n: fx.Node, value: torch.Tensor, args: Any, kwargs: Any) -> Converted | Pieces:
        if n.op == "call_module":
            module = self._module.get_submodule(n.target)
            if isinstance(module, operators.RESHAPING_MODULES):
                return operators.reshape(args[0], tuple(value.shape))
            for base in type(module).__mro__:
                if base in operators.MODULES and type(module).forward is base.forward:  # type: ignore[attr-defined]
                    return operators.MODULES[base](module, *args, **kwargs)
            raise UntraceableError("this module isn't supported")
        if n.target in operators.RESHAPES:
            sizes = operators.sizes_of((*args[1:], *kwargs.values())) if n.target in operators.SHAPED else ()
            return operators.reshape(args[0], tuple(value.shape), sizes)
        if n.target in operators.SHAPED_LIKE:
            like = args[1]
            return operators.reshape(args[0], tuple(value.shape), operators.sizes_of([Derived(like.shape, like)]))
        name = f"{getattr(n.target, '__module__', '')}.{getattr(n.target, '__name__', '')}"
        converter = operators.FUNCTIONS.get(n.target) or operators.FUNCTIONS.get(name)
        if converter is None:
            raise UntraceableError("this operator isn't supported")
        if converter is operators.permute and len(args) > 2:
            args = (args[0], args[1:])
        if converter is not operators.getitem and any(isinstance(one, Pieces) for one in tree_leaves((args, kwargs))):
            raise UntraceableError("it takes several pieces at once, or a tensor whose batch isn't the first axis")
        if converter not in operators.SIZED and any(isinstance(one, Derived) for one in tree_leaves((args, kwargs))):
            raise UntraceableError("its arguments depend on the size of the picture")
        return converter(*args, **kwargs)

    def _path(self, n: fx.Node) -> str:
        if n.op == "call_module":
            return n.target.replace(".", "/")
        # fx names steps after their operators: "relu_", and the second "relu__1".
        name = re.sub(r"_\d+$", "", n.name).rstrip("_")
        name = _PLAIN_NAMES.get(name, name)
        return "/".join([*self._caller(n).split("."), name] if self._caller(n) else [name])

    def _place(self, n: fx.Node) -> str:
        if n.op == "call_module":
            return f"{n.target} ({type(self._module.get_submodule(n.target)).__name__})"
        return f"{re.sub(r'_[0-9]+$', '', n.name)} in {self._caller(n) or 'the outermost module'}"

    @staticmethod
    def _caller(n: fx.Node) -> str:
        """Name of the module whose ``forward`` takes this step."""
        stack = list((n.meta.get("nn_module_stack") or {}).values())
        return stack[-1][0] if stack else ""


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _check_output(chain: TraceableGraph, example: torch.Tensor, expected: torch.Tensor) -> None:
    picture = array_of(example)
    device = chainer.backend.get_device_from_array(picture)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        output = chain(picture).array
    wanted = array_of(expected)
    if output.shape != wanted.shape or not abs(output - wanted).max() <= TOLERANCE * abs(wanted).max():
        raise UntraceableError(
            "the module gives other outputs than its layers do: hooks, or tensors changed in place, may be why; "
            f"they give {output.shape}, the module {wanted.shape}"
        )

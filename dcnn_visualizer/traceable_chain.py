"""TraceableChain: layers in a row, and the composite blocks that hold chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.arrays import FLOAT_DTYPES, Array, backend_of
from dcnn_visualizer.evaluation import evaluate
from dcnn_visualizer.graph import PICTURE, Graph, is_composite, no_layer
from dcnn_visualizer.layer_table import layer_list
from dcnn_visualizer.traceable_nodes import Add, Concatenate

#: One node for all, by which a recording tells that its graph is still the same.
_JOINING = Concatenate()


def _kernels_serve(array: Array) -> bool:
    # Chainer's half precision on the CPU stays with Chainer, and so do its other array kinds.
    if isinstance(array, np.ndarray):
        return array.dtype in FLOAT_DTYPES
    try:
        return backend_of(array) == "cuda"
    except TypeError:
        return False


class _GraphChain(chainer.Chain):
    """A chain whose forward pass is a walk over its graph."""

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds the layers to a graph; see :class:`~dcnn_visualizer.graph.Composite`."""
        raise NotImplementedError

    def graph(self) -> Graph:
        """The chain as one flat graph, made anew at every call, so it is never out of date."""
        graph = Graph()
        graph.layers[""] = self.add_to_graph(graph, "", PICTURE)
        return graph

    def __repr__(self) -> str:
        """Its layers as a table, in order, those within blocks included."""
        try:
            graph = self.graph()
        except ValueError as error:
            return f"{type(self).__name__}: {error}"
        return f"{type(self).__name__} of {len(graph.steps)} layers\n{layer_list(graph)}"

    def __str__(self) -> str:
        """The same; Chainer's own leaves out what has no weights, and sorts by name."""
        return repr(self)

    def forward(self, x: Any) -> Any:
        """Applies the chain.

        Args:
            x: Variable or array of shape (B, C, H, W).

        Returns:
            The last layer's output, a Variable.
        """
        return self._evaluate(x, [""])[0]

    def _evaluate(self, x: Any, paths: Sequence[str]) -> list[chainer.Variable]:
        graph = self.graph()
        targets = [graph.index(path) for path in paths]
        x = chainer.as_variable(x)
        if not chainer.config.enable_backprop and _kernels_serve(x.array):
            return [chainer.Variable(y, requires_grad=False) for y in evaluate(graph, x.array, targets)]
        return graph.evaluate(x, targets, lambda node, *inputs: node(*inputs))


class TraceableChain(_GraphChain):
    """Layers in a row, each a link, a traceable node or any callable, in the order in which ``init_scope`` saw them.

    It is a ``chainer.Chain`` in every respect. With gradients on, a forward pass is Chainer's own; with gradients off
    (``chainer.no_backprop_mode()``) it runs through the kernels. Chains may hold chains.

    As in chainercv's ``PickableSequentialChain``, ``pick`` chooses what a call returns: one layer's output, a tuple of
    several, or with None the last. A chain that was never told picks all its layers.

    Example:
        >>> class Net(TraceableChain):
        ...     def __init__(self):
        ...         super().__init__()
        ...         with self.init_scope():
        ...             self.conv1 = TraceableConvolution2D(3, 10, 3)
        ...             self.relu1 = TraceableReLU()

    Args:
        **layers: Layers by name, in order; more are added within ``init_scope``.

    Attributes:
        layer_names: Names of the layers, in order.
    """

    def __init__(self, **layers: Any) -> None:
        super().__init__()
        self.layer_names: list[str] = []
        self._pick: str | tuple[str, ...] | EllipsisType | None = ...
        with self.init_scope():
            for name, layer in layers.items():
                if not callable(layer):
                    raise TypeError(f"layer {name!r} must be callable, got {layer!r}")
                setattr(self, name, layer)

    def __setattr__(self, name: str, value: Any) -> None:
        """Registers a callable set within ``init_scope`` as the next layer.

        Raises:
            TypeError: A class instead of a layer.
            ValueError: The name can't be part of a path.
        """
        registers = callable(value) and self.within_init_scope
        if registers:
            self._check_name(name)
            if isinstance(value, type):
                raise TypeError(f"layer {name!r} must be a layer, got the class {value.__name__}: write {value.__name__}(...)")
        super().__setattr__(name, value)
        if registers and name not in self.layer_names:
            self.layer_names.append(name)

    def __delattr__(self, name: str) -> None:
        """Takes a layer out of the row.

        Raises:
            AttributeError: The layer, or one within it, is picked by name.
        """
        if self._pick not in (..., None) and name in map(self._owner, self._picked()):
            raise AttributeError(f"layer {name!r} is picked; change pick first")
        super().__delattr__(name)
        if name in self.layer_names:
            self.layer_names.remove(name)

    def __getitem__(self, path: str) -> Any:
        """The layer of a name or path, ``chain["block3/project"]``.

        Raises:
            KeyError: There is no such layer.
        """
        name = self._owner(path)
        if name not in self.layer_names:
            raise KeyError(no_layer(name, self.layer_names))
        layer: Any = getattr(self, name)
        if not path.startswith(f"{name}/"):
            return layer
        if not is_composite(layer):
            raise KeyError(f"no layer {path!r}: {name!r} is a single layer")
        return layer[path.removeprefix(f"{name}/")]

    def __contains__(self, path: object) -> bool:
        """Whether there is a layer of a name or path."""
        return isinstance(path, str) and bool(path) and path in self.graph().layers

    #: Python would ask for layers number 0, 1, and so on.
    __iter__ = None

    def _owner(self, path: str) -> str:
        """Name of the layer that a path names, or within which it names one."""
        return path.partition("/")[0]

    @property
    def pick(self) -> str | tuple[str, ...] | None:
        """Names of the layers that a call returns; None for the last alone."""
        return tuple(self.layer_names) if self._pick is ... else self._pick

    @pick.setter
    def pick(self, pick: str | Iterable[str] | None) -> None:
        chosen = pick if pick is None or isinstance(pick, str) else tuple(pick)
        graph = self.graph()
        for name in () if chosen is None else (chosen,) if isinstance(chosen, str) else chosen:
            if name not in graph.layers:
                raise ValueError(no_layer(name, graph.layers))
        self._pick = chosen

    def _picked(self) -> tuple[str, ...]:
        pick = self.pick
        return (self.layer_names[-1],) if pick is None else (pick,) if isinstance(pick, str) else pick

    def remove_unused(self) -> None:
        """Deletes the layers behind the last picked one."""
        names = set(map(self._owner, self._picked()))
        last = max(self.layer_names.index(name) for name in names)
        for name in self.layer_names[last + 1 :]:
            delattr(self, name)

    def copy(self, mode: str = "share") -> TraceableChain:
        """A copy with its own list of layers; ``mode`` as in ``chainer.Link.copy``."""
        copied = super().copy(mode)
        copied.layer_names = list(self.layer_names)
        return copied

    @staticmethod
    def _check_name(name: str) -> None:
        if "/" in name:
            raise ValueError(f"a layer's name must not contain '/', which parts paths, got {name!r}")

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds the layers to a graph, in a row.

        Raises:
            ValueError: The chain has no layers.
        """
        if not self.layer_names:
            raise ValueError(f"{type(self).__name__} {path!r} has no layers: set them within init_scope")
        prefix = f"{path}/" if path else ""
        for name in self.layer_names:
            source = graph.add_layer(getattr(self, name), prefix + name, source)
        return source

    def forward(self, x: Any) -> chainer.Variable | tuple[chainer.Variable, ...]:
        """Runs the layers up to the last picked one.

        Args:
            x: Variable or array of shape (B, C, H, W).

        Returns:
            A Variable, or a tuple of them, as ``pick`` says.
        """
        outputs = self._evaluate(x, self._picked())
        return tuple(outputs) if isinstance(self.pick, tuple) else outputs[0]


class TraceableResidual(_GraphChain):
    """body(x) + shortcut(x), as in ResNet (He et al., CVPR 2016).

    The body's layers are addressed directly under the block (``"block3/project"``), the shortcut's under ``shortcut``
    (``"block3/shortcut/conv"``), and the block's own path names the sum.

    Args:
        body: A chain, or a single layer, then addressed as ``body``.
        shortcut: A chain or a single layer; None for the identity.
    """

    def __init__(self, body: Any, shortcut: Any = None) -> None:
        super().__init__()
        if not callable(body) or not (shortcut is None or callable(shortcut)):
            raise TypeError(f"body and shortcut must be layers, got {body!r} and {shortcut!r}")
        with self.init_scope():
            self.body = body
            self.shortcut = shortcut

    def __getitem__(self, path: str) -> Any:
        """The layer of a path within the block."""
        name, _, rest = path.partition("/")
        if name == "shortcut" and self.shortcut is not None:
            return self.shortcut[rest] if rest else self.shortcut
        if isinstance(self.body, _GraphChain):
            return self.body[path]
        if path == "body":
            return self.body
        raise KeyError(f"no layer {path!r} in the residual block")

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds both branches and their sum to a graph."""
        prefix = f"{path}/" if path else ""
        if is_composite(self.body):
            body = self.body.add_to_graph(graph, path, source)
        else:
            body = graph.add_layer(self.body, f"{prefix}body", source)
        if self.shortcut is not None:
            if f"{prefix}shortcut" in graph.layers:
                raise ValueError(f"a layer of the body of {path!r} is named 'shortcut', as the other branch is")
            source = graph.add_layer(self.shortcut, f"{prefix}shortcut", source)
        return graph.add(path, Add(), (body, source))


class TraceableParallel(_GraphChain):
    """Branches side by side, their outputs concatenated along the channels, as in Inception (Szegedy et al., CVPR 2015).

    A branch's layers are addressed under its name (``"mixed/pool/conv"``), and the block's own path names the concatenation.

    Args:
        *unnamed: Branches named ``"0"``, ``"1"``, …: chains, single layers, or None for the identity.
        **branches: Branches by name, which follow the unnamed ones.
    """

    def __init__(self, *unnamed: Any, **branches: Any) -> None:
        super().__init__()
        branches = {**{str(i): branch for i, branch in enumerate(unnamed)}, **branches}
        if not branches:
            raise ValueError("TraceableParallel needs at least one branch")
        self.branch_names = list(branches)
        with self.init_scope():
            for name, branch in branches.items():
                if branch is not None and not callable(branch):
                    raise TypeError(f"branch {name!r} must be a layer or None, got {branch!r}")
                setattr(self, name, branch)

    def __getitem__(self, path: str) -> Any:
        """The layer of a path within the block."""
        name, _, rest = path.partition("/")
        if name not in self.branch_names:
            raise KeyError(no_layer(name, self.branch_names, "branch"))
        return getattr(self, name)[rest] if rest else getattr(self, name)

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds the branches and their concatenation to a graph."""
        prefix = f"{path}/" if path else ""
        outputs = []
        for name in self.branch_names:
            branch = getattr(self, name)
            outputs.append(source if branch is None else graph.add_layer(branch, prefix + name, source))
        return graph.add(path, _JOINING, tuple(outputs))

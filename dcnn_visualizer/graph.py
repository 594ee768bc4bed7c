"""What a chain is inside: steps in topological order, each a node with named inputs.

Nested chains, residual and parallel blocks flatten into one graph, so whatever walks over it (the forward pass, the way
back, receptive fields) is written once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeGuard

from dcnn_visualizer.traceable_nodes import PassedOver, TraceableNode

#: The index that stands for the picture itself among a step's inputs.
PICTURE = -1
#: Names that a message lists; of more it tells the first and the last.
LISTED = 16


class Step(NamedTuple):
    """One node in its place.

    Attributes:
        path: The layer's path, ``"block3/project"``.
        node: What it does.
        inputs: Indices of the steps whose outputs it takes; ``PICTURE`` for the picture.
    """

    path: str
    node: TraceableNode
    inputs: tuple[int, ...]


class Composite(Protocol):
    """A layer made of layers: a chain, a residual or a parallel block."""

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds its layers to a graph.

        Args:
            graph: The graph to add to.
            path: The composite's own path; ``""`` for the outermost.
            source: Index of its input.

        Returns:
            The index of its output.
        """
        ...

    def __getitem__(self, path: str) -> Any:
        """The layer of a path within it."""
        ...


def is_composite(layer: Any) -> TypeGuard[Composite]:
    """Whether a layer is made of layers."""
    # To ask the protocol itself takes Python a hundred times as long.
    return hasattr(layer, "add_to_graph")


def no_layer(path: str, names: Iterable[str], kind: str = "layer") -> str:
    """What to say to whoever asks for a layer that isn't there: the nearest names, and what there is.

    Args:
        path: The name asked for.
        names: Those there are, in order; empty ones are left out.
        kind: What they are names of.
    """
    known = [name for name in names if name]
    by_lower = {name.lower(): name for name in reversed(known)}
    near = [by_lower[name] for name in difflib.get_close_matches(path.lower(), by_lower)]
    guess = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    few = len(known) <= LISTED
    there = ", ".join(map(repr, known)) if few else f"{len(known)}, from {known[0]!r} to {known[-1]!r}"
    return f"no {kind} {path!r}; {guess}there are {there or 'none'}"


def check_traceable(model: Any) -> None:
    """Raises TypeError unless a model is a TraceableChain, or one of the blocks that are made of layers."""
    if not callable(getattr(model, "graph", None)):
        raise TypeError(
            f"model must be a TraceableChain, got {type(model).__name__}; dcnn_visualizer.importers turns other chains into one"
        )


class Graph:
    """Steps in topological order.

    Attributes:
        steps: The steps; each takes the outputs of earlier ones only.
        layers: Index of the step that a path names. A composite's path names its last step.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.layers: dict[str, int] = {}
        # One question asks for the same several times.
        self._ancestors: dict[frozenset[int], list[int]] = {}

    def add(self, path: str, node: TraceableNode, inputs: tuple[int, ...]) -> int:
        """Adds one node and returns its index."""
        self.steps.append(Step(path, node, inputs))
        self.layers[path] = len(self.steps) - 1
        return self.layers[path]

    def add_layer(self, layer: Any, path: str, source: int) -> int:
        """Adds a layer, whatever it is: a composite, a traceable node, or any other callable.

        Returns:
            The index of its output, which ``path`` now names.
        """
        if is_composite(layer):
            self.layers[path] = layer.add_to_graph(self, path, source)
            return self.layers[path]
        return self.add(path, layer if isinstance(layer, TraceableNode) else PassedOver(layer), (source,))

    def index(self, path: str) -> int:
        """Index of the step that a layer's path names.

        Raises:
            KeyError: There is no such layer; the message tells the nearest.
            TypeError: ``path`` is no string.
        """
        if not isinstance(path, str):
            raise TypeError(f"layer must be a path, a string, got {path!r}")
        if path not in self.layers:
            raise KeyError(no_layer(path, self.layers))
        return self.layers[path]

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Lets the errors of what a step is given say in which layer they arose."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):
                raise  # it may be made of something else than a message
            raise type(error)(f"layer {self.steps[index].path!r}: {error}") from error

    def sole_takers(self, steps: Iterable[int]) -> dict[int, int]:
        """By index of a step, the one that alone takes its output, and takes it once, among some steps."""
        takers: dict[int, list[int]] = {}
        for index in steps:
            for source in self.steps[index].inputs:
                takers.setdefault(source, []).append(index)
        return {source: others[0] for source, others in takers.items() if source != PICTURE and len(others) == 1}

    def ancestors(self, targets: Iterable[int]) -> list[int]:
        """The steps that some steps depend on, themselves included, in topological order."""
        wanted = frozenset(targets)
        if wanted in self._ancestors:
            return list(self._ancestors[wanted])
        needed: set[int] = set()
        pending = [target for target in wanted if target != PICTURE]
        while pending:
            index = pending.pop()
            if index not in needed:
                needed.add(index)
                pending.extend(source for source in self.steps[index].inputs if source != PICTURE)
        self._ancestors[wanted] = sorted(needed)
        return list(self._ancestors[wanted])

    def evaluate(
        self,
        picture: Any,
        targets: Iterable[int],
        apply: Callable[..., Any],
        stage: Callable[[int], tuple[list[int], dict[str, Any]]] = lambda index: ([index], {}),
    ) -> list[Any]:
        """Walks forward, letting go of every output as soon as nothing needs it any more.

        Args:
            picture: The input, of whatever kind ``apply`` takes.
            targets: Indices of the steps whose outputs are wanted.
            apply: ``apply(node, *inputs, **choices)`` returns the node's output.
            stage: Tells by a step's index which steps its node serves in one call, and the choices.

        Returns:
            The outputs, in the order of ``targets``.
        """
        wanted = list(targets)
        order = self.ancestors(wanted)
        last_use = {source: index for index in order for source in self.steps[index].inputs}
        values: dict[int, Any] = {PICTURE: picture}
        done: set[int] = set()
        for index in order:
            if index in done:
                continue
            _, node, inputs = self.steps[index]
            together, choices = stage(index)
            done.update(together)
            with self.naming(index):
                values[together[-1]] = apply(node, *(values[source] for source in inputs), **choices)
            for source in inputs:
                if last_use[source] == index and source not in wanted:
                    values.pop(source, None)
        return [values[index] for index in wanted]

"""TraceableGraph: layers joined in any directed acyclic graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dcnn_visualizer.graph import PICTURE, Graph, no_layer
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_nodes import TraceableNode


class TraceableGraph(TraceableChain):
    """Layers joined in any directed acyclic graph: a TraceableChain whose layers say what they take.

    Names may hold ``/``, so that a flat graph keeps the paths of a nested network; ``name_block`` gives the path of a block to
    the layer that ends it. The last layer is the output. A layer set within ``init_scope`` takes the layer before it.

    Example:
        >>> net = TraceableGraph()
        >>> net.connect("conv", TraceableConvolution2D(3, 8, 3, pad=1))  # takes the picture
        >>> net.connect("gate/pool", TraceableAdaptiveAveragePooling2D(1))  # takes the layer before it
        >>> net.connect("gate/sigmoid", TraceableSigmoid())
        >>> net.connect("scaled", Multiply(), "conv", "gate/sigmoid")
    """

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[str, tuple[str | int, ...]] = {}
        self._blocks: dict[str, str] = {}

    def connect(self, name: str, layer: Any, *sources: str | int) -> None:
        """Adds a layer behind those that are there.

        Args:
            name: Its name, which may hold ``/``.
            layer: A traceable node, a chain, a link or any callable.
            *sources: Names of the layers whose outputs it takes, or ``PICTURE`` of :mod:`dcnn_visualizer.graph`. Without any, it
                takes the layer before it, and the first layer the picture.

        Raises:
            KeyError: A source isn't there.
            TypeError: ``layer`` can't be called, or takes several inputs and is no traceable node.
            ValueError: The name is empty, taken, or one that chains use themselves.
        """
        if not callable(layer):
            raise TypeError(f"layer {name!r} must be callable, got {layer!r}")
        if len(sources) > 1 and not isinstance(layer, TraceableNode):
            raise TypeError(f"layer {name!r} takes {len(sources)} inputs, so it must be a TraceableNode, got {layer!r}")
        if not name or hasattr(self, name) or name in self._blocks:
            raise ValueError(f"a layer's name must be free and not empty, got {name!r}")
        for source in sources:
            if source != PICTURE and source not in self.layer_names:
                raise KeyError(f"layer {name!r} takes {source!r}, which isn't there yet")
        with self.init_scope():
            setattr(self, name, layer)
        if sources:
            self._sources[name] = sources

    def name_block(self, path: str, last: str) -> None:
        """Lets the path of a block name the output of its last layer, as a composite's path does.

        Raises:
            KeyError: There is no layer ``last``.
            ValueError: A layer has this path.
        """
        if last not in self.layer_names:
            raise KeyError(no_layer(last, self.layer_names))
        if not path or path in self.layer_names:
            raise ValueError(f"a block's path must be free and not empty, got {path!r}")
        self._blocks[path] = last

    def sources(self, name: str) -> tuple[str | int, ...]:
        """What a layer takes: names of layers, or ``PICTURE``.

        Raises:
            KeyError: There is no such layer.
        """
        if name not in self.layer_names:
            raise KeyError(no_layer(name, self.layer_names))
        place = self.layer_names.index(name)
        return self._sources.get(name, (self.layer_names[place - 1] if place else PICTURE,))

    def _owner(self, path: str) -> str:
        name = self._blocks.get(path, path)
        if name in self.layer_names:
            return name
        return next((other for other in self.layer_names if path.startswith(f"{other}/")), path)

    def __delattr__(self, name: str) -> None:
        """Takes a layer out.

        Raises:
            AttributeError: It is picked by name, or another layer takes it.
        """
        if name in self.layer_names:
            takers = [other for other in self.layer_names if name in self.sources(other)]
            if takers:
                raise AttributeError(f"layer {name!r} is taken by {', '.join(map(repr, takers))}; delete those first")
        super().__delattr__(name)
        self._sources.pop(name, None)
        self._blocks = {path: last for path, last in self._blocks.items() if last != name}

    def remove_unused(self) -> None:
        """Deletes the layers that no picked one needs."""
        needed = self._needed(self._picked())
        # What a layer takes by being next to it stays what it took.
        self._sources = {name: self.sources(name) for name in self.layer_names}
        for name in reversed([name for name in self.layer_names if name not in needed]):
            delattr(self, name)

    def _needed(self, paths: Iterable[str]) -> set[str]:
        graph = self.graph()
        steps = set(graph.ancestors(graph.index(path) for path in paths))
        return {name for name in self.layer_names if graph.index(name) in steps}

    def copy(self, mode: str = "share") -> TraceableGraph:
        """A copy with its own list of layers; ``mode`` as in ``chainer.Link.copy``."""
        copied = super().copy(mode)
        assert isinstance(copied, TraceableGraph)
        copied._sources, copied._blocks = dict(self._sources), dict(self._blocks)
        return copied

    def add_to_graph(self, graph: Graph, path: str, source: int) -> int:
        """Adds the layers to a graph.

        Raises:
            ValueError: There are no layers.
        """
        prefix = f"{path}/" if path else ""
        index: dict[str | int, int] = {PICTURE: source}
        previous: str | int = PICTURE
        for name in self.layer_names:
            inputs = tuple(index[other] for other in self._sources.get(name, (previous,)))
            layer, previous = getattr(self, name), name
            if len(inputs) == 1:
                index[name] = graph.add_layer(layer, prefix + name, inputs[0])
            else:
                index[name] = graph.add(prefix + name, layer, inputs)
        for block, last in self._blocks.items():
            graph.layers[prefix + block] = index[last]
        if not self.layer_names:
            raise ValueError(f"{type(self).__name__} {path!r} has no layers: connect some")
        return index[self.layer_names[-1]]

    @staticmethod
    def _check_name(name: str) -> None:
        pass

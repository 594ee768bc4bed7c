"""What importers of graphs share: layers get names that are free, and those that the output doesn't need are left out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_graph import TraceableGraph
from dcnn_visualizer.traceable_nodes import TraceableNode


class Assembly:
    """Layers and what they take, on the way to a TraceableGraph.

    A layer is known by the value it makes: anything hashable, such as a tensor's name in the file that it came from.

    Args:
        picture: What the network's input is known by.
        reserved: Paths that the network itself gives, which no others may take.
    """

    def __init__(self, picture: Hashable, reserved: Iterable[str] = ()) -> None:
        self.picture = picture
        self._reserved = set(reserved)
        self._taken: set[str] = set()
        self._layers: dict[Hashable, tuple[str, TraceableNode | TraceableChain, Sequence[Hashable]]] = {}
        self._chain = TraceableGraph()

    def _free_path(self, path: str) -> str:
        """A path that nobody has: the one asked for, or with ``_2``, ``_3``, … behind it."""
        number, candidate = 1, path
        while candidate in self._taken or candidate in self._reserved or hasattr(self._chain, candidate):
            number += 1
            candidate = f"{path}_{number}"
        self._taken.add(candidate)
        return candidate

    def claim(self, path: str) -> None:
        """Makes a reserved path free for whoever comes next."""
        self._reserved.discard(path)

    def add(self, value: Hashable, path: str, node: TraceableNode | TraceableChain, sources: Sequence[Hashable]) -> str:
        """Adds the layer that makes a value of others.

        Args:
            value: What it makes.
            path: Its name, if that is free; else with a number.
            node: The layer, or several in a row.
            sources: The values it takes, made by layers added before or the picture.

        Returns:
            The name it got.
        """
        free = self._free_path(path)
        self._layers[value] = free, node, sources
        return free

    def finish(self, output: Hashable, blocks: Iterable[tuple[str, Hashable]] = ()) -> TraceableGraph:
        """The layers that an output needs, joined.

        Args:
            output: The value that the last layer makes.
            blocks: Paths of blocks, and the values that they give.

        Raises:
            UntraceableError: The output is the picture itself, or a constant.
        """
        if output not in self._layers:
            raise UntraceableError("the network's output doesn't come from its input by any layer")
        needed, pending = set(), [output]
        while pending:
            value = pending.pop()
            if value != self.picture and value not in needed:
                needed.add(value)
                pending.extend(self._layers[value][2])
        names: dict[Hashable, str | int] = {self.picture: PICTURE}
        for value, (path, node, sources) in self._layers.items():
            if value in needed:
                self._chain.connect(path, node, *(names[source] for source in sources))
                names[value] = path
        for path, value in blocks:
            name = names.get(value, PICTURE)
            if isinstance(name, str):
                self._chain.name_block(self._free_path(path), name)
        self._chain.pick = None
        return self._chain

"""A network's layers as a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.geometry import Pair
from dcnn_visualizer.evaluation import compute
from dcnn_visualizer.graph import PICTURE, Graph
from dcnn_visualizer.traceable_nodes import TraceableNode


def layer_table(chain: Any, shape: tuple[int, int, int], coverage: Mapping[str, str] | None = None) -> str:
    """Lists the layers with their kinds, output shapes and receptive fields.

    Args:
        chain: A TraceableChain.
        shape: (C, H, W) of a picture.
        coverage: What ``Reversal.coverage`` says, for one more column.

    Returns:
        One line a layer under a line of headings.

    Raises:
        ValueError: The network can't take a picture of this shape.
    """
    graph = chain.graph()
    shapes = output_shapes(graph, shape)
    fields = receptive_fields(graph)
    rows = [("layer", "kind", "output", "sees", *(["reversed by"] if coverage is not None else []))]
    for (path, node, _), outsize, field in zip(graph.steps, shapes, fields, strict=True):
        # No unit sees more than there is.
        whole = field is None or (field[0] >= shape[1] and field[1] >= shape[2])
        sees = "all" if whole or field is None else f"{min(field[0], shape[1])}x{min(field[1], shape[2])}"
        kind = node.describe_layer().removeprefix("Traceable")
        rows.append((path, kind, "x".join(map(str, outsize)), sees, *([coverage[path]] if coverage is not None else [])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def output_shapes(graph: Graph, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The shape of each step's output for one picture, without the batch axis.

    Raises:
        ValueError: A step can't take what it is given.
    """
    steps = range(len(graph.steps))
    reached = iter(steps)

    def apply(node: TraceableNode, *inputs: Array) -> Array:
        index = next(reached)
        try:
            return compute(node, *inputs)
        except Exception as error:  # Chainer's own type checks raise what they like.
            given = ", ".join("x".join(map(str, x.shape[1:])) for x in inputs)
            raise ValueError(
                f"layer {graph.steps[index].path!r} can't take an input of {given}, given a picture of "
                f"{'x'.join(map(str, shape))}: {error}"
            ) from error

    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        outputs = graph.evaluate(np.zeros((1, *shape), np.float32), steps, apply)
    return [output.shape[1:] for output in outputs]


def receptive_fields(graph: Graph) -> list[Pair | None]:
    """Rows and columns of the picture that one unit of each step sees, padding included; None where it sees all of it."""
    # (size, step between neighbouring units) along both axes, by step
    seen: dict[int, Sequence[tuple[int, int]] | None] = {PICTURE: ((1, 1), (1, 1))}
    for index, (_, node, inputs) in enumerate(graph.steps):
        window, sources = node.window, [seen[source] for source in inputs]
        known = [source for source in sources if source is not None]
        if window is None or len(known) < len(sources):
            seen[index] = None
            continue
        seen[index] = [
            (
                max(source[axis][0] + window.dilate[axis] * (window.ksize[axis] - 1) * source[axis][1] for source in known),
                max(source[axis][1] for source in known) * window.stride[axis],
            )
            for axis in (0, 1)
        ]
    fields = (seen[index] for index in range(len(graph.steps)))
    return [None if field is None else (field[0][0], field[1][0]) for field in fields]

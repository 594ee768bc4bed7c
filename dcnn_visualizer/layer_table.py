"""A network's layers as a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np

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
        sees = "all" if whole or field is None else _times((min(field[0], shape[1]), min(field[1], shape[2])))
        rows.append((path, _kind(node), _times(outsize), sees, *([coverage[path]] if coverage is not None else [])))
    return _in_columns(rows)


def layer_list(graph: Graph) -> str:
    """Lists the layers with their kinds and the shapes of their weights; no picture is needed for that.

    Args:
        graph: The network.

    Returns:
        One line a layer under a line of headings.
    """
    rows = [("layer", "kind", "weights")]
    for path, node, _ in graph.steps:
        weights = sorted(node.namedparams(include_uninit=True)) if isinstance(node, chainer.Link) else []
        shapes = (
            f"{name[1:]} {'not known yet' if weight.array is None else _times(weight.shape) or 'one'}" for name, weight in weights
        )
        rows.append((path or "(output)", _kind(node), ", ".join(shapes)))
    return _in_columns(rows)


def _kind(node: TraceableNode) -> str:
    return node.describe_layer().removeprefix("Traceable")


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _in_columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def output_shapes(graph: Graph, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The shape of each step's output for one picture, without the batch axis.

    Raises:
        ValueError: A step can't take what it is given.
    """
    outputs = {PICTURE: np.zeros((1, *shape), np.float32)}
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        for index, (path, node, inputs) in enumerate(graph.steps):
            given = [outputs[source] for source in inputs]
            try:
                outputs[index] = compute(node, *given)
            except Exception as error:  # Chainer's own type checks raise what they like.
                raise ValueError(
                    f"layer {path!r} can't take an input of {', '.join(_times(x.shape[1:]) for x in given)}, "
                    f"given a picture of {_times(shape)}: {error}"
                ) from error
    return [outputs[index].shape[1:] for index in range(len(graph.steps))]


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

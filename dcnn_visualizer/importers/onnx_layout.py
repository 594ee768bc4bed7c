"""Tensors whose batch an ONNX file puts elsewhere, until it is the first axis again.

Attention makes (3, batch, heads, places, channels) of (batch, places, 3, heads, channels) and takes its three parts; a file for
one picture may leave out the batch's axis and put one in later. Such a tensor stays as it was, and its ``order`` says which of
its axes the file's are. What takes a part of it, takes the part of what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.importers import nodes
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx_constants import BATCH
from dcnn_visualizer.importers.onnx_file import Size
from dcnn_visualizer.importers.onnx_operators import OPERATORS, Converted, Setting, Tensor, gather, integers, slice_, split

#: One of the axes of a tensor, or None for one that the file has put in.
Order = list[int | None]

#: Operators that may take a tensor whose batch isn't the first axis.
KINDS = ("Add", "Div", "Gather", "Identity", "Mul", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze")
#: Those among them that take a tensor and one constant number.
WITH_NUMBERS = ("Add", "Div", "Mul", "Sub")


def displaces(file: Setting, kind: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> bool:
    """Whether an operator takes a tensor whose batch isn't the first axis, or makes one."""
    x = inputs[0]
    if not isinstance(x, Tensor) or kind not in KINDS:
        return False
    if x.order is not None:
        return True
    if kind == "Transpose":
        return attributes.get("perm", [len(x.shape) - 1])[0] not in (0, -len(x.shape))
    if kind == "Squeeze":
        return file.batch == 1 and 0 in _axes(len(x.shape), *inputs[1:], **attributes)
    if kind == "Unsqueeze":
        number = len(inputs[1].reshape(-1)) if len(inputs) > 1 else len(attributes["axes"])
        return 0 in _axes(len(x.shape) + number, *inputs[1:], **attributes)
    return False


def rearrange(file: Setting, kind: str, inputs: Sequence[Any], attributes: dict[str, Any]) -> list[Tensor | Converted]:
    """What an operator makes, for which :func:`displaces` is true: a tensor in another order, or layers.

    Raises:
        UntraceableError: Not supported.
    """
    x, *others = inputs
    order: Order = list(range(len(x.shape)) if x.order is None else x.order)
    plain = x._replace(order=None)
    if kind == "Transpose":
        axes = attributes.get("perm", range(len(order))[::-1])
        if sorted(_axes(len(order), axes=axes)) != list(range(len(order))):
            raise UntraceableError(f"it puts {len(order)} axes in the order {list(axes)}")
        return [_arranged(file, plain, [order[axis] for axis in axes])]
    if kind == "Squeeze":
        left_out = _axes(len(order), *others, **attributes)
        if not left_out or not all(_is_single(file, plain, order[axis]) for axis in left_out):
            raise UntraceableError(f"it leaves out the axes {left_out} of {_sizes(plain, order)}")
        return [_arranged(file, plain, [part for axis, part in enumerate(order) if axis not in left_out])]
    if kind == "Unsqueeze":
        number = len(others[0].reshape(-1)) if others else len(attributes["axes"])
        for place in sorted(_axes(len(order) + number, *others, **attributes)):
            order.insert(place, None)
        return [_arranged(file, plain, order)]
    if kind == "Gather":
        return [_gathered(file, plain, order, *others, **attributes)]
    if kind == "Slice":
        return [_sliced(file, plain, order, *others, **attributes)]
    if kind == "Split":
        options = {name: value for name, value in attributes.items() if name != "axis"}
        pieces = split(file, plain, *others, axis=_own(order, attributes.get("axis", 0)), **options)
        return [_arranged(file, plain, order, piece) for piece in pieces]
    if kind in WITH_NUMBERS:
        if not isinstance(others[0], np.ndarray) or others[0].size != 1:
            raise UntraceableError(f"it joins a tensor whose batch isn't the first axis, {_sizes(plain, order)}, with another")
        return [_arranged(file, plain, order, OPERATORS[kind](file, plain, others[0].reshape(())))]
    return [x]


def _gathered(file: Setting, x: Tensor, order: Order, indices: Any, axis: int = 0) -> Tensor | Converted:
    if order == [1] and len(x.shape) == 2 and file.batch == 1 and np.ndim(indices) > 1 and indices.shape[0] == 1:
        # PyTorch's exporter so writes as_strided of one picture: its numbers in a row, and which of them are where.
        taken = gather(file, x, indices.reshape(-1), axis=1)
        back = tn.TraceableReshape(indices.shape[1:])
        return Converted(nodes.in_a_row(part=taken.node, shape=back), [x], (BATCH, *indices.shape[1:]))
    own = _own(order, axis)
    part = gather(file, x, indices, axis=own)
    if np.ndim(indices):
        return _arranged(file, x, order, part)
    kept = [place for place in order if place != own]
    return _arranged(file, x, [place - 1 if place is not None and place > own else place for place in kept], part)


def _sliced(
    file: Setting,
    x: Tensor,
    order: Order,
    starts_input: Any = None,
    ends_input: Any = None,
    axes_input: Any = None,
    steps_input: Any = None,
    *,
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
) -> Tensor | Converted:
    first = np.array(starts) if starts_input is None else starts_input
    last = np.array(ends) if ends_input is None else ends_input
    given = axes if axes_input is None else integers("axes", axes_input)
    own = [_own(order, axis) for axis in (range(len(first)) if given is None else given)]
    return _arranged(file, x, order, slice_(file, x, first, last, np.array(own), steps_input))


def _arranged(file: Setting, x: Tensor, order: Order, part: Converted | None = None) -> Tensor | Converted:
    """A tensor, or a part of it, in another order; as layers, if its batch comes first."""
    shape = x.shape if part is None else part.shape
    if file.batch == 1 and 0 not in order and order and order[0] is None:
        order = [0, *order[1:]]
    if order[:1] != [0]:
        kept = tuple(order)
        return x._replace(order=kept) if part is None else part._replace(order=kept)
    own = [axis for axis in order if axis is not None]
    left_out = [axis for axis in range(len(shape)) if axis not in own]
    layers: dict[str, Any] = {} if part is None else {"part": part.node}
    if own + left_out != list(range(len(shape))):
        layers["order"] = tn.TraceableTranspose(own + left_out)
    if left_out:
        layers["squeezed"] = tn.TraceableReshape((), before=len(own) - 1)
    for place, axis in enumerate(order):
        if axis is None:
            layers[f"axis{place}"] = tn.TraceableReshape((1,), sum(later is not None for later in order[place:]), place - 1)
    node = nodes.in_a_row(**layers) if len(layers) > 1 else next(iter(layers.values()), tn.TraceableIdentity())
    return Converted(node, [x], _sizes(x._replace(shape=shape), order))


def _sizes(x: Tensor, order: Order) -> tuple[Size, ...]:
    return tuple(1 if axis is None else x.shape[axis] for axis in order)


def _is_single(file: Setting, x: Tensor, axis: int | None) -> bool:
    return axis is None or x.shape[axis] == 1 or (axis == 0 and file.batch == 1)


def _own(order: Order, axis: int) -> int:
    """The tensor's own axis that the file means."""
    own = order[axis]
    if not own:
        raise UntraceableError(f"it takes a part along axis {axis}, which is the batch or holds one place")
    return own


def _axes(rank: int, axes_input: Any = None, *, axes: Any = None, **others: Any) -> list[int]:
    chosen = list(axes or []) if axes_input is None else integers("axes", axes_input)
    if not all(-rank <= axis < rank for axis in chosen):
        raise UntraceableError(f"axes {chosen} aren't all among {rank}")
    return [axis % rank for axis in chosen]

"""What a layer's output depends on besides its input: weights and settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_kernels.arrays import Array
from dcnn_visualizer.traceable_nodes import PassedOver, TraceableNode

#: Types of values that can't change.
PLAIN = frozenset((bool, float, int, str, bytes, type(None)))


class LayerState(NamedTuple):
    """Weights and settings of a layer.

    Attributes:
        arrays: The weights themselves, statistics among them; None where a layer does without.
        settings: Names and values of all else, as text.
    """

    arrays: list[Array | None]
    settings: str


def layer_state(node: TraceableNode) -> LayerState | None:
    """All that a node's output depends on besides its input, or None if that can't be told."""
    owner = node.function if isinstance(node, PassedOver) else node
    if isinstance(owner, chainer.Link):
        owners = list(owner.links())
    elif isinstance(owner, TraceableNode) or _is_chainers(getattr(owner, "func", owner)):
        owners = [owner]
    else:
        return None
    arrays: list[Array | None] = []
    settings: list[Any] = []
    for part in owners:
        for name, value in sorted(vars(part).items()):
            # Most values are plain; this is done at every question.
            if type(value) in PLAIN:
                if name[0] != "_":
                    settings.append((name, value))
            elif isinstance(value, chainer.Variable):
                arrays.append(value.array)
            elif name[0] == "_" or isinstance(value, chainer.Link):
                continue  # Links are owners themselves; what Chainer keeps for itself doesn't bear on the output.
            elif _is_plain(value):
                settings.append((name, value))
            elif chainer.is_arrays_compatible((value,)):
                arrays.append(value)
            elif _is_chainers(value):
                settings.append((name, value))
            else:
                return None
    return LayerState(arrays, repr(settings))


def _is_chainers(value: Any) -> bool:
    """Whether a function or object is Chainer's own or NumPy's, which hold no weights that could change."""
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.partition(".")[0] in ("chainer", "numpy")


def _is_plain(value: Any) -> bool:
    if type(value) in PLAIN or isinstance(value, (bool, int, float, str, bytes)):
        return True
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return False

"""Chainer's and ChainerCV's models as traceable chains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer

from dcnn_visualizer.importers import callables, chainer_models, links
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_nodes import TraceableNode


def from_chainer(model: chainer.Chain) -> TraceableChain:
    """Makes a traceable chain of a model, with equal outputs and the very same weights.

    Taken are Chainer's ``VGG16Layers``, ``VGG19Layers``, ``ResNet50Layers``, ``ResNet101Layers``, ``ResNet152Layers`` and
    ``Sequential``, ChainerCV's ``PickableSequentialChain`` with ``VGG16`` and the ``ResNet`` family among them, and their
    subclasses, unless these have a ``forward`` of their own.

    Layers keep their names, and a name means what it means in the model: ``conv1_1`` of VGG16 is the output of its ReLU, and
    the convolution inside is ``conv1_1/conv``. Callables, such as ``F.relu`` or a lambda around ``F.max_pooling_2d``, are
    tried on small random maps to find out what they are. Links and callables without a traceable counterpart stay as they
    are: applied on the way forward, passed over on the way back.

    Args:
        model: The model. Training or loading weights in either of the two changes both.

    Returns:
        The chain. It picks what the model picks: by default the last layer's output.

    Raises:
        TypeError: Not one of these models.
        ValueError: A batch normalization has no statistics yet, since the model was never called.
    """
    composites = dict(chainer_models.CONVERTERS)
    # A model of ChainerCV's has imported ChainerCV already.
    if "chainercv.links" in sys.modules:
        from dcnn_visualizer.importers import chainercv_models

        composites |= chainercv_models.CONVERTERS

    def convert(layer: Any) -> Any:
        if isinstance(layer, TraceableChain | TraceableNode):
            return layer
        if composite := _converter(layer, composites):
            return composite(layer, convert)
        if leaf := _converter(layer, links.CONVERTERS):
            try:
                return leaf(layer)
            except ValueError as error:
                raise ValueError(f"{_path(model, layer)} of {type(model).__name__}: {error}") from error
        if isinstance(layer, chainer.Link):
            return layer
        nodes = callables.trace(layer)
        if len(nodes) > 1:
            return TraceableChain(**{str(i): node for i, node in enumerate(nodes)})
        return nodes[0] if nodes else layer

    chain = convert(model)
    if not isinstance(chain, TraceableChain):
        known = ", ".join(sorted(kind.__name__ for kind in composites))
        raise TypeError(
            f"expected one of {known} (and no forward of its own), got {type(model).__name__}: "
            "write its layers in a row, as a TraceableChain"
        )
    if chain is not model:
        chain.pick = getattr(model, "pick", None)
    return chain


def _converter(layer: Any, converters: dict[type, Callable[..., Any]]) -> Callable[..., Any] | None:
    """The converter of a layer's class, or of the base class whose ``forward`` it has."""
    for base in type(layer).__mro__:
        if base in converters and type(layer).forward is base.forward:  # type: ignore[attr-defined]
            return converters[base]
    return None


def _path(model: chainer.Link, link: chainer.Link) -> str:
    return next((path for path, child in model.namedlinks() if child is link), "a layer")

"""Gradients of converted modules. Tensors come in and go out; their memory is not copied on the way.

A neuron is projected from its receptive field where that is a small part of the picture. Other gradients go back through the
whole picture: by PyTorch, in its usual order of memory or with all channels of a pixel together, or by the kernels, whichever
took least time so far. If a picture is asked about again, its forward pass is kept for further questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import torch
from torch import Tensor, nn

from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import Pair
from dcnn_visualizer.dropin.conversions import Call, Conversion, Latest, last_conversion
from dcnn_visualizer.dropin.tape import Tape
from dcnn_visualizer.fingerprint import fingerprint
from dcnn_visualizer.receptive_field import ReceptiveField
from dcnn_visualizer.recording import Recording
from dcnn_visualizer.reversal import WAYS, Rule
from dcnn_visualizer.walk import Walk

GRADIENT = Rule(relu_mask=True, rectify=False, lrn="gradient")
#: Captum's rules of ReLU are DeSaliNet's and DeconvNet's; all other layers go back by their gradients.
GUIDED = Rule(relu_mask=True, rectify=True, lrn="gradient")
DECONVOLUTION = Rule(relu_mask=False, rectify=True, lrn="gradient")

#: A neuron's channel, row and column.
Neuron = tuple[int, int, int]


class Pass(Protocol):
    """A forward pass up to a layer, which serves ways back."""

    def gradient(self, choose: Callable[[Tensor], Tensor], keep: bool) -> Tensor:
        """Takes what is asked about back to the pictures.

        Args:
            choose: What is asked about, of the layer's value: one number an example, or one for all.
            keep: Whether there will be other ways back.
        """
        ...


class KernelsPass:
    """A forward pass through the kernels.

    Args:
        conversion: The network.
        x: Pictures (B, C, H, W).
        call: The layer's call.
        rule: The rule of ``nn.ReLU``; everything else goes back by its gradient.
    """

    def __init__(self, conversion: Conversion, x: Tensor, call: Call, rule: Rule) -> None:
        self._conversion, self._index, self._rule = conversion, call.index, rule
        self._recording = _recorded(x, conversion, call.index)

    def gradient(self, choose: Callable[[Tensor], Tensor], keep: bool) -> Tensor:
        """See :class:`Pass`."""
        activation = torch.from_dlpack(self._recording.extend(self._index)).requires_grad_()
        with torch.enable_grad():
            # A clone, since a caller's own function may do anything with it.
            chosen = choose(activation.clone())
            (signal,) = torch.autograd.grad(torch.unbind(chosen) if chosen.numel() > 1 else chosen, activation)
        return _walked_back(signal, self._recording, self._index, self._rule, self._conversion)


@takes_any_array
def _recorded(x: Array, conversion: Conversion, index: int) -> Recording:
    with chainer.using_device(chainer.backend.get_device_from_array(x)):
        recording = Recording(conversion.graph, x)
        recording.extend(index)
        return recording


@takes_any_array
def _walked_back(signal: Array, recording: Recording, index: int, rule: Rule, conversion: Conversion) -> Array:
    with chainer.using_device(chainer.backend.get_device_from_array(signal)):
        walk = Walk(recording, index, rule, len(signal), exceptions=_exceptions(conversion))
        return array_module(signal).ascontiguousarray(walk.back(signal))


def _exceptions(conversion: Conversion) -> dict[int, Rule]:
    return dict.fromkeys(conversion.others, GRADIENT)


#: What takes gradients of whole pictures. PyTorch has its turn first, since it's no slower than what it stands in for.
ENGINES: dict[str, Callable[[nn.Module, Conversion, Tensor, Call, Rule], Pass]] = {
    "pytorch": lambda module, conversion, x, call, rule: Tape(module, x, call, rule.rectify, rule is DECONVOLUTION, False),
    "reordered": lambda module, conversion, x, call, rule: Tape(module, x, call, rule.rectify, rule is DECONVOLUTION, True),
    "kernels": lambda module, conversion, x, call, rule: KernelsPass(conversion, x, call, rule),
}


def engines_for(conversion: Conversion, x: Tensor) -> list[str]:
    """The engines that can take gradients of whole pictures."""
    if x.is_cuda or not conversion.differentiable:
        return ["kernels"]
    return [engine for engine in ENGINES if engine != "reordered" or conversion.reorders]


def project(
    module: nn.Module,
    conversion: Conversion,
    x: Tensor,
    call: Call,
    choose: Callable[[Tensor], Tensor],
    rule: Rule,
    neuron: Neuron | None = None,
) -> Tensor:
    """Takes what is asked about from a layer back to the pictures.

    Args:
        module: The network.
        conversion: The same as a chain.
        x: Pictures (B, C, H, W).
        call: The layer's call.
        choose: What is asked about, of the layer's value: one number an example, or one for all.
        rule: The rule of ``nn.ReLU``; everything else goes back by its gradient.
        neuron: The neuron that ``choose`` chooses, if it is a single one of feature maps.

    Returns:
        A tensor of the shape, dtype and device of ``x``.

    Raises:
        IndexError: The layer has no such neuron.
    """
    x = x.detach()
    if neuron is not None:
        field = _field(conversion, call.index, (x.shape[2], x.shape[3]))
        if field is not None and all(0 <= at < size for at, size in zip(neuron[1:], field.size, strict=True)):
            return _projected(x, field, neuron, rule, _exceptions(conversion))
    contest = conversion.contests[call.index, len(x)]
    engine = contest.next(engines_for(conversion, x))
    latest = conversion.latest
    if latest is None or not latest.is_of(x):
        conversion.latest = Latest(x)
        start = time.perf_counter()
        gradient = ENGINES[engine](module, conversion, x, call, rule).gradient(choose, keep=False)
        contest.note(engine, time.perf_counter() - start)
        return gradient
    # Asked about once more: now its forward pass is kept, as long as the weights stay what they are.
    key = call.index, rule
    weights = fingerprint(conversion.weights(call.index))
    kept, seen = latest.passes.get(key, (None, b""))
    if kept is None or seen != weights:
        kept = ENGINES[engine](module, conversion, x, call, rule)
        latest.passes[key] = kept, weights
    return kept.gradient(choose, keep=True)


def project_as_it_is(module: nn.Module, x: Tensor, choose: Callable[[Tensor], Tensor], rule: Rule) -> Tensor | None:
    """Takes what is asked about of a network's output back to the pictures, where PyTorch has turned out to be the fastest.

    Then the module runs as it is; whether it's still what was converted, which takes time to tell, doesn't matter.

    Args:
        module: The network.
        x: Pictures (B, C, H, W).
        choose: What is asked about, of the network's output: one number an example, or one for all.
        rule: The rule of ``nn.ReLU``; everything else goes back by its gradient.

    Returns:
        A tensor of the shape, dtype and device of ``x``; None where another engine is to do it, or the choice hasn't been made,
        or the pictures were asked about before, so that their forward pass will be kept.
    """
    conversion, x = last_conversion(module, x), x.detach()
    if conversion is None or (rule is not GRADIENT and not conversion.overrides_as_captum):
        return None
    call = conversion.call(module, module, of_input=False)
    contest, engines = conversion.contests[call.index, len(x)], engines_for(conversion, x)
    if contest.to_try(engines) or contest.next(engines) != "pytorch":
        return None
    if conversion.latest is not None and conversion.latest.is_of(x):
        return None
    conversion.latest = Latest(x)
    return ENGINES["pytorch"](module, conversion, x, call, rule).gradient(choose, keep=False)


def _field(conversion: Conversion, index: int, picture: Pair) -> ReceptiveField | None:
    """What a neuron of a step sees, if that is so little that it's less work than the whole picture."""
    if index not in conversion.fields:
        try:
            field = ReceptiveField(conversion.graph, index, picture)
        except ValueError:
            conversion.fields[index] = None
        else:
            conversion.fields[index] = field if WAYS * field.share < 1 else None
    return conversion.fields[index]


@takes_any_array
def _projected(x: Array, field: ReceptiveField, neuron: Neuron, rule: Rule, exceptions: Mapping[int, Rule]) -> Array:
    """The gradients of one neuron of each picture, each from its receptive field."""
    channel, *place = neuron
    at = place[0], place[1]
    xp, count = array_module(x), len(x)
    with chainer.using_device(chainer.backend.get_device_from_array(x)):
        parts = xp.stack([field.cut(picture, at) for picture in x])
        projections, _ = field.project(parts, [channel] * count, [at] * count, rule, "one", exceptions)
        result = xp.zeros(x.shape, x.dtype)
        for part, picture in zip(projections, result, strict=True):
            field.paste(part, at, picture)
        return result

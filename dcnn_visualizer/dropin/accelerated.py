"""What converted modules answer. Tensors come in and go out; their memory is not copied on the way.

A neuron is projected from its receptive field where that is a small part of the picture. Other gradients go back through the
whole picture, by PyTorch or by the kernels, whichever took less time so far. If a picture is asked about again, its forward pass
is kept for further questions.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import torch
from torch import Tensor, nn

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.dlpack import takes_any_array
from dcnn_kernels.geometry import Pair
from dcnn_visualizer.batching import in_batches
from dcnn_visualizer.dropin.conversions import Call, Conversion, Latest
from dcnn_visualizer.dropin.tape import Tape
from dcnn_visualizer.evaluation import evaluate
from dcnn_visualizer.fingerprint import fingerprint
from dcnn_visualizer.importers.torch_operators import array_of
from dcnn_visualizer.incremental import IncrementalSweep, Watcher
from dcnn_visualizer.memory import free_memory
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
#: How often each engine is tried, in turn, before the faster is taken; but no more than twice, since compilation may take part of
#: the first time, if that took longer than the other by this factor.
TRIALS, HOPELESS = 4, 1.25


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
        # A copy, since a caller's own function may do anything with it.
        activation = torch.from_dlpack(self._recording.extend(self._index).copy()).requires_grad_()
        with torch.enable_grad():
            chosen = choose(activation)
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
    "pytorch": lambda module, conversion, x, call, rule: Tape(module, x, call, rule.rectify, rule is DECONVOLUTION),
    "kernels": lambda module, conversion, x, call, rule: KernelsPass(conversion, x, call, rule),
}


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
    picture = fingerprint([array_of(x)])
    latest = conversion.latest
    if latest is None or latest.picture != picture:
        conversion.latest = Latest(picture)
        engine = _engine(conversion, x, call.index)
        start = time.perf_counter()
        gradient = ENGINES[engine](module, conversion, x, call, rule).gradient(choose, keep=False)
        conversion.times[call.index, engine].append(time.perf_counter() - start)
        return gradient
    # Asked about once more: now its forward pass is kept, as long as the weights stay what they are.
    key = call.index, rule
    weights = fingerprint(conversion.weights(call.index))
    kept, seen = latest.passes.get(key, (None, b""))
    if kept is None or seen != weights:
        kept = ENGINES[_engine(conversion, x, call.index)](module, conversion, x, call, rule)
        latest.passes[key] = kept, weights
    return kept.gradient(choose, keep=True)


def _engine(conversion: Conversion, x: Tensor, index: int) -> str:
    """The engine that is to take a gradient: the one that took least time so far, when all have had their turns."""
    if x.is_cuda or not conversion.differentiable:
        return "kernels"
    times = {engine: conversion.times[index, engine] for engine in ENGINES}
    least = {engine: min(taken, default=math.inf) for engine, taken in times.items()}
    hopeless = HOPELESS * min(least.values())
    trying = [engine for engine, taken in times.items() if len(taken) < 2 or (len(taken) < TRIALS and least[engine] < hopeless)]
    return min(trying, key=lambda engine: len(times[engine])) if trying else min(least, key=least.__getitem__)


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


def occlusion_changes(
    conversion: Conversion,
    picture: Tensor,
    windows: np.ndarray,
    fills: Tensor,
    batch: int,
    check: Callable[[Tensor], object],
) -> Tensor:
    """How the network's outputs for one picture change as each window is hidden.

    Args:
        conversion: The network.
        picture: Tensor (C, H, W).
        windows: Integers (N, 4): top, left, bottom, right of each window.
        fills: What hides them, in turn: (fills, C, H, W).
        batch: Windows that go through the network at once, at most.
        check: Gets the outputs of the picture as it is, (1, ...), before the work starts, and may refuse them.

    Returns:
        Tensor (fills, N, ...): occluded minus original.
    """
    return _occlusion_changes(picture.detach(), fills.detach(), conversion, windows, batch, check)


@takes_any_array
def _occlusion_changes(
    picture: Array,
    fills: Array,
    conversion: Conversion,
    windows: np.ndarray,
    batch: int,
    check: Callable[[Tensor], object],
) -> Array:
    graph = conversion.graph
    output, xp = graph.index(""), array_module(picture)
    device = chainer.backend.get_device_from_array(picture)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        sweep = IncrementalSweep(graph, [output], picture[None])
        check(torch.from_dlpack(sweep.outputs[output]))
        if sweep.outputs[output].ndim == 2:
            watcher = Watcher(sweep, {output: "value"}, batch, free_memory(picture) // 4)
            return xp.stack([watcher.watch(windows, fill[None])[output] for fill in fills])
        parts: list[Array] = []

        def hide(start: int, stop: int, fill: Array) -> None:
            changed = evaluate(graph, kernels.occlude(picture, windows[start:stop], fill), [output])[0]
            parts.append(changed - sweep.outputs[output])

        for fill in fills:
            in_batches(len(windows), batch, functools.partial(hide, fill=fill))
        return xp.concatenate(parts).reshape(len(fills), len(windows), *sweep.outputs[output].shape[1:])

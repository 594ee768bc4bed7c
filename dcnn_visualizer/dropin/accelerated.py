"""What converted modules answer, through the kernels. Tensors come in and go out; their memory is not copied on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import torch
from torch import Tensor

import dcnn_kernels as kernels
from dcnn_kernels.arrays import Array, array_module
from dcnn_kernels.dlpack import takes_any_array
from dcnn_visualizer.batching import in_batches
from dcnn_visualizer.dropin.conversions import Conversion
from dcnn_visualizer.importers.torch_operators import array_of
from dcnn_visualizer.incremental import IncrementalSweep, Watcher
from dcnn_visualizer.memory import free_memory
from dcnn_visualizer.recording import recording_of
from dcnn_visualizer.reversal import Rule
from dcnn_visualizer.traceable_chain import compute
from dcnn_visualizer.walk import Walk

GRADIENT = Rule(relu_mask=True, rectify=False, lrn="gradient")
#: Captum's rules of ReLU are DeSaliNet's and DeconvNet's; all other layers go back by their gradients.
GUIDED = Rule(relu_mask=True, rectify=True, lrn="gradient")
DECONVOLUTION = Rule(relu_mask=False, rectify=True, lrn="gradient")


def project(conversion: Conversion, x: Tensor, index: int, choose: Callable[[Tensor], Tensor], rule: Rule) -> Tensor:
    """Takes what is asked about from a step's output back to the picture.

    Args:
        conversion: The network.
        x: Pictures (B, C, H, W).
        index: The step.
        choose: What is asked about, of the step's output: one number an example, or one for all.
        rule: The rule of ``nn.ReLU``; everything else goes back by its gradient.

    Returns:
        A tensor of the shape, dtype and device of ``x``.
    """
    return _project(x.detach(), conversion, index, choose, rule)


@takes_any_array
def _project(x: Array, conversion: Conversion, index: int, choose: Callable[[Tensor], Tensor], rule: Rule) -> Array:
    with chainer.using_device(chainer.backend.get_device_from_array(x)):
        recording = recording_of(conversion.chain, x)
        # A copy, since a caller's own function may do anything with it.
        activation = torch.from_dlpack(recording.extend(index).copy()).requires_grad_()
        with torch.enable_grad():
            chosen = choose(activation)
            (signal,) = torch.autograd.grad(torch.unbind(chosen) if chosen.numel() > 1 else chosen, activation)
        steps = recording.graph.steps
        exceptions = {i: GRADIENT for i, step in enumerate(steps) if step.path not in conversion.relus}
        return Walk(recording, index, rule, len(x), exceptions=exceptions).back(array_of(signal))


def activations(conversion: Conversion, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
    """Copies of steps' outputs.

    Args:
        conversion: The network.
        x: Pictures (B, C, H, W).
        indices: The steps.
    """
    return _activations(x.detach(), conversion, indices)


@takes_any_array
def _activations(x: Array, conversion: Conversion, indices: Sequence[int]) -> tuple[Array, ...]:
    with chainer.using_device(chainer.backend.get_device_from_array(x)):
        recording = recording_of(conversion.chain, x)
        return tuple(recording.extend(index).copy() for index in indices)


def occlusion_changes(conversion: Conversion, picture: Tensor, windows: np.ndarray, fills: Tensor, batch: int) -> Tensor:
    """How the network's outputs for one picture change as each window is hidden.

    Args:
        conversion: The network.
        picture: Tensor (C, H, W).
        windows: Integers (N, 4): top, left, bottom, right of each window.
        fills: What hides them, in turn: (fills, C, H, W).
        batch: Windows that go through the network at once, at most.

    Returns:
        Tensor (fills, N, ...): occluded minus original.
    """
    return _occlusion_changes(picture.detach(), fills.detach(), conversion, windows, batch)


@takes_any_array
def _occlusion_changes(picture: Array, fills: Array, conversion: Conversion, windows: np.ndarray, batch: int) -> Array:
    graph = conversion.chain.graph()
    output, xp = graph.index(""), array_module(picture)
    device = chainer.backend.get_device_from_array(picture)
    with chainer.using_device(device), chainer.no_backprop_mode(), chainer.using_config("train", False):
        sweep = IncrementalSweep(graph, [output], picture[None])
        if sweep.outputs[output].ndim == 2:
            watcher = Watcher(sweep, {output: "value"}, batch, free_memory(picture) // 4)
            return xp.stack([watcher.watch(windows, fill[None])[output] for fill in fills])
        parts: list[Array] = []

        def hide(start: int, stop: int, fill: Array) -> None:
            changed = graph.evaluate(kernels.occlude(picture, windows[start:stop], fill), [output], compute)[0]
            parts.append(changed - sweep.outputs[output])

        for fill in fills:
            in_batches(len(windows), batch, functools.partial(hide, fill=fill))
        return xp.concatenate(parts).reshape(len(fills), len(windows), *sweep.outputs[output].shape[1:])

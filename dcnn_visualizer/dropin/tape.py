"""PyTorch's own forward passes: they end as soon as what is asked for is there, and several ways back may share one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnn_visualizer.dropin.conversions import Call
from dcnn_visualizer.dropin.hooks import Hook
from dcnn_visualizer.dropin.relus import OverriddenReLUs


class _EnoughSeen(BaseException):
    """Ends a forward pass; no exception of the network's own, which its code might expect."""


def values(module: nn.Module, x: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """Runs a network until it has made what some calls of its layers return, or take.

    Args:
        module: The network.
        x: Its input.
        calls: The calls.

    Returns:
        What they return, or take, not to be changed by anybody else.

    Raises:
        AssertionError: A call didn't take place.
    """
    counts, noted = [0] * len(calls), dict[int, Tensor]()

    def note(number: int, value: Any) -> None:
        counts[number] += 1
        if counts[number] == calls[number].number:
            # A clone: what follows may write in place.
            noted[number] = (value[0] if isinstance(value, tuple) else value).clone()
            if len(noted) == len(calls):
                raise _EnoughSeen

    handles = []
    try:
        for number, call in enumerate(calls):
            if call.of_input:
                hook = Hook(lambda _, inputs, number=number: note(number, inputs))
                handles.append(call.layer.register_forward_pre_hook(hook))
            else:
                hook = Hook(lambda _, __, output, number=number: note(number, output))
                handles.append(call.layer.register_forward_hook(hook))
        module(x)
    except _EnoughSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for number, call in enumerate(calls):
        if number not in noted:
            raise AssertionError(f"layer {type(call.layer).__name__} ran {counts[number]} times, it should {call.number}")
    return [noted[number] for number in range(len(calls))]


class Tape:
    """A forward pass up to a layer, with what PyTorch needs for the way back.

    Args:
        module: The network.
        x: Pictures (B, C, H, W).
        call: The layer's call.
        rectify: Whether ``nn.ReLU`` modules rectify what goes back.
        by_signal: Whether they take the signal at their output and not the gradient at their input.
        reorder: Whether all channels of a pixel are to lie together, as PyTorch's convolutions like them.
    """

    def __init__(self, module: nn.Module, x: Tensor, call: Call, rectify: bool, by_signal: bool, reorder: bool) -> None:
        self._lock, self._reordered = threading.Lock(), reorder
        # A clone, since the caller's own tensor may change while this is kept, and its hooks are the caller's.
        memory_format = torch.channels_last if reorder else torch.preserve_format
        self._x = x.detach().clone(memory_format=memory_format).requires_grad_()
        self._relus = OverriddenReLUs(module, by_signal) if rectify else None
        try:
            with torch.enable_grad():
                (value,) = values(module, self._x, [call]) if call.layer is not module or call.of_input else [module(self._x)]
                value = value[0] if isinstance(value, tuple) else value
                # A caller's own function may ask for a view.
                self._value = value.contiguous() if reorder else value
        finally:
            if self._relus is not None:
                self._relus.end_forward()

    def gradient(self, choose: Callable[[Tensor], Tensor], keep: bool) -> Tensor:
        """Gradient of what is asked about, with respect to the pictures.

        Args:
            choose: What is asked about, of the layer's value: one number an example, or one for all.
            keep: Whether there will be other ways back.
        """
        with self._lock, torch.enable_grad():
            if self._relus is not None:
                self._relus.begin_backward()
            # A clone, since a caller's own function may do anything with it.
            chosen = choose(self._value.clone() if keep else self._value)
            outputs = torch.unbind(chosen) if chosen.numel() > 1 else chosen
            (gradient,) = torch.autograd.grad(outputs, self._x, retain_graph=keep)
            return gradient.contiguous() if self._reordered else gradient

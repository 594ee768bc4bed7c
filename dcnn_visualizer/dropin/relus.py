"""Captum's rules of ReLU, by hooks: gradients pass the network's ``nn.ReLU`` modules rectified."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnn_visualizer.dropin.hooks import Hook


class OverriddenReLUs:
    """ReLUs whose gradients are overridden, in this thread's forward passes from now on.

    As in Captum the rule is applied to all of the gradient that arrives at what the ReLU took, even if others took it too; of a
    ReLU that is called several times the signal at the output is that of the call which the way back met last; and one that
    several modules hold is overridden once for each.

    Args:
        module: The network.
        by_signal: Whether what passes is the signal at the output, max(g, 0), as in DeconvNet (Zeiler and Fergus, 2014), or the
            gradient at the input, max(g·[x>0], 0), as in guided backpropagation (Springenberg et al., 2015).
    """

    def __init__(self, module: nn.Module, by_signal: bool) -> None:
        self._by_signal = by_signal
        self._everywhere = any(isinstance(part, nn.DataParallel) for part in module.modules())
        self._on_modules: list[Any] = []
        self._on_tensors: list[Any] = []
        self._signals: list[dict[torch.device, Tensor]] = []
        module.apply(self._override)

    def end_forward(self) -> None:
        """Lets further forward passes be as they are; hooks on tensors go with the tensors."""
        for handle in self._on_modules:
            handle.remove()

    def begin_backward(self) -> None:
        """Forgets the signals of another way back through the same forward pass."""
        for signals in self._signals:
            signals.clear()

    def remove(self) -> None:
        """Removes all hooks."""
        self.end_forward()
        for handle in self._on_tensors:
            handle.remove()

    def _override(self, part: nn.Module) -> None:
        if not isinstance(part, nn.ReLU):
            return
        signals: dict[torch.device, Tensor] = {}
        self._signals.append(signals)

        def override(gradient: Tensor) -> Tensor | None:
            if not signals:
                return None  # The way back begins before this ReLU.
            return F.relu(signals[gradient.device] if self._by_signal else gradient)

        def note(gradient: Tensor) -> None:
            signals[gradient.device] = gradient

        def enter(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
            (x,) = arguments
            if x.requires_grad:
                self._on_tensors.append(x.register_hook(override))
            # A ReLU in place works on the clone, so that what it took remains.
            return (x.clone(),)

        def leave(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
            if output.requires_grad:
                self._on_tensors.append(output.register_hook(note))

        self._on_modules.append(part.register_forward_pre_hook(Hook(enter, self._everywhere)))
        self._on_modules.append(part.register_forward_hook(Hook(leave, self._everywhere)))

"""Hooks on modules that the forward passes of other threads don't meet, so that one module may serve several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch


class Hook:
    """A hook on a module.

    Args:
        call: What is called, as PyTorch calls hooks.
        everywhere: Whether passes of other threads are meant too, as ``DataParallel`` has them. They are those of this question
            and of anybody else.
    """

    def __init__(self, call: Callable[..., Any], everywhere: bool = False) -> None:
        self._call, self._everywhere = call, everywhere
        self.thread = this_thread()

    def __call__(self, *arguments: Any) -> Any:
        """Calls what is to be called; None, which changes nothing, for passes that aren't meant."""
        if self._everywhere or this_thread() in (self.thread, None):
            return self._call(*arguments)
        return None


def this_thread() -> int | None:
    """Number of the thread that asks; None within a module that PyTorch compiles, where threads can't be told apart."""
    return None if torch.compiler.is_compiling() else threading.get_ident()


def numbers_of(hooks: Mapping[int, Any]) -> tuple[int, ...]:
    """The hooks of a module, by PyTorch's numbers, but for those that other threads have here for the moment."""
    if not hooks:
        return ()
    thread = this_thread()
    # A tuple, since others may add some meanwhile.
    return tuple(number for number, hook in tuple(hooks.items()) if not isinstance(hook, Hook) or hook.thread == thread)

"""How Captum is told what to look at: inputs, targets, neurons, windows and baselines. Meanings and kinds of errors are its own.

N. Kokhlikyan et al., "Captum: A unified and generic model interpretability library for PyTorch", arXiv:2009.07896, 2020.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

#: An int, a tuple of them, or for each example one of these, as a list or a tensor; None for a network with one output.
Target: TypeAlias = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
#: An int, a tuple of ints and slices, or a callable from a layer's output to one number an example.
Selector: TypeAlias = int | tuple[int | slice, ...] | Callable[[Any], Tensor]
Tensors: TypeAlias = Tensor | tuple[Tensor, ...]


def _require(holds: bool, message: str) -> None:
    # Captum asserts what it expects; whoever catches that must go on catching it, with python -O too.
    if not holds:
        raise AssertionError(message)


def as_tuple(inputs: Tensors) -> tuple[Tensor, ...]:
    """Inputs as a tuple.

    Raises:
        AssertionError: Neither a tensor nor a tuple.
    """
    if isinstance(inputs, tuple):
        return inputs
    _require(isinstance(inputs, Tensor), f"inputs must be a torch.Tensor or a tuple of them, got {type(inputs).__name__}")
    return (inputs,)


def unpacked(inputs: Any) -> Sequence[Any]:
    """What a network is called with: a tuple or a list is several inputs, anything else is one."""
    return inputs if isinstance(inputs, (tuple, list)) else (inputs,)


def like(inputs: Any, results: Sequence[Tensor]) -> Tensors:
    """Results as a tuple where the inputs came as one, else the only one of them."""
    return tuple(results) if isinstance(inputs, tuple) else results[0]


def further_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """What else the network is called with."""
    if additional_forward_args is None:
        return ()
    return additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)


def call(forward_func: Callable[..., Any], inputs: Sequence[Tensor], further: Sequence[Any]) -> Any:
    """Calls the network; one that takes nothing is called with nothing."""
    if not inspect.signature(forward_func).parameters:
        return forward_func()
    return forward_func(*inputs, *further)


@contextmanager
def gradients_required(inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """While this lasts, the inputs require gradients; a warning says so where they did not before."""
    changed = []
    for number, x in enumerate(inputs):
        _require(isinstance(x, Tensor), f"inputs must be tensors, got {type(x).__name__} as input {number}")
        if not (x.is_floating_point() or x.is_complex()):
            message = f"Input Tensor {number} has a dtype of {x.dtype}.\n Gradients cannot be activated for these data types."
            warnings.warn(message, stacklevel=6)
        elif not x.requires_grad:
            message = f"Input Tensor {number} did not already require gradients, required_grads has been set automatically."
            warnings.warn(message, stacklevel=6)
            changed.append(x.requires_grad_())
    try:
        yield
    finally:
        for x in changed:
            x.requires_grad_(False)


def select_target(output: Any, target: Target) -> Any:
    """The outputs that are asked about.

    Args:
        output: What the network returned, (B, ...).
        target: Which of it.

    Returns:
        One output an example, (B,), unless the target leaves axes open.

    Raises:
        AssertionError: A target that doesn't fit the output.
    """
    if target is None:
        return output
    examples = output.shape[0]
    if isinstance(target, Tensor) and target.numel() == 1 and isinstance(target.item(), int):
        target = target.item()
    if isinstance(target, (int, tuple)):
        return _select(output, target)
    if isinstance(target, Tensor):
        fits = target.shape == (examples,)
        _require(fits, f"a tensor of targets must have one for each of {examples} examples, got shape {tuple(target.shape)}")
        return _select_one_each(output, target)
    _require(isinstance(target, list), f"target must be an int, a tuple, a tensor or a list, got {type(target).__name__}")
    _require(len(target) == examples, f"a list of targets must have one for each of {examples} examples, got {len(target)}")
    if all(isinstance(one, int) for one in target):
        return _select_one_each(output, torch.tensor(target, device=output.device))
    _require(all(isinstance(one, tuple) for one in target), f"a list of targets must be of ints or of tuples, got {target!r}")
    return torch.stack([output[(example, *one)] for example, one in enumerate(target)])


def _select(output: Tensor, index: int | slice | tuple[int | slice, ...]) -> Tensor:
    index = (index,) if isinstance(index, (int, slice)) else index
    room = output.ndim - 1
    _require(len(index) <= room, f"an output of shape {tuple(output.shape)} is indexed by up to {room} numbers, got {index}")
    return output[(slice(None), *index)]


def _select_one_each(output: Tensor, targets: Tensor) -> Tensor:
    _require(output.ndim == 2, f"one target an example is for outputs of two axes, got shape {tuple(output.shape)}")
    return output.gather(1, targets.reshape(-1, 1)).squeeze(1)


def select_neurons(outputs: tuple[Tensor, ...], selector: Selector) -> Tensor:
    """The neurons of a layer that are asked about, summed where slices choose several.

    Args:
        outputs: What the layer returned, or took.
        selector: Which of it.

    Raises:
        AssertionError: A selector that doesn't fit.
        TypeError: Something else than a selector.
    """
    if callable(selector):
        return selector(outputs if len(outputs) > 1 else outputs[0])
    if not isinstance(selector, (int, slice, Sequence)) or isinstance(selector, str):
        raise TypeError(f"neuron_selector must be an int, a tuple of ints and slices, or a callable, got {selector!r}")
    _require(len(outputs) == 1, f"only a callable can choose from a layer of {len(outputs)} tensors, got {selector!r}")
    chosen = _select(outputs[0], selector)
    if any(isinstance(index, slice) for index in (selector if isinstance(selector, tuple) else (selector,))):
        return chosen.reshape(chosen.shape[0], -1).sum(1)
    return chosen


def single_score(scores: Tensor) -> Tensor:
    """Returns the scores if there is one an example.

    Raises:
        AssertionError: There are more: a target is missing.
    """
    given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
    _require(scores[0].numel() == 1, f"gradients are of one output an example, got {given}: give the target that you ask about")
    return scores


def repeat_target(target: Target, times: int) -> Target:
    """A target for a batch that holds all examples so many times over."""
    if isinstance(target, list):
        return target * times
    return torch.cat([target] * times) if isinstance(target, Tensor) and target.numel() > 1 else target


def target_of(target: Target, example: int, times: int) -> Target:
    """A target for a batch that holds one of the examples so many times over."""
    if isinstance(target, list):
        return [target[example]] * times
    return target[example].repeat(times) if isinstance(target, Tensor) and target.numel() > 1 else target


def repeat_arguments(further: Sequence[Any], times: int) -> list[Any]:
    """Further arguments for a batch that holds all examples so many times over; what is no tensor is the same for all."""
    return [torch.cat([one] * times) if isinstance(one, Tensor) and one.ndim else one for one in further]


def baselines_for(baselines: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What hides the inputs, as tensors of their shapes, broadcast where need be.

    Args:
        baselines: A number or a tensor for each input, in a tuple if there are several; None for zeros.
        inputs: The inputs.

    Raises:
        AssertionError: Neither numbers nor tensors.
        IndexError: Too few.
        RuntimeError: A tensor that can't be broadcast to its input's shape.
    """
    if baselines is None:
        baselines = tuple(False if x.dtype is torch.bool else 0 for x in inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    for baseline in given:
        fits = isinstance(baseline, (Tensor, int, float))
        _require(fits, f"baselines must be numbers or tensors, got {type(baseline).__name__}")
    if len(given) < len(inputs):
        raise IndexError(f"baselines must be one for each of {len(inputs)} inputs, got {len(given)}")
    whole = []
    for baseline, x in zip(given, inputs, strict=False):
        # A tensor without axes counts as much as any other in what comes of two dtypes.
        dtype = torch.result_type(x, baseline[None] if isinstance(baseline, Tensor) else baseline)
        as_tensor = baseline if isinstance(baseline, Tensor) else torch.tensor(baseline, device=x.device)
        whole.append(as_tensor.to(dtype).expand(x.shape))
    return whole


def start_points(start_point: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Where attributions start, as tensors of the shapes of the inputs; one example may stand for all.

    Args:
        start_point: A number or a tensor for each input, in a tuple if there are several; None for zeros.
        inputs: The inputs.

    Raises:
        AssertionError: Neither numbers nor tensors, too few, or another shape.
    """
    given = (0,) * len(inputs) if start_point is None else start_point if isinstance(start_point, tuple) else (start_point,)
    _require(len(given) >= len(inputs), f"start_point must have one for each of {len(inputs)} inputs, got {len(given)}")
    points = []
    for point, x in zip(given, inputs, strict=False):
        number = isinstance(point, (int, float))
        _require(number or isinstance(point, Tensor), f"start_point must be of numbers or tensors, got {type(point).__name__}")
        point = torch.full_like(x, point) if number else point.expand(x.shape) if point.shape == (1, *x.shape[1:]) else point
        _require(
            point.shape == x.shape, f"start_point must have the shape of the inputs, {tuple(x.shape)}, got {tuple(point.shape)}"
        )
        points.append(point)
    return tuple(points)


def sliding_windows(sliding_window_shapes: Any, strides: Any, inputs: tuple[Tensor, ...]) -> list[list[list[slice]]]:
    """Places of an occluder that slides over inputs along all their axes but that of the batch.

    The first window starts at 0 everywhere; the last ones are clipped at the end.

    Args:
        sliding_window_shapes: The occluder's shape; with several inputs a tuple of shapes.
        strides: Its step: an int for all axes, or a tuple of one an axis; with several inputs a tuple of either. None for 1.
        inputs: The inputs.

    Returns:
        For each input, for each axis, the slices that windows take of it. A window is any combination of them.

    Raises:
        AssertionError: Shapes or strides that don't fit the inputs, or leave gaps.
    """
    shapes = sliding_window_shapes
    if not shapes or isinstance(shapes[0], int):
        shapes = (shapes,)
    if strides is None:
        strides = (1,) * len(inputs)
    elif len(inputs) == 1 and not (isinstance(strides, tuple) and len(strides) == 1):
        strides = (strides,)
    _require(len(shapes) == len(inputs), f"sliding_window_shapes must be one for each of {len(inputs)} inputs, got {shapes}")
    fits = isinstance(strides, tuple) and len(strides) == len(inputs)
    _require(fits, f"strides must be one for each of {len(inputs)} inputs, got {strides}")
    return [_windows_of_input(*each) for each in zip(shapes, strides, inputs, strict=True)]


def _windows_of_input(shape: Any, stride: Any, x: Tensor) -> list[list[slice]]:
    sizes = tuple(x.shape[1:])
    fits = isinstance(shape, tuple) and len(shape) == len(sizes)
    _require(fits, f"an input of shape {tuple(x.shape)} takes a window of {len(sizes)} sizes, got {shape}")
    steps = (stride,) * len(sizes) if isinstance(stride, int) else stride
    fits = isinstance(steps, tuple) and len(steps) == len(sizes)
    _require(fits, f"an input of shape {tuple(x.shape)} takes an int or {len(sizes)} of them as stride, got {stride}")
    axes = []
    for size, window, step in zip(sizes, shape, steps, strict=True):
        _require(window > 0 < step, f"sizes of windows and strides must be at least 1, got {shape} and {steps}")
        _require(window <= size, f"windows of {shape} are larger than an input of shape {tuple(x.shape)}")
        _require(window == size or step <= window, f"strides of {steps} leave gaps between windows of {shape}")
        count = math.ceil((size - window) / step) + 1
        axes.append([slice(start, min(start + window, size)) for start in range(0, count * step, step)])
    return axes

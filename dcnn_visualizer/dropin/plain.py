"""What PyTorch's autograd answers, for whatever can't be traced: any callable, several inputs, windows of any shape."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dcnn_visualizer.dropin.arguments import (
    Selector,
    Target,
    Tensors,
    as_tuple,
    call,
    further_arguments,
    repeat_arguments,
    repeat_target,
    select_neurons,
    select_target,
    single_score,
)
from dcnn_visualizer.dropin.hooks import Hook, this_thread
from dcnn_visualizer.dropin.relus import OverriddenReLUs

Forward = Callable[..., Any]


def gradients(
    forward_fn: Forward, inputs: Tensors, target_ind: Target = None, additional_forward_args: Any = None
) -> tuple[Tensor, ...]:
    """Gradients of the scores that a target chooses, summed over the examples, with respect to each input.

    Args:
        forward_fn: The network.
        inputs: Its inputs.
        target_ind: The scores asked about.
        additional_forward_args: Its further arguments, one or a tuple.
    """
    with torch.enable_grad():
        output = call(forward_fn, as_tuple(inputs), further_arguments(additional_forward_args))
        scores = single_score(select_target(output, target_ind))
        return torch.autograd.grad(torch.unbind(scores), inputs)


def convergence_delta(
    forward: Forward,
    attributions: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    ends: tuple[Tensor, ...],
    target: Target,
    further: Sequence[Any],
) -> Tensor:
    """What attributions sum to, minus what the score changes by from one point to the other: (B,).

    Raises:
        AssertionError: Attributions of another number of examples.
    """
    for attribution, end in zip(attributions, ends, strict=False):
        if len(attribution) != len(end):
            raise AssertionError(f"attributions must be of {len(end)} examples, as end_point is, got {len(attribution)}")

    def sums(values: Tensor) -> Tensor:
        return values.reshape(len(values), -1).sum(1)

    with torch.no_grad():
        before, after = (sums(select_target(call(forward, point, further), target)) for point in (starts, ends))
        return torch.stack([sums(attribution) for attribution in attributions]).sum(0) - (after - before)


def neuron_gradients(
    forward: Forward,
    inputs: tuple[Tensor, ...],
    layer: nn.Module,
    selector: Selector,
    further: Sequence[Any],
    of_input: bool,
    device_ids: Sequence[int] | None,
) -> tuple[Tensor, ...]:
    """Gradients of neurons of a layer with respect to each input; see :func:`layer_values` for the arguments."""
    with torch.enable_grad():
        (by_device,) = layer_values(forward, inputs, [layer], further, of_input, device_ids)
        parts = []
        for values in by_device:
            neurons = select_neurons(values, selector)
            parts.append(torch.autograd.grad(torch.unbind(neurons) if neurons.numel() > 1 else neurons, inputs))
        return tuple(sum(part[1:], part[0]) for part in zip(*parts, strict=True))


def layer_values(
    forward: Forward,
    inputs: Sequence[Tensor],
    layers: Sequence[nn.Module],
    further: Sequence[Any],
    of_input: bool,
    device_ids: Sequence[int] | None,
) -> list[list[tuple[Tensor, ...]]]:
    """Runs the network and notes what layers return, or take. Of a layer that runs several times, the last is kept.

    Args:
        forward: The network.
        inputs: Its inputs.
        layers: Modules in it.
        further: Its further arguments.
        of_input: Whether to note what the layers take.
        device_ids: The order of devices on which a ``DataParallel`` network runs; by default its own.

    Returns:
        For each layer, for each device, the tensors noted.

    Raises:
        AssertionError: A layer didn't run, or the order of devices isn't known.
    """
    # By thread: those of others count only where this one ran no layer, as with DataParallel.
    noted: list[defaultdict[int | None, dict[torch.device, tuple[Tensor, ...]]]] = [defaultdict(dict) for _ in layers]

    def note(number: int, values: Any) -> None:
        values = values if isinstance(values, (tuple, list)) else (values,)
        # Clones: what follows may write in place.
        noted[number][this_thread()][values[0].device] = tuple(value.clone() for value in values)

    handles = []
    try:
        for number, layer in enumerate(layers):
            if of_input:
                hook = Hook(lambda _, inputs, number=number: note(number, inputs), everywhere=True)
                handles.append(layer.register_forward_pre_hook(hook))
            else:
                hook = Hook(lambda _, __, output, number=number: note(number, output), everywhere=True)
                handles.append(layer.register_forward_hook(hook))
        call(forward, inputs, further)
    finally:
        for handle in handles:
            handle.remove()
    order = getattr(forward, "device_ids", None) if device_ids is None else device_ids
    results = []
    for layer, by_thread in zip(layers, noted, strict=True):
        own = by_thread.get(this_thread())
        by_device = own or {device: values for one in tuple(by_thread.values()) for device, values in one.items()}
        if not by_device:
            raise AssertionError(f"layer {type(layer).__name__} didn't run")
        if len(by_device) > 1 and (order is None or not {device.index for device in by_device} <= set(order)):
            raise AssertionError(f"the layer ran on {list(map(str, by_device))}; device_ids must name them, got {order}")
        devices = sorted(by_device, key=lambda device: order.index(device.index) if order else 0)
        results.append([by_device[device] for device in devices])
    return results


@contextmanager
def relus_overridden(module: nn.Module, by_signal: bool) -> Iterator[None]:
    """While this lasts, gradients pass the network's ``nn.ReLU`` modules rectified; see :class:`OverriddenReLUs`."""
    relus = OverriddenReLUs(module, by_signal)
    try:
        yield
    finally:
        relus.remove()


def as_scores(output: Any) -> Tensor:
    """What a network returned, which may be a mere number, as a tensor.

    Raises:
        AssertionError: It is neither.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, (int, float)):
        raise AssertionError(f"forward_func must return a tensor or a number, got {type(output).__name__}")
    return torch.tensor(output, dtype=torch.int64 if isinstance(output, int) else torch.float64)


def occlusion_differences(
    forward: Forward,
    inputs: tuple[Tensor, ...],
    baselines: Sequence[Tensor],
    windows: Sequence[list[list[slice]]],
    target: Target,
    further: Sequence[Any],
    perturbations_per_eval: int,
    advance: Callable[[int], Any],
) -> list[Tensor]:
    """How scores fall as each window of each input is hidden.

    Args:
        forward: The network.
        inputs: Its inputs.
        baselines: What hides them, tensors of their shapes.
        windows: See :func:`~dcnn_visualizer.dropin.arguments.sliding_windows`.
        target: The scores asked about.
        further: Further arguments.
        perturbations_per_eval: Windows that are hidden in one run of the network, each in a copy of all inputs.
        advance: Called with 1 after each run.

    Returns:
        For each input a tensor (scores, windows...): the scores as they are minus those with the window hidden.

    Raises:
        AssertionError: With several windows in a run, the network doesn't return scores for each copy.
    """
    original = as_scores(select_target(call(forward, inputs, further), target))
    advance(1)
    # In Captum's order, the first axis first, which matters where the examples of one run bear on each other.
    places = (
        (number, place[::-1])
        for number, axes in enumerate(windows)
        for place in itertools.product(*reversed(axes))
        if inputs[number].numel()
    )
    falls: list[list[Tensor]] = [[] for _ in inputs]
    for chosen in _batched(places, perturbations_per_eval):
        times = len(chosen)
        copies = [torch.cat([x] * times) for x in inputs]
        for number in {number for number, _ in chosen}:
            copies[number] = copies[number].to(baselines[number].dtype)
        for example, (number, place) in enumerate(chosen):
            hidden = copies[number].unflatten(0, (times, -1))[example]
            hidden[(slice(None), *place)] = baselines[number][(slice(None), *place)]
        scores = call(forward, copies, repeat_arguments(further, times))
        scores = as_scores(select_target(scores, repeat_target(target, times)))
        if perturbations_per_eval > 1 and not (original.ndim and scores.shape == (times * len(original), *original.shape[1:])):
            raise AssertionError(
                "with perturbations_per_eval above 1 forward_func must return scores for each example: for "
                f"{len(inputs[0])} it returned shape {tuple(original.shape)}, for {len(copies[0])} {tuple(scores.shape)}"
            )
        for (number, _), fall in zip(chosen, original.reshape(1, -1) - scores.reshape(times, original.numel()), strict=True):
            falls[number].append(fall)
        advance(1)
    differences = []
    for axes, of_input in zip(windows, falls, strict=True):
        by_place = torch.stack(of_input) if of_input else original.new_zeros((math.prod(map(len, axes)), original.numel()))
        by_axes = by_place.T.reshape(-1, *[len(axis) for axis in reversed(axes)])
        differences.append(by_axes.permute(0, *range(len(axes), 0, -1)))
    return differences


def _batched(values: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chosen := list(itertools.islice(values, size)):
        yield chosen

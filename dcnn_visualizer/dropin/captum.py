"""Captum's classes, answered faster: ``from dcnn_visualizer.dropin.captum import Occlusion`` and change nothing else.

Constructors, ``attribute``, defaults, results, warnings and kinds of errors are those of Captum 0.9, which isn't needed itself. A
``torch.nn.Module`` that takes one batch of pictures is converted once (see :mod:`dcnn_visualizer.importers.torch`). From then on
what an occluder changes is all that is carried through it (:mod:`dcnn_visualizer.dropin.sweeps`), neurons are projected from
their receptive fields, and no layer runs that isn't needed (:mod:`dcnn_visualizer.dropin.accelerated`). Where PyTorch itself
takes less time, in the order of memory that it likes best, it does the work (:mod:`dcnn_visualizer.dropin.contest`). What is
beyond that, PyTorch answers as it does for Captum, and a :class:`NotAccelerated` warning says so once an object.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnn_visualizer.dropin import occlusion, plain
from dcnn_visualizer.dropin.accelerated import DECONVOLUTION, GRADIENT, GUIDED, Neuron, project, project_as_it_is
from dcnn_visualizer.dropin.arguments import (
    Selector,
    Target,
    Tensors,
    as_tuple,
    baselines_for,
    further_arguments,
    gradients_required,
    like,
    select_neurons,
    select_target,
    single_score,
    sliding_windows,
    start_points,
    unpacked,
)
from dcnn_visualizer.dropin.conversions import as_pictures, converted
from dcnn_visualizer.dropin.tape import values
from dcnn_visualizer.importers.nodes import UntraceableError

P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "Deconvolution",
    "GuidedBackprop",
    "LayerActivation",
    "NeuronDeconvolution",
    "NeuronGradient",
    "NeuronGuidedBackprop",
    "NotAccelerated",
    "Occlusion",
    "Saliency",
]


class NotAccelerated(UserWarning):
    """The network can't be converted, so PyTorch answers as it does for Captum; the message says why."""


def _composable(attribute: Callable[P, R]) -> Callable[P, R]:
    """Gives a method the ``__wrapped__`` by which Captum's own NoiseTunnel calls those of others."""

    @functools.wraps(attribute)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return attribute(*args, **kwargs)

    return call


class _Attribution:
    """What all of Captum's classes have."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func
        self._told = False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are of inputs rather than of their changes."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether attributions come with an error; none of these do."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The name of the class, in words."""
        return "".join(char if char.islower() or not at else f" {char}" for at, char in enumerate(cls.__name__))

    def _tell(self, reason: Exception, stacklevel: int) -> None:
        if not self._told:
            self._told = True
            message = f"{type(self).__name__} is not accelerated, PyTorch answers: {reason}"
            warnings.warn(message, NotAccelerated, stacklevel=stacklevel)


class _GradientAttribution(_Attribution):
    """Gradients with respect to inputs, of outputs or of neurons, with ReLU's own rule or another.

    Attributes:
        gradient_func: What takes gradients of outputs, from the network, its inputs, a target and further arguments, where
            PyTorch answers. One of your own always does.
    """

    _rule = GRADIENT
    model: nn.Module
    layer: nn.Module
    device_ids: list[int] | None

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__(forward_func)
        self.gradient_func: Callable[..., tuple[Tensor, ...]] = plain.gradients

    def compute_convergence_delta(
        self,
        attributions: Tensors,
        start_point: Any,
        end_point: Tensors,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """How far attributions are from complete: their sum minus what the score changes by from one point to the other.

        Args:
            attributions: A tensor whose first axis is the batch, or a tuple of them.
            start_point: Inputs at which they would be 0: a number or a tensor; for several inputs a tuple of them. None for 0.
            end_point: The inputs, a tensor or a tuple of them.
            target: Which output, as in ``attribute``.
            additional_forward_args: Further arguments of the network, one or a tuple.

        Returns:
            Tensor (B,).

        Raises:
            AssertionError: Points or attributions that don't fit one another, or a target that doesn't fit.
        """
        further, ends = further_arguments(additional_forward_args), as_tuple(end_point)
        starts = start_points(start_point, ends)
        return plain.convergence_delta(self.forward_func, as_tuple(attributions), starts, ends, target, further)

    def _attribute(
        self,
        inputs: Tensors,
        additional_forward_args: Any,
        target: Target = None,
        selector: Selector | None = None,
        of_input: bool = False,
    ) -> tuple[Tensor, ...]:
        tensors = as_tuple(inputs)
        with gradients_required(tensors):
            if self._rule is not GRADIENT:
                warnings.warn(
                    "Setting backward hooks on ReLU activations.The hooks will be removed after the attribution is finished",
                    stacklevel=4,
                )

            def choose(output: Tensor) -> Tensor:
                if selector is None:
                    return single_score(select_target(output, target))
                return select_neurons((output,), selector)

            try:
                if selector is None and self.gradient_func is not plain.gradients:
                    raise UntraceableError("it has a gradient_func of its own")
                if self._rule is not GRADIENT and self.forward_func is not self.model:
                    raise UntraceableError("forward_func has become another than the model")
                x = as_pictures(self.forward_func, tensors, further_arguments(additional_forward_args))
                if selector is None:
                    gradient = project_as_it_is(self.forward_func, x, choose, self._rule)
                    if gradient is not None:
                        return (gradient,)
                conversion = converted(self.forward_func, x)
                if conversion.stop is not None:
                    raise UntraceableError(f"{conversion.stop} passes no gradients, or others than its own")
                if self._rule is not GRADIENT and not conversion.overrides_as_captum:
                    raise UntraceableError("Captum's hooks do more to it than override each ReLU by itself")
                layer = self.forward_func if selector is None else self.layer
                call = conversion.call(self.forward_func, layer, of_input)
            except UntraceableError as error:
                self._tell(error, stacklevel=5)
                return self._attribute_plainly(tensors, additional_forward_args, target, selector, of_input)
            return (project(self.forward_func, conversion, x, call, choose, self._rule, _single(selector)),)

    def _attribute_plainly(
        self, inputs: tuple[Tensor, ...], additional_forward_args: Any, target: Target, selector: Selector | None, of_input: bool
    ) -> tuple[Tensor, ...]:
        changed = self._rule is not GRADIENT
        with plain.relus_overridden(self.model, self._rule is DECONVOLUTION) if changed else nullcontext():
            if selector is None:
                return self.gradient_func(self.forward_func, inputs, target, additional_forward_args)
            further = further_arguments(additional_forward_args)
            return plain.neuron_gradients(self.forward_func, inputs, self.layer, selector, further, of_input, self.device_ids)


def _single(selector: Selector | None) -> Neuron | None:
    """The neuron of feature maps that a selector chooses, if it is a single one."""
    match selector:
        case (int(channel), int(row), int(column)) if min(channel, row, column) >= 0 and bool not in map(type, selector):
            return channel, row, column
    return None


class Saliency(_GradientAttribution):
    """Gradients with respect to inputs (K. Simonyan, A. Vedaldi and A. Zisserman, ICLR workshop 2014).

    Args:
        forward_func: The network, or any function of its inputs.
    """

    @_composable
    def attribute(self, inputs: Tensors, target: Target = None, abs: bool = True, additional_forward_args: Any = None) -> Tensors:
        """Computes the gradients.

        Args:
            inputs: A tensor whose first axis is the batch, or a tuple of them.
            target: Which output: an int or a tuple for all examples, a list or a tensor of one for each; None if there is one.
            abs: Whether to take absolute values.
            additional_forward_args: Further arguments of the network, one or a tuple.

        Returns:
            Attributions of the shapes of the inputs; a tuple for a tuple.

        Raises:
            AssertionError: Inputs or a target that don't fit.
        """
        gradients = self._attribute(inputs, additional_forward_args, target)
        return like(inputs, [gradient.abs() for gradient in gradients] if abs else gradients)

    def attribute_future(self) -> None:
        """As in Captum, there is none."""
        raise NotImplementedError("attribute_future is not implemented for Saliency")


class _OverridingReLU(_GradientAttribution):
    """Gradients that pass ``nn.ReLU`` modules by another rule; ReLU called as a function keeps its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(model, nn.Module):
            raise AssertionError(f"model must be a torch.nn.Module, so that its ReLUs can be found, got {type(model).__name__}")
        self.model = model

    @_composable
    def attribute(self, inputs: Tensors, target: Target = None, additional_forward_args: Any = None) -> Tensors:
        """Computes the attributions.

        Args:
            inputs: A tensor whose first axis is the batch, or a tuple of them.
            target: Which output: an int or a tuple for all examples, a list or a tensor of one for each; None if there is one.
            additional_forward_args: Further arguments of the network, one or a tuple.

        Returns:
            Attributions of the shapes of the inputs; a tuple for a tuple.

        Raises:
            AssertionError: Inputs or a target that don't fit.
        """
        return like(inputs, self._attribute(inputs, additional_forward_args, target))

    def attribute_future(self) -> None:
        """As in Captum, there is none."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")


class GuidedBackprop(_OverridingReLU):
    """Guided backpropagation, max(g·[x>0], 0) at ReLUs: DeSaliNet's rule (J. Springenberg et al., ICLR workshop 2015).

    Args:
        model: The network.

    Raises:
        AssertionError: It is no module.
    """

    _rule = GUIDED


class Deconvolution(_OverridingReLU):
    """Deconvolution, max(g, 0) at ReLUs (M. Zeiler and R. Fergus, ECCV 2014).

    Args:
        model: The network.

    Raises:
        AssertionError: It is no module.
    """

    _rule = DECONVOLUTION


class _OfNeuron(_GradientAttribution):
    """Attributions of neurons of a layer."""

    def __init__(self, forward_func: Callable[..., Any], layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func)
        self.layer = layer
        self.device_ids = device_ids

    @_composable
    def attribute(
        self,
        inputs: Tensors,
        neuron_selector: Selector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Tensors:
        """Computes the attributions.

        Args:
            inputs: A tensor whose first axis is the batch, or a tuple of them.
            neuron_selector: Which neuron: an int or a tuple of ints; slices among them sum the neurons they choose; or a
                callable, from what the layer returns to one number, or one for each example.
            additional_forward_args: Further arguments of the network, one or a tuple.
            attribute_to_neuron_input: Whether to ask about what the layer takes instead.

        Returns:
            Attributions of the shapes of the inputs; a tuple for a tuple.

        Raises:
            AssertionError: Inputs or a selector that don't fit, or a layer that doesn't run.
            TypeError: Something else than a selector.
            ValueError: No selector.
        """
        if neuron_selector is None:
            raise ValueError("neuron_selector must be an int, a tuple of ints and slices, or a callable, got None")
        chosen = self._attribute(inputs, additional_forward_args, None, neuron_selector, attribute_to_neuron_input)
        return like(inputs, chosen)


class NeuronGradient(_OfNeuron):
    """Gradients of a neuron with respect to inputs.

    Args:
        forward_func: The network, or any function of its inputs.
        layer: A module in it.
        device_ids: The order of devices of a ``DataParallel`` network that ``forward_func`` calls.
    """


class _OfNeuronOverridingReLU(_OfNeuron):
    """Attributions of neurons, by another rule of ReLU."""

    def __init__(self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        if not isinstance(model, nn.Module):
            raise AssertionError(f"model must be a torch.nn.Module, so that its ReLUs can be found, got {type(model).__name__}")
        self.model = model


class NeuronGuidedBackprop(_OfNeuronOverridingReLU):
    """:class:`GuidedBackprop` of a neuron.

    Args:
        model: The network.
        layer: A module in it.
        device_ids: The order of devices of a ``DataParallel`` network.

    Raises:
        AssertionError: ``model`` is no module.
    """

    _rule = GUIDED


class NeuronDeconvolution(_OfNeuronOverridingReLU):
    """:class:`Deconvolution` of a neuron.

    Args:
        model: The network.
        layer: A module in it.
        device_ids: The order of devices of a ``DataParallel`` network.

    Raises:
        AssertionError: ``model`` is no module.
    """

    _rule = DECONVOLUTION


class LayerActivation(_Attribution):
    """What layers return.

    Args:
        forward_func: The network, or any function of its inputs.
        layer: A module in it, or a list of them.
        device_ids: The order of devices of a ``DataParallel`` network that ``forward_func`` calls.
    """

    def __init__(
        self, forward_func: Callable[..., Any], layer: nn.Module | list[nn.Module], device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func)
        self.layer = layer
        self.device_ids = device_ids

    @property
    def multiplies_by_inputs(self) -> bool:
        """Activations count as such."""
        return True

    @_composable
    def attribute(
        self, inputs: Tensors, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> Tensors | list[Tensors]:
        """Runs the network, or as much of it as the layers need.

        Args:
            inputs: A tensor whose first axis is the batch, or a tuple of them; or whatever else the network takes.
            additional_forward_args: Further arguments of the network, one or a tuple.
            attribute_to_layer_input: Whether to give what the layers take instead.

        Returns:
            What the layer returned, a tuple if it was several tensors; for a list of layers a list of these.

        Raises:
            AssertionError: A layer didn't run.
        """
        layers = [self.layer] if isinstance(self.layer, nn.Module) else self.layer
        if not layers:
            raise AssertionError("layer must be a module or several of them, got none")
        further, given = further_arguments(additional_forward_args), unpacked(inputs)
        try:
            x = as_pictures(self.forward_func, given, further)
            conversion = converted(self.forward_func, x)
            calls = [conversion.call(self.forward_func, layer, attribute_to_layer_input) for layer in layers]
        except UntraceableError as error:
            self._tell(error, stacklevel=4)
            with torch.no_grad():
                noted = plain.layer_values(self.forward_func, given, layers, further, attribute_to_layer_input, self.device_ids)
            activations = [_joined(by_device) for by_device in noted]
        else:
            with torch.no_grad():
                activations = list(values(self.forward_func, x, calls))
        return activations[0] if isinstance(self.layer, nn.Module) else activations

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Resizes a layer's activation, (B, C, ...), as ``torch.nn.functional.interpolate`` does.

        Args:
            layer_attribution: The activation.
            interpolate_dims: The new sizes of all axes but the first two.
            interpolate_mode: The mode of interpolation.
        """
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


def _joined(by_device: list[tuple[Tensor, ...]]) -> Tensors:
    """What a layer returned on several devices, as one batch."""
    first = by_device[0][0].device
    joined = tuple(torch.cat([part.to(first) for part in parts]) for parts in zip(*by_device, strict=True))
    return joined if len(joined) > 1 else joined[0]


class Occlusion(_Attribution):
    """How the score falls as parts of the inputs are hidden (M. Zeiler and R. Fergus, ECCV 2014).

    Args:
        forward_func: The network, or any function of its inputs.
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are of whole inputs."""
        return True

    @_composable
    def attribute(
        self,
        inputs: Tensors,
        sliding_window_shapes: tuple[int, ...] | tuple[tuple[int, ...], ...],
        strides: int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None = None,
        baselines: Any = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Tensors:
        """Slides a window over the inputs, along all their axes but that of the batch.

        Each element gets the mean, over the windows that hide it, of the score as it is minus the score with the window hidden.

        Args:
            inputs: A tensor whose first axis is the batch, or a tuple of them.
            sliding_window_shapes: The window's sizes; for a tuple of inputs a tuple of shapes.
            strides: Its step: an int for all axes, or one an axis; for a tuple of inputs a tuple of either. None for 1.
            baselines: What hides: a number or a tensor; for a tuple of inputs a tuple of them. None for 0.
            target: Which output: an int or a tuple for all examples, a list or a tensor of one for each; None for all of them,
                whose attributions then follow one another along the first axis.
            additional_forward_args: Further arguments of the network, one or a tuple.
            perturbations_per_eval: Windows that are hidden in one run, each in a copy of the inputs. Converted networks take as
                many as suit them.
            show_progress: Whether to show a progress bar (tqdm).

        Returns:
            Attributions of the shapes of the inputs, float32 unless PyTorch's default is more exact; a tuple for a tuple.

        Raises:
            AssertionError: Windows, strides, baselines or a target that don't fit, or a network that doesn't return scores for
                each example while ``perturbations_per_eval`` is above 1.
            IndexError: Fewer baselines than inputs.
            ImportError: A progress bar is asked for and tqdm isn't installed.
        """
        tensors, further = as_tuple(inputs), further_arguments(additional_forward_args)
        windows = sliding_windows(sliding_window_shapes, strides, tensors)
        hiding = baselines_for(baselines, tensors)
        if not isinstance(perturbations_per_eval, int) or perturbations_per_eval < 1:
            raise AssertionError(f"perturbations_per_eval must be an int of at least 1, got {perturbations_per_eval!r}")
        runs = 1 + sum(math.ceil(math.prod(map(len, axes)) / perturbations_per_eval) for axes in windows)
        with torch.no_grad(), _progress(show_progress, f"{self.get_name()} attribution", runs) as advance:
            try:
                x = as_pictures(self.forward_func, tensors, further)
                if hiding[0].dtype != x.dtype:
                    raise UntraceableError(f"what hides parts of the input makes {hiding[0].dtype} of {x.dtype}")
                conversion = converted(self.forward_func, x)
            except UntraceableError as error:
                self._tell(error, stacklevel=4)
                differences = plain.occlusion_differences(
                    self.forward_func, tensors, hiding, windows, target, further, perturbations_per_eval, advance
                )
            else:
                found = occlusion.differences(
                    self.forward_func, conversion, x, hiding[0], windows[0], target, perturbations_per_eval, advance
                )
                differences = [found]
            return like(inputs, list(map(occlusion.averaged, differences, windows, tensors)))

    def attribute_future(self) -> None:
        """As in Captum, there is none."""
        raise NotImplementedError("attribute_future is not implemented for Occlusion")


@contextmanager
def _progress(wanted: bool, description: str, total: int) -> Iterator[Callable[[int], Any]]:
    if not wanted:
        yield lambda count: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("show_progress=True needs tqdm: pip install tqdm") from error
    with tqdm(desc=description, total=total, mininterval=0.5) as bar:
        yield bar.update

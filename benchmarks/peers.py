"""What torch and Chainer have for a primitive: calls that do the same to the same arrays.

``TORCH`` and ``CHAINER`` go by the name of the primitive, and where one name is not enough, its configuration too. Each entry is
given the arrays that the primitive reads and its settings, and returns a call; its imports come with it, since both are optional
to the benchmarks. Gradients are taken of a graph that is kept, so that the forward pass is not timed with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def torch_function(name: str, **fixed: Any) -> Callable[..., Call]:
    """A function of torch.nn.functional that is given the arrays as they are."""

    def prepare(*reads: np.ndarray, **settings: Any) -> Call:
        import torch

        tensors = [torch.from_numpy(array) for array in reads]
        function = getattr(torch.nn.functional, name)
        return without_gradients(lambda: function(*tensors, **fixed))

    return prepare


def without_gradients(call: Call) -> Call:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def torch_pooling(name: str, **fixed: Any) -> Callable[..., Call]:
    def prepare(x: np.ndarray, ksize: int, stride: int | None = None, pad: int = 0) -> Call:
        import torch

        tensor, function = torch.from_numpy(x), getattr(torch.nn.functional, name)
        return without_gradients(lambda: function(tensor, ksize, stride, pad, **fixed))

    return prepare


def torch_unpooling(y: np.ndarray, ksize: int, outsize: tuple[int, int], switches: np.ndarray, **settings: Any) -> Call:
    """Torch's indices count the pixels of the picture, and ours those of the window."""
    import torch

    rows, columns = np.indices(y.shape[2:]) * ksize
    indices = (rows + switches // ksize) * outsize[1] + columns + switches % ksize
    tensor, places = torch.from_numpy(y), torch.from_numpy(indices.astype(np.int64))
    return without_gradients(lambda: torch.nn.functional.max_unpool2d(tensor, places, ksize, output_size=outsize))


def torch_relu_reverse(g: np.ndarray, mask: np.ndarray | None = None, rectify: bool = False) -> Call:
    """The rectifier's input is the signal itself, as ``benchmarks/elementwise.py`` has it."""
    import torch

    signal = torch.from_numpy(g)

    def run() -> Any:
        passed = signal if mask is None else torch.ops.aten.threshold_backward(signal, signal, 0)
        return torch.relu(passed) if rectify else passed

    return without_gradients(run)


def torch_activation(x: np.ndarray, function: str) -> Call:
    return torch_function(function)(x)


def torch_activation_gradient(x: np.ndarray, g: np.ndarray, function: str) -> Call:
    import torch

    tensor, signal = torch.from_numpy(x), torch.from_numpy(g)
    gradient = getattr(torch.ops.aten, f"{function}_backward")
    return without_gradients(lambda: gradient(signal, tensor))


def torch_layer_normalization(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> Call:
    import torch

    tensor, by, to = map(torch.from_numpy, (x, gamma, beta))
    return without_gradients(lambda: torch.nn.functional.layer_norm(tensor, by.shape, by, to))


def torch_layer_normalization_gradient(x: np.ndarray, g: np.ndarray, gamma: np.ndarray) -> Call:
    import torch

    tensor, signal, by = torch.from_numpy(x).requires_grad_(), torch.from_numpy(g), torch.from_numpy(gamma)
    y = torch.nn.functional.layer_norm(tensor, by.shape, by)
    return lambda: torch.autograd.grad(y, tensor, signal, retain_graph=True)[0]


def torch_batch_normalization(x: np.ndarray, *channels: np.ndarray) -> Call:
    import torch

    tensor = torch.from_numpy(x)
    gamma, beta, mean, var = map(torch.from_numpy, channels)
    return without_gradients(lambda: torch.nn.functional.batch_norm(tensor, mean, var, gamma, beta, eps=2e-5))


def torch_lrn_gradient(x: np.ndarray, g: np.ndarray) -> Call:
    import torch

    tensor, signal = torch.from_numpy(x).requires_grad_(), torch.from_numpy(g)
    y = torch.nn.functional.local_response_norm(tensor, 5, 5e-4, 0.75, 2.0)
    return lambda: torch.autograd.grad(y, tensor, signal, retain_graph=True)[0]


def torch_adjoint(g: np.ndarray, W: np.ndarray) -> Call:
    import torch

    signal, weights = torch.from_numpy(g), torch.from_numpy(W)
    return without_gradients(lambda: signal @ weights)


def torch_convolution(name: str) -> Callable[..., Call]:
    def prepare(x: np.ndarray, W: np.ndarray, stride: int, pad: int, groups: int, outsize: Any = None) -> Call:
        import torch

        tensor, weights, function = torch.from_numpy(x), torch.from_numpy(W), getattr(torch.nn.functional, name)
        more = {}
        if outsize:  # what the strides leave over at the lower and right border
            plain = [(size - 1) * stride - 2 * pad + ksize for size, ksize in zip(x.shape[2:], W.shape[2:], strict=True)]
            more["output_padding"] = [size - least for size, least in zip(outsize, plain, strict=True)]
        return without_gradients(lambda: function(tensor, weights, None, stride, pad, groups=groups, **more))

    return prepare


def chainer_function(name: str, **fixed: Any) -> Callable[..., Call]:
    """A function of chainer.functions that is given the arrays and settings as they are."""

    def prepare(*reads: np.ndarray, **settings: Any) -> Call:
        chainer = imported_chainer()
        function = getattr(chainer.functions, name)

        def run() -> Any:
            with chainer.no_backprop_mode():
                return function(*reads, **settings, **fixed).array

        return run

    return prepare


def chainer_unpooling(y: np.ndarray, switches: np.ndarray, **settings: Any) -> Call:
    indexes = switches.astype(np.int32)
    return chainer_function("upsampling_2d", indexes=indexes)(y, **settings)


def chainer_gradient(name: str) -> Callable[..., Call]:
    def prepare(x: np.ndarray, g: np.ndarray | None = None, *unused: Any) -> Call:
        chainer = imported_chainer()
        variable, signal = chainer.Variable(x), chainer.Variable(x if g is None or g.shape != x.shape else g)
        y = getattr(chainer.functions, name)(variable)
        return lambda: chainer.grad([y], [variable], [signal])[0].array

    return prepare


def imported_chainer() -> Any:
    """Chainer, on a NumPy that it does not know."""
    import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
    import chainer

    return chainer


TORCH: dict[str, Callable[..., Call]] = {
    "relu": torch_function("relu"),
    "clipped_relu z=6": torch_function("relu6"),
    "leaky_relu slope=0.2": torch_function("leaky_relu", negative_slope=0.2),
    "prelu": torch_function("prelu"),
    "relu_reverse DeconvNet": torch_relu_reverse,
    "relu_reverse SaliNet": torch_relu_reverse,
    "relu_reverse DeSaliNet": torch_relu_reverse,
    "activation": torch_activation,
    "activation_gradient": torch_activation_gradient,
    "layer_normalization": torch_layer_normalization,
    "layer_normalization_gradient": torch_layer_normalization_gradient,
    "batch_normalization": torch_batch_normalization,
    "local_response_normalization": torch_function("local_response_norm", size=5, alpha=5e-4, beta=0.75, k=2.0),
    "local_response_normalization_gradient": torch_lrn_gradient,
    "max_pooling_2d": torch_pooling("max_pool2d", ceil_mode=True, return_indices=True),
    "unpooling_2d switch ksize=2": torch_unpooling,
    "average_pooling_2d": torch_pooling("avg_pool2d"),
    "linear": torch_function("linear"),
    "linear_adjoint": torch_adjoint,
    "convolution_2d": torch_convolution("conv2d"),
    "transposed_convolution_2d": torch_convolution("conv_transpose2d"),
}
CHAINER: dict[str, Callable[..., Call]] = {
    "relu": chainer_function("relu"),
    "clipped_relu z=6": chainer_function("clipped_relu", z=6.0),
    "leaky_relu slope=0.2": chainer_function("leaky_relu", slope=0.2),
    "prelu": chainer_function("prelu"),
    "relu_reverse SaliNet": chainer_gradient("relu"),
    "batch_normalization": chainer_function("fixed_batch_normalization", eps=2e-5),
    "local_response_normalization": chainer_function("local_response_normalization"),
    "local_response_normalization_gradient": chainer_gradient("local_response_normalization"),
    "max_pooling_2d": chainer_function("max_pooling_2d"),
    "unpooling_2d switch ksize=2": chainer_unpooling,
    "average_pooling_2d": chainer_function("average_pooling_2d"),
    "linear": chainer_function("linear"),
    "convolution_2d": chainer_function("convolution_2d"),
    "transposed_convolution_2d": chainer_function("deconvolution_2d"),
}
PEERS = {"torch": TORCH, "chainer": CHAINER}


def peers_of(primitive: str, configuration: str) -> dict[str, Callable[..., Call]]:
    """The entry of each peer that has one."""
    names = f"{primitive} {configuration}".strip(), primitive
    found = {peer: next((entries[name] for name in names if name in entries), None) for peer, entries in PEERS.items()}
    return {peer: entry for peer, entry in found.items() if entry}

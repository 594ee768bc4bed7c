"""Primitives of convolutional networks and of the ways back through them, on NumPy or CuPy arrays.

The backend follows the array, and NumPy arrays go to loops compiled by Numba where it is installed; ``backend="reference"``,
``"compiled"`` or ``"cuda"`` forces one. Only NumPy is needed.
"""

from dcnn_kernels.activations import activation, activation_gradient
from dcnn_kernels.arrays import BackendError
from dcnn_kernels.convolution import convolution_2d, transposed_convolution_2d, unpooled_transposed_convolution_2d
from dcnn_kernels.layer_normalization import layer_normalization, layer_normalization_gradient
from dcnn_kernels.linear import linear, linear_adjoint
from dcnn_kernels.normalization import (
    batch_normalization,
    batch_normalization_adjoint,
    local_response_normalization,
    local_response_normalization_gradient,
)
from dcnn_kernels.occlusion import occlude
from dcnn_kernels.patches import convolve_patches, crop_patches, max_pool_patches, patch_form, rectify_patches
from dcnn_kernels.pooling import (
    average_pooling_2d,
    average_pooling_2d_adjoint,
    global_average_pooling_2d,
    global_average_pooling_2d_adjoint,
    max_pooling_2d,
    unpooling_2d,
)
from dcnn_kernels.relu import clipped_relu, leaky_relu, prelu, relu, relu_mask, relu_reverse

__all__ = [
    "BackendError",
    "activation",
    "activation_gradient",
    "average_pooling_2d",
    "average_pooling_2d_adjoint",
    "batch_normalization",
    "batch_normalization_adjoint",
    "clipped_relu",
    "convolution_2d",
    "convolve_patches",
    "crop_patches",
    "global_average_pooling_2d",
    "global_average_pooling_2d_adjoint",
    "layer_normalization",
    "layer_normalization_gradient",
    "leaky_relu",
    "linear",
    "linear_adjoint",
    "local_response_normalization",
    "local_response_normalization_gradient",
    "max_pool_patches",
    "max_pooling_2d",
    "occlude",
    "patch_form",
    "prelu",
    "rectify_patches",
    "relu",
    "relu_mask",
    "relu_reverse",
    "transposed_convolution_2d",
    "unpooled_transposed_convolution_2d",
    "unpooling_2d",
]

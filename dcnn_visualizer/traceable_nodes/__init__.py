"""Layers that know their way back.

Every node answers the same few questions. ``forward`` takes and gives Chainer Variables and takes part in autograd.
``compute`` and ``record`` take and give arrays and run through ``dcnn_kernels``; ``record`` also keeps the little that
``reverse`` needs: switches, mask bits, shapes. Nodes hold weights but never activations, so one node serves any number of
pictures at once.

Reversals after A. Mahendran and A. Vedaldi, "Salient Deconvolutional Networks", ECCV 2016, section 3.
"""

from dcnn_visualizer.traceable_nodes.affine import TraceableAffine
from dcnn_visualizer.traceable_nodes.convolution import TraceableConvolution1D, TraceableConvolution2D
from dcnn_visualizer.traceable_nodes.identities import TraceableDropout, TraceableIdentity
from dcnn_visualizer.traceable_nodes.linear import TraceableLinear, TraceablePlacewiseLinear
from dcnn_visualizer.traceable_nodes.merging import (
    Add,
    Attention,
    BroadcastAdd,
    Concatenate,
    Divide,
    MatrixMultiply,
    Maximum,
    Multiply,
    ReshapeLike,
    Stack,
    StretchTo,
    Subtract,
)
from dcnn_visualizer.traceable_nodes.node import PassedOver, TraceableNode
from dcnn_visualizer.traceable_nodes.normalization import TraceableBatchNormalization, TraceableLocalResponseNormalization
from dcnn_visualizer.traceable_nodes.pooling import (
    TraceableAveragePooling2D,
    TraceableGlobalAveragePooling2D,
    TraceableMaxPooling2D,
)
from dcnn_visualizer.traceable_nodes.rectifiers import TraceableClippedReLU, TraceableLeakyReLU, TraceablePReLU, TraceableReLU
from dcnn_visualizer.traceable_nodes.reductions import (
    TraceableMaximum,
    TraceableMean,
    TraceableNorm,
    TraceableSum,
    TraceableVariance,
)
from dcnn_visualizer.traceable_nodes.resampling import TraceableResize2D
from dcnn_visualizer.traceable_nodes.sample_normalization import (
    TraceableGroupNormalization,
    TraceableLayerNormalization,
    TraceableUnitVectors,
)
from dcnn_visualizer.traceable_nodes.shapes import (
    TraceableChannels,
    TraceableFlatten,
    TraceableMirrorPadding2D,
    TraceablePadding2D,
    TraceablePiece,
    TraceablePixelShuffle,
    TraceableReshape,
    TraceableSamePadding2D,
    TraceableSlice,
    TraceableStretch,
    TraceableTranspose,
)
from dcnn_visualizer.traceable_nodes.sized_pooling import (
    TraceableAdaptiveAveragePooling2D,
    TraceableAdaptiveMaxPooling2D,
    TraceableCeilAveragePooling2D,
    TraceableCeilMaxPooling2D,
)
from dcnn_visualizer.traceable_nodes.smooth_activations import (
    TraceableAbsolute,
    TraceableClip,
    TraceableELU,
    TraceableErf,
    TraceableExponential,
    TraceableGELU,
    TraceableHardSigmoid,
    TraceableHardSwish,
    TraceableLogarithm,
    TraceableMish,
    TraceablePower,
    TraceableSigmoid,
    TraceableSiLU,
    TraceableSoftmax,
    TraceableSoftplus,
    TraceableSoftsign,
    TraceableTanh,
    TraceableTanhGELU,
)
from dcnn_visualizer.traceable_nodes.upsampling import TraceableDeconvolution2D, TraceableUpsampling2D

__all__ = [
    "Add",
    "Attention",
    "BroadcastAdd",
    "Concatenate",
    "Divide",
    "MatrixMultiply",
    "Maximum",
    "Multiply",
    "PassedOver",
    "ReshapeLike",
    "Stack",
    "StretchTo",
    "Subtract",
    "TraceableAbsolute",
    "TraceableAdaptiveAveragePooling2D",
    "TraceableAdaptiveMaxPooling2D",
    "TraceableAffine",
    "TraceableAveragePooling2D",
    "TraceableBatchNormalization",
    "TraceableCeilAveragePooling2D",
    "TraceableCeilMaxPooling2D",
    "TraceableChannels",
    "TraceableClip",
    "TraceableClippedReLU",
    "TraceableConvolution1D",
    "TraceableConvolution2D",
    "TraceableDeconvolution2D",
    "TraceableDropout",
    "TraceableELU",
    "TraceableErf",
    "TraceableExponential",
    "TraceableFlatten",
    "TraceableGELU",
    "TraceableGlobalAveragePooling2D",
    "TraceableGroupNormalization",
    "TraceableHardSigmoid",
    "TraceableHardSwish",
    "TraceableIdentity",
    "TraceableLayerNormalization",
    "TraceableLeakyReLU",
    "TraceableLinear",
    "TraceableLocalResponseNormalization",
    "TraceableLogarithm",
    "TraceableMaxPooling2D",
    "TraceableMaximum",
    "TraceableMean",
    "TraceableMirrorPadding2D",
    "TraceableMish",
    "TraceableNode",
    "TraceableNorm",
    "TraceablePReLU",
    "TraceablePadding2D",
    "TraceablePiece",
    "TraceablePixelShuffle",
    "TraceablePlacewiseLinear",
    "TraceablePower",
    "TraceableReLU",
    "TraceableReshape",
    "TraceableResize2D",
    "TraceableSamePadding2D",
    "TraceableSiLU",
    "TraceableSigmoid",
    "TraceableSlice",
    "TraceableSoftmax",
    "TraceableSoftplus",
    "TraceableSoftsign",
    "TraceableStretch",
    "TraceableSum",
    "TraceableTanh",
    "TraceableTanhGELU",
    "TraceableTranspose",
    "TraceableUnitVectors",
    "TraceableUpsampling2D",
    "TraceableVariance",
]

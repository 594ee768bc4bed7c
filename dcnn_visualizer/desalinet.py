"""SaliNet, DeconvNet and DeSaliNet: three named rules of reversal."""

from __future__ import annotations

from typing import Any

from dcnn_visualizer.reversal import Reversal


class SaliNet(Reversal):
    """The exact gradient (K. Simonyan, A. Vedaldi and A. Zisserman, ICLR workshop 2014): ReLU† is g·[x>0].

    With the default ``lrn`` it equals autograd to rounding.

    Args:
        model: A TraceableChain.
        unpooling: As in :class:`~dcnn_visualizer.reversal.Reversal`.
        lrn: Local response normalization by its true ``"gradient"``, or as ``"identity"``.
    """

    def __init__(self, model: Any, unpooling: str = "switch", lrn: str = "gradient") -> None:
        super().__init__(model, relu_mask=True, rectify=False, unpooling=unpooling, lrn=lrn)


class DeconvNet(Reversal):
    """The deconvolutional network (M. Zeiler and R. Fergus, ECCV 2014): ReLU† is max(g, 0).

    Args:
        model: A TraceableChain.
        unpooling: As in :class:`~dcnn_visualizer.reversal.Reversal`.
        lrn: Local response normalization as ``"identity"``, or by its true ``"gradient"``.
    """

    def __init__(self, model: Any, unpooling: str = "switch", lrn: str = "identity") -> None:
        super().__init__(model, relu_mask=False, rectify=True, unpooling=unpooling, lrn=lrn)


class DeSaliNet(Reversal):
    """Both at once (A. Mahendran and A. Vedaldi, ECCV 2016): ReLU† is max(g·[x>0], 0).

    Args:
        model: A TraceableChain.
        unpooling: As in :class:`~dcnn_visualizer.reversal.Reversal`.
        lrn: Local response normalization as ``"identity"``, or by its true ``"gradient"``.
    """

    def __init__(self, model: Any, unpooling: str = "switch", lrn: str = "identity") -> None:
        super().__init__(model, relu_mask=True, rectify=True, unpooling=unpooling, lrn=lrn)

"""Convolutions by NVIDIA's cuDNN, through the package ``nvidia-cudnn-frontend`` where it is installed.

A convolution is a graph of one node to cuDNN, planned for its shapes, which takes about 0.1 s: graphs are kept. cuDNN's handles
belong to one thread and one device, so graphs and handles are kept for each thread.
"""

from __future__ import annotations

import functools
import importlib
import math
import threading
from types import ModuleType
from typing import Any, NamedTuple

import cupy
import numpy as np

from dcnn_kernels.arrays import Array, BackendError
from dcnn_kernels.cuda.settings import current_precision
from dcnn_kernels.geometry import Pads, Pair

#: Graphs kept by a thread; beyond that it starts anew.
GRAPHS = 512
#: cuDNN's tensors begin at multiples of this (bytes).
ALIGNMENT = 16


class _Graph(NamedTuple):
    """A planned graph, its tensors, and the bytes of memory that it works in."""

    graph: Any
    x: Any
    W: Any
    y: Any
    workspace: int


class _Kept(threading.local):
    """What a thread keeps: handles by device, and graphs, or why there is none, by all that they depend on."""

    def __init__(self) -> None:
        self.handles: dict[int, Any] = {}
        self.graphs: dict[tuple[Any, ...], _Graph | str] = {}


_kept = _Kept()


def convolution_2d(x: Array, W: Array, y: Array, stride: Pair, pad: Pads, dilate: Pair) -> None:
    """Writes :func:`dcnn_kernels.convolution_2d` without bias into y; all arrays are contiguous.

    Raises:
        BackendError: cuDNN isn't installed, or can't do it.
    """
    _run("conv_fprop", x, W, y, stride, pad, dilate)


def transposed_convolution_2d(x: Array, W: Array, y: Array, stride: Pair, pad: Pads, dilate: Pair) -> None:
    """Writes :func:`dcnn_kernels.transposed_convolution_2d` without bias into y; all arrays are contiguous.

    At stride 1 it is a convolution with filters turned round and their channels swapped, which cuDNN does faster.

    Raises:
        BackendError: cuDNN isn't installed, or can't do it.
    """
    filters, channels, kh, kw = W.shape
    reach = (dilate[0] * (kh - 1), dilate[1] * (kw - 1))
    if stride == (1, 1) and all(side <= extent for sides, extent in zip(pad, reach, strict=True) for side in sides):
        groups = y.shape[1] // channels
        swapped = W.reshape(groups, filters // groups, channels, kh, kw).swapaxes(1, 2)[..., ::-1, ::-1]
        swapped = cupy.ascontiguousarray(swapped).reshape(groups * channels, filters // groups, kh, kw)
        (top, bottom), (left, right) = pad
        turned = ((reach[0] - top, reach[0] - bottom), (reach[1] - left, reach[1] - right))
        _run("conv_fprop", x, swapped, y, stride, turned, dilate)
    else:
        _run("conv_dgrad", x, W, y, stride, pad, dilate)


@functools.cache
def _frontend() -> ModuleType | str:
    """The Python package of cuDNN, or why there is none: as text, for a kept error keeps the arrays of those it was raised to."""
    try:
        cudnn = importlib.import_module("cudnn")
        cudnn.backend_version()  # which the library itself tells: the package comes without it
        return cudnn
    except (ImportError, OSError, RuntimeError) as error:
        return f"cuDNN isn't here: {error}; it comes with `pip install nvidia-cudnn-frontend nvidia-cudnn-cu13`"


def _run(operation: str, x: Array, W: Array, y: Array, stride: Pair, pad: Pads, dilate: Pair) -> None:
    cudnn = _frontend()
    if isinstance(cudnn, str):
        raise BackendError(cudnn)
    device = cupy.cuda.runtime.getDevice()
    for name, array in (("x", x), ("W", W)):
        if array.data.device_id != device:
            raise RuntimeError(f"{name} lies on device {array.data.device_id}, but device {device} is current")
    x, W = (array if array.data.ptr % ALIGNMENT == 0 else array.copy() for array in (x, W))
    exact = current_precision() == "exact"
    key = (device, operation, x.shape, W.shape, y.shape, y.dtype, stride, pad, dilate, exact)
    found = _kept.graphs.get(key)
    if found is None:
        if len(_kept.graphs) >= GRAPHS:
            _kept.graphs.clear()
        found = _kept.graphs[key] = _plan(
            cudnn, device, operation, (x.shape, W.shape, y.shape), y.dtype, stride, pad, dilate, exact
        )
    if isinstance(found, str):
        raise BackendError(found)
    handle = _kept.handles[device]
    cudnn.set_stream(handle, cupy.cuda.get_current_stream().ptr)
    workspace = cupy.empty(max(1, found.workspace), np.uint8)
    tensors = {found.x: x.data.ptr, found.W: W.data.ptr, found.y: y.data.ptr}
    found.graph.execute(tensors, workspace.data.ptr, handle=handle)


def _plan(
    cudnn: ModuleType,
    device: int,
    operation: str,
    shapes: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
    stride: Pair,
    pad: Pads,
    dilate: Pair,
    exact: bool,
) -> _Graph | str:
    """A graph of one convolution of contiguous arrays, or why cuDNN has none."""
    what = f"{operation} of {dtype} x {shapes[0]}, W {shapes[1]}, stride {stride}, pad {pad}, dilate {dilate}"
    if dtype == np.float64:
        return f"cuDNN serves float16 and float32 here, not {what}"
    kind = cudnn.data_type.HALF if dtype == np.float16 else cudnn.data_type.FLOAT
    notes = [cudnn.numerical_note.NONDETERMINISTIC]
    if dtype == np.float32 and exact:
        # Without this cuDNN rounds float32 to TF32 as it likes.
        notes += [
            cudnn.numerical_note.TENSOR_CORE,
            cudnn.numerical_note.DOWN_CONVERT_INPUTS,
            cudnn.numerical_note.REDUCED_PRECISION_REDUCTION,
        ]
    single = cudnn.data_type.FLOAT
    try:
        if device not in _kept.handles:
            _kept.handles[device] = cudnn.create_handle()
        graph = cudnn.pygraph(
            io_data_type=kind, intermediate_data_type=single, compute_data_type=single, handle=_kept.handles[device]
        )
        x, W = (
            graph.tensor(name=name, dim=list(shape), stride=_strides(shape), data_type=kind)
            for name, shape in zip(("x", "W"), shapes[:2], strict=True)
        )
        window = {
            "pre_padding": [side[0] for side in pad],
            "post_padding": [side[1] for side in pad],
            "stride": list(stride),
            "dilation": list(dilate),
        }
        if operation == "conv_fprop":
            y = graph.conv_fprop(image=x, weight=W, **window)
        else:
            y = graph.conv_dgrad(loss=x, filter=W, **window)
        y.set_output(True).set_data_type(kind).set_dim(list(shapes[2])).set_stride(_strides(shapes[2]))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes(notes)
        graph.check_support()
        graph.build_plans()
        return _Graph(graph, x, W, y, graph.get_workspace_size())
    except Exception as error:  # cuDNN's own errors, and those of a package of another version
        return f"cuDNN can't do {what}: {error}"


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

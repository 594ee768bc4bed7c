"""ONNX files as traceable chains."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from dcnn_kernels.geometry import PairLike, pair
from dcnn_visualizer.importers import onnx_layout as layout
from dcnn_visualizer.importers import onnx_operators as operators
from dcnn_visualizer.importers.assembly import Assembly
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx_constants import BATCH, MOST_ELEMENTS, Calculator, sizes_array
from dcnn_visualizer.importers.onnx_file import OnnxGraph, Operator, Size, read
from dcnn_visualizer.importers.onnx_operators import Converted, Setting, Tensor
from dcnn_visualizer.traceable_graph import TraceableGraph

#: The oldest version of the operators that is read.
OLDEST_OPSET = 7


def from_onnx(path: str | os.PathLike[str], output: str | None = None, insize: PairLike | None = None) -> TraceableGraph:
    """Makes a traceable chain of the network in an ONNX file.

    Taken are networks of one picture tensor (B, C, H, W), float32 or float64, of operator version 7 and newer: convolution,
    fully connected layers, batch and local response normalization, the ReLU family, smooth activations, max, average and
    global pooling, dropout, sums, products, concatenation, padding, slices, softmax, and whatever only reshapes. The first
    axis is the batch, and the chain takes any number of pictures, even if the file fixes one.

    Layers have the names of the file's nodes, without a leading ``/``, or of their operators; a name that is taken ends in
    ``_2``. Layers that the output doesn't need are left out.

    Args:
        path: The file. Data that it keeps in other files must lie in its folder.
        output: Name of the value that the chain gives; None for the file's output, if it has just one.
        insize: Rows and columns of pictures, for files that leave them open although layers depend on them, as SAME padding does.
            The chain then is right for this size.

    Returns:
        The chain. It picks the last layer's output.

    Raises:
        OSError: The file can't be read.
        UntraceableError: An operator isn't supported, named with its place in the file.
        ValueError: The file is broken, contradicts itself, or refers to data outside its folder. UntraceableError is one too, and
            every message starts with the file's name.
    """
    try:
        size = None if insize is None else pair("insize", insize)
        return _Importer(read(path), size).chain(output)
    except OSError:
        raise
    except UntraceableError as error:
        raise UntraceableError(f"{os.fspath(path)}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


class _Importer:
    """Goes through a file's operators and notes the layer that each amounts to."""

    def __init__(self, file: OnnxGraph, insize: tuple[int, int] | None) -> None:
        self._file = file
        if file.opset < OLDEST_OPSET:
            raise UntraceableError(f"its operators are of version {file.opset}; read are {OLDEST_OPSET} and newer")
        if len(file.inputs) != 1:
            raise UntraceableError(f"a network must have one input, it has {list(file.inputs)}")
        ((name, (shape, dtype)),) = file.inputs.items()
        if len(shape) != 4 or dtype.kind != "f":
            raise UntraceableError(f"its input {name!r} must be pictures (B, C, H, W), got {dtype} of shape {shape}")
        sizes = tuple(insize[i] if insize and isinstance(size, str) else size for i, size in enumerate(shape[2:]))
        if insize and sizes != insize:
            raise ValueError(f"insize is {insize}, the file says {shape[2:]}")
        self._batch = None if isinstance(shape[0], str) else shape[0]
        #: Tensors, and arrays of constants or sizes.
        self._values: dict[str, Any] = {**file.constants, name: Tensor(name, (BATCH, shape[1], *sizes), dtype)}
        self._layers = Assembly(name)
        self._calculate = Calculator()

    def chain(self, output: str | None) -> TraceableGraph:
        """The layers that an output needs."""
        if output is None:
            if len(self._file.outputs) != 1:
                raise UntraceableError(f"it has the outputs {self._file.outputs}: choose one by output=")
            output = self._file.outputs[0]
        needed = {output}
        for operator in reversed(self._file.operators):
            if needed.intersection(operator.outputs):
                needed.update(operator.inputs)
        made: set[str] = set(self._values)
        for operator in self._file.operators:
            if made.intersection(name for name in operator.outputs if name):
                raise ValueError(f"{operator} makes {operator.outputs}, which is there already")
            made.update(operator.outputs)
            if needed.intersection(operator.outputs) - {""}:
                self._take(operator)
        made_last = self._values.get(output)
        if not isinstance(made_last, Tensor) or made_last.order is not None:
            raise UntraceableError(f"it has no layer that makes {output!r} of its input, with the batch as the first axis")
        return self._layers.finish(output)

    def _take(self, operator: Operator) -> None:
        for name in operator.inputs:
            if name and name not in self._values:
                raise ValueError(f"{operator} takes {name!r}, which nothing before it makes")
        inputs: list[Any] = [self._values[name] if name else None for name in operator.inputs]
        try:
            made = self._make(operator, inputs)
        except UntraceableError as error:
            raise UntraceableError(f"{operator}: {error}") from error
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            given = f"{len(inputs)} inputs and the attributes {sorted(operator.attributes)}"
            raise ValueError(f"{operator}: it has {given}, in a number or of types that don't suit it: {error}") from error
        except Exception as error:  # A hostile file may bring any number anywhere.
            raise ValueError(f"{operator}: {error}") from error
        for name, value in zip(operator.outputs, made, strict=False):
            if isinstance(value, Converted):
                node, sources, shape, order = value
                if math.prod(size for size in shape if isinstance(size, int)) > MOST_ELEMENTS:
                    raise ValueError(f"{operator} makes a tensor of shape {shape}")
                path = operator.name.strip("/") or operator.kind.lower()
                self._layers.add(name, path, node, [source.name for source in sources])
                value = Tensor(name, shape, sources[0].dtype, order)
            self._values[name] = value

    def _make(self, operator: Operator, inputs: list[Any]) -> Sequence[Any]:
        """What an operator makes: arrays of constants or sizes, tensors that are there already, or layers."""
        kind, attributes = operator.kind, operator.attributes
        if kind == "Shape" and len(inputs) == 1:
            given = inputs[0]
            shape = _shape(given) if isinstance(given, Tensor) else given.shape
            return [sizes_array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))])]
        if not any(isinstance(value, Tensor) for value in inputs):
            if not inputs and kind != "Constant":
                raise ValueError("it takes nothing")
            return self._calculate.fold(kind, inputs, attributes)
        setting = Setting(self._file.opset, self._batch, len(operator.outputs), self._calculate)
        if layout.displaces(setting, kind, inputs, attributes):
            return layout.rearrange(setting, kind, inputs, attributes)
        if kind == "Split":
            return operators.split(setting, *inputs, **attributes)
        converter = operators.OPERATORS.get(kind)
        if converter is None:
            raise UntraceableError("this operator isn't supported")
        return [converter(setting, *inputs, **attributes)]


def _shape(x: Tensor) -> tuple[Size, ...]:
    return x.shape if x.order is None else tuple(1 if axis is None else x.shape[axis] for axis in x.order)

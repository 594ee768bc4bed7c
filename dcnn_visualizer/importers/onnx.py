"""ONNX files as traceable chains."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from dcnn_kernels.geometry import PairLike, pair
from dcnn_visualizer.importers import onnx_operators as operators
from dcnn_visualizer.importers.assembly import Assembly
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx_file import OnnxGraph, Operator, Size, read
from dcnn_visualizer.importers.onnx_operators import BATCH, Calculator, Converted, Setting, Tensor
from dcnn_visualizer.traceable_graph import TraceableGraph

#: The oldest version of the operators that is read.
OLDEST_OPSET = 9
#: Numbers that one layer may give for one picture; who asks for more is after the machine's memory.
MOST_ELEMENTS = 1 << 31


def from_onnx(path: str | os.PathLike[str], output: str | None = None, insize: PairLike | None = None) -> TraceableGraph:
    """Makes a traceable chain of the network in an ONNX file.

    Taken are networks of one picture tensor (B, C, H, W), float32 or float64, of operator version 9 and newer: convolution,
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


#: Numbers that a range may hold: places along an axis, of which networks take a few.
MOST_PLACES = 1 << 16

#: Operators by which files calculate with sizes, and which would make larger arrays of larger ones.
_ON_SIZES = ("Add", "Concat", "Div", "Gather", "Mul", "Range", "Slice", "Sub")


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
        #: Tensors, constants, and lists of sizes.
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
        if not isinstance(self._values.get(output), Tensor) or self._values[output].transposed:
            raise UntraceableError(f"it has no layer that makes {output!r} of its input")
        return self._layers.finish(output)

    def _take(self, operator: Operator) -> None:
        for name in operator.inputs:
            if name and name not in self._values:
                raise ValueError(f"{operator} takes {name!r}, which nothing before it makes")
        inputs: list[Any] = [self._values[name] if name else None for name in operator.inputs]
        try:
            if not any(isinstance(value, Tensor) for value in inputs) or operator.kind == "Shape":
                self._values[operator.outputs[0]] = _fold(operator, inputs)
                return
            if operator.kind == "Transpose" and len(inputs[0].shape) == 2 and not inputs[0].transposed:
                self._values[operator.outputs[0]] = inputs[0]._replace(transposed=True)
                return
            converted = self._convert(operator, inputs)
        except UntraceableError as error:
            raise UntraceableError(f"{operator}: {error}") from error
        except (AttributeError, IndexError, TypeError) as error:
            given = f"{len(inputs)} inputs and the attributes {sorted(operator.attributes)}"
            raise ValueError(f"{operator}: it has {given}, in a number or of types that don't suit it: {error}") from error
        except Exception as error:  # A hostile file may bring any number anywhere.
            raise ValueError(f"{operator}: {error}") from error
        for name, (node, sources, shape) in zip(operator.outputs, converted, strict=False):
            if math.prod(size for size in shape if isinstance(size, int)) > MOST_ELEMENTS:
                raise ValueError(f"{operator} makes a tensor of shape {shape}")
            path = operator.name.strip("/") or operator.kind.lower()
            self._layers.add(name, path, node, [source.name for source in sources])
            self._values[name] = Tensor(name, shape, sources[0].dtype)

    def _convert(self, operator: Operator, inputs: list[Any]) -> list[Converted]:
        setting = Setting(self._file.opset, self._batch, len(operator.outputs), self._calculate)
        if operator.kind == "Split":
            return operators.split(setting, *inputs, **operator.attributes)
        converter = operators.OPERATORS.get(operator.kind)
        if converter is None:
            raise UntraceableError("this operator isn't supported")
        return [converter(setting, *inputs, **operator.attributes)]


def _fold(operator: Operator, inputs: list[Any]) -> Any:
    """What an operator makes of constants and sizes: an array, or a list of sizes, in which a single number is a list of one.

    Raises:
        UntraceableError: This operator isn't supported on constants.
    """
    if operator.kind == "Constant":
        ((kind, value),) = operator.attributes.items()
        dtype = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}.get(kind)
        return value if dtype is None and isinstance(value, np.ndarray) else np.asarray(value, dtype)
    if not inputs:
        raise ValueError("it takes nothing")
    if operator.kind == "Shape":
        shape: list[Size] = list(inputs[0].shape)
        return shape[operator.attributes.get("start", 0) : operator.attributes.get("end", len(shape))]
    if operator.kind == "ConstantOfShape":
        value = operator.attributes.get("value", np.zeros(1, np.float32))
        made = [int(size) for size in _sizes(inputs[0])]
        if math.prod(made) > MOST_ELEMENTS or min(made, default=0) < 0:
            raise ValueError(f"it makes a constant of shape {tuple(made)}")
        # One number seen everywhere, which takes no memory.
        return np.broadcast_to(value.reshape(()), made)
    if operator.kind not in _ON_SIZES and all(isinstance(value, np.ndarray) for value in inputs):
        return _fold_arrays(operator, inputs)
    sizes = [_sizes(value) for value in inputs]
    match operator.kind:
        case "Identity" | "Cast" | "Squeeze" | "Unsqueeze":
            return sizes[0]
        case "Concat":
            return [size for part in sizes for size in part]
        case "Gather":
            return [sizes[0][int(place)] for place in sizes[1]]
        case "Slice":
            step = int(sizes[4][0]) if len(sizes) > 4 else 1
            return sizes[0][slice(int(sizes[1][0]), int(sizes[2][0]), step)]
        case "Range" if max(map(len, sizes)) == 1:
            places = range(*(int(part[0]) for part in sizes))
            if len(places) > MOST_PLACES:
                raise ValueError(f"it makes {len(places)} numbers")
            return list(places)
        case "Add" | "Sub" | "Mul" | "Div":
            return [_calculated(operator.kind, a, b) for a, b in zip(*_stretched(*sizes), strict=True)]
    raise UntraceableError("this operator isn't supported on sizes of tensors")


def _calculated(kind: str, a: Size, b: Size) -> int:
    if isinstance(a, str) or isinstance(b, str):
        raise UntraceableError("it calculates with the size of the picture, which the file leaves open: say insize")
    # ONNX divides integers towards zero; sizes are never negative.
    return {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": a // (b or 1)}[kind]


def _stretched(a: list[Size], b: list[Size]) -> tuple[list[Size], list[Size]]:
    return a * len(b) if len(a) == 1 else a, b * len(a) if len(b) == 1 else b


def _fold_arrays(operator: Operator, inputs: list[np.ndarray]) -> np.ndarray:
    # Nothing here makes more of an array than there is in the file.
    array, attributes = inputs[0], operator.attributes
    axes = attributes.get("axes") if len(inputs) < 2 else inputs[1].tolist()
    match operator.kind:
        case "Identity":
            return array
        case "Transpose":
            return array.transpose(attributes.get("perm"))
        case "Reshape":
            return array.reshape([array.shape[i] if size == 0 else size for i, size in enumerate(inputs[1].tolist())])
        case "Squeeze":
            return np.squeeze(array, None if axes is None else tuple(axes))
        case "Unsqueeze":
            return np.expand_dims(array, tuple(axes or ()))
        case "Cast" if array.dtype.kind == "i" and attributes.get("to") in (6, 7):
            return array
    raise UntraceableError("this operator isn't supported on constants")


def _sizes(value: Any) -> list[Size]:
    if isinstance(value, list):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind == "i":
        return [int(number) for number in value.reshape(-1)]
    raise UntraceableError("it joins sizes of tensors with other things")

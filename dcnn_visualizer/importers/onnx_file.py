"""Reads ONNX files without trusting them: nothing is taken at its word about sizes, places or types.

The ``onnx`` package parses the file; what the file says of itself is checked here before memory is taken or another file opened.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

#: Types of tensors that are read.
DTYPES: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
    onnx.TensorProto.INT32: np.dtype(np.int32),
    onnx.TensorProto.INT64: np.dtype(np.int64),
    onnx.TensorProto.BOOL: np.dtype(np.bool_),
}

#: NumPy takes up to 64 axes; networks have use for few.
MAX_RANK = 8

#: A size, or the name of one that is known only when the network runs.
Size = int | str


@dataclass
class Operator:
    """One node of the file's graph.

    Attributes:
        kind: ``"Conv"`` and so on.
        name: Its name, which may be empty.
        inputs: Names of the values it takes; empty for one left out.
        outputs: Names of the values it makes.
        attributes: Numbers, strings, arrays and lists of them, by name.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


@dataclass
class OnnxGraph:
    """What a file holds, as far as importers need it.

    Attributes:
        opset: Version of the standard operators.
        inputs: Shapes and dtypes of the inputs that aren't constants, by name.
        outputs: Names of the outputs.
        constants: Arrays by name, writable.
        operators: In the file's order.
    """

    opset: int
    inputs: dict[str, tuple[tuple[Size, ...], np.dtype]]
    outputs: list[str]
    constants: dict[str, np.ndarray]
    operators: list[Operator]


def read(path: str | os.PathLike[str]) -> OnnxGraph:
    """Reads a file, with the data that it keeps in other files of its folder.

    Args:
        path: The file.

    Raises:
        OSError: It can't be read.
        ValueError: It is no ONNX file, broken, or refers to data outside its folder; or it uses types that aren't read.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds of errors differ between its implementations.
        raise ValueError(f"it can't be parsed: {error}") from error
    _check_text(model)
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not versions or not model.graph.node:
        raise ValueError("it holds no graph of standard operators")
    if model.functions:
        raise ValueError("it defines functions; inline them first, with onnx.inliner")
    folder = _Folder(path.parent)
    constants = {tensor.name: read_tensor(tensor, folder) for tensor in model.graph.initializer}
    inputs = {value.name: _shape_and_dtype(value) for value in model.graph.input if value.name not in constants}
    operators = [_operator(node, folder) for node in model.graph.node]
    return OnnxGraph(max(versions), inputs, [value.name for value in model.graph.output], constants, operators)


def _check_text(model: Any) -> None:
    """Raises ValueError if a name isn't text: protobuf then gives bytes."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.initializer, *graph.node]
    names = [value.name for value in values]
    names += [name for node in graph.node for name in (node.op_type, node.domain, *node.input, *node.output)]
    names += [attribute.name for node in graph.node for attribute in node.attribute]
    names += [size.dim_param for value in graph.input for size in value.type.tensor_type.shape.dim]
    names += [text for tensor in graph.initializer for entry in tensor.external_data for text in (entry.key, entry.value)]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"a name in it is no text: {name!r}")


class _Folder:
    """The folder in which data in other files must lie.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._claimed: dict[Path, int] = {}

    def read(self, where: str, entries: Iterable[Any], dtype: np.dtype, count: int) -> np.ndarray:
        """Numbers that a tensor keeps in another file.

        Raises:
            ValueError: The file isn't in the folder, or hasn't the numbers, or others claim them too: few bytes could make many.
        """
        described = {entry.key: entry.value for entry in entries}
        location = described.get("location", "")
        try:
            file = (self._path / location).resolve()
            found = bool(location) and file.is_relative_to(self._path) and file.is_file()
        except (OSError, ValueError):  # No file can have this name.
            found = False
        if not found:
            raise ValueError(f"{where} is kept in {location!r}, which is no file in the folder of the network")
        needed = count * dtype.itemsize
        try:
            offset, length = int(described.get("offset", 0)), int(described.get("length", needed))
        except ValueError:
            raise ValueError(f"{where} is kept at {described}, which aren't numbers") from None
        size = file.stat().st_size
        if offset < 0 or length != needed or offset + length > size:
            raise ValueError(f"{where} needs {needed} bytes, {location!r} of {size} has {length} at {offset} for it")
        self._claimed[file] = self._claimed.get(file, 0) + needed
        if self._claimed[file] > size:
            raise ValueError(f"{where} and others take more from {location!r} than its {size} bytes")
        return np.fromfile(file, dtype.newbyteorder("<"), count, offset=offset).astype(dtype, copy=False)


def read_tensor(tensor: Any, folder: _Folder) -> np.ndarray:
    """A tensor's values, from the file itself or from another one in its folder.

    Args:
        tensor: ``onnx.TensorProto``.
        folder: The file's.

    Returns:
        A writable array.

    Raises:
        ValueError: A type that isn't read, another amount of data than the shape needs, or a file outside the folder.
    """
    where = f"tensor {tensor.name!r}"
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        raise ValueError(f"{where} is of type {_type_name(tensor.data_type)}; read are {', '.join(map(str, DTYPES.values()))}")
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or len(shape) > MAX_RANK:
        raise ValueError(f"{where} has shape {shape}")
    count = math.prod(shape)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        values = folder.read(where, tensor.external_data, dtype, count)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * dtype.itemsize:
            raise ValueError(f"{where} of shape {shape} needs {count * dtype.itemsize} bytes, it has {len(tensor.raw_data)}")
        values = np.frombuffer(tensor.raw_data, dtype.newbyteorder("<")).astype(dtype)
    else:
        fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
        numbers = getattr(tensor, fields.get(dtype.name, "int32_data"))
        if len(numbers) != count:
            raise ValueError(f"{where} of shape {shape} needs {count} values, it has {len(numbers)}")
        values = np.array(numbers, dtype)
    return values.reshape(shape)


def _shape_and_dtype(value: Any) -> tuple[tuple[Size, ...], np.dtype]:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in DTYPES or not tensor.HasField("shape"):
        raise ValueError(f"input {value.name!r} must be a tensor with a shape, got type {_type_name(tensor.elem_type)}")
    sizes = tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else size.dim_param or f"{value.name} axis {axis}"
        for axis, size in enumerate(tensor.shape.dim)
    )
    return sizes, DTYPES[tensor.elem_type]


def _type_name(number: int) -> str:
    try:
        return onnx.TensorProto.DataType.Name(number)
    except ValueError:
        return f"{number} (unknown)"


def _operator(node: Any, folder: _Folder) -> Operator:
    operator = Operator(node.op_type, node.name, list(node.input), list(node.output))
    if node.domain not in ("", "ai.onnx"):
        operator.kind = f"{node.domain}.{node.op_type}"
    for attribute in node.attribute:
        try:
            operator.attributes[attribute.name] = _plain(onnx.helper.get_attribute_value(attribute), folder)
        except Exception as error:  # A broken attribute fails in protobuf's ways.
            raise ValueError(f"{operator}: attribute {attribute.name!r}: {error}") from error
    return operator


def _plain(value: Any, folder: _Folder) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value, folder)
    if isinstance(value, int | float | str):
        return value
    return [_plain(part, folder) for part in value] if hasattr(value, "__len__") else value

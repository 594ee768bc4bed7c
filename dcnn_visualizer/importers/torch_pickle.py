"""Reads the tensors of a PyTorch weights file (``.pth``, ``.pt``) without PyTorch.

Unpickling runs whatever a file says, so nothing here unpickles. The file's opcodes are decoded by ``pickletools`` and
carried out by a small machine that knows dictionaries, lists, tuples, numbers, strings and tensors, and that refuses
everything else by name. Sizes are checked against the file before memory is taken for them.

Two containers are read: the zip archive that ``torch.save`` writes since PyTorch 1.6, and the row of pickles before it.
"""

from __future__ import annotations

import io
import math
import pickletools
import reprlib
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_RANK = 32

_STORAGE_DTYPES = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}


class TorchPickleError(ValueError):
    """The file is damaged, is no PyTorch weights file, or holds something other than tensors."""


@dataclass(frozen=True)
class _Storage:
    """A run of elements that tensors look into."""

    key: str
    dtype: np.dtype
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"storage {_short(self.key)} of {self.elements} {self.dtype}"


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """What a GLOBAL opcode pushes: the function or class is known by name only."""

    name: str


_Arrays = dict[_Storage, np.ndarray]

# A hostile file can hold an object whose full text is endless.
_short = reprlib.repr


def load(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch weights file.

    Args:
        path: File that ``torch.save(model.state_dict(), path)`` or the like wrote.
        entry: For a checkpoint that holds more than the state dictionary, the entry that holds it: often ``"state_dict"``
            or ``"model"``.

    Returns:
        The tensors by name, in the file's order. Tensors that shared memory in PyTorch do so here.

    Raises:
        TorchPickleError: The file is damaged, or asks for anything but tensors in a dictionary. Nothing of it was run.
        OSError: The file can't be read.
    """
    data = Path(path).read_bytes()
    try:
        contents, storages = _read_zip(data) if data[:4] == b"PK\x03\x04" else _read_legacy(data)
        return {name: _array(tensor, storages) for name, tensor in _state_dict(contents, entry).items()}
    except TorchPickleError as error:
        raise TorchPickleError(f"{path}: {error}") from error


def _state_dict(contents: Any, entry: str | None) -> dict[str, _Tensor]:
    if entry is not None:
        if not isinstance(contents, dict) or entry not in contents:
            raise TorchPickleError(f"there is no entry {entry!r}; there are {_names(contents)}")
        contents = contents[entry]
    if not isinstance(contents, dict):
        raise TorchPickleError(f"expected a dictionary of tensors, got {type(contents).__name__}")
    for name, tensor in contents.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise TorchPickleError(
                f"expected tensors by name, got {type(tensor).__name__} at {_short(name)}; "
                f"if one entry holds the tensors, name it: entry=…, one of {_names(contents)}"
            )
    return contents


def _names(contents: Any) -> str:
    return ", ".join(map(_short, list(contents)[:20])) if isinstance(contents, dict) else "none"


def _read_zip(data: bytes) -> tuple[Any, _Arrays]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_archive(archive, len(data))
    except TorchPickleError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        raise TorchPickleError(f"damaged zip archive: {error}") from error


def _read_archive(archive: zipfile.ZipFile, file_length: int) -> tuple[Any, _Arrays]:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    # torch.save stores without compression, so honest members together are no longer than the file.
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise TorchPickleError("the archive is compressed, which torch.save never does")
    if sum(info.file_size for info in members.values()) > file_length:
        raise TorchPickleError("the archive's members are longer than the file")
    if "data.pkl" not in members:
        raise TorchPickleError("the zip archive holds no data.pkl, so torch.save did not write it")
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise TorchPickleError("the tensors are big-endian; only little-endian files are read")
    machine = _Machine()
    contents = machine.run(io.BytesIO(archive.read(members["data.pkl"])))
    arrays = {}
    for key, storage in machine.storages.items():
        member = members.get(f"data/{key}")
        if member is None or member.file_size < storage.nbytes:
            raise TorchPickleError(f"{storage} is missing or cut short")
        arrays[storage] = np.frombuffer(archive.read(member), storage.dtype, storage.elements).copy()
    return contents, arrays


def _read_legacy(data: bytes) -> tuple[Any, _Arrays]:
    file = io.BytesIO(data)
    try:
        magic = _Machine().run(file)
    except TorchPickleError:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise TorchPickleError("not a PyTorch weights file: neither a zip archive nor PyTorch's magic number")
    if (protocol := _Machine().run(file)) != _LEGACY_PROTOCOL:
        raise TorchPickleError(f"expected protocol {_LEGACY_PROTOCOL}, got {_short(protocol)}")
    system = _Machine().run(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TorchPickleError("the tensors are big-endian; only little-endian files are read")
    machine = _Machine()
    contents, keys = machine.run(file), _Machine().run(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(machine.storages):
        raise TorchPickleError("the list of storages does not match the storages that the tensors name")
    arrays = {}
    for key in keys:
        storage, elements, start = machine.storages[key], file.read(8), file.tell()
        if int.from_bytes(elements, "little") != storage.elements or storage.nbytes > len(data) - start:
            raise TorchPickleError(f"{storage} is cut short or of another size")
        arrays[storage] = np.frombuffer(data, storage.dtype, storage.elements, start).copy()
        file.seek(storage.nbytes, io.SEEK_CUR)
    return contents, arrays


def _array(tensor: _Tensor, storages: _Arrays) -> np.ndarray:
    storage = storages[tensor.storage]
    strides = [stride * storage.itemsize for stride in tensor.strides]
    try:
        return as_strided(storage[tensor.offset :], tensor.shape, strides)
    except (ValueError, OverflowError) as error:
        raise TorchPickleError(f"NumPy has no array of shape {tensor.shape}, strides {strides}: {error}") from error


class _Machine:
    """Carries out the opcodes of one pickle that tensors need.

    Attributes:
        storages: The storages that the pickle named, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Runs the pickle at the file's position and leaves the position behind it.

        Returns:
            The object that the pickle describes, tensors as :class:`_Tensor`.

        Raises:
            TorchPickleError: The pickle is damaged or asks for something that is not admitted.
        """
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in _PUSHED:
                    self._stack.append(argument)
                elif opcode.name in _CONSTANTS:
                    self._stack.append(_CONSTANTS[opcode.name]())
                elif opcode.name in _ACTIONS:
                    _ACTIONS[opcode.name](self, argument)
                elif opcode.name == "STOP":
                    return self._pop()
                elif opcode.name != "PROTO":
                    raise TorchPickleError(f"opcode {opcode.name} is not one that tensors need")
        except TorchPickleError:
            raise
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise TorchPickleError(f"damaged pickle: {error}") from error
        raise TorchPickleError("damaged pickle: it has no end")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise TorchPickleError("damaged pickle: it takes more from its stack than it put there")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise TorchPickleError("damaged pickle: it has no mark to go back to")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, size: int | None) -> None:
        items = self._pop_to_mark() if size is None else [self._pop() for _ in range(size)][::-1]
        self._stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TorchPickleError(f"it appends to {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TorchPickleError(f"it sets items of {type(target).__name__}")
        # Checked before they are hashed: the hash of a tuple of tuples of tuples… can take forever.
        if not all(isinstance(key, str | int) for key in items[::2]):
            raise TorchPickleError("a dictionary has a key that is neither a string nor a number")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _set_item(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _global(self, name: str) -> None:
        if name not in _CALLABLES and name not in _STORAGE_DTYPES:
            raise TorchPickleError(f"it asks for {name.replace(' ', '.')}; only tensors of NumPy's number types are admitted")
        self._stack.append(_Global(name))

    def _reduce(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or function.name not in _CALLABLES or not isinstance(arguments, tuple):
            raise TorchPickleError("it calls something that builds no tensor")
        self._stack.append(_CALLABLES[function.name](*arguments))

    def _build(self, _: None) -> None:
        # A state dictionary carries its modules' versions as an attribute; arrays have no use for it.
        self._pop()
        if not self._stack or not isinstance(self._stack[-1], dict):
            raise TorchPickleError("it sets attributes of something that is no dictionary")

    def _persistent(self, _: None) -> None:
        # ("storage", type, key, location, number of elements), and in the old container a sixth, for a view into another.
        reference = self._pop()
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise TorchPickleError(f"it refers to an outside object that is no storage: {_short(reference)}")
        kind, key, elements = reference[1], reference[2], reference[4]
        if not isinstance(kind, _Global) or kind.name not in _STORAGE_DTYPES:
            raise TorchPickleError(f"storage {_short(key)} has no known element type")
        if not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise TorchPickleError(f"storage {_short(key)} has {_short(elements)} elements")
        if reference[5:] not in ((), (None,)):
            raise TorchPickleError(f"storage {_short(key)} is a view into another storage, which no PyTorch since 0.4 writes")
        storage = _Storage(key, np.dtype(_STORAGE_DTYPES[kind.name]).newbyteorder("<"), elements)
        if self.storages.setdefault(key, storage) != storage:
            raise TorchPickleError(f"storage {_short(key)} is described twice, differently")
        self._stack.append(storage)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TorchPickleError(f"a tensor looks into {type(storage).__name__}, not into a storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or not len(shape) == len(strides) <= _MAX_RANK:
        raise TorchPickleError(f"a tensor has the shape {_short(shape)} and the strides {_short(strides)}")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise TorchPickleError(f"a tensor has the offset {_short(offset)}, shape {_short(shape)} and strides {_short(strides)}")
    empty = 0 in shape
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    # With a stride of 0 a few elements could pose as any number of them.
    if (not empty and last >= storage.elements) or math.prod(shape) > storage.elements or offset > storage.elements:
        raise TorchPickleError(
            f"a tensor of shape {_short(shape)}, strides {_short(strides)}, offset {_short(offset)} "
            f"does not fit its storage of {storage.elements} elements"
        )
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    if items:
        raise TorchPickleError("it makes an OrderedDict of something")
    return {}


_CALLABLES: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
}

_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}

_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "BINPUT": _Machine._memoize,
    "LONG_BINPUT": _Machine._memoize,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": _Machine._set_item,
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "GLOBAL": _Machine._global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}

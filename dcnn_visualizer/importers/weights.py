"""Weights from npz, HDF5 and safetensors files, into a chain by name."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
from numpy.lib import format as npy_format

Shape = tuple[int, ...]

#: What files call a parameter besides its own name: PyTorch's names, and those of Keras where its layout is the same.
_STATISTICS = {"avg_mean": ("running_mean", "moving_mean"), "avg_var": ("running_var", "moving_variance")}
_NAMES = {"W": ("weight",), "b": ("bias",), "gamma": ("weight",), "beta": ("bias",), **_STATISTICS}
#: Counters of training, which networks at inference have no use for.
_COUNTERS = ("N", "num_batches_tracked")
#: Names of each kind that a message lists; of more it tells the number.
LISTED = 8


@dataclass
class WeightsReport:
    """How the names in a file and in a chain went together.

    Attributes:
        matched: Names in the file by names in the chain, of equal shapes.
        missing: Names in the chain that the file lacks.
        left_over: Names in the file that the chain lacks.
        differing: Shapes in the chain and in the file, by names in the chain.
    """

    matched: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    differing: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every name found its counterpart."""
        return not (self.missing or self.left_over or self.differing)

    def __str__(self) -> str:
        differing = [f"{name} has shape {own}, in the file {other}" for name, (own, other) in self.differing.items()]
        parts = (("missing in the file: ", self.missing), ("left over in the file: ", self.left_over), ("", differing))
        return "; ".join([f"{len(self.matched)} matched", *(title + _some(items) for title, items in parts if items)])


def _some(items: Sequence[str]) -> str:
    more = len(items) - LISTED
    return ", ".join(items) if more <= 0 else f"{', '.join(items[:LISTED])} and {more} more"


class WeightsError(ValueError):
    """A file that doesn't fit a chain. Nothing was written.

    Attributes:
        report: What fits and what doesn't.
    """

    def __init__(self, message: str, report: WeightsReport) -> None:
        super().__init__(message)
        self.report = report


def load_weights(
    chain: chainer.Link, path: str | os.PathLike[str], strict: bool = True, rename: Callable[[str], str] | None = None
) -> WeightsReport:
    """Reads weights and running statistics from a file into a chain, in place.

    Names match if they are the same with ``/`` for ``.``: PyTorch's ``layer1.0.conv1.weight`` and Chainer's ``layer1/0/conv1/W``
    are one, and so are ``running_mean`` and ``avg_mean``. Arrays must have the chain's shapes; they are converted to its dtypes.

    Args:
        chain: A TraceableChain, or any Chainer link.
        path: An npz file (as ``chainer.serializers.save_npz`` writes), an HDF5 file, or a safetensors file; its contents say
            which.
        strict: Whether every name must have its counterpart. If not, what matches is read, and the rest stays as it is.
        rename: Turns a name in the file into the one that is looked for, for instance without a leading ``module.``.

    Returns:
        What matched.

    Raises:
        WeightsError: ``strict``, and something is missing, left over, or of another shape.
        ValueError: The file is broken, or of another kind; two of its names are the same; an array holds no finite floats.
        OSError: It can't be opened.
        ImportError: h5py or safetensors isn't installed.
    """
    path = Path(path)
    targets = {name: target for name, target in _targets(chain)}
    spellings = {spelling: name for name, target in targets.items() for spelling in target.spellings}
    with path.open("rb") as opened:
        start = opened.read(16)
    try:
        with _opened(path, start) as file:
            report = _compare(targets, spellings, file, rename)
            if strict and not report.complete:
                raise WeightsError(f"{path} doesn't fit {type(chain).__name__}: {report}", report)
            arrays = {name: _finite(stored, file.read(stored)) for name, stored in report.matched.items()}
    except (WeightsError, ImportError):
        raise
    except Exception as error:  # zipfile, zlib, h5py and safetensors each meet damage in their own ways, some by OSError.
        raise ValueError(f"{path} can't be read as weights: {error}") from error
    for name, array in arrays.items():
        targets[name].write(array)
    return report


class _Target(NamedTuple):
    """A parameter or statistic of a link."""

    link: chainer.Link
    name: str
    spellings: list[str]
    required: bool

    @property
    def array(self) -> Any:
        value = getattr(self.link, self.name)
        return value.array if isinstance(value, chainer.Variable) else value

    def write(self, values: np.ndarray) -> None:
        """Writes into the array itself, for others may hold it too."""
        value, array = getattr(self.link, self.name), self.array
        if array is None:
            value.initialize(values.shape)
            array = value.array
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            array = array.copy()
            if isinstance(value, chainer.Variable):
                value.array = array
            else:
                setattr(self.link, self.name, array)
        array[...] = chainer.backend.get_array_module(array).asarray(values)


def _targets(chain: chainer.Link) -> Iterator[tuple[str, _Target]]:
    for path, link in chain.namedlinks():
        for own in sorted({*link._params, *link._persistent} - set(_COUNTERS)):
            value = getattr(link, own)
            if isinstance(value, chainer.Variable) or hasattr(value, "shape"):
                spellings = [f"{path}/{spelling}".strip("/") for spelling in (own, *_NAMES.get(own, ()))]
                # Constants of the network's own are no weights; a file may hold them.
                required = isinstance(value, chainer.Variable) or own in _STATISTICS
                yield spellings[0], _Target(link, own, spellings, required)


class _File(NamedTuple):
    """A file's arrays: shapes first, so that nothing is read that doesn't fit."""

    shapes: Mapping[str, Shape]
    read: Callable[[str], np.ndarray]


def _compare(
    targets: Mapping[str, _Target], spellings: Mapping[str, str], file: _File, rename: Callable[[str], str] | None
) -> WeightsReport:
    report = WeightsReport()
    found: dict[str, str] = {}
    for stored in file.shapes:
        sought = (rename(stored) if rename else stored).replace(".", "/").strip("/").removesuffix(":0")
        name = spellings.get(sought)
        if name is None:
            if sought.rpartition("/")[2] not in _COUNTERS:
                report.left_over.append(stored)
            continue
        if name in found:
            raise ValueError(f"{found[name]!r} and {stored!r} both stand for {name}")
        found[name] = stored
    # A layer that a network uses twice has its weights under two names in the chain, and one in the file.
    shared = {_memory(targets[name].array) for name in found}
    for name, target in targets.items():
        own = None if target.array is None else tuple(target.array.shape)
        if name not in found:
            if target.required and _memory(target.array) not in shared - {None}:
                report.missing.append(name)
        elif own is not None and file.shapes[found[name]] != own:
            report.differing[name] = own, file.shapes[found[name]]
        else:
            report.matched[name] = found[name]
    return report


def _memory(array: Any) -> tuple[int, Shape, Shape] | None:
    """Where an array lies in memory; None for one that isn't there yet."""
    if array is None:
        return None
    address = array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr
    return address, array.shape, array.strides


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name!r} must hold finite floats, got {array.dtype}, NaN or infinity")
    return array


@contextmanager
def _opened(path: Path, start: bytes) -> Iterator[_File]:
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            yield _npz(archive)
    elif start.startswith(b"\x89HDF"):
        h5py = _required("h5py")
        with h5py.File(path, "r") as file:
            yield _hdf5(h5py, file)
    elif start[8:9] == b"{":
        with _required("safetensors").safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            yield _File({name: tuple(file.get_slice(name).get_shape()) for name in names}, file.get_tensor)
    else:
        raise ValueError("it is no npz, HDF5 or safetensors file")


def _required(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(f"weights of this kind: pip install {module}") from error


def _npz(archive: zipfile.ZipFile) -> _File:
    def shape(entry: zipfile.ZipInfo) -> Shape:
        with archive.open(entry) as stream:
            version = npy_format.read_magic(stream)
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, _, dtype = read(stream)
            # An array that claims more than there is would be allocated before that shows.
            if dtype.hasobject or entry.file_size - stream.tell() != int(np.prod(shape, dtype=object)) * dtype.itemsize:
                raise ValueError(f"{entry.filename!r} doesn't hold the {dtype} array of shape {shape} that it claims")
        return shape

    def read(name: str) -> np.ndarray:
        with archive.open(f"{name}.npy") as stream:
            return npy_format.read_array(stream, allow_pickle=False)

    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    return _File({entry.filename.removesuffix(".npy"): shape(entry) for entry in entries}, read)


def _hdf5(h5py: Any, file: Any) -> _File:
    shapes: dict[str, Shape] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and item.shape != (0,):
            if item.external or item.is_virtual:
                raise ValueError(f"{name!r} is kept in another file")
            shapes[name] = tuple(item.shape)

    # Links to other files aren't followed.
    file.visititems(note)
    return _File(shapes, lambda name: file[name][()])

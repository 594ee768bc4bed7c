"""Arrays of other libraries, torch's among them, in and out of the primitives through DLPack; their memory isn't copied.

No library is imported for this but CuPy, and that only once an array on a CUDA device is here; the others are there already if
their arrays are.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from dcnn_kernels.arrays import Array, BackendError, is_cupy

P = ParamSpec("P")
R = TypeVar("R")

#: DLPack's numbers for memory that the host reads (its own, and what CUDA or ROCm pinned), and for that of CUDA devices.
HOST_MEMORY, CUDA_MEMORY = (1, 3, 11), (2, 13)
#: Types of arguments that are no other library's arrays, as of nearly all.
FAMILIAR = frozenset((np.ndarray, bool, int, float, str, tuple, list, type(None)))
#: What libraries raise for an array that DLPack can't tell of.
REFUSALS = (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError)


def takes_any_array(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a primitive take the arrays of any library that speaks DLPack, as torch does, and give back the same kind.

    To the primitive they are NumPy arrays where the host can read their memory, and CuPy arrays on a CUDA device. There it
    runs on the arrays' device, and for torch's tensors on torch's current stream. What comes back is of the kind of the first
    array, or, if that array's library has no ``from_dlpack``, a NumPy or CuPy array.

    Raises:
        TypeError: An array in memory or of a dtype that NumPy and CuPy don't know.
        BackendError: A tensor that requires grad while torch records gradients, since none pass through a primitive; arrays on
            several devices, or on one together with CuPy's own; or CuPy is missing.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if FAMILIAR.issuperset(map(type, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        if not any(map(_is_foreign, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        foreign = {name: value for name, value in given.arguments.items() if _is_foreign(value)}
        first = next(name for name, value in given.arguments.items() if name in foreign or hasattr(value, "__dlpack__"))
        with _device_and_stream(foreign, given.arguments):
            given.arguments.update({name: _borrowed(name, value) for name, value in foreign.items()})
            result = function(*given.args, **given.kwargs)
            return _like(foreign[first], result) if first in foreign else result

    return call


def _is_foreign(value: Any) -> bool:
    return not isinstance(value, np.ndarray) and hasattr(value, "__dlpack_device__") and not is_cupy(value)


def _library_of(array: Array) -> Any:
    """The library that makes such arrays by its ``from_dlpack``, or None."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    libraries = (sys.modules.get(kind.__module__.partition(".")[0]) for kind in type(array).__mro__)
    return next((library for library in libraries if hasattr(library, "from_dlpack")), None)


def _is_torchs(array: Array) -> bool:
    return "torch" in sys.modules and _library_of(array) is sys.modules["torch"]


def _refusal(name: str, array: Array, error: Exception) -> TypeError:
    kind = f"{type(array).__module__}.{type(array).__name__}"
    return TypeError(f"{name}: this {kind} can't be read through DLPack: {error}")


def _cuda_device(name: str, array: Array) -> int | None:
    """Number of the CUDA device that an array lies on, or None in memory of the host."""
    try:
        memory, device = array.__dlpack_device__()
    except REFUSALS as error:
        raise _refusal(name, array, error) from error
    if memory not in HOST_MEMORY + CUDA_MEMORY:
        raise TypeError(f"{name} must lie in memory of the host or of a CUDA device, got DLPack's device type {int(memory)}")
    return int(device) if memory in CUDA_MEMORY else None


@contextmanager
def _device_and_stream(foreign: Mapping[str, Array], arguments: Mapping[str, Any]) -> Iterator[None]:
    """Makes current the device of arrays on CUDA, and torch's current stream if they are torch's."""
    devices = {name: number for name, array in foreign.items() if (number := _cuda_device(name, array)) is not None}
    if not devices:
        yield
        return
    if len(set(devices.values())) > 1:
        raise BackendError(f"arrays of one call must lie on one device, got {devices}")
    beside = [name for name, value in arguments.items() if is_cupy(value)]
    if beside:
        # Each library has a current stream of its own, and neither waits for the other's.
        raise BackendError(f"arrays of one call must be of one library, got CuPy's for {beside} and others for {list(devices)}")
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendError(f"{' and '.join(devices)} on a CUDA device need CuPy, which can't be imported: {error}") from error
    name, device = next(iter(devices.items()))
    with cupy.cuda.Device(device):
        if not _is_torchs(foreign[name]):
            yield
            return
        # On the tensors' own stream memory may be handed back to either library while kernels are under way.
        pointer = sys.modules["torch"].cuda.current_stream(device).cuda_stream
        with cupy.cuda.Stream.from_external(SimpleNamespace(__cuda_stream__=lambda: (0, pointer))):
            yield


def _borrowed(name: str, array: Array) -> Array:
    """An array of another library as a NumPy or CuPy array of the same memory."""
    if _is_torchs(array) and array.requires_grad:
        if sys.modules["torch"].is_grad_enabled():
            raise BackendError(
                f"{name} requires grad, but no gradient passes through dcnn_kernels: give {name}.detach(), or call within "
                "torch.no_grad()"
            )
        array = array.detach()
    library = np if _cuda_device(name, array) is None else sys.modules["cupy"]
    try:
        # torch would hand over the memory of a tensor whose sign it only notes, and not say so.
        return library.from_dlpack(array.resolve_neg() if _is_torchs(array) else array)
    except REFUSALS as error:
        raise _refusal(name, array, error) from error


def _like(array: Array, result: Any) -> Any:
    """Results as arrays of the library of ``array``; what is no array stays what it is."""
    library = _library_of(array)
    if isinstance(result, tuple):
        return tuple(_like(array, part) for part in result)
    return library.from_dlpack(result) if library is not None and hasattr(result, "__dlpack__") else result

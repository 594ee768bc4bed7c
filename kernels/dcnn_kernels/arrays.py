"""Whose array it is, which backend serves it, and whether its dtype and shape will do.

Nothing here imports CuPy: a CuPy array is known by its type's module, so CuPy is loaded only by those who use it.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import numbers
import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

#: A NumPy or CuPy array; for the public primitives, one of any library that speaks DLPack (see ``dlpack.py``). All but NumPy are
#: optional, so their types can't be named here.
Array = Any

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
BACKENDS = ("reference", "compiled", "cuda")
#: Primitives that have a compiled form, by module.
COMPILED = (
    "activations",
    "convolution",
    "layer_normalization",
    "linear",
    "normalization",
    "patches",
    "pooling",
    "relu",
    "words",
)


class BackendError(RuntimeError):
    """The backend asked for can't run on the arrays given, or on this machine."""


def is_cupy(array: Array) -> bool:
    """Whether it is a CuPy array; CuPy isn't imported to find out."""
    return type(array).__module__.partition(".")[0] == "cupy" and hasattr(array, "__cuda_array_interface__")


def backend_of(array: Array) -> str:
    """Names the backend that an array belongs to.

    Args:
        array: A NumPy or CuPy array.

    Returns:
        ``"reference"`` for NumPy, ``"cuda"`` for CuPy.

    Raises:
        TypeError: The object is neither.
    """
    if isinstance(array, np.ndarray):
        return "reference"
    if is_cupy(array):
        return "cuda"
    raise TypeError(f"expected a numpy.ndarray or a cupy.ndarray, got {type(array).__module__}.{type(array).__name__}")


def array_module(array: Array) -> Any:
    """``numpy`` or ``cupy``, whichever the array belongs to.

    Raises:
        TypeError: It belongs to neither.
    """
    return np if backend_of(array) == "reference" else sys.modules["cupy"]


def select_backend(module: str, backend: str | None, **arrays: Array) -> ModuleType:
    """Picks the module that runs a primitive: the arrays' own backend, unless one is forced.

    Args:
        module: Name of the primitive's module, the same in every backend (``"pooling"``).
        backend: ``"reference"``, ``"compiled"``, ``"cuda"``, or None to follow the arrays: NumPy's go to what is compiled,
            where Numba is installed and the module is one of :data:`COMPILED`, else to the reference.
        **arrays: The arrays of the call by argument name; None values are passed over.

    Returns:
        ``dcnn_kernels.reference.<module>``, ``dcnn_kernels.compiled.<module>`` or ``dcnn_kernels.cuda.<module>``.

    Raises:
        TypeError: An argument is no array.
        BackendError: Arrays of two backends are mixed, or the forced backend can't run.
        ValueError: ``backend`` is an unknown name.
    """
    owner = _owner(arrays)
    if backend is None:
        backend = "compiled" if owner == "reference" and module in COMPILED and _numba_is_installed() else owner
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS} or None, got {backend!r}")
    if (backend == "cuda") != (owner == "cuda"):
        raise BackendError(
            f"backend {backend!r} was forced, but the arrays belong to {owner!r}; move them first, nothing is copied unasked"
        )
    if backend == "compiled" and not _numba_is_installed():
        raise BackendError("backend 'compiled' was forced, but Numba isn't installed; the extra 'cpu' brings it")
    try:
        return _module(backend, module)
    except ModuleNotFoundError as error:
        raise BackendError(f"backend {backend!r} has no {module!r} here: {error}") from error


@functools.cache
def _module(backend: str, module: str) -> ModuleType:
    return importlib.import_module(f"dcnn_kernels.{backend}.{module}")


def _owner(arrays: dict[str, Array]) -> str:
    """The backend that all of them belong to."""
    if {type(array) for array in arrays.values() if array is not None} == {np.ndarray}:
        return "reference"  # as nearly always, and at once
    owners = {}
    for name, array in arrays.items():
        if array is not None:
            try:
                owners[name] = backend_of(array)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
    if not owners:
        raise TypeError(f"{' or '.join(arrays)} must be an array, got None")
    if len(set(owners.values())) > 1:
        raise BackendError(f"arrays of one call must belong to one backend, got {owners}")
    return next(iter(owners.values()))


@functools.cache
def _numba_is_installed() -> bool:
    """Looks for Numba without importing it."""
    return importlib.util.find_spec("numba") is not None


def check_float(name: str, array: Array, ndim: int | tuple[int, ...], like: Array | None = None) -> None:
    """Raises unless an array is a float array of the expected rank.

    Args:
        name: The argument's name, for the message.
        array: The array.
        ndim: The rank expected, or those allowed.
        like: Another array whose dtype must be the same.

    Raises:
        TypeError: No array, or a dtype other than float32 and float64 (on CUDA float16 too), or unlike ``like``.
        ValueError: The wrong number of dimensions.
    """
    try:
        owner = backend_of(array)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    allowed = FLOAT_DTYPES if owner == "reference" else (np.dtype(np.float16), *FLOAT_DTYPES)
    if array.dtype not in allowed:
        raise TypeError(f"{name} must be of dtype {' or '.join(map(str, allowed))}, got {array.dtype}")
    if like is not None and array.dtype != like.dtype:
        raise TypeError(f"{name} must be of the same dtype as the other arrays, {like.dtype}, got {array.dtype}")
    ranks = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in ranks:
        raise ValueError(f"{name} must have {' or '.join(map(str, ranks))} dimensions, got shape {array.shape}")


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``array.shape`` equals ``shape``; ``-1`` in ``shape`` allows any size."""
    if array.shape == shape:
        return
    if len(array.shape) != len(shape) or any(want not in (-1, got) for got, want in zip(array.shape, shape, strict=True)):
        wanted = "(" + ", ".join("any" if want == -1 else str(want) for want in shape) + ("," if len(shape) == 1 else "") + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")


def check_mask(name: str, mask: Array, shape: tuple[int, ...]) -> None:
    """Raises TypeError or ValueError unless ``mask`` is what ``relu_mask`` makes of an array of this shape."""
    if mask.dtype != np.uint8:
        raise TypeError(f"{name} must be of dtype uint8, as relu_mask makes it, got {mask.dtype}")
    check_shape(name, mask, (shape[0], (math.prod(shape[1:]) + 7) // 8))


def check_switches(switches: Array, g: Array, ksize: tuple[int, int]) -> None:
    """Raises TypeError or ValueError unless ``switches`` are what ``max_pooling_2d`` makes beside maxima like ``g``."""
    expected = np.dtype(index_dtype(ksize[0] * ksize[1]))
    if switches.dtype != expected:
        raise TypeError(f"switches of {ksize} windows must be of dtype {expected}, got {switches.dtype}")
    check_shape("switches", switches, g.shape)


def check_number(name: str, value: float) -> float:
    """Returns ``value`` as a float; raises TypeError unless it is a real number."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_bound(name: str, value: float) -> float:
    """Returns the upper bound of a rectifier as a float; raises TypeError unless it is a number, ValueError if not positive."""
    bound = check_number(name, value)
    if not bound > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return bound


def index_dtype(places: int) -> npt.DTypeLike:
    """The smallest unsigned dtype that numbers ``places`` places: uint8 up to 256, then uint16 and uint32."""
    return np.uint8 if places <= 1 << 8 else np.uint16 if places <= 1 << 16 else np.uint32

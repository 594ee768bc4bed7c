"""Compiles the kernels of ``src`` when they are first launched, and launches them.

CuPy compiles an instance once, keeps it on disk, and loads it for each device that launches it. Kernels run on the current
device and stream.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from dcnn_kernels.arrays import Array

SOURCE = Path(__file__).parent / "src"

#: Indices up to here fit a 32-bit integer.
INT_MAX = 2**31 - 1
#: Dynamic shared memory (bytes) that a kernel may have without asking for more.
SHARED_BYTES = 48 * 1024

_CTYPES = {
    np.dtype(np.float16): "__half",
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.uint8): "unsigned char",
    np.dtype(np.uint16): "unsigned short",
    np.dtype(np.uint32): "unsigned int",
}


def ctype(dtype: Any) -> str:
    """The CUDA type of an array's elements, as template arguments name it.

    Raises:
        TypeError: A dtype that no kernel takes.
    """
    try:
        return _CTYPES[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"kernels take {', '.join(map(str, _CTYPES))}, got {np.dtype(dtype)}") from None


def index_type(*counts: int) -> tuple[str, type[np.signedinteger]]:
    """The smallest type for indices, as CUDA and as NumPy name it.

    Args:
        *counts: Every number up to which an index may run, array sizes among them.

    Returns:
        ``("int", numpy.int32)``, or ``("long long", numpy.int64)`` where a count reaches 2^31 - 1.
    """
    return ("int", np.int32) if max(counts) < INT_MAX else ("long long", np.int64)


@functools.cache
def _options() -> tuple[str, ...]:
    """Compiler options; the digest of the sources lets CuPy's cache see a changed header."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    return ("-std=c++17", f"-I{SOURCE}", f"-DSOURCES={digest.hexdigest()}")


@functools.cache
def kernel(file: str, expression: str) -> Any:
    """The compiled kernel, a ``cupy.RawKernel``.

    Args:
        file: Name of the source in ``src``, ``"pooling.cu"``.
        expression: The kernel, an instance of a template: ``"max_pool<float, unsigned char, int>"``.
    """
    code = (SOURCE / file).read_text(encoding="utf-8")
    return cupy.RawModule(code=code, options=_options(), name_expressions=(expression,)).get_function(expression)


def launch(
    file: str,
    expression: str,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Array | np.generic | None],
    shared: int = 0,
) -> None:
    """Launches a kernel on the current device and stream.

    Args:
        file: Name of the source in ``src``.
        expression: The kernel, an instance of a template.
        grid: Blocks along x, y, z.
        block: Threads along x, y, z.
        args: CuPy arrays, NumPy scalars of the very type of the parameter (a ``numpy.void`` for a struct), or None for a null
            pointer.
        shared: Bytes of dynamic shared memory.

    Raises:
        TypeError: An argument is a Python number or a host array: its width on the device would be a guess.
        RuntimeError: An array lies on another device, or CUDA or the compiler failed; names the kernel and its arguments.
    """
    for place, argument in enumerate(args):
        if not (argument is None or isinstance(argument, (cupy.ndarray, np.generic))):
            raise TypeError(
                f"{expression}: argument {place} must be a cupy.ndarray, a NumPy scalar or None, got {type(argument).__name__}"
            )
    device = cupy.cuda.runtime.getDevice()
    for place, argument in enumerate(args):
        if isinstance(argument, cupy.ndarray) and argument.data.device_id != device:
            raise RuntimeError(
                f"{expression}: argument {place} lies on device {argument.data.device_id}, but device {device} is current; "
                "use `with array.device:`"
            )
    try:
        function = kernel(file, expression)
        if shared > SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = shared
        function(tuple(grid), tuple(block), tuple(map(_passed, args)), shared_mem=shared)
    except Exception as error:
        given = ", ".join(_describe(argument) for argument in args)
        raise RuntimeError(
            f"kernel {expression} of {file} failed with grid {tuple(grid)}, block {tuple(block)}, "
            f"{shared} bytes of shared memory and arguments ({given}): {error}"
        ) from error


def _passed(argument: Array | np.generic | None) -> Any:
    """What CuPy takes for an argument: a struct by value is an array of one element to it."""
    if argument is None:
        return np.uintp(0)
    return np.asarray(argument) if isinstance(argument, np.void) else argument


def _describe(argument: Array | np.generic | None) -> str:
    if isinstance(argument, cupy.ndarray):
        return f"{argument.dtype}{list(argument.shape)}"
    return "null" if argument is None else f"{argument.dtype} {argument}"

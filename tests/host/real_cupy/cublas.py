"""cuBLAS's matrix products by NumPy."""

import ctypes
import importlib.util
import re
import subprocess
from ctypes import c_double, c_float, c_int, c_longlong, c_void_p

import numpy as np

from tests.host.real_cupy.calls import Table, write
from tests.host.real_cupy.cuda import is_capturing

#: cudaDataType.
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}
NOT_SUPPORTED, INTERNAL_ERROR = 15, 14
_table = Table(INTERNAL_ERROR)
_stream = [0]


def install():
    """In the place of the library that CuPy would load."""
    path = importlib.util.find_spec("cupy_backends.cuda.libs.cublas").origin
    symbols = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
    _table.load("libcublasLt.so.13", [])
    _table.load("libcublas.so.13", sorted(set(re.findall(r" U (cublas\w+)", symbols))))


def _matrix(pointer, rows, columns, leading, dtype):
    """A matrix whose columns lie ``leading`` elements apart."""
    itemsize = np.dtype(dtype).itemsize
    memory = (ctypes.c_char * (((columns - 1) * leading + rows) * itemsize)).from_address(pointer)
    return np.lib.stride_tricks.as_strided(np.frombuffer(memory, dtype), (rows, columns), (itemsize, leading * itemsize))


def _multiply(turned, shape, factors, a, b, c):
    """c = alpha a b + beta c; each of a, b and c is (pointer, dtype, leading)."""
    if is_capturing(_stream[0]):
        return NOT_SUPPORTED
    m, n, k = shape
    sizes = (k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)
    double = DTYPES[c[1]] == np.float64
    left, right = (
        _matrix(pointer, *size, leading, DTYPES[dtype]).astype(np.float64 if double else np.float32)
        for (pointer, dtype, leading), size in zip((a, b), sizes, strict=True)
    )
    alpha, beta = (ctypes.cast(factor, ctypes.POINTER(c_double if double else c_float))[0] for factor in factors)
    out = _matrix(c[0], m, n, c[2], DTYPES[c[1]])
    product = alpha * ((left.T if turned[0] else left) @ (right.T if turned[1] else right))
    out[...] = product + beta * out if beta else product
    return 0


@_table.call(c_void_p)
def cublasCreate_v2(handle):
    write(handle, c_void_p, 1)


@_table.call(c_void_p)
def cublasDestroy_v2(handle):
    pass


@_table.call(c_void_p, c_void_p)
def cublasSetStream_v2(handle, stream):
    _stream[0] = stream or 0


@_table.call(c_void_p, c_int)
def cublasSetMathMode(handle, mode):
    pass


@_table.call(c_void_p, *[c_int] * 5, c_void_p, *[c_void_p, c_int] * 2, c_void_p, c_void_p, c_int)
def cublasSgemm_v2(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    return _multiply((ta, tb), (m, n, k), (alpha, beta), (a, 0, lda), (b, 0, ldb), (c, 0, ldc))


@_table.call(c_void_p, *[c_int] * 5, c_void_p, *[c_void_p, c_int, c_int] * 2, c_void_p, c_void_p, *[c_int] * 4)
def cublasGemmEx(handle, ta, tb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm):
    return _multiply((ta, tb), (m, n, k), (alpha, beta), (a, a_type, lda), (b, b_type, ldb), (c, c_type, ldc))


@_table.call(
    *[c_void_p, *[c_int] * 5, c_void_p],
    *[c_void_p, c_int, c_int, c_longlong] * 2,
    *[c_void_p, c_void_p, c_int, c_int, c_longlong, c_int, c_int, c_int],
)
def cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, *rest):
    a, a_type, lda, a_step, b, b_type, ldb, b_step, beta, c, c_type, ldc, c_step, count, *_ = rest
    steps = [step * np.dtype(DTYPES[dtype]).itemsize for step, dtype in ((a_step, a_type), (b_step, b_type), (c_step, c_type))]
    for number in range(count):
        a_at, b_at, c_at = (start + number * step for start, step in zip((a, b, c), steps, strict=True))
        matrices = (a_at, a_type, lda), (b_at, b_type, ldb), (c_at, c_type, ldc)
        if status := _multiply((ta, tb), (m, n, k), (alpha, beta), *matrices):
            return status
    return 0

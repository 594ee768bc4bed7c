"""A stand-in for the part of CuPy that the launch code uses: device arrays in host memory, kernels built by g++.

With ``tests/host`` first on Python's path, ``import cupy`` finds this package. It takes what CuPy takes, and refuses what CuPy
refuses: NumPy arrays among device arrays, implicit copies to the host, arguments that a kernel's parameters don't fit, launches
beyond a device's limits. What CuPy has and this lacks is an AttributeError; add it where launch code needs it, as CuPy has it.
"""

from cupy import cuda
from cupy.arrays import array, asarray, ascontiguousarray, asnumpy, empty, empty_like, from_dlpack, full, lookup, ndarray, zeros
from cupy.cuda import get_default_memory_pool
from cupy.kernels import ElementwiseKernel, RawKernel, RawModule

__version__ = "14.2.0"
__all__ = [
    "ElementwiseKernel",
    "RawKernel",
    "RawModule",
    "array",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "cuda",
    "empty",
    "empty_like",
    "from_dlpack",
    "full",
    "get_default_memory_pool",
    "ndarray",
    "zeros",
]


def __getattr__(name):
    return lookup(name)

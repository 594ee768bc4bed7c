"""A stand-in for the part of CuPy that the launch code and Chainer use: device arrays in host memory, kernels built by g++.

With ``tests/host`` first on Python's path, ``import cupy`` finds this package. It takes what CuPy takes, and refuses what CuPy
refuses: NumPy arrays among device arrays, implicit copies to the host, arguments that a kernel's parameters don't fit, launches
beyond a device's limits. What CuPy has and this lacks is an AttributeError; add it where it is needed, as CuPy has it.
"""

import functools
import sys

import numpy as np
from cupy import cuda
from cupy.arrays import (
    array,
    asarray,
    ascontiguousarray,
    asnumpy,
    copyto,
    empty,
    empty_like,
    from_dlpack,
    full,
    lookup,
    ndarray,
    zeros,
)
from cupy.cuda import get_default_memory_pool, get_default_pinned_memory_pool
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
    "copyto",
    "cuda",
    "empty",
    "empty_like",
    "from_dlpack",
    "full",
    "fuse",
    "get_array_module",
    "get_default_memory_pool",
    "get_default_pinned_memory_pool",
    "memoize",
    "ndarray",
    "zeros",
]


def get_array_module(*args):
    """This package, where an argument is a device array; else NumPy."""
    return sys.modules[__name__] if any(isinstance(argument, ndarray) for argument in args) else np


def memoize(for_each_device=False):
    """Keeps results by arguments; they hold for every device here."""
    return functools.cache


def fuse(*functions, **options):
    """Functions stay as they are."""
    return functions[0] if functions else lambda function: function


def __getattr__(name):
    return lookup(name)

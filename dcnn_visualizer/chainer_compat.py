"""Imports an old Chainer on a current NumPy and Python: the only place that knows how.

Chainer 7.8.1 reads a few names that have since been removed. They are lent while it is imported and taken back after, so
no other package sees them. Import this module before ``chainer``; every module of this package does.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def _scalar_types() -> dict[str, list[type]]:
    """What ``numpy.sctypes`` held until NumPy 2.0; Chainer's ``as_strided`` looks integer sizes up in it."""
    return {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
        "complex": [np.complex64, np.complex128, np.clongdouble],
        "others": [bool, object, bytes, str, np.void],
    }


def _distutils_stand_in() -> dict[str, types.ModuleType]:
    """Python 3.12 has no ``distutils`` and NumPy no ``numpy.distutils``; Chainer's environment check asks for its BLAS."""
    package, system_info = types.ModuleType("numpy.distutils"), types.ModuleType("numpy.distutils.system_info")
    system_info.get_info = lambda *names: {}  # type: ignore[attr-defined]
    package.system_info = system_info  # type: ignore[attr-defined]
    return {"numpy.distutils": package, "numpy.distutils.system_info": system_info}


@contextmanager
def lent_names() -> Iterator[None]:
    """While this lasts, Chainer finds the names that it reads as it is imported, and its old ways raise no warnings."""
    lent_attributes = {name: value for name, value in {"sctypes": _scalar_types()}.items() if name not in vars(np)}
    lent_modules = _distutils_stand_in() if sys.version_info >= (3, 12) else {}
    for name, value in lent_attributes.items():
        setattr(np, name, value)
    sys.modules.update(lent_modules)
    try:
        with warnings.catch_warnings():
            # pkg_resources announces its own removal; whoever installs 'setuptools<81' has already answered that.
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for name in lent_attributes:
            delattr(np, name)
        for name in lent_modules:
            sys.modules.pop(name, None)


def import_chainer() -> types.ModuleType:
    """Imports Chainer, lending it what it misses.

    Returns:
        The ``chainer`` package.

    Raises:
        ImportError: Chainer, or the ``pkg_resources`` that it imports, is not installed; the message says what to do.
    """
    if "chainer" in sys.modules:
        return sys.modules["chainer"]
    with lent_names():
        try:
            return importlib.import_module("chainer")
        except ModuleNotFoundError as error:
            if error.name == "pkg_resources":
                raise ImportError("Chainer 7.8.1 imports pkg_resources, which needs 'setuptools<81'") from error
            raise ImportError(f"Chainer could not be imported: {error}; pip install 'chainer==7.8.1'") from error


import_chainer()

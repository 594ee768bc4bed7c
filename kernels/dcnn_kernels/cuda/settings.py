"""How the CUDA side computes where there is a choice. Settings hold for the thread (or task) that makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

PRECISIONS = ("exact", "tf32")
ENGINES = ("auto", "own", "cudnn")

_precision = ContextVar("dcnn_kernels precision", default="exact")
_engine = ContextVar("dcnn_kernels engine", default="auto")
_graphs = ContextVar("dcnn_kernels graphs", default=True)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Chooses how convolutions multiply float32 numbers; the other dtypes have but one way.

    Args:
        name: ``"exact"``, the default: float32 throughout, as the reference computes. ``"tf32"``: on tensor cores, which
            round both factors to 10 bits of mantissa and sum in float32: several times as fast, with relative errors near
            1e-3. Devices before compute capability 8.0 have no such cores and stay exact.

    Raises:
        ValueError: Another name.
    """
    with _setting(_precision, "precision", name, PRECISIONS):
        yield


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Chooses whose kernels convolve.

    Args:
        name: ``"own"``: those of this package. ``"cudnn"``: NVIDIA's, through the package ``nvidia-cudnn-frontend``; what
            cuDNN can't do, or its absence, is an error. ``"auto"``, the default: cuDNN's where it is installed and can, but
            our own where the signal is unpooled on the way and where they have less work to do.

    Raises:
        ValueError: Another name.
    """
    with _setting(_engine, "engine", name, ENGINES):
        yield


@contextmanager
def graphs(enabled: bool) -> Iterator[None]:
    """Chooses whether repeated work of one shape may become a CUDA graph, which saves the host its launches.

    Args:
        enabled: Whether it may; the default is True. The results are the same. What takes much memory never does.

    Raises:
        ValueError: Neither True nor False.
    """
    with _setting(_graphs, "graphs", enabled, (True, False)):
        yield


def current_precision() -> str:
    """The name last chosen by :func:`precision`."""
    return _precision.get()


def current_engine() -> str:
    """The name last chosen by :func:`engine`."""
    return _engine.get()


def current_graphs() -> bool:
    """What was last chosen by :func:`graphs`."""
    return _graphs.get()


@contextmanager
def _setting(variable: ContextVar[T], what: str, name: T, names: tuple[T, ...]) -> Iterator[None]:
    if name not in names:
        raise ValueError(f"{what} must be one of {names}, got {name!r}")
    token = variable.set(name)
    try:
        yield
    finally:
        variable.reset(token)

"""Launches kernels whose threads share out the elements of an array, a few to each thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dcnn_kernels.arrays import Array
from dcnn_kernels.cuda.launch import index_type, launch

THREADS = 256
#: Blocks along x at most, enough to fill any device many times over; threads go round until all elements are done.
BLOCKS = 1 << 14
#: Blocks along y at most, CUDA's bound.
ROWS = (1 << 16) - 1
#: Bytes that a thread reads or writes at once.
PACK_BYTES = 16


def pack(dtype: Any) -> int:
    """Elements that a thread reads or writes at once."""
    return PACK_BYTES // np.dtype(dtype).itemsize


def element_index(*counts: int) -> tuple[str, type[np.signedinteger]]:
    """The type for indices up to any of ``counts``, and a step of all threads beyond it; as :func:`launch.index_type`."""
    return index_type(max(counts) + BLOCKS * THREADS * PACK_BYTES)


def scalar(value: float, dtype: Any) -> np.floating:
    """A number in the type that kernels on arrays of ``dtype`` compute in: float32 for float16."""
    return np.float64(value) if np.dtype(dtype) == np.float64 else np.float32(value)


def mask_rows(batch: int, elements: int) -> tuple[int, int]:
    """Rows of a mask, each of whole bytes, and elements of a row: one row for all where every sample fills its last byte."""
    return (1, batch * elements) if elements % 8 == 0 or batch == 1 else (batch, elements)


def launch_elements(
    file: str, expression: str, elements: int, per_thread: int, args: Sequence[Array | np.generic | None], rows: int = 1
) -> None:
    """Launches a kernel over elements; without elements, nothing.

    Args:
        file: Name of the source in ``src``.
        expression: The kernel, an instance of a template.
        elements: Elements of a row.
        per_thread: Elements of a thread at a time.
        args: Arguments, as :func:`launch.launch` takes them.
        rows: Rows, which blocks share out along y.
    """
    if elements and rows:
        blocks = min(-(-elements // (per_thread * THREADS)), BLOCKS)
        launch(file, expression, (blocks, min(rows, ROWS)), (THREADS,), args)

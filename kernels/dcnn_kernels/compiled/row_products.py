"""Matrix products of many rows, without BLAS: its threads hold the cores for a while after each product, waiting for another."""

from __future__ import annotations

import numpy as np

from ..reference.im2col import FloatArray
from .microkernel import ROWS, VECTOR, VECTORS, sums_of_products
from .team import parted
from .threads import share

#: Bytes of rows that meet one panel after the other: so many stay in the second level of cache.
CHUNK_BYTES = 1 << 18


def panel_width(itemsize: int) -> int:
    """Outputs of a panel: as many as a block of sums has."""
    return VECTORS * VECTOR // itemsize


def in_panels(matrices: FloatArray) -> FloatArray:
    """Matrices (n, C, O) as :func:`multiply_rows` reads them, (n, panels, C, width); the last panel has zeros in the end."""
    width = panel_width(matrices.itemsize)
    count, channels, outgoing = matrices.shape
    panels = np.zeros((count, -(-outgoing // width), channels, width), matrices.dtype)
    for panel in range(panels.shape[1]):
        outputs = matrices[..., panel * width : (panel + 1) * width]
        panels[:, panel, :, : outputs.shape[2]] = outputs
    return panels


def multiply_rows(rows: FloatArray, panels: FloatArray, products: FloatArray, used: int) -> None:
    """Multiplies rows by matrices.

    Args:
        rows: (n, rows, C), contiguous.
        panels: The matrices, as :func:`in_panels` lays them out.
        products: (n, rows, panels times width), contiguous; filled.
        used: Rows to multiply, at least :data:`ROWS <.microkernel.ROWS>`; what lies behind them is left.
    """
    count, height, channels = rows.shape
    width = panels.shape[3]
    chunk = max(1, CHUNK_BYTES // (ROWS * channels * rows.itemsize)) * ROWS
    chunks = -(-used // chunk)
    arrays = rows.reshape(-1), panels.reshape(-1), np.zeros(ROWS, rows.dtype), products.reshape(-1)
    work = min(chunk, used) * channels * width // 8
    share(_multiply, count * chunks * panels.shape[1], work, *arrays, used, height, channels, panels.shape[1], width, chunk)


@parted
def _multiply(first, last, rows, matrices, zeros, products, used, height, channels, panels, width, chunk):
    """Products of a chunk of rows and a panel of a matrix; rows that the last block of a chunk lacks are those before."""
    steps, chunks = np.arange(channels), (used + chunk - 1) // chunk
    for item in range(first, last):
        panel, part, matrix = item % panels, item // panels % chunks, item // panels // chunks
        for begin in range(part * chunk, min((part + 1) * chunk, used), ROWS):
            row = matrix * height + min(begin, used - ROWS)
            sums_of_products(
                ROWS,
                VECTORS,
                rows,
                row * channels,
                channels,
                steps,
                matrices,
                (matrix * panels + panel) * channels * width,
                steps * width,
                zeros,
                0,
                products,
                (row * panels + panel) * width,
                panels * width,
                None,
            )

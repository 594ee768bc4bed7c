"""How much memory is free."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from dcnn_kernels.arrays import Array

#: What is taken for free where the system doesn't tell.
UNKNOWN = 4 << 30


def free_memory(array: Array) -> int:
    """Bytes free on the host of a NumPy array, or on the device of a CuPy array, unused ones of CuPy's pool among them."""
    if not isinstance(array, np.ndarray):
        cupy = sys.modules["cupy"]
        with array.device:
            return cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else UNKNOWN

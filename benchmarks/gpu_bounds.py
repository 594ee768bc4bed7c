"""What a GPU can do at most: arithmetic, by what its multiprocessors are made to do, and memory, by a measured copy.

Operations a clock are those of NVIDIA's architecture whitepapers, Turing to Blackwell, without sparsity and with sums in float32;
at 8.6 and 8.9 those of data centres' boards, for tensor cores of GeForce boards do half. The clock is CUDA's highest.
"""

from __future__ import annotations

from collections.abc import Callable

import cupy

#: Operations a clock and multiprocessor, by compute capability and arithmetic; a multiplication and an addition are two.
OPERATIONS = {
    75: {"exact": 128, "float16": 1024},
    80: {"exact": 128, "tf32": 1024, "float16": 2048},
    86: {"exact": 256, "tf32": 512, "float16": 1024},
    89: {"exact": 256, "tf32": 512, "float16": 1024},
    90: {"exact": 256, "tf32": 2048, "float16": 4096},
    100: {"exact": 256, "tf32": 4096, "float16": 8192},
    120: {"exact": 256, "tf32": 512, "float16": 1024},
}
#: Bytes of an array that is copied to measure memory: far more than caches hold.
COPIED = 1 << 29


def operations_per_second(arithmetic: str) -> float | None:
    """Multiplications and additions a second at most, None where that isn't known of the device."""
    device = cupy.cuda.Device()
    each = OPERATIONS.get(int(device.compute_capability), {}).get(arithmetic)
    attributes = device.attributes
    return each and each * attributes["MultiProcessorCount"] * attributes["ClockRate"] * 1e3


def copy() -> Callable[[], None]:
    """The copy that measures memory: it reads ``COPIED`` bytes, and writes as many."""
    source, target = cupy.ones((2, COPIED // 4), "float32")
    return lambda: cupy.copyto(target, source)


def least_seconds(operations: float, arithmetic: str, moved: float = 0.0, bytes_per_second: float = 1.0) -> float | None:
    """What so many operations, and so many bytes to be read or written, take at least; None where that isn't known."""
    most = operations_per_second(arithmetic)
    return most and max(operations / most, moved / bytes_per_second)

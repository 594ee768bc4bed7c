"""The host build sees what it is for: every kernel here has one error planted, which fails, and passes without it.

Where two runs are named for one error, the first is what happens to see it, the others are those that must.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import host_build

pytestmark = pytest.mark.skipif(host_build.compiler() is None, reason="the host build needs g++, which isn't there")
HERE = Path(__file__).parent

PRELUDE = """
import cupy
import numpy as np

def launch(code, arguments, grid=(1,), block=(64,), shared=0):
    module = cupy.RawModule(code=code, options=("-I" + SOURCE,), name_expressions=("kernel<float>",))
    module.get_function("kernel<float>")(grid, block, arguments, shared_mem=shared)

x, y = cupy.asarray(np.arange(64, dtype=np.float32)), cupy.empty(64, np.float32)
"""
HEAD = '#include "common.cuh"\ntemplate <typename T> __global__ void kernel(T* y, const T* x, int n) { int i = threadIdx.x; '

#: Name: (sanitizers and seeds that must see it, body of the kernel, what is put for WRONG, for right, launch, expected, message)
COPY, REVERSED = "x.get()", "x.get()[::-1]"
ADDRESS, RANDOM, THREAD = ("address", 0), ("address", 1), ("thread", 0)
ERRORS = {
    "index one too far": ([ADDRESS], "y[i] = WRONG;", "x[i + 1]", "x[i]", {}, COPY, "heap-buffer-overflow"),
    "index one too low": ([ADDRESS], "y[i WRONG] = x[i];", "- 1", "", {}, COPY, "heap-buffer-overflow"),
    "bound forgotten": ([ADDRESS], "WRONG y[i] = x[i];", "", "if (i < n)", {"block": (96,)}, COPY, "heap-buffer-overflow"),
    "shared memory too small": (
        [ADDRESS],
        "__shared__ T s[WRONG]; T* p = s; p[i] = x[i]; __syncthreads(); y[i] = p[63 - i];",
        "63",
        "64",
        {},
        REVERSED,
        "global-buffer-overflow|insufficient space",
    ),
    "row of shared memory too short": (
        [ADDRESS],
        "__shared__ T s[2][WRONG]; s[i / 32][i % 32] = x[i]; __syncthreads(); y[i] = s[i / 32][i % 32];",
        "31",
        "32",
        {},
        COPY,
        "out of bounds for type",
    ),
    "dynamic shared memory too small": (
        [ADDRESS],
        "DYNAMIC_SHARED(T, s); s[i WRONG] = x[i]; __syncthreads(); y[i] = s[63 - i WRONG];",
        "+ 1",
        "",
        {"shared": 256},
        REVERSED,
        "heap-buffer-overflow",
    ),
    "address not aligned": (
        [ADDRESS],
        "if (i < 15) *(Pack<T, 4>*)(y + 4 * i WRONG) = *(const Pack<T, 4>*)(x + 4 * i); else if (i < 19) y[i + 45] = x[i + 45];",
        "+ 1",
        "",
        {},
        COPY,
        "misaligned address",
    ),
    "32-bit index too small": (
        [ADDRESS],
        "WRONG far = i; far *= 1 << 26; y[i] = x[far >> 26];",
        "int",
        "long long",
        {},
        COPY,
        "signed integer overflow",
    ),
    "missing barrier": (
        [ADDRESS, RANDOM, THREAD],
        "__shared__ T s[64]; s[i] = x[i]; WRONG; y[i] = s[63 - i];",
        "",
        "__syncthreads()",
        {},
        REVERSED,
        "AssertionError|data race",
    ),
    # In order, thread i - 1 has always written before thread i reads.
    "missing barrier that order hides": (
        [RANDOM, THREAD],
        "__shared__ T s[64]; s[i] = x[i]; WRONG; y[i] = s[i > 31 ? i - 1 : i] + (i > 31 ? 1 : 0);",
        "",
        "__syncthreads()",
        {},
        COPY,
        "AssertionError|data race",
    ),
    "missing barrier before shared memory is written again": (
        [ADDRESS, RANDOM, THREAD],
        "__shared__ T s[64]; T sum = 0; for (int k = 0; k < 2; ++k) { s[i] = k ? x[i] : 0; __syncthreads(); "
        "sum += s[63 - i]; WRONG; } y[i] = sum;",
        "",
        "__syncthreads()",
        {},
        REVERSED,
        "AssertionError|data race",
    ),
    "missing barrier of a warp": (
        [ADDRESS, RANDOM, THREAD],
        "__shared__ T s[64]; s[i] = x[i]; WRONG; y[i] = s[i ^ 1] + (i % 2 ? 1 : -1);",
        "",
        "__syncwarp()",
        {},
        COPY,
        "AssertionError|data race",
    ),
    "write by two threads": ([THREAD], "y[i WRONG] = x[i];", "& ~1", "", {}, COPY, "data race"),
    "shared memory never written": (
        [ADDRESS],
        "__shared__ T s[64]; WRONG; __syncthreads(); y[i] = x[i] + s[i];",
        "",
        "s[i] = 0",
        {},
        COPY,
        "AssertionError",
    ),
    "asynchronous copy not waited for": (
        [ADDRESS],
        "__shared__ T s[64]; copy_async<4>(s + i, x + i); copy_async_commit(); WRONG; __syncthreads(); y[i] = s[63 - i];",
        "copy_async_wait<1>()",
        "copy_async_wait<0>()",
        {},
        REVERSED,
        "AssertionError",
    ),
    "barrier that some threads don't reach": (
        [ADDRESS],
        "__syncthreads(); y[i] = x[i]; if (i WRONG) __syncthreads(); __syncwarp(i < 32 || n < 0 ? 0xffffffffu : 0xffffffffu);",
        "% 32 < 7",
        "< 32",
        {},
        COPY,
        "wait for ever",
    ),
    "lane missing from a shuffle": (
        [ADDRESS],
        "WRONG T other = __shfl_xor_sync(0xffffffffu, x[i], 1); y[i ^ 1] = other;",
        "if (i == 40) return;",
        "",
        {},
        COPY,
        "names lane 8, which has returned|lane 8 of mask 0xffffffff has returned",
    ),
}


def run(sanitizer: str, seed: int, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with the stand-in as its cupy."""
    source = HERE.parents[1] / "kernels" / "dcnn_kernels" / "cuda" / "src"
    environment = {**os.environ, **host_build.environment(sanitizer), "DCNN_HOST_SEED": str(seed)}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    script = f"SOURCE = {str(source)!r}\n{PRELUDE}{script}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("name", ERRORS)
def test_planted_errors_are_seen(name: str) -> None:
    runs, body, wrong, right, options, expected, message = ERRORS[name]
    launch = "arguments = (y, x, np.int32(64))\n"
    check = f"np.testing.assert_array_equal(y.get(), {expected})\n"
    for sanitizer, seed in runs:
        for planted in (wrong, right):
            code = HEAD + body.replace("WRONG", planted) + " }\n"
            result = run(sanitizer, seed, f"{launch}launch({code!r}, arguments, **{options})\n{check}")
            if planted == right:
                assert result.returncode == 0, result.stderr
            else:
                assert result.returncode != 0, f"{sanitizer}, seed {seed}: not seen"
                assert any(part in result.stderr for part in message.split("|")), result.stderr

"""How warps access memory is seen: of kernels that can be told by hand, and of ours, which mustn't fall behind the file."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.host import accesses, host_build, resources, run

pytestmark = pytest.mark.skipif(host_build.compiler() is None, reason="the host build needs g++, which isn't there")

PROGRAM = """
    import json, sys
    import cupy, numpy as np
    from tests.host import accesses

    def measure(body, block=32):
        code = 'template <typename T> __global__ void kernel(T* y, const T* x) {{ int i = threadIdx.x; ' + body + ' }}'
        kernel = cupy.RawModule(code=code, name_expressions=("kernel<float>",)).get_function("kernel<float>")
        x, y = (cupy.zeros(4096, np.float32) for _ in range(2))
        row = accesses.row_of("", "", "", accesses.counted(lambda: kernel((1,), (block,), (y, x))))
        return [row[name] for name in accesses.FIELDS[3:]]

    print(json.dumps([measure(body) for body in json.load(sys.stdin)]))
"""
FLOAT4 = "struct alignas(16) Four { float v[4]; }; "
#: Bodies of kernels: accesses to shared memory and conflicts, loads and their sectors, stores and theirs.
KERNELS = {
    "y[i] = x[i];": ("0", "", "1", "1.00", "1", "1.00"),
    "y[i] = x[8 * i];": ("0", "", "1", "8.00", "1", "1.00"),
    "y[2 * i] = x[i + 1];": ("0", "", "1", "1.25", "1", "2.00"),
    "y[i] = x[0];": ("0", "", "1", "1.00", "1", "1.00"),
    "__shared__ T s[32]; s[i] = 0; y[i] = 0;": ("1", "1.00", "0", "", "1", "1.00"),
    "__shared__ T s[64]; s[2 * i] = 0;": ("1", "2.00", "0", "", "0", ""),
    "__shared__ T s[32][32]; s[i][0] = 0;": ("1", "32.00", "0", "", "0", ""),
    "__shared__ T s[32][33]; s[i][0] = 0;": ("1", "1.00", "0", "", "0", ""),
    "__shared__ T s[1]; y[i] = s[0];": ("1", "1.00", "0", "", "1", "1.00"),
    # Of 16 bytes, 8 lanes at a time: in order, and with a gap that brings every other to the same banks.
    FLOAT4 + "__shared__ Four s[32]; Four four = s[i]; y[i] = four.v[0];": ("1", "1.00", "0", "", "1", "1.00"),
    FLOAT4 + "__shared__ Four s[64]; Four four = s[2 * i]; y[i] = four.v[0];": ("1", "2.00", "0", "", "1", "1.00"),
    FLOAT4 + "Four four = ((const Four*)x)[i]; y[i] = four.v[3];": ("0", "", "1", "1.00", "1", "1.00"),
    # Lanes that went different ways meet again.
    "T a = 0; if (i % 2) a = x[i]; else a = x[i + 64]; y[i] = a;": ("0", "", "2", "2.00", "1", "1.00"),
    "T a = 0; for (int n = 0; n <= i % 4; ++n) a += x[32 * n + i]; y[i] = a;": ("0", "", "4", "1.60", "1", "1.00"),
    "__shared__ T s[32]; if (i < 7) s[i] = x[i]; __syncthreads(); y[i] = s[i % 7];": ("2", "1.00", "1", "1.00", "1", "1.00"),
    "T a = i < 9 ? x[i] : x[0]; a = __shfl_xor_sync(~0u, a, 1); y[i] = a;": ("0", "", "2", "1.00", "1", "1.00"),
}
#: Cases that are soon measured, in whose kernels all ways to memory are.
CASES = ("3x3, tf32", "pooling_2d switch ksize=2 mask", "batch_normalization  1x64x56x56")


def test_accesses_are_those_of_the_kernel():
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM).replace("{{", "{").replace("}}", "}")]
    given = json.dumps(list(KERNELS))
    result = subprocess.run(command, input=given, env=run.environment("accesses"), cwd=run.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for body, row in zip(KERNELS, json.loads(result.stdout), strict=True):
        assert tuple(row) == KERNELS[body], body


@pytest.mark.parametrize("case", CASES)
def test_no_kernel_falls_behind_the_file(case):
    command = [sys.executable, "-m", "tests.host.accesses", "--only", case, "--json"]
    result = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows, recorded = [json.loads(line) for line in result.stdout.splitlines()], accesses.rows_of_file()
    assert rows
    for row in rows:
        before = recorded.get(tuple(row[name] for name in accesses.KEY))
        assert before, f"accesses.csv lacks {row}: run `python -m tests.host.accesses`"
        for name in ("conflicts", "load_sectors", "store_sectors"):
            assert float(row[name] or 1) <= float(before[name] or 1) * 1.02, (name, row, before)


def test_every_kernel_is_in_the_file():
    measured, all_kernels = (
        {(file, kernel.partition("<")[0]) for file, kernel, *_ in rows}
        for rows in (accesses.rows_of_file(), resources.rows_of_file())
    )
    assert measured == all_kernels

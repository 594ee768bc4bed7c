"""Compiles every kernel for every architecture, and records what each needs in kernels/dcnn_kernels/cuda/resources.csv.

    python -m tests.host.resources            finds the kernels of their tests and of VGG16, compiles them, writes the file
    python -m tests.host.resources --new      compiles only those that the file lacks, drops those no longer launched
    python -m tests.host.resources --listed   compiles the kernels that the file lists, writes the file
    python -m tests.host.resources --check    compiles the kernels that the file lists; status 1 if anything differs

Needs CUDA's nvcc and ptxas, no GPU. A warning is an error. Where the package nvidia-cuda-nvrtc is installed, NVRTC compiles the
kernels too, as CuPy does. The file has a row for each kernel: bytes of static shared memory, and for each architecture the
registers of a thread and the bytes that it spills to local memory.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.host import run
from tests.host.host_build import RESOURCES

SOURCE = RESOURCES.parent / "src"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FIELDS = ("file", "kernel", "shared", *(f"{what}_{arch}" for what in ("registers", "spilled") for arch in ARCHITECTURES))
#: As CuPy compiles: small float32 numbers become 0, and functions are the device's unless they say otherwise.
OPTIONS = ("-std=c++17", "-ftz=true")
NVRTC_OPTIONS = (*OPTIONS, "--device-as-default-execution-space", "-arch=sm_90")
#: Kernels that one process compiles.
TOGETHER = 40

Kernel = tuple[str, str]
Row = dict[str, Any]


def rows_of_file() -> dict[Kernel, Row]:
    """The rows recorded, by (source, instance)."""
    with RESOURCES.open(encoding="utf-8", newline="") as file:
        return {(row["file"], row["kernel"]): dict(row) for row in csv.DictReader(file)}


def write(rows: dict[Kernel, Row]) -> None:
    """Writes the file."""
    with RESOURCES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


#: Prints which kernels VGG16's convolutions and the ways back through them take, which are too much work for the stand-in.
VGG16 = """
import itertools, json
from unittest import mock
import cupy, numpy as np
import dcnn_kernels as kernels
from benchmarks.gpu_rates import VGG16
from dcnn_kernels.cuda import convolution, settings

names = set()
ways = (("float32", "exact"), ("float32", "tf32"), ("float16", "exact"))
with mock.patch.object(convolution, "launch", lambda file, name, *rest: names.add((file, name))), settings.engine("own"):
    for (channels, filters, size), batch, (dtype, precision) in itertools.product(VGG16.values(), (1, 16), ways):
        x, g = (cupy.empty((batch, planes, size, size), dtype) for planes in (channels, filters))
        W, pooled = cupy.empty((filters, channels, 3, 3), dtype), cupy.empty((batch, filters, size // 2, size // 2), dtype)
        switches, mask = cupy.empty(pooled.shape, np.uint8), cupy.empty((batch, filters * size * size // 8), np.uint8)
        with settings.precision(precision):
            kernels.convolution_2d(x, W, pad=1)
            kernels.transposed_convolution_2d(g, W, pad=1)
            for masked in (None, mask):
                kernels.unpooled_transposed_convolution_2d(pooled, switches, W, (size, size), 2, pad=1, pool_mask=masked)
print(json.dumps(sorted(names)))
"""


def launched() -> list[Kernel]:
    """The kernels that the tests launch, with indices of 32 and of 64 bits, and those that VGG16 would."""
    kernels: set[Kernel] = set()
    with tempfile.TemporaryDirectory() as folder:
        for index in ("32", "64"):
            record = Path(folder) / "record.json"
            variables = run.environment("none", DCNN_TEST_BACKEND="cuda", DCNN_TEST_INDEX=index, DCNN_TEST_RECORD=str(record))
            subprocess.run(run.command("tests/kernels", "-q"), env=variables, cwd=run.ROOT, check=True)
            kernels |= {(file, kernel) for file, kernel in json.loads(record.read_text(encoding="utf-8"))}
    return sorted(kernels | of_vgg16())


def of_vgg16() -> set[Kernel]:
    """The kernels that VGG16's convolutions take, with one picture and with 16."""
    variables = run.environment("none")
    printed = subprocess.run(
        [sys.executable, "-c", VGG16], env=variables, cwd=run.ROOT, check=True, capture_output=True, text=True
    )
    return {(file, kernel) for file, kernel in json.loads(printed.stdout)}


def compile_kernels(file: str, kernels: list[str], arch: int) -> dict[str, Row]:
    """Compiles kernels of one source for one architecture.

    Returns:
        Columns of each kernel's row.

    Raises:
        SystemExit: With the compiler's words, if it has any.
    """
    # A constant that holds a kernel's address makes the instance, and tells its mangled name.
    pointers = "".join(
        f'extern "C" __device__ const void* const dcnn_kernel_{number} = (const void*)&{kernel};\n'
        for number, kernel in enumerate(kernels)
    )
    with tempfile.TemporaryDirectory() as folder:
        source, ptx = Path(folder) / file, Path(folder) / "kernels.ptx"
        source.write_text(f'#include "{SOURCE / file}"\n{pointers}', encoding="utf-8")
        _run("nvcc", *OPTIONS, f"-arch=sm_{arch}", "-Werror", "all-warnings", "-ptx", str(source), "-o", str(ptx))
        log = _run("ptxas", "-v", "-Werror", f"-arch=sm_{arch}", str(ptx), "-o", str(Path(folder) / "kernels.cubin"))
        names = dict(re.findall(r"\.u64 dcnn_kernel_(\d+) = (\w+);", ptx.read_text(encoding="utf-8")))
    used = {}
    for name, text in re.findall(r"Compiling entry function '(\w+)'(.*?)Compile time", log, re.DOTALL):
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", text)))
        shared = re.search(r"(\d+) bytes smem", text)
        used[name] = (int(re.findall(r"Used (\d+) registers", text)[0]), spilled, int(shared[1]) if shared else 0)
    rows: dict[str, Row] = {}
    for number, kernel in enumerate(kernels):
        registers, spilled, bytes_shared = used[names[str(number)]]
        rows[kernel] = {f"registers_{arch}": registers, f"spilled_{arch}": spilled, "shared": bytes_shared}
    return rows


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def compile_by_nvrtc(file: str, kernels: list[str], nvrtc: ctypes.CDLL, include: Path) -> None:
    """Compiles kernels of one source as CuPy does: with no headers of the host's.

    Raises:
        SystemExit: With the compiler's words, if it refuses.
    """
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), (SOURCE / file).read_bytes(), file.encode(), 0, None, None)
    for kernel in kernels:
        nvrtc.nvrtcAddNameExpression(program, kernel.encode())
    options = [option.encode() for option in (*NVRTC_OPTIONS, f"-I{SOURCE}", f"-I{include}")]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed or log.value:
        sys.exit(f"NVRTC, {file}:\n{log.value.decode()}")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def find_nvrtc() -> tuple[ctypes.CDLL, Path] | None:
    """NVRTC and the folder of CUDA's headers, from the packages on Python's path."""
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        for library in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            include = library.parents[1] / "include"
            if (include / "cuda_fp16.h").exists():
                return ctypes.CDLL(str(library)), include
    return None


def measure(kernels: list[Kernel]) -> dict[Kernel, Row]:
    """Compiles kernels for all architectures; gives their rows."""
    parts = []
    for file in sorted({file for file, _ in kernels}):
        names = sorted(kernel for source, kernel in kernels if source == file)
        parts += [(file, names[first : first + TOGETHER]) for first in range(0, len(names), TOGETHER)]
    rows: dict[Kernel, Row] = {kernel: {"file": kernel[0], "kernel": kernel[1]} for kernel in sorted(kernels)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(file, pool.submit(compile_kernels, file, names, arch)) for file, names in parts for arch in ARCHITECTURES]
        for done, (file, job) in enumerate(jobs, 1):
            for kernel, row in job.result().items():
                rows[file, kernel].update(row)
            print(f"{done} of {len(jobs)} parts compiled", file=sys.stderr, flush=True)
    nvrtc = find_nvrtc()
    if nvrtc is None:
        print(
            "NVRTC isn't on Python's path, and was left out: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime", file=sys.stderr
        )
    for file, names in parts if nvrtc else ():
        compile_by_nvrtc(file, names, *nvrtc)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", action="store_true", help="compile only the kernels that the file lacks")
    parser.add_argument("--listed", action="store_true", help="the kernels that the file lists, without running the tests")
    parser.add_argument("--check", action="store_true", help="those too, compared with the file instead of written to it")
    options = parser.parse_args()
    recorded = rows_of_file()
    kernels = sorted(recorded) if options.listed or options.check else launched()
    kept = {kernel: recorded[kernel] for kernel in kernels if options.new and kernel in recorded}
    rows = kept | measure([kernel for kernel in kernels if kernel not in kept])
    if not options.check:
        write({kernel: rows[kernel] for kernel in sorted(rows)})
        return 0
    changed = [kernel for kernel, row in rows.items() if {key: str(value) for key, value in row.items()} != recorded[kernel]]
    for kernel in changed:
        print(f"recorded {recorded[kernel]}\nmeasured {rows[kernel]}")
    print(f"{len(changed)} of {len(rows)} kernels changed")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())

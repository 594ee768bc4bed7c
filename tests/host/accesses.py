"""Measures how the warps of the kernels access memory, and records it in kernels/dcnn_kernels/cuda/accesses.csv. Needs no GPU.

    python -m tests.host.accesses                       measures all cases, and writes the file
    python -m tests.host.accesses --only "3x3, tf32"    measures the cases in whose names that is, and writes nothing
    python -m tests.host.accesses --only relu --lines   ... and names the lines of source that cost more than they must
    python -m tests.host.accesses --check               compares with the file; status 1 if anything differs

A few blocks of each launch run on the CPU, their warps in lockstep: see ``accesses.cpp``. The file has a row for each kernel of
each case: how often a warp accessed memory, and behind that a ratio, at best 1:

    conflicts       turns that shared memory took, to those that it takes without bank conflicts
    load_sectors    sectors of 32 bytes that loads touched, to the fewest that hold their bytes
    store_sectors   the same of stores

Caches aren't simulated: what one access touches in vain the next may find there.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.host import host_build, run

FILE = host_build.RESOURCES.with_name("accesses.csv")
KINDS = ("shared load", "shared store", "load", "store")
KEY = ("file", "kernel", "case")
FIELDS = (*KEY, "shared", "conflicts", "loads", "load_sectors", "stores", "store_sectors")

#: Shapes of x and W, stride, pad and groups of convolutions; the longer, the more time it takes.
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int, int]] = {
    "3x3": ((2, 64, 56, 56), (128, 64, 3, 3), 1, 1, 1),
    "3x3 of a few pixels": ((1, 256, 14, 14), (256, 256, 3, 3), 1, 1, 1),
    "3x3 stride 2": ((2, 64, 56, 56), (128, 64, 3, 3), 2, 1, 1),
    "1x1": ((2, 64, 56, 56), (256, 64, 1, 1), 1, 0, 1),
    "1x1 stride 2": ((2, 64, 56, 56), (128, 64, 1, 1), 2, 0, 1),
    "3x3 of pixels": ((1, 3, 224, 224), (64, 3, 3, 3), 1, 1, 1),
    "7x7 stride 2 of pixels": ((1, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
    "depthwise 3x3": ((1, 32, 112, 112), (32, 1, 3, 3), 1, 1, 32),
    "depthwise 5x5 stride 2": ((1, 96, 56, 56), (96, 1, 5, 5), 2, 2, 96),
    "32 groups": ((1, 256, 28, 28), (256, 8, 3, 3), 1, 1, 32),
}
#: Maps of the other primitives.
STAGES = ((64, 56, 56), (512, 14, 14))


class Count(ctypes.Structure):
    """The struct of ``accesses.cpp``."""

    _fields_ = (
        ("site", ctypes.c_void_p),
        ("kind", ctypes.c_int),
        *((name, ctypes.c_ulonglong) for name in ("accesses", "lanes", "bytes", "served", "least")),
    )


def row_of(case: str, file: str, kernel: str, counts: list[Count]) -> dict[str, str]:
    """A kernel's row of the file."""
    row = {"file": file, "kernel": kernel, "case": case}
    for name, ratio, kinds in (
        ("shared", "conflicts", KINDS[:2]),
        ("loads", "load_sectors", KINDS[2:3]),
        ("stores", "store_sectors", KINDS[3:]),
    ):
        chosen = [count for count in counts if KINDS[count.kind] in kinds]
        least = sum(count.least for count in chosen)
        row[name] = str(sum(count.accesses for count in chosen))
        row[ratio] = f"{sum(count.served for count in chosen) / least:.2f}" if least else ""
    return row


Case = tuple[str, Callable[[], Any]]


def convolution_cases() -> Iterator[Case]:
    """Each convolution there and back, by each arithmetic; and back from its pooled result, where that has an even size."""
    import dcnn_kernels as kernels
    from benchmarks.gpu_checks import to_gpu
    from dcnn_kernels.cuda.settings import engine, precision

    def by_own(arithmetic: str, call: Callable[..., Any], *args: Any, **settings: Any) -> Callable[[], Any]:
        arrays = [to_gpu(argument) for argument in args]
        settings = {name: to_gpu(value) for name, value in settings.items()}

        def made() -> Any:
            with engine("own"), precision("tf32" if arithmetic == "tf32" else "exact"):
                return call(*arrays, **settings)

        return made

    for (name, (shape, W_shape, stride, pad, groups)), arithmetic in itertools.product(
        CONVOLUTIONS.items(), ("exact", "tf32", "float16")
    ):
        dtype = "float16" if arithmetic == "float16" else "float32"
        x, W = (np.random.default_rng(0).standard_normal(size).astype(dtype) for size in (shape, W_shape))
        window = {"stride": stride, "pad": pad, "groups": groups}
        outsize = tuple((size + 2 * pad - ksize) // stride + 1 for size, ksize in zip(shape[2:], W_shape[2:], strict=True))
        g = np.random.default_rng(1).standard_normal((shape[0], W_shape[0], *outsize)).astype(dtype)
        mask = kernels.relu_mask(x.astype(np.float32))
        yield f"{name}, {arithmetic}, forward", by_own(arithmetic, kernels.convolution_2d, x, W, z=np.inf, **window)
        back = window | {"outsize": shape[2:]}
        yield f"{name}, {arithmetic}, transposed", by_own(arithmetic, kernels.transposed_convolution_2d, g, W, mask=mask, **back)
        if groups == 1 and stride == 1 and W_shape[2] == 3:
            pooled, switches = kernels.max_pooling_2d(g.astype(np.float32), 2)
            call = kernels.unpooled_transposed_convolution_2d
            given = (pooled.astype(dtype), switches, W, outsize, 2)
            yield f"{name}, {arithmetic}, from pooled", by_own(arithmetic, call, *given, **back)


def other_cases() -> Iterator[Case]:
    """The primitives that do little work on each value, and those of patches."""
    import dcnn_kernels as kernels
    from benchmarks import elementwise, gpu_checks

    cases = list(itertools.chain.from_iterable(elementwise.stage_cases(stage, 1, "float32") for stage in STAGES))
    for stage in STAGES:
        x = elementwise.normal((1, *stage), "float32")
        mask = kernels.relu_mask(x)
        y, switches = kernels.max_pooling_2d(x, 2)
        cases.append(elementwise.Case("max_pooling_2d", "ksize=2 mask", (x,), {"ksize": 2, "mask": True}))
        given = {"outsize": stage[1:], "ksize": 2, "switches": switches, "mask": mask}
        cases.append(elementwise.Case("unpooling_2d", "switch ksize=2 mask", (y,), given))
        for name, reads in (("", (x,)), ("_gradient", (x, x))):
            cases.append(elementwise.Case(f"local_response_normalization{name}", "n=11", reads, {"n": 11}))
        averages = kernels.global_average_pooling_2d(x)
        cases.append(elementwise.Case("global_average_pooling_2d_adjoint", "", (averages,), {"insize": stage[1:]}))
    cases.append(elementwise.occlusion_case(1, "float32"))
    normal = np.random.default_rng(0).standard_normal
    for check in gpu_checks.patch_cases(lambda *shape: normal(shape), normal((2, 32, 56, 56))):
        check = gpu_checks.converted(check, "float32")
        cases.append(elementwise.Case(check.primitive, check.configuration, check.arrays, check.settings))
    for case in cases:
        shape = "x".join(map(str, case.reads[0].shape))
        yield f"{case.primitive} {case.configuration} {shape}", case.on(gpu_checks.to_gpu).call


def counted(call: Callable[[], Any]) -> list[Count]:
    """What a launch accesses, by the place in the program."""
    library = host_build.accesses()
    library.dcnn_accesses_clear()
    call()
    counts = (Count * library.dcnn_accesses_count())()
    library.dcnn_accesses_read(counts)
    return list(counts)


def measure(cases: Iterator[Case]) -> Iterator[tuple[str, str, str, list[Count]]]:
    """Runs cases, and gives the case, source, kernel and counts of all that they launch; of one kernel all launches together."""
    import cupy.kernels

    from dcnn_kernels.cuda import launch

    files = {path.read_text(encoding="utf-8"): path.name for path in launch.SOURCE.glob("*.cu")}
    plain = cupy.kernels.RawKernel.__call__
    found: dict[tuple[str, str], list[Count]] = {}

    def watched(self: Any, *args: Any, **settings: Any) -> None:
        found.setdefault((files[self._code], self.name), []).extend(counted(lambda: plain(self, *args, **settings)))

    cupy.kernels.RawKernel.__call__ = watched
    try:
        for case, call in cases:
            found.clear()
            call()
            for (file, kernel), counts in found.items():
                yield case, file, kernel, counts
    finally:
        cupy.kernels.RawKernel.__call__ = plain


def line_of(site: int) -> str:
    """The line of source that a place in the program comes from."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        mapped = re.match(r"(\w+)-(\w+) \S+ (\w+) \S+ \d+ +(/.*)", line)
        if mapped and int(mapped[1], 16) <= site < int(mapped[2], 16):
            offset = site - 1 - int(mapped[1], 16) + int(mapped[3], 16)
            command = ["addr2line", "-e", mapped[4], hex(offset)]
            return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]).name
    return hex(site)


def print_lines(counts: list[Count]) -> None:
    """The lines whose accesses cost more than they must, the dearest first."""
    for count in sorted(counts, key=lambda count: count.least - count.served):
        if count.served > count.least:
            each = f"{count.lanes / count.accesses:.1f} lanes of {count.bytes / count.lanes:.0f} bytes"
            place = f"{line_of(count.site)}: {KINDS[count.kind]}, {count.accesses} times {each}"
            print(f"    {place}: {count.served / count.least:.2f}")


def rows_of_file() -> dict[tuple[str, ...], dict[str, str]]:
    """The rows recorded, by source, kernel and case."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in KEY): dict(row) for row in csv.DictReader(file)}


def write(rows: dict[tuple[str, ...], dict[str, str]]) -> None:
    """Writes the file."""
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only the cases in whose names this is; writes nothing")
    parser.add_argument("--lines", action="store_true", help="print lines of source")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = parser.parse_args()
    if os.environ.get("DCNN_HOST_SANITIZER") != "accesses":
        command = [sys.executable, "-m", "tests.host.accesses", *sys.argv[1:]]
        return subprocess.run(command, env=run.environment("accesses"), cwd=run.ROOT).returncode
    rows = {}
    cases = (case for case in itertools.chain(other_cases(), convolution_cases()) if options.only in case[0])
    for case, file, kernel, counts in measure(cases):
        row = row_of(case, file, kernel, counts)
        rows[file, kernel, case] = row
        text = f"{kernel}, {case}: " + ", ".join(f"{name} {row[name]}" for name in FIELDS[3:] if row[name])
        print(json.dumps(row) if options.json else text, flush=True)
        if options.lines:
            print_lines(counts)
    if options.check:
        recorded = {key: row for key, row in rows_of_file().items() if options.only in key[2]}
        changed = [key for key in rows.keys() | recorded.keys() if rows.get(key) != recorded.get(key)]
        for key in sorted(changed):
            print(f"recorded {recorded.get(key)}\nmeasured {rows.get(key)}")
        print(f"{len(changed)} of {len(rows)} rows changed")
        return bool(changed)
    if not options.only:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

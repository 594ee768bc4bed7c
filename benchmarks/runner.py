"""What every benchmark shares: ours and the peer's in turn in one process, and a CSV with one row a measured point.

Before anything is timed the two results are compared. Each round then times ours, the peer's, and this machine's ceilings: a
copy of as many bytes as the job reads and writes, and a matrix product if it does arithmetic. ``ratio`` is the median over
rounds of the peer's time over ours, ``share`` that of the least time that the ceilings allow over ours. ``peak_bytes`` is what
one run of ours needs besides what was there before.

Rows go to ``benchmarks/results/<device>.csv`` as soon as they are measured. A point that is there already is left, unless
``--replace`` asks for it again.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
KEY = ("job", "configuration", "shape", "dtype", "backend", "peer")
MEASURES = (
    "median_ms", "p20_ms", "p80_ms", "peer_ms", "ratio", "ratio_p20", "ratio_p80", "error",
    "peak_bytes", "bytes", "flop", "least_flop", "GB_per_s", "copy_GB_per_s", "GFLOP_per_s", "sgemm_GFLOP_per_s", "share",
)  # fmt: skip
FIELDS = (*KEY, *MEASURES, "rounds", "threads", "python", "versions", "commit", "time")
LIBRARIES = ("numpy", "chainer", "numba", "torch", "captum", "onnxruntime")
#: Side of the square matrices that give the rate of arithmetic.
SIDE = 1024
#: BLAS's threads keep the cores busy for 0.1 s after a product, waiting for another.
REST = 0.12


class Point(NamedTuple):
    """One point to measure.

    Attributes:
        job: What is done, as the primitive or the script is called.
        ours: Does it.
        configuration, shape, dtype, backend: Of the job, of its input, and who runs it.
        peer, theirs: Whose and what to time beside it; without ``theirs`` the ceilings alone.
        nbytes: Bytes of inputs and outputs, each counted once.
        flop: Additions and multiplications of the plain definition.
        least_flop: Those of the algorithm that runs, where it makes do with fewer, as Winograd's; 0 where it can't tell.
        tolerance: Largest difference from the peer's result, as a share of its largest value.
    """

    job: str
    ours: Callable[[], Any]
    configuration: str = ""
    shape: str = ""
    dtype: str = "float32"
    backend: str = "reference"
    peer: str = ""
    theirs: Callable[[], Any] | None = None
    nbytes: int = 0
    flop: int = 0
    least_flop: int = 0
    tolerance: float = 1e-4


class Results:
    """The rows of this device's CSV."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = {tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row, and writes all; the file that was there stays until the new one is whole."""
        self.rows[tuple(row[name] for name in KEY)] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows.values())
        part.replace(self.path)


def arguments(doc: str, rounds: int = 9) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=cores(), help="of torch; NumPy takes one a core")
    parser.add_argument("--replace", action="store_true", help="measure points again that the CSV has")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{device()}.csv")
    return parser


def run(points: Iterable[Point], options: argparse.Namespace) -> None:
    """Measures the points that the CSV lacks, or all."""
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}, and has to be 1 or more")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(options.threads)
    results = Results(options.output)
    for point in points:
        key = tuple(getattr(point, name) for name in KEY)
        name = " ".join(filter(None, key))
        if key in results.rows and not options.replace:
            print(f"{name}: is there already")
            continue
        row = measure(point, options.rounds) | {"threads": options.threads}
        results.add(row)
        shown = ("median_ms", "peer_ms", "ratio", "share", "peak_bytes")
        print(f"{name}:", *(f"{field}={row[field]}" for field in shown if row[field] != ""), flush=True)


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """Compares the results, then times all in turn. Returns a row.

    Raises:
        AssertionError: The peer's result is another.
    """
    ours = point.ours()
    error: float | str = ""
    if point.theirs:
        error = difference(ours, point.theirs())
        assert error <= point.tolerance, f"{point.job} {point.configuration}: differs from {point.peer} by {error:.1e}"
    del ours
    peak = peak_bytes(point.ours)
    source, target = np.ones((2, max(1, point.nbytes // 16)))
    matrix = np.ones((SIDE, SIDE), np.float32)
    product = np.empty_like(matrix)
    rest = REST if point.flop else 0.0
    nan, times = float("nan"), []
    for _ in range(rounds + 1):
        copy = seconds(lambda: np.copyto(target, source)) if point.nbytes else nan
        sgemm = seconds(lambda: np.matmul(matrix, matrix, out=product)) if point.flop else nan
        time.sleep(rest)
        own = seconds(point.ours)
        time.sleep(rest)
        times.append((own, seconds(point.theirs) if point.theirs else nan, copy, sgemm * point.flop / (2 * SIDE**3)))
    own, theirs, copy, arithmetic = np.array(times[1:]).T  # the first round warms up
    low, middle, high = np.percentile(own, (20, 50, 80))
    row: dict[str, Any] = dict.fromkeys(FIELDS, "") | {name: getattr(point, name) for name in KEY}
    row |= {"median_ms": f"{middle * 1e3:.3f}", "p20_ms": f"{low * 1e3:.3f}", "p80_ms": f"{high * 1e3:.3f}"}
    if point.theirs:
        percentiles = np.percentile(theirs / own, (50, 20, 80))
        row |= {f"ratio{end}": f"{value:.2f}" for end, value in zip(("", "_p20", "_p80"), percentiles, strict=True)}
        row |= {"peer_ms": f"{np.median(theirs) * 1e3:.3f}", "error": f"{error:.1e}"}
    if point.nbytes:
        row |= {"bytes": point.nbytes, "GB_per_s": f"{point.nbytes / middle / 1e9:.2f}"}
        row["copy_GB_per_s"] = f"{point.nbytes / np.median(copy) / 1e9:.2f}"
    if point.flop:
        row |= {"flop": point.flop, "GFLOP_per_s": f"{point.flop / middle / 1e9:.1f}"}
        row["sgemm_GFLOP_per_s"] = f"{point.flop / np.median(arithmetic) / 1e9:.1f}"
    if point.least_flop:
        row["least_flop"] = point.least_flop
    if point.nbytes or point.flop:
        row["share"] = f"{np.median(np.fmax(copy, arithmetic) / own):.2f}"
    return row | {"peak_bytes": peak, "rounds": rounds} | facts()


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two results, as a share of the largest value of the second."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else ((ours, theirs),)
    worst = 0.0
    for one, other in ((np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in pairs):
        assert one.shape == other.shape, f"shapes differ: {one.shape} and {other.shape}"
        if one.size:
            worst = max(worst, float(np.abs(one - other).max() / (np.abs(other).max() or 1.0)))
    return worst


def peak_bytes(call: Callable[[], Any]) -> int:
    """Memory that a call needs at most, besides what is there before: resident pages on Linux, else what Python allocates."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be taken again, and not seen
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see man 5 proc
    except OSError:
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"/proc/self/status has no {name}"
    return int(found[1]) * 1024


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """The processor's name and how many cores of it there are, fit for a file's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {cores()} cores".lower()).strip("-")


def facts() -> dict[str, str]:
    """Of the run: versions, commit and time."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
    except FileNotFoundError:
        commit = ""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"python": platform.python_version(), "versions": ", ".join(versions), "commit": commit, "time": when}

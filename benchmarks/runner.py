"""What every benchmark shares: ours and the peer's in turn in one process, and a CSV with one row a measured point.

Before anything is timed the two results are compared. Each round then times ours, the peer's, and this machine's ceilings: a
copy of as many bytes as the job reads and writes, and a matrix product. Before each comes a rest, since BLAS's threads keep the
cores busy for 0.1 s after a product, and, where it is short, a call that is not timed; of brief calls the best of five counts.
Rounds whose matrix product, before or
after, took 1.2 times the best of this process or longer were disturbed by other programs: they are dropped and repeated.

``ratio`` is the median over rounds of the peer's time over ours, ``share`` that of the least time that the ceilings allow over
ours. ``peak_bytes`` and ``peer_peak_bytes`` are what one run needs besides what was there before.

Rows go to ``benchmarks/results/<device>.csv`` as soon as they are measured. A point that is there already is left, whatever
versions it was measured with, unless ``--replace`` asks for it again. Where the peer is not installed the row says so in
``note``, its ratio is empty, and it is measured once the peer is there.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
KEY = ("job", "configuration", "shape", "dtype", "backend", "threads", "peer")
MEASURES = (
    "median_ms", "p20_ms", "p80_ms", "peer_ms", "ratio", "ratio_p20", "ratio_p80", "error", "peak_bytes", "peer_peak_bytes",
    "bytes", "flop", "least_flop", "GB_per_s", "copy_GB_per_s", "GFLOP_per_s", "sgemm_GFLOP_per_s", "share",
)  # fmt: skip
FIELDS = (*KEY, *MEASURES, "rounds", "dropped", "note", "python", "versions", "commit", "time")
LIBRARIES = ("numpy", "chainer", "numba", "torch", "captum", "onnxruntime", "tensorflow", "xplique", "tf-keras-vis")
#: How the note of a row begins whose peer is not installed.
ABSENT = "absent: "
#: Side of the square matrices that give the rate of arithmetic.
SIDE = 1024
#: Seconds until BLAS's threads have ceased to wait for another product.
REST = 0.12
#: A call that takes fewer seconds finds its memory and code cold after a rest.
SHORT = 0.2
#: Of calls that take fewer seconds there are so many, and the least counts: threads that a rest has sent to sleep may wake on a
#: core that is taken, and wait there for the system's next slice of time, 4 ms later.
BRIEF, CALLS = 0.02, 5
#: A product that takes so many times the best one's time was disturbed.
DISTURBED = 1.2
#: Rounds that are measured whatever they take, and how many times as many as asked for where they are disturbed.
FEWEST, MOST = 3, 3


class Pieces(NamedTuple):
    """A peer that repeats one piece of work: some pieces are timed, and their time is scaled up to all.

    Attributes:
        once: What it does once a job; is given the picture, if there is one. Returns a state.
        piece: ``piece(picture, state, number)``, or ``piece(state, number)`` without pictures. Returns a result.
        numbers: The pieces that are timed.
        count: How many there are in the whole job.
    """

    once: Callable[..., Any]
    piece: Callable[..., Any]
    numbers: Sequence[int]
    count: float


class Work(NamedTuple):
    """What is timed at a point.

    Attributes:
        ours: Does the job; is given a picture if there are ``pictures``.
        theirs: Makes what does the peer's, with the same arguments. Called only where the peer is installed.
        pictures: ``pictures(number)`` makes an input. Each call gets a new one, so that none is answered from memory.
        nbytes: Bytes of inputs and outputs, each counted once.
        flop: Additions and multiplications of the plain definition.
        least_flop: Those of the algorithm that runs, where it makes do with fewer, as Winograd's; 0 where it can't tell.
        difference: Compares our result with the peer's, which is a dictionary of results by number if it comes in pieces.
        tolerance: The largest difference.
        peak: Memory that a call needs at most.
    """

    ours: Callable[..., Any]
    theirs: Callable[[], Callable[..., Any] | Pieces] | None = None
    pictures: Callable[[int], Any] | None = None
    nbytes: int = 0
    flop: int = 0
    least_flop: int = 0
    difference: Callable[[Any, Any], float] | None = None
    tolerance: float = 1e-4
    peak: Callable[[Callable[[], Any]], int | str] | None = None


class Point(NamedTuple):
    """One point to measure.

    Attributes:
        job: What is done, as the primitive or the script is called.
        make: Prepares the work, when its turn has come.
        configuration, shape, dtype, backend: Of the job, of its input, and who runs it.
        peer: Whose is timed beside it; without one the ceilings alone.
        needs: Packages that the peer is made of.
        requires: Packages that ours can't do without.
    """

    job: str
    make: Callable[[], Work]
    configuration: str = ""
    shape: str = ""
    dtype: str = "float32"
    backend: str = "reference"
    peer: str = ""
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()

    def key(self, threads: int) -> tuple[str, ...]:
        """What tells its row from others."""
        own = self._asdict() | {"threads": str(threads)}
        return tuple(own[name] for name in KEY)


class Results:
    """The rows of this device's CSV."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames is None or set(reader.fieldnames) != set(FIELDS):
                    raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {', '.join(FIELDS)}")
                self.rows = {tuple(row[name] for name in KEY): row for row in reader}

    def lacks(self, key: tuple[str, ...], absent: str) -> bool:
        """Whether a point has no row, or one that was written while a peer was absent that is here now."""
        return key not in self.rows or (self.rows[key]["note"].startswith(ABSENT) and not absent)

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
    parser.add_argument("--seconds", type=float, default=40, help=f"for a point, after its first {FEWEST} rounds")
    parser.add_argument("--threads", type=int, default=cores(), help="of BLAS, compiled loops and peers; by default one a core")
    parser.add_argument("--only", default="", help="points whose name has this in it")
    parser.add_argument("--replace", action="store_true", help="measure points again that the CSV has")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{device()}.csv")
    return parser


def run(points: Iterable[Point], options: argparse.Namespace) -> None:
    """Measures the points that the CSV lacks, or all.

    Raises:
        ValueError: An option or the CSV is of no use.
        AssertionError: A peer's result is another than ours.
    """
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}, and has to be 1 or more")
    results, run_facts = Results(options.output), facts()
    with limited(options.threads):
        product = Product()
        for point in points:
            key, absent = point.key(options.threads), missing(*point.requires, *point.needs)
            name = " ".join(filter(None, key))
            if options.only not in name:
                continue
            if not options.replace and not results.lacks(key, absent):
                print(f"{name}: is there already")
                continue
            row = dict.fromkeys(FIELDS, "") | dict(zip(KEY, key, strict=True)) | run_facts
            row["time"] = datetime.now(UTC).isoformat(timespec="seconds")
            if absent:
                print(f"{name}: {ABSENT}{absent}", flush=True)
            if not missing(*point.requires):
                row |= measure(point, options, product)
            if absent:
                row["note"] = ABSENT + absent
            results.add(row)
            shown = ("median_ms", "peer_ms", "ratio", "share", "peak_bytes", "note")
            print(f"{name}:", *(f"{field}={row[field]}" for field in shown if row[field] != ""), flush=True)


def measure(point: Point, options: argparse.Namespace, product: Product) -> dict[str, Any]:
    """Compares the results, then times all in turn. Returns the measures of a row.

    Raises:
        AssertionError: The peer's result is another.
    """
    work = point.make()
    ours, theirs = Contestant(work.ours, work.pictures), None
    if work.theirs and not missing(*point.needs):
        theirs = Contestant(work.theirs(), work.pictures)
    set_torch_threads(options.threads)
    row: dict[str, Any] = {}
    result = ours()[1]
    if theirs:
        error = (work.difference or difference)(result, theirs()[1])
        name = " ".join(filter(None, (point.job, point.configuration, point.shape)))
        assert error <= work.tolerance, f"{name}: differs from {point.peer} by {error:.1e}"
        row["error"] = f"{error:.1e}"
    del result
    peak = work.peak or peak_bytes
    row |= {"peak_bytes": peak(ours), "peer_peak_bytes": peak(theirs) if theirs else ""}
    source, target = np.ones((2, max(1, work.nbytes // 16)))
    copy = Contestant(lambda: np.copyto(target, source)) if work.nbytes else None

    rounds, dropped, quiet = turns((ours, theirs, copy), product, options.rounds, options.seconds)
    product_time, own, theirs_time, copy_time = rounds
    arithmetic = product_time * work.flop / (2 * SIDE**3)
    low, middle, high = np.percentile(own, (20, 50, 80))
    row |= {"median_ms": f"{middle * 1e3:.3f}", "p20_ms": f"{low * 1e3:.3f}", "p80_ms": f"{high * 1e3:.3f}"}
    if theirs:
        percentiles = np.percentile(theirs_time / own, (50, 20, 80))
        row |= {f"ratio{end}": f"{value:.2f}" for end, value in zip(("", "_p20", "_p80"), percentiles, strict=True)}
        row["peer_ms"] = f"{np.median(theirs_time) * 1e3:.3f}"
    if work.nbytes:
        row |= {"bytes": work.nbytes, "GB_per_s": f"{work.nbytes / middle / 1e9:.2f}"}
        row["copy_GB_per_s"] = f"{work.nbytes / np.median(copy_time) / 1e9:.2f}"
    if work.flop:
        row |= {"flop": work.flop, "GFLOP_per_s": f"{work.flop / middle / 1e9:.1f}"}
        row["sgemm_GFLOP_per_s"] = f"{work.flop / np.median(arithmetic) / 1e9:.1f}"
    if work.least_flop:
        row["least_flop"] = work.least_flop
    if work.nbytes or work.flop:
        row["share"] = f"{np.median(np.fmax(copy_time, arithmetic) / own):.2f}"
    return row | {"rounds": len(own), "dropped": dropped, "note": "" if quiet else "disturbed"}


class Contestant:
    """Ours or another's, as it is timed. Each call takes the next picture."""

    def __init__(self, work: Callable[..., Any] | Pieces, pictures: Callable[[int], Any] | None = None) -> None:
        self.work, self.pictures = work, pictures
        self.numbers, self.last = itertools.count(), 0.0

    def __call__(self) -> tuple[float, Any]:
        """Seconds of the whole job, and its result, or those of its pieces by number."""
        given = (self.pictures(next(self.numbers)),) if self.pictures else ()
        if isinstance(self.work, Pieces):
            before, state = timed(self.work.once, *given)
            done = {number: timed(self.work.piece, *given, state, number) for number in self.work.numbers}
            self.last = before + sum(spent for spent, _ in done.values()) * self.work.count / len(done)
            return self.last, {number: result for number, (_, result) in done.items()}
        self.last, result = timed(self.work, *given)
        return self.last, result

    def alone(self) -> float:
        """Seconds after a rest, and after a call that is not timed if the last was short; the least of some brief ones."""
        time.sleep(REST)
        if self.last < SHORT:
            self()
        return min(self()[0] for _ in range(CALLS if self.last < BRIEF else 1))


class Product(Contestant):
    """The matrix product that tells of a disturbance and of the rate of arithmetic, and its best time so far."""

    def __init__(self) -> None:
        matrix = np.ones((SIDE, SIDE), np.float32)
        target = np.empty_like(matrix)
        super().__init__(lambda: np.matmul(matrix, matrix, out=target))
        self.best = min(self()[0] for _ in range(20))

    def alone(self) -> float:
        """Seconds of a product, of one alone: it is to tell what the others met with."""
        time.sleep(REST)
        if self.last < SHORT:
            self()
        spent = self()[0]
        self.best = min(self.best, spent)
        return spent


def turns(contestants: Sequence[Contestant | None], product: Product, count: int, seconds: float) -> tuple[np.ndarray, int, bool]:
    """Times all in turn, ``count`` rounds that were not disturbed, if that can be had in time.

    Returns:
        Times of the product, the mean of one before and one after, and of the contestants, NaN for none: an array of
        shape (1 + contestants, rounds). The number of rounds dropped. Whether the others were undisturbed.
    """

    def turn() -> list[float]:
        return [contestant.alone() if contestant else float("nan") for contestant in contestants]

    start = time.perf_counter()
    if contestants[0] and contestants[0].last < SHORT:
        turn()  # warms up
    before = product.alone()
    rounds: list[tuple[float, ...]] = []

    def undisturbed() -> int:
        return sum(slowest < DISTURBED * product.best for slowest, *_ in rounds)

    while undisturbed() < count and len(rounds) < MOST * count:
        if len(rounds) >= FEWEST and time.perf_counter() - start > seconds:
            break
        times = turn()
        after = product.alone()
        rounds.append((max(before, after), (before + after) / 2, *times))
        before = after
    quiet = undisturbed()
    kept = min(count, max(FEWEST, quiet), len(rounds))
    return np.array(sorted(rounds)[:kept]).T[1:], len(rounds) - kept, quiet >= kept


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = call(*given)
    return time.perf_counter() - start, result


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two results, as a share of the largest value of the second."""
    worst = 0.0
    for one, other in pairs(ours, theirs):
        if one.size:
            worst = max(worst, float(np.abs(one - other).max() / (np.abs(other).max() or 1.0)))
    return worst


def norm_of_difference(ours: Any, theirs: Any) -> float:
    """The norm of the difference as a share of that of the second.

    Rounding decides now and then otherwise about a pool or a ReLU, and moves a few values far.
    """
    return max(float(np.linalg.norm(one - other) / (np.linalg.norm(other) or 1.0)) for one, other in pairs(ours, theirs))


def pairs(ours: Any, theirs: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if isinstance(theirs, dict):
        ours, theirs = [ours[number] for number in theirs], list(theirs.values())
    both = zip(ours, theirs, strict=True) if isinstance(theirs, tuple | list) else ((ours, theirs),)
    for one, other in ((np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in both):
        assert one.shape == other.shape, f"shapes differ: {one.shape} and {other.shape}"
        yield one, other


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


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Holds this process to so many cores: compiled loops take as many threads as they may use, BLAS has to be told.

    Raises:
        ValueError: There are fewer cores, or no means to hold it.
    """
    if not 1 <= threads <= cores():
        raise ValueError(f"--threads is {threads}, and has to be between 1 and the number of cores, {cores()}")
    with ExitStack() as stack:
        if threads < cores():
            if missing("threadpoolctl") or not hasattr(os, "sched_setaffinity"):
                raise ValueError(f"--threads {threads} of {cores()} cores needs the package threadpoolctl, and Linux")
            import threadpoolctl

            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, sorted(allowed)[:threads])
            stack.callback(os.sched_setaffinity, 0, allowed)
            stack.enter_context(threadpoolctl.threadpool_limits(threads))
        yield


def set_torch_threads(threads: int) -> None:
    """Holds torch to so many threads, if it has been imported."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def missing(*packages: str) -> str:
    """Those that are not installed, as a text."""
    return ", ".join(package for package in dict.fromkeys(packages) if importlib.util.find_spec(package) is None)


def backend() -> str:
    """Who runs whole networks on NumPy arrays."""
    return "reference" if missing("numba") else "compiled"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> str:
    """The processor's name and how many cores of it there are, fit for a file's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {cores()} cores".lower()).strip("-")


def facts() -> dict[str, str]:
    """Of the run: versions and commit."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return {"python": platform.python_version(), "versions": ", ".join(versions), "commit": commit()}


def commit() -> str:
    """The commit that is measured; the results, which a run changes, do not make it dirty."""

    def git(*command: str) -> str:
        return subprocess.run(("git", *command), capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude,top)benchmarks/{RESULTS.name}")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except FileNotFoundError:
        return ""

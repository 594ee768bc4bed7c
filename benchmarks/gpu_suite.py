"""Everything that only a GPU can show, in one call of less than 8 minutes: correctness, sanitizers, the front end, and rates.

    python benchmarks/gpu_suite.py --output benchmarks/results

Checks come first: every primitive on fresh random data against its NumPy reference in float64; torch's tensors on the device;
the front end; and beside them, in processes of their own, the kernels' tests and compute-sanitizer (memcheck and racecheck) on
small shapes. Then, with the device to themselves, the rates: each convolution of VGG16, forward, transposed and transposed from a
pooled signal, against torch, cuDNN and cuBLAS's matrix product of the same arithmetic, and with the ReLU on the way against the
ReLU as a kernel of its own; memory-bound primitives against a measured copy; VGG16 and ResNet50 there and back, as CUDA graphs
against kernels launched one by one; and Chainer's functions against ours in their place.

It needs CuPy and this repository. What else isn't there (Chainer, torch, cuDNN's package, pytest, compute-sanitizer) is named and
left out, and so is what there is no time for. Each part runs in a process of its own, which ends in time: one that fails, hangs
or loses the device costs the others nothing. Writes one CSV a device, row by row, and ends with status 1 if a check failed. The
first run compiles the kernels, which takes a minute or two.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import cupy  # noqa: E402

from benchmarks import gpu_checks, gpu_rates, gpu_walks  # noqa: E402
from benchmarks.gpu_results import SECONDS, SECONDS_OF_RATES, Results, seconds_left, versions  # noqa: E402

#: Seconds until which the processes that run beside the checks must be done.
BESIDE_SECONDS = SECONDS - SECONDS_OF_RATES + 20
#: Seconds of a part at most; what it measures ends sooner, by the time that is left for all.
PART_SECONDS = 260
#: What shares memory between threads, and so may race.
SHARING = ("convol", "global_average")
#: Parts are processes that this one makes while it knows of no device, for CUDA doesn't outlive a fork.
FORK = multiprocessing.get_context("fork")


class Beside:
    """Processes that check while this one does, each with a file for what it says."""

    def __init__(self, results: Results) -> None:
        self.results, self.deadline = results, time.perf_counter() + BESIDE_SECONDS
        self.folder = Path(tempfile.mkdtemp())
        self.running: list[tuple[str, str, subprocess.Popen[bytes], Path]] = []

    def start(self, job: str, configuration: str, command: list[str], **variables: str) -> None:
        """Starts one."""
        path = self.folder / f"{len(self.running)}.txt"
        with path.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | variables, start_new_session=True
            )
        self.running.append((job, configuration, process, path))

    def start_sanitizers(self, seed: int) -> None:
        """compute-sanitizer over the checks on small shapes."""
        places = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
        program = shutil.which("compute-sanitizer", path=os.pathsep.join(places))
        if program is None:
            self.results.add("sanitizer", configuration="compute-sanitizer is not installed: left out")
            return
        for tool in ("memcheck", "racecheck"):
            # What CuPy asks CUDA in vain is no error of ours.
            options = ["--tool", tool, "--error-exitcode", "9", *(["--report-api-errors", "no"] if tool == "memcheck" else [])]
            only = [] if tool == "memcheck" else ["--only", *SHARING]
            self.start("sanitizer", tool, [program, *options, sys.executable, __file__, "--small", "--seed", str(seed), *only])

    def start_kernel_tests(self) -> None:
        """The tests of the kernels, with indices of 32 and of 64 bits."""
        missing = [name for name in ("pytest", "hypothesis", "chainer") if importlib.util.find_spec(name) is None]
        if missing:
            self.results.add("tests", configuration=f"{' and '.join(missing)} not installed: the kernels' tests are left out")
            return
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH")]))
        for bits in ("32", "64"):
            variables = {"DCNN_TEST_BACKEND": "cuda", "DCNN_TEST_INDEX": bits, "DCNN_TEST_EXAMPLES": "10", "PYTHONPATH": path}
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail", "20", "tests/kernels"]
            self.start("tests", f"tests/kernels, {bits}-bit indices", command, **variables)

    def finish(self) -> None:
        """Waits for them, as long as there is time, and keeps how they ended."""
        for job, configuration, process, path in self.running:
            try:
                status: int | str = process.wait(max(0.0, self.deadline - time.perf_counter()))
                text = path.read_text(encoding="utf-8", errors="replace")
                configuration += ", as far as there was time" if "no time for the rest" in text else ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = "not done in time"
            if status:
                print(path.read_text(encoding="utf-8", errors="replace")[-4000:])
            self.results.add(job, configuration=configuration, measure="exit status", value=status, passed=status == 0)
        shutil.rmtree(self.folder)


def apart(name: str, run: Callable[[Results], None], results: Results) -> None:
    """Runs a part of the suite in a process of its own, and keeps how it ended."""

    def part() -> None:
        try:
            run(results)
        except Exception as error:
            traceback.print_exc()
            results.add("error", configuration=f"{name}: {type(error).__name__}: {error}", passed=False)
        sys.stdout.flush()
        os._exit(results.failed)  # whatever the libraries' own ends may do

    sys.stdout.flush()
    process = FORK.Process(target=part)
    process.start()
    process.join(max(1.0, min(PART_SECONDS, seconds_left())))
    if process.is_alive():
        process.kill()
        process.join()
        results.add("error", configuration=f"{name}: not done in time", passed=False)
    elif process.exitcode not in (0, 1):
        results.add("error", configuration=f"{name}: ended with status {process.exitcode}", passed=False)
    results.failed |= process.exitcode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of the checks' data; printed")
    parser.add_argument("--small", action="store_true", help="only the primitives' checks, on small shapes, for a sanitizer")
    parser.add_argument("--only", nargs="+", default=[""], help="with --small: parts of the names of those to check")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    random = np.random.default_rng(options.seed)
    if options.small:
        # Each array a block of its own, so that a sanitizer sees where it ends.
        cupy.cuda.set_allocator(None)
        results = Results()
        gpu_checks.check_primitives(results, random, small=True, only=options.only)
        sys.exit(results.failed)
    with FORK.Pool(1) as pool:
        facts = pool.apply(versions)
    results = Results(options.output / f"{facts['device'].replace(' ', '-').lower()}.csv", facts)
    results.begin()
    beside = Beside(results)
    beside.start_sanitizers(options.seed)
    beside.start_kernel_tests()
    checks: dict[str, Callable[[Results], None]] = {
        "primitives": lambda results: gpu_checks.check_primitives(results, random, small=False),
        "torch": lambda results: gpu_checks.check_torch(results, random),
        "cuDNN": lambda results: gpu_checks.check_cudnn(results, random),
        "front end": gpu_checks.check_front_end,
    }
    rates: dict[str, Callable[[Results], None]] = {
        "convolutions": lambda results: gpu_rates.measure_convolutions(results, options.batch),
        "rectified": lambda results: gpu_rates.measure_rectified(results, options.batch),
        "memory": lambda results: gpu_rates.measure_memory_bound(results, options.batch),
        "walks": gpu_walks.measure_walks,
        "Chainer": gpu_rates.measure_chainer,
        "occlusion": gpu_rates.measure_occlusion,
    }
    for name, check in checks.items():
        apart(name, check, results)
    beside.finish()
    for name, measure in rates.items():
        apart(name, measure, results)
    rows = results.rows()
    gpu_rates.report_aims(rows)
    failures = [row for row in rows if row.get("passed") == "False"]
    print(f"wrote {results.path}: {len(rows)} rows, {len(failures)} failures")
    for row in failures:
        print("FAILED", {key: value for key, value in row.items() if key not in facts})
    sys.exit(results.failed)


if __name__ == "__main__":
    main()

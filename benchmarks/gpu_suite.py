"""Everything that only a GPU can show, in one call of less than 8 minutes: correctness, sanitizers, the front end, and rates.

    python benchmarks/gpu_suite.py --output benchmarks/results

Checks come first: every primitive on fresh random data against its NumPy reference in float64; torch's tensors on the device;
the front end; and beside them, in processes of their own, the kernels' tests and compute-sanitizer (memcheck and racecheck) on
small shapes. Then, with the device to themselves, the rates: each convolution of VGG16, forward, transposed and transposed from a
pooled signal, against torch, cuDNN and cuBLAS's matrix product of the same arithmetic, and with the ReLU on the way against the
ReLU as a kernel of its own; memory-bound primitives against a measured copy; VGG16 and ResNet50 there and back, as CUDA graphs
against kernels launched one by one; and Chainer's functions against ours in their place.

It needs CuPy and this repository. What else isn't there (Chainer, torch, cuDNN's package, pytest, compute-sanitizer) is named and
left out, and so is what there is no time for. Writes one CSV a device, as far as it has come, and ends with status 1 if a check
failed. The first run compiles the kernels, which takes a minute.
"""

from __future__ import annotations

import argparse
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
from benchmarks.gpu_results import Results, optional  # noqa: E402

#: Seconds for the processes that run beside the checks.
BESIDE_SECONDS = 240


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
            self.start("sanitizer", tool, [program, *options, sys.executable, __file__, "--small", "--seed", str(seed)])

    def start_kernel_tests(self) -> None:
        """The tests of the kernels, with indices of 32 and of 64 bits."""
        missing = [name for name in ("pytest", "hypothesis", "dcnn_visualizer.chainer_compat") if optional(name) is None]
        if missing:
            self.results.add("tests", configuration=f"{' and '.join(missing)} can't be imported: the kernels' tests are left out")
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
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = "not done in time"
            if status:
                print(path.read_text(encoding="utf-8", errors="replace")[-4000:])
            self.results.add(job, configuration=configuration, measure="exit status", value=status, passed=status == 0)
        shutil.rmtree(self.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of the checks' data; printed")
    parser.add_argument("--small", action="store_true", help="only the primitives' checks, on small shapes, for a sanitizer")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    random = np.random.default_rng(options.seed)
    if options.small:
        # Each array a block of its own, so that a sanitizer sees where it ends.
        cupy.cuda.set_allocator(None)
        results = Results()
        gpu_checks.check_primitives(results, random, small=True)
        sys.exit(bool(results.failures))
    results = Results(options.output)
    beside = Beside(results)
    jobs: tuple[Callable[[], None], ...] = (
        lambda: beside.start_sanitizers(options.seed),
        beside.start_kernel_tests,
        lambda: gpu_checks.check_primitives(results, random, small=False),
        lambda: gpu_checks.check_torch(results, random),
        lambda: gpu_checks.check_cudnn(results, random),
        lambda: gpu_checks.check_front_end(results),
        beside.finish,
        lambda: gpu_rates.measure_convolutions(results, options.batch),
        lambda: gpu_rates.measure_rectified(results, options.batch),
        lambda: gpu_rates.measure_memory_bound(results, options.batch),
        lambda: gpu_walks.measure_walks(results),
        lambda: gpu_rates.measure_chainer(results),
        lambda: gpu_rates.measure_occlusion(results),
    )
    for job in jobs:
        try:
            job()
        except Exception as error:  # One broken part must not cost the results of the others.
            traceback.print_exc()
            results.add("error", configuration=f"{type(error).__name__}: {error}", passed=False)
        results.write()
    gpu_rates.report_aims(results)
    print(f"wrote {results.path}: {len(results.rows)} rows, {len(results.failures)} failures")
    for row in results.failures:
        print("FAILED", row)
    sys.exit(bool(results.failures))


if __name__ == "__main__":
    main()

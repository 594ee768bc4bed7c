"""The GPU suite runs from end to end on the host build, on a network and pictures of a few pixels, and launches every kernel."""

import csv
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.host import host_build, resources
from tests.kernels.test_floors import PRIMITIVES

pytestmark = pytest.mark.skipif(host_build.compiler() is None, reason="the host build needs g++, which isn't there")
ROOT = Path(__file__).parents[2]

FEW = """
    import itertools
    from benchmarks import gpu_checks, gpu_suite
    cases = gpu_checks.check_cases
    gpu_checks.check_cases = lambda random, small: itertools.islice(cases(random, small), 3)
    gpu_suite.main()
"""
WHOLE = """
    from benchmarks import elementwise, gpu_bounds, gpu_checks, gpu_rates, gpu_results, gpu_suite, gpu_walks
    gpu_results.SECONDS = 1e6  # however long the kernels take to build
    elementwise.STAGES, elementwise.LINEAR = ((8, 16, 16),), ((5, 6),)
    gpu_rates.VGG16, gpu_rates.PICTURES = {"tiny": (3, 5, 4), "wide": (33, 34, 6)}, (2, 8, 9, 9)
    gpu_bounds.COPIED, gpu_walks.SIDE, gpu_walks.BATCHES = 1 << 12, 8, (1, 2)
    gpu_walks.VGG16, gpu_walks.WALKS = (4, 6, 0, 8), {"VGG16": gpu_walks.vgg16}
    cases = gpu_checks.check_cases
    gpu_checks.check_cases = lambda random, small: cases(random, small=True)
    # The tests run under sanitizers of their own.
    gpu_suite.Beside.start_kernel_tests = lambda self: self.start("tests", "none", ["true"])
    gpu_suite.apart = lambda name, run, results: run(results)  # here, where the kernels launched are counted
    try:
        gpu_suite.main()
    finally:
        from cupy.kernels import LAUNCHED
        print("kernels", *sorted({expression.partition("<")[0] for _, expression in LAUNCHED}))
"""
#: Parts that fail, hang, and lose the device or themselves, and one that works, which comes last.
BROKEN = """
    import os, signal, time
    from pathlib import Path
    import cupy
    from benchmarks import gpu_suite
    from benchmarks.gpu_results import Results

    def fail(results):
        results.add("before", value=1.5)
        with results.going_on("check", "this one"):
            raise RuntimeError("no such kernel")
        results.add("after", passed=True)
        raise ValueError("and no more")

    def lose(results):
        cupy.cuda.Device.synchronize = lambda device: 1 / 0
        with results.going_on("check", "that one"):
            raise RuntimeError("an illegal address")
        results.add("never")

    gpu_suite.PART_SECONDS = 2
    results = Results(Path("{path}"), {"device": "a device"})
    results.begin()
    gpu_suite.apart("failing", fail, results)
    gpu_suite.apart("hanging", lambda results: time.sleep(1000), results)
    gpu_suite.apart("dying", lambda results: os.kill(os.getpid(), signal.SIGSEGV), results)
    gpu_suite.apart("losing", lose, results)
    gpu_suite.apart("working", lambda results: results.add("last", configuration="one, and two"), results)
    for row in results.rows():
        assert row.pop("device") == "a device"
        print(row)
    print(results.failed)
"""


def run(program, *arguments):
    path = os.pathsep.join(map(str, (ROOT / "tests" / "host", ROOT, ROOT / "kernels")))
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_the_checks_run_alone_for_a_sanitizer():
    checks = [line for line in run(FEW, "--small").splitlines() if "relative error norm" in line]
    assert len(checks) == 3 * 3
    assert all("passed=True" in line for line in checks)


def test_a_part_that_breaks_costs_the_others_nothing(tmp_path):
    printed = run(BROKEN.replace("{path}", str(tmp_path / "device.csv"))).splitlines()
    assert [eval(line) for line in printed if line.startswith("{")] == [
        {"job": "before", "value": 1.5},
        {"job": "check", "configuration": "this one: RuntimeError: no such kernel", "passed": "False"},
        {"job": "after", "passed": "True"},
        {"job": "error", "configuration": "failing: ValueError: and no more", "passed": "False"},
        {"job": "error", "configuration": "hanging: not done in time", "passed": "False"},
        {"job": "error", "configuration": "dying: ended with status -11", "passed": "False"},
        {"job": "check", "configuration": "that one: RuntimeError: an illegal address", "passed": "False"},
        {"job": "error", "configuration": "losing: ZeroDivisionError: division by zero", "passed": "False"},
        {"job": "last", "configuration": "one, and two"},
    ]
    assert printed[-1] == "True"


def test_the_suite_runs_from_end_to_end(tmp_path):
    printed = run(WHOLE, "--output", str(tmp_path), "--batch", "2", "--seed", "5")
    assert "seed 5" in printed
    assert "0 failures" in printed
    (launched,) = [line.split()[1:] for line in printed.splitlines() if line.startswith("kernels ")]
    assert set(launched) >= {kernel.partition("<")[0] for _, kernel in resources.rows_of_file()}
    with (tmp_path / "host-build.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    jobs = {row["job"] for row in rows}
    assert jobs == {
        "check",
        "torch",
        "cudnn",
        "front end",
        "sanitizer",
        "tests",
        "convolution",
        "rectified",
        "memory",
        "walk",
        "accelerate",
        "occlusion",
    }
    checked = {row["configuration"].split()[0] for row in rows if row["job"] == "check"}
    assert checked == set(PRIMITIVES) - {"patch_form"}  # which makes no arrays
    for job, configuration in (("memory", "max_pooling_2d ksize=2 mask"), ("convolution", "wide transposed from pooled")):
        assert any((row["job"], row["configuration"]) == (job, configuration) and float(row["value"]) > 0 for row in rows)
    bounded = [row for row in rows if row["bound"]]
    assert {row["configuration"] for row in bounded} == {
        *(f"{layer} {job}" for layer in ("tiny", "wide") for job in ("forward", "transposed", "transposed from pooled")),
        "VGG16 conv2_1, there and back",
    }
    assert all(float(row["bound"]) > 0 for row in bounded)

"""Runs the tests of the kernels on the CUDA side, without a GPU: see ``run.py``. Two processes at once, each of which sees much.

``address``: AddressSanitizer and UndefinedBehaviorSanitizer, threads in order, 32-bit indices.
``thread``: ThreadSanitizer, threads and blocks in random order, 64-bit indices.
Of each property they try fewer examples than the references' tests, for time.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import host_build, resources, run

RUNS = {
    "address": {"DCNN_HOST_SEED": "0", "DCNN_TEST_INDEX": "32", "DCNN_TEST_EXAMPLES": "25"},
    "thread": {"DCNN_HOST_SEED": "1", "DCNN_TEST_INDEX": "64", "DCNN_TEST_EXAMPLES": "10"},
}

if host_build.compiler() is None:
    pytest.skip("the CUDA kernels are NOT tested here: that needs g++, which isn't installed", allow_module_level=True)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    """The runs, started: each with the path of its folder, where its output and its record of kernels will be."""
    started = {}
    for sanitizer, settings in RUNS.items():
        folder = tmp_path_factory.mktemp(sanitizer)
        record = str(folder / "kernels.json")
        variables = run.environment(sanitizer, DCNN_TEST_BACKEND="cuda", DCNN_TEST_RECORD=record, **settings)
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                run.command(*run.TESTS, "-v"), env=variables, cwd=run.ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        started[sanitizer] = process, folder
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("sanitizer", RUNS)
def test_the_kernels_pass_their_tests_under_a_sanitizer(sanitizer, processes):
    process, folder = processes[sanitizer]
    status = process.wait()
    lines = (folder / "output").read_text(encoding="utf-8", errors="replace").splitlines()
    assert status == 0, "\n".join(line for line in lines[-200:] if " PASSED " not in line)
    assert " passed" in lines[-1]
    launched, recorded = (
        {(file, kernel.partition("<")[0]) for file, kernel in kernels}
        for kernels in (json.loads((folder / "kernels.json").read_bytes()), resources.rows_of_file())
    )
    advice = "run `python -m tests.host.resources --new` where nvcc is"
    assert launched <= recorded, f"kernels that resources.csv lacks, {advice}: {sorted(launched - recorded)}"
    assert launched >= recorded, f"kernels of resources.csv that no test launches, {advice}: {sorted(recorded - launched)}"

"""The tests of the kernels on what Numba compiles, in a process of their own: the backend under test is chosen as it starts."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcnn_visualizer.reversal import Reversal
from tests.visualizer.networks import SimpleCNN

pytest.importorskip("numba", reason="Numba isn't installed; the extra 'cpu' brings it")
ROOT = Path(__file__).resolve().parent.parent.parent


def run(*command, **variables):
    """Runs Python in the project's root; returns what it prints, and fails with it."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"} | variables
    result = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-4000:]
    return result.stdout


def test_the_kernels_tests_pass_on_the_compiled_floor():
    printed = run("-m", "pytest", "-q", "tests/kernels", DCNN_TEST_BACKEND="compiled", DCNN_TEST_EXAMPLES="25")
    assert " passed" in printed
    assert "skipped" not in printed


def test_numba_is_loaded_by_the_first_call_of_what_is_compiled():
    calls = """import sys, dcnn_kernels, numpy
x = numpy.ones((1, 1, 2, 2))
dcnn_kernels.occlude(x[0], numpy.array([[0, 0, 1, 1]]), 0.0)
before = "numba" in sys.modules
dcnn_kernels.max_pooling_2d(x, 2)
print(before, "numba" in sys.modules)"""
    assert run("-c", calls).split() == ["False", "True"]


def test_loops_are_compiled_in_memory_where_nothing_can_be_kept(tmp_path):
    """A cache folder that can't be made, for a file stands in its place."""
    blocked = tmp_path / "file"
    blocked.touch()
    code = "import numpy, dcnn_kernels; print(dcnn_kernels.relu_mask(numpy.ones((1, 8))).item())"
    assert run("-c", code, NUMBA_CACHE_DIR=str(blocked / "below")).strip() == "255"


@pytest.mark.parametrize("rule", list(itertools.product([True, False], [True, False], ["switch", "center", "spread"])))
def test_skipping_shared_zeros_changes_nothing_in_any_cell(rule):
    from dcnn_kernels.compiled import settings

    model, x = SimpleCNN(), np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    model(x)
    answers = []
    for algorithm in ("products", "sparse"):
        with settings.algorithm(algorithm):
            answers.append(Reversal(model, *rule).analyze(x, "fc3", list(range(9))))
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-6 * np.abs(answers[0]).max())


def test_what_is_kept_is_named_for_all_sources(tmp_path):
    """Numba itself doesn't see that what a loop calls has changed."""
    code = """import numpy, dcnn_kernels
from dcnn_kernels.compiled import jit
dcnn_kernels.relu_mask(numpy.ones((1, 8)))
print(jit.DIGEST)"""
    digest = run("-c", code, NUMBA_CACHE_DIR=str(tmp_path)).strip()
    kept = [path.name for path in tmp_path.rglob("*.nbi")]
    assert kept
    assert [name for name in kept if digest not in name] == []

"""Runs the tests of the kernels on the CUDA side, with the stand-in as CuPy, in a process of their own.

    python -m tests.host.run address -k pooling

for AddressSanitizer and UndefinedBehaviorSanitizer, or ``thread``, or ``none``. Further arguments are pytest's. DCNN_HOST_SEED,
DCNN_TEST_INDEX and DCNN_TEST_EXAMPLES are heeded: see ``cupy/kernels.py``, ``tests/kernels/device.py`` and ``conftest.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.host import host_build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTS = ("tests/kernels", "tests/host/test_cupy.py", "tests/host/test_launch.py")


def environment(sanitizer: str, **settings: str) -> dict[str, str]:
    """Environment variables of a process that finds the stand-in as cupy, and can load kernels built with the sanitizer."""
    path = [str(HERE), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **host_build.environment(sanitizer), "PYTHONPATH": os.pathsep.join(filter(None, path)), **settings}


def command(*arguments: str) -> list[str]:
    """A run of pytest, in which the sanitizers' reports aren't captured: they end the process."""
    return [sys.executable, "-m", "pytest", "--capture=sys", "-p", "no:cacheprovider", *arguments]


def main() -> int:
    sanitizer, *arguments = sys.argv[1:]
    variables = environment(sanitizer, DCNN_TEST_BACKEND="cuda")
    return subprocess.run(command(*TESTS, *arguments), env=variables, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

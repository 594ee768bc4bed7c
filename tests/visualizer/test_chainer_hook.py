"""Chainer may be imported before this package, on any NumPy: in fresh processes, as Python starts with the hook."""

import os
import subprocess
import sys
from pathlib import Path

import dcnn_kernels
import dcnn_visualizer

ROOT = Path(__file__).parents[2]
HOOK = (ROOT / "dnn_visualizer.pth").read_text(encoding="utf-8")


def run(program):
    """Runs a program in a Python that executed the line of the .pth file first, and returns what it printed."""
    packages = [Path(package.__file__).parents[1] for package in (dcnn_visualizer, dcnn_kernels)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages))}
    command = [sys.executable, "-c", f"{HOOK}\n{program}"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout.strip()


def test_chainer_first():
    program = """
import chainer.functions as F
import numpy as np
import dcnn_visualizer.traceable_nodes as tn
print(F.relu(np.array([-1.0, 2.0], 'f')).array.tolist(), hasattr(np, 'sctypes') == (np.__version__ < '2'))
"""
    assert run(program) == "[0.0, 2.0] True"


def test_starting_imports_nothing_else():
    program = "import sys; print([name for name in ('numpy', 'chainer', 'dcnn_kernels') if name in sys.modules])"
    assert run(program) == "[]"


def test_a_hook_left_behind_does_no_harm(tmp_path):
    program = "import sys; print(len([name for name in sys.modules if name.startswith('dcnn_visualizer.')]))"
    isolated = f"{HOOK}\n{program}"
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-c", isolated], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert (finished.stdout.strip(), finished.stderr) == ("0", "")

"""Chainer may be imported before the front end, on any NumPy: in fresh processes that start as an installation does."""

import os
import subprocess
import sys
from pathlib import Path

import dcnn_kernels
import dcnn_visualizer

STARTUP = Path(__file__).parents[1] / "startup"
LINE = (STARTUP / "dnn_visualizer.pth").read_text(encoding="utf-8")


def run(program):
    """Runs a program in a Python that executed the line of the .pth file first, and returns what it printed."""
    folders = [STARTUP, *(Path(package.__file__).parents[1] for package in (dcnn_visualizer, dcnn_kernels))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-c", f"{LINE}\n{program}"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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
    program = (
        "import sys; print([name for name in ('numpy', 'chainer', 'dcnn_kernels', 'dcnn_visualizer') if name in sys.modules])"
    )
    assert run(program) == "[]"


def test_a_line_left_behind_does_no_harm(tmp_path):
    program = "import sys; print('dnn_visualizer_startup' in sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", f"{LINE}\n{program}"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (finished.stdout.strip(), finished.stderr) == ("False", "")

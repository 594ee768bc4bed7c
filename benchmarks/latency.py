"""Imports and first calls in a fresh process, beside torch's and Captum's.

    python benchmarks/latency.py

Times are those of the whole process, from the start of Python to its end; ``peak_bytes`` is all the memory that it took. The
first call projects a channel through two small convolutions; what Numba compiled is on disk already, as after the first use.
Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.runner import Contestant, Point, Work, arguments, backend, run  # noqa: E402

FIRST_CALL = """
import numpy as np
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.desalinet import DeSaliNet
from dcnn_visualizer.traceable_chain import TraceableChain
chain = TraceableChain(
    conv1=tn.TraceableConvolution2D(3, 32, 3, pad=1), relu1=tn.TraceableReLU(),
    pool1=tn.TraceableMaxPooling2D(2), conv2=tn.TraceableConvolution2D(32, 64, 3, pad=1),
)
DeSaliNet(chain).analyze(np.ones((1, 3, 224, 224), np.float32), "conv2", 5)
"""
FIRST_CALL_OF_CAPTUM = """
import torch
from captum.attr import NeuronGuidedBackprop
from torch import nn
network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1)).eval()
x = torch.ones(1, 3, 224, 224, requires_grad=True)
NeuronGuidedBackprop(network, network[3]).attribute(x, lambda y: y[:, 5].sum((1, 2)))
"""
#: Job, what it does, ours, the peer and what its packages are, and the peer's program.
JOBS = (
    ("import", "dcnn_kernels", "import dcnn_kernels", "torch", ("torch",), "import torch"),
    ("import", "dcnn_visualizer", "import dcnn_visualizer", "torch", ("torch",), "import torch"),
    ("import", "DeSaliNet", "import dcnn_visualizer.desalinet", "captum", ("torch", "captum"), "import captum.attr"),
    ("first call", "DeSaliNet, two convolutions", FIRST_CALL, "captum", ("torch", "captum"), FIRST_CALL_OF_CAPTUM),
)
PEAK = """
import pathlib, re
status = pathlib.Path("/proc/self/status")
print(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1] if status.exists() else "")
"""


class Program:
    """A program for a fresh Python, which finds our packages in this tree."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, more: str = "") -> int:
        """Runs it. Returns the exit status, which is 0."""
        self.output = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", self.text + more],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
        ).stdout
        return 0


def peak(contestant: Contestant) -> int | str:
    """What the process says of itself, on Linux."""
    contestant.work(PEAK)
    kilobytes = contestant.work.output.strip()
    return int(kilobytes) * 1024 if kilobytes else ""


def points() -> Iterator[Point]:
    """All jobs."""
    for job, name, program, peer, needs, theirs in JOBS:
        work = Work(Program(program), lambda theirs=theirs: Program(theirs), peak=peak)
        yield Point(job, lambda work=work: work, name, "", "", backend(), peer, needs)


def main() -> None:
    run(points(), arguments(__doc__).parse_args())


if __name__ == "__main__":
    main()

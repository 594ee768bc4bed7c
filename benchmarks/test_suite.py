"""The suite's jobs through pytest-benchmark, ours alone: to compare two states of this project.

    pytest benchmarks --benchmark-autosave -k "max_pooling_2d"
    pytest benchmarks --benchmark-compare -k "max_pooling_2d"

Ratios to peers are for ``benchmarks/suite.py``: pytest-benchmark runs one job after the other, so that a busy machine slows one
and not the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.runner import Contestant, Point, cores, missing  # noqa: E402
from benchmarks.suite import points  # noqa: E402

#: By what is done and by whom, whoever is beside.
POINTS = {" ".join(filter(None, point._replace(peer="").key(cores()))): point for point in points()}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_job(point: Point, benchmark) -> None:
    """Times a job; each call takes a new picture where it can."""
    if absent := missing(*point.requires):
        pytest.skip(f"not installed: {absent}")
    work = point.make()
    benchmark.pedantic(Contestant(work.ours, work.pictures), rounds=5, warmup_rounds=1)

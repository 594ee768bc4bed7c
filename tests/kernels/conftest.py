"""Runs the tests of the kernels on the backend that ``DCNN_TEST_BACKEND`` names; see ``device.py``.

``DCNN_TEST_EXAMPLES`` is how many examples Hypothesis tries of each property, 100 unless told. ``DCNN_TEST_RECORD`` names a file
to which the kernels that were launched on the stand-in are written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kernels.device import BACKEND

if "DCNN_TEST_EXAMPLES" in os.environ:
    settings.register_profile("few", settings.get_profile("steady"), max_examples=int(os.environ["DCNN_TEST_EXAMPLES"]))
    settings.load_profile("few")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = {
        "reference": ("compiled_only", "cuda_only"),
        "compiled": ("reference_only", "cuda_only"),
        "cuda": ("reference_only", "compiled_only", "host_only"),
    }
    foreign = [item for item in items if any(map(item.get_closest_marker, others[BACKEND]))]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


@pytest.fixture(autouse=BACKEND == "cuda" and os.environ.get("DCNN_TEST_INDEX") == "64")
def _wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels index with 64 bits, however small the arrays."""
    monkeypatch.setattr("dcnn_kernels.cuda.launch.INT_MAX", 0)


@pytest.fixture(autouse=BACKEND == "cuda")
def _own_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels are tested, even where cuDNN's package is installed; its own tests bring a stand-in."""
    if not request.module.__name__.endswith("test_cudnn"):
        monkeypatch.setattr("dcnn_kernels.cuda.cudnn._frontend", lambda: "left out of these tests")


def pytest_sessionfinish() -> None:
    if "DCNN_TEST_RECORD" in os.environ:
        from cupy.kernels import LAUNCHED as launched

        from dcnn_kernels.cuda import launch

        names = {path.read_text(encoding="utf-8"): path.name for path in launch.SOURCE.glob("*.cu")}
        record = sorted((names[code], expression) for code, expression in launched if code in names)
        Path(os.environ["DCNN_TEST_RECORD"]).write_text(json.dumps(record), encoding="utf-8")

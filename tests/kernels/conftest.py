"""Runs the tests of the kernels on the backend that ``DCNN_TEST_BACKEND`` names; see ``device.py``."""

from __future__ import annotations

import os

import pytest

from tests.kernels.device import BACKEND


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other = "reference_only" if BACKEND == "cuda" else "cuda_only"
    foreign = [item for item in items if item.get_closest_marker(other)]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


@pytest.fixture(autouse=BACKEND == "cuda" and os.environ.get("DCNN_TEST_INDEX") == "64")
def _wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels index with 64 bits, however small the arrays."""
    monkeypatch.setattr("dcnn_kernels.cuda.launch.INT_MAX", 0)

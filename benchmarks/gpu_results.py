"""What the GPU suite has found: rows of its CSV, and the time that is left for more."""

from __future__ import annotations

import csv
import importlib
import platform
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import cupy
import numpy as np

FIELDS = (
    *("job", "configuration", "shape", "dtype", "measure", "value", "low", "high", "bound"),
    *("peer", "peer_value", "ratio", "passed"),
)
VERSIONS = ("device", "cupy", "torch", "numpy", "python", "cuda", "driver")
#: Seconds for all.
SECONDS = 450

START = time.perf_counter()


def seconds_left() -> float:
    return SECONDS - (time.perf_counter() - START)


class Results:
    """The rows; each is printed, and with a folder all are written, as soon as it is there."""

    def __init__(self, folder: Path | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.facts = versions() if folder else {}
        self.path = folder / f"{self.facts['device'].replace(' ', '-').lower()}.csv" if folder else None

    def add(self, job: str, **fields: Any) -> None:
        """Keeps a row and prints it."""
        self.rows.append({"job": job, **fields})
        text = " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items())
        print(f"{time.perf_counter() - START:5.0f} s  {job}: {text}", flush=True)

    def write(self) -> None:
        """Writes the CSV."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, (*FIELDS, *VERSIONS), lineterminator="\n")
                writer.writeheader()
                writer.writerows({**row, **self.facts} for row in self.rows)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows of checks that failed."""
        return [row for row in self.rows if row.get("passed") is False]


def versions() -> dict[str, str]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    torch = optional("torch")
    values = (
        properties["name"].decode(),
        cupy.__version__,
        torch.__version__ if torch else "",
        np.__version__,
        platform.python_version(),
        cupy.cuda.runtime.runtimeGetVersion(),
        cupy.cuda.runtime.driverGetVersion(),
    )
    return dict(zip(VERSIONS, map(str, values), strict=True))


def optional(name: str) -> ModuleType | None:
    """A module, or None where it, or a library that it loads, isn't installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        return None


def torch_on_device(results: Results, job: str) -> Any:
    """Torch, if it is there and sees the device."""
    torch = optional("torch")
    if torch is None or not torch.cuda.is_available():
        results.add(job, configuration="torch is not installed, or sees no GPU: left out")
        return None
    return torch

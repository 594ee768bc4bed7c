"""What the GPU suite has found: rows of its CSV, written as they come, and the time that is left for more."""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import platform
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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
#: Columns of numbers.
NUMBERS = ("value", "low", "high", "bound", "peer_value", "ratio")
#: Seconds for all, and those of them that are left to the rates when the checks must end.
SECONDS, SECONDS_OF_RATES = 450, 210

START = time.perf_counter()


def seconds_left() -> float:
    return SECONDS - (time.perf_counter() - START)


class Results:
    """The rows: each is printed and, with a file, written at once, so that what comes later can't cost it.

    Args:
        path: The CSV. Several processes may write to it, one after the other.
        facts: What all rows say of the machine.
    """

    def __init__(self, path: Path | None = None, facts: dict[str, str] | None = None) -> None:
        self.path, self.facts = path, facts or {}
        self.failed = False

    def begin(self) -> None:
        """Writes the CSV's first line, over what was there."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(self.path, "w", dict(zip((*FIELDS, *VERSIONS), (*FIELDS, *VERSIONS), strict=True)))

    def add(self, job: str, **fields: Any) -> None:
        """Prints a row and writes it."""
        self.failed |= fields.get("passed") is False
        text = " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items())
        print(f"{time.perf_counter() - START:5.0f} s  {job}: {text}", flush=True)
        if self.path:
            self._write(self.path, "a", {"job": job, **fields, **self.facts})

    @contextmanager
    def going_on(self, job: str, configuration: str) -> Iterator[None]:
        """Keeps an error as a failure of this row, and goes on, unless it has cost the device: then nothing more would work."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add(job, configuration=f"{configuration}: {type(error).__name__}: {error}", passed=False)
            cupy.cuda.Device().synchronize()

    def rows(self) -> list[dict[str, Any]]:
        """The rows that the file has, without what is empty; numbers as such."""
        if self.path is None:
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
        return [{key: _number(value) if key in NUMBERS else value for key, value in row.items()} for row in rows]

    @staticmethod
    def _write(path: Path, mode: str, row: dict[str, Any]) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            csv.DictWriter(file, (*FIELDS, *VERSIONS), lineterminator="\n").writerow(row)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def versions() -> dict[str, str]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch_version = ""
    values = (
        properties["name"].decode(),
        cupy.__version__,
        torch_version,
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

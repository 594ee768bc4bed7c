"""The tables and plots of the READMEs and of docs/, from the CSVs that the benchmarks write.

    python benchmarks/report.py            # writes what is stale
    python benchmarks/report.py --check    # names what is stale, and exits with 1 if anything is

In a document, what stands between ``<!-- report: NAME -->`` and ``<!-- end of report -->`` comes from here; all else is written
by hand. A plot carries a hash of the numbers that it shows, and is stale when they are others, whatever matplotlib draws it: so
``--check`` doesn't need it, while drawing takes the extra ``plot``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.growth import GROWTH, Growth  # noqa: E402
from benchmarks.runner import ABSENT, FIELDS, KEY, MEASURES  # noqa: E402

DOCUMENTS = ("README.md", "README.ja.md", "docs/performance.md", "docs/ceilings.md")
BLOCK = re.compile(r"(?<=<!-- report: )(\w+)( -->\n).*?(?=<!-- end of report -->)", re.DOTALL)
#: What benchmarks/gpu_suite.py writes, whose rows have one measure each: its fields, its versions.
SUITE = (
    *("job", "configuration", "shape", "dtype", "measure", "value", "low", "high", "bound"),
    *("peer", "peer_value", "ratio", "passed"),
)
SUITE_VERSIONS = ("device", "cupy", "torch", "numpy", "python", "cuda", "driver")
#: Of VGG16's layers, the jobs of the table by layer.
LAYER_JOBS = {"convolution_2d": "Convolution", "transposed_convolution_2d": "Transposed convolution"}
#: The same of the GPU suite.
SUITE_LAYER_JOBS = {"convolution": "Layers", "walk": "Whole networks"}


class Headline(NamedTuple):
    """A row that the READMEs show: what it is called there, where it is in the CSV, and the script that measures it."""

    english: str
    japanese: str
    job: str
    configuration: str
    peer: str
    script: str
    shape: str = "1x3x224x224"


HEADLINES = (
    Headline(
        "Occlusion map of VGG16, window 32, step 8",
        "VGG16 の遮蔽マップ、窓 32、間隔 8",
        "occlusion",
        "vgg16 32/8 class score",
        "captum",
        "occlusion.py",
    ),
    Headline(
        "Occlusion map of VGG16, window 16, step 4",
        "VGG16 の遮蔽マップ、窓 16、間隔 4",
        "occlusion",
        "vgg16 16/4 class score",
        "captum",
        "occlusion.py",
    ),
    Headline(
        "Occlusion map of ResNet50, window 32, step 8",
        "ResNet50 の遮蔽マップ、窓 32、間隔 8",
        "occlusion",
        "resnet50 32/8 class score",
        "captum",
        "occlusion.py",
    ),
    Headline(
        "Occlusion map of EfficientNet-Lite0, window 32, step 8",
        "EfficientNet-Lite0 の遮蔽マップ、窓 32、間隔 8",
        "occlusion",
        "efficientnet_lite0 32/8 class score",
        "captum",
        "occlusion.py",
    ),
    Headline(
        "Gallery: top 9 of 64 channels in 32 pictures, VGG16",
        "ギャラリー: 画像 32 枚から 64 チャネルの上位 9 か所、VGG16",
        "gallery",
        "DeSaliNet vgg16 conv3_3, 9 places of 64 channels",
        "captum",
        "projection.py",
        "32x3x224x224",
    ),
    Headline(
        "64 channels of VGG16's conv5_3, guided",
        "VGG16 の conv5_3 の 64 チャネル(guided)",
        "projection",
        "DeSaliNet vgg16 conv5_3, 64 channels",
        "captum",
        "projection.py",
    ),
    Headline(
        "64 channels of VGG16's conv5_3, gradient",
        "VGG16 の conv5_3 の 64 チャネル(勾配)",
        "projection",
        "SaliNet vgg16 conv5_3, 64 channels",
        "autograd",
        "projection.py",
    ),
    Headline(
        "One channel of VGG16's conv5_3, guided",
        "VGG16 の conv5_3 の 1 チャネル(guided)",
        "projection",
        "DeSaliNet vgg16 conv5_3, 1 channel",
        "captum",
        "projection.py",
    ),
    Headline(
        "32 channels of EfficientNet-Lite0's block 9, gradient",
        "EfficientNet-Lite0 のブロック 9 の 32 チャネル(勾配)",
        "projection",
        "SaliNet efficientnet_lite0 block9/expand_relu, 32 channels",
        "captum",
        "projection.py",
    ),
    Headline(
        "Captum's NeuronGuidedBackprop with one import changed, VGG16",
        "Captum の NeuronGuidedBackprop、import を一行変えただけ、VGG16",
        "dropin.NeuronGuidedBackprop",
        "vgg16 one picture",
        "captum",
        "dropin.py",
    ),
    Headline(
        "Convolution, conv3_2 of VGG16",
        "畳み込み、VGG16 の conv3_2",
        "convolution_2d",
        "conv3_2",
        "torch",
        "convolution.py",
        "1x256x56x56",
    ),
    Headline(
        "Transposed convolution, conv3_2 of VGG16",
        "転置畳み込み、VGG16 の conv3_2",
        "transposed_convolution_2d",
        "conv3_2",
        "torch",
        "convolution.py",
        "1x256x56x56",
    ),
    Headline(
        "Max pooling 2x2, pool3 of VGG16, 4 pictures",
        "最大プーリング 2x2、VGG16 の pool3、画像 4 枚",
        "max_pooling_2d",
        "ksize=2",
        "torch",
        "elementwise.py",
        "4x256x56x56",
    ),
    Headline(
        "Unpooling 2x2 by switches, pool3 of VGG16, 4 pictures",
        "スイッチによるアンプーリング 2x2、VGG16 の pool3、画像 4 枚",
        "unpooling_2d",
        "switch ksize=2",
        "torch",
        "elementwise.py",
        "4x256x56x56",
    ),
)


class Row(dict[str, str]):
    """A row of a CSV."""

    def number(self, name: str) -> float:
        """A measure, NaN where the row has none."""
        return np.float64(self[name] or "nan")  # by which a division by 0 is no error

    @property
    def absent(self) -> str:
        """What wasn't installed of the peer."""
        return self["note"].removeprefix(ABSENT) if self["note"].startswith(ABSENT) else ""


# Reading


def read(folder: Path) -> dict[str, list[Row]]:
    """The rows of each device, by its name.

    Raises:
        ValueError: A file that lacks a column, a row with too many or too few cells, with a measure that is no number, or
            with the key of another row.
    """
    return {path.stem: read_rows(path) for path in sorted(folder.glob("*.csv"))}


def read_rows(path: Path) -> list[Row]:
    """The rows of one device; see :func:`read`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            names, cells = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error
    of_suite = "measure" in names
    expected = (*SUITE, *SUITE_VERSIONS) if of_suite else FIELDS
    lacking = [name for name in expected if name not in names]
    if lacking:
        raise ValueError(f"{path}: no column {', '.join(lacking)}; expected {', '.join(expected)}")
    rows: dict[tuple[str, ...], Row] = {}
    for number, given in enumerate(cells, 1):
        if None in given or None in given.values():
            raise ValueError(f"{path}, row {number}: not as many cells as columns, {len(names)}")
        row = Row(dict.fromkeys((*FIELDS, *SUITE), "") | given)
        for name in (*MEASURES, "threads", "value", "low", "high", "bound", "peer_value"):
            try:
                fits = not row[name] or math.isfinite(float(row[name]))
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{path}, row {number}: {name} is {row[name]!r}, and has to be a number or empty")
        key = tuple(row[name] for name in (*KEY, "measure"))
        if key in rows:
            raise ValueError(f"{path}, row {number}: there is another row of {' '.join(filter(None, key))}")
        if of_suite:
            row["versions"] = ", ".join(f"{name} {row[name]}" for name in SUITE_VERSIONS if name not in ("device", "python"))
        rows[key] = row
    return list(rows.values())


# Text


def significant(value: float, digits: int = 3) -> str:
    """A number in few digits, "" for NaN and infinity."""
    if not math.isfinite(value):
        return ""
    rounded = float(f"{value:.{digits}g}")
    after = max(0, digits - 1 - math.floor(math.log10(abs(rounded)))) if rounded else 0
    return f"{rounded:,.{after}f}"


def duration(ms: float) -> str:
    return f"{significant(ms / 1e3)} s" if ms >= 1e3 else f"{significant(ms)} ms"


def spread(row: Row, name: str, low: str, high: str) -> str:
    """A measure, and its 20th and 80th percentile."""
    if math.isnan(row.number(name)):
        return ""
    return f"{significant(row.number(name))} ({significant(row.number(low))}–{significant(row.number(high))})"


def ratio(row: Row) -> str:
    """With its spread, if that is known."""
    if row.absent:
        return f"absent: {row.absent}"
    return spread(row, "ratio", "ratio_p20", "ratio_p80") if row["ratio_p20"] else significant(row.number("ratio"))


def plain(cell: str) -> str:
    """On one line, without what Markdown and HTML would take for theirs."""
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")


def table(columns: dict[str, Callable[[Any], str]], rows: Iterable[Any]) -> str:
    """Markdown: a row for each of ``rows``. Columns that are empty throughout are left out; numbers stand to the right."""
    body = [[plain(column(row)) for column in columns.values()] for row in rows]
    kept = [(name, cells) for name, cells in zip(columns, zip(*body, strict=True), strict=True) if any(cells)]
    numbers = [all(re.match(r"[-*]*\d|$", cell) for cell in cells) for _, cells in kept]
    lines = [[name for name, _ in kept], ["---:" if number else "---" for number in numbers]]
    lines += map(list, zip(*(cells for _, cells in kept), strict=True))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine(device: str, rows: list[Row]) -> str:
    """What measured, when, and of what."""

    def values(name: str) -> str:
        return " and ".join(sorted({row[name][:10] if name == "time" else row[name] for row in rows} - {""}))

    facts = {"threads": "{} threads", "time": "{}", "commit": "commit {}", "python": "Python {}"}
    known = [text.format(values(name)) for name, text in facts.items() if values(name)]
    libraries = dict.fromkeys(itertools.chain.from_iterable(row["versions"].split(", ") for row in rows))
    known += [library for library in libraries if library and not library.startswith("no ")]
    return f"`{device}`, {', '.join(known)}.\n"


def rates(rows: list[Row]) -> str:
    """What the machine can do."""
    found = []
    for verb, name, unit in (("copies", "copy_GB_per_s", "GB/s"), ("multiplies matrices at", "sgemm_GFLOP_per_s", "GFLOP/s")):
        rate = [row.number(name) for row in rows if row[name]]
        if rate:
            found.append(f"{verb} {significant(float(np.median(rate)))} {unit}")
    return f"The machine {' and '.join(found)}, medians of all rows.\n" if found else ""


# Tables


def measured(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["median_ms"]]


def headlines(devices: dict[str, list[Row]]) -> Iterable[tuple[str, list[tuple[Headline, Row]]]]:
    """The headlines of each device that has any, with their rows, those of most threads."""
    for device, rows in devices.items():
        found = []
        for headline in HEADLINES:
            fitting = [
                row
                for row in measured(rows)
                if row["ratio"]
                and all(row[name] == getattr(headline, name) for name in ("job", "configuration", "shape", "peer"))
            ]
            if fitting:
                found.append((headline, max(fitting, key=lambda row: row.number("threads"))))
        if found:
            yield device, found


def speed(devices: dict[str, list[Row]]) -> str:
    """The headlines in English."""
    return _speed(
        devices,
        ("what", "faster by", "spread", "ours", "peer", "beside", "measured by"),
        lambda headline: headline.english,
        "{}×",
        "Ours beside the peers, as bars",
        "On ",
    )


def speed_ja(devices: dict[str, list[Row]]) -> str:
    """The headlines in Japanese."""
    return _speed(
        devices,
        ("何を", "何倍速いか", "ばらつき", "本ライブラリ", "相手", "相手の名", "測り方"),
        lambda headline: headline.japanese,
        "{} 倍",
        "相手と並べた棒グラフ",
        "機械: ",
    )


def _speed(
    devices: dict[str, list[Row]],
    titles: Sequence[str],
    name: Callable[[Headline], str],
    times: str,
    bars: str,
    measured_on: str,
) -> str:
    """The headlines in a language: titles of the columns, a headline's name, a ratio, the picture's description, the machine."""
    cells: tuple[Callable[[Any], str], ...] = (
        lambda pair: name(pair[0]),
        lambda pair: f"**{times.format(significant(pair[1].number('ratio'), 2))}**",
        lambda pair: f"{pair[1]['ratio_p20']}–{pair[1]['ratio_p80']}",
        lambda pair: duration(pair[1].number("median_ms")),
        lambda pair: duration(pair[1].number("peer_ms")),
        lambda pair: pair[1]["peer"],
        lambda pair: f"`python benchmarks/{pair[0].script}`",
    )
    text = ""
    for device, found in headlines(devices):
        columns = dict(zip(titles, cells, strict=True))
        text += f"{table(columns, found)}\n![{bars}](docs/images/speed-{device}.svg)\n\n"
        text += f"{measured_on}{machine(device, [row for _, row in found])}"
    return text


def rows(devices: dict[str, list[Row]]) -> str:
    """All rows, job by job."""
    columns: dict[str, Callable[[Any], str]] = {
        "configuration": lambda row: row["configuration"],
        "shape": lambda row: row["shape"],
        "dtype": lambda row: row["dtype"],
        "backend": lambda row: row["backend"],
        "threads": lambda row: row["threads"],
        "ms": lambda row: spread(row, "median_ms", "p20_ms", "p80_ms"),
        "peer": lambda row: row["peer"],
        "peer's ms": lambda row: significant(row.number("peer_ms")),
        "measure": lambda row: row["measure"],
        "value": lambda row: spread(row, "value", "low", "high") if row["low"] else significant(row.number("value")),
        "peer's value": lambda row: significant(row.number("peer_value")),
        "passed": lambda row: row["passed"],
        "ratio": ratio,
        "error": lambda row: row["error"],
        "peak MB": lambda row: significant(row.number("peak_bytes") / 1e6),
        "peer's peak MB": lambda row: significant(row.number("peer_peak_bytes") / 1e6),
        "GB/s": lambda row: significant(row.number("GB_per_s")),
        "copy's": lambda row: significant(row.number("copy_GB_per_s")),
        "GFLOP/s": lambda row: significant(row.number("GFLOP_per_s")),
        "sgemm's": lambda row: significant(row.number("sgemm_GFLOP_per_s")),
        "share": lambda row: row["share"],
        "note": lambda row: "" if row.absent else row["note"],
    }
    text = ""
    for device, all_rows in devices.items():
        text += f"## {device}\n\n{machine(device, all_rows)}\n"
        for job, group in itertools.groupby(sorted(all_rows, key=lambda row: row["job"]), lambda row: row["job"]):
            of_job = list(group)
            shared = {name: of_job[0][name] for name in KEY[1:] if len({row[name] for row in of_job}) == 1 and of_job[0][name]}
            shown = {name: column for name, column in columns.items() if name not in shared}
            facts = ", ".join(f"{name} {value}" for name, value in shared.items())
            text += f"### {job}\n\n{facts}\n\n{table(shown, of_job)}\n"
    return text


class Ceiling(NamedTuple):
    """The bounds of one row, in ms: of memory, of the plain definition's arithmetic, and of the algorithm's."""

    row: Row

    @property
    def memory(self) -> float:
        """To copy the bytes."""
        return self.row.number("bytes") / self.row.number("copy_GB_per_s") / 1e6

    @property
    def definition(self) -> float:
        """To multiply as the definition has it, in a matrix product."""
        return self.row.number("flop") / self.row.number("sgemm_GFLOP_per_s") / 1e6

    @property
    def algorithm(self) -> float:
        """To multiply as the algorithm does."""
        return self.row.number("least_flop") / self.row.number("sgemm_GFLOP_per_s") / 1e6

    @property
    def least(self) -> float:
        """What this algorithm can't beat."""
        arithmetic = self.definition if math.isnan(self.algorithm) else self.algorithm
        return float(np.fmax(self.memory, arithmetic))

    @property
    def bound(self) -> str:
        """What takes the most of the time, if it takes half; nothing that is known, if less was done than the definition has."""
        if self.least > self.row.number("median_ms"):
            return "less work than defined"
        nearer = "memory" if self.least == self.memory else "arithmetic"
        return nearer if self.least > self.row.number("median_ms") / 2 else f"neither ({nearer} nearer)"

    def share(self, least: float) -> str:
        """How much of a bound is reached."""
        value = least / self.row.number("median_ms")
        return f"{value:.2f}" if math.isfinite(value) else ""


CEILINGS: dict[str, Callable[[Ceiling], str]] = {
    "ms": lambda one: significant(one.row.number("median_ms")),
    "MB": lambda one: significant(one.row.number("bytes") / 1e6),
    "ms to copy them": lambda one: significant(one.memory),
    "GFLOP": lambda one: significant(one.row.number("flop") / 1e9),
    "ms in sgemm": lambda one: significant(one.definition),
    "algorithm's GFLOP": lambda one: significant(one.row.number("least_flop") / 1e9),
    "its ms in sgemm": lambda one: significant(one.algorithm),
    "share of the definition's bound": lambda one: one.share(float(np.fmax(one.memory, one.definition))),
    "share of the algorithm's": lambda one: "" if math.isnan(one.algorithm) else one.share(one.least),
    "bound by": lambda one: one.bound,
}


def bounded(all_rows: Iterable[Row]) -> list[Ceiling]:
    """One for each point that has bounds; of several rows, beside several peers, that of the median time."""
    points: dict[tuple[str, ...], list[Row]] = {}
    for row in measured(all_rows):
        if row["bytes"] or row["flop"]:
            points.setdefault(tuple(row[name] for name in KEY if name != "peer"), []).append(row)
    middle = [sorted(rows, key=lambda row: row.number("median_ms"))[len(rows) // 2] for rows in points.values()]
    return sorted(map(Ceiling, middle), key=lambda one: (one.row["job"], one.row["configuration"]))


def largest(group: list[Ceiling]) -> Ceiling:
    return max(group, key=lambda one: one.least)


def shares(group: list[Ceiling]) -> str:
    """The smallest and the largest share of what bounds the points of a group."""
    values = sorted(filter(math.isfinite, (one.least / one.row.number("median_ms") for one in group)))
    return f"{values[0]:.2f}–{values[-1]:.2f} of {len(values)}" if len(values) > 1 else ""


def ceilings(devices: dict[str, list[Row]]) -> str:
    """Of each job and configuration the largest point."""

    def kind(one: Ceiling) -> tuple[str, ...]:
        return tuple(one.row[name] for name in ("job", "configuration", "dtype", "backend", "threads"))

    text = ""
    for device, all_rows in devices.items():
        groups = [list(group) for _, group in itertools.groupby(sorted(bounded(all_rows), key=kind), kind)]
        columns: dict[str, Callable[[Any], str]] = {
            "job": lambda group: group[0].row["job"],
            "configuration": lambda group: group[0].row["configuration"],
            "backend": lambda group: group[0].row["backend"],
            "largest shape": lambda group: largest(group).row["shape"],
        }
        columns |= {name: lambda group, column=column: column(largest(group)) for name, column in CEILINGS.items()}
        columns["shares of all shapes"] = shares
        if groups:
            here = [one.row for group in groups for one in group]
            text += f"## {device}\n\n{machine(device, here)}{rates(here)}\n{table(columns, groups)}\n"
    return text


def layers(devices: dict[str, list[Row]]) -> str:
    """VGG16's convolutions, layer by layer."""
    columns: dict[str, Callable[[Any], str]] = {
        "layer": lambda one: one.row["configuration"],
        "shape": lambda one: one.row["shape"],
        "GFLOP/s": lambda one: significant(one.row.number("GFLOP_per_s")),
        "sgemm's": lambda one: significant(one.row.number("sgemm_GFLOP_per_s")),
    }
    columns |= {name: CEILINGS[name] for name in CEILINGS if name.startswith("share")} | CEILINGS
    text = ""
    for device, all_rows in devices.items():
        for job, title in LAYER_JOBS.items():
            found = [one for one in bounded(all_rows) if one.row["job"] == job and one.row["configuration"].startswith("conv")]
            if found:
                text += f"### {title} on {device}\n\n{table(columns, found)}\n"
        text += suite_layers(device, all_rows)
    return text


def suite_layers(device: str, all_rows: list[Row]) -> str:
    """What the GPU suite measured of VGG16's layers and of whole networks: the rate, what the device allows, and the peers."""
    text = ""
    for job, title in SUITE_LAYER_JOBS.items():
        points: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in all_rows:
            if row["job"] == job and row["value"]:
                points.setdefault(tuple(row[name] for name in ("configuration", "shape", "dtype")), {})[row["peer"]] = row
        columns: dict[str, Callable[[list[Row]], str]] = {
            "what": lambda rows: rows[0]["configuration"],
            "shape": lambda rows: rows[0]["shape"],
            "arithmetic": lambda rows: rows[0]["dtype"],
            "measure": lambda rows: rows[0]["measure"],
            "ours": lambda rows: spread(rows[0], "value", "low", "high"),
            "bound": lambda rows: significant(rows[0].number("bound")),
            "share of the bound": lambda rows: significant(rows[0].number("value") / rows[0].number("bound"), 2),
        }
        for peer in dict.fromkeys(peer for rows in points.values() for peer in rows if peer):
            columns[peer] = lambda rows, peer=peer: next(  # type: ignore[misc]
                (significant(row.number("peer_value")) for row in rows if row["peer"] == peer), ""
            )
        if points:
            text += f"### {title} on {device}\n\n{table(columns, [list(rows.values()) for rows in points.values()])}\n"
    return text


class Curve(NamedTuple):
    """The measured points of one curve of ``benchmarks/growth.py``."""

    growth: Growth
    sizes: list[float]
    ms: list[float]
    MB: list[float]

    @property
    def expected(self) -> tuple[float, float]:
        """The slopes."""
        return self.growth.time, self.growth.memory

    def slope(self, values: list[float]) -> float:
        """Least squares over the larger half of the sizes, where what doesn't grow weighs least; both axes logarithmic."""
        half = len(self.sizes) // 2
        x, y = np.log(self.sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
        return float(np.polyfit(x, y, 1)[0])


def curves(all_rows: list[Row]) -> list[Curve]:
    """Those that have three points or more."""
    found = []
    for growth in GROWTH:
        points = []
        for row in measured(all_rows):
            work, _, size = row["configuration"].rpartition("=")
            if row["job"] == growth.job and work == f"{growth.work} {growth.job.removeprefix('growth/')}":
                points.append((float(size), row.number("median_ms"), row.number("peak_bytes") / 1e6))
        if len(points) > 2:
            found.append(Curve(growth, *map(list, zip(*sorted(points), strict=True))))
    return found


def growth(devices: dict[str, list[Row]]) -> str:
    """The slopes of all curves."""
    columns: dict[str, Callable[[Any], str]] = {
        "what grows": lambda curve: curve.growth.job.removeprefix("growth/"),
        "work": lambda curve: curve.growth.work,
        "sizes": lambda curve: f"{curve.sizes[0]:g}–{curve.sizes[-1]:g}",
        "ms": lambda curve: f"{significant(curve.ms[0])}–{significant(curve.ms[-1])}",
        "slope": lambda curve: f"{curve.slope(curve.ms):.2f}",
        "expected": lambda curve: f"{curve.growth.time:g}",
        "peak MB": lambda curve: f"{significant(curve.MB[0])}–{significant(curve.MB[-1])}",
        "slope of memory": lambda curve: f"{curve.slope(curve.MB):.2f}",
        "expected of memory": lambda curve: f"{curve.growth.memory:g}",
    }
    text = ""
    for device, all_rows in devices.items():
        found = curves(all_rows)
        if found:
            text += f"On `{device}`:\n\n{table(columns, found)}\n"
            text += f"![Time and memory against size, both axes logarithmic](images/growth-{device}.svg)\n\n"
            text += "".join(
                f"- {one.growth.work}, {one.growth.job.removeprefix('growth/')}: {one.growth.reason}.\n" for one in found
            )
    return text


BLOCKS: dict[str, Callable[[dict[str, list[Row]]], str]] = {
    block.__name__: block for block in (speed, speed_ja, rows, growth, ceilings, layers)
}


# Plots


class Plot(NamedTuple):
    """A plot's file, the numbers that it shows, and what draws them on a figure."""

    path: str
    numbers: Any
    draw: Callable[[Any], None]

    @property
    def digest(self) -> str:
        """Tells one set of numbers from another."""
        return f"numbers {hashlib.sha256(json.dumps(self.numbers).encode()).hexdigest()[:16]}"


def plots(devices: dict[str, list[Row]]) -> list[Plot]:
    """All of them."""
    found = []
    for device, pairs in headlines(devices):
        bars = [
            [f"{headline.english}\nbeside {row['peer']}", *(row.number(f"ratio{end}") for end in ("_p20", "", "_p80"))]
            for headline, row in pairs
        ]
        found.append(Plot(f"docs/images/speed-{device}.svg", bars, lambda figure, bars=bars: draw_bars(figure, bars)))
    for device, all_rows in devices.items():
        drawn = curves(all_rows)
        numbers = [[one.growth.job, one.growth.work, *one.expected, one.sizes, one.ms, one.MB] for one in drawn]
        if drawn:
            path = f"docs/images/growth-{device}.svg"
            found.append(Plot(path, numbers, lambda figure, drawn=drawn: draw_curves(figure, drawn)))
    return found


def draw_bars(figure: Any, bars: Sequence[Sequence[Any]]) -> None:
    names, low, middle, high = zip(*reversed(bars), strict=True)
    figure.set_size_inches(8, 0.8 + 0.5 * len(bars))
    axes = figure.add_subplot()
    error = np.array([np.subtract(middle, low), np.subtract(high, middle)])
    colours = ["#2a78b5" if value >= 1 else "#b5652a" for value in middle]
    axes.barh(names, np.subtract(middle, 1), left=1, xerr=error, color=colours, ecolor="0.4")
    for number, (value, end) in enumerate(zip(middle, high, strict=True)):
        axes.annotate(f"{significant(value, 2)}×", (max(end, 1), number), (4, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(min(0.7, *low) / 1.2, max(high) * 1.5)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("the peer's time over ours")
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(figure: Any, drawn: Sequence[Curve]) -> None:
    figure.set_size_inches(11, 2.6 * math.ceil(len(drawn) / 2))
    for number, curve in enumerate(drawn):
        for column, (label, values, expected) in enumerate(
            (("ms", curve.ms, curve.growth.time), ("peak MB", curve.MB, curve.growth.memory))
        ):
            axes = figure.add_subplot(math.ceil(len(drawn) / 2), 4, 2 * number + column + 1)
            guide = values[-1] * (np.array(curve.sizes) / curve.sizes[-1]) ** expected
            axes.loglog(curve.sizes, guide, "--", color="0.6", label=f"expected {expected:g}")
            axes.loglog(curve.sizes, values, "o-", color="#2a78b5", markersize=4, label=f"measured {curve.slope(values):.2f}")
            axes.set_ylim(min(values) / 2, max(max(values), 10 * min(values)) * 2)
            decades = 10.0 ** np.arange(np.ceil(np.log10(min(values) / 2)), np.log10(max(max(values), 10 * min(values)) * 2))
            axes.set_yticks(decades, [f"{decade:g}" for decade in decades])
            axes.set_xticks(curve.sizes, [f"{size:g}" if n % 2 == 0 else "" for n, size in enumerate(curve.sizes)])
            axes.tick_params(labelsize=7)
            axes.minorticks_off()
            axes.set_xlabel(curve.growth.job.removeprefix("growth/"), fontsize=8)
            axes.set_title(f"{curve.growth.work}, {label}", fontsize=10)
            axes.legend(fontsize=7)


def draw(plot: Plot, path: Path) -> None:
    """Writes an SVG, the same bytes for the same numbers and the same matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure = Figure(layout="constrained")
        plot.draw(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Description": plot.digest})


# Files


def filled(text: str, devices: dict[str, list[Row]], name: str) -> str:
    """A document with its blocks as they should be.

    Raises:
        ValueError: A block of a name that is unknown.
    """

    def fill(block: re.Match[str]) -> str:
        if block[1] not in BLOCKS:
            raise ValueError(f"{name}: there is no block {block[1]!r}, but {', '.join(BLOCKS)}")
        content = BLOCKS[block[1]](devices).rstrip("\n") or "Nothing has been recorded yet."
        return f"{block[1]}{block[2]}\n{content}\n\n"

    return BLOCK.sub(fill, text)


def report(root: Path, check: bool) -> list[str]:
    """Writes what is stale, or only looks for it. Returns the names of stale files."""
    devices, stale = read(root / "benchmarks" / "results"), []
    before = {name: (root / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    with np.errstate(divide="ignore", invalid="ignore"):
        after = {name: filled(text, devices, name) for name, text in before.items()}
    for name in DOCUMENTS:
        if after[name] != before[name]:
            stale.append(name)
            if not check:
                (root / name).write_text(after[name], encoding="utf-8")
    for plot in plots(devices):
        path = root / plot.path
        if not path.exists() or plot.digest not in path.read_text(encoding="utf-8"):
            stale.append(plot.path)
            if not check:
                draw(plot, path)
    return stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if anything is stale")
    options = parser.parse_args()
    try:
        stale = report(ROOT, options.check)
    except ValueError as error:
        sys.exit(str(error))
    for name in stale:
        print(f"{name} is stale; make report writes it anew" if options.check else f"{name}: written")
    sys.exit(bool(stale and options.check))


if __name__ == "__main__":
    main()

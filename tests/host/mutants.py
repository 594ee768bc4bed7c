"""Plants one error after the other in the convolution, kernels and launch code, and tells which run of its tests sees it.

    python -m tests.host.mutants                 all of them; ten minutes on two cores
    python -m tests.host.mutants barrier         those whose name has "barrier" in it

Each error is planted in a copy of the repository, and its tests are run as CI does, until one fails: under AddressSanitizer with
threads in order, then under ThreadSanitizer with threads in random order. Status 1 if no run sees an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from tests.host import run
from tests.host.test_kernels import RUNS

COPY = run.ROOT / ".cache" / "mutants"
TESTS = "tests/kernels/test_convolution.py"
SOURCE = "kernels/dcnn_kernels/cuda/src"
LAUNCH = "kernels/dcnn_kernels/cuda/convolution.py"


class Mutant(NamedTuple):
    """What is written instead of what, wherever it stands in a file."""

    name: str
    file: str
    right: str
    wrong: str


KERNEL, SIGNAL, LAYOUT = f"{SOURCE}/convolution.cu", f"{SOURCE}/signal.cuh", f"{SOURCE}/layout.cuh"
RECTIFIER = f"{SOURCE}/rectifier.cuh"
MUTANTS = (
    # Barriers.
    Mutant("barrier before the first tile", KERNEL, "store(0);\n        __syncthreads();", "store(0);"),
    Mutant("barrier after a tile", KERNEL, "store(1 - buffer);\n            __syncthreads();", "store(1 - buffer);"),
    Mutant("barrier after filters of few terms", KERNEL, "__syncthreads();\n    if (first >= pixels)", "if (first >= pixels)"),
    Mutant("one buffer for two tiles", KERNEL, "store(1 - buffer);", "store(buffer);"),
    # Bounds.
    Mutant("bound of few outputs", KERNEL, "if (thread_index<Index>() >= count) return;", ""),
    Mutant("bound of a strip's rows", KERNEL, "if (u + p < layout.rows.outputs)", "if (u + p <= layout.rows.outputs)"),
    Mutant("bound of the product's rows", KERNEL, "if (output >= layout.outputs) continue;", ""),
    Mutant("bound of the product's pixels", KERNEL, "if (left <= 0) return;", ""),
    Mutant("bound of a pack's pixels", KERNEL, "if (j * STEP < left)", ""),
    Mutant("pixels of a lane", KERNEL, "first + j * STEP", "first + j"),
    Mutant("window of another pixel", KERNEL, "column % 4 * 4 + column / 4 % 4", "column % 16"),
    Mutant("pixels read beyond the last", KERNEL, "layout, min(first + p, pixels - 1));", "layout, first + p);"),
    Mutant(
        "filters packed before they are there",
        KERNEL,
        "            __syncthreads();\n            for (int e = threadIdx.x; e",
        "            for (int e = threadIdx.x; e",
    ),
    Mutant(
        "filters overwritten before they are packed",
        KERNEL,
        "= Math::word(values);\n            }\n            __syncthreads();",
        "= Math::word(values);\n            }",
    ),
    Mutant("bound of channels", SIGNAL, "place.inside && channel < channels ?", "place.inside ?"),
    Mutant("bound of a picture's rows", SIGNAL, "(row) < static_cast<unsigned>(rows)", "(row) <= static_cast<unsigned>(rows)"),
    Mutant("shared memory for one buffer", KERNEL, "__shared__ Word left[2]", "__shared__ Word left[1]"),
    # Indices.
    Mutant("filters of the next tile", KERNEL, "filters += Tile::K * width;", "filters += (Tile::K + 1) * width;"),
    Mutant("zeros after the last tap", KERNEL, "block == blocks - 1 ? units - first_unit : taps", "taps"),
    Mutant("part of a split sum", KERNEL, "parts[split * size + n]", "parts[(split - 1) * size + n]"),
    Mutant("place of a split sum", KERNEL, "y += split * (pixels", "y += 0 * (pixels"),
    Mutant("place in a line of filters", KERNEL, "return place / 4 * 2 + place % 2;", "return place / 2;"),
    Mutant("row of a tensor core's tile", KERNEL, "i / 2 * 16 + lane / 4 * 2 + i % 2", "i / 2 * 16 + lane / 4 * 2 + 1 - i % 2"),
    Mutant("tap of a depthwise row", KERNEL, "const int i = row - p * STRIDE;", "const int i = row - p;"),
    Mutant("bit of a mask", SIGNAL, "(channel * pixels + place.bit) & 7) & 1", "(channel * pixels + place.bit) & 3) & 1"),
    Mutant("first window over a pixel", SIGNAL, "start = pixel < ksize ? 0 :", "start = pixel <= ksize ? 0 :"),
    Mutant("sign before rectifying", SIGNAL, "passes &= !((pooling.rectify != 0) &", "passes &= !((pooling.rectify == 0) &"),
    Mutant("column of a pixel", LAYOUT, "number - line * layout.columns.outputs", "number - line * layout.rows.outputs"),
    # Rectifiers of what is written.
    Mutant("bits of a picture's row", RECTIFIER, "static_cast<int>(-elements & 7)", "0"),
    Mutant("bits of the next picture", RECTIFIER, "place + picture * unused", "place + (picture + 1) * unused"),
    Mutant("bits of a pack", RECTIFIER, "if (whole) return load(above + numbers[0]);", "if (whole) return load(above);"),
    Mutant("bit of the next pixel", RECTIFIER, "(load(above + numbers[j]) & 1) << j", "(load(above + numbers[0]) & 1) << j"),
    Mutant("bits without a mask", RECTIFIER, "if (!mask) return ~0u;", "if (!mask) return 1;"),
    Mutant("infinite results that don't pass", RECTIFIER, "bits & 1 ? result : Sum(0)", "result * Sum(bits & 1)"),
    Mutant("NaN clipped", RECTIFIER, "passed < low ? low :", "!(passed >= low) ? low :"),
    Mutant("bias left out", RECTIFIER, "bias ? Sum(bias[channel]) : Sum(0)", "Sum(0)"),
    Mutant("bias not scaled", RECTIFIER, "offset * slope + Sum(shift[channel])", "offset + Sum(shift[channel])"),
    Mutant("scale of another channel", RECTIFIER, "Sum(scale[channel])", "Sum(scale[0])"),
    Mutant("scale of a line", RECTIFIER, "sum * slope + offset", "sum + offset"),
    Mutant("offset of few terms", KERNEL, "sums[p] += offsets[m];", "sums[p] += offsets[0];"),
    Mutant("filters of few terms not scaled", KERNEL, "exists ? line.slope * Sum(W", "exists ? Sum(W"),
    Mutant(
        "line of the last output",
        KERNEL,
        "rectifier.line(group * layout.outputs + output)",
        "rectifier.line(group * layout.outputs)",
    ),
    Mutant("channel of a split sum", KERNEL, "(n - picture * elements) / plane", "n / plane"),
    Mutant("bits of a strip's first pixel", KERNEL, "rectifier.bit(place, picture)", "rectifier.bit(first, picture)"),
    # Launch code.
    Mutant("splits shifted and rectified one by one", LAUNCH, "(rectifier if splits == 1 else _Rectifier())", "rectifier"),
    Mutant("scale and shift swapped", LAUNCH, "_Rectifier(b, scale, shift)", "_Rectifier(b, shift, scale)"),
    Mutant(
        "limits swapped",
        LAUNCH,
        "scalar(self.low, dtype), scalar(self.high, dtype)",
        "scalar(self.high, dtype), scalar(self.low, dtype)",
    ),
    Mutant(
        "tiles and splits swapped",
        LAUNCH,
        "np.int32(depth_tiles),\n                np.int32(splits),",
        "np.int32(splits),\n                np.int32(depth_tiles),",
    ),
    Mutant(
        "switches and mask swapped",
        LAUNCH,
        "return self.values, self.switches, self.mask",
        "return self.values, self.mask, self.switches",
    ),
    Mutant("width of a number", LAUNCH, "Index(math.prod(y.shape[2:])),", "np.int16(y.shape[2]),"),
    Mutant("alignment of pictures", LAUNCH, "and source.values.data.ptr % (4 * source.values.itemsize) == 0", ""),
    Mutant("alignment of results", LAUNCH, 'math.prod(int(axis["size"]) for axis in axes) % pixels == 0', "True"),
    Mutant("fields of a struct swapped", LAUNCH, '"stride", "dilate", "offset"', '"dilate", "stride", "offset"'),
    Mutant("blocks too few", LAUNCH, "(-(count // -256),), (256,)", "(max(1, count // 256),), (256,)"),
    Mutant("division by a stride", LAUNCH, "(1 << shift) // number + 1, shift", "(1 << shift) // number, shift"),
    Mutant("taps of a phase", LAUNCH, "tap_step=-stride // common", "tap_step=-1"),
)


def seen_by(mutant: Mutant) -> str:
    """The run that sees it, with the line that says what is wrong, or an empty string."""
    path = COPY / mutant.file
    text = path.read_text(encoding="utf-8")
    if mutant.right not in text:
        raise ValueError(f"{mutant.name}: {mutant.right!r} stands nowhere in {mutant.file}")
    path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
    try:
        for sanitizer, settings in RUNS.items():
            variables = run.environment(sanitizer, DCNN_TEST_BACKEND="cuda", **settings)
            variables["PYTHONPATH"] = os.pathsep.join(map(str, (COPY / "tests" / "host", COPY, COPY / "kernels")))
            result = subprocess.run(run.command(TESTS, "-x", "-q"), env=variables, cwd=COPY, capture_output=True, text=True)
            if result.returncode:
                reports = r"ERROR: AddressSanitizer: \S+|runtime error: .*|WARNING: ThreadSanitizer: .*|^E  +\w.*"
                said = re.search(reports, result.stdout + result.stderr, re.MULTILINE)
                return f"{sanitizer}: {said[0] if said else result.stdout[-300:]}"
        return ""
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    wanted = " ".join(sys.argv[1:])
    for folder in ("kernels", "tests", "dcnn_visualizer"):
        shutil.copytree(run.ROOT / folder, COPY / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(run.ROOT / name, COPY / name)
    unseen = 0
    for mutant in MUTANTS:
        if wanted in mutant.name:
            start = time.perf_counter()
            seen = seen_by(mutant)
            unseen += not seen
            print(f"{mutant.name}: {seen or 'NOT SEEN'} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{unseen} not seen")
    return bool(unseen)


if __name__ == "__main__":
    sys.exit(main())

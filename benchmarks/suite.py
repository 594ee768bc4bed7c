"""The whole suite, or a short one: ``make bench-full`` and ``make bench``.

    python benchmarks/suite.py --short
    python benchmarks/suite.py --only "max_pooling_2d ksize=2" --replace

Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks import (  # noqa: E402
    convolution,
    dropin,
    elementwise,
    folder,
    forward,
    growth,
    keras_peers,
    latency,
    occlusion,
    projection,
)
from benchmarks.runner import Point, arguments, cores, run  # noqa: E402

JOBS = (latency, forward, elementwise, convolution, projection, keras_peers, folder, occlusion, dropin, growth)
#: What the names of the points of the short suite have in them.
SHORT = (
    "import ",
    "first call ",
    "forward ",
    "max_pooling_2d ksize=2 4x256x56x56",
    "unpooling_2d switch ksize=2 4x256x56x56",
    "relu 4x256x56x56",
    "relu_reverse SaliNet 4x256x56x56",
    "convolution_2d conv3_2 ",
    "convolution_2d conv5_1 ",
    "conv5_3, 1 channel ",
    "occlusion efficientnet_lite0 ",
    "dropin.Saliency resnet-like one picture",
    "dropin.NeuronGuidedBackprop resnet-like one picture",
    "functions.max_pooling_2d ",
)


def points(short: bool = False) -> Iterator[Point]:
    """Of all jobs."""
    for point in itertools.chain.from_iterable(job.points() for job in JOBS):
        name = " ".join(filter(None, point.key(cores())))
        if not short or any(part in name for part in SHORT):
            yield point


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--short", action="store_true", help="a few points of each job, some minutes")
    options = parser.parse_args()
    run(points(options.short), options)


if __name__ == "__main__":
    main()

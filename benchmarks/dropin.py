"""The classes of ``dcnn_visualizer.dropin.captum`` beside Captum's own, and ``dcnn_visualizer.functions`` beside Chainer's.

    python benchmarks/dropin.py --output benchmarks/results/dropin.csv
    python benchmarks/dropin.py --only Chainer
    python benchmarks/dropin.py --only vgg16 --rounds 3

Needs torch and Captum; the extra ``cpu`` makes ours faster. Networks are small, of the shapes of VGG and ResNet, with random
weights, at 96×96 pixels, and if asked for VGG16 at 224×224. Both libraries ask the very same module, in turn, and each round
brings a new picture. ``one picture`` asks once; ``8 questions`` asks the same picture for eight targets or neurons, of which
our forward pass serves all. Conversion comes before, once a module. Captum's ``Occlusion`` gets the
``perturbations_per_eval`` at which the network is fastest. ``ratio`` is the median over rounds of the peer's time over ours.
``error`` is the largest difference as a share of the largest value; in VGG16 some maxima and signs are so close that float32
decides them either way, for Captum as for us.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.chainer_compat  # noqa: F401, E402  isort: skip
import captum.attr as captums  # noqa: E402
import chainer  # noqa: E402
import chainer.functions as F  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.networks import NETWORKS  # noqa: E402
from dcnn_visualizer import accelerate  # noqa: E402
from dcnn_visualizer.dropin import captum  # noqa: E402

FIELDS = (
    "peer", "name", "network", "job", "ours_ms", "peer_ms", "ratio", "ratio_p20", "ratio_p80",
    "error", "rounds", "device", "threads", "python", "numpy", "torch",
)  # fmt: skip
QUESTIONS = 8
WINDOW, STRIDE = (3, 24, 24), (3, 12, 12)

Call = Callable[[Any], Any]


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their sum, rectified."""
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


def vgg() -> tuple[nn.Module, nn.Module]:
    """A network like VGG, and the layer asked about."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 32, 0, 64, 64, 0, 128, 128, 0):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU(), nn.Linear(256, 100)
    )
    return network, network[12]


def resnet() -> tuple[nn.Module, nn.Module]:
    """A network like ResNet, and the layer asked about."""
    stages = [Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1), Residual(64, 128, 2), Residual(128, 128, 1)]
    stem = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    network = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 100))
    return network, stages[3].conv2


def ready(build: Callable[[], tuple[nn.Module, nn.Module]]) -> tuple[nn.Module, nn.Module]:
    """A network for inference, its weights such that signals keep their size."""
    torch.manual_seed(0)
    network, layer = build()
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    return network.eval(), layer


def captum_jobs(network: nn.Module, layer: nn.Module, size: int) -> Iterator[tuple[str, str, Call, Call]]:
    """Name, job, ours and Captum's, each a function of a picture."""

    def both(ask: Callable[[Any, torch.Tensor], Any]) -> tuple[Call, Call]:
        return (lambda x: ask(captum, x)), (lambda x: ask(captums, x))

    for kind in ("Saliency", "GuidedBackprop", "Deconvolution"):
        for job, targets in (("one picture", [7]), (f"{QUESTIONS} questions", range(QUESTIONS))):

            def ask(library: Any, x: torch.Tensor, kind: str = kind, targets: Any = targets) -> Any:
                attribution = getattr(library, kind)(network)
                return [attribution.attribute(x, target) for target in targets][-1]

            yield kind, job, *both(ask)
    for kind in ("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution"):
        for job, channels in (("one picture", [3]), (f"{QUESTIONS} questions", range(QUESTIONS))):

            def ask(library: Any, x: torch.Tensor, kind: str = kind, channels: Any = channels) -> Any:
                attribution = getattr(library, kind)(network, layer)
                return [attribution.attribute(x, (channel, 5, 5)) for channel in channels][-1]

            yield kind, job, *both(ask)
    yield "LayerActivation", "one picture", *both(lambda library, x: library.LayerActivation(network, layer).attribute(x))
    batches = (1, 4, 8, 16, 32)
    x = picture(0, size)
    times = [timed(lambda x, batch=batch: network(x.repeat(batch, 1, 1, 1)), x)[0] / batch for batch in batches for _ in range(2)]
    best = batches[int(np.argmin(times)) // 2]
    places = len(range(0, size - WINDOW[1] + 1, STRIDE[1])) ** 2
    yield "Occlusion", f"{places} windows", *both(lambda library, x: occlude(library, network, x, best))


def occlude(library: Any, network: nn.Module, x: torch.Tensor, per_eval: int) -> Any:
    return library.Occlusion(network).attribute(x, WINDOW, STRIDE, target=7, perturbations_per_eval=per_eval)


def picture(number: int, size: int) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(number))


def chainer_jobs() -> Iterator[tuple[str, str, Call, Call]]:
    """Name, job, ours and Chainer's, each a function of a number that seeds the input."""
    W = np.random.default_rng(0).standard_normal((64, 64, 3, 3), np.float32)
    for name, function, shape in (
        ("convolution_2d", lambda x: F.convolution_2d(x, W, pad=1), (4, 64, 56, 56)),
        ("deconvolution_2d", lambda x: F.deconvolution_2d(x, W, pad=1), (4, 64, 56, 56)),
        ("max_pooling_2d", lambda x: F.max_pooling_2d(x, 3, 2), (4, 64, 112, 112)),
        ("unpooling_2d", lambda x: F.unpooling_2d(x, 3, 2), (4, 64, 56, 56)),
        ("relu", F.relu, (4, 64, 112, 112)),
        ("local_response_normalization", F.local_response_normalization, (8, 96, 55, 55)),
    ):
        inputs = np.random.default_rng(1).standard_normal(shape, np.float32)

        def run(context: Any, inputs: np.ndarray = inputs, function: Callable[[Any], Any] = function) -> Any:
            x = chainer.Variable(inputs)
            with context:
                y = function(x)
                y.grad = y.array
                y.backward()
            return torch.from_numpy(x.grad)

        yield name, "x".join(map(str, shape)), lambda _, run=run: run(accelerate()), lambda _, run=run: run(nullcontext())


def timed(function: Call, argument: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def measure(ours: Call, theirs: Call, size: int, rounds: int) -> dict[str, Any]:
    """Both in turn; the first round, in which ours may convert and compile, is thrown away."""
    times, errors = [], []
    for number in range(rounds + 1):
        x = picture(number, size)
        mine, result = timed(ours, x)
        peers, expected = timed(theirs, x)
        times.append((mine * 1e3, peers * 1e3))
        errors.append(float((result - expected).abs().max() / expected.abs().max()))
    milliseconds = np.array(times[1:])
    low, middle, high = np.percentile(milliseconds[:, 1] / milliseconds[:, 0], (20, 50, 80))
    return {
        "ours_ms": f"{np.median(milliseconds[:, 0]):.2f}",
        "peer_ms": f"{np.median(milliseconds[:, 1]):.2f}",
        "ratio": f"{middle:.2f}",
        "ratio_p20": f"{low:.2f}",
        "ratio_p80": f"{high:.2f}",
        "error": f"{max(errors):.1e}",
        "rounds": rounds,
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def vgg16() -> tuple[nn.Module, nn.Module]:
    """VGG16, and its conv5_3."""
    network = NETWORKS["vgg16"]()
    return network, [part for part in network.modules() if isinstance(part, nn.Conv2d)][-1]


def jobs(only: str) -> Iterator[tuple[str, str, str, str, int, Call, Call]]:
    """Peer, name, network, job, size of the picture, ours and the peer's."""
    for network, build, size in (("vgg-like", vgg, 96), ("resnet-like", resnet, 96), ("vgg16", vgg16, 224)):
        if only == network or (network != "vgg16" and only != "Chainer"):
            for name, job, ours, theirs in captum_jobs(*ready(build), size):
                yield "Captum", name, network, job, size, ours, theirs
    for name, job, ours, theirs in chainer_jobs():
        yield "Chainer", name, "", job, 1, ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose peer, name or network is this")
    parser.add_argument("--output", type=Path, help="a CSV file; standard output by default")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", category=captum.NotAccelerated)
    with open(options.output, "w", newline="", encoding="utf-8") if options.output else sys.stdout as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for peer, name, network, job, size, ours, theirs in jobs(options.only):
            if options.only in ("", peer, name, network):
                row = {"peer": peer, "name": name, "network": network, "job": job}
                writer.writerow(row | measure(ours, theirs, size, options.rounds))
                file.flush()


if __name__ == "__main__":
    main()

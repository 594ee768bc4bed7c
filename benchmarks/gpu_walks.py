"""The GPU suite's walks: networks there and back, picture after picture, as CUDA graphs beside kernels launched one by one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np

from benchmarks.gpu_bounds import least_seconds
from benchmarks.gpu_rates import add_rate, in_turn
from benchmarks.gpu_results import Results, optional, seconds_left
from dcnn_kernels.cuda.settings import graphs, precision

BATCHES = (1, 32)
#: Rows and columns of a picture.
SIDE = 224
#: VGG16's layers up to conv5_3: channels out of each convolution; 0 is a pooling.
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


class Walk(NamedTuple):
    """A network, the layer that one channel goes back from, and the operations of both ways for a picture, where counted."""

    model: Any
    layer: str
    operations: int = 0


def vgg16() -> Walk:
    """VGG16's convolutions, with random weights."""
    import dcnn_visualizer.traceable_nodes as tn
    from dcnn_visualizer.traceable_chain import TraceableChain

    layers: dict[str, Any] = {}
    counts = []
    stage, number, incoming, side = 1, 1, 3, SIDE
    for channels in VGG16:
        if channels:
            last = f"conv{stage}_{number}"
            layers |= {last: tn.TraceableConvolution2D(incoming, channels, 3, pad=1), f"relu{stage}_{number}": tn.TraceableReLU()}
            counts.append(2 * 9 * incoming * channels * side**2)
            number, incoming = number + 1, channels
        else:
            layers[f"pool{stage}"] = tn.TraceableMaxPooling2D(2)
            stage, number, side = stage + 1, 1, side // 2
    # Back from one channel, the last convolution has next to nothing to do.
    return Walk(TraceableChain(**layers), last, sum(counts) + sum(counts[:-1]))


def resnet50() -> Walk:
    """Chainer's ResNet50, with random weights."""
    import chainer.links as L

    from dcnn_visualizer.importers import from_chainer

    return Walk(from_chainer(L.ResNet50Layers(pretrained_model=None)), "res5")


WALKS: dict[str, Callable[[], Walk]] = {"VGG16": vgg16, "ResNet50": resnet50}


def measure_walks(results: Results) -> None:
    """Pictures a second in TF32, from the host's first call to the end of the device's work, launches and all."""
    if optional("dcnn_visualizer.chainer_compat") is None:
        results.add("walk", configuration="Chainer is not installed: left out")
        return
    for name, make in WALKS.items():
        with results.going_on("walk", name):
            walk = make()
            walk.model.to_device("@cupy:0")
            for batch in BATCHES:
                if seconds_left() < 45:
                    results.add("walk", configuration=f"no time for {name} with {batch} pictures")
                    continue
                with precision("tf32"):
                    measure_walk(results, name, walk, batch)


def measure_walk(results: Results, name: str, walk: Walk, batch: int) -> None:
    """One network: a picture, or a batch, is recorded, and one channel of it goes back; then the next one."""
    from dcnn_visualizer.desalinet import DeSaliNet

    method = DeSaliNet(walk.model)
    shape = (batch, 3, SIDE, SIDE)
    random = np.random.default_rng(0)
    pictures = itertools.cycle([cupy.asarray(random.standard_normal(shape).astype(np.float32)) for _ in range(2)])

    def seconds(enabled: bool) -> float:
        picture = next(pictures)
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        with graphs(enabled):
            method.analyze(picture, walk.layer, 5)
        cupy.cuda.Device().synchronize()
        return time.perf_counter() - start

    for _ in range(3):  # what is new runs as it is, then it is captured
        seconds(True), seconds(False)
    ours, apart = in_turn(lambda number: seconds(number == 0), 2, 0.4)
    least = least_seconds(batch * walk.operations, "tf32") if walk.operations else None
    row = (f"{name} {walk.layer}, there and back", shape, "tf32", "pictures/s", batch)
    add_rate(results, "walk", *row, ours, "kernels one by one", apart, least)

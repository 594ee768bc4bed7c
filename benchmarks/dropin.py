"""The drop-in classes beside Captum's, and our functions beside Chainer's, forward and backward.

    python benchmarks/dropin.py --only Chainer
    python benchmarks/dropin.py --only vgg16 --rounds 3

The classes need torch, and Captum for the peer; the extra ``cpu`` makes ours faster. Networks are small, of the shapes of VGG and
ResNet, with random weights, at 96x96 pixels, and VGG16 at 224x224. Both libraries ask the very same module, and each call
brings a new picture. ``one picture`` asks once; ``8 questions`` asks the same picture for eight targets or neurons, of which our
forward pass serves all. Both tell of the settled state: conversion comes before, once a module, and so do the turns that our
engines have before the fastest is taken. ``first 10 pictures`` asks a module that was never seen about one after the other, and
``first picture`` about a single one: conversion and turns are part of it, and so is a copy of the module for each of the two, but
what Numba compiles, once an installation, and loads, once a process, isn't. Captum's
``Occlusion`` gets the ``perturbations_per_eval`` at which the network is fastest. In VGG16 some maxima and signs are so close
that float32 decides them either way, for Captum as for us, so results are compared by the norm of their difference.
Writes CSV as ``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from benchmarks.runner import Point, Work, arguments, backend, norm_of_difference, run, timed  # noqa: E402

QUESTIONS = 8
#: Questions after which our engines have had their turns: three of them, up to three each; and more, until times are steady.
TURNS = 30
#: Pictures that a new module is asked about.
FIRST = 10
WINDOW, STRIDE = (3, 24, 24), (3, 12, 12)
#: Network and side of its pictures.
NETWORKS = {"vgg-like": 96, "resnet-like": 96, "vgg16": 224, "resnet50": 224}
OUTPUTS = ("Saliency", "GuidedBackprop", "Deconvolution")
NEURONS = ("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution")
#: Each of Chainer's functions and the shape of its input.
FUNCTIONS = {
    "convolution_2d": (4, 64, 56, 56),
    "deconvolution_2d": (4, 64, 56, 56),
    "max_pooling_2d": (4, 64, 112, 112),
    "unpooling_2d": (4, 64, 56, 56),
    "relu": (4, 64, 112, 112),
    "local_response_normalization": (8, 96, 55, 55),
}


def pictures(side: int) -> Callable[[int], Any]:
    def picture(number: int) -> Any:
        import torch

        return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(number))

    return picture


def class_work(kind: str, questions: int, name: str, first_pictures: int = 0) -> Work:
    """One of the classes on one of the networks, ours and Captum's alike.

    Where it's the first pictures that are asked about, each call has a new copy of the network.
    """
    import torch

    from benchmarks.small_networks import SMALL_NETWORKS, prepared
    from dcnn_visualizer.dropin import captum

    warnings.filterwarnings("ignore", message="Setting|Input Tensor")  # hooks; gradients of inputs
    warnings.filterwarnings("error", category=captum.NotAccelerated)
    network, layer = prepared(SMALL_NETWORKS[name][0])
    side = NETWORKS[name]
    per_eval = fastest_batch(network, side) if kind == "Occlusion" else 1

    def ask(library: Any, questions: int = questions, network: Any = network, layer: Any = layer) -> Callable[[Any], Any]:
        def run(x: torch.Tensor) -> torch.Tensor:
            if kind == "LayerActivation":
                return library.LayerActivation(network, layer).attribute(x).detach()
            if kind == "Occlusion":
                return library.Occlusion(network).attribute(x, WINDOW, STRIDE, target=7, perturbations_per_eval=per_eval)
            if kind in OUTPUTS:
                attribution = getattr(library, kind)(network)
                return [attribution.attribute(x, 7 + number).detach() for number in range(questions)][-1]
            attribution = getattr(library, kind)(network, layer)
            return [attribution.attribute(x, (3 + number, 5, 5)).detach() for number in range(questions)][-1]

        return run

    def first(library: Any) -> Callable[[Any], Any]:
        def run(x: torch.Tensor) -> torch.Tensor:
            one, its_layer = copy.deepcopy((network, layer))
            return [ask(library, network=one, layer=its_layer)(x + number) for number in range(first_pictures)][-1]

        return run

    def theirs() -> Callable[[Any], Any]:
        import captum.attr

        return first(captum.attr) if first_pictures else ask(captum.attr)

    for number in range(TURNS if kind != "Occlusion" else FIRST):
        ask(captum, 1)(pictures(side)(-1 - number))
    return Work(
        first(captum) if first_pictures else ask(captum), theirs, pictures(side), difference=norm_of_difference, tolerance=1e-2
    )


def fastest_batch(network: Any, side: int) -> int:
    x = pictures(side)(0)
    batches = (1, 4, 8, 16, 32)
    times = [min(timed(network, x.repeat(batch, 1, 1, 1))[0] for _ in range(2)) / batch for batch in batches]
    return batches[int(np.argmin(times))]


def function_work(name: str) -> Work:
    """One of Chainer's functions forward and backward, by our kernels and by its own."""
    import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
    import chainer
    import chainer.functions as F

    from dcnn_visualizer import accelerate

    W = np.random.default_rng(0).standard_normal((64, 64, 3, 3), np.float32)
    inputs = np.random.default_rng(1).standard_normal(FUNCTIONS[name], np.float32)
    arguments = {
        "convolution_2d": (W, None, 1, 1),
        "deconvolution_2d": (W, None, 1, 1),
        "max_pooling_2d": (3, 2),
        "unpooling_2d": (3, 2),
    }.get(name, ())

    def run(context: Any) -> np.ndarray:
        x = chainer.Variable(inputs)
        with context:
            y = getattr(F, name)(x, *arguments)
            y.grad = y.array
            y.backward()
        return x.grad

    return Work(lambda: run(accelerate()), lambda: lambda: run(nullcontext()))


def points() -> Iterator[Point]:
    """Each class on each network, then each function."""
    for name, side in NETWORKS.items():
        several = [(kind, questions, 0) for kind in OUTPUTS + NEURONS for questions in (1, QUESTIONS)]
        new = [(kind, 1, FIRST) for kind in ("Saliency", "NeuronGuidedBackprop", "Occlusion")]
        chosen = [*several, ("LayerActivation", 1, 0), ("Occlusion", 1, 0), *new]
        if name == "resnet50":
            chosen = [("Saliency", 1, 1), ("NeuronGuidedBackprop", 1, 1)]
        for kind, questions, first in chosen:
            if (kind, name) == ("Occlusion", "vgg16"):
                continue  # see benchmarks/occlusion.py
            what = "one picture" if questions == 1 else f"{questions} questions"
            if first:
                what = "first picture" if first == 1 else f"first {first} pictures"
            yield Point(
                f"dropin.{kind}",
                lambda given=(kind, questions, name, first): class_work(*given),
                f"{name} {what}",
                f"1x3x{side}x{side}",
                backend=backend(),
                peer="captum",
                needs=("captum",),
                requires=("torch",),
            )
    for name, shape in FUNCTIONS.items():
        text = "x".join(map(str, shape))
        yield Point(f"functions.{name}", lambda name=name: function_work(name), "", text, backend=backend(), peer="chainer")


def main() -> None:
    run(points(), arguments(__doc__).parse_args())


if __name__ == "__main__":
    main()

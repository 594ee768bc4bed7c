"""Projections beside Keras' explainers, Xplique and tf-keras-vis: same weights, same pictures, one process.

    python benchmarks/keras_peers.py

One channel of VGG16's conv5_3, random weights (He et al., 2015). The peers need TensorFlow, so this is best run in an environment
of its own, with our packages and ``pip install tensorflow xplique tf-keras-vis``; elsewhere its rows say that they are absent,
and it fills them in later. Xplique's guided backpropagation and DeconvNet replace the gradients of rectifiers; tf-keras-vis'
Saliency is asked for the plain gradient. Writes CSV as ``benchmarks/runner.py`` says, by default to
``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from benchmarks.projection import TOLERANCE, noise, vgg16, vgg16_flop  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, cores, norm_of_difference, run  # noqa: E402
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

LAYER, CHANNEL = "conv5_3", 100

Call = Callable[[np.ndarray], np.ndarray]


def as_keras(chain: TraceableChain) -> Any:
    """The chain up to the layer, pictures with their channels last, on as many threads as there are cores."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cores())
    graph = chain.graph()
    x = picture = tf.keras.Input((224, 224, 3))
    for step in graph.steps[: graph.index(LAYER) + 1]:
        node = step.node
        if isinstance(node, tn.TraceableConvolution2D):
            layer = tf.keras.layers.Conv2D(node.W.shape[0], 3, padding="same")
            x = layer(x)
            layer.set_weights([node.W.array.transpose(2, 3, 1, 0), node.b.array])
        elif isinstance(node, tn.TraceableMaxPooling2D):
            x = tf.keras.layers.MaxPooling2D(2)(x)
        else:
            x = tf.keras.layers.ReLU()(x)
    return tf.keras.Model(picture, x)


def last(x: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def by_xplique(name: str) -> Callable[[TraceableChain], Call]:
    def prepare(chain: TraceableChain) -> Call:
        import tensorflow as tf
        import xplique.attributions

        def channel(model: Any, inputs: Any, targets: Any) -> Any:
            return tf.reduce_sum(model(inputs)[..., CHANNEL], (1, 2))

        explainer = getattr(xplique.attributions, name)(as_keras(chain), operator=channel, reducer=None)
        unused = np.zeros((1, 1), np.float32)
        return lambda x: np.asarray(explainer(last(x), unused)).transpose(0, 3, 1, 2)

    return prepare


def by_tf_keras_vis(chain: TraceableChain) -> Call:
    import tensorflow as tf
    from tf_keras_vis.saliency import Saliency

    saliency = Saliency(as_keras(chain))

    def score(output: Any) -> Any:
        return tf.reduce_sum(output[..., CHANNEL], (1, 2))

    def run(x: np.ndarray) -> np.ndarray:
        gradients = saliency(score, last(x), keepdims=True, gradient_modifier=None, normalize_map=False)
        return np.asarray(gradients).transpose(0, 3, 1, 2)

    return run


PEERS = (
    (DeSaliNet, "xplique", by_xplique("GuidedBackprop"), ("tensorflow", "xplique")),
    (DeconvNet, "xplique", by_xplique("DeconvNet"), ("tensorflow", "xplique")),
    (SaliNet, "tf_keras_vis", by_tf_keras_vis, ("tensorflow", "tf_keras_vis")),
)


def work(method: Any, prepare: Callable[[TraceableChain], Call]) -> Work:
    """One channel, forward pass included."""
    chain = vgg16()
    return Work(
        lambda x: method(chain).analyze(x, LAYER, CHANNEL, seed="one"),
        lambda: prepare(chain),
        noise(1),
        flop=vgg16_flop(1),
        difference=norm_of_difference,
        tolerance=TOLERANCE,
    )


def points() -> Iterator[Point]:
    """Each rule beside the peer that has it."""
    for method, peer, prepare, needs in PEERS:
        name = f"{method.__name__} vgg16 {LAYER}, 1 channel"
        yield Point("projection", lambda m=method, p=prepare: work(m, p), name, "1x3x224x224", "float32", backend(), peer, needs)


def main() -> None:
    run(points(), arguments(__doc__).parse_args())


if __name__ == "__main__":
    main()

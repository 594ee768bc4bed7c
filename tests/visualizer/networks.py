"""Small networks that the tests share."""

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableParallel, TraceableResidual
from dcnn_visualizer.traceable_graph import TraceableGraph


class SimpleCNN(TraceableChain):
    """The README's network, for pictures of shape (3, 32, 32)."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.conv1 = tn.TraceableConvolution2D(3, 10, 3)
            self.conv1_relu = tn.TraceableReLU()
            self.conv1_mp = tn.TraceableMaxPooling2D(ksize=2)
            self.conv1_lrn = F.local_response_normalization
            self.conv2 = tn.TraceableConvolution2D(10, 5, 3)
            self.conv2_relu = tn.TraceableReLU()
            self.conv2_mp = tn.TraceableMaxPooling2D(ksize=2)
            self.fc3 = tn.TraceableLinear(None, 32)
            self.fc3_relu = tn.TraceableReLU()
            self.fc4 = tn.TraceableLinear(None, 10)


def linear(rng: np.random.Generator, units: int, dtype=np.float64) -> tn.TraceableLinear:
    """Chainer lets only an initializer choose the dtype of weights whose shape is still to come."""
    numbers = np.random.RandomState(rng.integers(1 << 31))
    weights = chainer.initializers.Normal(0.5, dtype=dtype, rng=numbers)
    return tn.TraceableLinear(None, units, initialW=weights, initial_bias=rng.standard_normal(units).astype(dtype))


def random_chain(rng: np.random.Generator, channels: int = 3, dtype=np.float64) -> TraceableChain:
    """A chain of random layers, every kind of node among them, with positive and negative weights."""

    def integer(low, high):
        return int(rng.integers(low, high + 1))

    layers = {}

    def convolution(name, inputs, outputs, **kwargs):
        layers[name] = convolution_node(inputs, outputs, **kwargs)

    def convolution_node(inputs, outputs, ksize=3, **kwargs):
        return tn.TraceableConvolution2D(
            inputs,
            outputs,
            ksize,
            initialW=rng.standard_normal((outputs, inputs // kwargs.get("groups", 1), ksize, ksize)).astype(dtype) * 0.5,
            initial_bias=rng.standard_normal(outputs).astype(dtype) * 0.1,
            **kwargs,
        )

    def rectifier():
        return (
            tn.TraceableReLU(),
            tn.TraceableClippedReLU(2.0),
            tn.TraceableLeakyReLU(0.1),
            tn.TraceablePReLU((6,), np.full(6, 0.25, dtype)),
        )[integer(0, 3)]

    with chainer.using_config("dtype", dtype):
        pad = ((integer(0, 2), integer(0, 2)), (integer(0, 2), integer(0, 2)))
        convolution("conv1", channels, 6, pad=pad, stride=integer(1, 2), dilate=integer(1, 2))
        layers["act1"] = rectifier()
        norm = tn.TraceableBatchNormalization(6, dtype=dtype)
        norm.gamma.array[...] = rng.standard_normal(6)
        norm.avg_mean[...], norm.avg_var[...] = rng.standard_normal(6), rng.random(6) + 0.5
        layers["bn1"] = norm
        # Such that no window lies wholly in the padding, where Chainer's pool gives -inf.
        ksize, pooling_pad = ((2, 0), (3, 0), (3, 1))[integer(0, 2)]
        layers["pool1"] = tn.TraceableMaxPooling2D(ksize, integer(1, 2), pooling_pad, cover_all=bool(integer(0, 1)))
        layers["lrn1"] = tn.TraceableLocalResponseNormalization(n=3, alpha=0.1)
        body = TraceableChain(
            conv=convolution_node(6, 6, pad=1), act=rectifier(), project=convolution_node(6, 8 if pad[0][0] else 6, ksize=1)
        )
        layers["block"] = TraceableResidual(body, convolution_node(6, 8, ksize=1) if pad[0][0] else None)
        width = 8 if pad[0][0] else 6
        layers["mixed"] = TraceableParallel(
            TraceableChain(conv=convolution_node(width, 4, ksize=1, nobias=True), act=tn.TraceableReLU()),
            pool=tn.TraceableAveragePooling2D(3, 1, 1),
            kept=None,
        )
        layers["grouped"] = convolution_node(4 + 2 * width, 6, ksize=1, groups=2)
        layers["act2"] = rectifier()
        layers["dropout"] = tn.TraceableDropout()
        if integer(0, 1):
            layers["global"] = tn.TraceableGlobalAveragePooling2D()
        else:
            layers["flat"] = tn.TraceableFlatten()
        layers["fc"] = linear(rng, 5, dtype)
        return TraceableChain(**layers)


def picture(rng: np.random.Generator, *shape: int, dtype=np.float64) -> np.ndarray:
    """A picture whose values repeat, so that pools meet ties."""
    return (rng.integers(-4, 5, shape) / 4).astype(dtype)


def watch_kernels(monkeypatch) -> list[str]:
    """A list that grows by the name of every kernel that is called."""
    names = []

    def watched(name, function):
        return lambda *args, **kwargs: names.append(name) or function(*args, **kwargs)

    for name in dcnn_kernels.__all__:
        function = getattr(dcnn_kernels, name)
        if not isinstance(function, type):
            monkeypatch.setattr(dcnn_kernels, name, watched(name, function))
    return names


def random_graph(rng: np.random.Generator, layers: int = 12, dtype=np.float64) -> TraceableGraph:
    """Layers that go back together where one alone takes another, joined at random; pictures of 3 channels, 16 by 16 or so."""
    model, shapes = TraceableGraph(), {PICTURE: (3, 1)}  # channels, and by how much rows and columns have shrunk
    with chainer.using_config("dtype", dtype):
        for number in range(layers):
            # Mostly the latest, for rows of layers.
            source = list(shapes)[max(0, len(shapes) - 1 - int(rng.geometric(0.7) - 1))]
            channels, shrunk = shapes[source]
            sources = [source]
            kind = int(rng.integers(0, 14))
            made = channels
            if kind < 4 or (kind < 8 and number and isinstance(getattr(model, f"l{number - 1}"), tn.TraceableMaxPooling2D)):
                made = int(rng.integers(2, 7))
                ksize, groups = (3, 1) if kind else (1, 1)
                W = rng.standard_normal((made, channels // groups, ksize, ksize)) / np.sqrt(channels * ksize**2 / 2)
                bias = rng.standard_normal(made).astype(dtype) * 0.1
                layer = tn.TraceableConvolution2D(
                    channels, made, ksize, 1, ksize // 2, initialW=W.astype(dtype), initial_bias=bias
                )
            elif kind < 8:
                layer = tn.TraceableReLU() if kind < 7 else tn.TraceableClippedReLU(0.7)
            elif kind < 10 and shrunk < 4:
                layer = tn.TraceableMaxPooling2D(2) if kind < 9 else tn.TraceableMaxPooling2D(3, 2, 1)
                shrunk *= 2
            elif kind == 10:
                layer = (
                    tn.TraceableLeakyReLU(0.1) if number % 2 else tn.TraceablePReLU((channels,), np.full(channels, 0.25, dtype))
                )
            elif kind == 11:
                layer = tn.TraceableBatchNormalization(channels, dtype=dtype)
                layer.gamma.array[...], layer.avg_mean[...] = rng.standard_normal((2, channels))
            else:
                alike = [other for other, shape in shapes.items() if shape == (channels, shrunk)]
                sources = [source, alike[int(rng.integers(len(alike)))]]
                layer = tn.Add()
            model.connect(f"l{number}", layer, *sources)
            shapes[f"l{number}"] = (made, shrunk)
    return model

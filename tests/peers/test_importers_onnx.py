"""ONNX files, imported: equal to ONNX Runtime, and safe from what files may hold."""

import tracemalloc
import warnings
from pathlib import Path

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dcnn_visualizer.desalinet import SaliNet
from dcnn_visualizer.importers import onnx_constants
from dcnn_visualizer.importers.nodes import UntraceableError
from dcnn_visualizer.importers.onnx import from_onnx
from tests.peers import torch_networks
from tests.peers.test_importers_torch import NETWORKS

RNG = np.random.default_rng(0)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def weights(*shape, scale=0.5):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def int64(*numbers):
    return np.array(numbers, np.int64)


def model(nodes, constants=None, shape=("n", 4, 9, 10), opset=13, output="y"):
    """A model of nodes (kind, inputs, outputs, attributes) and constants by name."""
    graph = helper.make_graph(
        [helper.make_node(kind, inputs.split(), outputs.split(), **attributes) for kind, inputs, outputs, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model, folder):
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_equal(path, x, **arguments):
    """The chain gives what ONNX Runtime gives, and SaliNet Chainer's gradient; returns the chain."""
    chain = from_onnx(path, **arguments)
    expected = run(path, x)
    variable = chainer.Variable(x)
    y = chain(variable)
    with chainer.no_backprop_mode():
        z = chain(x)
    scale = abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(y.array, expected, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(z.array, expected, rtol=1e-5, atol=1e-5 * scale)
    (gradient,) = chainer.grad([y], [variable], [chainer.Variable(y.array)])
    back = SaliNet(chain).analyze(x, chain.layer_names[-1])
    np.testing.assert_allclose(back, gradient.array, rtol=1e-4, atol=2e-5 * abs(gradient.array).max())
    return chain


CONV = {"W": weights(6, 4, 3, 3), "B": weights(6)}
BN = {"s": weights(4) + 1, "b": weights(4), "m": weights(4), "v": abs(weights(4)) + 0.5}

# kind, inputs behind x, attributes, constants, versions of the operators
OPERATORS = {
    "convolution": ("Conv", "W B", {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}, CONV, [9, 13, 22]),
    "groups": ("Conv", "W", {"group": 2, "kernel_shape": [3, 3]}, {"W": weights(6, 2, 3, 3)}, [11]),
    "same upper": ("Conv", "W", {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, CONV, [11]),
    "same lower": ("Conv", "W", {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, CONV, [11]),
    "same of even windows": ("Conv", "W", {"auto_pad": "SAME_UPPER"}, {"W": weights(2, 4, 4, 2)}, [11]),
    "valid": ("Conv", "W", {"auto_pad": "VALID"}, CONV, [11]),
    "batch normalization": ("BatchNormalization", "s b m v", {"epsilon": 1e-3}, BN, [9, 14, 15]),
    "relu": ("Relu", "", {}, {}, [9, 13]),
    "leaky relu": ("LeakyRelu", "", {"alpha": 0.3}, {}, [9]),
    "prelu": ("PRelu", "slope", {}, {"slope": weights(4, 1, 1)}, [9, 16]),
    "prelu of one slope": ("PRelu", "slope", {}, {"slope": weights(1)}, [9]),
    "relu6 by attributes": ("Clip", "", {"min": 0.0, "max": 6.0}, {}, [9, 10]),
    "relu6 by inputs": ("Clip", "low high", {}, {"low": np.float32(0), "high": np.float32(1)}, [11, 13]),
    "clip below": ("Clip", "low", {}, {"low": np.float32(0)}, [12]),
    "elu": ("Elu", "", {"alpha": 0.5}, {}, [9]),
    "sigmoid": ("Sigmoid", "", {}, {}, [9]),
    "tanh": ("Tanh", "", {}, {}, [9]),
    "hard sigmoid": ("HardSigmoid", "", {}, {}, [9]),
    "hard swish": ("HardSwish", "", {}, {}, [14]),
    "erf": ("Erf", "", {}, {}, [9]),
    "gelu": ("Gelu", "", {}, {}, [20]),
    "transposed convolution": (
        "ConvTranspose",
        "V B",
        {"strides": [2, 3], "pads": [1, 0, 1, 0], "dilations": [1, 2], "group": 2},
        {"V": weights(4, 3, 3, 2), "B": weights(6)},
        [9, 13],
    ),
    "repeated pixels": (
        "Resize",
        "r s",
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 3], np.float32)},
        [11, 13],
    ),
    "pixels repeated up to a size": ("Resize", "r r s", {}, {"r": np.zeros(0, np.float32), "s": int64(2, 4, 27, 20)}, [11]),
    "pixels repeated by an old operator": ("Resize", "s", {}, {"s": np.array([1, 1, 2, 3], np.float32)}, [10]),
    "softmax": ("Softmax", "", {"axis": 1}, {}, [13]),
    "log softmax": ("LogSoftmax", "", {"axis": -3}, {}, [13]),
    "max pooling": ("MaxPool", "", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}, {}, [9, 12]),
    "max pooling up to the end": ("MaxPool", "", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, {}, [10]),
    "max pooling same": ("MaxPool", "", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, {}, [9]),
    "average pooling": ("AveragePool", "", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}, {}, [9]),
    "average with padding": (
        "AveragePool",
        "",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        {},
        [10],
    ),
    "average up to the end": ("AveragePool", "", {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, {}, [10, 19]),
    "average same": ("AveragePool", "", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, {}, [11]),
    "average of maps": ("GlobalAveragePool", "", {}, {}, [9]),
    "maximum of maps": ("GlobalMaxPool", "", {}, {}, [9]),
    "mean by attribute": ("ReduceMean", "", {"axes": [2, 3], "keepdims": 1}, {}, [13]),
    "mean by input": ("ReduceMean", "axes", {"keepdims": 0}, {"axes": int64(-1, -2)}, [18]),
    "lrn": ("LRN", "", {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}, {}, [9, 13]),
    "dropout": ("Dropout", "", {"ratio": 0.3}, {}, [9, 10]),
    "dropout by input": ("Dropout", "r", {}, {"r": np.float32(0.3)}, [12, 13]),
    "add a number": ("Add", "c", {}, {"c": np.float32(0.5)}, [9]),
    "add by channel": ("Add", "c", {}, {"c": weights(1, 4, 1, 1)}, [9]),
    "subtract by column": ("Sub", "c", {}, {"c": weights(10)}, [9]),
    "multiply": ("Mul", "c", {}, {"c": weights(4, 1, 1)}, [9]),
    "divide": ("Div", "c", {}, {"c": abs(weights(4, 1, 1)) + 1}, [9]),
    "negative": ("Neg", "", {}, {}, [9]),
    "with itself": ("Mul", "x", {}, {}, [9]),
    "sum with itself": ("Sum", "x x", {}, {}, [9]),
    "concatenation": ("Concat", "x", {"axis": -3}, {}, [9]),
    "padding by attributes": ("Pad", "", {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, {}, [9]),
    "padding by inputs": ("Pad", "p v", {}, {"p": int64(0, 0, 1, 2, 0, 0, 3, 0), "v": np.float32(0.5)}, [11]),
    "padding of axes": ("Pad", "p z a", {}, {"p": int64(1, 2, 3, 0), "z": np.float32(0), "a": int64(2, -1)}, [18]),
    "slice by attributes": ("Slice", "", {"starts": [1, -4], "ends": [3, 2**60], "axes": [1, 3]}, {}, [9]),
    "slice by inputs": ("Slice", "s e a", {}, {"s": int64(1), "e": int64(-2), "a": int64(2)}, [10, 13]),
    "one place": ("Gather", "i", {"axis": 1}, {"i": np.array(2)}, [9, 13]),
    "several places": ("Gather", "i", {"axis": 2}, {"i": int64(3, 4, 5)}, [9]),
    "transpose": ("Transpose", "", {"perm": [0, 2, 3, 1]}, {}, [9]),
    "flatten": ("Flatten", "", {"axis": -3}, {}, [11]),
    "reshape": ("Reshape", "s", {}, {"s": int64(0, 2, 2, 9, -1)}, [9, 14]),
    "reshape to vectors": ("Reshape", "s", {}, {"s": int64(-1, 360)}, [9]),
    "unsqueeze": ("Unsqueeze", "", {"axes": [2, 4]}, {}, [11]),
    "unsqueeze by input": ("Unsqueeze", "a", {}, {"a": int64(-1)}, [13]),
    "identity": ("Identity", "", {}, {}, [9]),
    "transposed convolution with more behind": (
        "ConvTranspose",
        "V",
        {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 2]},
        {"V": weights(4, 3, 3, 2)},
        [11],
    ),
    "layer normalization": ("LayerNormalization", "g b", {"epsilon": 0.1}, {"g": weights(10), "b": weights(10)}, [17]),
    "layer normalization of maps": ("LayerNormalization", "g", {"axis": 2}, {"g": weights(9, 10)}, [17]),
    "instance normalization": ("InstanceNormalization", "g b", {"epsilon": 0.1}, {"g": weights(4), "b": weights(4)}, [9]),
    "group normalization": ("GroupNormalization", "g b", {"num_groups": 2}, {"g": weights(4), "b": weights(4)}, [21]),
    "root mean square normalization": ("RMSNormalization", "g", {"axis": -1}, {"g": weights(10)}, [23]),
    "mish": ("Mish", "", {}, {}, [18]),
    "softplus": ("Softplus", "", {}, {}, [9]),
    "tanh gelu": ("Gelu", "", {"approximate": "tanh"}, {}, [20]),
    "square": ("Pow", "two", {}, {"two": np.float32(2)}, [13]),
    "square by an integer": ("Pow", "two", {}, {"two": np.array(2)}, [13]),
    "clip on both sides": ("Clip", "low high", {}, {"low": np.float32(-1), "high": np.float32(1)}, [11]),
    "softmax along rows": ("Softmax", "", {"axis": 2}, {}, [13]),
    "mean of channels": ("ReduceMean", "axes", {"keepdims": 0}, {"axes": int64(1)}, [18]),
    "sum": ("ReduceSum", "axes", {}, {"axes": int64(1, 3)}, [13]),
    "maximum": ("ReduceMax", "", {"axes": [1], "keepdims": 1}, {}, [13]),
    "norm": ("ReduceL2", "", {"axes": [2, 3]}, {}, [13]),
    "concatenation along rows": ("Concat", "x", {"axis": 2}, {}, [13]),
    "linear by place": ("MatMul", "W", {}, {"W": weights(10, 3)}, [13]),
    "mirrored border": ("Pad", "p", {"mode": "reflect"}, {"p": int64(0, 0, 1, 2, 0, 0, 3, 0)}, [13]),
    "border repeated": ("Pad", "p", {"mode": "edge"}, {"p": int64(0, 0, 1, 2, 0, 0, 3, 0)}, [13]),
    "every second": ("Slice", "s e a t", {}, {"s": int64(1, 0), "e": int64(9, 99), "a": int64(2, 3), "t": int64(2, 3)}, [10]),
    "channels in another order": ("Gather", "i", {"axis": 1}, {"i": int64(2, 0, -1)}, [13]),
    "depth to space": ("DepthToSpace", "", {"blocksize": 2, "mode": "CRD"}, {}, [11]),
    "depth to space, depth first": ("DepthToSpace", "", {"blocksize": 2}, {}, [13]),
    "cast": ("Cast", "", {"to": TensorProto.FLOAT}, {}, [9]),
    "absolute": ("Abs", "", {}, {}, [9, 13]),
    "exponential": ("Exp", "", {}, {}, [13]),
    "selu": ("Selu", "", {}, {}, [9]),
    "celu": ("Celu", "", {"alpha": 0.7}, {}, [12]),
    "softsign": ("Softsign", "", {}, {}, [9]),
    "relu by a threshold": ("ThresholdedRelu", "", {"alpha": 0.0}, {}, [10]),
    "larger than a constant": ("Max", "c", {}, {"c": weights(4, 1, 1)}, [9, 13]),
    "smaller than a number": ("Min", "c", {}, {"c": np.float32(0.25)}, [13]),
    "stretched": ("Expand", "s", {}, {"s": int64(1, 4, 1, 10)}, [13]),
    "stretched in none": ("Expand", "s", {}, {"s": int64(9, 1)}, [13]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, tmp_path):
    kind, inputs, attributes, constants, versions = OPERATORS[name]
    for opset in versions:
        file = saved(model([(kind, f"x {inputs}", "y", attributes)], constants, ("n", 4, 9, 10), opset), tmp_path)
        x = weights(2, 4, 9, 10, scale=2)
        chain = assert_equal(file, x)
        assert chain.layer_names == [kind.lower()]
        assert not any("passed over" in rule for rule in SaliNet(chain).coverage().values())


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (10, 12), (11, 5)])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pooling_up_to_the_end(kind, pads, size, tmp_path):
    for ksize, stride in ((2, 2), (3, 2), (2, 3), (3, 3)):
        attributes = {"kernel_shape": [ksize] * 2, "strides": [stride] * 2, "pads": pads, "ceil_mode": 1}
        assert_equal(saved(model([(kind, "x", "y", attributes)], {}, ("n", 2, *size)), tmp_path), weights(2, 2, *size))


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": mode, "coordinate_transformation_mode": place, **more}
        for mode, more in (
            ("linear", {}),
            ("cubic", {"cubic_coeff_a": -0.5}),
            ("nearest", {"nearest_mode": "floor"}),
            ("nearest", {"nearest_mode": "ceil"}),
            ("nearest", {"nearest_mode": "round_prefer_floor"}),
            ("nearest", {"nearest_mode": "round_prefer_ceil"}),
        )
        for place in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    ],
    ids=lambda attributes: "-".join(map(str, attributes.values())),
)
def test_resizing(attributes, tmp_path):
    none = np.zeros(0, np.float32)
    for constants, inputs in (
        ({"r": none, "s": np.array([1, 1, 1.6, 0.7], np.float32)}, "x r s"),
        ({"r": none, "s": int64(2, 4, 5, 17)}, "x r r s"),
    ):
        path = saved(model([("Resize", inputs, "y", attributes)], constants, ("n", 4, 9, 10)), tmp_path)
        assert_equal(path, weights(2, 4, 9, 10))


def test_tensors_that_are_stretched_or_compared(tmp_path):
    nodes = [
        ("ReduceMean", "x", "mean", {"axes": [2, 3]}),
        ("Shape", "x", "shape", {}),
        ("Expand", "mean shape", "wide", {}),
        ("Max", "x wide", "larger", {}),
        ("Min", "mean x", "smaller", {}),
        ("Mul", "larger smaller", "product", {}),
        ("LpNormalization", "product", "unit", {"axis": 1}),
        ("Mul", "unit x", "y", {}),
    ]
    assert_equal(saved(model(nodes), tmp_path), weights(2, 4, 9, 10))


def test_group_normalization_that_pytorch_writes(tmp_path):
    nodes = [
        ("Reshape", "x groups", "g", {}),
        ("InstanceNormalization", "g one zero", "n", {}),
        ("Shape", "x", "shape", {}),
        ("Reshape", "n shape", "r", {}),
        ("Mul", "r w", "y", {}),
    ]
    constants = {"groups": int64(0, 2, -1), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}
    assert_equal(saved(model(nodes, constants | {"w": weights(4, 1, 1)}), tmp_path), weights(2, 4, 9, 10))


def test_upsampling_of_the_oldest_operators(tmp_path):
    scales = {"s": np.array([1, 1, 2, 1.5], np.float32)}
    for mode in ("nearest", "linear"):
        assert_equal(saved(model([("Upsample", "x s", "y", {"mode": mode})], scales, opset=9), tmp_path), weights(2, 4, 9, 10))


def test_space_to_depth(tmp_path):
    path = saved(model([("SpaceToDepth", "x", "y", {"blocksize": 2})], {}, ("n", 4, 8, 10)), tmp_path)
    assert_equal(path, weights(2, 4, 8, 10))


def test_layer_normalization_of_parts_and_attention(tmp_path):
    """Files before version 17 have no layer normalization, and none has attention as PyTorch writes it."""
    nodes = [
        ("Reshape", "x tokens", "t", {}),
        ("ReduceMean", "t", "mean", {"axes": [-1]}),
        ("Sub", "t mean", "d", {}),
        ("Pow", "d two", "d2", {}),
        ("ReduceMean", "d2", "var", {"axes": [-1]}),
        ("Add", "var eps", "more", {}),
        ("Sqrt", "more", "deviation", {}),
        ("Div", "d deviation", "n", {}),
        ("MatMul", "n W", "q", {}),
        ("Transpose", "n", "k", {"perm": [0, 2, 1]}),
        ("MatMul", "q k", "scores", {}),
        ("Softmax", "scores", "a", {"axis": -1}),
        ("MatMul", "a n", "v", {}),
        ("Split", "v", "left right", {"axis": 2}),
        ("Reciprocal", "deviation", "r", {}),
        ("Mul", "left r", "l2", {}),
        ("Sub", "l2 right", "y", {}),
    ]
    constants = {"tokens": int64(0, 4, 90), "two": np.float32(2), "eps": np.float32(0.01), "W": weights(90, 90, scale=0.1)}
    assert_equal(saved(model(nodes, constants), tmp_path), weights(2, 4, 9, 10))


def test_convolution_along_one_axis(tmp_path):
    nodes = [
        ("GlobalAveragePool", "x", "p", {}),
        ("Squeeze", "p last", "s", {}),
        ("Transpose", "s", "t", {"perm": [0, 2, 1]}),
        ("Conv", "t W", "c", {"pads": [1, 1]}),
        ("Transpose", "c", "b", {"perm": [0, 2, 1]}),
        ("Unsqueeze", "b last", "u", {}),
        ("Sigmoid", "u", "gate", {}),
        ("Mul", "x gate", "y", {}),
    ]
    assert_equal(saved(model(nodes, {"last": int64(3), "W": weights(1, 1, 3)}), tmp_path), weights(2, 4, 9, 10))


def test_places_that_the_file_calculates(tmp_path):
    nodes = [
        ("Shape", "x", "shape", {}),
        ("Gather", "shape one", "c", {"axis": 0}),
        ("Range", "zero c two", "even", {}),
        ("Gather", "x even", "y", {"axis": 1}),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "two": np.array(2)}
    chain = assert_equal(saved(model(nodes, constants), tmp_path), weights(2, 4, 9, 10))
    assert chain(weights(1, 4, 9, 10)).shape == (1, 2, 9, 10)
    nodes = [("Range", "zero n one", "r", {}), ("Gather", "x r", "y", {"axis": 1})]
    with pytest.raises(ValueError, match="it makes 1000000000000 numbers"):
        from_onnx(saved(model(nodes, constants | {"n": int64(10**12)}), tmp_path))


def test_constants_that_are_calculated(tmp_path):
    """Weight standardization, borders of TensorFlow's, and places of detectors, as exporters write them."""
    nodes = [
        ("ReduceMean", "W", "mean", {"axes": [1, 2, 3]}),
        ("Sub", "W mean", "centred", {}),
        ("Mul", "centred centred", "squares", {}),
        ("ReduceMean", "squares", "variance", {"axes": [1, 2, 3]}),
        ("Add", "variance eps", "v", {}),
        ("Sqrt", "v", "deviation", {}),
        ("Div", "centred deviation", "U", {}),
        ("Reshape", "U flat", "row", {}),
        ("BatchNormalization", "row ones zeros6 zeros6 ones", "standardized bm bv", {"training_mode": 1, "epsilon": 0.5}),
        ("Reshape", "standardized likeW", "V", {}),
        ("Conv", "x V", "a", {}),
        ("Shape", "a", "shape", {}),
        ("Gather", "shape three", "w", {"axis": 0}),
        ("Cast", "w", "width", {"to": TensorProto.FLOAT}),
        ("Div", "width half", "shares", {}),
        ("Clip", "shares step", "clipped", {}),
        ("Ceil", "clipped", "ceiled", {}),
        ("Cast", "ceiled", "border", {"to": TensorProto.INT64}),
        ("Unsqueeze", "border zeros", "one", {}),
        ("Concat", "nothing zeros nothing one", "pads", {"axis": 0}),
        ("Pad", "a pads", "p", {}),
        ("Range", "zero width step", "places", {}),
        ("Mul", "a places", "m", {}),
        ("Expand", "places rows", "grid", {}),
        ("Slice", "grid end begin last back", "turned", {}),
        ("Add", "m turned", "s", {}),
        ("Concat", "p s", "y", {"axis": 3}),
    ]
    constants = {"W": weights(6, 4, 3, 3), "eps": np.float32(0.1), "three": np.array(3), "half": np.float32(3)}
    constants |= {"zeros": int64(0), "nothing": int64(0, 0, 0), "zero": np.float32(0), "step": np.float32(1)}
    constants |= {"rows": int64(7, 1), "end": int64(6), "begin": int64(-100), "last": int64(0), "back": int64(-1)}
    constants |= {"flat": int64(1, 6, -1), "likeW": int64(6, 4, 3, 3), "ones": np.ones(6, np.float32)}
    constants["zeros6"] = np.zeros(6, np.float32)
    assert_equal(saved(model(nodes, constants, opset=15), tmp_path), weights(2, 4, 9, 10))


def test_what_calculations_of_sizes_that_are_open_say(tmp_path):
    for place, message in ((2, "say insize"), (0, "the number of pictures")):
        nodes = [
            ("Shape", "x", "shape", {}),
            ("Gather", "shape place", "h", {"axis": 0}),
            ("Mul", "h two", "twice", {}),
            ("Expand", "x twice", "y", {}),
        ]
        path = saved(model(nodes, {"place": np.array(place), "two": np.array(2)}, ("n", 4, "h", "w")), tmp_path)
        with pytest.raises(UntraceableError, match=message):
            from_onnx(path)


@pytest.mark.parametrize("opset", [7, 8])
def test_the_oldest_operators(opset, tmp_path):
    nodes = [
        ("Conv", "x W B", "a", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "a s b m v", "n", {}),
        ("PRelu", "n slope", "r", {}),
        ("MaxPool", "r", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Upsample", "p", "u", {"scales": [1.0, 1.0, 2.0, 3.0]}),
        ("Dropout", "u", "d", {"ratio": 0.3}),
        ("Slice", "d", "y", {"axes": [1], "starts": [1], "ends": [4]}),
    ]
    norms = {name: np.concatenate((array, array[:2])) for name, array in BN.items()}
    constants = {**CONV, **norms, "slope": abs(weights(6, 1, 1))}
    assert_equal(saved(model(nodes, constants, ("n", 4, 8, 10), opset=opset), tmp_path), weights(2, 4, 8, 10))


@pytest.mark.parametrize("sliced", [True, False])
def test_attention_that_puts_the_batch_behind(sliced, tmp_path):
    """As timm and PaddlePaddle write queries, keys and values."""
    parts = [("Slice", "t {0} {1} zero", "part{0}", {}), ("Squeeze", "part{0} zero", "p{0}", {})]
    if not sliced:
        parts = [("Gather", "t n{0}", "p{0}", {"axis": 0})]
    nodes = [
        ("Reshape", "x tokens", "f", {}),
        ("Transpose", "f", "a", {"perm": [0, 2, 1]}),
        ("MatMul", "a M", "qkv", {}),
        ("Reshape", "qkv heads", "h", {}),
        ("Transpose", "h", "t", {"perm": [2, 0, 3, 1, 4]}),
        *[
            (kind, *(text.format(number, number + 1) for text in names), attributes)
            for number in range(3)
            for kind, *names, attributes in parts
        ],
        ("Transpose", "p1", "keys", {"perm": [0, 1, 3, 2]}),
        ("MatMul", "p0 keys", "scores", {}),
        ("Softmax", "scores", "shares", {}),
        ("MatMul", "shares p2", "heard", {}),
        ("Transpose", "heard", "back", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "back joined", "y", {}),
    ]
    constants = {"tokens": int64(0, 4, -1), "M": weights(4, 18), "heads": int64(0, -1, 3, 2, 3), "joined": int64(0, -1, 6)}
    constants |= {str(number): int64(number) for number in range(4)} | {"zero": int64(0)}
    constants |= {f"n{number}": np.array(number) for number in range(3)}
    assert_equal(saved(model(nodes, constants, ("n", 4, 5, 6)), tmp_path), weights(2, 4, 5, 6))


def test_a_picture_whose_axis_is_left_out(tmp_path):
    """Files for one picture squeeze its axis away, add numbers there, write as_strided of it, and put it back."""
    nodes = [
        ("Conv", "x W B", "a", {}),
        ("Unsqueeze", "a zero", "u", {}),
        ("Mul", "u number", "m", {}),
        ("Squeeze", "m zero", "s", {}),
        ("Squeeze", "s zero", "c", {}),
        ("Transpose", "c", "t", {"perm": [2, 0, 1]}),
        ("Unsqueeze", "t zero", "b", {}),
        ("Reshape", "b all", "row", {}),
        ("Gather", "row places", "y", {}),
    ]
    constants = {**CONV, "zero": int64(0), "number": np.array([0.5], np.float32), "all": int64(-1)}
    constants["places"] = RNG.permutation(336).reshape(1, 8, 6, 7)
    chain = assert_equal(saved(model(nodes, constants, (1, 4, 9, 10)), tmp_path), weights(1, 4, 9, 10))
    assert chain(weights(3, 4, 9, 10)).shape == (3, 8, 6, 7)


GEMMS = {
    "plain": ({}, {"B": weights(12, 5), "C": weights(5)}),
    "transposed weights": ({"transB": 1}, {"B": weights(5, 12), "C": weights(1, 5)}),
    "scaled": ({"alpha": 0.5, "beta": 2.0, "transB": 1}, {"B": weights(5, 12), "C": weights(5)}),
    "one number": ({}, {"B": weights(12, 5), "C": weights(1)}),
    "no bias": ({}, {"B": weights(12, 5)}),
}


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("transposed", [False, True])
def test_gemm(name, transposed, tmp_path):
    attributes, constants = GEMMS[name]
    nodes = [("Flatten", "x", "flat", {})]
    if transposed:
        nodes.append(("Transpose", "flat", "turned", {"perm": [1, 0]}))
        attributes = {**attributes, "transA": 1}
    inputs = " ".join(["turned" if transposed else "flat", *constants])
    nodes.append(("Gemm", inputs, "y", attributes))
    assert_equal(saved(model(nodes, constants, ("n", 3, 2, 2)), tmp_path), weights(4, 3, 2, 2))


def test_matmul_and_add(tmp_path):
    nodes = [("Flatten", "x", "f", {}), ("MatMul", "f W", "m", {}), ("Add", "m b", "s", {}), ("Softmax", "s", "y", {})]
    constants = {"W": weights(12, 5), "b": weights(5)}
    for opset in (9, 13):
        chain = assert_equal(saved(model(nodes, constants, ("n", 3, 2, 2), opset), tmp_path), weights(4, 3, 2, 2))
        assert chain.layer_names == ["flatten", "matmul", "add", "softmax"]


def test_a_reshape_that_calculates(tmp_path):
    """As PyTorch exports x.view(x.size(0), -1) and channel shuffles of any picture."""
    nodes = [
        ("Shape", "x", "shape", {}),
        ("Gather", "shape zero", "n", {"axis": 0}),
        ("Gather", "shape one", "c", {"axis": 0}),
        ("Slice", "shape two end", "hw", {}),
        ("Div", "c twos", "half", {}),
        ("Unsqueeze", "n axis", "n1", {}),
        ("Unsqueeze", "half axis", "half1", {}),
        ("Unsqueeze", "c axis", "c1", {}),
        ("Concat", "n1 two half1 hw", "split", {"axis": 0}),
        ("Reshape", "x split", "groups", {}),
        ("Transpose", "groups", "turned", {"perm": [0, 2, 1, 3, 4]}),
        ("Concat", "n1 c1 hw", "joined", {"axis": 0}),
        ("Reshape", "turned joined", "y", {}),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "two": int64(2), "twos": np.array(2), "end": int64(4), "axis": int64(0)}
    path = saved(model(nodes, constants, ("n", 4, "h", "w")), tmp_path)
    chain = assert_equal(path, weights(2, 4, 5, 6))
    assert chain.layer_names == ["reshape", "transpose", "reshape_2"]
    np.testing.assert_array_equal(chain(weights(1, 4, 7, 3)).shape, (1, 4, 7, 3))


def test_constants_that_are_made_and_turned(tmp_path):
    filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.25])
    nodes = [
        ("Constant", "", "shape", {"value": numpy_helper.from_array(int64(6, 4, 1, 1))}),
        ("ConstantOfShape", "shape", "W", {"value": filled}),
        ("Conv", "x W", "a", {}),
        ("Constant", "", "b", {"value": numpy_helper.from_array(weights(6))}),
        ("Identity", "b", "same", {}),
        ("Unsqueeze", "same one_two", "b3", {}),
        ("Add", "a b3", "s", {}),
        ("Constant", "", "number", {"value_float": 2.0}),
        ("Mul", "number s", "y", {}),
    ]
    assert_equal(saved(model(nodes, {"one_two": int64(1, 2)}), tmp_path), weights(2, 4, 9, 10))


def test_a_graph_of_any_shape(tmp_path):
    nodes = [
        ("Conv", "x W B", "a", {"pads": [1, 1, 1, 1]}),
        ("Relu", "a", "r", {}),
        ("GlobalAveragePool", "r", "p", {}),
        ("Sigmoid", "p", "gate", {}),
        ("Mul", "gate r", "gated", {}),
        ("Add", "gated a", "s", {}),
        ("Split", "s", "left right", {"axis": 1}),
        ("Concat", "right left x", "joined", {"axis": 1}),
        ("GlobalMaxPool", "x", "p4", {}),
        ("Concat", "gate p4", "p10", {"axis": 1}),
        ("Add", "joined p10", "y", {}),
    ]
    chain = assert_equal(saved(model(nodes, CONV), tmp_path), weights(2, 4, 9, 10))
    assert "split" in chain.layer_names


def test_names(tmp_path):
    network = model([("Relu", "x", "a", {}), ("Relu", "a", "b", {}), ("Relu", "b", "c", {}), ("Relu", "c", "y", {})])
    for node, name in zip(network.graph.node, ["/body/relu/Relu", "body/relu/Relu", "", "copy"], strict=True):
        node.name = name
    chain = from_onnx(saved(network, tmp_path))
    assert chain.layer_names == ["body/relu/Relu", "body/relu/Relu_2", "relu", "copy_2"]
    assert from_onnx(saved(network, tmp_path), output="b").layer_names == ["body/relu/Relu", "body/relu/Relu_2"]


def test_sizes_that_the_file_leaves_open(tmp_path):
    nodes = [("Conv", "x W", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})]
    path = saved(model(nodes, CONV, ("n", 4, "h", "w")), tmp_path)
    with pytest.raises(UntraceableError, match=r"network.onnx: Conv '': its padding depends on .* say insize"):
        from_onnx(path)
    for size in ((8, 9), (7, 10)):
        assert_equal(path, weights(2, 4, *size), insize=size)
    fixed = saved(model(nodes, CONV, (1, 4, 8, 8)), tmp_path)
    with pytest.raises(ValueError, match="insize is"):
        from_onnx(fixed, insize=9)
    assert from_onnx(fixed, insize=8)(weights(3, 4, 8, 8)).shape == (3, 6, 4, 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("vgg", "vgg_bn", "alexnet")])
def test_networks_that_pytorch_wrote(name, folded, tmp_path):
    # PyTorch doesn't export adaptive pooling to windows that don't divide, as VGG and AlexNet have it here.
    module = torch_networks.shaken(NETWORKS[name]())
    path = tmp_path / "network.onnx"
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, 64, 64),),
            path,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
            opset_version=13,
            do_constant_folding=folded,
            training=mode,
            dynamo=False,
        )
    chain = assert_equal(path, weights(2, 3, 64, 64, scale=1))
    kinds = {type(chain[layer]).__name__ for layer in chain.layer_names}
    if name not in ("sequential", "squeezenet"):
        assert ("TraceableBatchNormalization" in kinds) == (not folded or name == "densenet")


@pytest.mark.parametrize("name", sorted(path.stem for path in LIGHT.glob("light_*.onnx")))
def test_files_that_the_onnx_package_ships(name, tmp_path):
    """Networks of the ONNX model zoo, the weights replaced by constants to make them light, and here by random ones."""
    network = onnx.load(LIGHT / f"{name}.onnx")
    chain = from_onnx(LIGHT / f"{name}.onnx")
    assert len(chain.layer_names) > 20
    if name in ("light_bvlc_alexnet", "light_vgg19", "light_zfnet512", "light_resnet50"):
        return  # Hundreds of megabytes of weights, and nothing that the others lack.
    rng = np.random.default_rng(0)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    kept = []
    for node in network.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(constants[node.input[0]])
            made = rng.standard_normal(shape) * (2 / max(np.prod(shape[1:]), 1)) ** 0.5
            made = rng.uniform(0.5, 1, shape) if len(shape) != 4 else made
            network.graph.initializer.append(numpy_helper.from_array(made.astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del network.graph.node[:]
    network.graph.node.extend(kept)
    path, x = saved(network, tmp_path), weights(1, 3, 224, 224, scale=1)
    chain = from_onnx(path)
    # Their last layer is a softmax, which hides differences.
    before = next(node for node in network.graph.node if node.op_type == "Softmax").input[0] if "densenet" not in name else None
    if before:
        network.graph.output[0].CopyFrom(helper.make_tensor_value_info(before, TensorProto.FLOAT, None))
        path = saved(network, tmp_path)
        chain = from_onnx(path)
    expected = run(path, x)
    with chainer.no_backprop_mode():
        y = chain(x).array
    assert 1e-3 * abs(expected).max() < expected.std() < np.inf
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_data_in_other_files(tmp_path):
    path = tmp_path / "network.onnx"
    network = model([("Conv", "x W B", "y", {})], CONV)
    onnx.save(network, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    assert_equal(path, weights(2, 4, 9, 10))


def test_weights_can_be_changed(tmp_path):
    chain = from_onnx(saved(model([("Conv", "x W B", "y", {})], CONV), tmp_path))
    before = chain(weights(1, 4, 9, 10)).array
    chain["conv"].W.array[...] *= 2
    assert abs(chain(weights(1, 4, 9, 10)).array - before).max() > 0


def test_double_precision(tmp_path):
    network = model([("Conv", "x W", "y", {})], {"W": CONV["W"].astype(np.float64)})
    network.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    network.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(UntraceableError, match="W must be float32"):
        from_onnx(saved(model([("Conv", "x W", "y", {})], {"W": CONV["W"].astype(np.float64)}), tmp_path))
    chain = from_onnx(saved(network, tmp_path))
    assert chain(np.ones((1, 4, 9, 10))).dtype == np.float64


UNSUPPORTED = {
    "GridSample 'n0': this operator isn't supported": [("GridSample", "x x", "y", {})],
    "Conv 'n0': W must be a constant": [("Conv", "x x", "y", {})],
    "Conv 'n0': weights": [("Conv", "x W", "y", {"group": 2})],
    "n0': auto_pad is 'SOMEHOW'": [("Conv", "x W", "y", {"auto_pad": "SOMEHOW"})],
    "Relu 'n0': it has 1 inputs and the attributes ['spin']": [("Relu", "x", "y", {"spin": 1})],
    "MaxPool 'n0': its windows are dilated": [("MaxPool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 2]})],
    "kernel_shape must be at least 1": [("MaxPool", "x", "y", {"kernel_shape": [0, 2]})],
    "larger than the picture": [("MaxPool", "x", "y", {"kernel_shape": [20, 2]})],
    "pad must be at least 0": [("Conv", "x W", "y", {"pads": [-1, 0, 0, 0]})],
    "LRN 'n0': its window of 4 channels": [("LRN", "x", "y", {"size": 4})],
    "the batch must stay the first axis of shape": [("Transpose", "x", "t", {"perm": [1, 0, 2, 3]}), ("Conv", "t W", "y", {})],
    "with the batch as the first axis": [("Transpose", "x", "y", {"perm": [1, 0, 2, 3]})],
    "whose batch isn't the first axis": [("Transpose", "x", "t", {"perm": [1, 0, 2, 3]}), ("Add", "t t", "y", {})],
    "which is the batch or holds one place": [
        ("Transpose", "x", "t", {"perm": [1, 0, 2, 3]}),
        ("Gather", "t nine", "y", {"axis": 1}),
    ],
    "ThresholdedRelu 'n0': its threshold is 1.0": [("ThresholdedRelu", "x", "y", {})],
    "LpNormalization 'n0': it divides by the norm of order 1": [("LpNormalization", "x", "y", {"p": 1})],
    "it takes 3 inputs; two are supported": [("Max", "x x x", "y", {})],
    "Expand 'n0': it stretches shape": [("Expand", "x nine", "y", {})],
    "Erf 'n0': this operator isn't supported on constants": [("Erf", "one", "e", {}), ("Mul", "x e", "y", {})],
    "Softmax 'n0': it goes along axis 0": [("Softmax", "x", "y", {"axis": 0})],
    "Concat 'n0': it joins": [("Concat", "x x", "y", {"axis": 0})],
    "the batch must stay": [("ReduceSum", "x", "y", {})],
    "don't fall into 3 groups": [("GroupNormalization", "x B B", "y", {"num_groups": 3})],
    "scale and bias must hold one number a channel": [("InstanceNormalization", "x B B", "y", {})],
    "scale and shift must have the shape": [("LayerNormalization", "x B", "y", {})],
    "the exponent must be one constant number": [("Pow", "x B", "y", {})],
    "it makes blocks of 3x3": [("DepthToSpace", "x", "y", {"blocksize": 3})],
    "it makes channels of blocks": [("SpaceToDepth", "x", "y", {"blocksize": 0})],
    "it resizes by area": [("Resize", "x one one", "y", {"mode": "area"})],
    "only rows and columns can change": [("Resize", "x S S", "y", {"mode": "linear"})],
    "output_padding (3, 0) must be below the strides": [("ConvTranspose", "x V", "y", {"output_padding": [3, 0]})],
    "it takes the places [9] of 4": [("Gather", "x nine", "y", {"axis": 1})],
    "axis 7 isn't one": [("Concat", "x x", "y", {"axis": 7})],
    "only the number 1 can be divided": [("Div", "minus x", "y", {})],
    "it clips to 1.0..-1.0": [("Clip", "x one minus", "y", {})],
    "Relu 'n2': the batch must stay the first axis": [
        ("Flatten", "x", "f", {}),
        ("Transpose", "f", "t", {}),
        ("Relu", "t", "y", {}),
    ],
    "it transposes the batch": [("Flatten", "x", "f", {}), ("Gemm", "f M", "y", {"transA": 1})],
    "it has no layer that makes 'y'": [("Identity", "one", "y", {})],
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_what_is_not_supported_is_named(message, tmp_path):
    constants = {**CONV, "one": np.float32(1), "minus": np.float32(-1), "M": weights(360, 3), "V": weights(4, 2, 3, 3)}
    constants |= {"S": np.array([1, 2, 1, 1], np.float32), "nine": int64(9)}
    network = model(UNSUPPORTED[message], constants)
    for number, node in enumerate(network.graph.node):
        node.name = f"n{number}"
    with pytest.raises(ValueError, match=r"network\.onnx: ") as caught:
        from_onnx(saved(network, tmp_path))
    assert message in str(caught.value)


def external(location, **entries):
    network = model([("Conv", "x W", "y", {})], {"W": CONV["W"]})
    tensor = network.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return network


def shared_external(location):
    network = external(location)
    network.graph.initializer.append(network.graph.initializer[0])
    network.graph.initializer[1].name = "other"
    return network


def changed(change, nodes=(("Conv", "x W B", "y", {}),)):
    network = model(list(nodes), CONV)
    change(network.graph)
    return network


def _dims(graph, *dims):
    graph.initializer[0].dims[:] = dims


HOSTILE = {
    "tensors of 2^40 numbers": (lambda: changed(lambda graph: _dims(graph, 1 << 20, 1 << 20, 1, 1)), "needs 4398046511104 bytes"),
    "negative sizes": (lambda: changed(lambda graph: _dims(graph, -1, 4, 3, 3)), "has shape"),
    "sizes that overflow": (lambda: changed(lambda graph: _dims(graph, 1 << 62, 1 << 62, 1 << 62, 1)), "bytes, it has"),
    "many axes": (lambda: changed(lambda graph: _dims(graph, *[1] * 99)), "has shape"),
    "data outside the folder": (lambda: external("../weights.bin"), "no file in the folder"),
    "data at an absolute path": (lambda: external("/etc/passwd"), "no file in the folder"),
    "data behind a link": (lambda: external("link"), "no file in the folder"),
    "data in a folder": (lambda: external("."), "no file in the folder"),
    "data in a file of a long name": (lambda: external("a" * 5000), "no file in the folder"),
    "data in a file of no name": (lambda: external("\0"), "no file in the folder"),
    "no place of data": (lambda: external(""), "no file in the folder"),
    "data beyond the end": (lambda: external("short.bin"), "needs 864 bytes, 'short.bin' of 10"),
    "data before the start": (lambda: external("short.bin", offset=-4), "needs 864 bytes"),
    "data at no number": (lambda: external("short.bin", offset="here"), "aren't numbers"),
    "data taken by many": (lambda: shared_external("weights.bin"), "take more from 'weights.bin' than its 864 bytes"),
    "a cycle": (
        lambda: model([("Add", "x b", "a", {}), ("Relu", "a", "b", {}), ("Relu", "b", "y", {})]),
        "takes 'b', which nothing before it makes",
    ),
    "a value made twice": (lambda: model([("Relu", "x", "y", {}), ("Relu", "x", "y", {})]), "which is there already"),
    "a layer of 2^40 numbers": (
        lambda: model([("Pad", "x", "y", {"pads": [0, 0, 1 << 40, 0, 0, 0, 0, 0]})], opset=9),
        "makes a tensor of shape",
    ),
    "a constant of 2^40 numbers": (
        lambda: model([("ConstantOfShape", "s", "c", {}), ("Add", "x c", "y", {})], {"s": int64(1 << 20, 1 << 20)}),
        "makes a constant of shape",
    ),
    "many copies of a large constant": (
        lambda: model(
            [("ConstantOfShape", "s", "c", {}), *[("Sub", f"{'x' if i == 0 else i - 1} c", str(i), {}) for i in range(99)]],
            {"s": int64(4, 300, 300)},
            ("n", 4, 300, 300),
            output="98",
        ),
        "take more than 1048576 bytes",
    ),
    "an attribute of another type": (lambda: model([("Conv", "x W", "y", {"strides": "wide"})], CONV), "Conv"),
    "an attribute of no meaning": (lambda: model([("Conv", "x W", "y", {"wide": 3})], CONV), "the attributes ['wide']"),
    "a graph in an attribute": (
        lambda: model([("Conv", "x W", "y", {"strides": model([("Relu", "x", "y", {})]).graph})], CONV),
        "the attributes ['strides']",
    ),
    "a branch": (lambda: model([("If", "x", "y", {"then_branch": model([("Relu", "x", "y", {})]).graph})]), "isn't supported"),
    "too many inputs": (lambda: model([("Relu", "x x x", "y", {})]), "Relu '': it has 3 inputs"),
    "no inputs": (lambda: model([("Relu", "", "y", {})]), "Relu '': it takes nothing"),
    "no opset": (lambda: onnx.ModelProto(graph=model([("Relu", "x", "y", {})]).graph), "no graph of standard operators"),
    "an old opset": (lambda: model([("Relu", "x", "y", {})], opset=6), "of version 6"),
    "two inputs": (
        lambda: changed(lambda graph: graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))),
        "must have one input",
    ),
    "an input of vectors": (lambda: model([("Relu", "x", "y", {})], shape=(1, 4)), "must be pictures"),
    "an input of words": (
        lambda: changed(lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)),
        "STRING",
    ),
    "half precision": (lambda: changed(lambda graph: setattr(graph.initializer[0], "data_type", TensorProto.FLOAT16)), "FLOAT16"),
    "an unknown type": (lambda: changed(lambda graph: setattr(graph.initializer[0], "data_type", 999)), "999 (unknown)"),
    "two outputs": (lambda: changed(lambda graph: graph.output.add(name="x")), "choose one by output="),
    "an empty file": (lambda: onnx.ModelProto(), "no graph of standard operators"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(864))
    (folder / "short.bin").write_bytes(bytes(10))
    (folder / "weights.bin").write_bytes(bytes(864))
    (folder / "link").symlink_to(tmp_path / "weights.bin")
    make, message = HOSTILE[name]
    path = saved(make(), folder)
    monkeypatch.setattr(onnx_constants, "MOST_CALCULATED", 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"network\.onnx: ") as caught:
            from_onnx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)


def test_broken_files(tmp_path):
    """Truncated anywhere or with bytes changed, a file is an error that names it, or still a network."""
    nodes = [
        ("Conv", "x W B", "a", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "a s b m v", "n", {}),
        ("Relu", "n", "r", {}),
        ("MaxPool", "r", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", "p shape", "f", {}),
        ("Gemm", "f G", "y", {"transB": 1}),
    ]
    norms = {name: np.ones(6, np.float32) for name in BN}
    constants = {**CONV, **norms, "shape": int64(0, -1), "G": weights(3, 120)}
    whole = model(nodes, constants).SerializeToString()
    path = tmp_path / "network.onnx"
    rng = np.random.default_rng(0)
    outcomes = {"network": 0, "error": 0}
    lengths = [whole[:length] for length in range(0, len(whole), 37)]
    changes = []
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            data[place] = rng.integers(256)
        changes.append(bytes(data))
    for data in (*lengths, *changes):
        path.write_bytes(data)
        try:
            from_onnx(path)
            outcomes["network"] += 1
        except ValueError as error:
            outcomes["error"] += str(error).startswith(str(path))
    assert sum(outcomes.values()) == len(lengths) + len(changes)
    assert min(outcomes.values()) > 20, outcomes


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(IsADirectoryError):
        from_onnx(tmp_path)

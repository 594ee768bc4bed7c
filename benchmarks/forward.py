"""The forward pass of VGG16 up to its last convolution, beside torch, ONNX Runtime and Chainer, and of ResNet50, beside torch.

    python benchmarks/forward.py --batch 1 4

Weights, pictures and threads are the same. Ours is the chain called as Chainer has it, under ``accelerate()``. Writes CSV as
``benchmarks/runner.py`` says, by default to ``benchmarks/results/<device>.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import dcnn_visualizer.traceable_nodes as tn  # noqa: E402
from benchmarks.projection import noise, resnet50, torch_twin, vgg16, vgg16_flop  # noqa: E402
from benchmarks.runner import Point, Work, arguments, backend, cores, run  # noqa: E402
from dcnn_visualizer import accelerate  # noqa: E402
from dcnn_visualizer.traceable_chain import TraceableChain  # noqa: E402

LAST = "conv5_3"
OPSET = 17


def by_chainer(
    chain: TraceableChain, context: Callable[[], AbstractContextManager], last: str = LAST
) -> Callable[[np.ndarray], np.ndarray]:
    import chainer

    chain.pick = last

    def run(x: np.ndarray) -> np.ndarray:
        with chainer.using_config("train", False), chainer.no_backprop_mode(), context():
            return chain(x).array

    return run


def by_torch(chain: TraceableChain, last: str = LAST) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    network = torch_twin(chain, last)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return run


def by_onnxruntime(chain: TraceableChain) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()  # --threads holds the process to so many
    session = onnxruntime.InferenceSession(as_onnx(chain), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"0": x})[0]


def as_onnx(chain: TraceableChain) -> bytes:
    """A sequential chain of convolutions, rectifiers and poolings as an ONNX file, up to ``LAST``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = chain.graph()
    nodes, weights = [], []
    for number, step in enumerate(graph.steps[: graph.index(LAST) + 1]):
        inputs, node, attributes = [str(number)], step.node, {}
        if isinstance(node, tn.TraceableConvolution2D):
            kind, attributes = "Conv", {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
            for name, array in (("W", node.W.array), ("b", node.b.array)):
                weights.append(numpy_helper.from_array(array, f"{name}{number}"))
                inputs.append(f"{name}{number}")
        elif isinstance(node, tn.TraceableMaxPooling2D):
            kind, attributes = "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}
        else:
            kind = "Relu"
        nodes.append(helper.make_node(kind, inputs, [str(number + 1)], **attributes))
    given = helper.make_tensor_value_info("0", TensorProto.FLOAT, ["batch", 3, 224, 224])
    made = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["batch", 512, 14, 14])
    model = helper.make_model(
        helper.make_graph(nodes, "vgg16", [given], [made], weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


PEERS: dict[str, tuple[Callable[[TraceableChain], Any], tuple[str, ...]]] = {
    "torch": (by_torch, ("torch",)),
    "onnxruntime": (by_onnxruntime, ("onnx", "onnxruntime")),
    "chainer": (lambda chain: by_chainer(chain, nullcontext), ()),
}


def work(batch: int, peer: Callable[[TraceableChain], Any]) -> Work:
    """The forward pass of so many pictures."""
    chain = vgg16()
    weights = sum(parameter.array.nbytes for parameter in chain.params())
    moved = weights + 4 * batch * (3 * 224**2 + 512 * 14**2)
    return Work(by_chainer(chain, accelerate), lambda: peer(chain), noise(batch), nbytes=moved, flop=batch * vgg16_flop(0))


def resnet50_work(batch: int) -> Work:
    """The same to the class scores of ResNet50, beside torch."""
    chain = resnet50()
    last = chain.graph().steps[-1].path
    moved = sum(parameter.array.nbytes for parameter in chain.params()) + 4 * batch * (3 * 224**2 + 1000)
    return Work(by_chainer(chain, accelerate, last), lambda: by_torch(chain, last), noise(batch), nbytes=moved)


def points(batches: tuple[int, ...] = (1,)) -> Iterator[Point]:
    """Each batch size beside each peer."""
    for batch in batches:
        for peer, (make, needs) in PEERS.items():
            name, shape = f"vgg16 to {LAST}", f"{batch}x3x224x224"
            yield Point("forward", lambda b=batch, m=make: work(b, m), name, shape, "float32", backend(), peer, needs)
        yield Point(
            "forward", partial(resnet50_work, batch), "resnet50 class scores", shape, "float32", backend(), "torch", ("torch",)
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    run(points(tuple(options.batch)), options)


if __name__ == "__main__":
    main()

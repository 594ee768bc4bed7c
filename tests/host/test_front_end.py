"""Chains moved to a device and back: forward passes, projections and occlusion, run by the host build and Chainer on it."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
    import cupy
    import numpy as np

    import dcnn_visualizer
    from dcnn_visualizer import reversal
    from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
    from dcnn_visualizer.occlusion import SaliencyVisualizer
    from dcnn_visualizer.reversal import Peak
    from tests.visualizer.networks import chainer, picture, random_chain, random_graph

    rng = np.random.default_rng(5)
    model = random_chain(rng, dtype=np.float32)
    x = picture(rng, 2, 3, 14, 13, dtype=np.float32)
    layers = (("fc", 2), ("block", [1, (0, 1, 1)]), ("mixed", None), ("block", [0, 1, 2]), ("pool1", [Peak(0), (1, 2, 2)]))
    reversal.WAYS = 0.1  # so that neurons go by their receptive fields

    def answers(x):
        with chainer.using_config("train", False), chainer.no_backprop_mode():
            yield model(x)[-1].array
            with dcnn_visualizer.accelerate():
                yield model(x)[-1].array
        for method in (SaliNet, DeconvNet, DeSaliNet):
            for layer, index in layers:
                yield method(model).analyze(x, layer, index)
        for saliency in SaliencyVisualizer(model).analyze(x, "grouped", 5, 6):
            yield saliency.data

    expected = list(answers(x))
    model.to_device("@cupy:0")
    for got, want in zip(answers(cupy.asarray(x)), expected, strict=True):
        assert isinstance(got, cupy.ndarray), type(got)
        np.testing.assert_allclose(got.get(), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    model.to_device("@numpy")
    for got, want in zip(answers(x), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    print("equal", len(expected))
    x = rng.standard_normal((2, 3, 14, 13)).astype(np.float32)
    for seed in (0, 1, 2, 3):  # graphs whose steps go together
        model = random_graph(np.random.default_rng(seed), 9, np.float32)
        methods = [SaliNet, DeconvNet, DeSaliNet]
        expected = [method(model).analyze(x, "l8", [1, None, 0]) for method in methods]
        model.to_device("@cupy:0")
        for method, want in zip(methods, expected, strict=True):
            got = method(model).analyze(cupy.asarray(x), "l8", [1, None, 0]).get()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    print("graphs too")
"""


def test_the_front_end_gives_cupy_arrays_equal_to_numpys():
    path = [ROOT / "tests" / "host", ROOT, ROOT / "kernels"]
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n" + textwrap.dedent(PROGRAM)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "equal 19\ngraphs too" in run.stdout

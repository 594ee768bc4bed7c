"""Projections and occlusion with CuPy arrays, the kernels behind them run by the host build."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
    import cupy
    import numpy as np

    from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
    from dcnn_visualizer.occlusion import SaliencyVisualizer
    from tests.visualizer.networks import picture, random_chain

    def to_device(link):
        # Chainer knows no stand-in for CuPy, so to_device('@cupy:0') isn't to be had: exchange the arrays by hand.
        for part in link.links():
            for name in part._persistent:
                if isinstance(getattr(part, name), np.ndarray):
                    setattr(part, name, cupy.asarray(getattr(part, name)))
            for name in part._params:
                parameter = getattr(part, name)
                parameter._data = [cupy.asarray(parameter.array)]

    rng = np.random.default_rng(5)
    model = random_chain(rng, dtype=np.float32)
    x = picture(rng, 2, 3, 14, 13, dtype=np.float32)
    model(x)
    layers = (("fc", 2), ("block", [1, (0, 1, 1)]), ("mixed", None))

    def answers(x):
        for method in (SaliNet, DeconvNet, DeSaliNet):
            for layer, index in layers:
                yield method(model).analyze(x, layer, index)
        for saliency in SaliencyVisualizer(model).analyze(x, "grouped", 5, 6):
            yield saliency.data

    expected = list(answers(x))
    to_device(model)
    for got, want in zip(answers(cupy.asarray(x)), expected, strict=True):
        assert isinstance(got, cupy.ndarray), type(got)
        np.testing.assert_allclose(got.get(), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    print("equal", len(expected))
"""


def test_the_front_end_gives_cupy_arrays_equal_to_numpys():
    path = [ROOT / "tests" / "host", ROOT, ROOT / "kernels"]
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n" + textwrap.dedent(PROGRAM)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "equal 11" in run.stdout

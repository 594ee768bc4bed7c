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


#: What the programs about CUDA graphs share: two equal models, of which one never uses any.
GRAPHS = """
    import copy
    import gc
    import threading

    import cupy
    import numpy as np

    import dcnn_visualizer.traceable_nodes as tn
    from dcnn_kernels.cuda.settings import graphs, precision
    from dcnn_visualizer import cuda_graphs
    from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
    from dcnn_visualizer.recording import recording_of
    from dcnn_visualizer.reversal import Peak
    from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual
    from dcnn_visualizer.walk import Walk

    rng = np.random.default_rng(5)
    launches = []
    launch = cupy.cuda.Graph.launch
    cupy.cuda.Graph.launch = lambda *args: launches.append(threading.get_ident()) or launch(*args)

    def chain(**first):
        block = TraceableChain(
            conv=tn.TraceableConvolution2D(5, 5, 3, pad=1), bn=tn.TraceableBatchNormalization(5), relu=tn.TraceableReLU()
        )
        model = TraceableChain(
            **first,
            conv1=tn.TraceableConvolution2D(3, 5, 3, pad=1),
            relu1=tn.TraceableReLU(),
            pool1=tn.TraceableMaxPooling2D(2),
            lrn1=tn.TraceableLocalResponseNormalization(),
            block=TraceableResidual(block),
            conv2=tn.TraceableConvolution2D(5, 6, 3, pad=1),
            relu2=tn.TraceableReLU(),
            fc=tn.TraceableLinear(None, 10),
        )
        model(picture_of(1)[None].get())
        return model

    def picture_of(seed, size=10):
        return cupy.asarray(np.random.default_rng(seed).standard_normal((3, size, size)).astype(np.float32))

    def pair_of_models(**first):
        model = chain(**first)
        twin = copy.deepcopy(model)
        model.to_device("@cupy:0"), twin.to_device("@cupy:0")
        return model, twin

    def equal(models, x, layer="conv2", index=1, method=SaliNet, **options):
        model, twin = models
        got = method(model).analyze(x, layer, index, **options)
        with graphs(False):
            before = len(launches)
            expected = method(twin).analyze(x, layer, index, **options)
            assert len(launches) == before
        assert type(got) is cupy.ndarray
        np.testing.assert_array_equal(got.get(), expected.get())
        return got

    def launched(run):
        before = len(launches)
        run()
        return len(launches) - before

    def warm(models, **options):
        for seed in range(4):
            equal(models, picture_of(seed), **options)
"""

ANSWERS = """
    models = model, twin = pair_of_models()
    counts = [launched(lambda: equal(models, picture_of(seed))) for seed in range(6)]
    assert counts == [0, 1, 2, 2, 2, 2], counts  # recorded by a graph from the second on, reversed from the third
    assert launched(lambda: equal(models, picture_of(5), index=3)) == 1  # the picture is recorded already
    assert launched(lambda: equal(models, picture_of(6), index=3, seed="one")) == 2
    assert launched(lambda: equal(models, picture_of(7)[None])) == 2
    several = [1, Peak(2), (0, 1, 1), None]
    counts = [launched(lambda: equal(models, picture_of(seed), index=several)) for seed in (7, 8, 9)]
    assert counts == [0, 2, 2], counts

    before = len(cuda_graphs._kept.graphs)
    for changed in models:
        changed.conv1.W.array *= 1.5
        changed.block.body.bn.avg_var[...] = 2
    assert launched(lambda: equal(models, picture_of(8))) == 2  # in place: the same graphs
    assert launched(lambda: equal(models, picture_of(9))) == 2
    assert len(cuda_graphs._kept.graphs) == before
    pointer = model.conv1.W.array.data.ptr
    W = rng.standard_normal(model.conv1.W.shape).astype(np.float32)
    for changed in models:
        changed.conv1.W.array = cupy.asarray(W)
    assert launched(lambda: equal(models, picture_of(9))) == 0  # new ones
    warm(models)
    assert launched(lambda: equal(models, picture_of(10))) == 2
    for changed in models:
        changed.lrn1.alpha = 0.3
        changed.pool1.ksize = (3, 3)
    assert launched(lambda: equal(models, picture_of(10))) == 0
    warm(models)

    for method in (DeconvNet, DeSaliNet):
        for layer, index in (("conv2", 1), ("relu2", 0), ("block", 2), ("fc", 3), ("fc", [1, 2]), ("pool1", None)):
            warm(models, method=method, layer=layer, index=index)
            assert launched(lambda: equal(models, picture_of(20), method=method, layer=layer, index=index)) > 0, layer
    for size in (8, 12):
        assert launched(lambda: equal(models, picture_of(1, size))) == 0
    batch = cupy.stack([picture_of(seed) for seed in range(4)])
    for part in (batch[:2], batch[2:], batch[1:3], batch[::2], batch[1::2]):
        equal(models, part)
        equal(models, part, index=[0, 1, 2])
    assert launched(lambda: equal(models, batch[:2] * 2)) == 2
    warm(models)
    with precision("tf32"):
        assert launched(lambda: equal(models, picture_of(30))) == 0
    stream = cupy.cuda.Stream()
    with stream:
        assert launched(lambda: equal(models, picture_of(31))) == 0
        warm(models)
        assert launched(lambda: equal(models, picture_of(32))) == 2
    assert launched(lambda: equal(models, picture_of(33))) == 2
    assert launched(lambda: equal(models, picture_of(34), memory_budget=1 << 30)) == 0

    def in_a_thread():
        warm(models)
        equal(models, picture_of(35))

    thread = threading.Thread(target=in_a_thread)
    thread.start(), thread.join()
    assert launches.count(thread.ident) == 1 + 3 * 2, launches.count(thread.ident)
    with cupy.cuda.Device(1):
        others = pair_of_models()
        for other in others:
            other.to_device("@cupy:1")
        warm(others)
        assert launched(lambda: equal(others, picture_of(36))) == 2

    models = model, twin = pair_of_models()  # a recording that is held keeps its arrays
    warm(models)
    held = recording_of(model, picture_of(3)[None])
    target = held.graph.index("conv2")
    before = held.extend(target).get(), held.records[0], held.records[2][0].get()
    assert launched(lambda: equal(models, picture_of(40))) == 0
    for got, expected in zip((held.extend(target).get(), held.records[0], held.records[2][0].get()), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    del held
    assert launched(lambda: equal(models, picture_of(41))) == 2
    walk = Walk(recording_of(model, picture_of(41)[None]), target, SaliNet(model).rule, 1)
    signals = [cupy.asarray(rng.standard_normal((1, 6, 5, 5)).astype(np.float32)) for _ in range(4)]
    pixels = [walk.back(signal) for signal in signals]  # results stay what they are
    for signal, got in zip(signals, pixels, strict=True):
        with graphs(False):
            np.testing.assert_array_equal(got.get(), walk.back(signal).get())

    for device in (0, 1):  # nothing is read that would tell devices apart
        with cupy.cuda.Device(device):
            model = TraceableChain(relu=tn.TraceableReLU(), pool=tn.TraceableMaxPooling2D(2))
            counts = [launched(lambda: equal((model, model), picture_of(seed), "pool", 0)) for seed in (50, 51)]
            assert counts == [0, 1], counts
    print("replayed")
"""

REFUSALS = """
    calls = []

    def function(x):
        calls.append(x)
        return x * len(calls)

    class Own(tn.TraceableConvolution2D):
        def record(self, x, z=None):
            calls.append(x)
            return super().record(x * len(calls))

    for first in ({"own": function}, {"own": Own(3, 3, 1)}):
        models = model, twin = pair_of_models(**first)
        for seed in range(5):
            calls = []
            got = SaliNet(model).analyze(picture_of(seed), "conv2", 1)
            calls = []
            with graphs(False):
                np.testing.assert_array_equal(got.get(), SaliNet(twin).analyze(picture_of(seed), "conv2", 1).get())
    assert not launches

    models = pair_of_models()
    whole = cuda_graphs.LARGEST
    cuda_graphs.LARGEST = 5000
    warm(models)
    assert not launches
    cuda_graphs.LARGEST = whole
    assert list(cuda_graphs._kept.graphs.values()).count(False) == 1, cuda_graphs._kept.graphs.values()

    models = pair_of_models()
    capture, failing = cupy.cuda.Stream.begin_capture, lambda self, mode=None: capture(self) or self.synchronize()
    cupy.cuda.Stream.begin_capture = failing
    warm(models)
    assert not launches
    cupy.cuda.Stream.begin_capture = capture
    cuda_graphs._kept.graphs.clear()

    taken = cupy.cuda._blocks
    del models, model, twin
    gc.collect()
    before = sum(taken.values())
    models = model, twin = pair_of_models()
    bare = sum(taken.values())
    warm(models)
    assert sum(isinstance(found, cuda_graphs._Launchable) for found in cuda_graphs._kept.graphs.values()) == 2
    model.conv1.W.array = model.conv1.W.array.copy()
    assert not any(cuda_graphs._kept.graphs.values())
    warm(models)
    assert any(cuda_graphs._kept.graphs.values())
    del models, model, twin
    gc.collect()
    assert not any(cuda_graphs._kept.graphs.values())
    assert sum(taken.values()) == before, (sum(taken.values()), before)
    models = pair_of_models()
    cuda_graphs.MEMORY = 0
    warm(models)
    assert sum(isinstance(found, cuda_graphs._Launchable) for found in cuda_graphs._kept.graphs.values()) <= 1
    cuda_graphs.PIECES = 8
    for size in range(4, 20):
        equal(models, picture_of(0, size), "conv1")
    assert len(cuda_graphs._kept.graphs) == cuda_graphs.PIECES
    print("refused")
"""


def run(program):
    path = [ROOT / "tests" / "host", ROOT, ROOT / "kernels"]
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n" + textwrap.dedent(program)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_front_end_gives_cupy_arrays_equal_to_numpys():
    assert "equal 19\ngraphs too" in run(PROGRAM)


def test_repeated_work_is_launched_as_graphs_and_gives_the_very_same():
    assert "replayed" in run(GRAPHS + ANSWERS)


def test_what_no_graph_may_hold_runs_as_it_is_and_graphs_hold_no_memory_for_good():
    assert "refused" in run(GRAPHS + REFUSALS)

"""Steps that go together, and signals that go in parts, give what each gives on its own."""

import itertools
import tracemalloc

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer import walk
from dcnn_visualizer.desalinet import DeconvNet, SaliNet
from dcnn_visualizer.graph import PICTURE
from dcnn_visualizer.recording import Recording, of_pictures, recording_of
from dcnn_visualizer.reversal import Reversal, Rule
from dcnn_visualizer.stages import stages
from dcnn_visualizer.traceable_chain import TraceableChain
from dcnn_visualizer.traceable_graph import TraceableGraph
from tests.visualizer.networks import picture, random_graph, watch_kernels

CELLS = list(itertools.product([True, False], [True, False], ["switch", "center", "spread"]))


def forward(graph, x):
    """Activations and records, step by step."""
    activations, records = {PICTURE: x}, []
    for index, (_, node, inputs) in enumerate(graph.steps):
        activations[index], record = node.record(*(activations[source] for source in inputs))
        records.append(record)
    return activations, records


def back(graph, records, target, signal, rule_of):
    """The way back, step by step."""
    signals = {target: signal}
    for index in reversed(graph.ancestors([target])):
        _, node, inputs = graph.steps[index]
        parts = node.reverse(signals.pop(index), records[index], rule_of(index))
        for source, part in zip(inputs, parts if isinstance(parts, tuple) else (parts,), strict=True):
            signals[source] = signals[source] + part if source in signals else part
    return signals[PICTURE]


@given(st.integers(0, 10_000), st.sampled_from(CELLS), st.sampled_from([1, 10_000, 40_000, 1 << 30]))
@settings(max_examples=60, deadline=None)
def test_steps_together_and_signals_in_parts_are_steps_and_signals_alone(seed, cell, part):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng).graph()
    target, x = int(rng.integers(3, len(graph.steps))), rng.standard_normal((5, 3, 16, 18))
    activations, records = forward(graph, x)
    recording = Recording(graph, x, b"")
    np.testing.assert_allclose(recording.extend(target), activations[target], rtol=1e-10, atol=1e-10)
    for step in graph.ancestors([target]):
        np.testing.assert_allclose(recording.extend(step), activations[step], rtol=1e-10, atol=1e-10)

    rule = Rule(*cell)
    exceptions = {step: Rule(*CELLS[rng.integers(len(CELLS))]) for step in range(target) if rng.random() < 0.3}
    signal = rng.standard_normal(activations[target].shape) * (rng.random(activations[target].shape[1:]) < 0.3)
    signal[:, rng.integers(signal.shape[1])] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "PART", part)
        got = walk.Walk(recording, target, rule, 5, exceptions=exceptions).back(signal)
        expected = back(graph, records, target, signal, lambda step: exceptions.get(step, rule))
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
        of_one = [of_pictures(record, slice(3, 4)) for record in records]
        several = np.concatenate([signal, -signal[:3]])
        for budget in (None, 1, 100_000):
            way = walk.Walk(recording, target, rule, len(several), budget, picture=3)
            assert 1 <= way.size <= len(several)
            expected = back(graph, of_one, target, several, lambda _: rule)
            np.testing.assert_allclose(way.back(several), expected, rtol=1e-9, atol=1e-9)


def test_the_picture_itself_is_there_already():
    recording, signal = (
        Recording(random_graph(np.random.default_rng(0)).graph(), np.ones((2, 3, 4, 4)), b""),
        np.ones((2, 3, 4, 4)),
    )
    assert walk.Walk(recording, PICTURE, Rule(True, True), 2).back(signal) is signal


def graph_of(*layers):
    model = TraceableGraph()
    for name, layer, *sources in layers:
        model.connect(name, layer, *sources)
    return model.graph()


def paths(graph, target):
    return [[graph.steps[step].path for step in stage.steps] for stage in stages(graph, graph.index(target), lambda _: True)]


def convolution(inputs=4, outputs=4):
    return tn.TraceableConvolution2D(inputs, outputs, 3, pad=1)


def test_what_goes_back_together():
    rows = [
        ("c1", convolution(3)),
        ("r1", tn.TraceableReLU()),
        ("c2", convolution()),
        ("r2", tn.TraceableClippedReLU()),
        ("p2", tn.TraceableMaxPooling2D(2)),
        ("c3", convolution()),
        ("p3", tn.TraceableMaxPooling2D(2)),
        ("r3", tn.TraceableReLU()),
        ("c4", convolution()),
    ]
    graph = graph_of(*rows)
    assert paths(graph, "c4") == [["c4", "r3"], ["p3", "c3"], ["p2", "r2", "c2", "r1"], ["c1"]]
    assert paths(graph, "r2") == [["r2"], ["c2", "r1"], ["c1"]]
    # A signal that starts in few channels keeps to them up to the first convolution, which takes only those.
    assert paths(graph, "p2") == [["p2", "r2"], ["c2", "r1"], ["c1"]]


@pytest.mark.parametrize("layer", [tn.TraceableLeakyReLU(), tn.TraceablePReLU()])
def test_what_scales_negative_signals_goes_back_alone(layer):
    graph = graph_of(("c1", convolution(3)), ("between", layer), ("c2", convolution()))
    assert paths(graph, "c2") == [["c2"], ["between"], ["c1"]]


def test_batch_normalization_goes_back_with_the_convolution_before():
    bn = tn.TraceableBatchNormalization(4)
    graph = graph_of(("c1", convolution(3)), ("relu", tn.TraceableReLU()), ("c2", convolution()), ("bn", bn))
    assert paths(graph, "bn") == [["bn", "c2", "relu"], ["c1"]]


def test_a_relu_that_serves_two_goes_back_alone():
    graph = graph_of(("c1", convolution(3)), ("r1", tn.TraceableReLU()), ("c2", convolution()), ("sum", tn.Add(), "r1", "c2"))
    assert paths(graph, "sum") == [["sum"], ["c2"], ["r1"], ["c1"]]
    assert paths(graph, "c2") == [["c2", "r1"], ["c1"]]


def test_nodes_of_ones_own_go_alone(monkeypatch):
    class Convolution(tn.TraceableConvolution2D):
        pass

    class ReLU(tn.TraceableReLU):
        def reverse(self, signal, record, rule):
            return 7 * super().reverse(signal, record, rule)

    rng = np.random.default_rng(0)
    model = TraceableChain(
        c1=Convolution(3, 4, 3),
        r1=ReLU(),
        c2=tn.TraceableConvolution2D(4, 4, 3),
        p2=tn.TraceableMaxPooling2D(2),
        fc=convolution(),
    )
    assert paths(model.graph(), "fc") == [["fc"], ["p2", "c2"], ["r1"], ["c1"]]
    x, rule = picture(rng, 1, 3, 12, 12).astype(np.float32), Rule(True, False)
    activations, records = forward(model.graph(), x)
    expected = back(model.graph(), records, 4, activations[4], lambda _: rule)
    names = watch_kernels(monkeypatch)
    np.testing.assert_allclose(SaliNet(model).analyze(x, "fc"), expected, rtol=1e-4, atol=1e-5)
    assert names.count("relu_reverse") == names.count("relu") == 1


def test_a_convolutions_own_output_is_made_when_asked_for(monkeypatch):
    rng = np.random.default_rng(0)
    model = TraceableChain(
        c1=convolution(3), r1=tn.TraceableReLU(), c2=convolution(), r2=tn.TraceableClippedReLU(0.5), c3=convolution()
    )
    x = rng.standard_normal((2, 3, 12, 12)).astype(np.float32)
    activations, records = forward(model.graph(), x)
    names = watch_kernels(monkeypatch)
    recording = recording_of(model, x)
    np.testing.assert_allclose(recording.extend(4), activations[4], rtol=1e-5, atol=1e-5)
    assert names == ["convolution_2d", "relu_mask"] * 2 + ["convolution_2d"]
    for rectifier in (1, 3):
        np.testing.assert_array_equal(recording.records[rectifier], records[rectifier])
    names.clear()
    for method in (SaliNet, DeconvNet):
        got = method(model).analyze(x, "c2", 1, "activation")
        seed = np.zeros_like(activations[2])
        seed[:, 1] = activations[2][:, 1]
        rule = method(model).rule
        np.testing.assert_allclose(got, back(model.graph(), records, 2, seed, lambda _, rule=rule: rule), rtol=1e-4, atol=1e-5)
    assert names.count("convolution_2d") == 1  # that layer alone, and once


def test_a_budget_bounds_the_signals_of_a_walk():
    model = TraceableChain(
        **{
            f"{kind}{n}": layer
            for n in range(4)
            for kind, layer in (
                ("c", convolution(4 << n, 8 << n)),
                ("r", tn.TraceableReLU()),
                ("p", tn.TraceableMaxPooling2D(2)),
            )
        }
    )
    x = np.random.default_rng(0).standard_normal((1, 4, 256, 256)).astype(np.float32)
    places = list(range(48))
    SaliNet(model).analyze(x, "p3", places[:2])
    one = recording_of(model, x).sizes[0]
    peaks = {}
    for budget in (None, 4 * one, 24 * one):
        tracemalloc.start()
        SaliNet(model).analyze(x, "p3", places, memory_budget=budget)
        peaks[budget] = tracemalloc.get_traced_memory()[1] - len(places) * x.nbytes
        tracemalloc.stop()
    room = 32 << 20  # for convolutions to work in
    assert peaks[4 * one] < 4 * one + room
    assert peaks[24 * one] < 24 * one + room
    assert peaks[None] < walk.PART * 3 + room < len(places) * 2 * one  # as all at once would take


def test_reversals_of_every_cell_go_through_the_fused_kernels(monkeypatch):
    model = TraceableChain(
        c1=convolution(3), r1=tn.TraceableReLU(), c2=convolution(), r2=tn.TraceableReLU(), p2=tn.TraceableMaxPooling2D(2),
        c3=convolution(),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    names = watch_kernels(monkeypatch)
    for cell in CELLS:
        Reversal(model, *cell).analyze(x, "c3", 0)
        joined = ["unpooled_transposed_convolution_2d"] if cell[2] == "switch" else ["unpooling_2d", "transposed_convolution_2d"]
        assert names[-2 - len(joined) :] == ["transposed_convolution_2d", *joined, "transposed_convolution_2d"]
    assert "relu_reverse" not in names

import itertools

import chainer
import chainer.functions as F
import numpy as np
import pytest

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer import recording
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
from dcnn_visualizer.fingerprint import fingerprint
from dcnn_visualizer.traceable_chain import TraceableChain
from tests.visualizer.networks import SimpleCNN, picture, random_chain


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def convolutions(monkeypatch):
    """Counts forward convolutions."""
    calls = []
    original = dcnn_kernels.convolution_2d
    monkeypatch.setattr(dcnn_kernels, "convolution_2d", lambda *a, **k: calls.append(1) or original(*a, **k))
    return calls


def test_the_forward_pass_runs_once_for_all_layers_and_methods(x, convolutions):
    model = SimpleCNN()
    for layer in ("conv1", "conv2", "fc4", "conv1_relu", "conv2"):
        for method in (SaliNet, DeconvNet, DeSaliNet):
            method(model).analyze(x, layer, 1)
            method(model).analyze(x.copy(), layer, [0, 2])
    assert len(convolutions) == 2


def fresh(model, x, layer="fc4"):
    return SaliNet(model.copy("copy")).analyze(x, layer, 1)


def test_a_picture_changed_in_place_is_seen(x):
    model = SimpleCNN()
    before = SaliNet(model).analyze(x, "fc4", 1)
    x[0, 1, 5, 7] += 2
    after = SaliNet(model).analyze(x, "fc4", 1)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, fresh(model, x))


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc3", "fc4"])
@pytest.mark.parametrize("parameter", ["W", "b"])
def test_a_weight_changed_in_place_is_seen(x, layer, parameter):
    model = SimpleCNN()
    before = SaliNet(model).analyze(x, "fc4", 1)
    array = getattr(model[layer], parameter).array
    array[...] = 1.5 * array + 0.1
    after = SaliNet(model).analyze(x, "fc4", 1)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, fresh(model, x))


def test_statistics_settings_and_layers_changed_are_seen():
    rng = np.random.default_rng(2)
    model = random_chain(rng)
    x = picture(rng, 1, 3, 16, 16)

    def answer():
        return SaliNet(model).analyze(x, "fc", 1)

    answers = [answer()]
    model.bn1.avg_var[0] *= 3
    answers.append(answer())
    model.lrn1.alpha = 0.7
    answers.append(answer())
    del model.act1
    answers.append(answer())
    for before, after in itertools.pairwise(answers):
        assert not np.array_equal(before, after)
    np.testing.assert_array_equal(answers[-1], fresh(model, x, "fc"))


def test_a_weight_within_a_link_that_is_no_node_is_seen():
    model = TraceableChain(scale=chainer.links.Scale(1, (3,)), relu=tn.TraceableReLU())
    model.scale.W.array[...] = 1
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    before = SaliNet(model).analyze(x, "relu")
    model.scale.W.array[0] = -1
    assert not np.array_equal(before, SaliNet(model).analyze(x, "relu"))


def test_a_function_that_may_hold_anything_is_never_trusted():
    factor = [1.0]
    model = TraceableChain(scale=lambda x: x * factor[0], relu=tn.TraceableReLU())
    x = np.ones((1, 3, 4, 4), np.float32)
    assert SaliNet(model).analyze(x, "relu").max() == 1
    factor[0] = 5.0
    assert SaliNet(model).analyze(x, "relu").max() == 5


def test_a_small_budget_changes_nothing(x, monkeypatch):
    rng = np.random.default_rng(5)
    model = random_chain(rng)
    x = picture(rng, 2, 3, 16, 16)
    layers = ["fc", "conv1", "block/project", "pool1", "fc", "mixed"]
    plenty = [DeSaliNet(model).analyze(x, layer, 1) for layer in layers]
    monkeypatch.setattr(recording, "ACTIVATION_BUDGET", 1)
    recording._latest.clear()
    for layer, expected in zip(layers, plenty, strict=True):
        np.testing.assert_array_equal(DeSaliNet(model).analyze(x, layer, 1), expected)


def test_recordings_die_with_their_model(x):
    model = SimpleCNN()
    SaliNet(model).analyze(x, "conv1", 0)
    count = len(recording._latest)
    del model
    assert len(recording._latest) < count


def test_masks_take_one_bit_and_switches_one_byte(x):
    model = SimpleCNN()
    kept = recording.recording_of(model, x)
    kept.extend(model.graph().index("conv1_mp"))
    records = {kept.graph.steps[i].path: record for i, record in kept.records.items()}
    assert records["conv1_relu"].nbytes == 2 * 10 * 30 * 30 // 8
    switches, insize = records["conv1_mp"]
    assert switches.nbytes == 2 * 10 * 15 * 15
    assert insize == (30, 30)


@pytest.mark.parametrize("shape", [(7,), (5000,), (3, 4096), (2, 3, 33, 35)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_every_single_change_and_exchange_changes_the_fingerprint(shape, dtype):
    rng = np.random.default_rng(0)
    array = (rng.random(shape) * 200).astype(dtype)
    before = fingerprint([array])
    assert before == fingerprint([array.copy()])
    flat = array.reshape(-1)
    for i in rng.integers(0, flat.size, 20):
        kept = flat[i]
        flat[i] = kept + 1
        assert fingerprint([array]) != before
        flat[i] = kept
        j = int(rng.integers(0, flat.size))
        if flat[i] != flat[j]:
            flat[[i, j]] = flat[[j, i]]
            assert fingerprint([array]) != before
            flat[[i, j]] = flat[[j, i]]
    assert fingerprint([array]) == before
    assert fingerprint([array.reshape(-1, 1)]) != before
    assert fingerprint([array, None]) != before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_changed_signs_change_the_fingerprint(dtype):
    array = np.random.default_rng(0).standard_normal((64, 1024)).astype(dtype)
    before = fingerprint([array])
    assert fingerprint([-array]) != before
    array[:2, 3:9] *= -1
    assert fingerprint([array]) != before


def test_rows_exchanged_change_the_fingerprint():
    array = np.random.default_rng(0).random((8, 1024))
    assert fingerprint([array]) != fingerprint([array[[1, 0, *range(2, 8)]]])
    assert fingerprint([array]) != fingerprint([array[:, ::-1]])
    assert fingerprint([array[:, ::2]]) == fingerprint([array[:, ::2].copy()])


def test_functions_of_chainer_are_trusted(x, convolutions):
    model = TraceableChain(conv=tn.TraceableConvolution2D(3, 2, 3), act=F.sigmoid)
    for _ in range(3):
        SaliNet(model).analyze(x, "act", 1)
    assert len(convolutions) == 1


@pytest.mark.parametrize("rectifier", [tn.TraceableReLU(), tn.TraceableClippedReLU(0.7), tn.TraceableLeakyReLU()])
@pytest.mark.parametrize("nobias", [False, True])
def test_convolutions_go_on_through_batch_normalizations_and_rectifiers(x, rectifier, nobias, monkeypatch):
    rng = np.random.default_rng(1)
    bn = tn.TraceableBatchNormalization(5)
    for array in (bn.gamma.array, bn.beta.array, bn.avg_mean):
        array[...] = rng.standard_normal(5)
    bn.avg_var[...] = rng.uniform(0.5, 2, 5)
    conv = tn.TraceableConvolution2D(3, 5, 3, nobias=nobias)
    if not nobias:
        conv.b.array[...] = rng.standard_normal(5)
    model = TraceableChain(conv=conv, bn=bn, rectifier=rectifier, pool=tn.TraceableMaxPooling2D(2))
    alone, record = x, {}
    for step in model.graph().steps:
        alone, record[step.path] = step.node.record(alone)
    called = []
    original = dcnn_kernels.batch_normalization
    monkeypatch.setattr(dcnn_kernels, "batch_normalization", lambda *a: called.append(1) or original(*a))
    graph = model.graph()
    recorded = recording.Recording(graph, x)
    np.testing.assert_allclose(recorded.extend(graph.index("pool")), alone, rtol=1e-4, atol=1e-5)
    assert not called
    for path, expected in record.items():
        kept = recorded.records[graph.index(path)]
        for one, other in zip(kept, expected, strict=True) if isinstance(expected, tuple) else [(kept, expected)]:
            np.testing.assert_array_equal(one, other)
    # What was never written is computed when it is asked for.
    np.testing.assert_allclose(recorded.extend(graph.index("bn")), bn.record(conv.record(x)[0])[0], rtol=1e-4, atol=1e-5)


def test_a_batch_normalization_changed_in_place_is_seen(x):
    bn = tn.TraceableBatchNormalization(5)
    model = TraceableChain(conv=tn.TraceableConvolution2D(3, 5, 3), bn=bn, relu=tn.TraceableReLU())
    before = SaliNet(model).analyze(x, "relu", 1)
    bn.beta.array[1] += 0.5
    after = SaliNet(model).analyze(x, "relu", 1)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, fresh(model, x, "relu"))

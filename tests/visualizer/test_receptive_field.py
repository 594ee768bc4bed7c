import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer import reversal as reversal_module
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet, SaliNet
from dcnn_visualizer.receptive_field import ReceptiveField
from dcnn_visualizer.reversal import Peak, Reversal
from dcnn_visualizer.traceable_chain import TraceableChain
from tests.visualizer.networks import SimpleCNN, picture, random_chain

METHODS = {
    "salinet": SaliNet,
    "deconvnet": DeconvNet,
    "desalinet": DeSaliNet,
    "plain": lambda model: Reversal(model, relu_mask=False, rectify=False, unpooling="center", lrn="gradient"),
}


@pytest.fixture
def always(monkeypatch):
    """Lets parts of pictures pay, however much of the picture they are."""
    monkeypatch.setattr(reversal_module, "WAYS", 1e-9)


def whole(reversal, x, layer, index, seed="activation"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reversal_module, "WAYS", 1e9)
        return reversal.analyze(x, layer, index, seed)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(
    seed=st.integers(0, 10_000),
    layer=st.sampled_from(["conv1", "pool1", "lrn1", "block", "block/act", "mixed", "act2", "dropout"]),
    which=st.sampled_from(["activation", "one"]),
)
@settings(max_examples=10, deadline=None)
def test_a_part_of_the_picture_is_as_good_as_the_whole(method, seed, layer, which):
    """At the corners, the middle, and somewhere; the receptive field hangs over the border or is inside it."""
    rng = np.random.default_rng(seed)
    model = random_chain(rng)
    x = picture(rng, 2, 3, int(rng.integers(14, 36)), int(rng.integers(14, 36)))
    rows, columns = ReceptiveField(model.graph(), model.graph().index(layer), x.shape[2:]).size
    places = [(0, 0), (rows - 1, columns - 1), (0, columns - 1), (rows // 2, columns // 2)]
    places.append((int(rng.integers(rows)), int(rng.integers(columns))))
    index = [(int(rng.integers(4)), *place) for place in places]
    expected = whole(method(model), x, layer, index, which)
    got = method(model).analyze(x, layer, index, which)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11 * (np.abs(expected).max() + 1e-30))


@pytest.mark.usefixtures("always")
def test_the_region_is_all_that_a_neuron_sees():
    """A change of the picture changes the neuron exactly where its region says that it may."""
    rng = np.random.default_rng(0)
    model = TraceableChain(
        conv1=tn.TraceableConvolution2D(1, 1, 3, stride=2, pad=1, nobias=True, initialW=rng.random((1, 1, 3, 3)) + 0.1),
        pool=tn.TraceableAveragePooling2D(2),
        conv2=tn.TraceableConvolution2D(1, 1, 3, dilate=2, nobias=True, initialW=rng.random((1, 1, 3, 3)) + 0.1),
    )
    field = ReceptiveField(model.graph(), model.graph().index("conv2"), (40, 40))
    seen = np.zeros((40, 40))
    for row, column in np.ndindex(40, 40):
        x = np.zeros((1, 1, 40, 40))
        x[0, 0, row, column] = 1
        before = model(np.zeros_like(x))[-1].array
        seen[row, column] = abs(model(x)[-1].array - before)[0, 0, 2, 3]
    # Dilation leaves holes; the region's edges are seen.
    rows, columns = np.nonzero(seen)
    region = field.at((2, 3))
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == region
    assert field.size == (6, 6)


def test_a_neuron_is_projected_from_its_part_where_that_is_less_work(monkeypatch):
    rng = np.random.default_rng(3)
    model = TraceableChain(
        conv1=tn.TraceableConvolution2D(3, 4, 3, pad=1),
        relu1=tn.TraceableReLU(),
        pool1=tn.TraceableMaxPooling2D(2),
        conv2=tn.TraceableConvolution2D(4, 4, 3, pad=1),
    )
    sizes = []
    original = tn.TraceableConvolution2D.record

    def noting(self, x, z=None):
        sizes.append(x.shape[2:])
        return original(self, x, z)

    monkeypatch.setattr(tn.TraceableConvolution2D, "record", noting)
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    DeSaliNet(model).analyze(x, "conv2", (1, 5, 5))
    assert set(sizes) == {(8, 8), (3, 3)}
    sizes.clear()
    DeSaliNet(model).analyze(x[:, :, :10, :10], "conv2", (1, 2, 2))
    assert set(sizes) == {(10, 10), (5, 5)}


@pytest.mark.parametrize("ways", [1e-9, 1e9])
@pytest.mark.parametrize("method", [SaliNet, DeconvNet])
def test_the_peak_is_the_strongest_place_of_each_picture(method, ways, monkeypatch):
    rng = np.random.default_rng(8)
    model = random_chain(rng)
    x = picture(rng, 3, 3, 17, 20)
    activation = model(x)[model.layer_names.index("mixed")].array[:, 2]
    monkeypatch.setattr(reversal_module, "WAYS", ways)
    got = method(model).analyze(x, "mixed", [Peak(2), 1])
    for one, plane, peak in zip(x, activation, got[0], strict=True):
        place = np.unravel_index(plane.argmax(), plane.shape)
        expected = whole(method(model), one, "mixed", (2, *map(int, place)))
        np.testing.assert_allclose(peak, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got[1], method(model).analyze(x, "mixed", 1), rtol=1e-9, atol=1e-12)
    assert method(model).analyze(x, "fc", [Peak(1)]).shape == (1, *x.shape)
    with pytest.raises(IndexError, match="outside the layer"):
        method(model).analyze(x, "mixed", Peak(99))


@pytest.mark.usefixtures("always")
def test_errors_are_those_of_the_whole_picture():
    model = random_chain(np.random.default_rng(0))
    x = picture(np.random.default_rng(0), 1, 3, 16, 16)
    for index, error in (((0, 99, 0), IndexError), ((99, 0, 0), IndexError), ((0, 1), ValueError), ((0, -1, 0), IndexError)):
        with pytest.raises(error):
            DeSaliNet(model).analyze(x, "grouped", index)
    with pytest.raises(ValueError, match="'global' doesn't tell"):
        ReceptiveField(model.graph(), model.graph().index("fc"), (16, 16))
    # Chainer's LRN is no traceable node, so nobody knows what it sees.
    assert DeSaliNet(SimpleCNN()).field("conv2", (320, 320)) is None
    assert DeSaliNet(SimpleCNN()).field("conv1_mp", (320, 320)) is not None
    assert Reversal(SimpleCNN(), unpooling="spread").field("conv1_mp", (320, 320)) is None


@pytest.mark.usefixtures("always")
def test_neurons_keep_to_a_budget():
    model = random_chain(np.random.default_rng(1))
    x = picture(np.random.default_rng(1), 3, 3, 20, 20)
    index = [(1, 1, 2), (0, 0, 0), (2, 2, 1)]
    np.testing.assert_allclose(
        DeSaliNet(model).analyze(x, "block", index, memory_budget=1), whole(DeSaliNet(model), x, "block", index), atol=1e-11
    )

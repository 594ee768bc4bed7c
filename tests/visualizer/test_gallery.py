import numpy as np
import pytest

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer import dataset, rendering
from dcnn_visualizer import reversal as reversal_module
from dcnn_visualizer.desalinet import DeconvNet, DeSaliNet
from dcnn_visualizer.gallery import gallery, project_top_activations, top_activations
from dcnn_visualizer.traceable_chain import TraceableChain
from tests.visualizer.networks import picture, random_chain


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(4)
    return random_chain(rng), picture(rng, 13, 3, 18, 21)


def plainly(model, images, layer, k, channels):
    """The definition: every picture's strongest place, sorted."""
    found = {channel: [] for channel in channels}
    for number, x in enumerate(images):
        activation = model(x[None])[model.layer_names.index(layer)].array[0]
        for channel in channels:
            at = np.unravel_index(activation[channel].argmax(), activation[channel].shape)
            found[channel].append((activation[channel][at], number, tuple(map(int, at))))
    return [sorted(found[channel], key=lambda one: -one[0])[:k] for channel in channels]


@pytest.mark.parametrize("layer", ["conv1", "pool1", "mixed", "fc"])
@pytest.mark.parametrize("k", [1, 4, 9, 30])
def test_the_strongest_places_are_those_of_the_definition(net, layer, k):
    model, images = net
    channels = [3, 0, 2]
    top = top_activations(model, iter(images), layer, k, channels)
    assert top.values.shape == (3, min(k, 13))
    for row, expected in enumerate(plainly(model, images, layer, k, channels)):
        np.testing.assert_allclose(top.values[row], [value for value, *_ in expected], rtol=1e-9)
        assert [(int(p), tuple(map(int, at))) for p, at in zip(top.pictures[row], top.places[row], strict=True)] == [
            (number, at) for _, number, at in expected
        ]


def test_a_stream_is_taken_as_it_comes_and_no_more_than_a_few_are_held(net):
    model, images = net
    alive = set()

    class Noted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    most = 0

    def stream():
        nonlocal most
        for number in range(40):
            x = (images[number % 13] + number).view(Noted)
            alive.add(id(x))
            most = max(most, len(alive))
            yield x

    top = top_activations(model, stream(), "conv1")
    assert top.pictures.max() > 12
    assert most < 12


def test_pictures_of_several_sizes_may_follow_one_another(net):
    model, images = net
    mixed = [images[0], images[1, :, :15], images[2], images[3, :, :, :16]]
    top = top_activations(model, mixed, "pool1", 4)
    for one in project_top_activations(DeSaliNet(model), mixed, top):
        index = (int(top.channels[one.row]), *map(int, top.places[one.row, one.rank]))
        expected = DeSaliNet(model).analyze(mixed[one.picture], "pool1", index)
        np.testing.assert_allclose(np.abs(one.pixels).sum(), np.abs(expected).sum(), rtol=1e-9)


@pytest.mark.parametrize("ways", [1e-9, 1e9])
@pytest.mark.parametrize("budget", [None, 1])
@pytest.mark.parametrize("seed", ["activation", "one"])
def test_every_place_is_projected_within_what_it_sees(net, ways, budget, seed, monkeypatch):
    model, images = net
    monkeypatch.setattr(reversal_module, "WAYS", ways)
    top = top_activations(model, images, "pool1", 3)
    done = list(project_top_activations(DeconvNet(model), iter(images), top, seed, budget))
    assert sorted((one.row, one.rank) for one in done) == list(np.ndindex(6, 3))
    assert [one.picture for one in done] == sorted(one.picture for one in done)
    for one in done:
        index = (one.row, *map(int, top.places[one.row, one.rank]))
        monkeypatch.setattr(reversal_module, "WAYS", 1e9)
        expected = DeconvNet(model).analyze(images[one.picture], "pool1", index, seed)
        got, seen = np.zeros_like(expected), np.zeros_like(expected)
        at = tuple(slice(max(0, first), last) for first, last in zip(one.region[:2], one.region[2:], strict=True))
        got[:, *at], seen[:, *at] = one.pixels[:, *one.inside], one.part[:, *one.inside]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(seen[:, *at], images[one.picture][:, *at])


def test_the_drawing_shows_parts_and_projections_channel_by_channel():
    rng = np.random.default_rng(0)
    model = TraceableChain(conv=tn.TraceableConvolution2D(3, 5, 3), relu=tn.TraceableReLU())
    images = rng.random((4, 3, 12, 12)).astype(np.float32)
    drawn = gallery(DeSaliNet(model), images, "relu", [1, 3], k=4)
    # Two blocks in a row, 10 apart; each of two squares of 2x2 pictures of 3x3, 2 apart, and 4 between the squares.
    assert drawn.shape == (8, 2 * 20 + 10, 3)
    assert drawn.dtype == np.float32
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    top = top_activations(model, images, "relu", 4, [1, 3])
    for one in project_top_activations(DeSaliNet(model), images, top):
        row, column = divmod(one.rank, 2)
        left = 30 * one.row + 5 * column
        part = drawn[5 * row : 5 * row + 3, left : left + 3]
        np.testing.assert_allclose(part, rendering.displayable(one.part), rtol=1e-6)
        projection = drawn[5 * row : 5 * row + 3, left + 12 : left + 15]
        np.testing.assert_allclose(projection, rendering.projection_to_rgb(one.pixels), rtol=1e-6)


def test_what_hangs_over_the_border_is_white():
    model = TraceableChain(conv=tn.TraceableConvolution2D(1, 1, 3, pad=1, initialW=np.ones((1, 1, 3, 3), np.float32)))
    images = np.zeros((1, 1, 9, 9), np.float32)
    images[0, 0, 0, 0] = 1
    drawn = gallery(DeSaliNet(model), list(images), "conv", k=1, paint=lambda part: np.full((*part.shape[1:], 3), 0.25))
    assert (drawn[0, :3] == 1).all()
    assert (drawn[1:, 1:3] == 0.25).all()


def test_a_folder_is_gone_through_twice(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        dataset.write_png(tmp_path / f"{number}.png", rng.random((12, 12, 3)))
    folder = dataset.Folder(tmp_path, lambda picture: picture.transpose(2, 0, 1).astype(np.float32))
    model = TraceableChain(conv=tn.TraceableConvolution2D(3, 2, 3))
    np.testing.assert_array_equal(gallery(DeSaliNet(model), folder, "conv"), gallery(DeSaliNet(model), list(folder), "conv"))
    with pytest.raises(OSError):
        dataset.Folder(tmp_path / "missing")


def test_bad_input_is_a_clear_error(net):
    model, images = net
    with pytest.raises(KeyError, match="no layer"):
        top_activations(model, images, "conv9")
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_activations(model, images, "conv1", 0)
    with pytest.raises(TypeError, match=r"k must be an integer, got 2\.5"):
        top_activations(model, images, "conv1", 2.5)
    with pytest.raises(TypeError, match="channels must be a list of integers, got 3"):
        top_activations(model, images, "conv1", channels=3)
    with pytest.raises(TypeError, match="model must be a TraceableChain, got NoneType"):
        top_activations(None, images, "conv1")
    with pytest.raises(TypeError, match="reversal must be a Reversal, such as"):
        gallery(model, images, "conv1")
    with pytest.raises(IndexError, match=r"channels must be in 0\.\.5"):
        top_activations(model, images, "conv1", channels=[6])
    with pytest.raises(ValueError, match="at least one picture"):
        top_activations(model, [], "conv1")
    with pytest.raises(ValueError, match="one picture"):
        top_activations(model, [images], "conv1")
    with pytest.raises(TypeError, match="gone through twice, got generator"):
        gallery(DeSaliNet(model), (x for x in images), "conv1")
    with pytest.raises(ValueError, match="seed"):
        list(project_top_activations(DeSaliNet(model), images, top_activations(model, images, "conv1"), seed="two"))
    with pytest.raises(ValueError, match="fewer pictures"):
        list(project_top_activations(DeSaliNet(model), images[:1], top_activations(model, images, "conv1")))

import io
import zipfile

import chainer
import numpy as np
import pytest

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.occlusion import Approximation, Occluder, SaliencyMap, SaliencyVisualizer, Sweep
from dcnn_visualizer.traceable_chain import TraceableChain
from tests.visualizer.networks import SimpleCNN, picture, random_chain


def by_hand(model, x, layer, ksize, stride, fill, inside):
    """One occluded picture at a time through Chainer, window by window. ``fill`` is a (C, H, W) array."""
    model.pick = layer

    def measure(img):
        with chainer.using_config("train", False):
            y = model(img[None]).array[0]
        return y if y.ndim == 1 else np.sqrt((y * y).sum(axis=(1, 2)))

    _, height, width = x.shape
    base, rows = measure(x), []
    for cy in range(0, height, stride[0]):
        row = []
        for cx in range(0, width, stride[1]):
            top, left = (cy, cx) if inside else (cy - (ksize[0] - 1) // 2, cx - (ksize[1] - 1) // 2)
            if inside and (top + ksize[0] > height or left + ksize[1] > width):
                continue
            hidden = x.copy()
            for c in range(len(x)):
                for r in range(max(top, 0), min(top + ksize[0], height)):
                    for q in range(max(left, 0), min(left + ksize[1], width)):
                        hidden[c, r, q] = fill[c, r, q]
            row.append(measure(hidden) - base)
        if row:
            rows.append(row)
    return np.array(rows)


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(21)
    return random_chain(rng), picture(rng, 2, 3, 14, 17)


@pytest.mark.parametrize("layer", ["grouped", "fc"])
@pytest.mark.parametrize("windows", ["centered", "inside"])
@pytest.mark.parametrize(
    ("ksize", "stride"), [((5, 5), (2, 2)), ((4, 3), (3, 5)), ((1, 1), (6, 6)), ((14, 17), (4, 4)), ((2, 6), (7, 9))]
)
def test_equals_occluding_by_hand(net, layer, windows, ksize, stride):
    model, x = net
    got = SaliencyVisualizer(model).analyze(x[0], layer, ksize, stride, windows=windows)
    fill = np.full(x[0].shape, x[0].mean())
    expected = by_hand(model, x[0], layer, ksize, stride, fill, windows == "inside")
    assert got.data.shape == expected.shape
    assert got.sweep.measure == ("value" if layer == "fc" else "norm")
    np.testing.assert_allclose(got.data, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("fill", "full"),
    [
        ("mean", lambda x: np.full(x.shape, x.mean())),
        ("channel", lambda x: np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)),
        (0.25, lambda x: np.full(x.shape, 0.25)),
        (np.array([0.1, 0.2, 0.3]), lambda x: np.broadcast_to(np.array([0.1, 0.2, 0.3])[:, None, None], x.shape)),
        (np.arange(14 * 17).reshape(14, 17) / 100, lambda x: np.broadcast_to(np.arange(14 * 17).reshape(14, 17) / 100, x.shape)),
    ],
)
def test_fills(net, fill, full):
    model, x = net
    got = SaliencyVisualizer(model).analyze(x[0], "grouped", 5, 6, fill=fill)
    expected = by_hand(model, x[0], "grouped", (5, 5), (6, 6), full(x[0]), False)
    np.testing.assert_allclose(got.data, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


def test_a_batch_gives_a_list_of_maps_equal_to_the_single_ones(net):
    model, x = net
    visualizer = SaliencyVisualizer(model)
    maps = visualizer.analyze(x, "fc", 5, 4)
    assert len(maps) == 2
    for one, img in zip(maps, x, strict=True):
        np.testing.assert_allclose(one.data, visualizer.analyze(img, "fc", 5, 4, batch_size=3).data, rtol=1e-9, atol=1e-12)
    assert visualizer.analyze(x[:0], "fc", 5, 4) == []


def test_hiding_nothing_changes_nothing(net):
    model, x = net
    got = SaliencyVisualizer(model).analyze(x[0], "grouped", 3, 4, fill=x[0])
    np.testing.assert_allclose(got.data, 0, atol=1e-12)


def test_the_readme_program():
    model = SimpleCNN()
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    saliency = SaliencyVisualizer(model).analyze(x[0], "conv2", ksize=5, stride=2)
    assert isinstance(saliency, SaliencyMap)
    assert saliency.data.shape == (16, 16, 5)
    assert saliency.data.dtype == np.float32


def test_the_picture_stays_as_it_was(net):
    model, x = net
    before = x.copy()
    SaliencyVisualizer(model).analyze(x, "grouped", 5, 4)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"layer": "conv9"}, KeyError, "conv9"),
        ({"ksize": 33}, ValueError, "33x33 is larger than the picture of 32x32"),
        ({"ksize": 0}, ValueError, "ksize must be at least 1"),
        ({"ksize": 2.5}, TypeError, "ksize"),
        ({"stride": 0}, ValueError, "stride"),
        ({"windows": "outside"}, ValueError, "'outside'"),
        ({"measure": "value"}, ValueError, "norm"),
        ({"measure": "max"}, ValueError, "'max'"),
        ({"fill": "noise"}, ValueError, "'noise'"),
        ({"fill": np.zeros(4)}, ValueError, r"\(3, 32, 32\).*\(4,\)"),
        ({"fill": float("nan")}, ValueError, "finite"),
        ({"fill": None}, ValueError, "fill must be 'mean', 'channel', a number or an array, got None"),
        ({"layer": 3}, TypeError, "layer must be a path, a string, got 3"),
        ({"approximation": 0.1}, TypeError, r"must be an Approximation or None, got 0\.1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"img": np.full((3, 32, 32), np.inf, np.float32)}, ValueError, "finite"),
        ({"img": np.zeros((3, 32, 32), int)}, TypeError, "int64"),
    ],
)
def test_bad_input_is_a_clear_error(kwargs, error, message):
    call = {"img": np.zeros((3, 32, 32), np.float32), "layer": "conv1", "ksize": 5, "stride": 8, **kwargs}
    with pytest.raises(error, match=message):
        SaliencyVisualizer(SimpleCNN()).analyze(**call)
    with pytest.raises(TypeError, match="TraceableChain"):
        SaliencyVisualizer(chainer.Sequential())


def test_a_bad_sweep_is_a_clear_error():
    visualizer, x = SaliencyVisualizer(SimpleCNN()), np.zeros((3, 32, 32), np.float32)
    with pytest.raises(TypeError, match="layers must be a list of paths, got 'conv1'"):
        visualizer.sweep(x, "conv1", [Occluder(5, 5)])
    for occluders in (Occluder(5, 5), [(5, 5)]):
        with pytest.raises(TypeError, match="occluders must be a list of Occluder"):
            visualizer.sweep(x, ["conv1"], occluders)
    with pytest.raises(TypeError, match=r"coarse must be an integer, got 1\.5"):
        Approximation(coarse=1.5)


def test_an_activation_that_is_not_finite_is_an_error():
    # The last windows lie wholly in the padding, where the maximum is of nothing.
    model = TraceableChain(pool=tn.TraceableMaxPooling2D(2, 2, ((0, 1), (0, 1))), relu=tn.TraceableReLU())
    with pytest.raises(ValueError, match="layer 'pool' answers NaN or infinity to the picture"):
        SaliencyVisualizer(model).analyze(np.ones((1, 8, 8), np.float32), "relu", 2)


@pytest.fixture
def ramp():
    """A map that grows by one from column to column and by ten from row to row, in its second channel."""
    data = np.zeros((4, 5, 2))
    data[:, :, 1] = 10 * np.arange(4)[:, None] + np.arange(5)
    return SaliencyMap(data, Sweep("layer", (13, 17), (5, 5), (4, 4), "centered", "norm"))


def test_plane_meets_the_map_at_the_centres_and_is_linear_between(ramp):
    plane = ramp.plane(channel=1)
    assert plane.shape == (13, 17)
    np.testing.assert_allclose(plane, 2.5 * np.arange(13)[:, None] + np.arange(17) / 4)
    np.testing.assert_allclose(ramp.plane(), plane / 2)
    inside = SaliencyMap(ramp.data[:3, :4], Sweep("layer", (13, 17), (5, 5), (4, 4), "inside", "norm"))
    expected = 10 * np.clip((np.arange(13)[:, None] - 2) / 4, 0, 2) + np.clip((np.arange(17) - 2) / 4, 0, 3)
    np.testing.assert_allclose(inside.plane(channel=1), expected)


def test_plane_of_another_size_covers_the_same_picture(ramp):
    double = ramp.plane((26, 34), channel=1)
    assert double.shape == (26, 34)
    np.testing.assert_allclose(double[2:-2, 2:-2].reshape(11, 2, 15, 2).mean(axis=(1, 3)), ramp.plane(channel=1)[1:-1, 1:-1])


def gray(values):
    return np.stack([values, values, values, np.ones_like(values)], axis=-1)


def test_heatmap_ranges(ramp):
    signed = SaliencyMap(ramp.data - 8.0, ramp.sweep)
    low, high = -8.0, 26.0
    plane = signed.plane(channel=1)
    np.testing.assert_allclose(signed.heatmap(cmap=gray, channel=1)[..., 0], (plane + high) / (2 * high), rtol=1e-6)
    np.testing.assert_allclose(
        signed.heatmap(cmap=gray, channel=1, centering=False)[..., 0], (plane - low) / (high - low), rtol=1e-6, atol=1e-7
    )
    absolute = signed.plane(channel=1, absolute=True)
    np.testing.assert_allclose(signed.heatmap(cmap=gray, channel=1, absolute=True)[..., 0], absolute / absolute.max(), rtol=1e-6)
    np.testing.assert_allclose(
        signed.heatmap(cmap=gray, channel=1, value_range=(0, 2))[..., 0], np.clip(plane / 2, 0, 1), rtol=1e-6
    )
    with pytest.raises(ValueError, match="increasing"):
        signed.heatmap(cmap=gray, value_range=(2, 2))
    with pytest.raises(IndexError, match=r"0\.\.1"):
        signed.heatmap(cmap=gray, channel=2)
    with pytest.raises(ValueError, match="colormap 'nocolours'"):
        signed.heatmap(cmap="nocolours")


def test_a_map_of_zeros_is_the_middle_colour(ramp):
    flat = SaliencyMap(np.zeros_like(ramp.data), ramp.sweep)
    np.testing.assert_array_equal(flat.heatmap(cmap=gray), 0.5)
    np.testing.assert_array_equal(flat.heatmap(cmap=gray, absolute=True), 0)
    assert flat.heatmap().shape == (13, 17, 3)


def test_compose_blends(ramp):
    img = np.random.default_rng(0).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    heat = ramp.heatmap(cmap=gray)
    np.testing.assert_allclose(ramp.compose(img, 0.25, cmap=gray), 0.75 * (img / 255) + 0.25 * heat, rtol=1e-5)
    np.testing.assert_allclose(ramp.compose(img.transpose(2, 0, 1), 0.0, cmap=gray), img / 255, rtol=1e-6)
    assert ramp.compose(np.zeros((26, 34, 3), np.uint8)).shape == (26, 34, 3)
    with pytest.raises(ValueError, match="alpha"):
        ramp.compose(img, 1.5)
    with pytest.raises(ValueError, match="shape"):
        ramp.compose(np.zeros((2, 3, 4, 5)))


def test_save_and_load(ramp, tmp_path):
    path = tmp_path / "map.npz"
    ramp.save(path)
    loaded = SaliencyMap.load(path)
    np.testing.assert_array_equal(loaded.data, ramp.data)
    assert loaded.sweep == ramp.sweep
    assert [p.name for p in tmp_path.iterdir()] == ["map.npz"]


def test_a_failed_save_leaves_the_old_file(ramp, tmp_path, monkeypatch):
    path = tmp_path / "map.npz"
    ramp.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        ramp.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_broken_and_hostile_files_are_errors(ramp, tmp_path):
    path = tmp_path / "map.npz"
    ramp.save(path)
    good = path.read_bytes()
    for content in (b"", b"hello", good[: len(good) // 2], good[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no saved SaliencyMap"):
            SaliencyMap.load(path)
    for fields in (
        {"data": np.array([{"a": 1}], dtype=object), "sweep": np.array("{}")},
        {"data": np.zeros((1, 1, 1)), "sweep": np.array("{}")},
        {"data": np.zeros((1, 1, 1))},
        {"data": np.zeros((3, 5, 2)), "sweep": np.load(io.BytesIO(good))["sweep"]},
        {"data": np.zeros((4, 5, 2), int), "sweep": np.load(io.BytesIO(good))["sweep"]},
        {"data": np.zeros((4, 5, 2)), "sweep": np.array("[1, 2]")},
    ):
        np.savez(path, **fields)
        with pytest.raises(ValueError, match="no saved SaliencyMap"):
            SaliencyMap.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "data.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999, 9999999, 9), }" + b" " * 40,
        )
        with zipfile.ZipFile(io.BytesIO(good)) as saved:
            archive.writestr("sweep.npy", saved.read("sweep.npy"))
    with pytest.raises(ValueError, match="no saved SaliencyMap"):
        SaliencyMap.load(path)
    with pytest.raises(OSError):
        SaliencyMap.load(tmp_path / "absent.npz")


def test_maps_of_a_one_layer_chain_are_arithmetic():
    model = TraceableChain(pool=tn.TraceableGlobalAveragePooling2D())
    x = np.arange(2 * 4 * 4, dtype=np.float64).reshape(2, 4, 4)
    got = SaliencyVisualizer(model).analyze(x, "pool", 1, 1, fill=0.0)
    np.testing.assert_allclose(got.data, -x.transpose(1, 2, 0) / 16)

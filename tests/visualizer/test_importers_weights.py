"""Weights by name, from npz files; other kinds in tests/peers."""

import io
import zipfile

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import numpy as np
import pytest

import dcnn_visualizer.traceable_nodes as tn
from dcnn_visualizer.importers.weights import WeightsError, WeightsReport, load_weights
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableResidual


def network():
    block = TraceableChain(conv=tn.TraceableConvolution2D(4, 4, 3, pad=1), bn=tn.TraceableBatchNormalization(4))
    return TraceableChain(
        stem=tn.TraceableConvolution2D(3, 4, 3),
        act=tn.TraceablePReLU(),
        block=TraceableResidual(block),
        fc=tn.TraceableLinear(None, 2),
    )


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def trained(x):
    net = network()
    with chainer.using_config("train", True):
        net(x)
    return net


def values(net):
    """Names in PyTorch's spelling, and arrays."""
    names = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "avg_mean": "running_mean", "avg_var": "running_var"}
    arrays = {}
    for path, link in net.namedlinks():
        for own in {*link._params, *link._persistent} & set(names):
            value = getattr(link, own)
            arrays[f"{path[1:].replace('/', '.')}.{names[own]}"] = getattr(value, "array", value)
    return arrays


def snapshot(net):
    return {name: None if p.array is None else p.array.copy() for name, p in net.namedparams()}


def assert_unchanged(net, before):
    for name, parameter in net.namedparams():
        if before[name] is None:
            assert parameter.array is None
        else:
            np.testing.assert_array_equal(parameter.array, before[name])


def test_what_chainer_saved(trained, x, tmp_path):
    chainer.serializers.save_npz(tmp_path / "w.npz", trained)
    net = network()
    report = load_weights(net, tmp_path / "w.npz")
    assert report.complete
    assert len(report.matched) == 11
    assert report.matched["block/body/bn/avg_mean"] == "block/body/bn/avg_mean"
    np.testing.assert_array_equal(net(x)[-1].array, trained(x)[-1].array)


def test_what_pytorch_calls_them(trained, x, tmp_path):
    arrays = {f"module.{name}": array.astype(np.float64) for name, array in values(trained).items()}
    np.savez(tmp_path / "w.npz", **arrays, **{"module.block.body.bn.num_batches_tracked": np.array(3)})
    net = network()
    kept = net["stem"].W.array
    report = load_weights(net, tmp_path / "w.npz", rename=lambda name: name.removeprefix("module."))
    assert report.matched["stem/W"] == "module.stem.weight"
    assert net["stem"].W.array is kept
    assert kept.dtype == np.float32
    np.testing.assert_allclose(net(x)[-1].array, trained(x)[-1].array, rtol=1e-6)


def test_nothing_is_written_unless_all_is_well(trained, tmp_path):
    arrays = values(trained)
    del arrays["stem.bias"]
    arrays |= {"head.weight": np.zeros(3, np.float32), "block.body.conv.weight": np.zeros((4, 4, 1, 1), np.float32)}
    np.savez(tmp_path / "w.npz", **arrays)
    net = network()
    before = snapshot(net)
    with pytest.raises(
        WeightsError, match=r"w\.npz doesn't fit TraceableChain: 9 matched; missing in the file: stem/b; left"
    ) as caught:
        load_weights(net, tmp_path / "w.npz")
    report = caught.value.report
    assert (report.missing, report.left_over) == (["stem/b"], ["head.weight"])
    assert report.differing == {"block/body/conv/W": ((4, 4, 3, 3), (4, 4, 1, 1))}
    assert "block/body/conv/W has shape (4, 4, 3, 3), in the file (4, 4, 1, 1)" in str(report)
    assert_unchanged(net, before)
    several = WeightsReport(missing=[f"layer{number}/W" for number in range(20)])
    assert str(several).endswith("layer6/W, layer7/W and 12 more")
    assert load_weights(net, tmp_path / "w.npz", strict=False) == report
    np.testing.assert_array_equal(net["stem"].W.array, trained["stem"].W.array)
    np.testing.assert_array_equal(net["stem"].b.array, before["/stem/b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem.weight": np.full((4, 3, 3, 3), np.nan, np.float32)}, "must hold finite floats"),
        ({"stem.bias": np.arange(4)}, "must hold finite floats"),
        ({"stem/W": np.zeros((4, 3, 3, 3), np.float32)}, "both stand for stem/W"),
    ],
)
def test_bad_arrays(trained, change, message, tmp_path):
    np.savez(tmp_path / "w.npz", **{**values(trained), **change})
    net = network()
    before = snapshot(net)
    with pytest.raises(ValueError, match=rf"w\.npz can't be read as weights: .*{message}"):
        load_weights(net, tmp_path / "w.npz")
    assert_unchanged(net, before)


def test_broken_files(trained, tmp_path):
    path = tmp_path / "w.npz"
    chainer.serializers.save_npz(path, trained)
    whole = path.read_bytes()
    net = network()
    before = snapshot(net)
    # Of the first array's values, which follow its header.
    place = whole.index(b"PK", 4) - 20
    damaged = whole[:place] + bytes(byte ^ 255 for byte in whole[place : place + 8]) + whole[place + 8 :]
    # The last record says that the table of contents lies further behind, so arrays would lie before the file.
    misplaced = bytearray(whole)
    misplaced[-6:-2] = (int.from_bytes(whole[-6:-2], "little") + 100).to_bytes(4, "little")
    for data in (b"", b"PK", b"nothing", whole[: len(whole) // 2], damaged, bytes(misplaced), b"\0" * 8 + b"{"):
        path.write_bytes(data)
        with pytest.raises((ValueError, ImportError)):
            load_weights(net, path)
    with pytest.raises(FileNotFoundError):
        load_weights(net, tmp_path / "nowhere.npz")
    assert_unchanged(net, before)


def test_an_array_that_claims_to_be_huge(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("stem/W.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="doesn't hold the float32 array of shape"):
        load_weights(network(), tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", **{"stem/W": np.array([{}], object)})
    with pytest.raises(ValueError, match="doesn't hold the object array"):
        load_weights(network(), tmp_path / "w.npz")


def test_weights_that_cannot_be_written_are_replaced(tmp_path):
    net = TraceableChain(fc=tn.TraceableLinear(3, 2))
    net.fc.W.array = np.broadcast_to(np.float32(1), (2, 3))
    np.savez(tmp_path / "w.npz", **{"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)})
    load_weights(net, tmp_path / "w.npz")
    assert not net.fc.W.array.any()


def test_one_array_under_two_names(tmp_path):
    W, b = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    net = TraceableChain(fc=tn.TraceableLinear(2, 2), fc_2=tn.TraceableLinear(2, 2))
    for layer in (net.fc, net.fc_2):
        layer.W.array, layer.b.array = W, b
    np.savez(tmp_path / "w.npz", **{"fc.weight": np.zeros((2, 2)), "fc.bias": np.zeros(2)})
    assert load_weights(net, tmp_path / "w.npz").complete
    assert not net.fc_2.W.array.any()
    net.fc_2.b.array = b.copy()
    with pytest.raises(WeightsError, match="missing in the file: fc_2/b"):
        load_weights(net, tmp_path / "w.npz")

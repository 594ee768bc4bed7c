"""Weights by name, from HDF5 and safetensors files."""

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dcnn_visualizer.importers.torch import from_torch
from dcnn_visualizer.importers.weights import WeightsError, load_weights
from tests.peers import torch_networks


@pytest.fixture
def pair():
    """Two networks of one kind, with different weights, and a chain of the second."""
    trained, other = (torch_networks.shaken(torch_networks.ResNet(), seed) for seed in (1, 2))
    return trained, other, from_torch(other, torch.zeros(1, 3, 64, 64))


def assert_loaded(trained, other, chain, report):
    assert report.complete
    x = torch.randn(2, 3, 64, 64)
    np.testing.assert_allclose(chain(x.numpy()).array, trained(x).detach().numpy(), rtol=1e-4, atol=1e-4)
    # The chain's arrays are the second module's tensors.
    torch.testing.assert_close(other(x), trained(x))


def test_safetensors(pair, tmp_path):
    trained, _, chain = pair
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    assert_loaded(*pair, load_weights(chain, tmp_path / "w.safetensors"))


def test_hdf5(pair, tmp_path):
    trained, _, chain = pair
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, tensor in trained.state_dict().items():
            file.create_dataset(name.replace(".", "/"), data=tensor.numpy(), compression="gzip" if tensor.ndim else None)
    assert_loaded(*pair, load_weights(chain, tmp_path / "w.h5"))


def test_what_chainer_saved_as_hdf5(pair, tmp_path):
    _, other, chain = pair
    chainer.serializers.save_hdf5(tmp_path / "w.h5", chain)
    x = torch.randn(2, 3, 64, 64)
    before = chain(x.numpy()).array
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert load_weights(chain, tmp_path / "w.h5").complete
    np.testing.assert_array_equal(chain(x.numpy()).array, before)


def test_bad_files(pair, tmp_path):
    trained, other, chain = pair
    before = [tensor.clone() for tensor in other.state_dict().values()]
    state = trained.state_dict()
    path = tmp_path / "w.safetensors"
    save_file({name: tensor for name, tensor in state.items() if name != "fc.bias"}, path)
    with pytest.raises(WeightsError, match=r"missing in the file: fc/b$"):
        load_weights(chain, path)
    save_file({**state, "fc.bias": state["fc.bias"].to(torch.bfloat16)}, path)
    with pytest.raises(ValueError, match=r"w\.safetensors can't be read as weights"):
        load_weights(chain, path)
    save_file(state, path)
    whole = path.read_bytes()
    for data in (whole[:100], whole[:-5], (1 << 60).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"w\.safetensors can't be read as weights"):
            load_weights(chain, path)
    (tmp_path / "secret").write_bytes(bytes(40))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("fc/bias", (10,), np.float32, external=[(str(tmp_path / "secret"), 0, 40)])
    with pytest.raises(ValueError, match="'fc/bias' is kept in another file"):
        load_weights(chain, tmp_path / "w.h5")
    (tmp_path / "w.h5").write_bytes((tmp_path / "w.h5").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"w\.h5 can't be read as weights"):
        load_weights(chain, tmp_path / "w.h5")
    for tensor, was in zip(other.state_dict().values(), before, strict=True):
        assert torch.equal(tensor, was)


@pytest.mark.parametrize("kind", ["npz", "h5", "safetensors"])
def test_changed_bytes(kind, pair, tmp_path):
    """With bytes changed, a file is an error that names it and writes nothing, or still weights."""
    trained, other, chain = pair
    path = tmp_path / f"w.{kind}"
    state = {name: tensor.numpy() for name, tensor in trained.state_dict().items()}
    if kind == "npz":
        np.savez(path, **state)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, array in state.items():
                file[name] = array
    else:
        save_file(trained.state_dict(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = {"weights": 0, "error": 0}
    for _ in range(150):
        data = bytearray(whole)
        # At the ends lies what tells of the rest.
        places = rng.choice(
            [rng.integers(len(data)), rng.integers(min(400, len(data))), -1 - rng.integers(400)], rng.integers(1, 4)
        )
        for place in places:
            data[place] = rng.integers(256)
        path.write_bytes(data)
        before = [tensor.clone() for tensor in other.state_dict().values()]
        try:
            load_weights(chain, path, strict=False)
            outcomes["weights"] += 1
        except ValueError as error:
            outcomes["error"] += str(path) in str(error)
            assert all(map(torch.equal, other.state_dict().values(), before))
    assert sum(outcomes.values()) == 150
    assert min(outcomes.values()) > 10, outcomes

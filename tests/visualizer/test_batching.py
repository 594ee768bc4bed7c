import numpy as np
import pytest

from dcnn_visualizer.batching import fitting, in_batches
from dcnn_visualizer.desalinet import DeSaliNet
from dcnn_visualizer.occlusion import SaliencyVisualizer
from tests.visualizer.networks import picture, random_chain


@pytest.mark.parametrize("count", [0, 1, 7, 16])
@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("room", [1, 2, 5, 50])
def test_everything_is_done_once_in_order_whatever_the_room(count, size, room):
    done = []

    def work(start, stop):
        if stop - start > room:
            raise MemoryError
        done.append((start, stop))

    in_batches(count, size, work)
    assert [i for start, stop in done for i in range(start, stop)] == list(range(count))
    assert all(stop - start <= min(room, size) for start, stop in done)


def test_what_does_not_fit_alone_is_an_error():
    def work(start, stop):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_batches(4, 4, work)


def test_budgets():
    assert fitting(None, 10, 16) == 16
    assert fitting(35, 10, 16) == 3
    assert fitting(1, 10, 16) == 1
    assert fitting(10**9, 10, 16) == 16
    with pytest.raises(ValueError, match="at least 1"):
        fitting(0, 10, 16)
    with pytest.raises(TypeError, match="bytes"):
        fitting("1 GB", 10, 16)


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(31)
    return random_chain(rng), picture(rng, 5, 3, 14, 15)


def test_a_budget_splits_the_batch_and_changes_nothing(net, monkeypatch):
    model, x = net
    whole = DeSaliNet(model).analyze(x, "grouped", [1, 2])
    sizes = []
    original = type(model.conv1).record

    def noting(self, x, z=None):
        sizes.append(len(x))
        return original(self, x, z)

    monkeypatch.setattr(type(model.conv1), "record", noting)
    parts = DeSaliNet(model).analyze(x, "grouped", [1, 2], memory_budget=1)
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-12)
    assert set(sizes) == {1}
    assert DeSaliNet(model).analyze(x[:0], "grouped", 1, memory_budget=1).shape == (0, 3, 14, 15)


def test_running_out_of_memory_halves_the_batch(net, monkeypatch):
    model, x = net
    whole = DeSaliNet(model).analyze(x, "fc", 1)
    swept = SaliencyVisualizer(model).analyze(x[0], "fc", 5, 4)
    original = type(model.conv1).record

    def small(self, x):
        if len(x) > 2:
            raise MemoryError
        return original(self, x)

    monkeypatch.setattr(type(model.conv1), "record", small)
    np.testing.assert_allclose(DeSaliNet(model).analyze(x + 0, "fc", 1), whole, rtol=1e-9, atol=1e-12)
    again = SaliencyVisualizer(model).analyze(x[0], "fc", 5, 4)
    np.testing.assert_allclose(again.data, swept.data, rtol=1e-9, atol=1e-12)
    assert len(swept.data) == 4


def test_occlusion_keeps_to_its_budget(net):
    model, x = net
    swept = SaliencyVisualizer(model).analyze(x[0], "fc", 5, 4)
    bounded = SaliencyVisualizer(model).analyze(x[0], "fc", 5, 4, memory_budget=1)
    np.testing.assert_allclose(bounded.data, swept.data, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="memory_budget"):
        SaliencyVisualizer(model).analyze(x[0], "fc", 5, 4, memory_budget=-1)

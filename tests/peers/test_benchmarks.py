"""The benchmarks' peers do the same as ours, at small sizes: the results that they compare before they time anything."""

from benchmarks import convolution, cost_models, elementwise, shared_zeros
from benchmarks.cost_models import Case
from benchmarks.runner import difference

SMALL = {"3x3": (8, 12, 13, 3, 1, 1), "stride 2": (6, 8, 11, 5, 2, 2), "1x1": (4, 6, 9, 1, 2, 1)}


def agree(point):
    work = point.make()
    assert (work.difference or difference)(work.ours(), work.theirs()()) <= work.tolerance


def test_primitives(monkeypatch):
    monkeypatch.setattr(elementwise, "STAGES", ((8, 14, 14),))
    monkeypatch.setattr(elementwise, "LINEAR", ((5, 7),))
    compared = [point for point in elementwise.points(batch=2) if point.peer]
    assert {point.peer for point in compared} == {"torch", "chainer"}
    for point in compared:
        agree(point)


def test_convolution(monkeypatch):
    monkeypatch.setattr(convolution, "LAYERS", SMALL)
    for point in convolution.points(batches=(2,)):
        agree(point)


def test_skipping_shared_zeros():
    agree(next(point for point in shared_zeros.points() if point.configuration == "small off=0.9 conv3, 64 channels"))


def test_each_way_of_a_convolution_can_be_forced_and_does_the_same():
    found = set()
    for case in (Case(True, 16, 24, 3, 1, 12, 9, 0.3), Case(False, 16, 24, 3, 2, 12, 2), Case(False, 16, 24, 1, 1, 16, 2)):
        call = case.call()
        for way in cost_models.WAYS:
            run = cost_models.forced(way, call)
            if cost_models.taken_by(run) == way:
                found.add(way)
                assert difference(run(), call()) < 1e-4
    assert found == set(cost_models.WAYS)

"""The benchmarks' peers do the same as ours, at small sizes: the results that they compare before they time anything."""

from benchmarks import convolution, elementwise
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

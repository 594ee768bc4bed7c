"""Occlusion by what changes only, against whole networks on whole pictures."""

import itertools
import tracemalloc

import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dcnn_kernels
import dcnn_visualizer.traceable_nodes as tn
from dcnn_kernels.geometry import Window, affected_windows, occlusion_windows
from dcnn_visualizer import incremental, responses
from dcnn_visualizer.occlusion import Approximation, Occluder, SaliencyVisualizer
from dcnn_visualizer.traceable_chain import TraceableChain, TraceableParallel, TraceableResidual
from tests.visualizer.networks import picture, random_chain

LAYERS = ("conv1", "act1", "bn1", "pool1", "lrn1", "block/act", "block", "mixed", "grouped", "act2", "fc")


def densely(model, x, layer, windows, fill):
    """All occluded pictures through Chainer: occluded minus original, (N, channels)."""
    model.pick = layer
    pictures = np.concatenate([x[None], dcnn_kernels.occlude(x, windows, fill)])
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        y = model.copy()(pictures).array.astype(np.float64)
    norms = y if y.ndim == 2 else np.sqrt((y * y).sum(axis=tuple(range(2, y.ndim))))
    return norms[1:] - norms[0]


def assert_equal(got, expected, tolerance=1e-9):
    np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=0, atol=tolerance * max(1e-6, np.abs(expected).max()))


@pytest.mark.parametrize("seed", range(16))
def test_every_layer_of_random_chains(seed):
    rng = np.random.default_rng(seed)
    model, x = random_chain(rng), picture(rng, 3, 20, 23)
    occluders = [
        Occluder((5, 4), 3, 0.3),
        Occluder((20, 23), (19, 22), 0.0),
        Occluder(1, (7, 6), 0.5, "inside"),
        Occluder((2, 9), (7, 5), -0.2),
        Occluder((6, 6), (13, 11), 0.1, "inside"),
    ]
    (maps,) = SaliencyVisualizer(model).sweep(x, LAYERS, occluders, batch_size=int(rng.integers(1, 40)))
    for occluder, found in zip(occluders, maps, strict=True):
        windows = occlusion_windows((20, 23), occluder.ksize, occluder.stride, occluder.windows).reshape(-1, 4)
        for layer in LAYERS:
            assert found[layer].data.dtype == x.dtype
            assert_equal(found[layer].data, densely(model, x, layer, windows, occluder.fill), 1e-7)


def test_float32():
    rng = np.random.default_rng(4)
    model, x = random_chain(rng, dtype=np.float32), picture(rng, 3, 20, 23, dtype=np.float32)
    windows = occlusion_windows((20, 23), 6, 3).reshape(-1, 4)
    for layer in LAYERS:
        got = SaliencyVisualizer(model).analyze(x, layer, 6, 3, fill=0.25)
        assert got.data.dtype == np.float32
        assert_equal(got.data, densely(model, x, layer, windows, 0.25), 1e-4)


def convolution(rng, incoming, outgoing, ksize=3, **kwargs):
    W = rng.standard_normal((outgoing, incoming // kwargs.get("groups", 1), ksize, ksize)) / ksize
    return tn.TraceableConvolution2D(incoming, outgoing, ksize, initialW=W, initial_bias=rng.standard_normal(outgoing), **kwargs)


class Shifted(tn.TraceableNode):
    """A node that says how its outputs look at its inputs, but nothing else."""

    window = Window((3, 3), pad=((1, 1), (1, 1)))

    def forward(self, x):
        return F.average_pooling_2d(F.absolute(x), 3, 1, 1)


class Squared(tn.TraceableNode):
    """A node of one pixel."""

    window = Window((1, 1))

    def forward(self, x):
        return chainer.as_variable(x) ** 2


def test_layers_without_a_response_of_their_own():
    rng = np.random.default_rng(0)
    with chainer.using_config("dtype", np.float64):
        model = TraceableChain(
            conv=convolution(rng, 2, 18, pad=1),
            tanh=F.tanh,
            shifted=Shifted(),
            squared=Squared(),
            deep=convolution(rng, 18, 17, pad=1, stride=1),
            crop=lambda x: x[:, :, 1:-2, 2:],
            dilated=convolution(rng, 17, 4, dilate=2, pad=2),
            average=tn.TraceableAveragePooling2D(3, 2, 1),
            softmax=F.softmax,
        )
    x = picture(rng, 2, 15, 17)
    windows = occlusion_windows((15, 17), (4, 5), 4).reshape(-1, 4)
    for layer in model.layer_names:
        assert_equal(
            SaliencyVisualizer(model).analyze(x, layer, (4, 5), 4, fill=0.4).data, densely(model, x, layer, windows, 0.4)
        )


def test_places_that_a_layer_steps_over_change_nothing():
    rng = np.random.default_rng(1)
    with chainer.using_config("dtype", np.float64):
        model = TraceableChain(
            steps=convolution(rng, 1, 2, ksize=1, stride=4),
            relu=tn.TraceableReLU(),
            pool=tn.TraceableMaxPooling2D(2, 2),
            conv=convolution(rng, 2, 3, pad=1),
            block=TraceableResidual(convolution(rng, 3, 3, ksize=1), None),
            mixed=TraceableParallel(tn.TraceableReLU(), kept=None),
            mean=tn.TraceableGlobalAveragePooling2D(),
        )
    x = rng.standard_normal((1, 19, 19))
    windows = occlusion_windows((19, 19), 1, 1).reshape(-1, 4)
    for layer in model.layer_names:
        assert_equal(SaliencyVisualizer(model).analyze(x, layer, 1, 1, fill=3.0).data, densely(model, x, layer, windows, 3.0))


def test_several_layers_of_one_picture_and_of_a_batch():
    rng = np.random.default_rng(2)
    model, x = random_chain(rng), picture(rng, 2, 3, 14, 17)
    visualizer = SaliencyVisualizer(model)
    several = visualizer.analyze(x, ("grouped", "fc"), 5, 4)
    assert [list(maps) for maps in several] == [["grouped", "fc"]] * 2
    for img, maps in zip(x, several, strict=True):
        for layer, found in maps.items():
            np.testing.assert_allclose(found.data, visualizer.analyze(img, layer, 5, 4).data, rtol=1e-9, atol=1e-12)
            assert found.sweep.layer == layer


def test_the_weights_may_be_changed_between_two_sweeps():
    rng = np.random.default_rng(3)
    model, x = random_chain(rng), picture(rng, 3, 14, 17)
    SaliencyVisualizer(model).analyze(x, "fc", 5, 4)
    model["conv1"].W.array *= -2
    windows = occlusion_windows((14, 17), 5, 4).reshape(-1, 4)
    assert_equal(SaliencyVisualizer(model).analyze(x, "fc", 5, 4, fill=0.1).data, densely(model, x, "fc", windows, 0.1))


def deep_chain(rng, channels=24):
    with chainer.using_config("dtype", np.float32):
        layers = {}
        for number in range(3):
            incoming = 3 if number == 0 else channels
            W = (rng.standard_normal((channels, incoming, 3, 3)) / np.sqrt(4.5 * incoming)).astype(np.float32)
            layers[f"conv{number}"] = tn.TraceableConvolution2D(incoming, channels, 3, pad=1, initialW=W)
            layers[f"relu{number}"] = tn.TraceableReLU()
            layers[f"pool{number}"] = tn.TraceableMaxPooling2D(2)
        return TraceableChain(**layers)


@pytest.mark.parametrize("budget", [80 << 20, 100 << 20])
def test_the_memory_budget_is_kept(budget):
    rng = np.random.default_rng(5)
    model, x = deep_chain(rng), rng.standard_normal((3, 160, 160)).astype(np.float32)
    visualizer = SaliencyVisualizer(model)
    visualizer.analyze(x, "pool2", 32, 80, memory_budget=budget)
    tracemalloc.start()
    try:
        bounded = visualizer.analyze(x, "pool2", 32, 12, memory_budget=budget)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 1.2 * budget
    np.testing.assert_allclose(bounded.data, visualizer.analyze(x, "pool2", 32, 12).data, atol=1e-5)


class Interrupting(tn.TraceableNode):
    """Interrupts the call after next."""

    window = Window((1, 1))

    def __init__(self, calls):
        self.calls = iter(range(calls))

    def forward(self, x):
        if next(self.calls, None) is None:
            raise KeyboardInterrupt
        return chainer.as_variable(x) * 1


def test_an_interrupted_sweep_gives_what_is_finished_if_asked():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 12, 12))

    def model(calls):
        return TraceableChain(interrupting=Interrupting(calls), mean=tn.TraceableGlobalAveragePooling2D())

    with pytest.raises(KeyboardInterrupt):
        SaliencyVisualizer(model(3)).analyze(x, "mean", 3, 3, batch_size=5)
    part = SaliencyVisualizer(model(3)).analyze(x, "mean", 3, 3, batch_size=5, partial=True)
    full = SaliencyVisualizer(model(99)).analyze(x, "mean", 3, 3, batch_size=5)
    finished = ~np.isnan(part.data)
    assert finished.sum() == 2 * 5 * 2
    np.testing.assert_array_equal(part.data[finished], full.data[finished])


def test_approximations_measure_their_error():
    rng = np.random.default_rng(7)
    model, x = deep_chain(rng, 8), rng.standard_normal((3, 48, 48)).astype(np.float32)
    visualizer = SaliencyVisualizer(model)
    exact = visualizer.analyze(x, "pool2", 8, 4)
    assert exact.error is None
    size = np.sqrt(np.mean(exact.data**2))
    everywhere = exact.data[..., 0].size
    for settings in ({"threshold": 0.1}, {"coarse": 3, "refined": 0.2}, {"threshold": 0.02, "coarse": 2}):
        rough = visualizer.analyze(x, "pool2", 8, 4, approximation=Approximation(sample=everywhere, **settings))
        error = np.sqrt(np.mean((rough.data - exact.data) ** 2)) / size
        assert 0 < rough.error < 1
        np.testing.assert_allclose(rough.error, error, rtol=1e-3)
        few = visualizer.analyze(x, "pool2", 8, 4, approximation=Approximation(sample=5, **settings))
        np.testing.assert_array_equal(few.data, rough.data)
    refined = visualizer.analyze(x, "pool2", 8, 4, approximation=Approximation(coarse=3, refined=1.0))
    np.testing.assert_allclose(refined.data, exact.data, atol=1e-6)
    same = visualizer.analyze(x, "pool2", 8, 4, approximation=Approximation())
    assert same.error < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threshold": -1}, "threshold"), ({"coarse": 0}, "coarse"), ({"refined": 2}, "refined"), ({"sample": 0}, "sample")],
)
def test_approximations_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=f"{message} must be (between 0 and 1|at least 1), got"):
        Approximation(**settings)


def grown(window, by, size):
    """Pixels of a window that grew by some to all sides, inside a picture."""
    top, left, bottom, right = np.clip(window + by * np.array([-1, -1, 1, 1]), 0, size)
    return (bottom - top) * (right - left)


def test_explain_tells_forms_shares_and_arithmetic():
    rng = np.random.default_rng(8)
    model = deep_chain(rng, 64)
    table = SaliencyVisualizer(model).explain(np.zeros((3, 48, 48), np.float32), "pool2", 8, 8, windows="inside").splitlines()
    rows = {line.split()[0]: line for line in table}
    assert list(rows) == ["layer", *model.layer_names, "all"]
    inside = occlusion_windows((48, 48), 8, 8, "inside").reshape(-1, 4)
    share = np.mean([grown(window, 1, 48) for window in inside]) / 48**2
    assert rows["conv0"].split()[1:3] == ["gathered", f"{share:.0%}"]
    pooled = [grown(np.add(window, (-1, -1, 2, 2)) // 2, 0, 24) for window in inside]
    assert rows["conv1"].split()[1] == "scattered"
    assert rows["conv1"].split()[3] == f"{np.mean(pooled) * 64 * 64 * 9 / 1e6:.3g}"
    assert "dense" in SaliencyVisualizer(model).explain(np.zeros((3, 8, 8), np.float32), "conv2", 8).splitlines()[7]
    work = {
        layer.path: layer for layer in SaliencyVisualizer(model).work(np.zeros((3, 48, 48), np.float32), "pool2", 8, 8, "inside")
    }
    assert work["conv1"].made == np.mean(pooled) * 64 * 64 * 9
    assert work["conv1"].plain == 24 * 24 * 64 * 64 * 9
    assert work["pool2"].plain == 0


def test_places_come_in_groups_of_one_size():
    rng = np.random.default_rng(9)
    model, x = deep_chain(rng, 8), rng.standard_normal((1, 3, 64, 64)).astype(np.float32)
    with chainer.no_backprop_mode(), chainer.using_config("train", False):
        sweep = incremental.IncrementalSweep(model.graph(), [model.graph().index("pool2")], x)
    windows = occlusion_windows((64, 64), 16, 4).reshape(-1, 4)
    order = sweep.order_of_places(sweep.regions(windows))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(windows)))

    def covered(order):
        return sum(
            len(part) * np.prod((region.stops[part] - region.starts[part]).max(axis=0))
            for region in sweep.regions(windows).values()
            for part in (order[start : start + 16] for start in range(0, len(order), 16))
        )

    needed = sum(region.areas.sum() for region in sweep.regions(windows).values())
    assert covered(order) < 1.1 * needed
    assert covered(order) < covered(np.arange(len(windows)))


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_affected_windows_are_those_that_span_a_pixel(size, ksize, stride, before, dilate, start, length):
    start, stop = min(start, size), min(start + length, size)
    count = max(0, (size + before + 2 - dilate * (ksize - 1) - 1) // stride + 1)
    first, last = affected_windows(np.array([start]), np.array([stop]), count, ksize, stride, before, dilate)
    spanning = [
        n
        for n in range(count)
        if stop > start and n * stride - before < stop and n * stride - before + dilate * (ksize - 1) >= start
    ]
    assert list(range(int(first[0]), int(last[0]))) == spanning


rectangles = st.tuples(*(st.integers(0, 6) for _ in range(4))).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3]))


@given(st.lists(st.tuples(rectangles, rectangles), min_size=1, max_size=5))
def test_unions_hold_both_and_covers_hold_unions(pairs):
    regions = []
    for which in (0, 1):
        corners = np.array([pair[which] for pair in pairs])
        regions.append(responses.Region(corners[:, :2], corners[:, 2:]))
    both = responses.union(regions)
    place = responses.cover(both, (12, 12))
    for number, rects in enumerate(pairs):
        pixels = {
            pixel for top, left, bottom, right in rects for pixel in itertools.product(range(top, bottom), range(left, right))
        }
        starts, stops = both.starts[number], both.stops[number]
        held = set(itertools.product(range(starts[0], stops[0]), range(starts[1], stops[1])))
        assert pixels <= held
        assert (not pixels) == (not held)
        origin = place.origins[number]
        assert (origin >= 0).all()
        assert (origin + place.size <= 12).all()
        assert held <= set(
            itertools.product(range(origin[0], origin[0] + place.size[0]), range(origin[1], origin[1] + place.size[1]))
        )

from itertools import product

import chainer
import chainer.functions as F
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dcnn_kernels import geometry
from dcnn_kernels.reference import blocks
from tests import oracle
from tests.kernels.device import cuda_only, kernels, reference_only
from tests.kernels.properties import assert_adjoint, assert_close, check_calls, dtypes, normal

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
#: Windows of the kinds that networks have: tight, overlapping, with gaps, padded on one side, oblong, larger than the stride.
WINDOWS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0))),
    ((3, 3), (2, 2), ((0, 0), (0, 0))),
    ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((3, 3), (2, 2), ((0, 1), (0, 1))),
    ((3, 2), (1, 3), ((2, 0), (0, 1))),
    ((2, 2), (3, 3), ((1, 0), (0, 1))),
    ((1, 1), (3, 3), ((3, 3), (4, 3))),
    ((5, 4), (1, 1), ((2, 2), (2, 1))),
]
windows = pytest.mark.parametrize(("ksize", "stride", "pad"), WINDOWS)
#: Pictures that windows of 2 by 2 tile, in rows of 1 to 12 windows, and one with more windows than a block has threads.
TILED = [(2, 2), (4, 4), (2, 6), (6, 8), (4, 10), (2, 12), (8, 16), (2, 24), (22, 64)]


@st.composite
def layouts(draw):
    """A picture's shape and windows that fit: (H, W), ksize, stride, pad, cover_all, (h, w)."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    ksize, stride = draw(pairs), draw(pairs)
    sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
    pad, cover = draw(st.tuples(sides, sides)), draw(st.booleans())
    assume(all(shape[axis] + sum(pad[axis]) >= ksize[axis] for axis in range(2)))
    return shape, ksize, stride, pad, cover, oracle.window_counts(shape, ksize, stride, pad, cover)


def tied(seed, shape, dtype=np.float64):
    """Few different values, -inf and 0 among them: most windows have a tie."""
    return np.random.default_rng(seed).choice([-np.inf, -1, 0, 2], size=shape).astype(dtype)


@dtypes
@windows
@pytest.mark.parametrize("cover_all", [True, False])
@pytest.mark.parametrize("make", [normal, tied])
def test_max_pooling_is_the_oracles(ksize, stride, pad, cover_all, make, dtype):
    x = make(0, (2, 3, 9, 8), dtype)
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad, cover_all)
    expected, places = oracle.max_pooling_2d(x, ksize, stride, pad, cover_all)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, places)
    assert switches.dtype == np.uint8


@dtypes
@given(layouts(), st.integers(0, 99))
def test_max_pooling_is_the_oracles_whatever_the_windows(dtype, layout, seed):
    shape, ksize, stride, pad, cover_all, _ = layout
    x = tied(seed, (1, 2, *shape), dtype)
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad, cover_all)
    expected, places = oracle.max_pooling_2d(x, ksize, stride, pad, cover_all)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, places)


@given(layouts(), st.integers(0, 99))
def test_max_pooling_and_its_gradient_are_chainers(layout, seed):
    shape, ksize, stride, pad, cover_all, _ = layout
    pad = tuple((side, side) for side in (pad[0][0], pad[1][0]))
    assume(all(shape[axis] + sum(pad[axis]) >= ksize[axis] for axis in range(2)))
    x = chainer.Variable(tied(seed, (2, 2, *shape)))
    expected, places = F.max_pooling_2d(x, ksize, stride, (pad[0][0], pad[1][0]), cover_all, return_indices=True)
    y, switches = kernels.max_pooling_2d(x.array, ksize, stride, pad, cover_all)
    np.testing.assert_array_equal(y, expected.array)
    np.testing.assert_array_equal(switches, places)
    expected.grad = g = normal(seed, y.shape)
    expected.backward()
    assert_close(kernels.unpooling_2d(g, shape, ksize, stride, pad, switches), x.grad)


def test_a_window_wholly_in_the_padding_points_at_its_first_place_and_loses_its_signal():
    x, pad = np.ones((1, 1, 2, 2), np.float32), ((2, 0), (0, 0))
    y, switches = kernels.max_pooling_2d(x, 2, 2, pad)
    np.testing.assert_array_equal(y[0, 0], [[-np.inf], [1]])
    assert not switches.any()
    back = kernels.unpooling_2d(np.full(y.shape, 5, np.float32), (2, 2), 2, 2, pad, switches)
    np.testing.assert_array_equal(back[0, 0], [[5, 0], [0, 0]])


def test_a_nan_wins_its_window_and_the_first_wins_ties():
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    x[0, 0, 0, 1] = x[0, 0, 1, 0] = x[0, 0, 3, 3] = np.nan
    y, switches = kernels.max_pooling_2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[np.nan, 7], [13, np.nan]])
    np.testing.assert_array_equal(switches[0, 0], [[1, 3], [3, 3]])


@pytest.mark.parametrize(("side", "dtype"), [(16, np.uint8), (17, np.uint16), (257, np.uint32)])
def test_switches_are_as_wide_as_the_window_needs(side, dtype):
    x = np.zeros((1, 1, side, side), np.float32)
    x[0, 0, -1, -1] = 1
    y, switches = kernels.max_pooling_2d(x, side)
    assert switches.dtype == dtype
    assert switches.item() == side * side - 1
    np.testing.assert_array_equal(kernels.unpooling_2d(y, side, side, switches=switches), x)


@dtypes
@windows
@pytest.mark.parametrize("cover_all", [True, False])
@pytest.mark.parametrize("mode", ["switch", "center", "spread"])
def test_unpooling_is_the_oracles(ksize, stride, pad, cover_all, mode, dtype):
    counts = oracle.window_counts((9, 8), ksize, stride, pad, cover_all)
    g = normal(0, (2, 3, *counts), dtype)
    # Any switch, not only those that a pooling would make: some point outside the picture.
    switches = np.random.default_rng(1).integers(0, ksize[0] * ksize[1], g.shape).astype(np.uint8)
    back = kernels.unpooling_2d(g, (9, 8), ksize, stride, pad, switches, mode)
    assert back.dtype == dtype
    assert_close(back, oracle.unpooling_2d(g, (9, 8), ksize, stride, pad, switches, mode))


@pytest.mark.parametrize(("ksize", "place"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
def test_center_is_at_half_the_window_less_one(ksize, place):
    back = kernels.unpooling_2d(np.ones((1, 1, 1, 1)), ksize, ksize, mode="center")
    assert np.argwhere(back[0, 0]).tolist() == [[place, place]]


def test_unpooling_keeps_infinite_signals_apart():
    g = np.full((1, 1, 1, 1), -np.inf, np.float32)
    back = kernels.unpooling_2d(g, 2, 2, switches=np.ones(g.shape, np.uint8))
    np.testing.assert_array_equal(back[0, 0], [[0, -np.inf], [0, 0]])
    assert not np.signbit(back[0, 0, 1]).any()


@given(layouts(), st.integers(0, 99))
def test_unpooling_by_switches_is_the_adjoint_of_taking_what_they_point_at(layout, seed):
    shape, ksize, stride, pad, cover_all, counts = layout
    x, g = normal(seed, (2, 2, *shape)), normal(seed + 1, (2, 2, *counts))
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad, cover_all)
    back = kernels.unpooling_2d(g, shape, ksize, stride, pad, switches)
    taken = np.where(np.isfinite(y), y, 0)
    np.testing.assert_allclose(np.vdot(taken, g), np.vdot(x, back), rtol=1e-10, atol=1e-10)
    twice = kernels.unpooling_2d(2 * g + g[::-1], shape, ksize, stride, pad, switches)
    assert_close(twice, 2 * back + kernels.unpooling_2d(g[::-1], shape, ksize, stride, pad, switches))


@dtypes
@windows
@pytest.mark.parametrize("channels", [3, 8])  # samples of an odd number of maxima, and of whole bytes
def test_the_mask_of_max_pooling_is_its_maximas_and_that_of_the_pixels_they_came_from(channels, ksize, stride, pad, dtype):
    x = normal(0, (2, channels, 9, 7), dtype)
    x[0, 0, :4, :4] = np.nan
    y, switches, mask = kernels.max_pooling_2d(x, ksize, stride, pad, mask=True)
    for plain, fused in zip(kernels.max_pooling_2d(x, ksize, stride, pad), (y, switches), strict=True):
        np.testing.assert_array_equal(fused, plain)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, oracle.relu_mask(y))
    before = kernels.max_pooling_2d(kernels.relu(x), ksize, stride, pad, mask=True)
    np.testing.assert_array_equal(before[2], mask)


@dtypes
@windows
@pytest.mark.parametrize("mode", ["switch", "center", "spread"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("rectify", [True, False])
def test_unpooling_through_a_rectifier_is_the_oracles(ksize, stride, pad, mode, masked, rectify, dtype):
    x = normal(0, (2, 3, 9, 7), dtype)
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad)
    g = normal(1, y.shape, dtype)
    mask, gate = (kernels.relu_mask(x), oracle.passes(x)) if masked else (None, None)
    back = kernels.unpooling_2d(g, (9, 7), ksize, stride, pad, switches, mode, mask, rectify)
    assert back.dtype == dtype
    sums = oracle.unpooling_2d(g, (9, 7), ksize, stride, pad, switches, mode)
    assert_close(back, oracle.relu_reverse(sums, gate, rectify))


@dtypes
@given(layouts(), st.sampled_from(["switch", "center", "spread"]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_unpooling_is_the_oracles_whatever_the_windows(dtype, layout, mode, masked, rectify, seed):
    shape, ksize, stride, pad, _, counts = layout
    x, g = normal(seed, (2, 3, *shape), dtype), normal(seed, (2, 3, *counts), dtype)
    switches = np.random.default_rng(seed).integers(0, ksize[0] * ksize[1], g.shape).astype(np.uint8)
    mask, gate = (kernels.relu_mask(x), oracle.passes(x)) if masked else (None, None)
    back = kernels.unpooling_2d(g, shape, ksize, stride, pad, switches, mode, mask, rectify)
    sums = oracle.unpooling_2d(g, shape, ksize, stride, pad, switches, mode)
    assert_close(back, oracle.relu_reverse(sums, gate, rectify))


@dtypes
@pytest.mark.parametrize(
    ("picture", "cover_all"), [*product([(7, 71), (6, 39), (5, 34), (4, 70)], [True, False]), ((1, 33), True)]
)
def test_rows_of_many_windows_of_2_by_2(picture, cover_all, dtype):
    """Of any remainder: what is left of a row, its last pixel, and the last row."""
    x = tied(0, (2, 3, *picture), dtype)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    window = ((2, 2), (2, 2), ((0, 0), (0, 0)))
    y, switches = kernels.max_pooling_2d(x, 2, cover_all=cover_all)
    expected, places = oracle.max_pooling_2d(x, *window, cover_all)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, places)
    g, gate, mask = normal(1, y.shape, dtype), oracle.passes(x), oracle.relu_mask(x)
    sums = oracle.unpooling_2d(g, picture, *window, places)
    assert_close(kernels.unpooling_2d(g, picture, 2, switches=switches), sums)
    for masked, rectify in ((True, False), (False, True), (True, True)):
        back = kernels.unpooling_2d(g, picture, 2, switches=switches, mask=mask if masked else None, rectify=rectify)
        assert_close(back, oracle.relu_reverse(sums, gate if masked else None, rectify))


@dtypes
@pytest.mark.parametrize("ksize", [2, 3])
def test_one_pictures_switches_and_mask_serve_all_signals(ksize, dtype):
    x = normal(0, (1, 3, 6, 70), dtype)
    y, switches = kernels.max_pooling_2d(x, ksize, 2)
    g, mask = normal(1, (4, *y.shape[1:]), dtype), kernels.relu_mask(x)
    shared = np.broadcast_to(switches, g.shape), np.broadcast_to(mask, (4, mask.shape[1]))
    copied = [record.copy() for record in shared]
    got, expected = (kernels.unpooling_2d(g, (6, 70), ksize, 2, 0, s, mask=m, rectify=True) for s, m in (shared, copied))
    np.testing.assert_array_equal(got, expected)
    signal = normal(2, (4, 3, 6, 70), dtype)
    got, expected = (kernels.relu_reverse(signal, m, True) for m in (shared[1], copied[1]))
    np.testing.assert_array_equal(got, expected)


@dtypes
@pytest.mark.parametrize("picture", TILED)
@pytest.mark.parametrize("channels", [3, 8])
def test_windows_of_2_by_2_that_tile_a_picture(picture, channels, dtype):
    x = tied(0, (2, channels, *picture), dtype)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    y, switches, mask = kernels.max_pooling_2d(x, 2, mask=True)
    expected, places = oracle.max_pooling_2d(x, (2, 2), (2, 2), ((0, 0), (0, 0)), True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, places)
    np.testing.assert_array_equal(mask, oracle.relu_mask(expected))
    g = normal(1, y.shape, dtype)
    for mode in ("switch", "center", "spread"):
        sums = oracle.unpooling_2d(g, picture, (2, 2), (2, 2), ((0, 0), (0, 0)), switches, mode)
        assert_close(kernels.unpooling_2d(g, picture, 2, switches=switches, mode=mode), sums)
        back = kernels.unpooling_2d(g, picture, 2, switches=switches, mode=mode, mask=kernels.relu_mask(x), rectify=True)
        assert_close(back, oracle.relu_reverse(sums, oracle.passes(x), True))


@dtypes
@windows
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_average_pooling_and_its_adjoint_are_the_oracles(ksize, stride, pad, count_include_pad, dtype):
    x = normal(0, (2, 3, 9, 8), dtype)
    y = kernels.average_pooling_2d(x, ksize, stride, pad, count_include_pad)
    assert_close(y, oracle.average_pooling_2d(x, ksize, stride, pad, count_include_pad))
    g = normal(1, y.shape, dtype)
    back = kernels.average_pooling_2d_adjoint(g, (9, 8), ksize, stride, pad, count_include_pad)
    assert_close(back, oracle.average_pooling_2d_adjoint(g, (9, 8), ksize, stride, pad, count_include_pad))


@dtypes
@pytest.mark.parametrize(("ksize", "stride", "pad"), [WINDOWS[2], WINDOWS[7], ((2, 3), (3, 2), ((1, 0), (2, 1)))])
@pytest.mark.parametrize("picture", [(17, 37), (4, 66), (19, 5)])
def test_pictures_of_more_windows_than_go_together(ksize, stride, pad, picture, dtype):
    x = tied(0, (2, 2, *picture), dtype)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad)
    expected, places = oracle.max_pooling_2d(x, ksize, stride, pad, True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, places)
    g = normal(1, y.shape, dtype)
    back = kernels.unpooling_2d(g, picture, ksize, stride, pad, switches)
    assert_close(back, oracle.unpooling_2d(g, picture, ksize, stride, pad, switches, "switch"))
    x = normal(2, x.shape, dtype)
    y = kernels.average_pooling_2d(x, ksize, stride, pad, False)
    assert_close(y, oracle.average_pooling_2d(x, ksize, stride, pad, False))
    back = kernels.average_pooling_2d_adjoint(y, picture, ksize, stride, pad, False)
    assert_close(back, oracle.average_pooling_2d_adjoint(y, picture, ksize, stride, pad, False))


@pytest.mark.parametrize(("ksize", "stride", "pad"), [(2, None, 0), (3, 2, 1), ((3, 2), (1, 2), (1, 0)), (2, 3, 1)])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_average_pooling_and_its_gradient_are_chainers(ksize, stride, pad, count_include_pad):
    x = chainer.Variable(normal(0, (2, 3, 9, 8), np.float32))
    side = pad if isinstance(pad, tuple) else (pad, pad)
    expected = F.average_pooling_nd(
        x, geometry.pair("ksize", ksize), stride and geometry.pair("stride", stride), side, 0 if count_include_pad else None
    )
    y = kernels.average_pooling_2d(x.array, ksize, stride, pad, count_include_pad)
    assert_close(y, expected.array)
    if count_include_pad:
        assert_close(y, F.average_pooling_2d(x.array, ksize, stride, pad).array)
    g = normal(1, y.shape, np.float32)
    expected.grad = g.copy()  # Chainer divides it in place when the pad isn't counted
    expected.backward()
    back = kernels.average_pooling_2d_adjoint(g, (9, 8), ksize, stride, pad, count_include_pad)
    assert_close(back, x.grad)


@given(layouts(), st.booleans(), st.integers(0, 99))
def test_average_pooling_adjointness(layout, count_include_pad, seed):
    shape, ksize, stride, pad, _, _ = layout
    counts = oracle.window_counts(shape, ksize, stride, pad)
    assert_adjoint(
        lambda x: kernels.average_pooling_2d(x, ksize, stride, pad, count_include_pad),
        lambda g: kernels.average_pooling_2d_adjoint(g, shape, ksize, stride, pad, count_include_pad),
        normal(seed, (2, 2, *shape)),
        normal(seed + 1, (2, 2, *counts)),
    )


@dtypes
@pytest.mark.parametrize("picture", [(5, 4), (1, 1), (3, 43), (46, 45)])  # few pixels for a warp, many, and enough for a block
def test_global_average_pooling_is_the_oracles_and_chainers(picture, dtype):
    x, g = chainer.Variable(normal(0, (2, 3, *picture), dtype)), normal(1, (2, 3), dtype)
    y = kernels.global_average_pooling_2d(x.array)
    assert_close(y, oracle.global_average_pooling_2d(x.array))
    expected = F.mean(x, axis=(2, 3))
    assert_close(y, expected.array)
    expected.grad = g
    expected.backward()
    back = kernels.global_average_pooling_2d_adjoint(g, picture)
    assert_close(back, oracle.global_average_pooling_2d_adjoint(g, picture))
    assert_close(back, x.grad)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_global_average_pooling_adjointness(batch, height, width, seed):
    assert_adjoint(
        kernels.global_average_pooling_2d,
        lambda g: kernels.global_average_pooling_2d_adjoint(g, (height, width)),
        normal(seed, (batch, 3, height, width)),
        normal(seed + 1, (batch, 3)),
    )


@dtypes
@windows
def test_calls(ksize, stride, pad, dtype):
    x = normal(0, (3, 2, 9, 8), dtype)
    check_calls(lambda x: kernels.max_pooling_2d(x, ksize, stride, pad, mask=True), x)
    check_calls(lambda x: kernels.average_pooling_2d(x, ksize, stride, pad), x)
    y, switches = kernels.max_pooling_2d(x, ksize, stride, pad)
    mask = kernels.relu_mask(x)
    for mode in ("switch", "center", "spread"):
        check_calls(lambda g, s, mode=mode: kernels.unpooling_2d(g, (9, 8), ksize, stride, pad, s, mode), y, switches, batched=2)
        check_calls(
            lambda g, s, mask, mode=mode: kernels.unpooling_2d(g, (9, 8), ksize, stride, pad, s, mode, mask, True),
            y,
            switches,
            mask,
            batched=3,
        )
    g = kernels.average_pooling_2d(x, ksize, stride, pad)
    check_calls(lambda g: kernels.average_pooling_2d_adjoint(g, (9, 8), ksize, stride, pad), g)


@dtypes
def test_calls_on_tiled_pictures(dtype):
    x = normal(0, (3, 3, 6, 8), dtype)
    check_calls(lambda x: kernels.max_pooling_2d(x, 2, mask=True), x)
    y, switches = kernels.max_pooling_2d(x, 2)
    mask = kernels.relu_mask(x)
    check_calls(lambda g, s, mask: kernels.unpooling_2d(g, (6, 8), 2, None, 0, s, "switch", mask), y, switches, mask, batched=3)


@dtypes
def test_global_calls(dtype):
    check_calls(kernels.global_average_pooling_2d, normal(0, (3, 2, 5, 4), dtype))
    check_calls(lambda g: kernels.global_average_pooling_2d_adjoint(g, (5, 4)), normal(0, (3, 2), dtype))


@cuda_only
@dtypes
@pytest.mark.parametrize("window", [{"ksize": 2}, {"ksize": 3, "stride": 2, "pad": 1}, {"ksize": (5, 4), "stride": (3, 2)}])
@pytest.mark.parametrize("picture", [(32, 48), (31, 47)])
def test_results_do_not_depend_on_the_grid(window, picture, dtype, monkeypatch):
    x = normal(0, (3, 5, *picture), dtype)
    y, switches = kernels.max_pooling_2d(x, **window)
    g, averages, mask = normal(1, y.shape, dtype), normal(2, (3, 5), dtype), kernels.relu_mask(x)

    def results():
        modes = ("switch", "center", "spread")
        return (
            *kernels.max_pooling_2d(x, **window, mask=True),
            *(kernels.unpooling_2d(g, picture, **window, switches=switches, mode=mode) for mode in modes),
            *(kernels.unpooling_2d(g, picture, **window, switches=switches, mode=mode, mask=mask) for mode in modes),
            kernels.average_pooling_2d(x, **window),
            kernels.global_average_pooling_2d(x),
            kernels.global_average_pooling_2d_adjoint(averages, picture),
        )

    expected = results()
    for module in ("elements", "pooling"):
        monkeypatch.setattr(f"dcnn_kernels.cuda.{module}.BLOCKS", 1)
    monkeypatch.setattr("dcnn_kernels.cuda.elements.ROWS", 2)
    for again, once in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(again, once)


@reference_only
@pytest.mark.parametrize("size", [1, 100, 1000, 10000])
def test_results_do_not_depend_on_the_blocks(size, monkeypatch):
    x = normal(0, (3, 5, 9, 8))
    y, switches = kernels.max_pooling_2d(x, 3, 2, 1)
    g = normal(1, y.shape)
    back, spread = (kernels.unpooling_2d(g, (9, 8), 3, 2, 1, switches, mode) for mode in ("switch", "spread"))
    average = kernels.average_pooling_2d(x, 3, 2, 1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    for again, once in zip(kernels.max_pooling_2d(x, 3, 2, 1), (y, switches), strict=True):
        np.testing.assert_array_equal(again, once)
    np.testing.assert_array_equal(kernels.unpooling_2d(g, (9, 8), 3, 2, 1, switches), back)
    np.testing.assert_array_equal(kernels.unpooling_2d(g, (9, 8), 3, 2, 1, mode="spread"), spread)
    np.testing.assert_array_equal(kernels.average_pooling_2d(x, 3, 2, 1), average)


def test_a_window_over_the_end_of_a_smaller_picture_goes_back():
    x = normal(0, (2, 3, 1, 1))
    y, switches = kernels.max_pooling_2d(x, 2)
    np.testing.assert_array_equal(kernels.unpooling_2d(y, 1, 2, switches=switches), x)


def test_errors_name_what_was_given_and_expected():
    x = normal(0, (1, 2, 6, 6))
    y, switches = kernels.max_pooling_2d(x, 3, 2)
    for pool in (kernels.max_pooling_2d, kernels.average_pooling_2d):
        with pytest.raises(ValueError, match=r"x must have 4 dimensions, got shape \(2, 6, 6\)"):
            pool(x[0], 2)
        with pytest.raises(ValueError, match=r"a window of extent 9 .* is larger than the picture's 6 pixels"):
            pool(x, 9, 1)
        with pytest.raises(ValueError, match="ksize must be at least 1, got 0"):
            pool(x, 0)
        with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
            pool(x, 2, 0)
        with pytest.raises(TypeError, match=r"x must be of dtype .*float32 or float64, got int64"):
            pool(x.astype(int), 2)
    with pytest.raises(ValueError, match=r"g must have 2 or 3 rows of windows for outsize \(6, 6\), .*got shape \(1, 2, 4, 3\)"):
        kernels.unpooling_2d(np.zeros((1, 2, 4, 3)), 6, 3, 2, mode="center")
    with pytest.raises(ValueError, match=r"g must have 3 columns of windows for outsize \(7, 7\), .*got shape \(1, 2, 3, 4\)"):
        kernels.unpooling_2d(np.zeros((1, 2, 3, 4)), 7, 3, 2, mode="center")
    with pytest.raises(ValueError, match=r"mode must be one of \('switch', 'center', 'spread'\), got 'max'"):
        kernels.unpooling_2d(y, 6, 3, 2, mode="max")
    with pytest.raises(TypeError, match="mode 'switch' needs the switches of max_pooling_2d, got None"):
        kernels.unpooling_2d(y, 6, 3, 2)
    with pytest.raises(TypeError, match=r"switches of \(3, 3\) windows must be of dtype uint8, got int64"):
        kernels.unpooling_2d(y, 6, 3, 2, switches=switches.astype(int))
    with pytest.raises(ValueError, match=r"switches must have shape \(1, 2, 3, 3\), got \(1, 1, 3, 3\)"):
        kernels.unpooling_2d(y, 6, 3, 2, switches=switches[:, :1])
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 9\), got \(1, 3\)"):
        kernels.unpooling_2d(y, 6, 3, 2, switches=switches, mask=kernels.relu_mask(y))
    with pytest.raises(TypeError, match="mask must be of dtype uint8, as relu_mask makes it, got bool"):
        kernels.unpooling_2d(y, 6, 3, 2, switches=switches, mask=x > 0)
    with pytest.raises(ValueError, match=r"g must have shape \(any, any, 2, 2\), got \(1, 2, 3, 3\)"):
        kernels.average_pooling_2d_adjoint(y, 6, 3, 2)
    with pytest.raises(ValueError, match=r"x must have pixels, got shape \(1, 2, 0, 6\)"):
        kernels.global_average_pooling_2d(x[:, :, :0])
    with pytest.raises(ValueError, match="insize must be at least 1, got 0"):
        kernels.global_average_pooling_2d_adjoint(y[..., 0, 0], (0, 6))

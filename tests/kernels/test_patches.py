"""Changes on patches against the layers themselves: with the change, less without."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn_kernels import geometry
from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_close, dtypes, normal


def cropped(x, sample, origin, size, fill):
    """A rectangle of a map, pixel by pixel."""
    y = np.full((x.shape[1], *size), float(fill))
    for r, c in np.ndindex(*size):
        row, column = origin[0] + r, origin[1] + c
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            y[:, r, c] = x[sample, :, row, column]
    return y


def on_maps(values, origin, size):
    """A patch laid on maps of zeros, (1, C, H, W)."""
    maps = np.zeros((1, values.shape[0], *size))
    maps[0, :, origin[0] : origin[0] + values.shape[1], origin[1] : origin[1] + values.shape[2]] = values
    return maps


def affected(origins, size, shape, outsize, ksize, stride, pad, dilate=(1, 1)):
    """Output patches of one size that hold all outputs which see the patches: origins and size."""
    firsts, lasts = (
        np.stack(ends, axis=1)
        for ends in zip(
            *(
                geometry.affected_windows(
                    origins[:, axis],
                    origins[:, axis] + size[axis],
                    outsize[axis],
                    ksize[axis],
                    stride[axis],
                    pad[axis][0],
                    dilate[axis],
                )
                for axis in (0, 1)
            ),
            strict=True,
        )
    )
    needed = (lasts - firsts).max(axis=0)
    return np.minimum(firsts, np.array(outsize) - needed), tuple(needed.tolist())


@dtypes
@pytest.mark.parametrize("size", [(3, 2), (1, 1), (9, 9), (0, 3), (5, 4)])
def test_crops_are_the_oracles(size, dtype):
    x = normal(0, (3, 4, 6, 5), dtype)
    samples, origins = np.array([0, 2, 2, 1, 0]), np.array([[0, 0], [-2, 3], [4, -1], [2, 2], [-9, 9]])
    for layout in (x, np.asfortranarray(x), x[::-1].copy()[::-1]):
        y = kernels.crop_patches(layout, samples, origins, size, fill=0.5)
        assert y.dtype == dtype
        expected = [cropped(x, sample, origin, size, 0.5) for sample, origin in zip(samples, origins, strict=True)]
        np.testing.assert_array_equal(y, expected)
    assert kernels.crop_patches(x, samples[:0], origins[:0], size).shape == (0, 4, *size)


CONVOLUTIONS = [
    {"channels": (3, 4), "ksize": (3, 3), "pad": 1},
    {"channels": (17, 16), "ksize": (3, 3), "pad": ((0, 2), (1, 0))},
    {"channels": (16, 21), "ksize": (3, 3), "pad": 0},
    {"channels": (4, 5), "ksize": (1, 1)},
    {"channels": (3, 64), "ksize": (1, 1)},
    {"channels": (2, 128), "ksize": (3, 3), "pad": 1, "stride": 2},
    {"channels": (4, 3), "ksize": (1, 1), "stride": 2},
    {"channels": (2, 3), "ksize": (5, 3), "pad": (2, 1), "stride": (2, 3)},
    {"channels": (3, 2), "ksize": (2, 3), "pad": 2, "dilate": (2, 1)},
    {"channels": (4, 6), "ksize": (3, 3), "pad": 1, "groups": 2},
    {"channels": (5, 5), "ksize": (3, 3), "pad": 1, "groups": 5},
    {"channels": (5, 5), "ksize": (5, 5), "pad": ((1, 2), (1, 2)), "stride": 2, "groups": 5},
]


SHAPE, ORIGINS, SIZE = (11, 10), np.array([[0, 0], [4, 3], [5, 5], [2, 4]]), (6, 5)


def convolution(settings, dtype):
    """Filters, stride, pad, dilate and groups."""
    (incoming, outgoing), groups = settings["channels"], settings.get("groups", 1)
    W = normal(1, (outgoing, incoming // groups, *settings["ksize"]), dtype)
    stride, dilate = (geometry.pair(name, settings.get(name, 1)) for name in ("stride", "dilate"))
    return W, stride, geometry.pads(settings.get("pad", 0)), dilate, groups


@functools.cache
def whole_convolutions(number, dtype):
    """The outputs' changes on whole maps, patch by patch."""
    settings = CONVOLUTIONS[number]
    W, *geometry = convolution(settings, dtype)
    patches = normal(0, (len(ORIGINS), settings["channels"][0], *SIZE), dtype)
    return [
        oracle.convolution_2d(on_maps(patch, origin, SHAPE), W, None, *geometry)
        for patch, origin in zip(patches, ORIGINS, strict=True)
    ]


@dtypes
@pytest.mark.parametrize("form", [None, "gather", "scatter"])
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_convolutions_are_the_oracles(settings, form, dtype):
    W, stride, pad, dilate, groups = convolution(settings, dtype)
    if form == "scatter" and stride != (1, 1):
        return
    ksize, (incoming, outgoing), origins = settings["ksize"], settings["channels"], ORIGINS
    x = normal(0, (len(ORIGINS), incoming, *SIZE), dtype)
    wholes = whole_convolutions(CONVOLUTIONS.index(settings), dtype)
    outsize = geometry.output_shape(SHAPE, ksize, stride, pad, dilate)
    outputs, wanted = affected(origins, SIZE, SHAPE, outsize, ksize, stride, pad, dilate)
    offsets = outputs * np.array(stride) - np.array([pad[0][0], pad[1][0]]) - origins
    layouts = {}
    for _ in range(2):
        y = kernels.convolve_patches(x, offsets, W, wanted, stride, dilate, groups, form, layouts)
        assert y.dtype == dtype
        for whole, output, values in zip(wholes, outputs, y, strict=True):
            tolerance = {2: 2e-2, 4: 2e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
            scale = max(1, np.abs(whole).max())
            np.testing.assert_allclose(values, cropped(whole, 0, output, wanted, 0), atol=tolerance * scale)
    assert kernels.convolve_patches(x[:0], offsets[:0], W, wanted, stride, dilate, groups, form).shape == (0, outgoing, *wanted)
    assert kernels.convolve_patches(x, offsets, W, (0, 2), stride, dilate, groups, form).shape == (4, outgoing, 0, 2)
    nothing = kernels.convolve_patches(x[:, :, :0], offsets, W, wanted, stride, dilate, groups, form)
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_filters_by_evaluation_are_linear_and_the_same_in_batches(h, w, seed):
    rng = np.random.default_rng(seed)
    x, W = normal(seed, (3, 16, h, w)), normal(1, (19, 16, 3, 3))
    offsets, wanted = rng.integers(-3, 2, (3, 2)), (h + 1, w + 2)

    def run(x, offsets):
        return kernels.convolve_patches(x, offsets, W, wanted)

    assert_close(
        run(2 * x - x[::-1], offsets[:1].repeat(3, 0)),
        2 * run(x, offsets[:1].repeat(3, 0)) - run(x, offsets[:1].repeat(3, 0))[::-1],
    )
    for one, values in enumerate(run(x, offsets)):
        assert_close(run(x[one : one + 1], offsets[one : one + 1])[0], values)


@dtypes
@pytest.mark.parametrize(
    ("ksize", "stride", "pad"),
    [((2, 2), (2, 2), 0), ((3, 3), (2, 2), 1), ((3, 2), (1, 3), (1, 0)), ((2, 3), (3, 1), ((0, 1), (1, 1)))],
)
def test_pooling_is_the_oracles(ksize, stride, pad, dtype):
    pad, shape = geometry.pads(pad), (9, 11)
    before = np.round(normal(0, (1, 3, *shape), dtype))  # with ties
    after = oracle.max_pooling_2d(before, ksize, stride, pad, True)[0].astype(dtype)
    origins, size = np.array([[0, 0], [5, 6], [2, 3]]), (4, 5)
    x = np.round(2 * normal(1, (3, 3, *size), dtype))
    x[1] = 0
    outputs, wanted = affected(origins, size, shape, after.shape[2:], ksize, stride, pad)
    y = kernels.max_pool_patches(x, origins, before, after, outputs, wanted, ksize, stride, pad)
    assert y.dtype == dtype
    for patch, origin, output, values in zip(x, origins, outputs, y, strict=True):
        changed = oracle.max_pooling_2d(before + on_maps(patch, origin, shape), ksize, stride, pad, True)[0]
        change = np.subtract(changed, after, out=np.zeros_like(changed), where=changed != after)
        np.testing.assert_array_equal(values, cropped(change, 0, output, wanted, 0))
    assert kernels.max_pool_patches(x[:0], origins[:0], before, after, outputs[:0], wanted, ksize, stride, pad).size == 0


def test_a_window_in_the_padding_doesnt_change():
    x, zero = np.ones((1, 1, 1, 1)), np.zeros((1, 2), np.int64)
    after = np.array([[[[-math.inf, 2.0]]]])
    y = kernels.max_pool_patches(x, zero, np.full((1, 1, 1, 1), 2.0), after, zero, (1, 2), (1, 1), (1, 1), ((0, 0), (1, 0)))
    np.testing.assert_array_equal(y, [[[[0, 1]]]])


@dtypes
@pytest.mark.parametrize(("z", "slope"), [(math.inf, 0), (6.0, 0), (1.0, 0.25), (math.inf, 0.5)])
def test_rectifiers_are_their_definition(z, slope, dtype):
    x, before = 3 * normal(0, (3, 2, 4, 5), dtype), 3 * normal(1, (1, 2, 9, 8), dtype)
    origins = np.array([[0, 0], [5, 3], [2, 1]])
    y = kernels.rectify_patches(x, origins, before, z, slope)
    assert y.dtype == dtype

    def rectified(values):
        return np.minimum(np.maximum(values, 0), z) + slope * np.minimum(values, 0)

    for patch, origin, values in zip(x, origins, y, strict=True):
        without = cropped(before, 0, origin, (4, 5), 0)
        assert_close(values, rectified(without + patch) - rectified(without))
    assert kernels.rectify_patches(x[:0], origins[:0], before, z, slope).shape == (0, 2, 4, 5)


X, AT = np.zeros((2, 3, 4, 4)), np.zeros((2, 2), np.int64)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("crop_patches", (X, AT[:, 0] + 2, AT, 2), ValueError, r"samples must be in 0\.\.1, got 2\.\.2"),
        ("crop_patches", (X, AT[:, 0], AT[:1], 2), ValueError, r"origins must have shape \(2, 2\)"),
        ("crop_patches", (X, AT[:, 0], AT * 1.0, 2), TypeError, "origins must be a numpy.ndarray of integers, got float64"),
        ("crop_patches", (X, AT[:, 0], AT, -1), ValueError, "size must be at least 0"),
        ("convolve_patches", (X, AT, np.zeros((2, 2, 3, 3)), 2), ValueError, "x must have shape"),
        ("convolve_patches", (X, AT, np.zeros((2, 3, 3, 3)), 2, 1, 1, 1, "both"), ValueError, "form must be one of"),
        ("convolve_patches", (X, AT, np.zeros((2, 3, 3, 3)), 2, 2, 1, 1, "scatter"), ValueError, "is for stride 1, got stride 2"),
        ("convolve_patches", (X, AT, np.zeros((4, 1, 3, 3)), 2, 1, 1, 3), ValueError, "groups must divide the 4 output channels"),
        (
            "max_pool_patches",
            (X, AT + 1, X[:1], X[:1], AT, 2, 2, 2),
            ValueError,
            "patches of 4x4 at origins must lie inside before",
        ),
        ("max_pool_patches", (X, AT, X[:1], X[:1], AT, 5, 2, 2), ValueError, "patches of 5x5 at outputs must lie inside after"),
        ("rectify_patches", (X, AT - 1, X[:1]), ValueError, "must lie inside before of 4x4"),
        ("rectify_patches", (X, AT, X), ValueError, r"before must have shape \(1, 3, any, any\)"),
        ("rectify_patches", (X, AT, X[:1], -1.0), ValueError, "z must be positive"),
    ],
)
def test_bad_input_is_a_clear_error(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(kernels, name)(*arguments)

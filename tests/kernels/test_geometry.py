import dcnn_visualizer.chainer_compat  # noqa: F401  isort: skip
import chainer.utils.conv
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dcnn_kernels import geometry
from tests import oracle

sizes, small = st.integers(1, 20), st.integers(1, 5)
pads = st.tuples(st.integers(0, 4), st.integers(0, 4))


def test_pair_reads_one_integer_or_two():
    assert geometry.pair("ksize", 3) == (3, 3)
    assert geometry.pair("ksize", [3, 2]) == (3, 2)
    assert geometry.pair("ksize", np.array([3, 2])) == (3, 2)
    assert geometry.pair("ksize", np.int64(3)) == (3, 3)
    assert geometry.pair("pad", (0, 1), 0) == (0, 1)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, TypeError, "ksize must be of integers, got 1.5"),
        ("3", TypeError, "ksize must be of integers, got '3'"),
        ((1, None), TypeError, "ksize must be of integers, got None"),
        ((1, 2, 3), ValueError, r"ksize must be one integer or two, got \(1, 2, 3\)"),
        ((3, 0), ValueError, "ksize must be at least 1, got 0"),
    ],
)
def test_pair_refuses_the_rest(value, error, message):
    with pytest.raises(error, match=message):
        geometry.pair("ksize", value)


def test_pads_reads_all_three_forms():
    assert geometry.pads(2) == ((2, 2), (2, 2))
    assert geometry.pads((1, 2)) == ((1, 1), (2, 2))
    assert geometry.pads(((0, 1), (2, 3))) == ((0, 1), (2, 3))
    assert geometry.pads([[0, 1], [2, 3]]) == ((0, 1), (2, 3))
    assert geometry.pads(((0, 1), 2)) == ((0, 1), (2, 2))


def test_pads_refuses_the_rest():
    with pytest.raises(ValueError, match="pad must be at least 0, got -1"):
        geometry.pads((0, -1))
    with pytest.raises(ValueError, match="pad must be one integer or two"):
        geometry.pads((1, 2, 3))
    with pytest.raises(TypeError, match=r"pad must be of integers, got 0\.5"):
        geometry.pads(0.5)


@given(sizes, small, small, st.integers(0, 4), small, st.booleans())
def test_output_size_is_chainers(size, ksize, stride, pad, dilate, cover_all):
    expected = chainer.utils.conv.get_conv_outsize(size, ksize, stride, pad, cover_all, dilate)
    if expected < 1:
        with pytest.raises(ValueError, match=f"larger than the picture's {size} pixels with padding"):
            geometry.output_size(size, ksize, stride, (pad, pad), dilate, cover_all)
    else:
        assert geometry.output_size(size, ksize, stride, (pad, pad), dilate, cover_all) == expected


@given(sizes, small, small, pads, st.booleans())
def test_output_size_counts_the_windows_laid_down(size, ksize, stride, pad, cover_all):
    assume(size + sum(pad) >= ksize)
    expected = oracle.window_count(size, ksize, stride, pad, cover_all)
    assert geometry.output_size(size, ksize, stride, pad, cover_all=cover_all) == expected


@given(small, small, small, st.integers(0, 4), small)
def test_transposed_output_size_is_chainers(count, ksize, stride, pad, dilate):
    expected = chainer.utils.conv.get_deconv_outsize(count, ksize, stride, pad, d=dilate)
    if expected < 1:
        with pytest.raises(ValueError, match=f"leaves no pixel of {count} windows"):
            geometry.transposed_output_size(count, ksize, stride, (pad, pad), dilate)
    else:
        assert geometry.transposed_output_size(count, ksize, stride, (pad, pad), dilate) == expected


@given(small, small, small, pads, small)
def test_transposed_output_size_is_the_smallest_that_makes_the_windows(count, ksize, stride, pad, dilate):
    assume(stride * (count - 1) + dilate * (ksize - 1) >= sum(pad))
    size = geometry.transposed_output_size(count, ksize, stride, pad, dilate)
    assert geometry.output_size(size, ksize, stride, pad, dilate) == count
    if size > 1 and count > 1:
        assert geometry.output_size(size - 1, ksize, stride, pad, dilate) == count - 1


def test_output_shape_reads_the_last_two_axes():
    assert geometry.output_shape((7, 3, 10, 8), (3, 2), (2, 1), ((0, 1), (2, 0)), (2, 1), True) == (4, 9)


@given(st.tuples(sizes, sizes), st.tuples(small, small), st.tuples(small, small))
def test_centered_windows_lie_round_every_stride_th_pixel(shape, ksize, stride):
    if ksize[0] > shape[0] or ksize[1] > shape[1]:
        with pytest.raises(ValueError, match="is larger than the picture"):
            geometry.occlusion_windows(shape, ksize, stride)
        return
    places = geometry.occlusion_windows(shape, ksize, stride)
    assert places.dtype == np.int64
    for row, y in enumerate(range(0, shape[0], stride[0])):
        for column, x in enumerate(range(0, shape[1], stride[1])):
            hidden_rows = [i for i in range(y - (ksize[0] - 1) // 2, y + ksize[0] // 2 + 1) if 0 <= i < shape[0]]
            hidden_columns = [j for j in range(x - (ksize[1] - 1) // 2, x + ksize[1] // 2 + 1) if 0 <= j < shape[1]]
            top, left, bottom, right = places[row, column]
            assert list(range(top, bottom)) == hidden_rows
            assert list(range(left, right)) == hidden_columns
    assert places.shape == (-(-shape[0] // stride[0]), -(-shape[1] // stride[1]), 4)


@given(st.tuples(sizes, sizes), st.tuples(small, small), st.tuples(small, small))
def test_inside_windows_are_all_whole_ones(shape, ksize, stride):
    if ksize[0] > shape[0] or ksize[1] > shape[1]:
        with pytest.raises(ValueError, match="is larger than the picture"):
            geometry.occlusion_windows(shape, ksize, stride, "inside")
        return
    expected = [
        (top, left, top + ksize[0], left + ksize[1])
        for top in range(0, shape[0], stride[0])
        for left in range(0, shape[1], stride[1])
        if top + ksize[0] <= shape[0] and left + ksize[1] <= shape[1]
    ]
    assert geometry.occlusion_windows(shape, ksize, stride, "inside").reshape(-1, 4).tolist() == list(map(list, expected))


def test_occlusion_windows_refuse_the_rest():
    with pytest.raises(ValueError, match="the picture must have pixels, got 0x3"):
        geometry.occlusion_windows((0, 3), 1)
    with pytest.raises(ValueError, match="windows must be 'centered' or 'inside', got 'all'"):
        geometry.occlusion_windows((4, 4), 2, windows="all")

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn_kernels import geometry
from tests import oracle
from tests.kernels.device import cuda_only, kernels
from tests.kernels.properties import dtypes, normal

WINDOWS = np.array([[0, 0, 2, 3], [1, 2, 5, 4], [0, 0, 5, 4], [2, 1, 2, 3]])  # a corner, a part, all of it, nothing


@dtypes
@pytest.mark.parametrize("shape", [None, (), (3, 1, 1), (4,), (5, 4), (1, 5, 1), (3, 5, 4)])
def test_occlusion_is_the_oracles(shape, dtype):
    x, fill = normal(0, (3, 5, 4), dtype), 0.5 if shape is None else normal(1, shape, dtype)[...]
    occluded = kernels.occlude(x, WINDOWS, np.asarray(fill, dtype) if shape == () else fill)
    assert occluded.dtype == dtype
    np.testing.assert_array_equal(occluded, oracle.occlude(x, WINDOWS, fill))


@dtypes
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["centered", "inside"]))
def test_geometrys_windows_will_do(dtype, height, width, rows, columns, kind):
    x = normal(0, (2, height, width), dtype)
    places = geometry.occlusion_windows((height, width), (min(rows, height), min(columns, width)), 2, kind).reshape(-1, 4)
    occluded = kernels.occlude(x, places, 7.0)
    np.testing.assert_array_equal(occluded, oracle.occlude(x, places, 7.0))
    hidden = ((places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])).tolist()
    assert (occluded == 7).all(axis=1).sum(axis=(1, 2)).tolist() == hidden


@dtypes
def test_layouts_and_batches(dtype):
    x, fill = normal(0, (3, 5, 4), dtype), normal(1, (3, 5, 4), dtype)
    before, expected = x.copy(), kernels.occlude(x, WINDOWS, fill)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(kernels.occlude(np.asfortranarray(x), WINDOWS, fill[::-1].copy()[::-1]), expected)
    for place, picture in zip(WINDOWS, expected, strict=True):
        np.testing.assert_array_equal(kernels.occlude(x, place[None], fill), picture[None])
    assert kernels.occlude(x, WINDOWS[:0], fill).shape == (0, 3, 5, 4)
    assert kernels.occlude(x, WINDOWS.astype(np.uint8), 0).dtype == dtype


@cuda_only
@dtypes
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 7, 5), (1, 1, 1)])
def test_results_do_not_depend_on_the_grid(shape, dtype, monkeypatch):
    x = normal(0, shape, dtype)
    places = geometry.occlusion_windows(shape[1:], tuple(min(size, 3) for size in shape[1:])).reshape(-1, 4)
    places = np.tile(places, (3000 // (x.size * len(places)) + 1, 1))
    expected = kernels.occlude(x, places, 7.0)
    monkeypatch.setattr("dcnn_kernels.cuda.elements.BLOCKS", 1)
    np.testing.assert_array_equal(kernels.occlude(x, places, 7.0), expected)


def test_errors_name_what_was_given_and_expected():
    x = normal(0, (3, 5, 4))
    with pytest.raises(ValueError, match=r"x must have 3 dimensions, got shape \(1, 3, 5, 4\)"):
        kernels.occlude(x[None], WINDOWS, 0)
    with pytest.raises(ValueError, match=r"windows must have shape \(any, 4\), got \(4,\)"):
        kernels.occlude(x, WINDOWS[0], 0)
    with pytest.raises(TypeError, match=r"windows must be a numpy\.ndarray of integers, got float64"):
        kernels.occlude(x, WINDOWS.astype(float), 0)
    with pytest.raises(TypeError, match=r"windows must be a numpy\.ndarray of integers, got list"):
        kernels.occlude(x, WINDOWS.tolist(), 0)
    for window in ([-1, 0, 2, 2], [0, -1, 2, 2], [0, 0, 6, 2], [0, 0, 2, 5], [3, 0, 2, 2], [0, 3, 2, 2]):
        with pytest.raises(ValueError, match=rf"inside a picture of 5x4, got \[{', '.join(map(str, window))}\]"):
            kernels.occlude(x, np.array([[0, 0, 1, 1], window]), 0)
    with pytest.raises(ValueError, match=r"fill must have a shape that can be broadcast to \(3, 5, 4\), got \(3,\)"):
        kernels.occlude(x, WINDOWS, np.zeros(3))
    with pytest.raises(TypeError, match="fill must be of the same dtype as the other arrays, float64, got float32"):
        kernels.occlude(x, WINDOWS, np.zeros(4, np.float32))
    with pytest.raises(TypeError, match=r"fill: expected .*, got builtins\.str"):
        kernels.occlude(x, WINDOWS, "mean")

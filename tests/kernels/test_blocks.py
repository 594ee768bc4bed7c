"""Convolution by panels and bands, as few or as many channels at a time as there may be: on the compiled backend only."""

import numpy as np
import pytest

from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_close, check_calls, normal

pytestmark = pytest.mark.compiled_only
#: Batch, channels, (H, W), filters, ksize, stride, pad, dilate, groups: maps of less than a vector and of several panels, panels
#: that hold parts of several pictures, filters in blocks with each rest, padding that whole windows fall into, rows that share
#: more zeros than a vector has, steps that vectors are dealt out for and others, rows of whole vectors.
CASES = [
    (1, 16, (7, 7), 13, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (5, 17, (3, 3), 6, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (2, 33, (17, 16), 14, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    (1, 18, (13, 31), 21, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 3),
    (2, 16, (14, 15), 20, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    (1, 20, (5, 4), 5, (1, 1), (1, 1), ((1, 2), (0, 3)), (1, 1), 1),
    (2, 16, (19, 40), 25, (3, 3), (2, 2), ((1, 1), (1, 0)), (1, 1), 1),
    (1, 18, (30, 31), 7, (5, 3), (3, 2), ((4, 4), (2, 5)), (1, 2), 1),
    (3, 32, (9, 21), 34, (2, 2), (1, 3), ((0, 1), (0, 0)), (3, 1), 2),
    (1, 16, (70, 9), 1, (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (2, 21, (14, 14), 29, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    (1, 40, (7, 7), 16, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    (1, 3, (20, 25), 5, (2, 3), (1, 1), ((0, 0), (20, 20)), (1, 20), 1),
    (2, 3, (45, 50), 10, (11, 11), (4, 4), ((2, 2), (2, 2)), (1, 1), 1),
    (1, 5, (23, 40), 9, (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    (1, 18, (16, 48), 12, (4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1), 2),
    (1, 4, (11, 36), 8, (3, 2), (3, 1), ((0, 2), (1, 0)), (2, 1), 1),
    (2, 3, (21, 64), 15, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    (1, 5, (9, 16), 8, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
]
cases = pytest.mark.parametrize(("batch", "channels", "size", "filters", "ksize", "stride", "pad", "dilate", "groups"), CASES)


@pytest.fixture(params=[1 << 10, 1 << 18], ids=["shallow", "deep"], autouse=True)
def _depth(request):
    """Blocks of so many bytes."""
    from dcnn_kernels.compiled import panels, products, settings

    sizes = (panels, "PANEL_BYTES", 4), (products, "FILTER_BYTES", 1), (products, "BAND_BYTES", 8), (products, "SUMS_BYTES", 32)
    with pytest.MonkeyPatch.context() as patch, settings.algorithm("products"):
        for module, name, times in sizes:
            patch.setattr(module, name, times * request.param)
            module._plan.cache_clear()
        yield
    for module, *_ in sizes:
        module._plan.cache_clear()


@cases
@pytest.mark.parametrize("cores", [1, 3])
def test_convolution_is_the_oracles(batch, channels, size, filters, ksize, stride, pad, dilate, groups, cores, monkeypatch):
    from dcnn_kernels.compiled import panels, products, threads

    for module in (panels, products, threads):
        monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(threads, "GRAIN", 1)
    x, b = normal(0, (batch, channels, *size)), normal(2, (filters,))
    W = normal(1, (filters, channels // groups, *ksize)) / np.sqrt(channels)
    y = oracle.convolution_2d(x, W, b, stride, pad, dilate, groups)
    assert_close(kernels.convolution_2d(x, W, b, stride, pad, dilate, groups), y)
    assert_close(kernels.convolution_2d(x, W, b, stride, pad, dilate, groups, z=0.5), np.clip(y, 0, 0.5))
    scale, shift = normal(3, (filters,)), normal(4, (filters,))
    made = kernels.convolution_2d(x, W, b, stride, pad, dilate, groups, scale=scale, shift=shift)
    assert_close(made, y * scale[:, None, None] + shift[:, None, None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@cases
def test_the_way_back_is_the_oracles(batch, channels, size, filters, ksize, stride, pad, dilate, groups, dtype):
    windows = kernels.convolution_2d(
        *(np.zeros(shape, dtype) for shape in ((1, 1, *size), (1, 1, *ksize))), None, stride, pad, dilate
    )
    g, W = normal(0, (batch, 2 * filters, *windows.shape[2:]), dtype), normal(1, (2 * filters, channels // groups, *ksize), dtype)
    W, b = W / dtype(np.sqrt(filters)), normal(2, (channels,), dtype)
    back = oracle.transposed_convolution_2d(g, W, b, stride, pad, dilate, groups, size)
    assert_close(kernels.transposed_convolution_2d(g, W, b, stride, pad, dilate, groups, size), back)
    mask = kernels.relu_mask(normal(3, back.shape, dtype))
    gated = kernels.relu_reverse(back, mask, True)
    assert_close(kernels.transposed_convolution_2d(g, W, b, stride, pad, dilate, groups, size, mask, True), gated)


@cases
def test_calls(batch, channels, size, filters, ksize, stride, pad, dilate, groups):
    x, W = normal(0, (batch, channels, *size)), normal(1, (filters, channels // groups, *ksize))
    check_calls(lambda x, W: kernels.convolution_2d(x, W, None, stride, pad, dilate, groups), x, W)

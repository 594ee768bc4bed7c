"""Convolution by panels, which windows of one pixel and steps between windows take: on the compiled backend only."""

import numpy as np
import pytest

from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_close, check_calls, normal

pytestmark = pytest.mark.compiled_only
#: Batch, channels, (H, W), filters, ksize, stride, pad, dilate, groups: maps of less than a vector and of several panels, panels
#: that hold parts of several pictures, filters by rows and in blocks with rest, padding that whole windows fall into.
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
]
cases = pytest.mark.parametrize(("batch", "channels", "size", "filters", "ksize", "stride", "pad", "dilate", "groups"), CASES)


@pytest.fixture(params=[1 << 12, 1 << 18], ids=["shallow", "deep"], autouse=True)
def _depth(request, monkeypatch):
    from dcnn_kernels.compiled import panels

    monkeypatch.setattr(panels, "PANEL_BYTES", request.param)


@cases
@pytest.mark.parametrize("cores", [1, 3])
def test_convolution_is_the_oracles(batch, channels, size, filters, ksize, stride, pad, dilate, groups, cores, monkeypatch):
    from dcnn_kernels.compiled import panels, threads

    for module in (panels, threads):
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
@pytest.mark.parametrize("case", [case for case in CASES if case[4] == case[5] == (1, 1)])
def test_single_pixels_go_back_as_the_oracles(case, dtype):
    batch, channels, size, filters, _, stride, pad, dilate, _ = case
    rows, columns = (n + sum(side) for n, side in zip(size, pad, strict=True))
    g, W = normal(0, (batch, filters, rows, columns), dtype), normal(1, (filters, channels, 1, 1), dtype)
    more = np.concatenate([g, g, g], axis=1)
    weights = np.concatenate([W, -W, 2 * W])
    b = normal(2, (channels,), dtype)
    back = oracle.transposed_convolution_2d(more, weights, b, stride, pad, dilate, 1, size)
    assert_close(kernels.transposed_convolution_2d(more, weights, b, stride, pad, outsize=size), back)
    mask = kernels.relu_mask(normal(3, back.shape, dtype))
    gated = kernels.relu_reverse(back, mask, True)
    assert_close(kernels.transposed_convolution_2d(more, weights, b, stride, pad, outsize=size, mask=mask, rectify=True), gated)


@cases
def test_calls(batch, channels, size, filters, ksize, stride, pad, dilate, groups):
    x, W = normal(0, (batch, channels, *size)), normal(1, (filters, channels // groups, *ksize))
    check_calls(lambda x, W: kernels.convolution_2d(x, W, None, stride, pad, dilate, groups), x, W)

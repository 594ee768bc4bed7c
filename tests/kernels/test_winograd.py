"""Winograd's way to convolve, and the choice of a way: on the compiled backend only."""

import threading

import numpy as np
import pytest

from tests import oracle
from tests.kernels.device import kernels
from tests.kernels.properties import assert_close, check_calls, normal

pytestmark = pytest.mark.compiled_only
#: (H, W), channels, filters, batch, pad: one tile, parts of tiles, lines of many tiles, no padding and more than a window's.
SHAPES = [
    ((3, 3), 1, 1, 1, ((0, 0), (0, 0))),
    ((4, 4), 2, 7, 1, ((1, 1), (1, 1))),
    ((9, 7), 3, 5, 2, ((1, 1), (1, 1))),
    ((6, 70), 5, 26, 2, ((0, 1), (2, 0))),
    ((2, 1), 17, 24, 3, ((4, 3), (5, 2))),
    ((8, 33), 18, 3, 5, ((2, 2), (2, 2))),
]
shapes = pytest.mark.parametrize(("shape", "channels", "filters", "batch", "pad"), SHAPES)


@pytest.fixture(params=["winograd", "products"])
def algorithm(request):
    from dcnn_kernels.compiled import settings

    with settings.algorithm(request.param):
        yield request.param


def arrays(shape, channels, filters, batch, pad, dtype):
    W = normal(1, (filters, channels, 3, 3), dtype)
    rows, columns = (size + sum(side) - 2 for size, side in zip(shape, pad, strict=True))
    x, g = normal(0, (batch, channels, *shape), dtype), normal(2, (batch, filters, rows, columns), dtype)
    return x, W / np.sqrt(9 * channels).astype(dtype), g, normal(3, (filters,), dtype), normal(4, (channels,), dtype)


@shapes
@pytest.mark.parametrize("cores", [1, 2, 5])
def test_both_directions_are_the_oracles(shape, channels, filters, batch, pad, cores, algorithm, monkeypatch):
    from dcnn_kernels.compiled import threads, winograd

    for module in (threads, winograd):
        monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(threads, "GRAIN", 1)
    monkeypatch.setattr(winograd, "TILES", 6)
    x, W, g, b, c = arrays(shape, channels, filters, batch, pad, np.float64)
    assert_close(kernels.convolution_2d(x, W, b, 1, pad), oracle.convolution_2d(x, W, b, (1, 1), pad, (1, 1), 1))
    back = oracle.transposed_convolution_2d(g, W, c, (1, 1), pad, (1, 1), 1, shape)
    assert_close(kernels.transposed_convolution_2d(g, W, c, 1, pad, outsize=shape), back)


@shapes
def test_calls(shape, channels, filters, batch, pad, algorithm):
    x, W, g, b, c = arrays(shape, channels, filters, batch + 1, pad, np.float32)
    check_calls(lambda x, W, b: kernels.convolution_2d(x, W, b, 1, pad), x, W, b)
    check_calls(lambda g, W, c: kernels.transposed_convolution_2d(g, W, c, 1, pad, outsize=shape), g, W, c)


def test_errors_stay_below_1e_5_of_the_largest_value(algorithm):
    """Seen: 4.7e-6 by Winograd, 3.3e-6 by products."""
    x, W, g, _, _ = arrays((14, 14), 512, 512, 1, ((1, 1), (1, 1)), np.float32)
    for direction, signal in ((kernels.convolution_2d, x), (kernels.transposed_convolution_2d, g)):
        expected = direction(signal.astype(np.float64), W.astype(np.float64), pad=1, backend="reference")
        error = np.abs(direction(signal, W, pad=1) - expected).max() / np.abs(expected).max()
        assert error < 1e-5


@pytest.mark.parametrize("turned", [True, False])
def test_transforms_multiply_polynomials(turned):
    """F(4x4, 3x3) of tiles side by side, of one channel, each with a filter of its own."""
    from dcnn_kernels.compiled import tile_transforms as transforms
    from dcnn_kernels.compiled.jit import compiled
    from dcnn_kernels.compiled.microkernel import VECTOR

    @compiled
    def windows(x, width, W, y, turned, lanes):
        line, V, U = np.zeros(6 * 6 * lanes), np.zeros(36 * lanes), np.zeros(36 * lanes)
        for i in range(6):
            transforms.transform_line(line, 6 * i * lanes, -1, lanes, x, i * width, 0, width)
        for j in range(6):
            transforms.transform_pixels(V, j * lanes, 6 * lanes, line, j * lanes, 6 * lanes)
        if turned:
            transforms.transform_filters(True, U, 0, lanes, W, 0, lanes)
        else:
            transforms.transform_filters(False, U, 0, lanes, W, 0, lanes)
        V *= U
        for j in range(6):
            transforms.transform_sums(line, j * lanes, 6 * lanes, V, j * lanes, 6 * lanes)
        for i in range(4):
            transforms.join_sums(y, 4 * i * lanes, 0, line, 6 * i * lanes, lanes)

    lanes = VECTOR // 8
    x, W, y = normal(0, (6, 4 * lanes + 2)), normal(1, (lanes, 3, 3)), np.zeros((4, 4 * lanes))
    windows(x.reshape(-1), x.shape[1], W.reshape(-1), y.reshape(-1), turned, lanes)
    for n, filters in enumerate(W[:, ::-1, ::-1] if turned else W):
        tile = oracle.convolution_2d(
            x[None, None, :, 4 * n : 4 * n + 6], filters[None, None], None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1
        )
        np.testing.assert_allclose(y[:, 4 * n : 4 * n + 4], tile[0, 0], rtol=1e-12, atol=1e-12)


@shapes
@pytest.mark.parametrize("rectify", [True, False])
def test_results_go_through_the_rectifier(shape, channels, filters, batch, pad, rectify, algorithm):
    x, W, g, b, c = arrays(shape, channels, filters, batch, pad, np.float64)
    mask = kernels.relu_mask(x)
    through = kernels.transposed_convolution_2d(g, W, c, 1, pad, outsize=shape, mask=mask, rectify=rectify)
    back = kernels.transposed_convolution_2d(g, W, c, 1, pad, outsize=shape)
    np.testing.assert_array_equal(through, kernels.relu_reverse(back, mask, rectify))
    y, z = kernels.convolution_2d(x, W, b, 1, pad), 0.5 if rectify else np.inf
    np.testing.assert_array_equal(kernels.convolution_2d(x, W, b, 1, pad, z=z), kernels.clipped_relu(y, z))
    scale, shift = normal(5, (filters,)), normal(6, (filters,))
    scaled = kernels.clipped_relu(y * scale[:, None, None] + shift[:, None, None], z)
    assert_close(kernels.convolution_2d(x, W, b, 1, pad, z=z, scale=scale, shift=shift), scaled)


def test_what_is_not_a_number_stays_so(algorithm):
    x, W = np.ones((1, 1, 6, 30)), np.ones((1, 1, 3, 3))
    x[0, 0, 2, 2] = np.nan
    assert np.isnan(kernels.convolution_2d(x, W, pad=1, z=6.0)[0, 0, 2, 2])


def test_the_way_is_chosen_by_shape_and_by_setting(monkeypatch):
    from dcnn_kernels.compiled import convolution, settings

    taken = []
    monkeypatch.setattr(convolution.winograd, "multiply", lambda *a, **k: taken.append("winograd"))
    monkeypatch.setattr(convolution, "multiply", lambda *a, **k: taken.append("products"))

    def way(channels, side, ksize=3, dtype=np.float32, **how):
        taken.clear()
        x = np.zeros((1, channels, side, side), dtype)
        W = np.zeros((channels, channels // how.get("groups", 1), ksize, ksize), dtype)
        kernels.convolution_2d(x, W, pad=ksize // 2, **how)
        kernels.transposed_convolution_2d(x, W, pad=ksize // 2, **how)
        return set(taken)

    assert way(64, 112) == way(256, 56) == {"winograd"}
    assert way(3, 64) == way(512, 7) == way(64, 112, dtype=np.float64) == {"products"}
    with settings.algorithm("products"):
        assert way(64, 112) == {"products"}
    with settings.algorithm("winograd"):
        assert way(3, 64) == way(64, 112, dtype=np.float64) == {"winograd"}
        assert way(64, 20, ksize=5) == way(64, 20, groups=2) == way(64, 20, dilate=2) == {"products"}
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(settings.current_algorithm()))
        thread.start()
        thread.join()
    assert elsewhere == [settings.current_algorithm()] == ["auto"]
    with pytest.raises(ValueError, match=r"algorithm must be one of .*, got 'fft'"), settings.algorithm("fft"):
        pass

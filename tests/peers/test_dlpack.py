"""torch's tensors go into the kernels and come out of them, on the host; what they compute is what torch computes."""

import numpy as np
import pytest

import dcnn_kernels as kernels
from dcnn_kernels.arrays import select_backend
from tests.kernels.test_floors import CALLS, PRIMITIVES

torch = pytest.importorskip("torch", reason="torch's tensors are NOT tried: torch isn't installed")
F = torch.nn.functional


def tensor(*shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal(shape)).to(dtype)


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_gives_tensors_equal_to_numpys_arrays(name):
    function, arguments = getattr(kernels, name), CALLS[name]
    # Places, which are integers, stay NumPy's.
    floats = [isinstance(value, np.ndarray) and value.dtype.kind != "i" for value in arguments]
    tensors = [torch.from_numpy(value) if given else value for value, given in zip(arguments, floats, strict=True)]
    # Equal to the last bit: the same backend computes both.
    for result, expected in zip(as_tuple(function(*tensors)), as_tuple(function(*arguments)), strict=True):
        if isinstance(expected, str):
            assert result == expected
            continue
        assert type(result) is torch.Tensor
        assert result.device.type == "cpu"
        np.testing.assert_array_equal(result.numpy(), expected, strict=True)


def test_memory_is_shared_both_ways(monkeypatch):
    seen = []
    monkeypatch.setattr(select_backend("relu", None, x=np.zeros(1)), "relu", lambda x: seen.append(x) or x)
    x = tensor(2, 3, 4, 5)[:, 1:, ::2].permute(0, 2, 1, 3)
    y = kernels.relu(x)
    assert (seen[0].ctypes.data, seen[0].shape) == (x.data_ptr(), tuple(x.shape))
    assert (y.data_ptr(), y.stride()) == (x.data_ptr(), x.stride())
    y[0, 0, 0, 0] = 9
    assert x[0, 0, 0, 0] == 9


def test_a_sign_that_torch_only_notes_is_not_lost():
    x = torch.complex(tensor(1, 2, 4, 4), tensor(1, 2, 4, 4)).conj().imag
    assert x.is_neg()
    assert torch.equal(kernels.relu(x), torch.relu(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_and_their_ways_back_equal_torchs(dtype):
    x, W, b = tensor(2, 6, 11, 12, dtype=dtype), tensor(8, 3, 3, 3, dtype=dtype), tensor(8, dtype=dtype)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    y = F.conv2d(x, W, b, stride=2, padding=1, groups=2)
    pooled, places = F.max_pool2d(F.relu(y), 2, return_indices=True)
    g = torch.ones_like(pooled)
    (expected,) = torch.autograd.grad(pooled, x, g)

    before = kernels.convolution_2d(x.detach(), W, b, stride=2, pad=1, groups=2)
    maxima, switches = kernels.max_pooling_2d(kernels.relu(before), 2, cover_all=False)
    mask = kernels.relu_mask(before)
    back = kernels.unpooled_transposed_convolution_2d(
        g, switches, W, before.shape[2:], 2, stride=2, pad=1, groups=2, outsize=x.shape[2:], pool_mask=mask
    )
    signal = kernels.relu_reverse(kernels.unpooling_2d(g, before.shape[2:], 2, switches=switches), mask)
    apart = kernels.transposed_convolution_2d(signal, W, stride=2, pad=1, groups=2, outsize=x.shape[2:])
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    for ours, theirs in ((before, y), (maxima, pooled), (back, expected), (apart, expected)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs.detach(), **tolerance)
    # torch counts places in the picture, switches count within the window: both point at the same pixels.
    chosen = kernels.unpooling_2d(maxima, before.shape[2:], 2, switches=switches)
    torch.testing.assert_close(chosen, F.max_unpool2d(maxima, places, 2, output_size=before.shape[2:]), **tolerance)


def test_gradients_are_not_lost_unnoticed():
    layer, x = torch.nn.Conv2d(3, 4, 3), tensor(2, 3, 6, 6, dtype=torch.float32)
    with pytest.raises(kernels.BackendError, match=r"W requires grad, .* give W\.detach\(\), or call within torch\.no_grad\(\)"):
        kernels.convolution_2d(x, layer.weight, layer.bias)
    expected = layer(x).detach()
    for given in (lambda: (x, layer.weight.detach(), layer.bias.detach()), lambda: (x, layer.weight.data, layer.bias.data)):
        torch.testing.assert_close(kernels.convolution_2d(*given()), expected)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            y = kernels.convolution_2d(x, layer.weight, layer.bias)
        torch.testing.assert_close(y, expected)
        assert not y.requires_grad


def test_what_cannot_be_read_is_named():
    x = tensor(2, 3)
    for given, message in (
        (x.half(), "x must be of dtype float32 or float64, got float16"),
        (x.bfloat16(), r"x: this torch\.Tensor can't be read through DLPack"),
        (x.to_sparse(), r"x: this torch\.Tensor can't be read through DLPack: .* layout"),
        (x.to("meta"), r"x: this torch\.Tensor can't be read through DLPack: .* meta"),
    ):
        with pytest.raises(TypeError, match=message):
            kernels.relu(given)
    with pytest.raises(kernels.BackendError, match="'cuda' was forced, but the arrays belong to 'reference'"):
        kernels.relu(x, backend="cuda")


def test_tensors_and_numpys_arrays_mix_and_subclasses_are_tensors():
    class Mine(torch.Tensor):
        pass

    x, W = tensor(2, 3), tensor(4, 3)
    expected = (x @ W.T).numpy()
    for result in (kernels.linear(x, W.numpy()), kernels.linear(x.as_subclass(Mine), W)):
        assert isinstance(result, torch.Tensor)
        np.testing.assert_allclose(result.numpy(), expected)
    np.testing.assert_allclose(kernels.linear(x.numpy(), W), expected)


def test_empty_batches_and_one_tensor_for_all_slopes():
    assert kernels.max_pooling_2d(tensor(0, 3, 8, 8), 2)[1].shape == (0, 3, 4, 4)
    x = tensor(2, 3, 4)
    torch.testing.assert_close(kernels.prelu(x, torch.tensor(0.25, dtype=x.dtype)), F.prelu(x, torch.tensor([0.25]).double()))

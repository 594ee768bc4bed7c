"""Arrays of any library that speaks DLPack go in, and the same kind comes out; no memory is copied on the way."""

import functools
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import dcnn_kernels
from dcnn_kernels.arrays import select_backend
from tests.kernels.device import BACKEND, cuda_only, reference_only, to_device, to_host
from tests.kernels.test_floors import CALLS, PRIMITIVES

ON_CUDA = BACKEND == "cuda"


def native(array):
    if not ON_CUDA:
        return array
    on_device = to_device(array)
    on_device.device.synchronize()  # whatever stream it is read on
    return on_device


def on_host(array):
    return to_host(array) if ON_CUDA else array


def address(array):
    return array.data.ptr if ON_CUDA else array.ctypes.data


class Bare:
    """All that may be asked of it is DLPack's protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **settings):
        return self.array.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Named(Bare):
    """Names its library too, as the array API standard has it."""

    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=Named)


class Tensor(Bare):
    """A tensor of a library that is known by its module's name alone, as torch is."""

    __module__ = "torch._tensor"

    def __init__(self, array, requires_grad=False):
        super().__init__(array)
        self.requires_grad = requires_grad

    def detach(self):
        return Tensor(self.array)

    def resolve_neg(self):
        return self

    def __dlpack__(self, **settings):
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        return super().__dlpack__(**settings)


@pytest.fixture
def torch(monkeypatch):
    """A stand-in for torch, with a current stream of its own on each device."""

    @functools.cache
    def current_stream(device):
        import cupy

        with cupy.cuda.Device(device):
            stream = cupy.cuda.Stream(non_blocking=True)
        return SimpleNamespace(cuda_stream=stream.ptr, stream=stream)

    def from_dlpack(array):
        if ON_CUDA:
            current_stream(array.device.id).stream.synchronize()
        return Tensor(array)

    library = ModuleType("torch")
    library.from_dlpack = from_dlpack
    library.grad_enabled = True
    library.is_grad_enabled = lambda: library.grad_enabled
    library.cuda = SimpleNamespace(current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "torch", library)
    return library


def given(name, kind):
    """The arguments of a call, its arrays of the kind wanted; windows, which are integers, stay NumPy's."""
    return [kind(native(value)) if isinstance(value, np.ndarray) and value.dtype.kind != "i" else value for value in CALLS[name]]


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_takes_them_and_gives_the_same_kind_back(name, torch):
    function = getattr(dcnn_kernels, name)
    expected = as_tuple(function(*given(name, lambda array: array)))
    for kind in (Named, Tensor, Bare):
        for result, value in zip(as_tuple(function(*given(name, kind))), expected, strict=True):
            if isinstance(value, str):
                assert result == value
                continue
            # Nobody can make a bare one.
            assert type(result) is (type(value) if kind is Bare else kind)
            array = result if kind is Bare else result.array
            np.testing.assert_array_equal(on_host(array), on_host(value), strict=True)


def test_memory_is_shared_both_ways(monkeypatch):
    module = select_backend("relu", None, x=native(np.zeros(1, np.float32)))
    seen = []
    monkeypatch.setattr(module, "relu", lambda x, run=module.relu: seen.append((x, run(x))) or seen[0][1])
    x = native(np.ones((2, 3, 4), np.float32)[:, ::2])
    y = dcnn_kernels.relu(Named(x))
    ((inside, result),) = seen
    assert (address(inside), inside.strides, inside.dtype) == (address(x), x.strides, x.dtype)
    assert address(y.array) == address(result)


def test_keywords_and_defaults_are_taken_as_ever():
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    y, switches = dcnn_kernels.max_pooling_2d(x=Named(native(x)), ksize=3, stride=2)
    back = dcnn_kernels.unpooling_2d(y, outsize=(8, 8), ksize=3, stride=2, switches=switches)
    maxima, places = dcnn_kernels.max_pooling_2d(native(x), 3, 2)
    expected = dcnn_kernels.unpooling_2d(maxima, (8, 8), 3, 2, switches=places)
    np.testing.assert_array_equal(on_host(back.array), on_host(expected))


def test_empty_batches_and_other_layouts():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for layout in (x[:0], x.T, x[:, ::2], x[::-1], x[..., 1:2]):
        np.testing.assert_array_equal(on_host(dcnn_kernels.relu(Named(native(layout))).array), layout)


@reference_only
def test_results_are_of_the_kind_of_the_first_array():
    x, W = np.ones((2, 3)), np.ones((4, 3))
    assert type(dcnn_kernels.linear(Named(x), W)) is Named
    assert type(dcnn_kernels.linear(x, Named(W))) is np.ndarray
    assert type(dcnn_kernels.linear(b=Named(np.ones(4)), W=W, x=Bare(x))) is np.ndarray


def test_gradients_are_not_lost_unnoticed(torch):
    x = Tensor(native(np.ones((2, 3))), requires_grad=True)
    with pytest.raises(dcnn_kernels.BackendError, match=r"x requires grad, .* give x\.detach\(\), or call within torch\.no_grad"):
        dcnn_kernels.relu(x)
    assert type(dcnn_kernels.relu(x.detach())) is Tensor
    torch.grad_enabled = False
    assert type(dcnn_kernels.relu(x)) is Tensor


def test_errors_name_the_argument():
    x = native(np.ones((2, 3)))

    class Elsewhere(Bare):
        def __dlpack_device__(self):
            return (8, 0)

    class Refused(Bare):
        def __dlpack__(self, **settings):
            raise BufferError("no such dtype")

    with pytest.raises(TypeError, match="W must lie in memory of the host or of a CUDA device, got DLPack's device type 8"):
        dcnn_kernels.linear(x, Elsewhere(x))
    with pytest.raises(TypeError, match=r"W: this .*Refused can't be read through DLPack: no such dtype"):
        dcnn_kernels.linear(Bare(x), Refused(x))
    with pytest.raises(TypeError, match=r"x must be of dtype .*, got int64"):
        dcnn_kernels.relu(Bare(native(np.ones((2, 3), np.int64))))
    with pytest.raises(TypeError, match=r"W: expected .*got builtins\.list"):
        dcnn_kernels.linear(Bare(x), [1.0])
    owner, other = ("cuda", "reference") if ON_CUDA else ("reference", "cuda")
    with pytest.raises(dcnn_kernels.BackendError, match=f"'{other}' was forced, but the arrays belong to '{owner}'"):
        dcnn_kernels.relu(Bare(x), backend=other)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        dcnn_kernels.relu(Bare(x), y=1)


@reference_only
def test_a_cuda_device_needs_cupy(monkeypatch):
    class OnDevice(Bare):
        def __dlpack_device__(self):
            return (2, 0)

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(dcnn_kernels.BackendError, match="x and W on a CUDA device need CuPy, which can't be imported"):
        dcnn_kernels.linear(OnDevice(np.ones((2, 3))), OnDevice(np.ones((4, 3))))


@cuda_only
def test_primitives_run_on_the_arrays_device_and_on_torchs_stream(torch, monkeypatch):
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("this needs two devices, and there is one")
    with cupy.cuda.Device(1):
        x = cupy.ones((2, 3), np.float32)
    places = []
    monkeypatch.setattr(
        torch,
        "from_dlpack",
        lambda array: places.append((cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr)) or Tensor(array),
    )
    y = dcnn_kernels.relu(Tensor(x))
    assert y.array.device.id == 1
    assert places == [(1, torch.cuda.current_stream(1).cuda_stream)]
    assert (cupy.cuda.Device().id, cupy.cuda.get_current_stream()) == (0, cupy.cuda.Stream.null)
    assert dcnn_kernels.relu(Bare(x)).device.id == 1
    with pytest.raises(dcnn_kernels.BackendError, match=r"must lie on one device, got \{'x': 1, 'W': 0\}"):
        dcnn_kernels.linear(Bare(x), Bare(cupy.ones((4, 3), np.float32)))


@cuda_only
def test_libraries_do_not_mix_on_a_device_nor_devices_with_the_host():
    import cupy

    x, W = cupy.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(dcnn_kernels.BackendError, match=r"of one library, got CuPy's for \['x'\] and others for \['W'\]"):
        dcnn_kernels.linear(x, Bare(cupy.asarray(W)))
    with pytest.raises(dcnn_kernels.BackendError, match=r"one backend, got .*'x': 'cuda', 'W': 'reference'"):
        dcnn_kernels.linear(Bare(x), Bare(W))


def test_windows_stay_in_host_memory():
    x, windows, fill = CALLS["occlude"]
    y = dcnn_kernels.occlude(Named(native(x)), Bare(windows), fill)
    np.testing.assert_array_equal(on_host(y.array), on_host(dcnn_kernels.occlude(native(x), windows, fill)))

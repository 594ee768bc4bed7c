"""The cuDNN engine against a stand-in for cuDNN's Python package, which holds it to the order of calls and computes by loops."""

import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

import dcnn_kernels as reference
from tests.kernels.device import cuda_only, kernels
from tests.kernels.properties import assert_close, normal

pytestmark = cuda_only
STEPS = ("validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes", "check_support", "build_plans")


class UnsupportedError(Exception):
    """As cudnnGraphNotSupportedError: no RuntimeError."""


class Tensor:
    def __init__(self, dim, stride, data_type, name=""):
        self.dim, self.stride, self.data_type, self.output = dim, stride, data_type, False

    def set_output(self, output):
        self.output = output
        return self

    def set_data_type(self, data_type):
        self.data_type = data_type
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self


class Graph:
    """One convolution. Contiguous tensors only; what is not planned in order, or not said at all, is an error."""

    def __init__(self, fake, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert (intermediate_data_type, compute_data_type) == ("float32", "float32")
        self.fake, self.io, self.handle, self.done = fake, io_data_type, handle, []
        fake.graphs.append(self)

    def tensor(self, name, dim, stride, data_type):
        assert data_type == self.io
        return Tensor(dim, stride, data_type, name)

    def conv_fprop(self, image, weight, **window):
        self.operation, self.x, self.W, self.window = "conv_fprop", image, weight, window
        self.y = Tensor(None, None, None)
        return self.y

    def conv_dgrad(self, loss, filter, **window):
        self.operation, self.x, self.W, self.window = "conv_dgrad", loss, filter, window
        self.y = Tensor(None, None, None)
        return self.y

    def __getattr__(self, step):
        if step not in STEPS:
            raise AttributeError(step)

        def call(*args):
            assert self.done == list(STEPS[: STEPS.index(step)])
            self.done.append(step)
            if step == "deselect_numeric_notes":
                self.notes = args[0]
            if step == "check_support" and self.fake.refuses:
                raise UnsupportedError("no engine")

        return call

    def get_workspace_size(self):
        return 100

    def execute(self, pointers, workspace, handle):
        import cupy

        assert self.done == list(STEPS)
        assert handle is self.handle
        assert handle.stream == cupy.cuda.get_current_stream().ptr
        assert workspace % 16 == 0
        assert self.y.output
        arrays = {}
        for tensor in (self.x, self.W, self.y):
            array = arrays[tensor] = np.empty(tensor.dim, tensor.data_type)
            assert tensor.stride == [step // array.itemsize for step in array.strides]
            assert pointers[tensor] % 16 == 0
            cupy.cuda.runtime.memcpy(array.ctypes.data, pointers[tensor], array.nbytes, 4)
        x, W, y = (arrays[tensor] for tensor in (self.x, self.W, self.y))
        window = self.window
        how = (window["stride"], list(zip(window["pre_padding"], window["post_padding"], strict=True)), window["dilation"])
        x, W = x.astype(np.float64), W.astype(np.float64)
        if self.operation == "conv_fprop":
            y[...] = reference.convolution_2d(x, W, None, *how, x.shape[1] // W.shape[1])
        else:
            y[...] = reference.transposed_convolution_2d(x, W, None, *how, y.shape[1] // W.shape[1], y.shape[2:])
        cupy.cuda.runtime.memcpy(pointers[self.y], y.ctypes.data, y.nbytes, 4)
        self.fake.executed.append(self)


@pytest.fixture
def cudnn(monkeypatch):
    """Puts the stand-in where Python looks for cuDNN's package."""
    from dcnn_kernels.cuda import cudnn

    fake = types.ModuleType("cudnn")
    fake.graphs, fake.executed, fake.handles, fake.refuses = [], [], [], False
    fake.data_type = SimpleNamespace(HALF="float16", FLOAT="float32")
    notes = ("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "NONDETERMINISTIC")
    fake.numerical_note = SimpleNamespace(**{note: note for note in notes})
    fake.heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
    fake.pygraph = lambda **given: Graph(fake, **given)

    def create_handle():
        fake.handles.append(SimpleNamespace(stream=None))
        return fake.handles[-1]

    fake.create_handle, fake.backend_version = create_handle, lambda: 91000
    fake.set_stream = lambda handle, stream: setattr(handle, "stream", stream)
    monkeypatch.setitem(sys.modules, "cudnn", fake)
    monkeypatch.setattr(cudnn, "_kept", cudnn._Kept())
    cudnn._frontend.cache_clear()
    yield fake
    cudnn._frontend.cache_clear()


#: (H, W), W's shape, stride, pad, dilate, groups; what the transposed convolution is.
LAYOUTS = [
    ((7, 8), (36, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, "conv_fprop"),
    ((7, 8), (36, 5, 3, 2), (1, 1), ((2, 0), (0, 1)), (1, 2), 2, "conv_fprop"),
    ((7, 8), (36, 5, 3, 3), (1, 1), ((3, 1), (1, 1)), (1, 1), 1, "conv_dgrad"),
    ((7, 8), (36, 40, 3, 3), (2, 3), ((1, 0), (0, 1)), (1, 1), 1, "conv_dgrad"),
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("shape", "W_shape", "stride", "pad", "dilate", "groups", "back"), LAYOUTS)
def test_both_directions(cudnn, shape, W_shape, stride, pad, dilate, groups, back, dtype):
    how = (stride, pad, dilate, groups)
    x, W = normal(0, (2, W_shape[1] * groups, *shape), dtype), (normal(1, W_shape) / 8).astype(dtype)
    b, c = normal(2, W_shape[:1], dtype), normal(3, (W_shape[1] * groups,), dtype)
    y = kernels.convolution_2d(x, W, b, *how)
    exactly = [array.astype(np.float64) for array in (x, W, b, c)]
    tolerance = 3e-3 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(y, reference.convolution_2d(*exactly[:3], *how), rtol=tolerance, atol=tolerance)
    g = normal(4, y.shape, dtype)
    z = kernels.transposed_convolution_2d(g, W, c, *how, shape)
    expected = reference.transposed_convolution_2d(g.astype(np.float64), exactly[1], exactly[3], *how, shape)
    np.testing.assert_allclose(z, expected, rtol=tolerance, atol=tolerance)
    assert [graph.operation for graph in cudnn.executed] == ["conv_fprop", back]
    assert len(cudnn.handles) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_results_are_scaled_and_rectified_after_the_bias(cudnn, dtype):
    x, W = normal(0, (2, 37, 5, 5), dtype), (normal(1, (38, 37, 3, 3)) / 16).astype(dtype)
    b, c = normal(2, W.shape[:1], dtype), normal(3, W.shape[1:2], dtype)
    y, mask = kernels.convolution_2d(x, W, b), kernels.relu_mask(x)
    np.testing.assert_array_equal(kernels.convolution_2d(x, W, b, z=0.3), kernels.clipped_relu(y, 0.3))
    scale, shift = normal(4, b.shape, dtype), normal(5, b.shape, dtype)
    expected = np.maximum(y.astype(np.float64) * scale[:, None, None] + shift[:, None, None], 0)
    scaled = kernels.convolution_2d(x, W, b, z=np.inf, scale=scale, shift=shift)
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=8 * np.finfo(dtype).eps * expected.max())
    for given in (c, None):
        back = kernels.transposed_convolution_2d(y, W, given)
        rectified = kernels.transposed_convolution_2d(y, W, given, mask=mask, rectify=True)
        np.testing.assert_array_equal(rectified, kernels.relu_reverse(back, mask, True))
    assert len(cudnn.executed) == 7


x, W = normal(0, (2, 6, 5, 5), np.float32), normal(1, (7, 6, 3, 3), np.float32)


def test_graphs_are_kept_by_all_that_they_depend_on(cudnn):
    from dcnn_kernels.cuda import settings

    for _ in range(2):
        kernels.convolution_2d(x, W)
    assert (len(cudnn.graphs), len(cudnn.executed)) == (1, 2)
    with settings.precision("tf32"):
        kernels.convolution_2d(x, W)
    kernels.convolution_2d(x, W, pad=1)
    kernels.convolution_2d(x[:1], W)
    kernels.convolution_2d(x.astype(np.float16), W.astype(np.float16))
    assert (len(cudnn.graphs), len(cudnn.executed)) == (5, 6)
    assert ["TENSOR_CORE" in graph.notes for graph in cudnn.graphs] == [True, False, True, True, False]


def test_the_engine_is_chosen_by_name(cudnn):
    from dcnn_kernels.cuda import settings

    expected = reference.convolution_2d(x, W)
    with settings.engine("own"):
        assert_close(kernels.convolution_2d(x, W), expected)
    assert not cudnn.graphs
    with settings.engine("cudnn"):
        assert_close(kernels.convolution_2d(x, W), expected)
        kernels.convolution_2d(x[:, :1], W[:, :1])
    assert len(cudnn.executed) == 2
    kernels.convolution_2d(x[:, :1], W[:, :1])  # few terms: no matrix product
    assert len(cudnn.executed) == 2


def test_unpooling_on_the_way_is_our_own_unless_cudnn_is_asked_for(cudnn):
    from dcnn_kernels.cuda import settings

    g, switches = normal(2, (1, 7, 3, 3), np.float32), np.zeros((1, 7, 3, 3), np.uint8)
    y = kernels.unpooled_transposed_convolution_2d(g, switches, W, 6, 2, pad=1)
    assert not cudnn.executed
    with settings.engine("cudnn"):
        assert_close(kernels.unpooled_transposed_convolution_2d(g, switches, W, 6, 2, pad=1), y)
    assert len(cudnn.executed) == 1


def test_what_cudnn_refuses_is_done_by_our_own_or_an_error_where_it_is_asked_for(cudnn):
    from dcnn_kernels.cuda import settings

    cudnn.refuses = True
    for _ in range(2):
        assert_close(kernels.convolution_2d(x, W), reference.convolution_2d(x, W))
    assert len(cudnn.graphs) == 1
    message = r"cuDNN can't do conv_fprop of float32 x \(2, 6, 5, 5\), W \(7, 6, 3, 3\), stride \(1, 1\), .*: no engine"
    with settings.engine("cudnn"), pytest.raises(reference.BackendError, match=message):
        kernels.convolution_2d(x, W)
    double = [array.astype(np.float64) for array in (x, W)]
    assert_close(kernels.convolution_2d(*double), reference.convolution_2d(*double))
    with settings.engine("cudnn"), pytest.raises(reference.BackendError, match="serves float16 and float32 here"):
        kernels.convolution_2d(*double)


def no_library():
    raise RuntimeError("Unable to find symbol cudnnGetVersion")


@pytest.mark.parametrize("package", [None, types.SimpleNamespace(backend_version=no_library)], ids=["no package", "no library"])
def test_without_cudnn_it_is_an_error_where_it_is_asked_for(cudnn, monkeypatch, package):
    from dcnn_kernels.cuda import settings

    monkeypatch.setitem(sys.modules, "cudnn", package)
    assert_close(kernels.convolution_2d(x, W), reference.convolution_2d(x, W))
    with settings.engine("cudnn"), pytest.raises(reference.BackendError, match=r"cuDNN isn't here: .*pip install nvidia-cudnn"):
        kernels.convolution_2d(x, W)

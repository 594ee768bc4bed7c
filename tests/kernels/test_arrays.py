import importlib.util

import numpy as np
import pytest

from dcnn_kernels.arrays import BackendError, backend_of, check_float, check_shape, index_dtype, select_backend


class FakeCupyArray:
    """What the package sees of a CuPy array: its type's module and the CUDA array interface."""

    __cuda_array_interface__ = {}  # noqa: RUF012
    __module__ = "cupy._core.core"

    def __init__(self, dtype="float32", shape=(1, 2)):
        self.dtype, self.shape, self.ndim = np.dtype(dtype), shape, len(shape)


def test_the_backend_is_the_arrays_own():
    assert backend_of(np.zeros(1)) == "reference"
    assert backend_of(FakeCupyArray()) == "cuda"
    for stranger in ([1.0], 1.0, None):
        with pytest.raises(TypeError, match=r"expected a numpy\.ndarray or a cupy\.ndarray, got builtins\."):
            backend_of(stranger)


def test_select_backend_follows_the_arrays_and_passes_none_over():
    expected = importlib.import_module("dcnn_kernels.reference.occlusion")
    assert select_backend("occlusion", None, x=np.zeros(1), b=None) is expected
    assert select_backend("occlusion", "reference", x=np.zeros(1)) is expected


def test_numpy_arrays_go_to_what_is_compiled_where_numba_is_installed():
    chosen = select_backend("pooling", None, x=np.zeros(1))
    if importlib.util.find_spec("numba"):
        assert chosen is select_backend("pooling", "compiled", x=np.zeros(1))
        assert chosen.__name__ == "dcnn_kernels.compiled.pooling"
        with pytest.raises(BackendError, match="backend 'compiled' has no 'occlusion' here"):
            select_backend("occlusion", "compiled", x=np.zeros(1))
    else:
        assert chosen is select_backend("pooling", "reference", x=np.zeros(1))
        with pytest.raises(BackendError, match="'compiled' was forced, but Numba isn't installed; the extra 'cpu' brings it"):
            select_backend("pooling", "compiled", x=np.zeros(1))


def test_select_backend_names_the_argument_that_is_no_array():
    with pytest.raises(TypeError, match=r"W: expected .*got builtins\.list"):
        select_backend("linear", None, x=np.zeros(1), W=[1.0])


def test_a_forced_backend_that_cannot_run_is_an_error():
    with pytest.raises(BackendError, match="'cuda' was forced, but the arrays belong to 'reference'"):
        select_backend("linear", "cuda", x=np.zeros(1))
    for backend in ("reference", "compiled"):
        with pytest.raises(BackendError, match=f"'{backend}' was forced, but the arrays belong to 'cuda'"):
            select_backend("linear", backend, x=FakeCupyArray())
    with pytest.raises(BackendError, match=r"one backend, got .*'x': 'reference'.*'W': 'cuda'"):
        select_backend("linear", None, x=np.zeros(1), W=FakeCupyArray())
    with pytest.raises(BackendError, match="has no 'no_such_module' here"):
        select_backend("no_such_module", None, x=np.zeros(1))
    with pytest.raises(ValueError, match=r"backend must be one of .*got 'gpu'"):
        select_backend("linear", "gpu", x=np.zeros(1))


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64", "bool"])
def test_check_float_refuses_other_dtypes_on_numpy(dtype):
    with pytest.raises(TypeError, match=f"x must be of dtype float32 or float64, got {dtype}"):
        check_float("x", np.zeros((1, 2), dtype), 2)


def test_check_float_takes_float16_on_cuda_only():
    check_float("x", FakeCupyArray("float16"), 2)
    with pytest.raises(TypeError, match="float16 or float32 or float64, got int32"):
        check_float("x", FakeCupyArray("int32"), 2)


def test_check_float_compares_rank_and_dtype():
    x = np.zeros((1, 2), np.float32)
    check_float("x", x, 2)
    check_float("x", x, (2, 4), like=x)
    with pytest.raises(ValueError, match=r"x must have 1 or 3 dimensions, got shape \(1, 2\)"):
        check_float("x", x, (1, 3))
    with pytest.raises(TypeError, match="W must be of the same dtype as the other arrays, float64, got float32"):
        check_float("W", x, 2, like=np.zeros(1))
    with pytest.raises(TypeError, match="x: expected"):
        check_float("x", [1.0], 1)


def test_check_shape():
    x = np.zeros((2, 3))
    check_shape("x", x, (2, 3))
    check_shape("x", x, (-1, 3))
    for shape, wanted in (((3, 2), r"\(3, 2\)"), ((2,), r"\(2,\)"), ((-1, 4), r"\(any, 4\)"), ((2, 3, -1), r"\(2, 3, any\)")):
        with pytest.raises(ValueError, match=rf"x must have shape {wanted}, got \(2, 3\)"):
            check_shape("x", x, shape)


@pytest.mark.parametrize(
    ("places", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)],
)
def test_index_dtype_is_the_smallest_that_numbers_all_places(places, dtype):
    assert index_dtype(places) is dtype
    assert places - 1 <= np.iinfo(dtype).max

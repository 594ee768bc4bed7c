"""How kernels are compiled and launched."""

import cupy
import numpy as np
import pytest

from dcnn_kernels.cuda import launch


def test_indices_are_as_wide_as_the_largest_count_needs():
    assert launch.index_type(5, 2**31 - 2) == ("int", np.int32)
    assert launch.index_type(5, 2**31 - 1) == ("long long", np.int64)


def test_ctypes_are_those_of_the_dtypes():
    assert launch.ctype("float16") == "__half"
    assert launch.ctype(np.uint8) == "unsigned char"
    with pytest.raises(TypeError, match=r"kernels take float16, .*, got int64"):
        launch.ctype(np.int64)


def test_a_kernel_is_compiled_once_with_a_digest_of_all_sources():
    assert launch.kernel("relu.cu", "relu_mask<float, int>") is launch.kernel("relu.cu", "relu_mask<float, int>")
    (digest,) = [option for option in launch._options() if option.startswith("-DSOURCES=")]
    assert len(digest) == len("-DSOURCES=") + 64


def test_errors_name_the_kernel_and_what_it_was_given():
    x = cupy.zeros((2, 3), np.float32)
    expression = "relu_mask<float, int>"
    for number in (3, 3.0, np.zeros(1), [1]):
        with pytest.raises(TypeError, match=f"{expression}: argument 1 must be a cupy.ndarray, a NumPy scalar or None, got"):
            launch.launch("relu.cu", expression, (1,), (32,), (x, number))
    with pytest.raises(RuntimeError) as error:
        launch.launch("relu.cu", expression, (1,), (32,), (x, None, np.int32(3)))
    for part in (expression, "relu.cu", "(1,)", "(32,)", "float32[2, 3], null, int32 3", "parameters"):
        assert part in str(error.value)
    with pytest.raises(RuntimeError, match="no_such_kernel"):
        launch.launch("relu.cu", "no_such_kernel<float>", (1,), (32,), ())


def test_arrays_must_lie_on_the_current_device():
    with cupy.cuda.Device(1):
        x = cupy.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match="argument 0 lies on device 1, but device 0 is current"):
        launch.launch("relu.cu", "relu_mask<float, int>", (1,), (32,), (x,))

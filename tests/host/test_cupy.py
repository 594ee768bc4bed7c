"""The stand-in does what CuPy and CUDA do, and refuses what they refuse."""

import cupy
import numpy as np
import pytest

from dcnn_kernels.cuda.launch import SOURCE
from tests.kernels.properties import normal


def kernel(code, name="kernel"):
    module = cupy.RawModule(code=f'#include "common.cuh"\n{code}', options=(f"-I{SOURCE}",), name_expressions=(name,))
    return module.get_function(name)


def test_arrays_compute_as_numpys_do_and_stay_on_the_device():
    a, b = normal(0, (3, 4), np.float32), normal(1, (4,), np.float32)
    x, y = cupy.asarray(a), cupy.asarray(b)
    for on_device, on_host in [
        (x + y, a + b),
        (2 - x, 2 - a),
        (x @ y, a @ b),
        (-x, -a),
        (x > 0, a > 0),
        (x[1:, ::-2], a[1:, ::-2]),
        (x.T.reshape(2, 6), a.T.reshape(2, 6)),
        (x.sum(axis=1), a.sum(axis=1)),
        (cupy.concatenate([x, x]), np.concatenate([a, a])),
        (np.concatenate([x, x]), np.concatenate([a, a])),
        (np.maximum(x, 0), np.maximum(a, 0)),
        (cupy.isfinite(x), np.isfinite(a)),
        (x.astype(np.float16), a.astype(np.float16)),
    ]:
        assert type(on_device) is cupy.ndarray
        assert on_device.dtype == on_host.dtype
        np.testing.assert_array_equal(on_device.get(), on_host)
    x *= 2
    x[0] = 5
    assert x.get()[0].tolist() == [5] * 4
    np.testing.assert_array_equal(x.get()[1:], 2 * a[1:])
    assert not isinstance(x, np.ndarray)


def test_views_share_memory_and_copies_do_not():
    x = cupy.zeros((3, 4), np.float32)
    x[1:, ::2][...] = 1
    x.T.reshape(12)[0] = 7
    assert x.get().tolist() == [[0] * 4, [1, 0, 1, 0], [1, 0, 1, 0]]
    assert x[1:].data.mem is x.data.mem
    assert x[1:].data.ptr == x.data.ptr + 16
    assert x.copy().data.mem is not x.data.mem
    assert cupy.asarray(x) is x
    assert cupy.ascontiguousarray(x) is x
    assert cupy.ascontiguousarray(x.T).flags.c_contiguous
    assert cupy.ascontiguousarray(x.T).data.mem is not x.data.mem
    host = x.get()
    host[...] = 9
    assert x.get()[0, 0] == 0


def test_arrays_of_the_host_are_refused():
    x, a = cupy.zeros(3), np.zeros(3)
    for mix in (
        lambda: x + a,
        lambda: a + x,
        lambda: np.add(x, a),
        lambda: np.concatenate([x, a]),
        lambda: cupy.concatenate([x, a]),
        lambda: x.__setitem__(slice(None), a),
        lambda: a.__setitem__(slice(None), x),
        lambda: x.__iadd__(a),
        lambda: np.asarray(x),
        lambda: np.linalg.norm(x),
        lambda: cupy.ElementwiseKernel("T x, T y", "T z", "z = x + y", "mix")(x, a),
        lambda: kernel("__global__ void kernel(double* x) {}")((1,), (1,), (a,)),
    ):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(AttributeError, match="no 'linspace'"):
        _ = cupy.linspace


def test_every_array_is_a_block_of_its_own_size_that_nobody_wrote():
    used = cupy.get_default_memory_pool().used_bytes()
    x, y = cupy.empty(3, np.float16), cupy.empty((2, 5), np.float64)
    assert np.isnan(x.get()).all()
    assert np.isnan(y.get()).all()
    assert (cupy.empty(3, np.int8).get() == -1).all()
    assert (x.data.mem.size, y.data.mem.size) == (6, 80)
    assert x.data.ptr % 512 == y.data.ptr % 512 == 0
    assert cupy.get_default_memory_pool().used_bytes() == used + 86
    del x, y
    assert cupy.get_default_memory_pool().used_bytes() == used
    assert cupy.empty((0, 3)).data.ptr == 0


def test_the_memory_pool_has_a_limit():
    pool = cupy.get_default_memory_pool()
    pool.set_limit(size=pool.used_bytes() + 1000)
    try:
        x = cupy.empty(1000, np.uint8)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="allocating 1 bytes"):
            cupy.empty(1, np.uint8)
        del x
        cupy.empty(1000, np.uint8)
    finally:
        pool.set_limit(size=0)


def test_arrays_of_another_device_are_refused():
    with cupy.cuda.Device(1):
        x = cupy.zeros(3)
        assert (x + x).device.id == 1
    assert cupy.cuda.Device().id == 0
    with pytest.raises(ValueError, match="device 1"):
        _ = x + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x, np.int32(3), np.float32(1)), None),
        (lambda x: (np.uintp(0), np.int32(3), np.float32(1)), None),
        (lambda x: (None, np.int32(3), np.float32(1)), None),
        (lambda x: (x, np.int32(3)), "3 parameters, but got 2 arguments"),
        (lambda x: (x, np.float32(1), np.int32(3)), "argument 1 is float32, but the kernel's parameter int32"),
        (lambda x: (np.int32(3), x, np.float32(1)), "argument 0 is int32, but the kernel's parameter float32*"),
        (lambda x: (x, np.int64(3), np.float32(1)), "argument 1 is int64, but the kernel's parameter int32"),
        (lambda x: (x, 3, np.float32(1)), "argument 1 is int64, but the kernel's parameter int32"),
        (lambda x: (x, np.uint32(3), np.float32(1)), "argument 1 is uint32, but the kernel's parameter int32"),
        (lambda x: (x, np.int32(3), 1.0), "argument 2 is float64, but the kernel's parameter float32"),
        (
            lambda x: (x.astype(np.float64), np.int32(3), np.float32(1)),
            "argument 0 is float64*, but the kernel's parameter float32*",
        ),
        (lambda x: (np.uintp(1), np.int32(3), np.float32(1)), "argument 0 is uint64, but the kernel's parameter float32*"),
    ],
)
def test_arguments_must_fit_the_parameters(arguments, message):
    run = kernel("__global__ void kernel(const float* x, int n, float a) {}")
    given = arguments(cupy.zeros(3, np.float32))
    if message is None:
        run((1,), (1,), given)
    else:
        with pytest.raises(cupy.cuda.CUDARuntimeError) as error:
            run((1,), (1,), given)
        assert message in str(error.value)


def test_sources_options_and_sizes_have_one_type_each():
    code = "__global__ void kernel() {}"
    for make in (
        lambda: cupy.RawModule(code=code, options=["-std=c++17"], name_expressions=("kernel",)),
        lambda: cupy.RawModule(code=code.encode(), name_expressions=("kernel",)),
        lambda: cupy.RawKernel(code, "kernel", ["-std=c++17"]),
        lambda: cupy.RawKernel(code, "kernel")([1], (32,), ()),
        lambda: cupy.RawKernel(code, "kernel")((1,), 32, ()),
    ):
        with pytest.raises(TypeError, match="has incorrect type"):
            make()


def test_structs_pass_by_value():
    struct = np.zeros(1, np.dtype([("a", np.int32), ("b", np.float64)], align=True))
    struct["a"], struct["b"] = 3, 0.5
    run, y = kernel("struct S { int a; double b; }; __global__ void kernel(double* y, S s) { *y = s.a + s.b; }"), cupy.zeros(1)
    run((1,), (1,), (y, struct))
    assert y.get() == 3.5
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="argument 1 is 12 bytes, but the kernel's parameter 16 bytes"):
        run((1,), (1,), (y, np.zeros(1, [("a", np.int32), ("b", np.float64)])))


def test_launches_beyond_the_devices_limits_are_refused(monkeypatch):
    for grid, block in [
        ((1, 65536), (1,)),
        ((2**31,), (1,)),
        ((0,), (1,)),
        ((1,), (1025,)),
        ((1,), (64, 32)),
        ((1,), (1, 1, 65)),
    ]:
        with pytest.raises(cupy.cuda.CUDARuntimeError, match="INVALID_VALUE"):
            kernel("__global__ void kernel() {}")(grid, block, ())
    run = kernel("__global__ void kernel() {}")
    run((1,), (1,), (), shared_mem=48 << 10)
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="49153 bytes of dynamic shared memory"):
        run((1,), (1,), (), shared_mem=(48 << 10) + 1)
    run.max_dynamic_shared_size_bytes = 100 << 10
    run((1,), (1,), (), shared_mem=100 << 10)
    monkeypatch.setenv("DCNN_HOST_CAPABILITY", "86")
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="102400 bytes of dynamic shared memory"):
        run((1,), (1,), (), shared_mem=100 << 10)


def test_what_the_compiler_refuses_is_an_error():
    with pytest.raises(cupy.cuda.compiler.CompileException, match="nonsense"):
        kernel("__global__ void kernel() { nonsense(); }")((1,), (1,), ())
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="NOT_FOUND"):
        cupy.RawModule(code="", name_expressions=("a",)).get_function("b")


def test_elementwise_kernels_broadcast_and_deduce_types():
    a, b, w = normal(0, (3, 1, 4), np.float32), normal(1, (2, 1), np.float32), normal(2, (5,), np.float32)
    x, y = cupy.asarray(a)[::-1], cupy.asarray(b)
    combine = cupy.ElementwiseKernel("T x, T y, T z, raw T w", "T out", "out = x + y * z + w[i % w.size()]", "combine")
    places = np.arange(24).reshape(3, 2, 4) % 5
    expected = a[::-1] + b * np.float32(1.5) + w[places]
    result = combine(x, y, 1.5, cupy.asarray(w))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.get(), expected, rtol=1e-6)
    out = cupy.empty((3, 2, 4), np.float32)
    assert combine(x, y, 1.5, cupy.asarray(w), out) is out
    np.testing.assert_array_equal(out.get(), result.get())
    mixed = cupy.ElementwiseKernel("T x, uint8 m", "T y", "y = m ? x : T(0)", "mixed")
    np.testing.assert_array_equal(mixed(x, cupy.ones((3, 1, 4), np.uint8)).get(), a[::-1])
    half = mixed(x.astype(np.float16), cupy.zeros((3, 1, 4), np.uint8))
    assert half.dtype == np.float16
    count = cupy.ElementwiseKernel("raw T x", "int64 y", "y = i * _ind.size() + x.size()", "count")
    np.testing.assert_array_equal(count(x, size=4).get(), np.arange(4) * 4 + 12)
    assert combine(x[:0], y, 1.0, x).shape == (0, 2, 4)
    for wrong in (
        lambda: combine(x, y.astype(np.float64), 1.0, x),
        lambda: mixed(x, x),
        lambda: combine(x, y),
        lambda: combine(x, y, 1.0, x, cupy.empty((3, 2, 4))),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="mismatch"):
        combine(x, y, 1.0, x, cupy.empty((3, 2, 5), np.float32))


def test_warp_operations():
    run = kernel("""
        __global__ void kernel(int* y) {
            int i = threadIdx.x, lane = i % 32;
            int* out = y + 8 * i;
            out[0] = __shfl_sync(0xffffffffu, i, 3);
            out[1] = __shfl_up_sync(0xffffffffu, i, 5);
            out[2] = __shfl_down_sync(0xffffffffu, i, 5);
            out[3] = __shfl_xor_sync(0xffffffffu, i, 6);
            out[4] = __shfl_down_sync(0xffffffffu, i, 2, 8);
            out[5] = __ballot_sync(0xffffffffu, lane < 4);
            if (lane < 16) out[6] = __shfl_xor_sync(0x0000ffffu, i, 1);
            else out[6] = __shfl_xor_sync(0xffff0000u, i, 2);
            out[7] = __any_sync(0xffffffffu, i == 40) + 2 * __all_sync(0xffffffffu, i < 40);
        }""")
    y = cupy.zeros((64, 8), np.int32)
    run((1,), (64,), (y,))
    i = np.arange(64)
    lane = i % 32
    expected = [
        i - lane + 3,
        np.where(lane < 5, i, i - 5),
        np.where(lane >= 27, i, i + 5),
        i ^ 6,
        np.where(lane % 8 >= 6, i, i + 2),
        np.full(64, 15),
        np.where(lane < 16, i ^ 1, i ^ 2),
        np.where(i < 32, 2, 1),
    ]
    np.testing.assert_array_equal(y.get().T, expected)


def test_barriers_count_those_who_have_not_returned():
    run = kernel("""
        __global__ void kernel(int* y, int n) {
            int i = threadIdx.x + blockDim.x * threadIdx.y;
            if (i >= n) return;
            y[3 * i] = __syncthreads_count(i % 3 == 0);
            y[3 * i + 1] = __syncthreads_or(i == 7);
            y[3 * i + 2] = __syncthreads_and(i < n);
        }""")
    y = cupy.zeros((48, 3), np.int32)
    run((1,), (16, 3), (y, np.int32(40)))
    assert (y.get()[:40] == [14, 1, 1]).all()
    assert not y.get()[40:].any()


def test_threads_and_blocks_run_in_order_or_at_random(monkeypatch):
    run = kernel("""
        __global__ void kernel(int* order, int* count) {
            order[atomicAdd(count, 1)] = threadIdx.x + blockIdx.x * 16;
            __syncthreads();
            order[atomicAdd(count, 1)] = threadIdx.x + blockIdx.x * 16;
        }""")

    def order(seed):
        monkeypatch.setenv("DCNN_HOST_SEED", str(seed))
        places = cupy.zeros(64, np.int32)
        run((2,), (16,), (places, cupy.zeros(1, np.int32)))
        return places.get().reshape(2, 2, 16)

    straight = np.arange(32).reshape(2, 1, 16)
    np.testing.assert_array_equal(np.sort(order(0)), np.broadcast_to(straight, (2, 2, 16)))
    np.testing.assert_array_equal(order(0)[:, 0], straight[:, 0])
    shuffled = order(1)
    assert not np.array_equal(shuffled[:, 0], order(0)[:, 0])
    assert not np.array_equal(shuffled[0, 0], shuffled[0, 1])
    np.testing.assert_array_equal(np.sort(shuffled[:, 0].ravel()), np.arange(32))


#: The fragments of mma.sync as PTX's ISA draws them, from matrices in row order.
MMA = """
    #include "mma.cuh"
    __global__ void kernel(float* d, const TYPE* a, const TYPE* b) {
        int lane = threadIdx.x, group = lane / 4, place = lane % 4;
        float sums[4] = {1, 1, 1, 1};
        unsigned left[4], right[2];
        LOAD
        mma_OPERATION(sums, left, right);
        for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + 2 * place + i % 2] = sums[i];
    }"""


def test_tensor_cores_multiply_in_tf32(monkeypatch):
    load = """
        for (int i = 0; i < 4; ++i) left[i] = tf32_bits(a[(group + i % 2 * 8) * 8 + place + i / 2 * 4]);
        for (int i = 0; i < 2; ++i) right[i] = tf32_bits(b[(place + i * 4) * 8 + group]);
    """
    run = kernel(MMA.replace("TYPE", "float").replace("LOAD", load).replace("OPERATION", "m16n8k8_tf32"))
    a, b, d = normal(0, (16, 8), np.float32), normal(1, (8, 8), np.float32), cupy.empty((16, 8), np.float32)
    run((1,), (32,), (d, cupy.asarray(a), cupy.asarray(b)))
    exact = 1 + a.astype(np.float64) @ b
    assert 1e-6 < np.abs(d.get() - exact).max() < 8 * 3 * 3 * 2**-10
    rounded = [((x.view(np.int32) + 0x1000) & ~0x1FFF).view(np.float32).astype(np.float64) for x in (a, b)]
    np.testing.assert_allclose(d.get(), 1 + rounded[0] @ rounded[1], rtol=1e-5, atol=1e-5)
    monkeypatch.setenv("DCNN_HOST_CAPABILITY", "75")
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="TF32 on a device of sm_75"):
        run((1,), (32,), (d, cupy.asarray(a), cupy.asarray(b)))


def test_tensor_cores_multiply_halves():
    load = """
        const unsigned short *x = (const unsigned short*)a, *y = (const unsigned short*)b;
        for (int i = 0; i < 4; ++i) {
            const unsigned short* at = x + (group + i % 2 * 8) * 16 + 2 * place + i / 2 * 8;
            left[i] = at[0] | at[1] << 16;
        }
        for (int i = 0; i < 2; ++i) {
            const unsigned short* at = y + (2 * place + i * 8) * 8 + group;
            right[i] = at[0] | at[8] << 16;
        }
    """
    run = kernel(MMA.replace("TYPE", "__half").replace("LOAD", load).replace("OPERATION", "m16n8k16_f16"))
    a, b, d = normal(0, (16, 16), np.float16), normal(1, (16, 8), np.float16), cupy.empty((16, 8), np.float32)
    run((1,), (32,), (d, cupy.asarray(a), cupy.asarray(b)))
    np.testing.assert_allclose(d.get(), 1 + a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-5)


def test_half_precision_rounds_as_numpys():
    run = kernel("__global__ void kernel(__half* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }")
    x = np.array([1.0, 1 / 3, 65519, 65520, 1e-8, 6e-8, np.inf, -np.inf, -0.0, 2049, 2051], np.float32)
    y = cupy.empty(x.shape, np.float16)
    run((1,), (len(x),), (y, cupy.asarray(x)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y.get().view(np.uint16), x.astype(np.float16).view(np.uint16))


def test_minima_and_maxima_pass_over_nan_as_cudas_do():
    run = kernel("__global__ void kernel(T* y, T a, T b) { y[0] = min(a, b); y[1] = max(a, b); }".replace("T", "float"))
    y = cupy.empty(2, np.float32)
    run((1,), (1,), (y, np.float32(np.nan), np.float32(2)))
    assert y.get().tolist() == [2, 2]


def captured(run, mode=None):
    """The graph of what ``run()`` does."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture(mode)
        assert stream.is_capturing()
        assert not cupy.cuda.Stream.null.is_capturing()
        run()
        graph = stream.end_capture()
    assert not stream.is_capturing()
    return graph


DOUBLE = "__global__ void kernel(float* x) { x[threadIdx.x] *= 2; }"


def test_a_captured_graph_does_its_work_when_launched_and_each_time_anew():
    x, double = cupy.zeros(3, np.float32), kernel(DOUBLE)
    double((1,), (3,), (x,))
    y = x + x  # so that all is loaded
    results = []

    def run():
        double((1,), (3,), (x,))
        results.append(x + x)
        x.fill(5)
        x[1:] += 1

    x += 1
    graph = captured(run)
    (y,) = results
    assert x.get().tolist() == [1, 1, 1]
    assert np.isnan(y.get()).all()
    graph.launch()
    assert y.get().tolist() == [4, 4, 4]
    assert x.get().tolist() == [5, 6, 6]
    graph.upload()
    with cupy.cuda.Stream():
        graph.launch()
    assert y.get().tolist() == [20, 24, 24]


def test_a_capture_refuses_what_would_wait_for_it_and_ends_invalid():
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(3, np.float32)
    for wait in (stream.synchronize, cupy.cuda.Device().synchronize, cupy.cuda.runtime.deviceSynchronize):
        with stream:
            stream.begin_capture()
            with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
                wait()
            with pytest.raises(RuntimeError, match="has invalidated"):
                stream.is_capturing()
            with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                x.fill(1)
            with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                stream.end_capture()
        stream.synchronize()
        assert x.get().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (RuntimeError, "D2H transfers are disallowed", lambda x: x.get()),
        (RuntimeError, "D2H transfers are disallowed", lambda x: bool(x.any())),
        (RuntimeError, "D2H transfers are disallowed", lambda x: x.max().item()),
        (RuntimeError, "H2D transfers are disallowed", lambda x: cupy.asarray(np.zeros(3))),
        (RuntimeError, "H2D transfers are disallowed", lambda x: x.set(np.zeros(3, np.float32))),
        (RuntimeError, "H2D transfers are disallowed", lambda x: x[[0, 1]]),
        (NotImplementedError, "cuBLAS API", lambda x: x @ x),
    ],
)
def test_a_capture_refuses_copies_and_cublas_but_goes_on(error, message, call):
    x = cupy.zeros(3, np.float32)
    x.any(), x.max()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        with pytest.raises(error, match=message):
            call(x)
        x += 1
        graph = stream.end_capture()
    graph.launch()
    assert x.get().tolist() == [1, 1, 1]


def test_a_capture_takes_memory_only_in_the_relaxed_mode_and_loads_no_kernels():
    x, runtime = cupy.zeros(3, np.float32), cupy.cuda.runtime
    x.copy()
    captured(x.copy)

    def refused(call, *args):
        with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            call(*args)

    for mode in (runtime.streamCaptureModeGlobal, runtime.streamCaptureModeThreadLocal):
        with pytest.raises(cupy.cuda.CUDARuntimeError, match="Invalidated"):
            captured(lambda: refused(x.copy), mode)
    fresh = kernel(DOUBLE.replace("2", "3"))
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="Invalidated"):
        captured(lambda: refused(fresh, (1,), (3,), (x,)))


def test_only_streams_of_ones_own_are_captured():
    with pytest.raises(RuntimeError, match="legacy"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorIllegalState"):
        cupy.cuda.Stream().end_capture()
    blocking = cupy.cuda.Stream()
    blocking.begin_capture()
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
        cupy.zeros(3)
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
        blocking.end_capture()


def test_a_graph_keeps_no_memory_but_a_pool_does():
    x, results = cupy.zeros(3, np.float32), []
    pool = cupy.cuda.MemoryPool()

    def run():
        results[:] = [x.copy() + 1]  # the copy is given back at once

    run()
    graph = captured(run)
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorIllegalAddress"):
        graph.launch()
    with cupy.cuda.using_allocator(pool.malloc):
        graph = captured(run)
    graph.launch()
    assert results[0].get().tolist() == [1, 1, 1]
    assert pool.used_bytes() == 12
    assert pool.total_bytes() == 24
    del pool
    with pytest.raises(cupy.cuda.CUDARuntimeError, match="cudaErrorIllegalAddress"):
        graph.launch()
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(size=11)
    with pytest.raises(cupy.cuda.OutOfMemoryError), cupy.cuda.using_allocator(pool.malloc):
        x.copy()

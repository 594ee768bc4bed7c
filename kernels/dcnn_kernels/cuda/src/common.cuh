// What every kernel shares. NVRTC has no host headers, so nothing but cuda_fp16.h is included anywhere in this folder.
#pragma once

#ifndef DCNN_HOST
#include <cuda_fp16.h>

// The block's dynamic shared memory, as `type* name`; aligned for accesses of 16 bytes.
#define DYNAMIC_SHARED(type, name)                           \
    extern __shared__ __align__(16) unsigned char dcnn_dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dcnn_dynamic_shared)
#endif

// The type that sums and comparisons are done in: half precision is only ever stored.
template <typename T>
struct Accumulator {
    using type = T;
};
template <>
struct Accumulator<__half> {
    using type = float;
};
template <typename T>
using Accumulate = typename Accumulator<T>::type;

template <typename T>
__device__ __forceinline__ T infinity();
template <>
__device__ __forceinline__ float infinity<float>() {
    return __int_as_float(0x7f800000);
}
template <>
__device__ __forceinline__ double infinity<double>() {
    return __longlong_as_double(0x7ff0000000000000LL);
}

// N elements read or written in one access; the address must be a multiple of its size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T values[N];
};

// A loop over the grid's threads: for (Index i = thread_index<Index>(); i < count; i += thread_count<Index>())
template <typename Index>
__device__ __forceinline__ Index thread_index() {
    return Index(blockIdx.x) * Index(blockDim.x) + Index(threadIdx.x);
}
template <typename Index>
__device__ __forceinline__ Index thread_count() {
    return Index(gridDim.x) * Index(blockDim.x);
}

// Copies from global to shared memory that overlap with computing, from sm_80 on; before, plain copies. What was copied may
// be read after copy_async_wait and, by other threads, a barrier. Bytes: 4, 8 or 16, to which both addresses are aligned.
// With `valid` false nothing is read, and zeros are written.
#ifndef DCNN_HOST
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid = true) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if __CUDA_ARCH__ >= 800
    unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    // 16 bytes pass by the L1 cache, which is left to other reads.
    if constexpr (Bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(global), "r"(valid ? 16 : 0) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(target), "l"(global), "n"(Bytes), "r"(valid ? Bytes : 0)
                     : "memory");
#else
    using Words = Pack<unsigned, Bytes / 4>;
    *static_cast<Words*>(shared) = valid ? *static_cast<const Words*>(global) : Words{};
#endif
}

// Closes a group: the copies of this thread since the last one.
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until no more than `Pending` of this thread's latest groups are under way.
template <int Pending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
#endif
}
#endif

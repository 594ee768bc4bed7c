// Arrays read and written 16 bytes at a time: in one access where the address allows it, else element by element. So a kernel
// takes any contiguous array, wherever it begins and however many elements it has.
#pragma once

#include "indices.cuh"

// Elements in 16 bytes.
template <typename T>
constexpr int PACK = 16 / static_cast<int>(sizeof(T));

template <int Bytes>
__device__ __forceinline__ bool is_aligned(const void* address) {
    return reinterpret_cast<unsigned long long>(address) % Bytes == 0;
}

// The first N of `count` elements; zeros where there are fewer. `count` may be negative.
template <int N, typename T, typename Index>
__device__ __forceinline__ Pack<T, N> load(const T* from, Index count) {
    Pack<T, N> pack;
    if (count >= N && is_aligned<sizeof(pack)>(from)) {
        pack = *reinterpret_cast<const Pack<T, N>*>(from);
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            pack.values[j] = j < count ? from[j] : static_cast<T>(0.0f);
        }
    }
    return pack;
}

// Writes the first N of `count` elements, or as many as there are.
template <int N, typename T, typename Index>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack, Index count) {
    if (count >= N && is_aligned<sizeof(pack)>(to)) {
        *reinterpret_cast<Pack<T, N>*>(to) = pack;
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (j < count) {
                to[j] = pack.values[j];
            }
        }
    }
}

// The bits of a sample's elements from `element` on, N of them valid; `element` must be a multiple of N, and N a divisor of 8.
template <int N, typename Index>
__device__ __forceinline__ unsigned load_bits(const unsigned char* sample, Index element) {
    static_assert(8 % N == 0, "the bits must lie in one byte");
    return static_cast<unsigned>(sample[element / 8]) >> static_cast<int>(element % 8);
}

// Writes N bits a thread, those of consecutive elements in consecutive threads of a block of one dimension. All threads of a
// warp must call it, those beyond the last element with inside = false and bits = 0.
template <int N, typename Index>
__device__ __forceinline__ void store_bits(unsigned char* sample, Index element, unsigned bits, bool inside) {
    static_assert(8 % N == 0, "the bits must lie in one byte");
    constexpr int THREADS = 8 / N;  // of one byte
    const int place = static_cast<int>(threadIdx.x) % THREADS;
    bits <<= place * N;
#pragma unroll
    for (int step = 1; step < THREADS; step *= 2) {
        bits |= __shfl_xor_sync(0xffffffffu, bits, step);
    }
    if (place == 0 && inside) {
        sample[element / 8] = static_cast<unsigned char>(bits);
    }
}

// A ReLU's way back for one value: `passed` is the bit of its mask.
template <typename A>
__device__ __forceinline__ A reverse_relu(A signal, bool passed, bool rectify) {
    return !passed || (rectify && signal < 0) ? A(0) : signal;
}

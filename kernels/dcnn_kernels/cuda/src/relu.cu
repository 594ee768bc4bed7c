// Rectifiers, their one-bit masks, and the way back.
#include "packs.cuh"

template <typename T, typename Index>
__global__ void clipped_relu(const T* __restrict__ x, T* __restrict__ y, Accumulate<T> z, Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Pack<T, N> pack = load<N>(x + i, count - i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const A value = static_cast<A>(pack.values[j]);
            pack.values[j] = static_cast<T>(value < 0 ? A(0) : value > z ? z : value);  // NaN stays
        }
        store(y + i, pack, count - i);
    }
}

// W (channels,), or null for one slope.
template <typename T, typename Index>
__global__ void prelu(const T* __restrict__ x, const T* __restrict__ W, T* __restrict__ y, Accumulate<T> slope, Index count,
                      Index channels, Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Pack<T, N> pack = load<N>(x + i, count - i);
        ChannelOf<Index> at(i, channels, pixels);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const A value = static_cast<A>(pack.values[j]);
            const A factor = W ? static_cast<A>(W[at.channel]) : slope;
            pack.values[j] = static_cast<T>(value < 0 ? value * factor : value);
            at.next();
        }
        store(y + i, pack, count - i);
    }
}

// x (samples, count) to bits (samples, (count + 7) / 8).
template <typename T, typename Index>
__global__ void relu_mask(const T* __restrict__ x, unsigned char* __restrict__ mask, Accumulate<T> z, Index samples,
                          Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    const bool clipped = z < infinity<A>();
    const Index bytes = (count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        // The threads of a block go round together, as store_bits needs it.
        for (Index first = Index(blockIdx.x) * Index(blockDim.x) * N; first < count; first += thread_count<Index>() * N) {
            const Index i = first + Index(threadIdx.x) * N;
            const Pack<T, N> pack = load<N>(x + sample * count + i, count - i);
            unsigned bits = 0;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const A value = static_cast<A>(pack.values[j]);
                bits |= static_cast<unsigned>(value > 0 && !(clipped && value >= z)) << j;
            }
            store_bits<N>(mask + sample * bytes, i, bits, i < count);
        }
    }
}

// g (samples, count), mask (samples, (count + 7) / 8) or null, W (channels,) or null for one slope.
template <typename T, typename Index>
__global__ void relu_reverse(const T* __restrict__ g, const unsigned char* __restrict__ mask, const T* __restrict__ W,
                             T* __restrict__ y, Accumulate<T> slope, int rectify, Index samples, Index count, Index channels,
                             Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    const Index bytes = (count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
            Pack<T, N> pack = load<N>(g + sample * count + i, count - i);
            const unsigned bits = mask ? load_bits<N>(mask + sample * bytes, i) : ~0u;
            ChannelOf<Index> at(i, channels, pixels);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                A value = static_cast<A>(pack.values[j]);
                if (!(bits >> j & 1)) {
                    const A factor = W ? static_cast<A>(W[at.channel]) : slope;
                    value = factor == 0 ? A(0) : value * factor;  // an infinite signal is stopped too
                }
                pack.values[j] = static_cast<T>(reverse_relu(value, true, rectify));
                at.next();
            }
            store(y + sample * count + i, pack, count - i);
        }
    }
}

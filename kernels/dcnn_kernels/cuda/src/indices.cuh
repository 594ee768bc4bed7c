// Arithmetic of indices, which are never negative except where a window reaches out of its picture.
#pragma once

#include "common.cuh"

template <typename Index>
struct UnsignedOf;
template <>
struct UnsignedOf<int> {
    using type = unsigned;
};
template <>
struct UnsignedOf<long long> {
    using type = unsigned long long;
};
template <typename Index>
using Unsigned = typename UnsignedOf<Index>::type;

// Division without regard to signs, which costs less.
template <typename Index>
__device__ __forceinline__ Index quotient(Index n, Index divisor) {
    return static_cast<Index>(static_cast<Unsigned<Index>>(n) / static_cast<Unsigned<Index>>(divisor));
}

// 0 <= i < size in one comparison; i may be negative.
template <typename Index>
__device__ __forceinline__ bool is_within(Index i, Index size) {
    return static_cast<Unsigned<Index>>(i) < static_cast<Unsigned<Index>>(size);
}

template <typename Index>
__device__ __forceinline__ Index smaller(Index a, Index b) {
    return a < b ? a : b;
}

template <typename Index>
__device__ __forceinline__ Index larger(Index a, Index b) {
    return a > b ? a : b;
}

// The channel of one element after the other of an array (samples, channels, pixels).
template <typename Index>
class ChannelOf {
public:
    Index channel;

    __device__ __forceinline__ ChannelOf(Index element, Index channels, Index pixels) : channels(channels), pixels(pixels) {
        const Index plane = quotient(element, pixels);
        pixel = element - plane * pixels;
        channel = plane - quotient(plane, channels) * channels;
    }

    __device__ __forceinline__ void next() {
        if (++pixel == pixels) {
            pixel = 0;
            channel = channel + 1 == channels ? 0 : channel + 1;
        }
    }

private:
    Index channels, pixels, pixel;
};

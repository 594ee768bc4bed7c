// Patches: rectangles of one size cut out of maps, each with its own origin.
#include "indices.cuh"

// What element i of patches (count, channels, h, w) is, and the pixel of its map that it stands for.
template <typename Index>
struct PatchPixel {
    Index patch, channel, row, column;

    __device__ __forceinline__ PatchPixel(Index i, Index channels, Index h, Index w, const Index* origins) {
        const Index line = quotient(i, w), plane = quotient(line, h);
        patch = quotient(plane, channels);
        channel = plane - patch * channels;
        row = line - plane * h + origins[patch * 2];
        column = i - line * w + origins[patch * 2 + 1];
    }
};

// x (maps, channels, height, width) to y (patches, channels, h, w), `size` elements; samples (patches,), origins (patches, 2).
template <typename T, typename Index>
__global__ void crop_patches(const T* __restrict__ x, const Index* __restrict__ samples, const Index* __restrict__ origins,
                             T* __restrict__ y, Accumulate<T> fill, Index size, Index channels, Index h, Index w, Index height,
                             Index width) {
    for (Index i = thread_index<Index>(); i < size; i += thread_count<Index>()) {
        const PatchPixel<Index> at(i, channels, h, w, origins);
        const bool inside = is_within(at.row, height) && is_within(at.column, width);
        const Index plane = samples[at.patch] * channels + at.channel;
        y[i] = inside ? x[(plane * height + at.row) * width + at.column] : static_cast<T>(fill);
    }
}

template <typename A>
__device__ __forceinline__ A rectified(A value, A z, A slope) {
    return value < 0 ? slope * value : value > z ? z : value;  // NaN stays
}

// Changes x (patches, channels, h, w), `size` elements, of maps before (channels, height, width): how much rectified values change.
template <typename T, typename Index>
__global__ void rectify_patches(const T* __restrict__ x, const Index* __restrict__ origins, const T* __restrict__ before,
                                T* __restrict__ y, Accumulate<T> z, Accumulate<T> slope, Index size, Index channels, Index h,
                                Index w, Index height, Index width) {
    using A = Accumulate<T>;
    for (Index i = thread_index<Index>(); i < size; i += thread_count<Index>()) {
        const PatchPixel<Index> at(i, channels, h, w, origins);
        const A value = static_cast<A>(before[(at.channel * height + at.row) * width + at.column]);
        y[i] = static_cast<T>(rectified(value + static_cast<A>(x[i]), z, slope) - rectified(value, z, slope));
    }
}

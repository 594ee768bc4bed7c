// What a convolution reads: a signal as it lies in memory, or one that is unpooled while it is read. `at` finds out once for a
// pixel where it lies, `fetch` then starts to read it in any channel, and `value` waits for what was fetched and makes the
// signal's value of it: the time between the two is free for other work. Outside the picture, and in channels beyond
// the last, the value is zero.
#pragma once

#include "common.cuh"
#include "layout.cuh"

// The same pointer, which the compiler takes for a number of its own: left to itself it adds up every address from the array's
// beginning, in five instructions instead of one. It also forgets that this is global memory, so __ldg must say it.
template <typename T>
__device__ __forceinline__ const T* in_registers(const T* pointer) {
#ifndef DCNN_HOST
    asm("" : "+l"(pointer));
#endif
    return pointer;
}

// The arrays that a signal is read from; those not needed are null.
template <typename T, typename S>
struct Arrays {
    const T* values;
    const S* switches;
    const unsigned char* mask;
};

template <typename T, typename Index>
class Signal {
public:
    using Element = T;
    using Switch = unsigned char;
    static constexpr bool POOLED = false;

    struct Place {
        Index offset;
        bool inside;
    };

    __device__ __forceinline__ Signal(const Arrays<T, Switch>& arrays, const Layout& layout, Index picture, int group)
        : rows(layout.rows.source), columns(layout.columns.source), channels(layout.channels),
          plane(static_cast<Index>(rows) * columns) {
        values = in_registers(arrays.values + (picture * layout.groups + group) * layout.channels * plane);
    }

    __device__ __forceinline__ Place at(int row, int column) const {
        const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(rows) &&
                            static_cast<unsigned>(column) < static_cast<unsigned>(columns);
        return {inside ? static_cast<Index>(row) * columns + column : 0, inside};
    }

    using Fetched = T;

    __device__ __forceinline__ Fetched fetch(const Place& place, int channel) const {
        return place.inside && channel < channels ? __ldg(values + (channel * plane + place.offset)) : T(0.0f);
    }

    __device__ __forceinline__ T value(const Fetched& fetched, const Place&, int) const { return fetched; }

private:
    int rows, columns, channels;
    Index plane;
    const T* values;
};

// The pooled signal and its switches stand for the unpooled one, which is nowhere written: a pixel takes the values of the
// windows whose switch points at it. With Overlap a pixel may lie in several windows; their values sum. With Masked the mask's
// bit of the pixel decides whether it passes.
template <typename T, typename S, bool Overlap, bool Masked, typename Index>
class Unpooled {
public:
    using Element = T;
    using Switch = S;
    static constexpr bool POOLED = true;

    struct Place {
        Index offset;      // of the first window; of any where there is none, so that it may be read
        int place;         // of the pixel in that window, in row order; -1 where there is none
        int down, across;  // windows
        Index bit;         // of the pixel in the group's first channel
    };

    __device__ __forceinline__ Unpooled(const Arrays<T, S>& arrays, const Layout& layout, Index picture, int group)
        : rows(layout.rows.source), columns(layout.columns.source), channels(layout.channels), pooling(layout.pooling),
          plane(static_cast<Index>(pooling.rows) * pooling.columns), pixels(static_cast<Index>(rows) * columns),
          first_bit(static_cast<Index>(group) * channels * pixels) {
        const Index all = static_cast<Index>(layout.groups) * channels, first = static_cast<Index>(group) * channels;
        values = in_registers(arrays.values + (picture * all + first) * plane);
        switches = in_registers(arrays.switches + (picture * all + first) * plane);
        if (Masked) mask = in_registers(arrays.mask + picture * ((all * pixels + 7) >> 3));
    }

    __device__ __forceinline__ Place at(int row, int column) const {
        const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(rows) &&
                            static_cast<unsigned>(column) < static_cast<unsigned>(columns);
        row = inside ? row : 0;
        column = inside ? column : 0;
        int top, left, i, j;
        const int down = windows(row + pooling.pad_rows, pooling.rows, pooling.ksize_rows, pooling.stride_rows, pooling.by_rows,
                                 top, i);
        const int across = windows(column + pooling.pad_columns, pooling.columns, pooling.ksize_columns, pooling.stride_columns,
                                   pooling.by_columns, left, j);
        const bool seen = inside && down > 0 && across > 0;
        return {static_cast<Index>(top) * pooling.columns + left, seen ? i * pooling.ksize_columns + j : -1, seen ? down : 0, across,
                first_bit + static_cast<Index>(row) * columns + column};
    }

    struct Fetched {
        T value;
        S choice;
        unsigned char passes;
    };

    __device__ __forceinline__ Fetched fetch(const Place& place, int channel) const {
        channel = min(channel, channels - 1);
        const Index window = channel * plane + place.offset;
        Fetched fetched = {T(0.0f), 0, 0};
        if (Overlap) {
            fetched.value = sum(place, window);
        } else {
            fetched.value = __ldg(values + window);
            fetched.choice = __ldg(switches + window);
        }
        if (Masked) fetched.passes = __ldg(mask + ((channel * pixels + place.bit) >> 3));
        return fetched;
    }

    __device__ __forceinline__ T value(const Fetched& fetched, const Place& place, int channel) const {
        // Without short cuts, which would be branches.
        bool passes = (channel < channels) & (Overlap | (static_cast<int>(fetched.choice) == place.place));
        if (Masked) passes &= fetched.passes >> static_cast<int>((channel * pixels + place.bit) & 7) & 1;
        passes &= !((pooling.rectify != 0) & (Accumulate<T>(fetched.value) < Accumulate<T>(0)));
        return passes ? fetched.value : T(0.0f);
    }

private:
    // Along one axis, the windows over a padded pixel: how many, the first of them, and the pixel's place in that one.
    __device__ __forceinline__ static int windows(int pixel, int count, int ksize, int stride, Divisor by_stride, int& start,
                                                  int& place) {
        const int last = min(by_stride.quotient(pixel), count - 1);
        start = last;
        if (Overlap) start = pixel < ksize ? 0 : min(by_stride.quotient(pixel - ksize) + 1, last);
        place = pixel - start * stride;
        return place < ksize ? last - start + 1 : 0;
    }

    __device__ __forceinline__ T sum(const Place& place, Index window) const {
        Accumulate<T> sum = 0;
        for (int u = 0; u < place.down; ++u, window += pooling.columns) {
            for (int v = 0; v < place.across; ++v) {
                // The next window begins a stride later, so the pixel lies a stride earlier in it.
                const int expected = place.place - u * pooling.stride_rows * pooling.ksize_columns - v * pooling.stride_columns;
                if (static_cast<int>(__ldg(switches + (window + v))) == expected) sum += Accumulate<T>(__ldg(values + (window + v)));
            }
        }
        return T(sum);
    }

    int rows, columns, channels;
    Pooling pooling;
    Index plane, pixels, first_bit;
    const T* values;
    const S* switches;
    const unsigned char* mask = nullptr;
};

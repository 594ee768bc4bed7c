// What a convolution's sums go through before they are written. The bias of their channel is added; they are scaled and shifted, as
// by a batch normalization. Then comes a rectifier, forward or on the way back: it makes 0 of those whose bit isn't set in the mask
// that relu_mask gives, and clips the others to its limits, which may be infinite; NaN stays.
#pragma once

#include "common.cuh"
#include "layout.cuh"

template <typename T, typename Index>
struct Rectifier {
    using Sum = Accumulate<T>;

    const T *bias, *scale, *shift;  // one a channel of y, or null
    const unsigned char* mask;      // a row of whole bytes for each picture, or null where all pass
    Sum low, high;
    Index elements;  // of a picture
    int unused;      // bits at the end of a row

    __device__ __forceinline__ Rectifier(const T* bias, const T* scale, const T* shift, const unsigned char* mask, Sum low, Sum high,
                                        Index elements)
        : bias(bias), scale(scale), shift(shift), mask(mask), low(low), high(high), elements(elements),
          unused(static_cast<int>(-elements & 7)) {}

    __device__ __forceinline__ Rectifier(const T* bias, const T* scale, const T* shift, const unsigned char* mask, Sum low, Sum high,
                                        const Layout& layout)
        : Rectifier(bias, scale, shift, mask, low, high,
                   static_cast<Index>(layout.groups) * layout.outputs * layout.rows.size * layout.columns.size) {}

    // What a channel's sums are multiplied by, and what is added then.
    struct Line {
        Sum slope, offset;

        __device__ __forceinline__ Sum operator()(Sum sum) const { return sum * slope + offset; }
    };

    __device__ __forceinline__ Line line(int channel) const {
        const Sum slope = scale ? Sum(scale[channel]) : Sum(1);
        const Sum offset = bias ? Sum(bias[channel]) : Sum(0);
        return {slope, shift ? offset * slope + Sum(shift[channel]) : offset};
    }

    // The number in the whole mask of the bit of y's element `place`, which is one of `picture`.
    __device__ __forceinline__ Index bit(Index place, Index picture) const { return place + picture * unused; }

    // The bit of that number, the lowest of what is returned.
    __device__ __forceinline__ unsigned bits(Index number) const { return mask ? load(number) : 1; }

    // The bits of those numbers, `above` added; where they are `whole`, they follow the first, and N divides that.
    template <int N>
    __device__ __forceinline__ unsigned bits(const Index (&numbers)[N], Index above, int whole) const {
        if (!mask) return ~0u;
        if (whole) return load(above + numbers[0]);
        unsigned bits = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) bits |= (load(above + numbers[j]) & 1) << j;
        return bits;
    }

    // What becomes of a result, scaled and shifted, whose bit is the lowest of `bits`.
    __device__ __forceinline__ Sum operator()(Sum result, unsigned bits) const {
        const Sum passed = bits & 1 ? result : Sum(0);
        return passed < low ? low : passed > high ? high : passed;
    }

private:
    __device__ __forceinline__ unsigned load(Index number) const {
        return static_cast<unsigned>(__ldg(mask + (number >> 3))) >> static_cast<int>(number & 7);
    }
};

// What a convolution's results go through before they are written: a rectifier, forward or on the way back. It makes 0 of those
// whose bit isn't set in the mask that relu_mask gives, and clips the others to its limits, which may be infinite; NaN stays.
#pragma once

#include "common.cuh"
#include "layout.cuh"

template <typename A, typename Index>
struct Rectifier {
    const unsigned char* mask;  // a row of whole bytes for each picture, or null where all pass
    A low, high;
    Index elements;  // of a picture
    int unused;      // bits at the end of a row

    __device__ __forceinline__ Rectifier(const unsigned char* mask, A low, A high, Index elements)
        : mask(mask), low(low), high(high), elements(elements), unused(static_cast<int>(-elements & 7)) {}

    __device__ __forceinline__ Rectifier(const unsigned char* mask, A low, A high, const Layout& layout)
        : Rectifier(mask, low, high, static_cast<Index>(layout.groups) * layout.outputs * layout.rows.size * layout.columns.size) {}

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

    // What becomes of a result, whose bit is the lowest of `bits`.
    __device__ __forceinline__ A operator()(A result, unsigned bits) const {
        const A passed = bits & 1 ? result : A(0);
        return passed < low ? low : passed > high ? high : passed;
    }

private:
    __device__ __forceinline__ unsigned load(Index number) const {
        return static_cast<unsigned>(__ldg(mask + (number >> 3))) >> static_cast<int>(number & 7);
    }
};

// Occlusion: a picture repeated, each time with a window of it filled.
#include "packs.cuh"

// x and fill (channels, height, width), windows (n, 4): top, left, bottom, right; y (n, channels, height, width). The pictures
// of y lie on end, and packs may begin in one and end in the next.
template <typename T, typename Index>
__global__ void occlude(const T* __restrict__ x, const T* __restrict__ fill, const Index* __restrict__ windows,
                        T* __restrict__ y, Index count, Index size, Index height, Index width) {
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Index picture = quotient(i, size), place = i - picture * size;
        const Index line = quotient(place, width);
        Index column = place - line * width, row = line - quotient(line, height) * height;
        Pack<T, N> pack = load<N>(x + place, size - place);
        Pack<Index, 4> window = load<4>(windows + picture * 4, Index(4));
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (i + j < count) {
                const Index(&edge)[4] = window.values;
                if (row >= edge[0] && row < edge[2] && column >= edge[1] && column < edge[3]) {
                    pack.values[j] = fill[place];
                } else if (place < j) {  // the next picture has begun
                    pack.values[j] = x[place];
                }
            }
            ++place;
            if (++column == width) {
                column = 0;
                row = row + 1 == height ? 0 : row + 1;
            }
            if (place == size && i + j + 1 < count) {
                place = 0;
                window = load<4>(windows + ++picture * 4, Index(4));
            }
        }
        store(y + i, pack, count - i);
    }
}

// Max and average pooling, and the ways back. Unpooling asks for each pixel which windows reach it, so that nothing is written
// twice, sums have one order, and what follows the sum is done at once.
//
// Pictures are (planes, height, width), windows (planes, rows, columns). Where masks are read or written, the arrays count as
// `samples` rows of `count` elements, each with its own bytes of bits: (samples, (count + 7) / 8).
#include "packs.cuh"

enum Mode { SWITCH, CENTER, SPREAD };

// How windows lie along one axis of a picture. A ksize K and a stride STRIDE known when compiling save divisions and loops; 0
// leaves them to the launch.
template <typename Index, int K, int STRIDE>
struct Axis {
    Index size, windows, given_ksize, given_stride, pad;

    __device__ __forceinline__ Index ksize() const { return K ? K : given_ksize; }
    __device__ __forceinline__ Index stride() const { return STRIDE ? STRIDE : given_stride; }
    // The pixel of a window's first place; it may lie in the padding.
    __device__ __forceinline__ Index start(Index window) const { return window * stride() - pad; }
    // The first and the last window that have a pixel among their places; there are none where the first is the larger.
    __device__ __forceinline__ Index first_to_reach(Index pixel) const {
        return quotient(larger(pixel + pad - ksize() + stride(), Index(0)), stride());
    }
    __device__ __forceinline__ Index last_to_reach(Index pixel) const {
        return smaller(quotient(pixel + pad, stride()), windows - 1);
    }
    // How many of a window's places lie inside the picture.
    __device__ __forceinline__ Index inside(Index window) const {
        const Index first = start(window);
        return larger(smaller(first + ksize(), size) - larger(first, Index(0)), Index(0));
    }
};

// What an average divides by. A window wholly in the padding counts 1.
template <typename A, typename Vertical, typename Horizontal, typename Index>
__device__ __forceinline__ A places_inside(const Vertical& vertical, const Horizontal& horizontal, Index row, Index column,
                                    bool count_include_pad) {
    return static_cast<A>(count_include_pad ? vertical.ksize() * horizontal.ksize()
                                            : larger(vertical.inside(row) * horizontal.inside(column), Index(1)));
}

// The largest of what was taken. The first wins ties; a NaN wins over numbers.
template <typename A>
struct Maximum {
    A value = -infinity<A>();
    unsigned place = 0;

    __device__ __forceinline__ void take(A other, unsigned at) {
        if (!(other <= value) && value == value) {
            value = other;
            place = at;
        }
    }
};

template <typename T, typename S, typename Index, int K>
__global__ void max_pool(const T* __restrict__ x, T* __restrict__ y, S* __restrict__ switches, unsigned char* __restrict__ mask,
                         Index samples, Index count, Index height, Index width, Index rows, Index columns, Index kh, Index kw,
                         Index sh, Index sw, Index top, Index left) {
    using A = Accumulate<T>;
    const Axis<Index, K, 0> vertical{height, rows, kh, sh, top}, horizontal{width, columns, kw, sw, left};
    const Index bytes = (count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        // The threads of a block go round together, as store_bits needs it.
        for (Index first = Index(blockIdx.x) * Index(blockDim.x); first < count; first += thread_count<Index>()) {
            const Index window = first + Index(threadIdx.x);
            Maximum<A> best;
            if (window < count) {
                const Index at = sample * count + window, line = quotient(at, columns), plane = quotient(line, rows);
                const Index row = vertical.start(line - plane * rows), column = horizontal.start(at - line * columns);
                const T* picture = x + plane * height * width;
#pragma unroll (K ? K : 1)
                for (Index i = 0; i < vertical.ksize(); ++i) {
#pragma unroll
                    for (Index j = 0; j < horizontal.ksize(); ++j) {
                        if (is_within(row + i, height) && is_within(column + j, width)) {
                            const T value = picture[(row + i) * width + column + j];
                            best.take(static_cast<A>(value), static_cast<unsigned>(i * horizontal.ksize() + j));
                        }
                    }
                }
                y[at] = static_cast<T>(best.value);
                switches[at] = static_cast<S>(best.place);
            }
            if (mask) {
                store_bits<1>(mask + sample * bytes, window, best.value > 0, window < count);
            }
        }
    }
}

// Windows of 2 by 2 side by side, `columns` of them in a picture's row, a multiple of N: each thread reads 16 bytes of two rows.
template <typename T, typename Index>
__global__ void max_pool_2x2(const T* __restrict__ x, T* __restrict__ y, unsigned char* __restrict__ switches,
                             unsigned char* __restrict__ mask, Index samples, Index count, Index columns) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T> / 2;
    const Index bytes = (count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        // The threads of a block go round together, as store_bits needs it.
        for (Index first = Index(blockIdx.x) * Index(blockDim.x) * N; first < count; first += thread_count<Index>() * N) {
            const Index window = first + Index(threadIdx.x) * N;
            unsigned bits = 0;
            if (window < count) {
                const Index at = sample * count + window;
                const T* place = x + 2 * at + quotient(at, columns) * columns * 2;
                const Pack<T, 2 * N> upper = load<2 * N>(place, 2 * N), lower = load<2 * N>(place + 2 * columns, 2 * N);
                Pack<T, N> value;
                Pack<unsigned char, N> chosen;
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    Maximum<A> best;
                    best.take(static_cast<A>(upper.values[2 * j]), 0);
                    best.take(static_cast<A>(upper.values[2 * j + 1]), 1);
                    best.take(static_cast<A>(lower.values[2 * j]), 2);
                    best.take(static_cast<A>(lower.values[2 * j + 1]), 3);
                    value.values[j] = static_cast<T>(best.value);
                    chosen.values[j] = static_cast<unsigned char>(best.place);
                    bits |= static_cast<unsigned>(best.value > 0) << j;
                }
                store(y + at, value, N);
                store(switches + at, chosen, N);
            }
            if (mask) {
                store_bits<N>(mask + sample * bytes, window, bits, window < count);
            }
        }
    }
}

// Adds what windows send to the `length` pixels of a row from `column` on; their sums are those from `first` on. g and switches
// are those of the row's plane.
template <Mode MODE, int N, typename T, typename S, typename Index, int K, int STRIDE>
__device__ __forceinline__ void gather(Accumulate<T> (&sums)[N], int first, int length, const T* g, const S* switches,
                                       const Axis<Index, K, STRIDE>& vertical, const Axis<Index, K, STRIDE>& horizontal,
                                       Index row, Index column, bool count_include_pad) {
    using A = Accumulate<T>;
    // How many rows of windows reach a row, and how many windows are read at once, so that their loads are under way together.
    // Where K and STRIDE are known, the loops end when compiling.
    constexpr int REACH = K ? (K + STRIDE - 1) / STRIDE : 1, CHUNK = K ? (N + K + STRIDE - 2) / STRIDE : 4;
    const Index highest = vertical.first_to_reach(row), lowest = vertical.last_to_reach(row);
    const Index leftmost = horizontal.first_to_reach(column), rightmost = horizontal.last_to_reach(column + length - 1);
    const Index rows = K ? REACH : lowest - highest + 1;
#pragma unroll REACH
    for (Index n = 0; n < rows; ++n) {
        const Index u = highest + n, i = row - vertical.start(u);
        if (u > lowest) {
            break;
        }
        Index v = leftmost;
        do {
            A values[CHUNK];
            Index places[CHUNK];
#pragma unroll
            for (int m = 0; m < CHUNK; ++m) {
                const Index window = u * horizontal.windows + v + m;
                const bool there = v + m <= rightmost;
                values[m] = there ? static_cast<A>(g[window]) : A(0);
                places[m] = there && MODE == SWITCH ? static_cast<Index>(switches[window]) : Index(-1);
            }
#pragma unroll
            for (int m = 0; m < CHUNK; ++m) {
                Index from = horizontal.start(v + m) - column, to = from + horizontal.ksize();
                if (MODE == SPREAD) {
                    values[m] /= places_inside<A>(vertical, horizontal, u, v + m, count_include_pad);
                    from = larger(from, Index(0));
                    to = smaller(to, Index(length));
                } else {
                    const Index center = (horizontal.ksize() - 1) / 2;
                    const Index j = MODE == SWITCH ? places[m] - i * horizontal.ksize() : center;
                    const bool hit = MODE == SWITCH ? is_within(j, horizontal.ksize()) : i == (vertical.ksize() - 1) / 2;
                    from = hit && is_within(from + j, Index(length)) ? from + j : -N;
                    to = from + 1;
                }
                const int begin = first + static_cast<int>(from), end = first + static_cast<int>(to);
#pragma unroll
                for (int lane = 0; lane < N; ++lane) {
                    if (MODE == SPREAD ? lane >= begin && lane < end : lane == begin) {
                        sums[lane] += values[m];
                    }
                }
            }
            v += CHUNK;
        } while (K == 0 && v <= rightmost);
    }
}

// The adjoint of average pooling is to spread.
template <typename T, typename S, typename Index, Mode MODE, int K, int STRIDE>
__global__ void unpool(const T* __restrict__ g, const S* __restrict__ switches, const unsigned char* __restrict__ mask,
                       T* __restrict__ y, int rectify, int count_include_pad, Index samples, Index count, Index height,
                       Index width, Index rows, Index columns, Index kh, Index kw, Index sh, Index sw, Index top, Index left) {
    constexpr int N = PACK<T>;
    const Axis<Index, K, STRIDE> vertical{height, rows, kh, sh, top}, horizontal{width, columns, kw, sw, left};
    const Index bytes = (count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        for (Index pixel = thread_index<Index>() * N; pixel < count; pixel += thread_count<Index>() * N) {
            const unsigned bits = mask ? load_bits<N>(mask + sample * bytes, pixel) : ~0u;
            const int pixels = static_cast<int>(smaller(count - pixel, Index(N)));
            Accumulate<T> sums[N] = {};
            // Most packs lie in one row.
            for (int first = 0; first < pixels;) {
                const Index at = sample * count + pixel + first, line = quotient(at, width), plane = quotient(line, height);
                const Index row = line - plane * height, column = at - line * width, windows = plane * rows * columns;
                const int length = static_cast<int>(smaller(width - column, Index(pixels - first)));
                gather<MODE>(sums, first, length, g + windows, MODE == SWITCH ? switches + windows : switches, vertical,
                             horizontal, row, column, count_include_pad);
                first += length;
            }
            Pack<T, N> pack;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                pack.values[j] = static_cast<T>(reverse_relu(sums[j], bits >> j & 1, rectify));
            }
            store(y + sample * count + pixel, pack, count - pixel);
        }
    }
}

// As for max_pool_2x2; count is that of a sample's windows.
template <typename T, typename Index, Mode MODE>
__global__ void unpool_2x2(const T* __restrict__ g, const unsigned char* __restrict__ switches,
                           const unsigned char* __restrict__ mask, T* __restrict__ y, int rectify, Index samples, Index count,
                           Index columns) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T> / 2;
    const Index bytes = (4 * count + 7) / 8;
    for (Index sample = blockIdx.y; sample < samples; sample += gridDim.y) {
        for (Index window = thread_index<Index>() * N; window < count; window += thread_count<Index>() * N) {
            const Pack<T, N> signal = load<N>(g + sample * count + window, N);
            Pack<unsigned char, N> chosen{};  // a window's centre is its first place
            if (MODE == SWITCH) {
                chosen = load<N>(switches + sample * count + window, N);
            }
            const Index upper = 2 * window + quotient(window, columns) * columns * 2;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const Index pixel = upper + i * columns * 2;
                const unsigned bits = mask ? load_bits<2 * N>(mask + sample * bytes, pixel) : ~0u;
                Pack<T, 2 * N> pack;
#pragma unroll
                for (int j = 0; j < 2 * N; ++j) {
                    A value = static_cast<A>(signal.values[j / 2]);
                    if (MODE == SPREAD) {
                        value /= 4;
                    } else if (2 * i + j % 2 != chosen.values[j / 2]) {
                        value = 0;
                    }
                    pack.values[j] = static_cast<T>(reverse_relu(value, bits >> j & 1, rectify));
                }
                store(y + sample * count * 4 + pixel, pack, 2 * N);
            }
        }
    }
}

template <typename T, typename Index, int K>
__global__ void average_pool(const T* __restrict__ x, T* __restrict__ y, int count_include_pad, Index count, Index height,
                             Index width, Index rows, Index columns, Index kh, Index kw, Index sh, Index sw, Index top,
                             Index left) {
    using A = Accumulate<T>;
    const Axis<Index, K, 0> vertical{height, rows, kh, sh, top}, horizontal{width, columns, kw, sw, left};
    for (Index at = thread_index<Index>(); at < count; at += thread_count<Index>()) {
        const Index line = quotient(at, columns), plane = quotient(line, rows), u = line - plane * rows, v = at - line * columns;
        const Index row = vertical.start(u), column = horizontal.start(v);
        const T* picture = x + plane * height * width;
        A sum = 0;
#pragma unroll
        for (Index i = 0; i < vertical.ksize(); ++i) {
#pragma unroll
            for (Index j = 0; j < horizontal.ksize(); ++j) {
                if (is_within(row + i, height) && is_within(column + j, width)) {
                    sum += static_cast<A>(picture[(row + i) * width + column + j]);
                }
            }
        }
        y[at] = static_cast<T>(sum / places_inside<A>(vertical, horizontal, u, v, count_include_pad));
    }
}

// x (planes, pixels) to y (planes,). blockDim.x threads, whole warps, share a plane; blockDim.y planes share a block.
template <typename T, typename Index>
__global__ void global_average_pool(const T* __restrict__ x, T* __restrict__ y, Index planes, Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>, WARP = 32;
    __shared__ A partial[WARP];  // of the warps of a block that has one plane
    const int warp = static_cast<int>(threadIdx.x) / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
    const int warps = static_cast<int>(blockDim.x) / WARP;
    for (Index first = Index(blockIdx.x) * Index(blockDim.y); first < planes; first += Index(gridDim.x) * Index(blockDim.y)) {
        const Index plane = first + Index(threadIdx.y);
        A sum = 0;
        if (plane < planes) {
            for (Index i = Index(threadIdx.x) * N; i < pixels; i += Index(blockDim.x) * N) {
                const Pack<T, N> pack = load<N>(x + plane * pixels + i, pixels - i);
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    sum += static_cast<A>(pack.values[j]);
                }
            }
        }
#pragma unroll
        for (int step = WARP / 2; step > 0; step /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        }
        if (warps > 1) {
            if (lane == 0) {
                partial[warp] = sum;
            }
            __syncthreads();
            sum = 0;
            for (int other = 0; other < warps; ++other) {
                sum += partial[other];
            }
            __syncthreads();  // before the next plane's sums are written
        }
        if (plane < planes && threadIdx.x == 0) {
            y[plane] = static_cast<T>(sum / static_cast<A>(pixels));
        }
    }
}

// g (planes,) to y (planes, pixels), which has `count` elements.
template <typename T, typename Index>
__global__ void global_average_pool_adjoint(const T* __restrict__ g, T* __restrict__ y, Index count, Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Index plane = quotient(i, pixels), pixel = i - plane * pixels;
        A share = static_cast<A>(g[plane]) / static_cast<A>(pixels);
        Pack<T, N> pack;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            pack.values[j] = static_cast<T>(share);
            if (++pixel == pixels && i + j + 1 < count) {
                pixel = 0;
                share = static_cast<A>(g[++plane]) / static_cast<A>(pixels);
            }
        }
        store(y + i, pack, count - i);
    }
}

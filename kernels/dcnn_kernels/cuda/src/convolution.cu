// Convolution and transposed convolution; layout.cuh says how one sum serves for both. Three ways to it:
//   implicit_gemm  a matrix product, filters times windows, that gathers the windows while it runs
//   few_outputs    at most four output channels of a group: to pixels, and depthwise
//   few_terms      short sums: from pixels, and from one channel of a signal
#include "common.cuh"
#include "layout.cuh"
#include "mma.cuh"
#include "rectifier.cuh"
#include "signal.cuh"

// How the matrix product multiplies. A word holds DEPTH elements that follow along k, a line LINE words that follow along k, so
// that a lane finds side by side in shared memory what it needs. Of every 32 x 32 of the product a lane owns 4 rows, row(lane, i),
// and 2 times 4 columns, 16 p + 4 (lane % 4) + j, so that it writes its results 16 bytes at a time.
template <typename T, int M, int N>
using Sums = T[M][4][2 * N][4];

template <typename T>
struct Exact {
    using Element = T;
    using Word = T;
    using Sum = T;
    static constexpr int DEPTH = 1, LINE = 1;

    __device__ __forceinline__ static Word word(const Element (&values)[1]) { return values[0]; }
    __device__ __forceinline__ static int row(int lane, int i) { return lane / 4 * 4 + i; }
    // Which output's word lies at a place of a line of filters, and which of the line's words it is.
    __device__ __forceinline__ static int output_at(int place) { return place; }
    __device__ __forceinline__ static int word_at(int) { return 0; }

    template <int LINES, int M, int N, int A, int B>
    __device__ __forceinline__ static void multiply(const Word (&a)[LINES][A], const Word (&b)[LINES][B], int row, int column,
                                                    int lane, Sums<Sum, M, N>& sums) {
        using Words = Pack<Word, 4>;
#pragma unroll(sizeof(T) == 4 ? 2 : 1)
        for (int k = 0; k < LINES; ++k) {
            Words left[M], right[2 * N];
#pragma unroll
            for (int m = 0; m < M; ++m) left[m] = *reinterpret_cast<const Words*>(&a[k][row + 32 * m + lane / 4 * 4]);
#pragma unroll
            for (int p = 0; p < 2 * N; ++p) right[p] = *reinterpret_cast<const Words*>(&b[k][column + 16 * p + lane % 4 * 4]);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int p = 0; p < 2 * N; ++p)
#pragma unroll
                        for (int j = 0; j < 4; ++j) sums[m][i][p][j] += left[m].values[i] * right[p].values[j];
        }
    }
};

// On tensor cores it is free to choose which word along k, which row and which column of a tile makes which of the instruction's.
// As chosen here a lane finds its four registers of A, and those of B for two instructions, in one access of 16 bytes, without
// bank conflicts where lines are 8 words (mod 32) apart.
template <typename Instruction>
struct TensorCores : Instruction {
    using Word = unsigned;
    using Sum = float;
    static constexpr int LINE = 2;

    __device__ __forceinline__ static int row(int lane, int i) { return i / 2 * 16 + lane / 4 * 2 + i % 2; }
    __device__ __forceinline__ static int output_at(int place) { return place / 4 * 2 + place % 2; }
    __device__ __forceinline__ static int word_at(int place) { return place / 2 % 2; }

    template <int LINES, int M, int N, int A, int B>
    __device__ __forceinline__ static void multiply(const Word (&a)[LINES][A], const Word (&b)[LINES][B], int row, int column,
                                                    int lane, Sums<Sum, M, N>& sums) {
        static_assert(A % 32 == 8 && B % 32 == 8, "lines must be 8 words apart, modulo the 32 banks");
        using Words = Pack<Word, 4>;
#pragma unroll
        for (int line = 0; line < LINES; line += 4) {
            Words left[M][2], right[2 * N];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < 2; ++n)
                    left[m][n] = *reinterpret_cast<const Words*>(&a[line + lane % 4][2 * (row + 32 * m + 16 * n) + lane / 4 * 4]);
#pragma unroll
            for (int p = 0; p < 2 * N; ++p)
                right[p] = *reinterpret_cast<const Words*>(&b[line + lane % 4][2 * (column + 16 * p) + lane / 4 * 4]);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int i = 0; i < 4; i += 2)
#pragma unroll
                    for (int p = 0; p < 2 * N; ++p)
#pragma unroll
                        for (int j = 0; j < 2; ++j) {
                            const unsigned r[2] = {right[p].values[2 * j], right[p].values[2 * j + 1]};
                            float d[4] = {sums[m][i][p][j], sums[m][i][p][j + 2], sums[m][i + 1][p][j], sums[m][i + 1][p][j + 2]};
                            Instruction::mma(d, left[m][i / 2].values, r);
                            sums[m][i][p][j] = d[0];
                            sums[m][i][p][j + 2] = d[1];
                            sums[m][i + 1][p][j] = d[2];
                            sums[m][i + 1][p][j + 2] = d[3];
                        }
        }
    }
};

struct Tf32Instruction {
    using Element = float;
    static constexpr int DEPTH = 1;
    __device__ __forceinline__ static unsigned word(const float (&values)[1]) { return tf32_bits(values[0]); }
    __device__ __forceinline__ static void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        mma_m16n8k8_tf32(d, a, b);
    }
};
using TensorFloat32 = TensorCores<Tf32Instruction>;

struct HalfInstruction {
    using Element = __half;
    static constexpr int DEPTH = 2;
    __device__ __forceinline__ static unsigned word(const __half (&values)[2]) {
        return __half_as_ushort(values[0]) | static_cast<unsigned>(__half_as_ushort(values[1])) << 16;
    }
    __device__ __forceinline__ static void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        mma_m16n8k16_f16(d, a, b);
    }
};
using Half = TensorCores<HalfInstruction>;

// A block's part of the product: its warps side by side, each with 32 WARP_M rows and 32 WARP_N columns; K words at a time.
template <int WARPS_M, int WARPS_N, int WARP_M_, int WARP_N_, int K_>
struct Tile {
    static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_, K = K_;
    static constexpr int ROW_WARPS = WARPS_M;
    static constexpr int M = WARPS_M * 32 * WARP_M, N = WARPS_N * 32 * WARP_N, THREADS = WARPS_M * WARPS_N * 32;
};

// The rows of the product's windows: unit after unit, each a tap of CHANNELS channels, padded with zeros; all taps of some
// channels follow one another, so that they find them in the cache.
struct Unit {
    int channel, i, j;
    bool exists;

    __device__ __forceinline__ Unit(const Layout& layout, int number, int channels) {
        const int block = layout.by_taps.quotient(number);
        const int tap = number - block * layout.taps();
        channel = block * channels;
        i = layout.by_tap_columns.quotient(tap);
        j = tap - i * layout.columns.taps;
        exists = channel < layout.channels;
    }
};

// Which pixel's window is the product's column of this number, and so whose results a lane gets there. Where pixels can't be written
// in packs, a lane's four columns stand for pixels four apart: so what lanes write together lies together.
__device__ __forceinline__ int pixel_of(int column, int whole) {
    return whole ? column : column / 16 * 16 + column % 4 * 4 + column / 4 % 4;
}

// Brings one tile of windows after another from global memory through registers to shared memory. Each thread gathers the
// windows of one pixel, LINE words of each of its lines.
template <int CHANNELS_>
struct Gathered {
    static constexpr int CHANNELS = CHANNELS_;

    template <typename Math, typename Source, typename Tile, typename Index>
    class Loader {
        using Element = typename Math::Element;
        using Word = typename Math::Word;
        static constexpr int LINE = Math::LINE, DEPTH = Math::DEPTH, LANES = Tile::THREADS / Tile::N;
        static constexpr int LINES = Tile::K / LINE / LANES;     // of a thread
        static constexpr int UNITS = Tile::K * DEPTH / CHANNELS;  // of a tile
        static_assert(LANES * LINE * DEPTH <= CHANNELS && UNITS * CHANNELS == Tile::K * DEPTH, "threads must move on together");

    public:
        __device__ __forceinline__ Loader(const Arrays<Element, typename Source::Switch>& arrays, const Layout& layout, int group,
                                          Index first, Index pixels, int whole)
            : Loader(arrays, layout, group, first + pixel_of(place(), whole), pixels) {}

        __device__ __forceinline__ void load(int tile) {
#pragma unroll
            for (int n = 0; n < LINES; ++n) {
                const int k = n * LANES * LINE * DEPTH, unit = k / CHANNELS;
                if (k % CHANNELS == 0) {
                    const Unit next(layout, tile * UNITS + unit, CHANNELS);
                    places[unit] = source.at(row + next.i * layout.rows.dilate, column + next.j * layout.columns.dilate);
                    channels[unit] = next.channel + lane() * LINE * DEPTH;
                }
#pragma unroll
                for (int e = 0; e < LINE * DEPTH; ++e)
                    fetched[n][e] = source.fetch(places[unit], channels[unit] + k % CHANNELS + e);
            }
        }

        template <int WIDTH>
        __device__ __forceinline__ void store(Word (&windows)[Tile::K / LINE][WIDTH]) const {
#pragma unroll
            for (int n = 0; n < LINES; ++n) {
                const int k = n * LANES * LINE * DEPTH, unit = k / CHANNELS;
                Pack<Word, LINE> words;
#pragma unroll
                for (int l = 0; l < LINE; ++l) {
                    Element values[DEPTH];
#pragma unroll
                    for (int d = 0; d < DEPTH; ++d) {
                        const int e = l * DEPTH + d;
                        values[d] = source.value(fetched[n][e], places[unit], channels[unit] + k % CHANNELS + e);
                    }
                    words.values[l] = Math::word(values);
                }
                *reinterpret_cast<Pack<Word, LINE>*>(&windows[n * LANES + lane()][place() * LINE]) = words;
            }
        }

    private:
        __device__ __forceinline__ Loader(const Arrays<Element, typename Source::Switch>& arrays, const Layout& layout, int group,
                                          Index pixel, Index pixels)
            : Loader(arrays, layout, group, Pixel<Index>(layout, min(pixel, pixels - 1)), pixel < pixels) {}

        __device__ __forceinline__ Loader(const Arrays<Element, typename Source::Switch>& arrays, const Layout& layout, int group,
                                          const Pixel<Index>& pixel, bool exists)
            : layout(layout), row(exists ? pixel.row * layout.rows.stride + layout.rows.offset : -(1 << 30)),
              column(pixel.column * layout.columns.stride + layout.columns.offset), source(arrays, layout, pixel.picture, group) {}

        __device__ __forceinline__ static int place() { return threadIdx.x % Tile::N; }
        __device__ __forceinline__ static int lane() { return threadIdx.x / Tile::N; }

        const Layout& layout;
        int row, column;  // of the source, under the window's first tap; out of sight where there is no pixel
        Source source;
        typename Source::Place places[UNITS];
        int channels[UNITS];
        typename Source::Fetched fetched[LINES][LINE * DEPTH];
    };
};

// The same where a window is a pixel and follows the one before it in memory, as results do: each thread takes four at a time.
template <int CHANNELS_>
struct Contiguous {
    static constexpr int CHANNELS = CHANNELS_;

    template <typename Math, typename Source, typename Tile, typename Index>
    class Loader {
        using Element = typename Math::Element;
        using Word = typename Math::Word;
        static constexpr int LINE = Math::LINE, DEPTH = Math::DEPTH, LANES = Tile::THREADS / (Tile::N / 4);
        static constexpr int LINES = Tile::K / LINE / LANES;
        static_assert(LINES * LANES * LINE == Tile::K, "a tile must have lines for all threads");

    public:
        __device__ __forceinline__ Loader(const Arrays<Element, typename Source::Switch>& arrays, const Layout& layout, int group,
                                          Index first, Index pixels, int)
            : channels(layout.channels), place(threadIdx.x % (Tile::N / 4) * 4), lane(threadIdx.x / (Tile::N / 4)),
              exists(first + place < pixels), plane(static_cast<Index>(layout.rows.source) * layout.columns.source) {
            const Index pixel = exists ? first + place : 0, picture = pixel / plane;
            values = arrays.values + (picture * layout.groups + group) * channels * plane + (pixel - picture * plane);
        }

        __device__ __forceinline__ void load(int tile) {
#pragma unroll
            for (int n = 0; n < LINES; ++n)
#pragma unroll
                for (int e = 0; e < LINE * DEPTH; ++e) {
                    const int channel = (tile * (Tile::K / LINE) + n * LANES + lane) * LINE * DEPTH + e;
                    loaded[n][e] = Pack<Element, 4>{};
                    if (exists && channel < channels)
                        loaded[n][e] = *reinterpret_cast<const Pack<Element, 4>*>(values + channel * plane);
                }
        }

        template <int WIDTH>
        __device__ __forceinline__ void store(Word (&windows)[Tile::K / LINE][WIDTH]) const {
#pragma unroll
            for (int n = 0; n < LINES; ++n) {
                Pack<Word, 4 * LINE> words;
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int l = 0; l < LINE; ++l) {
                        Element values[DEPTH];
#pragma unroll
                        for (int d = 0; d < DEPTH; ++d) values[d] = loaded[n][l * DEPTH + d].values[j];
                        words.values[j * LINE + l] = Math::word(values);
                    }
                *reinterpret_cast<Pack<Word, 4 * LINE>*>(&windows[n * LANES + lane][place * LINE]) = words;
            }
        }

    private:
        int channels, place, lane;
        bool exists;
        Index plane;
        const Element* values;
        Pack<Element, 4> loaded[LINES][LINE * DEPTH];
    };
};

// Writes the filters as the product's left matrix, line by line with k in the order of Unit, zeros where padded. A block takes
// CHANNELS channels of some outputs through all taps. W is read along its memory and lines are written along theirs, which run
// across; between the two the filters lie in shared memory.
template <typename Math, int CHANNELS>
__global__ void __launch_bounds__(256)
    pack_filters(const typename Math::Element* W, Layout layout, typename Math::Word* filters, int units, int width) {
    using Element = typename Math::Element;
    constexpr int OUTPUTS = 32, TAPS = 9, DEPTH = Math::DEPTH, LINE = Math::LINE, WORDS = CHANNELS / DEPTH;
    // From output to output an odd multiple of LINE words, so that lanes that read a line use different banks.
    __shared__ Element tile[OUTPUTS][((WORDS * TAPS + LINE - 1) / LINE | 1) * LINE * DEPTH];

    const int blocks = (layout.channels + CHANNELS - 1) / CHANNELS, parts = width / OUTPUTS, taps = layout.taps();
    const bool by_output = layout.output_stride > layout.channel_stride;  // an output's channels lie side by side
    const int rows = by_output ? OUTPUTS : CHANNELS, columns = by_output ? CHANNELS : OUTPUTS;
    const long long count = static_cast<long long>(layout.groups) * blocks * parts;
    for (long long n = blockIdx.x; n < count; n += gridDim.x) {
        const int first_output = static_cast<int>(n % parts) * OUTPUTS, block = static_cast<int>(n / parts % blocks);
        const int group = static_cast<int>(n / parts / blocks), first_unit = block * taps;
        // The last block also writes the zeros after the last tap.
        const int end = block == blocks - 1 ? units - first_unit : taps;
        for (int first = 0; first < end; first += TAPS) {
            const int here = max(0, min(TAPS, taps - first));
            for (int row = threadIdx.x / 32; row < rows; row += blockDim.x / 32)
                for (int e = threadIdx.x % 32; e < columns * here; e += 32) {
                    const int column = here == taps ? layout.by_taps.quotient(e) : e / here, tap = first + e - column * here;
                    const int i = layout.by_tap_columns.quotient(tap), j = tap - i * layout.columns.taps;
                    const int m = by_output ? row : column, c = by_output ? column : row;
                    const int output = first_output + m, channel = block * CHANNELS + c;
                    const bool exists = output < layout.outputs && channel < layout.channels;
                    tile[m][c * here + tap - first] = exists ? W[layout.weight(group, output, channel, i, j)] : Element(0.0f);
                }
            __syncthreads();
            for (int e = threadIdx.x; e < min(TAPS, end - first) * WORDS * OUTPUTS; e += blockDim.x) {
                const int place = e % (LINE * OUTPUTS), line = e / (LINE * OUTPUTS) % (WORDS / LINE), tap = e / (WORDS * OUTPUTS);
                const int channel = (line * LINE + Math::word_at(place)) * DEPTH;
                Element values[DEPTH];
#pragma unroll
                for (int d = 0; d < DEPTH; ++d)
                    values[d] = tap < here ? tile[Math::output_at(place)][(channel + d) * here + tap] : Element(0.0f);
                const long long unit = static_cast<long long>(group) * units + first_unit + first + tap;
                filters[(unit * (WORDS / LINE) + line) * LINE * width + LINE * first_output + place] = Math::word(values);
            }
            __syncthreads();
        }
    }
}

// Blocks that a multiprocessor is to have room for: 512 threads at 128 registers each, or fewer where each takes more.
template <typename Math, typename Source, typename Tile, typename Index>
struct Resident {
    static constexpr bool WIDE = sizeof(typename Math::Word) == 8 || sizeof(Index) == 8 || Tile::WARP_N > 1;
    static constexpr int BLOCKS = (WIDE ? 256 : Source::POOLED && Tile::THREADS == 128 ? 384 : 512) / Tile::THREADS;
};

// N pixels to which a thread writes results of one channel after the other. Where they are `whole`, they follow one another, in
// memory too, as an aligned pack; otherwise they are STEP apart.
template <int N, int STEP, typename Index>
struct Targets {
    Index plane;
    Index places[N], bits[N];  // in y and in the rectifier's mask, of channel 0
    Index left;                // pixels from the first one on: there may be too few, or none
    int whole;

    template <typename T>
    __device__ __forceinline__ Targets(const Layout& layout, const Rectifier<T, Index>& rectifier, Index first, Index pixels,
                                       int whole)
        : plane(static_cast<Index>(layout.rows.size) * layout.columns.size), left(pixels - first), whole(whole) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const Pixel<Index> at(layout, min(whole ? first : first + j * STEP, pixels - 1));
            places[j] = at.place(layout);
            bits[j] = rectifier.bit(places[j], at.picture);
        }
    }

    // Writes results of a channel, scaled and shifted, after the rectifier.
    template <typename T, typename Out>
    __device__ __forceinline__ void write(int channel, const Accumulate<T> (&results)[N], const Rectifier<T, Index>& rectifier,
                                          Out* y) const {
        if (left <= 0) return;
        const Index above = channel * plane;
        const unsigned passed = rectifier.bits(bits, above, whole);
        Pack<Out, N> rectified;
#pragma unroll
        for (int j = 0; j < N; ++j) rectified.values[j] = Out(rectifier(results[j], passed >> j));
        if (whole) {
            *reinterpret_cast<Pack<Out, N>*>(y + above + places[0]) = rectified;
        } else {
#pragma unroll
            for (int j = 0; j < N; ++j)
                if (j * STEP < left) y[above + places[j]] = rectified.values[j];
        }
    }
};

// One tile of the product a block. With several splits each sums a part of k, to be added up by sum_splits.
//   filters  of pack_filters, (groups, tiles * Tile::K, width)
//   y        (splits, batch, groups * outputs, rows, columns)
//   whole    whether y's rows follow one another and four pixels at a time are aligned
//   bias...  all that follows is the rectifier's; with several splits it must be idle
template <typename Math, typename Source, typename Tile, typename Windows, typename Out, typename Index>
__global__ void __launch_bounds__(Tile::THREADS, (Resident<Math, Source, Tile, Index>::BLOCKS))
    implicit_gemm(const typename Math::Element* x, const typename Source::Switch* switches, const unsigned char* mask, Layout layout,
                  const typename Math::Word* filters, Out* y, Index pixels, int width, int tiles, int splits, int whole,
                  const typename Math::Element* bias, const typename Math::Element* scale, const typename Math::Element* shift,
                  const unsigned char* gate, typename Math::Sum low, typename Math::Sum high) {
    using Word = typename Math::Word;
    constexpr int M = Tile::M, N = Tile::N, LINE = Math::LINE, LINES = Tile::K / LINE;
    constexpr int SIXTEEN = 16 / sizeof(Word);  // words in 16 bytes
    constexpr int LANES = Tile::THREADS * 4 / (M * LINE);  // lines of filters that the block brings at a time
    alignas(32) __shared__ Word left[2][LINES][M * LINE + 8];
    alignas(32) __shared__ Word right[2][LINES][N * LINE + 8];

    // Blocks that share windows run side by side.
    const int row_tiles = width / M, column_tiles = static_cast<int>((pixels + N - 1) / N);
    int block = static_cast<int>(blockIdx.x);
    const int first_row = block % row_tiles * M;
    block /= row_tiles;
    const Index first_pixel = static_cast<Index>(block % column_tiles) * N;
    block /= column_tiles;
    const int split = block % splits, group = block / splits;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / splits);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp % Tile::ROW_WARPS * 32 * Tile::WARP_M, column = warp / Tile::ROW_WARPS * 32 * Tile::WARP_N;
    typename Windows::template Loader<Math, Source, Tile, Index> windows({x, switches, mask}, layout, group, first_pixel, pixels,
                                                                          whole);
    // Each thread brings four words of every LANES-th line of the filters.
    const int line = threadIdx.x / (M * LINE / 4), word = threadIdx.x % (M * LINE / 4) * 4;
    filters += ((static_cast<long long>(group) * tiles + begin) * LINES + line) * LINE * width + first_row * LINE + word;

    const auto load = [&](int tile, int buffer) {
        windows.load(tile);
#pragma unroll
        for (int n = 0; n < LINES; n += LANES)
#pragma unroll
            for (int w = 0; w < 4; w += SIXTEEN)
                if (LINES % LANES == 0 || n + line < LINES) copy_async<16>(&left[buffer][n + line][word + w], filters + n * LINE * width + w);
        copy_async_commit();
        filters += Tile::K * width;
    };
    const auto store = [&](int buffer) {
        windows.store(right[buffer]);
        copy_async_wait<0>();
    };

    Sums<typename Math::Sum, Tile::WARP_M, Tile::WARP_N> sums = {};
    if (begin < end) {
        load(begin, 0);
        store(0);
        __syncthreads();
        for (int tile = begin; tile < end; ++tile) {
            const int buffer = (tile - begin) % 2;
            if (tile + 1 < end) load(tile + 1, 1 - buffer);  // in flight while this tile is multiplied
            Math::template multiply<LINES, Tile::WARP_M, Tile::WARP_N>(left[buffer], right[buffer], row, column, lane, sums);
            if (tile + 1 < end) store(1 - buffer);
            __syncthreads();
        }
    }

    const Rectifier<typename Math::Element, Index> rectifier(bias, scale, shift, gate, low, high, layout);
    y += split * (pixels / (static_cast<Index>(layout.rows.outputs) * layout.columns.outputs)) * rectifier.elements;
    // In a loop of its own: together with the targets it would take more registers.
#pragma unroll
    for (int m = 0; m < Tile::WARP_M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int output = min(first_row + row + 32 * m + Math::row(lane, i), layout.outputs - 1);
            const auto line = rectifier.line(group * layout.outputs + output);
#pragma unroll
            for (int p = 0; p < 2 * Tile::WARP_N; ++p)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[m][i][p][j] = line(sums[m][i][p][j]);
        }
    // 32 columns at a time.
#pragma unroll
    for (int n = 0; n < Tile::WARP_N; ++n) {
        const Index pixel = first_pixel + column + 32 * n + pixel_of(lane % 4 * 4, whole);
        const Targets<4, 4, Index> targets[2] = {{layout, rectifier, pixel, pixels, whole},
                                                 {layout, rectifier, pixel + 16, pixels, whole}};
#pragma unroll
        for (int m = 0; m < Tile::WARP_M; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int output = first_row + row + 32 * m + Math::row(lane, i);
                if (output >= layout.outputs) continue;
#pragma unroll
                for (int p = 0; p < 2; ++p) targets[p].write(group * layout.outputs + output, sums[m][i][2 * n + p], rectifier, y);
            }
    }
}

// Adds up what the splits of implicit_gemm summed, always in the same order, and rectifies that. One split that is
// y itself may be what another library made.
//   plane, elements  of a channel and of a picture
template <typename Part, typename T, typename Index>
__global__ void __launch_bounds__(256)
    sum_splits(const Part* parts, T* y, int splits, Index size, Index plane, Index elements, const T* bias, const T* scale,
               const T* shift, const unsigned char* gate, Accumulate<T> low, Accumulate<T> high) {
    using Sum = Accumulate<T>;
    const Rectifier<T, Index> rectifier(bias, scale, shift, gate, low, high, elements);
    for (Index n = thread_index<Index>(); n < size; n += thread_count<Index>()) {
        Sum sum = Sum(parts[n]);
        for (int split = 1; split < splits; ++split) sum += Sum(parts[split * size + n]);
        const Index picture = n / elements;
        const auto line = rectifier.line(static_cast<int>((n - picture * elements) / plane));
        y[n] = T(rectifier(line(sum), rectifier.bits(rectifier.bit(n, picture))));
    }
}

// A thread's pixels where it has PIXELS of a channel, one above the other; the threads of a block follow one another along rows.
template <int PIXELS, typename Index>
struct Strip {
    int u, v, group;
    Index picture;

    // Of `number` < batch * groups * strips of rows * columns.
    __device__ __forceinline__ Strip(const Layout& layout, Index number) {
        const int strips = (layout.rows.outputs + PIXELS - 1) / PIXELS;
        v = static_cast<int>(number % layout.columns.outputs);
        number /= layout.columns.outputs;
        u = static_cast<int>(number % strips) * PIXELS;
        number /= strips;
        group = static_cast<int>(number % layout.groups);
        picture = number / layout.groups;
    }

    // Writes the sums of the group's output m.
    template <typename T>
    __device__ __forceinline__ void write(const Layout& layout, int m, const Accumulate<T> (&sums)[PIXELS],
                                          const Rectifier<T, Index>& rectifier, T* y) const {
        const Index plane = static_cast<Index>(layout.rows.size) * layout.columns.size;
        const int channel = group * layout.outputs + m;
        const auto line = rectifier.line(channel);
        const Index first = (picture * layout.groups * layout.outputs + channel) * plane + layout.columns.pixel(v);
#pragma unroll
        for (int p = 0; p < PIXELS; ++p)
            if (u + p < layout.rows.outputs) {
                const Index place = first + static_cast<Index>(layout.rows.pixel(u + p)) * layout.columns.size;
                y[place] = T(rectifier(line(sums[p]), rectifier.bits(rectifier.bit(place, picture))));
            }
    }
};

// A thread sums for the group's OUTPUTS channels of PIXELS pixels: what it reads of W serves all these pixels, and what it reads
// of the source all these channels.
template <typename Source, int OUTPUTS, int PIXELS, typename Index>
__global__ void __launch_bounds__(256, 2)
    few_outputs(const typename Source::Element* x, const typename Source::Switch* switches, const unsigned char* mask, Layout layout,
                const typename Source::Element* W, typename Source::Element* y, Index count, const typename Source::Element* bias,
                const typename Source::Element* scale, const typename Source::Element* shift, const unsigned char* gate,
                Accumulate<typename Source::Element> low, Accumulate<typename Source::Element> high) {
    using T = typename Source::Element;
    constexpr int CHANNELS = 8;
    if (thread_index<Index>() >= count) return;
    const Strip<PIXELS, Index> strip(layout, thread_index<Index>());
    const Source source({x, switches, mask}, layout, strip.picture, strip.group);
    Accumulate<T> sums[OUTPUTS][PIXELS] = {};
    // A few channels at a time, so that all taps find them in the cache.
    for (int block = 0; block < layout.channels; block += CHANNELS) {
        const int end = min(block + CHANNELS, layout.channels);
        for (int i = 0; i < layout.rows.taps; ++i)
            for (int j = 0; j < layout.columns.taps; ++j) {
                typename Source::Place places[PIXELS];
#pragma unroll
                for (int p = 0; p < PIXELS; ++p)
                    places[p] = source.at((strip.u + p) * layout.rows.stride + i * layout.rows.dilate + layout.rows.offset,
                                          strip.v * layout.columns.stride + j * layout.columns.dilate + layout.columns.offset);
                const T* weight = W + layout.weight(strip.group, 0, block, i, j);
                for (int channel = block; channel < end; ++channel, weight += layout.channel_stride) {
                    T values[PIXELS];
#pragma unroll
                    for (int p = 0; p < PIXELS; ++p) values[p] = source.value(source.fetch(places[p], channel), places[p], channel);
#pragma unroll
                    for (int m = 0; m < OUTPUTS; ++m) {
                        const Accumulate<T> factor = Accumulate<T>(weight[m * layout.output_stride]);
#pragma unroll
                        for (int p = 0; p < PIXELS; ++p) sums[m][p] += factor * Accumulate<T>(values[p]);
                    }
                }
            }
    }
    const Rectifier<T, Index> rectifier(bias, scale, shift, gate, low, high, layout);
#pragma unroll
    for (int m = 0; m < OUTPUTS; ++m) strip.write(layout, m, sums[m], rectifier, y);
}

// Groups of one channel and one output, ROWS x COLUMNS taps that lie side by side: each value read serves all of a thread's
// PIXELS pixels that see it.
template <typename Source, int ROWS, int COLUMNS, int STRIDE, int PIXELS, typename Index>
__global__ void __launch_bounds__(256, 2)
    depthwise(const typename Source::Element* x, const typename Source::Switch* switches, const unsigned char* mask, Layout layout,
              const typename Source::Element* W, typename Source::Element* y, Index count, const typename Source::Element* bias,
              const typename Source::Element* scale, const typename Source::Element* shift, const unsigned char* gate,
              Accumulate<typename Source::Element> low, Accumulate<typename Source::Element> high) {
    using T = typename Source::Element;
    if (thread_index<Index>() >= count) return;
    const Strip<PIXELS, Index> strip(layout, thread_index<Index>());
    const Source source({x, switches, mask}, layout, strip.picture, strip.group);
    Accumulate<T> weights[ROWS][COLUMNS], sums[PIXELS] = {};
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) weights[i][j] = Accumulate<T>(W[layout.weight(strip.group, 0, 0, i, j)]);
    const int top = strip.u * STRIDE + layout.rows.offset, left = strip.v * layout.columns.stride + layout.columns.offset;
#pragma unroll
    for (int row = 0; row < (PIXELS - 1) * STRIDE + ROWS; ++row)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const typename Source::Place place = source.at(top + row, left + j);
            const Accumulate<T> value = Accumulate<T>(source.value(source.fetch(place, 0), place, 0));
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                const int i = row - p * STRIDE;
                if (i >= 0 && i < ROWS) sums[p] += weights[i][j] * value;
            }
        }
    const Rectifier<T, Index> rectifier(bias, scale, shift, gate, low, high, layout);
    strip.write(layout, 0, sums, rectifier, y);
}

// Reads all TERMS of a few pixels' sums once, then makes OUTPUTS channels of them, one after the other, with the filters in
// shared memory, where they are scaled already. `whole` as in implicit_gemm, for PIXELS pixels at a time.
template <typename Source, int TERMS, int PIXELS, typename Index>
__global__ void __launch_bounds__(128)
    few_terms(const typename Source::Element* x, const typename Source::Switch* switches, const unsigned char* mask, Layout layout,
              const typename Source::Element* W, typename Source::Element* y, Index pixels, int whole,
              const typename Source::Element* bias, const typename Source::Element* scale, const typename Source::Element* shift,
              const unsigned char* gate, Accumulate<typename Source::Element> low, Accumulate<typename Source::Element> high) {
    using T = typename Source::Element;
    using Sum = Accumulate<T>;
    constexpr int OUTPUTS = 32;
    static_assert(TERMS % 4 == 0, "filters are read four terms at a time");
    alignas(32) __shared__ Sum filters[OUTPUTS][TERMS];
    __shared__ Sum offsets[OUTPUTS];

    const int parts = (layout.outputs + OUTPUTS - 1) / OUTPUTS;
    const int part = static_cast<int>(blockIdx.x % parts), group = static_cast<int>(blockIdx.x / parts % layout.groups);
    const Index first = (static_cast<Index>(blockIdx.x / parts / layout.groups) * blockDim.x + threadIdx.x) * PIXELS;
    const int begin = part * OUTPUTS, outputs = min(OUTPUTS, layout.outputs - begin);
    const int taps = layout.taps(), channels = taps ? layout.channels : 0;
    const Rectifier<T, Index> rectifier(bias, scale, shift, gate, low, high, layout);
    for (int n = threadIdx.x; n < outputs * TERMS; n += blockDim.x) {
        const int m = n / TERMS, term = n % TERMS, channel = layout.by_taps.quotient(term), tap = term - channel * taps;
        const int i = layout.by_tap_columns.quotient(tap), j = tap - i * layout.columns.taps;
        const bool exists = channel < channels;
        const auto line = rectifier.line(group * layout.outputs + begin + m);
        filters[m][term] = exists ? line.slope * Sum(W[layout.weight(group, begin + m, channel, i, j)]) : Sum(0);
        if (term == 0) offsets[m] = line.offset;
    }
    __syncthreads();
    if (first >= pixels) return;

    T terms[PIXELS][TERMS];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        const Pixel<Index> pixel(layout, min(first + p, pixels - 1));
        const Source source({x, switches, mask}, layout, pixel.picture, group);
        int channel = 0, i = 0, j = 0;
#pragma unroll
        for (int term = 0; term < TERMS; ++term) {
            terms[p][term] = T(0.0f);
            if (channel < channels) {
                const auto place = source.at(pixel.row * layout.rows.stride + i * layout.rows.dilate + layout.rows.offset,
                                             pixel.column * layout.columns.stride + j * layout.columns.dilate + layout.columns.offset);
                terms[p][term] = source.value(source.fetch(place, channel), place, channel);
            }
            if (++j == layout.columns.taps) {
                j = 0;
                if (++i == layout.rows.taps) {
                    i = 0;
                    ++channel;
                }
            }
        }
    }

    const Targets<PIXELS, 1, Index> targets(layout, rectifier, first, pixels, whole);
    for (int m = 0; m < outputs; ++m) {
        Sum sums[PIXELS] = {};
#pragma unroll
        for (int term = 0; term < TERMS; term += 4) {
            const Pack<Sum, 4> factors = *reinterpret_cast<const Pack<Sum, 4>*>(&filters[m][term]);
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
                for (int p = 0; p < PIXELS; ++p) sums[p] += factors.values[n] * Sum(terms[p][term + n]);
        }
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) sums[p] += offsets[m];
        targets.write(group * layout.outputs + begin + m, sums, rectifier, y);
    }
}

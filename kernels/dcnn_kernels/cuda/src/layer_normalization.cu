// Normalization of rows by their own statistics, and the way back. blockDim.x threads, whole warps, share a row; blockDim.y rows
// share a block. All threads of a block go round together, for their sums.
#include "packs.cuh"

// The sum over the threads of a row, to each of them. `partial` has room for each warp of a block that has one row.
template <typename A>
__device__ __forceinline__ A row_sum(A sum, A* partial) {
    constexpr int WARP = 32;
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    const int warps = static_cast<int>(blockDim.x) / WARP;
    if (warps > 1) {
        if (threadIdx.x % WARP == 0) {
            partial[threadIdx.x / WARP] = sum;
        }
        __syncthreads();
        sum = 0;
        for (int other = 0; other < warps; ++other) {
            sum += partial[other];
        }
        __syncthreads();  // before the next sums are written
    }
    return sum;
}

// Calls use(n, values...) for the row's elements that are this thread's.
template <typename T, typename Index, typename Use>
__device__ __forceinline__ void for_each_pack(Index count, Use use) {
    for (Index n = Index(threadIdx.x) * PACK<T>; n < count; n += Index(blockDim.x) * PACK<T>) {
        use(n);
    }
}

// What a row has taken off, and what it is multiplied by then.
template <typename A>
struct Statistics {
    A mean, scale;
};

template <typename T, typename Index>
__device__ __forceinline__ Statistics<Accumulate<T>> statistics(const T* row, bool valid, Accumulate<T> eps, int centred, Index count,
                                                                Accumulate<T>* partial) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    const Index own = valid ? count : Index(0);
    A mean = 0, squares = 0;
    if (centred) {
        for_each_pack<T>(own, [&](Index n) {
            const Pack<T, N> pack = load<N>(row + n, count - n);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                mean += static_cast<A>(pack.values[j]);  // zeros beyond the row
            }
        });
        mean = row_sum(mean, partial) / static_cast<A>(count);
    }
    for_each_pack<T>(own, [&](Index n) {
        const Pack<T, N> pack = load<N>(row + n, count - n);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const A value = static_cast<A>(pack.values[j]) - mean;
            squares += n + j < count ? value * value : A(0);
        }
    });
    return {mean, 1 / sqrt(row_sum(squares, partial) / static_cast<A>(count) + eps)};
}

// x and y (rows, count); gamma and beta (count,), or null for one and zero.
template <typename T, typename Index>
__global__ void layer_normalization(const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,
                                    T* __restrict__ y, Accumulate<T> eps, int centred, Index rows, Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    __shared__ A partial[32];
    for (Index first = Index(blockIdx.x) * Index(blockDim.y); first < rows; first += Index(gridDim.x) * Index(blockDim.y)) {
        const Index row = first + Index(threadIdx.y);
        const bool valid = row < rows;
        const Statistics<A> of = statistics(x + row * count, valid, eps, centred, count, partial);
        for_each_pack<T>(valid ? count : Index(0), [&](Index n) {
            Pack<T, N> pack = load<N>(x + row * count + n, count - n);
            const Pack<T, N> by = gamma ? load<N>(gamma + n, count - n) : Pack<T, N>();
            const Pack<T, N> to = beta ? load<N>(beta + n, count - n) : Pack<T, N>();
#pragma unroll
            for (int j = 0; j < N; ++j) {
                A value = (static_cast<A>(pack.values[j]) - of.mean) * of.scale;
                value = gamma ? value * static_cast<A>(by.values[j]) : value;
                pack.values[j] = static_cast<T>(beta ? value + static_cast<A>(to.values[j]) : value);
            }
            store(y + row * count + n, pack, count - n);
        });
    }
}

// x (rows, count), g and y (samples, rows, count).
template <typename T, typename Index>
__global__ void layer_normalization_gradient(const T* __restrict__ x, const T* __restrict__ g, const T* __restrict__ gamma,
                                             T* __restrict__ y, Accumulate<T> eps, int centred, Index samples, Index rows,
                                             Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    __shared__ A partial[32];
    for (Index first = Index(blockIdx.x) * Index(blockDim.y); first < rows; first += Index(gridDim.x) * Index(blockDim.y)) {
        const Index row = first + Index(threadIdx.y);
        const bool valid = row < rows;
        const Statistics<A> of = statistics(x + row * count, valid, eps, centred, count, partial);
        for (Index sample = 0; sample < samples; ++sample) {
            const Index start = (sample * rows + row) * count;
            // What to do with a signal times its scale, and with the normalized input there.
            const auto for_each = [&](auto use) {
                for_each_pack<T>(valid ? count : Index(0), [&](Index n) {
                    const Pack<T, N> signal = load<N>(g + start + n, count - n), input = load<N>(x + row * count + n, count - n);
                    const Pack<T, N> by = gamma ? load<N>(gamma + n, count - n) : Pack<T, N>();
                    A h[N], normalized[N];
#pragma unroll
                    for (int j = 0; j < N; ++j) {
                        h[j] = static_cast<A>(signal.values[j]) * (gamma ? static_cast<A>(by.values[j]) : A(1));
                        normalized[j] = (static_cast<A>(input.values[j]) - of.mean) * of.scale;
                    }
                    use(n, h, normalized);
                });
            };
            A total = 0, along = 0;
            for_each([&](Index, const A* h, const A* normalized) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    total += h[j];  // zeros beyond the row
                    along += h[j] * normalized[j];
                }
            });
            total = centred ? row_sum(total, partial) / static_cast<A>(count) : A(0);
            along = row_sum(along, partial) / static_cast<A>(count);
            for_each([&](Index n, const A* h, const A* normalized) {
                Pack<T, N> pack;
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    pack.values[j] = static_cast<T>((h[j] - total - normalized[j] * along) * of.scale);
                }
                store(y + start + n, pack, count - n);
            });
        }
    }
}

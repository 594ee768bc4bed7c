// Smooth activations and their derivatives, by the formulas of reference/activations.py.
#include "packs.cuh"

enum Function { ELU, ERF, GELU, GELU_TANH, HARD_SIGMOID, HARD_SWISH, MISH, SIGMOID, SILU, SOFTPLUS, TANH };

// Numbers in A: constants of double would have a float computed in double.
template <typename A>
__device__ __forceinline__ A sigmoid(A x) {
    const A small = exp(-fabs(x));
    return (x < 0 ? small : A(1)) / (1 + small);
}

template <typename A>
__device__ __forceinline__ A sigmoid_slope(A x) {
    const A small = exp(-fabs(x));
    return small / ((1 + small) * (1 + small));
}

// Of a standard normal variable.
template <typename A>
__device__ __forceinline__ A distribution(A x) {
    return erfc(x * A(-0.70710678118654752)) / 2;
}

template <typename A>
__device__ __forceinline__ A hard_sigmoid(A x, A a, A b) {
    const A line = a * x + b;
    return line < 0 ? A(0) : line > 1 ? A(1) : line;  // NaN stays
}

// Of GELU's approximation: (1 + tanh(z)) / 2 is sigmoid(2z).
template <typename A>
__device__ __forceinline__ A twice_the_cubic(A x) {
    return x * (1 + A(0.044715) * x * x) * A(1.5957691216057308);
}

// tanh(log(1 + exp(x))) as upper / (upper + rest).
template <typename A>
struct MishParts {
    A upper, rest;
    __device__ __forceinline__ explicit MishParts(A x) {
        const A small = exp(-fabs(x));
        upper = x < 0 ? small * (small + 2) : 1 + 2 * small;
        rest = x < 0 ? A(2) : 2 * small * small;
    }
};

template <Function F, typename A>
__device__ __forceinline__ A value_of(A x, A a, A b) {
    if constexpr (F == ELU) return x > 0 ? x : a * expm1(x);
    if constexpr (F == ERF) return erf(x);
    if constexpr (F == GELU) return x * distribution(x);
    if constexpr (F == GELU_TANH) return x * sigmoid(twice_the_cubic(x));
    if constexpr (F == HARD_SIGMOID) return hard_sigmoid(x, a, b);
    if constexpr (F == HARD_SWISH) return x * hard_sigmoid(x, A(1) / 6, A(0.5));
    if constexpr (F == MISH) {
        const MishParts<A> parts(x);
        return x * (parts.upper / (parts.upper + parts.rest));
    }
    if constexpr (F == SIGMOID) return sigmoid(x);
    if constexpr (F == SILU) return x * sigmoid(x);
    if constexpr (F == SOFTPLUS) return ((a * x < 0 ? A(0) : a * x) + log1p(exp(-fabs(a * x)))) / a;
    if constexpr (F == TANH) return tanh(x);
}

template <Function F, typename A>
__device__ __forceinline__ A slope_of(A x, A a, A b) {
    if constexpr (F == ELU) return x > 0 ? A(1) : a * exp(x);
    if constexpr (F == ERF) return A(1.1283791670955126) * exp(-x * x);
    if constexpr (F == GELU) return distribution(x) + x * A(0.39894228040143268) * exp(-x * x / 2);
    if constexpr (F == GELU_TANH) {
        const A z = twice_the_cubic(x);
        return sigmoid(z) + x * sigmoid_slope(z) * (1 + A(0.134145) * x * x) * A(1.5957691216057308);
    }
    if constexpr (F == HARD_SIGMOID) {
        const A line = a * x + b;
        return line > 0 && line < 1 ? a : A(0);
    }
    if constexpr (F == HARD_SWISH) return x > -3 ? (x < 3 ? x / 3 + A(0.5) : A(1)) : A(0);
    if constexpr (F == MISH) {
        const MishParts<A> parts(x);
        const A lower = parts.upper + parts.rest;
        return parts.upper / lower + x * (parts.rest * (lower + parts.upper)) / (lower * lower) * sigmoid(x);
    }
    if constexpr (F == SIGMOID) return sigmoid_slope(x);
    if constexpr (F == SILU) return sigmoid(x) * (1 + x * sigmoid(-x));
    if constexpr (F == SOFTPLUS) return sigmoid(a * x);
    if constexpr (F == TANH) return 4 * sigmoid_slope(2 * x);
}

template <Function F, typename T, typename Index>
__global__ void activation(const T* __restrict__ x, T* __restrict__ y, Accumulate<T> a, Accumulate<T> b, Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Pack<T, N> pack = load<N>(x + i, count - i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            pack.values[j] = static_cast<T>(value_of<F>(static_cast<A>(pack.values[j]), a, b));
        }
        store(y + i, pack, count - i);
    }
}

// x (count,), g and y (samples, count).
template <Function F, typename T, typename Index>
__global__ void activation_gradient(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ y, Accumulate<T> a,
                                    Accumulate<T> b, Index samples, Index count) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        const Pack<T, N> of = load<N>(x + i, count - i);
        A slopes[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            slopes[j] = slope_of<F>(static_cast<A>(of.values[j]), a, b);
        }
        for (Index sample = 0; sample < samples; ++sample) {
            Pack<T, N> pack = load<N>(g + sample * count + i, count - i);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                pack.values[j] = static_cast<T>(static_cast<A>(pack.values[j]) * slopes[j]);
            }
            store(y + sample * count + i, pack, count - i);
        }
    }
}

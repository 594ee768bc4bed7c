// Local response normalization with its gradient, and batch normalization at inference with its adjoint.
#include "packs.cuh"

// x^-beta. AlexNet's 3/4 is two square roots, which cost far less than a power.
template <typename A>
__device__ __forceinline__ A inverse_power(A x, A beta) {
    if (beta == A(0.75)) {
        const A root = rsqrt(x);
        return root * sqrt(root);
    }
    return pow(x, -beta);
}

// Windows of channels up to R away, where R is small, pass through registers: a thread follows one pixel along a segment of
// channels, and sums each window anew, for running sums would cancel digits.
//
// x and y (samples, channels, pixels); blockIdx.y is the segment.
template <typename T, typename Index, int R>
__global__ void lrn(const T* __restrict__ x, T* __restrict__ y, Accumulate<T> k, Accumulate<T> alpha, Accumulate<T> beta,
                    Index samples, Index channels, Index pixels, Index segment) {
    using A = Accumulate<T>;
    const Index begin = Index(blockIdx.y) * segment, end = smaller(begin + segment, channels);
    for (Index i = thread_index<Index>(); i < samples * pixels; i += thread_count<Index>()) {
        const Index sample = quotient(i, pixels), start = sample * channels * pixels + (i - sample * pixels);
        const auto at = [&](Index channel) {
            return is_within(channel, channels) ? static_cast<A>(x[start + channel * pixels]) : A(0);
        };
        A window[2 * R + 1];
#pragma unroll
        for (int j = 0; j < 2 * R; ++j) {
            window[j + 1] = at(begin - R + j);
        }
#pragma unroll 4
        for (Index channel = begin; channel < end; ++channel) {
            A sum = 0;
#pragma unroll
            for (int j = 0; j < 2 * R; ++j) {
                window[j] = window[j + 1];
                sum += window[j] * window[j];
            }
            window[2 * R] = at(channel + R);
            sum += window[2 * R] * window[2 * R];
            y[start + channel * pixels] = static_cast<T>(window[R] * inverse_power(k + alpha * sum, beta));
        }
    }
}

// As lrn; the outputs' terms g x / s^(beta + 1) pass through registers too, R channels behind the inputs, and R ahead of what
// is written.
template <typename T, typename Index, int R>
__global__ void lrn_gradient(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ y, Accumulate<T> k,
                             Accumulate<T> alpha, Accumulate<T> beta, Index samples, Index channels, Index pixels,
                             Index segment) {
    using A = Accumulate<T>;
    const Index begin = Index(blockIdx.y) * segment, end = smaller(begin + segment, channels);
    for (Index i = thread_index<Index>(); i < samples * pixels; i += thread_count<Index>()) {
        const Index sample = quotient(i, pixels), start = sample * channels * pixels + (i - sample * pixels);
        const auto at = [&](const T* array, Index channel) {
            return is_within(channel, channels) ? static_cast<A>(array[start + channel * pixels]) : A(0);
        };
        // Around channel `middle`: inputs up to R away, terms and direct signals up to 2 R behind.
        A inputs[2 * R + 1], terms[2 * R + 1] = {}, direct[R + 1] = {}, behind[R + 1] = {};
#pragma unroll
        for (int j = 0; j < 2 * R; ++j) {
            inputs[j + 1] = at(x, begin - 2 * R + j);
        }
#pragma unroll 4
        for (Index middle = begin - R; middle < end + R; ++middle) {
            A sum = 0;
#pragma unroll
            for (int j = 0; j < 2 * R; ++j) {
                inputs[j] = inputs[j + 1];
                terms[j] = terms[j + 1];
                sum += inputs[j] * inputs[j];
            }
#pragma unroll
            for (int j = 0; j < R; ++j) {
                direct[j] = direct[j + 1];
                behind[j] = behind[j + 1];
            }
            inputs[2 * R] = at(x, middle + R);
            sum += inputs[2 * R] * inputs[2 * R];
            const A scale = k + alpha * sum;
            behind[R] = inputs[R];
            direct[R] = at(g, middle) * inverse_power(scale, beta);
            // Beyond the channels there is nothing, even if the scale is 0.
            terms[2 * R] = is_within(middle, channels) ? direct[R] * inputs[R] / scale : A(0);
            if (middle - R >= begin) {
                A shared = 0;
#pragma unroll
                for (int j = 0; j <= 2 * R; ++j) {
                    shared += terms[j];
                }
                y[start + (middle - R) * pixels] = static_cast<T>(direct[0] - 2 * alpha * beta * behind[0] * shared);
            }
        }
    }
}

// k + alpha times the sum of squares over the channels up to `half` away.
template <typename T, typename Index>
__device__ __forceinline__ Accumulate<T> lrn_scale(const T* x, Index channel, Index channels, Index pixels, Index half,
                                                   Accumulate<T> k, Accumulate<T> alpha) {
    using A = Accumulate<T>;
    const Index last = smaller(channel + half, channels - 1);
    A sum = 0;
    for (Index j = larger(channel - half, Index(0)); j <= last; ++j) {
        const A value = static_cast<A>(x[j * pixels]);
        sum += value * value;
    }
    return k + alpha * sum;
}

// Windows of any width: every one is read from memory, through the caches.
template <typename T, typename Index>
__global__ void lrn_wide(const T* __restrict__ x, T* __restrict__ y, Accumulate<T> k, Accumulate<T> alpha, Accumulate<T> beta,
                         Index count, Index channels, Index pixels, Index half) {
    using A = Accumulate<T>;
    for (Index i = thread_index<Index>(); i < count; i += thread_count<Index>()) {
        const Index channel = ChannelOf<Index>(i, channels, pixels).channel;
        const A scale = lrn_scale(x + (i - channel * pixels), channel, channels, pixels, half, k, alpha);
        y[i] = static_cast<T>(static_cast<A>(x[i]) * inverse_power(scale, beta));
    }
}

// direct = g / s^beta and terms = g x / s^(beta + 1), for lrn_gradient_wide.
template <typename T, typename Index>
__global__ void lrn_terms_wide(const T* __restrict__ x, const T* __restrict__ g, Accumulate<T>* __restrict__ direct,
                               Accumulate<T>* __restrict__ terms, Accumulate<T> k, Accumulate<T> alpha, Accumulate<T> beta,
                               Index count, Index channels, Index pixels, Index half) {
    using A = Accumulate<T>;
    for (Index i = thread_index<Index>(); i < count; i += thread_count<Index>()) {
        const Index channel = ChannelOf<Index>(i, channels, pixels).channel;
        const A scale = lrn_scale(x + (i - channel * pixels), channel, channels, pixels, half, k, alpha);
        direct[i] = static_cast<A>(g[i]) * inverse_power(scale, beta);
        terms[i] = direct[i] * static_cast<A>(x[i]) / scale;
    }
}

template <typename T, typename Index>
__global__ void lrn_gradient_wide(const T* __restrict__ x, const Accumulate<T>* __restrict__ direct,
                                  const Accumulate<T>* __restrict__ terms, T* __restrict__ y, Accumulate<T> alpha,
                                  Accumulate<T> beta, Index count, Index channels, Index pixels, Index half) {
    using A = Accumulate<T>;
    for (Index i = thread_index<Index>(); i < count; i += thread_count<Index>()) {
        const Index channel = ChannelOf<Index>(i, channels, pixels).channel;
        const Index last = smaller(channel + half, channels - 1);
        A shared = 0;
        for (Index j = larger(channel - half, Index(0)); j <= last; ++j) {
            shared += terms[i + (j - channel) * pixels];
        }
        y[i] = static_cast<T>(direct[i] - 2 * alpha * beta * static_cast<A>(x[i]) * shared);
    }
}

// x and y have `count` elements, (samples, channels, pixels); all else is (channels,). The mean is subtracted before scaling:
// folded into one shift, a large mean would cancel digits.
template <typename T, typename Index>
__global__ void batch_normalization(const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,
                                    const T* __restrict__ mean, const T* __restrict__ var, T* __restrict__ y,
                                    Accumulate<T> eps, Index count, Index channels, Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Pack<T, N> pack = load<N>(x + i, count - i);
        ChannelOf<Index> at(i, channels, pixels);
        Index known = -1;
        A scale = 0, shift = 0, center = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (at.channel != known) {
                known = at.channel;
                scale = static_cast<A>(gamma[known]) / sqrt(static_cast<A>(var[known]) + eps);
                shift = static_cast<A>(beta[known]);
                center = static_cast<A>(mean[known]);
            }
            pack.values[j] = static_cast<T>((static_cast<A>(pack.values[j]) - center) * scale + shift);
            at.next();
        }
        store(y + i, pack, count - i);
    }
}

template <typename T, typename Index>
__global__ void batch_normalization_adjoint(const T* __restrict__ g, const T* __restrict__ gamma, const T* __restrict__ var,
                                            T* __restrict__ y, Accumulate<T> eps, Index count, Index channels, Index pixels) {
    using A = Accumulate<T>;
    constexpr int N = PACK<T>;
    for (Index i = thread_index<Index>() * N; i < count; i += thread_count<Index>() * N) {
        Pack<T, N> pack = load<N>(g + i, count - i);
        ChannelOf<Index> at(i, channels, pixels);
        Index known = -1;
        A scale = 0;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (at.channel != known) {
                known = at.channel;
                scale = static_cast<A>(gamma[known]) / sqrt(static_cast<A>(var[known]) + eps);
            }
            pack.values[j] = static_cast<T>(static_cast<A>(pack.values[j]) * scale);
            at.next();
        }
        store(y + i, pack, count - i);
    }
}

// What CuPy's own kernels need of its headers, and of CUDA beside cuda_host.h. It is read inside a namespace.
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define assert(condition) ((condition) ? (void)0 : __trap())
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __clzll(unsigned long long value) { return value ? __builtin_clzll(value) : 64; }
template <typename T>
struct complex {
    T re, im;
};
#include <cupy/carray.cuh>
#include <cupy/math_constants.h>

class float16 : public __half {
public:
    float16() = default;
    template <typename Number>
    float16(Number number) : __half(static_cast<float>(number)) {}
};
inline float16 min(float16 a, float16 b) { return float(a) < float(b) ? a : b; }
inline float16 max(float16 a, float16 b) { return float(a) < float(b) ? b : a; }

using ::isfinite;
using ::isinf;
using ::isnan;
using ::max;
using ::min;
template <typename T>
using HalfOrInteger = std::enable_if_t<std::is_same_v<T, float16> || std::is_integral_v<T>>;
template <typename T, typename = HalfOrInteger<T>>
bool isnan(T value) {
    return std::isnan(static_cast<float>(value));
}
template <typename T, typename = HalfOrInteger<T>>
bool isinf(T value) {
    return std::isinf(static_cast<float>(value));
}
template <typename T, typename = HalfOrInteger<T>>
bool isfinite(T value) {
    return std::isfinite(static_cast<float>(value));
}

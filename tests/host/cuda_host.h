// Stands in for what CUDA gives to device code, so that g++ compiles the .cu files and a CPU runs them (cuda_host.cpp);
// host_build.py includes it before them.
//
// It is stricter than a device: shared memory starts as 0xff bytes (NaN) in every block, asynchronous copies land at their wait
// and not before, a barrier that only some threads of a block reach is an error, and so is a warp operation whose mask names a
// lane that has exited or never was.
#pragma once
#define DCNN_HOST

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __global__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace dcnn_host {

struct ThreadIndex {
    uint3 index;
    unsigned rank;  // x first, then y, then z; the lane is rank % 32
};

// What a lane hands to the other lanes of a warp operation.
struct Slot {
    unsigned char bytes[32];
};
struct AsyncCopy {
    void* target;
    unsigned char value[16];
    int bytes;
};

extern ThreadIndex* running;
extern dim3 grid, block;
extern uint3 block_index;
extern unsigned char* dynamic_shared;
extern unsigned capability;  // 75 for sm_75

// In lockstep, the threads of a warp that are at the same place go on together, from one basic block to the next, and of all
// places the first in the program comes first: so threads that went different ways meet again as soon as they can. The compiler's
// hooks in accesses.cpp say where a thread is; `end_step` is called when all threads of a warp at one place have gone on.
struct Lockstep {
    unsigned blocks;  // of a launch, about so many are run
    void (*end_step)();
};
extern const Lockstep* lockstep;  // null: one thread after the other, from one barrier to the next
void enter_function(const void* from);
void leave_function();
void enter_basic_block(const void* place);
bool is_shared(const void* address);
bool is_of_threads(const void* address);  // the running one's stack, and what all threads are

// Waits for all threads of the block that haven't returned; gives how many of them passed `predicate`.
int wait_block(bool predicate, const char* file, int line);
bool all_passed(int count);
// Waits for the lanes of `mask`, and gives what each of them handed over, by lane.
const Slot* exchange(unsigned mask, const void* value, size_t bytes, const char* file, int line);
void async_push(const AsyncCopy& copy);
void async_commit();
bool async_pop(int pending_groups, AsyncCopy& copy);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// An argument as the launch code packed it, and a parameter as the kernel declares it. Kinds: i u f b (numbers), P (pointer),
// ? (any). Of pointers, `element` and `size` are those of what they point at.
struct Type {
    char kind, element;
    unsigned size;
};
struct Argument {
    Type type;
    const void* value;
};
struct Launch {
    unsigned grid[3], block[3];
    unsigned long long shared_bytes, seed;
    unsigned capability, count;
    const Argument* arguments;
};
// Returns 0, or 1 with the reason in `message`.
int run(const Launch& launch, const Type* parameters, unsigned count, void (*kernel)(const Argument*), char* shared_begin,
        char* shared_end, char* message, size_t message_size);

}  // namespace dcnn_host

#define threadIdx (dcnn_host::running->index)
#define blockIdx (dcnn_host::block_index)
#define blockDim (dcnn_host::block)
#define gridDim (dcnn_host::grid)
constexpr int warpSize = 32;

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(dcnn_host::dynamic_shared)

// Barriers and warp operations are macros, so that errors name the line.
#define __syncthreads() ((void)dcnn_host::wait_block(false, __FILE__, __LINE__))
#define __syncthreads_count(predicate) (dcnn_host::wait_block((predicate) != 0, __FILE__, __LINE__))
#define __syncthreads_or(predicate) (__syncthreads_count(predicate) > 0)
#define __syncthreads_and(predicate) (dcnn_host::all_passed(__syncthreads_count(predicate)))
#define __syncwarp(...) (dcnn_host::synchronize_warp(__FILE__, __LINE__ __VA_OPT__(, ) __VA_ARGS__))
#define __shfl_sync(mask, value, ...) (dcnn_host::shuffle<'='>(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_up_sync(mask, value, ...) (dcnn_host::shuffle<'-'>(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_down_sync(mask, value, ...) (dcnn_host::shuffle<'+'>(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __shfl_xor_sync(mask, value, ...) (dcnn_host::shuffle<'^'>(__FILE__, __LINE__, mask, value, __VA_ARGS__))
#define __ballot_sync(mask, predicate) (dcnn_host::ballot(__FILE__, __LINE__, mask, (predicate) != 0))
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, predicate) == (mask))

namespace dcnn_host {

inline void synchronize_warp(const char* file, int line, unsigned mask = 0xffffffffu) {
    exchange(mask, nullptr, 0, file, line);
}

inline unsigned ballot(const char* file, int line, unsigned mask, bool predicate) {
    const Slot* slots = exchange(mask, &predicate, 1, file, line);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1 && slots[lane].bytes[0]) result |= 1u << lane;
    }
    return result;
}

template <char Direction, typename T>
T shuffle(const char* file, int line, unsigned mask, T value, int step, int width = 32) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "shuffles move 2, 4 or 8 bytes");
    const Slot* slots = exchange(mask, &value, sizeof(T), file, line);
    int lane = running->rank % 32, first = lane / width * width, source = lane;
    if (Direction == '=') source = first + (step % width + width) % width;
    if (Direction == '-' && lane - step >= first) source = lane - step;
    if (Direction == '+' && lane + step < first + width) source = lane + step;
    if (Direction == '^' && (lane ^ step) < first + width) source = lane ^ step;
    if (!(mask >> source & 1)) fail("%s:%d: lane %d reads lane %d, which mask %#x leaves out", file, line, lane, source, mask);
    std::memcpy(&value, slots[source].bytes, sizeof(T));
    return value;
}

}  // namespace dcnn_host

// Numbers. CUDA's minima and maxima of floats pass over NaN, as fmin and fmax do.
using std::erf;
using std::erfc;
using std::exp;
using std::expm1;
using std::fabs;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::log1p;
using std::signbit;
using std::tanh;

template <typename T>
T min(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
    return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
    return a < b ? b : a;
}

template <typename To, typename From>
To dcnn_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}
inline float __int_as_float(int value) { return dcnn_bits<float>(value); }
inline float __uint_as_float(unsigned value) { return dcnn_bits<float>(value); }
inline int __float_as_int(float value) { return dcnn_bits<int>(value); }
inline unsigned __float_as_uint(float value) { return dcnn_bits<unsigned>(value); }
inline double __longlong_as_double(long long value) { return dcnn_bits<double>(value); }
inline long long __double_as_longlong(double value) { return dcnn_bits<long long>(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(value) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32); }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline double rsqrt(double value) { return 1 / std::sqrt(value); }
inline float rsqrt(float value) { return 1 / std::sqrt(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
#define __ldg(address) (*(address))
inline void __trap() { dcnn_host::fail("__trap()"); }

template <typename T>
T atomicAdd(T* address, T value) {
    static_assert(std::is_integral_v<T>, "sums of floats in any order aren't deterministic");
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicOr(T* address, T value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

// Half precision is stored, and computed with as float.
struct __half {
    _Float16 value;
    __half() = default;
    template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
    __half(Number number) : value(static_cast<_Float16>(static_cast<float>(number))) {}
    operator float() const { return static_cast<float>(value); }
};
using half = __half;
inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline unsigned short __half_as_ushort(__half value) { return dcnn_bits<unsigned short>(value); }
inline __half __ushort_as_half(unsigned short value) { return dcnn_bits<__half>(value); }

#define DCNN_VECTORS(type, name)                                                                              \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                                  \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; };               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                          \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
DCNN_VECTORS(float, float)
DCNN_VECTORS(double, double)
DCNN_VECTORS(int, int)
DCNN_VECTORS(unsigned, uint)
DCNN_VECTORS(unsigned char, uchar)
#undef DCNN_VECTORS

// What common.cuh says of asynchronous copies. Until the wait, the target holds neither the old value nor the new one.
template <int Bytes>
void copy_async(void* shared, const void* global, bool valid = true) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    struct alignas(Bytes) Block {
        unsigned char bytes[Bytes];
    } value{};
    if (valid) value = *static_cast<const Block*>(global);
    dcnn_host::AsyncCopy copy{shared, {}, Bytes};
    std::memcpy(copy.value, &value, Bytes);
    dcnn_host::async_push(copy);
    std::memset(&value, 0xff, Bytes);
    *static_cast<Block*>(shared) = value;
}
inline void copy_async_commit() { dcnn_host::async_commit(); }
template <int Pending>
void copy_async_wait() {
    dcnn_host::AsyncCopy copy;
    while (dcnn_host::async_pop(Pending, copy)) std::memcpy(copy.target, copy.value, copy.bytes);
}

// What mma.cuh says of tensor cores: each lane hands over its fragments, and sums up its own part of D.
inline void needs_tf32() {
    if (dcnn_host::capability < 80) dcnn_host::fail("TF32 on a device of sm_%u", dcnn_host::capability);
}

inline unsigned tf32_bits(float value) {
    needs_tf32();
    return std::isfinite(value) ? (__float_as_uint(value) + 0x1000u) & 0xffffe000u : __float_as_uint(value);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    needs_tf32();
    if (dcnn_host::lockstep) return;  // which watches where memory is accessed, not what is computed
    unsigned fragments[6] = {a[0], a[1], a[2], a[3], b[0], b[1]}, other[6];
    const dcnn_host::Slot* slots = dcnn_host::exchange(0xffffffffu, fragments, sizeof fragments, __FILE__, __LINE__);
    unsigned lane = dcnn_host::running->rank % 32;
    for (unsigned i = 0; i < 4; ++i) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 8; ++k) {
            std::memcpy(other, slots[row % 8 * 4 + k % 4].bytes, sizeof other);
            float left = __uint_as_float(other[row / 8 + k / 4 * 2] & 0xffffe000u);
            std::memcpy(other, slots[column * 4 + k % 4].bytes, sizeof other);
            d[i] += left * __uint_as_float(other[4 + k / 4] & 0xffffe000u);
        }
    }
}

inline void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if (dcnn_host::lockstep) return;
    unsigned fragments[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    __half other[12];
    const dcnn_host::Slot* slots = dcnn_host::exchange(0xffffffffu, fragments, sizeof fragments, __FILE__, __LINE__);
    unsigned lane = dcnn_host::running->rank % 32;
    for (unsigned i = 0; i < 4; ++i) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            std::memcpy(other, slots[row % 8 * 4 + k % 8 / 2].bytes, sizeof other);
            float left = other[2 * (row / 8 + k / 8 * 2) + k % 2];
            std::memcpy(other, slots[column * 4 + k % 8 / 2].bytes, sizeof other);
            d[i] += left * static_cast<float>(other[8 + 2 * (k / 8) + k % 2]);
        }
    }
}

// What makes a kernel callable: its parameters' types against the arguments', and the call itself.
namespace dcnn_host {

template <typename T>
constexpr char kind() {
    if (std::is_same_v<T, bool>) return 'b';
    if (std::is_same_v<T, __half> || std::is_floating_point_v<T>) return 'f';
    if (std::is_integral_v<T>) return std::is_signed_v<T> ? 'i' : 'u';
    return '?';
}
template <typename P>
constexpr Type type_of() {
    if constexpr (std::is_pointer_v<P>) {
        using Element = std::remove_cv_t<std::remove_pointer_t<P>>;
        if constexpr (std::is_void_v<Element>) {
            return {'P', '?', 0};
        } else {
            return {'P', kind<Element>(), sizeof(Element)};
        }
    } else {
        return {kind<P>(), 0, sizeof(P)};
    }
}

template <auto Kernel>
struct Entry;
template <typename... P, void (*Kernel)(P...)>
struct Entry<Kernel> {
    static constexpr Type parameters[] = {type_of<std::remove_cv_t<P>>()..., {}};

    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void call(const Argument* arguments, std::index_sequence<I...>) {
        Kernel(*static_cast<const std::remove_cv_t<P>*>(arguments[I].value)...);
    }
    static void call(const Argument* arguments) { call(arguments, std::index_sequence_for<P...>{}); }
    static int launch(const Launch& launch, char* shared_begin, char* shared_end, char* message, size_t message_size) {
        return run(launch, parameters, sizeof...(P), call, shared_begin, shared_end, message, message_size);
    }
};

}  // namespace dcnn_host

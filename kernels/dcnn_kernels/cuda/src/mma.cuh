// Tensor cores: D += A B for a warp, each lane holding its part of the matrices as PTX defines it (ISA, "Matrix fragments for
// mma"). With group = lane / 4 and place = lane % 4, lane by lane:
//   D (16 x 8), float d[4]:   d0 d1 at row group, columns 2 place, 2 place + 1;   d2 d3 at row group + 8
//   tf32, A (16 x 8), a[4]:   (group, place), (group + 8, place), (group, place + 4), (group + 8, place + 4)
//         B (8 x 8),  b[2]:   (place, group), (place + 4, group)
//   f16,  A (16 x 16), a[4]:  two halves each, of columns 2 place, 2 place + 1 (the lower bits hold the first):
//                             rows group, group + 8, then both again with columns + 8
//         B (16 x 8),  b[2]:  rows 2 place, 2 place + 1 of column group, then rows + 8
#pragma once

#include "common.cuh"

#ifndef DCNN_HOST
// The bits of a float rounded to TF32: 10 bits of mantissa, ties away from zero. The 13 lowest bits, which tensor cores don't read,
// are left as they come: cvt.rna.tf32 takes twice the instructions to make them 0.
__device__ __forceinline__ unsigned tf32_bits(float value) {
    const unsigned bits = __float_as_uint(value);
    return fabsf(value) < infinity<float>() ? bits + 0x1000u : bits;
}

// Needs sm_80; launch code takes another path on older devices.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();
#endif
}

__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // sm_75 has half the depth; the two halves of the fragments are just those of the two halves of K.
    for (int half = 0; half < 2; ++half) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
#endif
}
#endif

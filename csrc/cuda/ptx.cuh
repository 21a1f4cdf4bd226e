// The instructions of compute capability 8.0 that kernels use, one function each, and the 16-bit types.
#pragma once

#include "cuda/common.h"

namespace dlperf::cuda {

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

struct alignas(16) Chunk {
    uint32_t word[4];
};

// Two values as one register, `low` at the lower address.
template <class T>
DLPERF_DEVICE uint32_t pack(float low, float high);

template <>
DLPERF_DEVICE uint32_t pack<bf16>(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

template <>
DLPERF_DEVICE uint32_t pack<f16>(float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

DLPERF_DEVICE float to_float(bf16 x) {
    return __uint_as_float(uint32_t(x.bits) << 16);
}

DLPERF_DEVICE float to_float(f16 x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}

DLPERF_DEVICE float to_float(float x) {
    return x;
}

template <class T>
DLPERF_DEVICE T from_float(float x) {
    return T{uint16_t(pack<T>(x, 0.0f))};
}

template <>
DLPERF_DEVICE float from_float<float>(float x) {
    return x;
}

// Addresses in the block's shared memory, as the instructions want them.
DLPERF_DEVICE uint32_t shared_address(const void* p) {
    return uint32_t(__cvta_generic_to_shared(p));
}

// The block's dynamic shared memory. Kernels align it themselves.
DLPERF_DEVICE unsigned char* dynamic_shared() {
    extern __shared__ unsigned char bytes[];
    return bytes;
}

// 16 bytes from global to shared memory, zeros where `there` is false.
DLPERF_DEVICE void copy_async(uint32_t to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

DLPERF_DEVICE void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until no more than `Pending` committed groups are under way.
template <int Pending>
DLPERF_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit values; lane 8 i + r gives the address of row r of matrix i.
DLPERF_DEVICE void load_matrices(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

DLPERF_DEVICE void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

// c [16 x 8] += a [16 x 16] b [16 x 8]. With g = lane / 4 and t = lane % 4: c holds (g, 2 t), (g, 2 t + 1) and the
// same of row g + 8; a holds (g, 2 t ..), (g + 8, 2 t ..), (g, 2 t + 8 ..), (g + 8, 2 t + 8 ..) in pairs; b (2 t .., g)
// and (2 t + 8 .., g).
template <class T>
DLPERF_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
DLPERF_DEVICE void multiply<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
DLPERF_DEVICE void multiply<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DLPERF_DEVICE float shuffle_xor(float x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

DLPERF_DEVICE void sync_block() {
    __syncthreads();
}

DLPERF_DEVICE void sync_warp() {
    __syncwarp();
}

// No load or store moves over it.
DLPERF_DEVICE void keep_order() {
    asm volatile("" ::: "memory");
}

DLPERF_DEVICE float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

}  // namespace dlperf::cuda

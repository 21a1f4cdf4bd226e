// What this machine can do at best: multiply-adds from registers, and copies of more than the caches hold.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace dlperf {

struct CeilingKernels {
    // Each runs `iterations` on every thread and returns the floating-point operations of all of them.
    double (*fma_f32)(int64_t iterations);
    double (*dot_bf16)(int64_t iterations);  // native bfloat16 dot products; null where there are none
    // n floats. The streaming variant writes past the caches, where both addresses are multiples of 64.
    void (*copy)(const float* src, float* dst, int64_t n);
    void (*copy_streaming)(const float* src, float* dst, int64_t n);
    void (*triad)(const float* a, const float* b, float* dst, int64_t n);  // dst = a + 3 b
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE_BF16(dlperf::CeilingKernels, ceiling_kernels)

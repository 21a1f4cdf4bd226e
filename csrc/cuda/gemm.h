// act(alpha a b + bias + beta residual), batched, 16-bit operands and float32 sums.
#pragma once

#include "cuda/moments.h"

namespace dlperf::cuda {

enum class Type : int { bf16 = 1, f16 = 2 };

// a [batches, m, k] and b [batches, k, n]: along_k where neighbours along k are neighbours in memory, else those along
// m (n) are; strides in elements, multiples of 8 as m, n and k are where they run in memory. c [batches, m, n] dense.
struct Gemm {
    int m, n, k, batches;
    bool a_along_k, b_along_k;
    int64_t a_stride, b_stride, a_batch, b_batch, residual_stride, residual_batch;
    const void *a, *b, *bias, *residual;
    void* c;
    float* workspace;
    float* moments;  // null, or [moments_workspace()] where the plan's moment_rows() > 0: of c's columns, one batch
    float alpha, beta;
    Activation activation;
    Type type;
};

inline Plan plan_gemm(const Device& device, int m, int n, int k, int batches, bool moments = false) {
    return plan_product(device, true, m, n, n, k, batches, moments);
}

void gemm(const Gemm& call, const Device& device);

}  // namespace dlperf::cuda

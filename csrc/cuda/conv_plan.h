// The plans of conv.h. Plain C++17.
#pragma once

#include "cuda/conv.h"

namespace dlperf::cuda {

// Drivers up to CUDA 13.1's encode im2col maps of small tensors wrongly (CUTLASS patches them); those take the portable
// kernel.
constexpr int64_t kLeastIm2colBytes = 131072;

inline bool bulk_copies_fit(const Gather& g) {
    return fits_im2col(g) && int64_t(g.n) * g.h * g.w * g.c * 2 >= kLeastIm2colBytes;
}

inline int padded_channels(int channels, int block) {
    return ceil_div(channels, block) * block;
}

inline Plan plan_forward(const Convolution& v, const Device& device) {
    const Gather g = forward_gather(v);
    return plan_product(device, bulk_copies_fit(g), g.count(), v.k, v.k, int64_t(g.taps()) * v.c, 1);
}

// A phase is not split: its parts would not cover the other phases' pixels.
inline Plan plan_input(const Convolution& v, const Phase& phase, const Device& device) {
    const Gather& g = phase.gather;
    Plan plan = plan_product(device, bulk_copies_fit(g), g.count(), v.c, v.c, int64_t(g.taps()) * v.k, 1);
    if (v.stride_h * v.stride_w > 1) plan.parts = 1;
    return plan;
}

inline Plan plan_weight(const Convolution& v, const Device& device) {
    const Gather g = forward_gather(v);
    return plan_product(device, bulk_copies_fit(g), v.k, int64_t(v.r) * v.s * v.c, v.c, g.count(), 1);
}

inline int64_t forward_workspace(const Convolution& v, const Device& device) {
    return workspace(plan_forward(v, device), int64_t(v.n) * v.p * v.q * v.k);
}

inline int64_t input_workspace(const Convolution& v, const Device& device) {
    return workspace(plan_input(v, input_phase(v, 0, 0), device), int64_t(v.n) * v.h * v.w * v.c);
}

inline int64_t weight_workspace(const Convolution& v, const Device& device) {
    return workspace(plan_weight(v, device), int64_t(v.k) * v.r * v.s * v.c);
}

}  // namespace dlperf::cuda

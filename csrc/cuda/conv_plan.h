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

inline Plan plan_forward(const Convolution& v, const Device& device, bool moments = false) {
    const Gather g = forward_gather(v);
    return plan_product(device, bulk_copies_fit(g), g.count(), v.k, v.k, int64_t(g.taps()) * v.c, 1, moments);
}

inline Plan plan_input(const Convolution& v, const Phase& phase, const Device& device) {
    const Gather& g = phase.gather;
    return plan_product(device, bulk_copies_fit(g), g.count(), v.c, v.c, int64_t(g.taps()) * v.k, 1);
}

inline Plan plan_weight(const Convolution& v, const Device& device) {
    const Gather g = forward_gather(v);
    return plan_product(device, bulk_copies_fit(g), v.k, int64_t(v.r) * v.s * v.c, v.c, g.count(), 1);
}

// Phases run one after the other and share it.
inline int64_t input_workspace(const Convolution& v, const Device& device) {
    int64_t most = 0;
    for (int i = 0; i < v.stride_h; ++i)
        for (int j = 0; j < v.stride_w; ++j) {
            const Phase phase = input_phase(v, i, j);
            const int64_t size = phase.gather.count() == 0 ? 0 : workspace(plan_input(v, phase, device));
            if (size > most) most = size;
        }
    return most;
}

}  // namespace dlperf::cuda

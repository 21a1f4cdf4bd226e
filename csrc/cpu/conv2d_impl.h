// What the convolution kernel files of one instruction set share.
#pragma once

#include "cpu/conv2d.h"
#include "cpu/gemm_engine.h"

namespace dlperf::DLPERF_ISA_NS {

// Few channels: the taps of one filter row and the channels are merged into one run of the reduction.
static inline bool merges_taps(const Conv2dShape& s) {
    return s.groups == 1 && s.c < 16 && s.s > 1 && s.dil_w == 1;
}

int64_t conv2d_weight_bytes(const Conv2dShape& s, int64_t threads);
void conv2d_bwd_weight(const Conv2dShape& s, const void* gy, const void* x, void* gw, void* workspace, int64_t threads);

}  // namespace dlperf::DLPERF_ISA_NS

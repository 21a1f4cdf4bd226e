// Group norm of [n, c, s]: each image's channels in `groups` groups that share statistics; with fused activation.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct GroupNormShape {
    int64_t n, c, s, groups;  // images, channels, positions in an image
    DType dtype;              // x, y and their gradients
    DType affine_dtype;       // weight, bias and their gradients
    bool channels_last;       // memory is [n, s, c], else [n, c, s]
    double eps;
    Act act;  // none, relu or silu
};

// y = act((x - mean) * rstd * weight + bias); stats is [mean; rstd], n * groups each.
struct GroupNormForward {
    const void* x;
    const void* weight;  // or null: ones
    const void* bias;    // or null: zeros
    void* y;
    float* stats;
};

// Any of the outputs may be null. The activation's input is computed again from x and stats.
struct GroupNormBackward {
    const void* gy;
    const void* x;
    const void* weight;
    const void* bias;
    const float* stats;
    void* gx;
    void* gweight;
    void* gbias;
};

struct GroupNormTable {
    int64_t (*workspace)(const GroupNormShape&);  // bytes
    void (*forward)(const GroupNormShape&, const GroupNormForward&, void* workspace);
};

struct GroupNormBackwardTable {
    int64_t (*workspace)(const GroupNormShape&);  // bytes
    void (*backward)(const GroupNormShape&, const GroupNormBackward&, void* workspace);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::GroupNormTable, group_norm_table)
DLPERF_DECLARE_TABLE(dlperf::GroupNormBackwardTable, group_norm_backward_table)

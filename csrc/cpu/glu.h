// Gated linear units: y = a * act(b), where a and b are the halves of x.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// x is [outer, 2, half] and y [outer, half], both dense. act: sigmoid, relu, gelu, gelu_tanh or silu.
struct GluShape {
    int64_t outer, half;
    DType dtype;
    Act act;
};

struct GluTable {
    void (*forward)(const GluShape&, const void* x, void* y);
    void (*backward)(const GluShape&, const void* gy, const void* x, void* gx);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::GluTable, glu_table)

// Softmax and log-softmax over the middle axis of a dense [outer, dim, inner].
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct SoftmaxShape {
    int64_t outer, dim, inner;
};

struct SoftmaxTable {
    // y = softmax(x), or its logarithm; y may be x.
    void (*forward)(DType dtype, const SoftmaxShape& shape, bool logarithm, const void* x, void* y);
    // From the output: gx = y (gy - sum(gy y)), or gy - exp(y) sum(gy); gx may be gy or y.
    void (*backward)(DType dtype, const SoftmaxShape& shape, bool logarithm, const void* gy, const void* y, void* gx);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::SoftmaxTable, softmax_table)

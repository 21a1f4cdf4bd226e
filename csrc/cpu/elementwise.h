// Elementwise operators on n elements that lie dense; the caller sees to a common order of the operands.
// Every output may be one of its inputs. Reading order, threads and rounding: docs/math/activation.md.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct ElementwiseTable {
    // y = act(x)
    void (*activation_forward)(DType dtype, Act act, float param, int64_t n, const void* x, void* y);
    // gx = gy * act'(x)
    void (*activation_backward)(DType dtype, Act act, float param, int64_t n, const void* gy, const void* x, void* gx);
    // The same from y = act(x), for those of `derivative_from_output`.
    void (*activation_backward_from_output)(DType dtype, Act act, int64_t n, const void* gy, const void* y, void* gx);
    // y = a + alpha b, then max(y, 0) where `relu`
    void (*add)(DType dtype, int64_t n, const void* a, const void* b, float alpha, bool relu, void* y);
    // The same, b broadcast: y and a are [outer, mid, inner]; b's elements along inner lie dense, its other steps
    // (in elements, 0 where it is broadcast) are b_outer and b_mid.
    void (*add_rows)(DType dtype, int64_t outer, int64_t mid, int64_t inner, const void* a, const void* b,
                     int64_t b_outer, int64_t b_mid, float alpha, bool relu, void* y);
    // y = a b
    void (*multiply)(DType dtype, int64_t n, const void* a, const void* b, void* y);
    // The same, b broadcast as in add_rows.
    void (*multiply_rows)(DType dtype, int64_t outer, int64_t mid, int64_t inner, const void* a, const void* b,
                          int64_t b_outer, int64_t b_mid, void* y);
    // y = x in another storage type
    void (*cast)(DType from, DType to, int64_t n, const void* x, void* y);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::ElementwiseTable, elementwise_table)

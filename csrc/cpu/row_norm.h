// Layer norm and RMS norm: rows of contiguous elements, each normalised by its own statistics.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct RowNormShape {
    int64_t rows, cols;
    DType dtype;         // x, y and their gradients
    DType affine_dtype;  // weight, bias and their gradients: float32 or dtype
    bool rms;            // no mean is taken off: y = x * rstd * weight
    double eps;
};

// y = (x - mean) * rstd * weight + bias; stats is [mean; rstd], rows each, or [rstd] for RMS norm.
struct RowNormForward {
    const void* x;
    const void* weight;  // or null: ones
    const void* bias;    // or null: zeros
    void* y;
    float* stats;
};

// Any of the outputs may be null.
struct RowNormBackward {
    const void* gy;
    const void* x;
    const void* weight;  // or null
    const float* stats;
    void* gx;
    void* gweight;
    void* gbias;
};

struct RowNormTable {
    void (*forward)(const RowNormShape&, const RowNormForward&);
    int64_t (*backward_workspace)(const RowNormShape&);  // bytes
    void (*backward)(const RowNormShape&, const RowNormBackward&, void* workspace);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::RowNormTable, row_norm_table)

// Cross entropy of a dense [outer, classes, inner] of logits; a row is one (outer, inner), numbered in that order.
// Formulas: docs/math/cross_entropy.md.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

enum class Reduction : int { none = 0, mean = 1, sum = 2 };

struct CrossEntropyShape {
    int64_t outer, classes, inner;
    int64_t ignore_index;
    float smoothing;
    Reduction reduction;

    int64_t rows() const { return outer * inner; }
    // Floats that forward keeps for backward: every row's maximum, then every row's log(sum(exp(x - maximum))), then
    // what a mean divides by.
    int64_t saved_size() const { return 2 * rows() + 1; }
};

// Weights, one float per class, may be null. `row_loss` is float[rows]; `loss` holds one value of the dtype, or one per
// row where nothing is reduced (and is then allowed to be row_loss).
struct CrossEntropyTable {
    // Targets are class numbers. Returns the first row whose target is neither a class nor ignore_index, or -1.
    int64_t (*forward)(DType dtype, const CrossEntropyShape& shape, const void* logits, const int64_t* targets,
                       const float* weight, float* row_loss, float* saved, void* loss);
    void (*backward)(DType dtype, const CrossEntropyShape& shape, const void* logits, const int64_t* targets,
                     const float* weight, const float* saved, const void* grad_loss, void* grad_logits);
    // Targets are probabilities, laid out and stored as the logits. grad_targets may be null.
    void (*forward_soft)(DType dtype, const CrossEntropyShape& shape, const void* logits, const void* targets,
                         const float* weight, float* row_loss, float* saved, void* loss);
    void (*backward_soft)(DType dtype, const CrossEntropyShape& shape, const void* logits, const void* targets,
                          const float* weight, const float* saved, const void* grad_loss, void* grad_logits,
                          void* grad_targets);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::CrossEntropyTable, cross_entropy_table)

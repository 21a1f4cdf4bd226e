// Losses: elementwise ones of an input and a target, with their sum; and the negative log likelihood.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// Order is the interface: dlperf/ops/loss.py lists the same names.
enum class Loss : int { mse = 0, l1, smooth_l1, huber, bce_logits, kl_div, kl_div_log };

struct LossCall {
    Loss kind;
    float param;  // smooth_l1: beta, huber: delta
    int64_t n;
    DType dtype;
    bool elementwise;  // no reduction
    double scale;      // of the sum: 1, or 1 / n
    const void* x;
    const void* target;
};

struct NllShape {
    int64_t n, c, s;  // log probabilities are [n, c, s], targets [n, s]
    int64_t ignore;   // this target counts for nothing
    DType dtype;
    bool mean;
};

struct LossTable {
    int64_t (*workspace)();  // bytes
    // out: n values, or one.
    void (*forward)(const LossCall&, void* out, void* workspace);
    // gx and gtarget may be null; gy is as forward's out.
    void (*backward)(const LossCall&, const void* gy, void* gx, void* gtarget);
    // losses: [n, s], or one value with total_weight, which backward needs. Returns the first target's position that
    // is no class, or -1.
    int64_t (*nll)(const NllShape&, bool elementwise, const void* x, const int64_t* target, const void* weight,
                   void* losses, double* total_weight);
    void (*nll_backward)(const NllShape&, bool elementwise, const void* gy, const int64_t* target, const void* weight,
                         const double* total_weight, void* gx);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::LossTable, loss_table)

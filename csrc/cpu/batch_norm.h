// Batch normalisation over the channels of [n, c, s], forward and backward, with fused residual and activation.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct BatchNormShape {
    int64_t n, c, s;     // images, channels, positions in an image
    DType dtype;         // x, residual, y and their gradients
    DType affine_dtype;  // weight, bias and their gradients
    DType stats_dtype;   // mean and variance
    bool channels_last;  // memory is [n, s, c], else [n, c, s]
};

// y = act((x - mean) / sqrt(variance + eps) * weight + bias + residual).
struct BatchNormForward {
    const void* x;
    const void* residual;  // or null
    void* y;
    const void* weight;  // or null: ones
    const void* bias;    // or null: zeros
    void* mean;          // training: the batch's are written; evaluation: these are used
    void* variance;      // of all values, not the unbiased estimate
    double eps;
    Act act;
    float act_param;
    bool training;
};

// Gradients; any of the outputs may be null. With y given, activation was relu and y is its output.
struct BatchNormBackward {
    const void* gy;
    const void* x;
    const void* y;  // or null: no activation
    const void* weight;
    const void* mean;
    const void* variance;
    void* gx;
    void* gresidual;  // only together with y: without an activation it is gy itself
    void* gweight;
    void* gbias;
    double eps;
    bool training;  // mean and variance are x's own
};

struct BatchNormTable {
    int64_t (*workspace)(const BatchNormShape&);  // bytes that each function below needs
    void (*forward)(const BatchNormShape&, const BatchNormForward&, void* workspace);
    // running = (1 - momentum) * running + momentum * batch, in stats_dtype; the batch's statistics are float32, of
    // `count` values a channel, and the variance is made unbiased.
    void (*update)(int64_t c, DType stats_dtype, void* running_mean, void* running_var, const float* mean,
                   const float* variance, double momentum, int64_t count);
};

struct BatchNormBackwardTable {
    void (*backward)(const BatchNormShape&, const BatchNormBackward&, void* workspace);
    // out[c] = sum of gy over n and s, in affine_dtype.
    void (*channel_sum)(const BatchNormShape&, const void* gy, void* out, void* workspace);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::BatchNormTable, batch_norm_table)
DLPERF_DECLARE_TABLE(dlperf::BatchNormBackwardTable, batch_norm_backward_table)

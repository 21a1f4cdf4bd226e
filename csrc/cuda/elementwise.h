// Activations, the sum of each channel, running statistics: what training needs beside products and norms.
#pragma once

#include "cuda/norm.h"

namespace dlperf::cuda {

// y = act(x); any n.
void activation_forward(const void* x, void* y, int64_t n, Activation kind, Storage type, const Device& device);
// gx = gy act'(x)
void activation_backward(const void* gy, const void* x, void* gx, int64_t n, Activation kind, Storage type,
                         const Device& device);

// Partial sums, float32 [parts, channels], of x [rows, channels]; channels a multiple of 8. join with total().
void channel_sum(const void* x, float* sums, int64_t rows, int channels, int parts, Storage type, const Device& device);

// running += momentum (batch - running), with the unbiased variance of `count` values.
void batch_norm_update(void* running_mean, void* running_var, const float* mean, const float* var, int channels,
                       double momentum, double count, Storage type, const Device& device);

}  // namespace dlperf::cuda

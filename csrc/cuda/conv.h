// Convolutions over NHWC images and KRSC weights, one group, channels in multiples of 8.
#pragma once

#include "cuda/gemm.h"
#include "cuda/geometry.h"

namespace dlperf::cuda {

// x [n, h, w, c], weight [k, r, s, c], y and residual [n, p, q, k]; bias [k]. In the input's gradient y is given, x is
// written, and bias is by c. moments: as Gemm's, of y's channels.
struct ConvolutionCall {
    Convolution geometry;
    const void *x, *weight, *y, *bias, *residual;
    void* out;
    float *workspace, *moments;
    Activation activation;
    Type type;
};

void convolution_forward(const ConvolutionCall& call, const Device& device);
void convolution_input(const ConvolutionCall& call, const Device& device);
void convolution_weight(const ConvolutionCall& call, const Device& device);

}  // namespace dlperf::cuda

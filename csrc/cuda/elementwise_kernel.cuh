// Kernels of elementwise.h.
#pragma once

#include "cuda/channel_norm_kernel.cuh"
#include "cuda/elementwise.h"

namespace dlperf::cuda {

constexpr int kElementThreads = 256;

// to[i] = f(a[i], b[i]) for eight elements a thread.
template <class T, class Function>
DLPERF_DEVICE void for_each8(const T* a, const T* b, T* to, int64_t n, const Function& f) {
    const int64_t first = (int64_t(blockIdx.x) * kElementThreads + threadIdx.x) * 8;
    if (first + 8 <= n) {
        float x[8], y[8];
        load8(x, a + first);
        load8(y, b + first);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = f(x[i], y[i]);
        store8(to + first, x);
    } else {
        for (int64_t i = first; i < n; ++i) to[i] = from_float<T>(f(to_float(a[i]), to_float(b[i])));
    }
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) activation_kernel(const T* x, T* y, int64_t n, Activation kind) {
    for_each8(x, x, y, n, [kind](float v, float) { return kind == Activation::none ? v : activate(v, kind); });
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    activation_gradient_kernel(const T* gy, const T* x, T* gx, int64_t n, Activation kind) {
    for_each8(gy, x, gx, n, [kind](float g, float v) { return activation_gradient(g, v, kind); });
}

template <class T>
__global__ void __launch_bounds__(256) channel_sum_kernel(const __grid_constant__ ChannelNorm p, float* sums) {
    __shared__ float shared[256][8];
    const ChannelTile t = channel_tile(p.channels);
    const ChannelPlace at = channel_place(p, t, blockIdx.x, threadIdx.x);
    float sum[8] = {};
    for (int64_t position = at.first; position < at.end; position += at.step) {
        float value[8];
        load8(value, static_cast<const T*>(p.x) + at.start + position * p.channels);
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[c] += value[c];
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) shared[threadIdx.x][c] = sum[c];
    sync_block();
    for (int channel = threadIdx.x; channel < t.width * 8; channel += 256) {
        float all = 0.0f;
        for (int row = 0; row < t.rows; ++row) all += shared[row * t.width + channel / 8][channel % 8];
        const int c = int(blockIdx.x) % t.blocks * t.width * 8 + channel;
        if (c < p.channels) sums[int64_t(at.part) * p.channels + c] = all;
    }
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    update_kernel(T* running_mean, T* running_var, const float* mean, const float* var, int channels, float momentum,
                  float unbiased) {
    const int c = int(blockIdx.x) * kElementThreads + threadIdx.x;
    if (c >= channels) return;
    const float before_mean = to_float(running_mean[c]), before_var = to_float(running_var[c]);
    running_mean[c] = from_float<T>(before_mean + momentum * (mean[c] - before_mean));
    running_var[c] = from_float<T>(before_var + momentum * (var[c] * unbiased - before_var));
}

}  // namespace dlperf::cuda

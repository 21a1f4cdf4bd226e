// The second step of batch norm's and group norm's reductions: partial results joined in a fixed order.
#pragma once

#include "cuda/channel_norm_kernel.cuh"

namespace dlperf::cuda {

DLPERF_INDEX float part_count(const ChannelNorm& p, int64_t row) {
    const Span span = part_span(p.positions, p.parts, int(row / p.images));
    return float(span.end > span.begin ? span.end - span.begin : 0);
}

static __global__ void __launch_bounds__(256)
    join_batch_moments_kernel(const __grid_constant__ ChannelNorm p, const float* means, const float* squares,
                              float* mean, float* var) {
    __shared__ double shared[8][32];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, c = int(blockIdx.x) * 32 + lane;
    const int64_t rows = int64_t(p.parts) * p.images;
    const double total = double(p.images) * double(p.positions);
    double sum = 0.0;
    if (c < p.channels)
        for (int64_t i = row; i < rows; i += 8) sum += double(part_count(p, i)) * means[i * p.channels + c];
    const double center = column_sum(sum, shared, row, lane) / total;
    double spread = 0.0;
    if (c < p.channels)
        for (int64_t i = row; i < rows; i += 8) {
            const double delta = means[i * p.channels + c] - center;
            spread += squares[i * p.channels + c] + double(part_count(p, i)) * delta * delta;
        }
    spread = column_sum(spread, shared, row, lane);
    if (row == 0 && c < p.channels) mean[c] = float(center), var[c] = float(spread / total);
}

// A warp for each image's group.
static __global__ void __launch_bounds__(256)
    join_group_moments_kernel(const __grid_constant__ ChannelNorm p, const float* means, const float* squares,
                              float* mean, float* rstd) {
    const int lane = threadIdx.x % kWarp, which = int(blockIdx.x) * 8 + threadIdx.x / kWarp;
    if (which >= p.images * p.groups) return;
    const int depth = p.channels / p.groups, image = which / p.groups, channel = which % p.groups * depth;
    const float total = float(depth) * float(p.positions);
    const int entries = p.parts * depth;
    auto at = [&](int i) { return (int64_t(i / depth) * p.images + image) * p.channels + channel + i % depth; };
    float sum = 0.0f;
    for (int i = lane; i < entries; i += kWarp) sum += part_count(p, int64_t(i / depth) * p.images) * means[at(i)];
    const float center = warp_sum(sum) / total;
    float spread = 0.0f, rest = 0.0f;
    for (int i = lane; i < entries; i += kWarp) {
        const float delta = means[at(i)] - center, count = part_count(p, int64_t(i / depth) * p.images);
        spread += squares[at(i)] + count * delta * delta;
        rest += count * delta;
    }
    spread = warp_sum(spread), rest = warp_sum(rest);
    if (lane == 0) {
        mean[which] = center + rest / total;
        rstd[which] = 1.0f / sqrtf((spread - rest * rest / total) / total + p.eps);
    }
}

template <class T>
__global__ void __launch_bounds__(256)
    join_batch_sums_kernel(const __grid_constant__ ChannelNorm p, const float* g_sums, const float* hat_sums,
                           int64_t rows, double count, void* gweight, void* gbias, float* g_mean, float* hat_mean) {
    __shared__ double shared[8][32];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, c = int(blockIdx.x) * 32 + lane;
    double g = 0.0, hat = 0.0;
    if (c < p.channels)
        for (int64_t i = row; i < rows; i += 8) g += g_sums[i * p.channels + c], hat += hat_sums[i * p.channels + c];
    g = column_sum(g, shared, row, lane);
    hat = column_sum(hat, shared, row, lane);
    if (row != 0 || c >= p.channels) return;
    if (gweight != nullptr) store_parameter<T>(gweight, c, float(hat), p.parameters_f32);
    if (gbias != nullptr) store_parameter<T>(gbias, c, float(g), p.parameters_f32);
    if (g_mean != nullptr) {
        const double weight = p.weight == nullptr ? 1.0 : load_parameter<T>(p.weight, c, p.parameters_f32);
        g_mean[c] = float(weight * g / count), hat_mean[c] = float(weight * hat / count);
    }
}

// A warp for each image's group.
template <class T>
__global__ void __launch_bounds__(256)
    join_group_sums_kernel(const __grid_constant__ ChannelNorm p, const float* g_sums, const float* hat_sums,
                           float* g_by_channel, float* hat_by_channel, float* g_mean, float* hat_mean) {
    const int lane = threadIdx.x % kWarp, which = int(blockIdx.x) * 8 + threadIdx.x / kWarp;
    if (which >= p.images * p.groups) return;
    const int depth = p.channels / p.groups, image = which / p.groups, channel = which % p.groups * depth;
    float g_total = 0.0f, hat_total = 0.0f;
    for (int c = lane; c < depth; c += kWarp) {
        float g = 0.0f, hat = 0.0f;
        for (int part = 0; part < p.parts; ++part) {
            const int64_t at = (int64_t(part) * p.images + image) * p.channels + channel + c;
            g += g_sums[at], hat += hat_sums[at];
        }
        const int64_t to = int64_t(image) * p.channels + channel + c;
        g_by_channel[to] = g, hat_by_channel[to] = hat;
        const float weight = p.weight == nullptr ? 1.0f : load_parameter<T>(p.weight, channel + c, p.parameters_f32);
        g_total += weight * g, hat_total += weight * hat;
    }
    g_total = warp_sum(g_total), hat_total = warp_sum(hat_total);
    if (lane == 0) {
        const float count = float(depth) * float(p.positions);
        g_mean[which] = g_total / count, hat_mean[which] = hat_total / count;
    }
}

}  // namespace dlperf::cuda

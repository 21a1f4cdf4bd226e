// Batch norm and group norm over NHWC memory: threads own eight channels and walk down positions with 16-byte accesses.
// Formulas: docs/math/batch_norm.md, docs/math/group_norm.md.
#pragma once

#include "cuda/moments.h"
#include "cuda/norm.h"
#include "cuda/reduce.cuh"

namespace dlperf::cuda {

// A thread's place: chunk of channels, image, the positions that it reads.
struct ChannelPlace {
    int channel, image, part, row, column;
    bool there;
    int64_t first, end, step, start;
};

DLPERF_INDEX ChannelPlace channel_place(const ChannelNorm& p, const ChannelTile& t, int block, int thread) {
    ChannelPlace out;
    out.column = thread % t.width;
    out.row = thread / t.width;
    const int chunk = block % t.blocks * t.width + out.column, rest = block / t.blocks;
    out.channel = chunk * 8;
    out.there = chunk < t.chunks;
    out.image = rest % p.images;
    out.part = rest / p.images;
    const Span span = part_span(p.positions, p.parts, out.part);
    out.first = span.begin + out.row;
    out.end = out.there ? span.end : span.begin;
    out.step = t.rows;
    out.start = int64_t(out.image) * p.positions * p.channels + out.channel;
    return out;
}

template <class T>
__global__ void __launch_bounds__(256)
    moments_kernel(const __grid_constant__ ChannelNorm p, float* means, float* squares) {
    __shared__ float shared_mean[256][8], shared_squares[256][8], shared_count[256];
    const ChannelTile t = channel_tile(p.channels);
    const ChannelPlace at = channel_place(p, t, blockIdx.x, threadIdx.x);
    const T* x = static_cast<const T*>(p.x) + at.start;
    float count = 0.0f, mean[8] = {}, square[8] = {};
    for (int64_t first = at.first; first < at.end; first += at.step * kUnrolled) {
        float value[kUnrolled][8];
        float own = 0.0f;
#pragma unroll
        for (int i = 0; i < kUnrolled; ++i) {
            const int64_t position = first + i * at.step;
            if (position < at.end) {
                load8(value[i], x + position * p.channels);
                own += 1.0f;
            }
        }
        // merge() for all eight, with one division for what they share
        const float inverse = 1.0f / own, share = own / (count + own);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            float sum = 0.0f, spread = 0.0f;
#pragma unroll
            for (int i = 0; i < kUnrolled; ++i)
                if (first + i * at.step < at.end) sum += value[i][c] - value[0][c];
            const float center = value[0][c] + sum * inverse;
#pragma unroll
            for (int i = 0; i < kUnrolled; ++i)
                if (first + i * at.step < at.end) spread += (value[i][c] - center) * (value[i][c] - center);
            const float delta = center - mean[c];
            mean[c] += delta * share;
            square[c] += spread + delta * delta * count * share;
        }
        count += own;
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) shared_mean[threadIdx.x][c] = mean[c], shared_squares[threadIdx.x][c] = square[c];
    shared_count[threadIdx.x] = count;
    sync_block();
    // One thread for each channel of the block joins its rows.
    for (int channel = threadIdx.x; channel < t.width * 8; channel += 256) {
        Moments all = {0.0f, 0.0f, 0.0f};
        for (int row = 0; row < t.rows; ++row) {
            const int from = row * t.width + channel / 8;
            all = merge(all, {shared_count[from], shared_mean[from][channel % 8], shared_squares[from][channel % 8]});
        }
        const int c = int(blockIdx.x) % t.blocks * t.width * 8 + channel;
        if (c < p.channels) {
            const int64_t to = (int64_t(at.part) * p.images + at.image) * p.channels + c;
            means[to] = all.mean, squares[to] = all.squares;
        }
    }
}

// Of eight channels: y = x scale + shift and what the gradients need.
struct ChannelStatistics {
    float mean[8], rstd[8], weight[8], bias[8];
    int first;  // of group norm: the channels' statistics
};

DLPERF_INDEX int64_t statistic_of(const ChannelNorm& p, int image, int channel) {
    return p.groups == 0 ? channel : int64_t(image) * p.groups + channel / (p.channels / p.groups);
}

template <class T>
DLPERF_DEVICE void load_statistics(ChannelStatistics& s, const ChannelNorm& p, const ChannelPlace& at) {
    if (!at.there) return;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        const int64_t which = statistic_of(p, at.image, at.channel + c);
        s.mean[c] = p.mean[which];
        s.rstd[c] = p.groups == 0 ? 1.0f / sqrtf(p.second[which] + p.eps) : p.second[which];
        s.weight[c] = 1.0f, s.bias[c] = 0.0f;
    }
    if (p.weight != nullptr) load_parameters<T>(s.weight, p.weight, at.channel, p.parameters_f32);
    if (p.bias != nullptr) load_parameters<T>(s.bias, p.bias, at.channel, p.parameters_f32);
}

template <class T>
__global__ void __launch_bounds__(256) normalize_kernel(const __grid_constant__ ChannelNorm p, T* y) {
    const ChannelPlace at = channel_place(p, channel_tile(p.channels), blockIdx.x, threadIdx.x);
    ChannelStatistics s;
    load_statistics<T>(s, p, at);
    const T* x = static_cast<const T*>(p.x) + at.start;
    const T* residual = static_cast<const T*>(p.residual) + at.start;
    for (int64_t first = at.first; first < at.end; first += at.step * 2) {
        float value[2][8], more[2][8];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int64_t position = first + i * at.step;
            if (position >= at.end) continue;
            load8(value[i], x + position * p.channels);
            if (p.residual != nullptr) load8(more[i], residual + position * p.channels);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int64_t position = first + i * at.step;
            if (position >= at.end) continue;
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                value[i][c] = (value[i][c] - s.mean[c]) * s.rstd[c] * s.weight[c] + s.bias[c];
                if (p.residual != nullptr) value[i][c] += more[i][c];
            }
            activate(value[i], p.activation);
            store8(y + at.start + position * p.channels, value[i]);
        }
    }
}

// The gradient of what the activation got, and the normalised input. y: relu's output, in place of p.activation.
template <class T>
DLPERF_DEVICE void gradient_after_norm(float (&g)[8], float (&hat)[8], const ChannelNorm& p, const ChannelStatistics& s,
                                       const T* gy, const T* y, int64_t at) {
    load8(g, gy + at);
    load8(hat, static_cast<const T*>(p.x) + at);
#pragma unroll
    for (int c = 0; c < 8; ++c) hat[c] = (hat[c] - s.mean[c]) * s.rstd[c];
    if (y != nullptr) {
        float out[8];
        load8(out, y + at);
#pragma unroll
        for (int c = 0; c < 8; ++c)
            if (out[c] <= 0.0f) g[c] = 0.0f;  // what is not <= 0 passes, NaN too
    } else if (p.activation != Activation::none) {
#pragma unroll
        for (int c = 0; c < 8; ++c) g[c] = activation_gradient(g[c], hat[c] * s.weight[c] + s.bias[c], p.activation);
    }
}

template <class T>
__global__ void __launch_bounds__(256)
    sums_kernel(const __grid_constant__ ChannelNorm p, const T* gy, const T* y, float* g_sums, float* hat_sums) {
    __shared__ float shared_g[256][8], shared_hat[256][8];
    const ChannelTile t = channel_tile(p.channels);
    const ChannelPlace at = channel_place(p, t, blockIdx.x, threadIdx.x);
    ChannelStatistics s;
    load_statistics<T>(s, p, at);
    float g_sum[8] = {}, hat_sum[8] = {};
    for (int64_t position = at.first; position < at.end; position += at.step) {
        float g[8], hat[8];
        gradient_after_norm(g, hat, p, s, gy, y, at.start + position * p.channels);
#pragma unroll
        for (int c = 0; c < 8; ++c) g_sum[c] += g[c], hat_sum[c] += g[c] * hat[c];
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) shared_g[threadIdx.x][c] = g_sum[c], shared_hat[threadIdx.x][c] = hat_sum[c];
    sync_block();
    for (int channel = threadIdx.x; channel < t.width * 8; channel += 256) {
        float g = 0.0f, hat = 0.0f;
        for (int row = 0; row < t.rows; ++row) {
            g += shared_g[row * t.width + channel / 8][channel % 8];
            hat += shared_hat[row * t.width + channel / 8][channel % 8];
        }
        const int c = int(blockIdx.x) % t.blocks * t.width * 8 + channel;
        if (c < p.channels) {
            const int64_t to = (int64_t(at.part) * p.images + at.image) * p.channels + c;
            g_sums[to] = g, hat_sums[to] = hat;
        }
    }
}

// gx = rstd (weight g - g_mean - hat hat_mean), the means by statistic.
template <class T>
__global__ void __launch_bounds__(256)
    gradient_kernel(const __grid_constant__ ChannelNorm p, const T* gy, const T* y, const float* g_mean,
                    const float* hat_mean, T* gx, T* gresidual) {
    const ChannelPlace at = channel_place(p, channel_tile(p.channels), blockIdx.x, threadIdx.x);
    ChannelStatistics s;
    load_statistics<T>(s, p, at);
    float from_g[8] = {}, from_hat[8] = {};
    if (g_mean != nullptr && at.there)
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int64_t which = statistic_of(p, at.image, at.channel + c);
            from_g[c] = g_mean[which], from_hat[c] = hat_mean[which];
        }
    for (int64_t position = at.first; position < at.end; position += at.step) {
        const int64_t to = at.start + position * p.channels;
        float g[8], hat[8];
        gradient_after_norm(g, hat, p, s, gy, y, to);
        if (gresidual != nullptr) store8(gresidual + to, g);
        if (gx == nullptr) continue;
#pragma unroll
        for (int c = 0; c < 8; ++c) g[c] = (g[c] * s.weight[c] - from_g[c] - hat[c] * from_hat[c]) * s.rstd[c];
        store8(gx + to, g);
    }
}

}  // namespace dlperf::cuda

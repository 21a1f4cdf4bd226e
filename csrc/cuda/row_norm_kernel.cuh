// Layer norm and RMS norm. A row is kept in the registers of one warp (Warps = 1, eight rows a block) or of a block
// (Warps = 8): one read, one write. Formulas: docs/math/layer_norm.md.
#pragma once

#include "cuda/norm.h"
#include "cuda/reduce.cuh"

namespace dlperf::cuda {

constexpr int kNormThreads = 256;

// Where a thread's chunk lies in its row.
template <int Warps>
DLPERF_INDEX int row_chunk(int thread, int chunk) {
    return (chunk * Warps * kWarp + thread % (Warps * kWarp)) * 8;
}

template <class T, int Warps, int Chunks>
__global__ void __launch_bounds__(kNormThreads) row_norm_kernel(const __grid_constant__ RowNorm p, T* y) {
    __shared__ float scratch[8];
    const int thread = threadIdx.x;
    const int64_t row = int64_t(blockIdx.x) * (8 / Warps) + thread / kWarp / Warps;
    const bool there = row < p.rows;
    const T* x = static_cast<const T*>(p.x) + (there ? row : 0) * p.columns;
    float value[Chunks][8] = {};
#pragma unroll
    for (int i = 0; i < Chunks; ++i)
        if (row_chunk<Warps>(thread, i) < p.columns) load8(value[i], x + row_chunk<Warps>(thread, i));
    float mean = 0.0f;
    if (!p.rms) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < Chunks; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) sum += value[i][j];
        mean = group_sum<Warps>(sum, scratch) / float(p.columns);
    }
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < Chunks; ++i)
        if (row_chunk<Warps>(thread, i) < p.columns)
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                value[i][j] -= mean;
                squares += value[i][j] * value[i][j];
            }
    const float rstd = 1.0f / sqrtf(group_sum<Warps>(squares, scratch) / float(p.columns) + p.eps);
    if (!there) return;
    if (thread % (Warps * kWarp) == 0) {
        if (!p.rms) p.stats[row] = mean;
        p.stats[(p.rms ? 0 : p.rows) + row] = rstd;
    }
#pragma unroll
    for (int i = 0; i < Chunks; ++i) {
        const int at = row_chunk<Warps>(thread, i);
        if (at >= p.columns) continue;
        float weight[8], bias[8];
        if (p.weight != nullptr) load_parameters<T>(weight, p.weight, at, p.parameters_f32);
        if (p.bias != nullptr) load_parameters<T>(bias, p.bias, at, p.parameters_f32);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float out = value[i][j] * rstd;
            if (p.weight != nullptr) out *= weight[j];
            if (p.bias != nullptr) out += bias[j];
            value[i][j] = out;
        }
        store8(y + row * p.columns + at, value[i]);
    }
}

// Persistent over rows: gx, and float32 sums of the parameters' gradients, one row of sums a block. Dynamic shared
// memory: with Warps = 1, 2 x columns floats.
template <class T, int Warps, int Chunks>
__global__ void __launch_bounds__(kNormThreads) row_norm_gradient_kernel(const __grid_constant__ RowNorm p, const T* gy,
                                                                         T* gx, float* weight_sums, float* bias_sums) {
    __shared__ float scratch[8];
    const int thread = threadIdx.x, team = thread / kWarp / Warps;
    constexpr int kTeams = 8 / Warps;
    float gw[Chunks][8] = {}, gb[Chunks][8] = {};
    // Every team takes part in every round: group_sum meets the block.
    for (int64_t first = int64_t(blockIdx.x) * kTeams; first < p.rows; first += int64_t(gridDim.x) * kTeams) {
        const int64_t row = first + team;
        const bool there = row < p.rows;
        const int64_t start = (there ? row : 0) * p.columns;
        const float mean = p.rms || !there ? 0.0f : p.stats[row];
        const float rstd = there ? p.stats[(p.rms ? 0 : p.rows) + row] : 0.0f;
        float hat[Chunks][8], g[Chunks][8];
        float along = 0.0f, plain = 0.0f;
#pragma unroll
        for (int i = 0; i < Chunks; ++i) {
            const int at = row_chunk<Warps>(thread, i);
            if (!there || at >= p.columns) continue;
            load8(hat[i], static_cast<const T*>(p.x) + start + at);
            load8(g[i], gy + start + at);
            float weight[8];
            if (p.weight != nullptr) load_parameters<T>(weight, p.weight, at, p.parameters_f32);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                hat[i][j] = (hat[i][j] - mean) * rstd;
                gw[i][j] += g[i][j] * hat[i][j];
                gb[i][j] += g[i][j];
                if (p.weight != nullptr) g[i][j] *= weight[j];
                along += g[i][j] * hat[i][j];
                plain += g[i][j];
            }
        }
        if (gx == nullptr) continue;
        along = group_sum<Warps>(along, scratch) / float(p.columns);
        plain = p.rms ? 0.0f : group_sum<Warps>(plain, scratch) / float(p.columns);
#pragma unroll
        for (int i = 0; i < Chunks; ++i) {
            const int at = row_chunk<Warps>(thread, i);
            if (!there || at >= p.columns) continue;
#pragma unroll
            for (int j = 0; j < 8; ++j) g[i][j] = (g[i][j] - plain - hat[i][j] * along) * rstd;
            store8(gx + start + at, g[i]);
        }
    }
    if (weight_sums == nullptr && bias_sums == nullptr) return;
    const int64_t mine = int64_t(blockIdx.x) * p.columns;
    if (Warps == 1) {
        // The block's warps one after the other: the same order every run.
        float* sums = reinterpret_cast<float*>(dynamic_shared());
        for (int turn = 0; turn < kTeams; ++turn) {
            if (turn == team) {
#pragma unroll
                for (int i = 0; i < Chunks; ++i) {
                    const int at = row_chunk<Warps>(thread, i);
                    if (at >= p.columns) continue;
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        sums[at + j] = (turn == 0 ? 0.0f : sums[at + j]) + gw[i][j];
                        sums[p.columns + at + j] = (turn == 0 ? 0.0f : sums[p.columns + at + j]) + gb[i][j];
                    }
                }
            }
            sync_block();
        }
        for (int c = thread; c < p.columns; c += kNormThreads) {
            if (weight_sums != nullptr) weight_sums[mine + c] = sums[c];
            if (bias_sums != nullptr) bias_sums[mine + c] = sums[p.columns + c];
        }
    } else {
#pragma unroll
        for (int i = 0; i < Chunks; ++i) {
            const int at = row_chunk<Warps>(thread, i);
            if (at >= p.columns) continue;
            if (weight_sums != nullptr) store8(weight_sums + mine + at, gw[i]);
            if (bias_sums != nullptr) store8(bias_sums + mine + at, gb[i]);
        }
    }
}

// 32 columns a block; 8 rows of threads take turns through the parts.
template <class T>
__global__ void __launch_bounds__(kNormThreads) total_kernel(const float* sums, T* out, int64_t parts, int columns) {
    __shared__ float shared[8][32];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, column = int(blockIdx.x) * 32 + lane;
    float sum = 0.0f;
    if (column < columns)
        for (int64_t part = row; part < parts; part += 8) sum += sums[part * columns + column];
    shared[row][lane] = sum;
    sync_block();
    if (row == 0 && column < columns) {
        sum = 0.0f;
        for (int i = 0; i < 8; ++i) sum += shared[i][lane];
        out[column] = from_float<T>(sum);
    }
}

}  // namespace dlperf::cuda

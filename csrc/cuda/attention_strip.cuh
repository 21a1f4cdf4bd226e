// What a warp does with its strip of 16 rows of scores, whichever instruction made them: online softmax (Milakov &
// Gimelshein 2018), probabilities again in backward, and the strip as the next product's operand.
#pragma once

#include "cuda/attention.h"
#include "cuda/epilogue.cuh"

namespace dlperf::cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;

// multiply()'s a, k = 16 step .. 16 step + 15, from a strip's c.
template <class T>
DLPERF_DEVICE void strip_operand(uint32_t (&a)[4], const float* c, int step) {
    const float* left = c + step * 8;
    a[0] = pack<T>(left[0], left[1]);
    a[1] = pack<T>(left[2], left[3]);
    a[2] = pack<T>(left[4], left[5]);
    a[3] = pack<T>(left[6], left[7]);
}

// Minus infinity where the key does not exist or comes after the query; rows are queries.
template <int J>
DLPERF_DEVICE void mask_strip(float (&s)[4 * J], const Attention& p, int row, int column, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4 * J; ++i) {
        const int key = column + i / 4 * 8 + 2 * t + i % 2, query = row + g + (i % 4) / 2 * 8;
        if (key >= p.keys || (p.causal && key > query)) s[i] = -INFINITY;
    }
}

// The same where all queries see all keys, of which `left` are there from the strip's first column on.
template <int J>
DLPERF_DEVICE void mask_keys(float (&s)[4 * J], int left, int lane) {
    const int mine = left - lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4 * J; ++i)
        if (i / 4 * 8 + i % 2 >= mine) s[i] = -INFINITY;
}

// Of two rows, row and row + 8: the maximum of scores so far and the thread's own share of the sum.
struct RunningSoftmax {
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};

    // Scores become probabilities against the new maximum; `factor`: what the rows' sums so far are worth now.
    template <int J>
    DLPERF_DEVICE void update(float (&s)[4 * J], float scale_log2, float (&factor)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = maximum[half];
#pragma unroll
            for (int j = 0; j < J; ++j) most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
            most = fmaxf(most, shuffle_xor(most, 1));
            most = fmaxf(most, shuffle_xor(most, 2));
            const float shift = most == -INFINITY ? 0.0f : most * scale_log2;
            factor[half] = exp2_fast(maximum[half] * scale_log2 - shift);
            maximum[half] = most;
            float total = 0.0f;
#pragma unroll
            for (int j = 0; j < J; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& x = s[4 * j + 2 * half + i];
                    x = exp2_fast(x * scale_log2 - shift);
                    total += x;
                }
            sum[half] = sum[half] * factor[half] + total;
        }
    }

    // Whole sums; what the output is divided by, 1 where a row saw no key.
    DLPERF_DEVICE void finish(float (&inverse)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            sum[half] += shuffle_xor(sum[half], 1);
            sum[half] += shuffle_xor(sum[half], 2);
            inverse[half] = sum[half] == 0.0f ? 1.0f : 1.0f / sum[half];
        }
    }
};

template <int Count>
DLPERF_DEVICE void scale_rows(float (&x)[Count], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < Count; ++i) x[i] *= factor[(i % 4) / 2];
}

// 16 rows of Dimension columns to memory, by way of the warp's staging.
template <class T, int Dimension>
DLPERF_DEVICE void store_rows(const float* acc, float* stage, int lane, int row, int rows, const Heads& to, int batch,
                              int head) {
    T* out = static_cast<T*>(const_cast<void*>(to.data)) + batch * to.batch + head * to.head;
    const MatrixPlace place = {rows, Dimension, to.row, 0};
    const Epilogue plain = {nullptr, nullptr, out, nullptr, 0, 0, 1.0f, 0.0f, Activation::none};
    finish_strip<T, Dimension / 8>(acc, stage, lane, row, 0, 0, {nullptr, 0}, plain, place);
}

DLPERF_DEVICE void store_statistics(const Attention& p, const RunningSoftmax& softmax, int batch, int head, int row,
                                    int lane) {
    if (lane % 4 != 0) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int query = row + lane / 4 + half * 8;
        if (query >= p.queries) continue;
        float* to = p.stats + ((int64_t(batch) * p.heads + head) * p.queries + query) * 2;
        const bool empty = softmax.maximum[half] == -INFINITY;
        to[0] = empty ? 0.0f : softmax.maximum[half] * p.scale;
        to[1] = empty ? INFINITY : logf(softmax.sum[half]);
    }
}

// Of a query: log2 of the sum of exponentials, and delta. Infinity and 0 past the end, so that probabilities are 0.
struct alignas(8) QueryStatistics {
    float log2_sum, delta;
};

DLPERF_DEVICE QueryStatistics query_statistics(const QueryStatistics* of_head, int query, int queries) {
    if (query >= queries) return {INFINITY, 0.0f};
    return of_head[query];
}

DLPERF_DEVICE const QueryStatistics* statistics_of(const Attention& p, int batch, int head) {
    return reinterpret_cast<const QueryStatistics*>(p.delta) + (int64_t(batch) * p.heads + head) * p.queries;
}

// exp(score - log sum), and in `gp` probability times (gp - delta). ByColumn: columns are queries and rows keys.
template <bool ByColumn, int J>
DLPERF_DEVICE void gradient_strip(float (&s)[4 * J], float (&gp)[4 * J], const Attention& p, int batch, int head,
                                  int row, int column, int lane) {
    const int g = lane / 4, t = lane % 4;
    const float scale_log2 = p.scale * kLog2E;
    const QueryStatistics* of_head = statistics_of(p, batch, head);
    QueryStatistics by_row[2];
    if (!ByColumn) {
        by_row[0] = query_statistics(of_head, row + g, p.queries);
        by_row[1] = query_statistics(of_head, row + g + 8, p.queries);
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
        if (ByColumn) keep_order();  // all columns' statistics at once are more registers than there are
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const int at_column = column + j * 8 + 2 * t + side;
            QueryStatistics by_column;
            if (ByColumn) by_column = query_statistics(of_head, at_column, p.queries);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at_row = row + g + half * 8, i = 4 * j + 2 * half + side;
                const int key = ByColumn ? at_row : at_column, query = ByColumn ? at_column : at_row;
                const QueryStatistics& of = ByColumn ? by_column : by_row[half];
                const bool there = key < p.keys && (!p.causal || key <= query);
                s[i] = there ? exp2_fast(s[i] * scale_log2 - of.log2_sum) : 0.0f;
                gp[i] = s[i] * (gp[i] - of.delta);
            }
        }
    }
}

// Rows are keys, columns queries: scores become probabilities.
template <int J>
DLPERF_DEVICE void probability_strip(float (&s)[4 * J], const Attention& p, const QueryStatistics* of_head, int row,
                                     int column, int lane) {
    const int g = lane / 4, t = lane % 4;
    const float scale_log2 = p.scale * kLog2E;
#pragma unroll
    for (int j = 0; j < J; ++j) {
        keep_order();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int key = row + g + i / 2 * 8, query = column + j * 8 + 2 * t + i % 2;
            const float log2_sum = query_statistics(of_head, query, p.queries).log2_sum;
            const bool there = key < p.keys && (!p.causal || key <= query);
            s[4 * j + i] = there ? exp2_fast(s[4 * j + i] * scale_log2 - log2_sum) : 0.0f;
        }
    }
}

// The same strip, with its probabilities as an operand in registers: gp becomes probability times (gp - delta).
template <class T, int J>
DLPERF_DEVICE void score_gradient_strip(float (&gp)[4 * J], const uint32_t (&probabilities)[J / 2][4],
                                        const Attention& p, const QueryStatistics* of_head, int column, int lane) {
#pragma unroll
    for (int j = 0; j < J; ++j) {
        keep_order();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int query = column + j * 8 + 2 * (lane % 4) + i % 2;
            const uint32_t pair = probabilities[j / 2][j % 2 * 2 + i / 2];
            const float probability = to_float(T{uint16_t(i % 2 == 0 ? pair : pair >> 16)});
            gp[4 * j + i] = probability * (gp[4 * j + i] - query_statistics(of_head, query, p.queries).delta);
        }
    }
}

// Each query's statistics for backward, in p.delta; delta = sum of output times its gradient. Eight lanes a row.
template <class T, int Dimension>
__global__ void __launch_bounds__(256) delta_kernel(const __grid_constant__ Attention p) {
    const int64_t row = int64_t(blockIdx.x) * 32 + threadIdx.x / 8, rows = int64_t(p.batches) * p.heads * p.queries;
    const int64_t pair = (row < rows ? row : 0) / p.queries, query = (row < rows ? row : 0) % p.queries;
    const int64_t batch = pair / p.heads, head = pair % p.heads;
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < Dimension; c += 64) {
        float a[8], b[8];
        const int at = c + threadIdx.x % 8 * 8;
        load8(a, static_cast<const T*>(p.out.data) + batch * p.out.batch + head * p.out.head + query * p.out.row + at);
        load8(b, static_cast<const T*>(p.go.data) + batch * p.go.batch + head * p.go.head + query * p.go.row + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += a[i] * b[i];
    }
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (row < rows && threadIdx.x % 8 == 0)
        reinterpret_cast<QueryStatistics*>(p.delta)[row] = {(p.stats[2 * row] + p.stats[2 * row + 1]) * kLog2E, sum};
}

}  // namespace dlperf::cuda

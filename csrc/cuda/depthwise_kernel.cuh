// Depthwise convolution over a gather's rows: a thread has eight channels of a strip of outputs. Limited by memory for
// 3 x 3; the wider a filter, the more its columns' reuse in registers counts, so that the usual widths are templates.
#pragma once

#include "cuda/depthwise.h"
#include "cuda/epilogue.cuh"

namespace dlperf::cuda {

// Forward, and each phase of the input's gradient: `x` is what the gather reads.
struct Depthwise {
    const void *x, *weight;
    Gather gather;
    TapOrder order;
    int all_taps;  // of the weight
    DepthwiseTile tile;
    PixelPlace place;
    Epilogue epilogue;
};

// sums: [parts, taps, channels]
struct DepthwiseWeight {
    const void *x, *gy;
    Gather gather;
    DepthwiseTile tile;
    int parts;
    float* sums;
};

template <class T>
DLPERF_DEVICE Chunk load_chunk(const T* from, bool there) {
    Chunk zero = {};
    return there ? *reinterpret_cast<const Chunk*>(from) : zero;
}

template <class T>
DLPERF_DEVICE void unpack(float (&out)[8], const Chunk& c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = to_float(T{uint16_t(c.word[i])});
        out[2 * i + 1] = to_float(T{uint16_t(c.word[i] >> 16)});
    }
}

DLPERF_DEVICE void add_scaled(float (&sum)[8], const float (&a)[8], const float (&b)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += a[i] * b[i];
}

// The inputs of a strip in one row: `Stride` apart from one output to the next, S taps each; zero outside.
template <class T, int Count>
DLPERF_DEVICE void load_row(Chunk (&raw)[Count], const T* row, int column, int width, int channels) {
#pragma unroll
    for (int i = 0; i < Count; ++i)
        raw[i] = load_chunk(row + int64_t(column + i) * channels, column + i >= 0 && column + i < width);
}

// S, Stride: the filter's width and the stride along the columns, with neighbouring taps; S 0: any.
template <class T, int S, int Stride>
__global__ void __launch_bounds__(kDepthwiseThreads) depthwise_kernel(const __grid_constant__ Depthwise p) {
    const Gather& g = p.gather;
    const DepthwiseTile& t = p.tile;
    const int tile = blockIdx.x % t.tiles, across = t.vectors * 8, taps = g.taps();
    float* weights = reinterpret_cast<float*>(dynamic_shared());
    for (int i = threadIdx.x; i < taps * across; i += kDepthwiseThreads) {
        const int channel = tile * across + i % across, tap = p.order(i / across, g.taps_s);
        weights[i] = channel < g.c ? to_float(static_cast<const T*>(p.weight)[int64_t(channel) * p.all_taps + tap]) : 0;
    }
    sync_block();
    const DepthwiseLane lane = depthwise_lane(t, tile, threadIdx.x, g.c);
    const int number = blockIdx.x / t.tiles * t.strips + lane.local;
    if (!lane.there || number >= depthwise_strips(g)) return;
    const Strip strip = strip_of(g, number);
    const int first_h = g.first_h + strip.row * g.stride_h, first_w = g.first_w + strip.column * g.stride_w;
    float acc[kStrip][8] = {};
    for (int r = 0; r < g.taps_r; ++r) {
        const int h = first_h + r * g.step_h;
        if (h < 0 || h >= g.h) continue;
        const T* row = static_cast<const T*>(p.x) + (int64_t(strip.image) * g.h + h) * g.w * g.c + lane.channel;
        const float* of_row = weights + r * g.taps_s * across + lane.vector * 8;
        if constexpr (S > 0) {
            constexpr int kInputs = (kStrip - 1) * Stride + S;
            Chunk raw[kInputs];
            load_row(raw, row, first_w, g.w, g.c);
            float w[S][8];
#pragma unroll
            for (int s = 0; s < S; ++s) load8(w[s], of_row + s * across);
#pragma unroll
            for (int i = 0; i < kInputs; ++i) {
                float x[8];
                unpack<T>(x, raw[i]);
#pragma unroll
                for (int j = 0; j < kStrip; ++j)
                    if (i - j * Stride >= 0 && i - j * Stride < S) add_scaled(acc[j], x, w[i - j * Stride]);
            }
        } else {
            for (int s = 0; s < g.taps_s; ++s) {
                float w[8];
                load8(w, of_row + s * across);
                Chunk raw[kStrip];
#pragma unroll
                for (int j = 0; j < kStrip; ++j) {
                    const int column = first_w + j * g.stride_w + s * g.step_w;
                    raw[j] = load_chunk(row + int64_t(column) * g.c, column >= 0 && column < g.w);
                }
#pragma unroll
                for (int j = 0; j < kStrip; ++j) {
                    float x[8];
                    unpack<T>(x, raw[j]);
                    add_scaled(acc[j], x, w);
                }
            }
        }
    }
    const int64_t to = p.place.row((strip.image * g.rows + strip.row) * g.columns + strip.column).at + lane.channel;
#pragma unroll
    for (int j = 0; j < kStrip; ++j) {
        const int64_t at = to + int64_t(j) * p.place.step_column * g.c;
        if (strip.column + j < g.columns) finish_chunk<T>(acc[j], p.epilogue, 0, at, at, lane.channel);
    }
}

// A block sums one row of the filter (S 0: one tap) over its part of the strips.
template <class T, int S, int Stride>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_weight_kernel(const __grid_constant__ DepthwiseWeight p) {
    constexpr int kTaps = S > 0 ? S : 1;
    const Gather& g = p.gather;
    const DepthwiseTile& t = p.tile;
    const int kinds = S > 0 ? g.taps_r : g.taps(), kind = blockIdx.x % kinds, rest = blockIdx.x / kinds;
    const int tile = rest % t.tiles, part = rest / t.tiles;
    const int r = S > 0 ? kind : kind / g.taps_s, s = S > 0 ? 0 : kind % g.taps_s;
    const DepthwiseLane lane = depthwise_lane(t, tile, threadIdx.x, g.c);
    const Range range = split_range(depthwise_strips(g), p.parts, part);
    float acc[kTaps][8] = {};
    for (int number = range.begin + lane.local; lane.there && number < range.end; number += t.strips) {
        const Strip strip = strip_of(g, number);
        const int h = g.first_h + strip.row * g.stride_h + r * g.step_h;
        if (h < 0 || h >= g.h) continue;
        const int first_w = g.first_w + strip.column * g.stride_w + s * g.step_w;
        const T* row = static_cast<const T*>(p.x) + (int64_t(strip.image) * g.h + h) * g.w * g.c + lane.channel;
        const T* from = static_cast<const T*>(p.gy) +
                        ((int64_t(strip.image) * g.rows + strip.row) * g.columns + strip.column) * g.c + lane.channel;
        Chunk raw_gy[kStrip];
        load_row(raw_gy, from, 0, g.columns - strip.column, g.c);
        float gy[kStrip][8];
#pragma unroll
        for (int j = 0; j < kStrip; ++j) unpack<T>(gy[j], raw_gy[j]);
        if constexpr (S > 0) {
            constexpr int kInputs = (kStrip - 1) * Stride + S;
            Chunk raw[kInputs];
            load_row(raw, row, first_w, g.w, g.c);
#pragma unroll
            for (int i = 0; i < kInputs; ++i) {
                float x[8];
                unpack<T>(x, raw[i]);
#pragma unroll
                for (int j = 0; j < kStrip; ++j)
                    if (i - j * Stride >= 0 && i - j * Stride < S) add_scaled(acc[i - j * Stride], x, gy[j]);
            }
        } else {
#pragma unroll
            for (int j = 0; j < kStrip; ++j) {
                const int column = first_w + j * g.stride_w;
                float x[8];
                unpack<T>(x, load_chunk(row + int64_t(column) * g.c, column >= 0 && column < g.w));
                add_scaled(acc[0], x, gy[j]);
            }
        }
    }
    float* scratch = reinterpret_cast<float*>(dynamic_shared());
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
        sync_block();
        store8(scratch + threadIdx.x * 8, acc[i]);
        sync_block();
        const int channel = tile * t.vectors * 8 + int(threadIdx.x);
        if (int(threadIdx.x) >= t.vectors * 8 || channel >= g.c) continue;
        float sum = 0.0f;
        for (int local = 0; local < t.strips; ++local) sum += scratch[local * t.vectors * 8 + threadIdx.x];
        p.sums[(int64_t(part) * g.taps() + r * g.taps_s + s + i) * g.c + channel] = sum;
    }
}

// The parts' sums, in order, as [channels, taps].
template <class T>
__global__ void __launch_bounds__(256)
    depthwise_join_kernel(const float* sums, void* out, int parts, int taps, int channels) {
    const int at = int(blockIdx.x) * 256 + int(threadIdx.x);
    if (at >= taps * channels) return;
    float sum = 0.0f;
    for (int part = 0; part < parts; ++part) sum += sums[int64_t(part) * taps * channels + at];
    static_cast<T*>(out)[int64_t(at % channels) * taps + at / channels] = from_float<T>(sum);
}

}  // namespace dlperf::cuda

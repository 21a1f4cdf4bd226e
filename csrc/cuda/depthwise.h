// Depthwise convolution: one filter a channel. NHWC images, weight [c, r, s]. Plain C++17.
#pragma once

#include "cuda/conv.h"

namespace dlperf::cuda {

constexpr int kDepthwiseThreads = 256;
constexpr int kStrip = 4;            // neighbouring columns of an output's row: what a thread computes at a time
constexpr int kDepthwiseTaps = 192;  // the most: a block keeps its channels' weights in shared memory
constexpr int kMostVectors = 8;      // of eight channels, a block
constexpr int kMostDepthwiseParts = 256;

// How a block's threads share channels and strips: `vectors` times eight channels, `strips` strips at a time.
struct DepthwiseTile {
    int vectors, tiles, strips;
};

inline DepthwiseTile depthwise_tile(int channels) {
    const int all = channels / 8;
    int vectors = all < kMostVectors ? all : kMostVectors;
    for (int fewer = vectors; 2 * fewer > kMostVectors; --fewer)
        if (ceil_div(all, fewer) * fewer < ceil_div(all, vectors) * vectors) vectors = fewer;
    return {vectors, ceil_div(all, vectors), kDepthwiseThreads / vectors};
}

DLPERF_INDEX int depthwise_row_strips(const Gather& g) {
    return ceil_div(g.columns, kStrip);
}

DLPERF_INDEX int depthwise_strips(const Gather& g) {
    return g.n * g.rows * depthwise_row_strips(g);
}

// A thread's channels: where they begin, its number among those that share them, and whether it has any.
struct DepthwiseLane {
    int vector, channel, local;
    bool there;
};

DLPERF_INDEX DepthwiseLane depthwise_lane(const DepthwiseTile& t, int tile, int thread, int channels) {
    const int vector = thread % t.vectors, channel = (tile * t.vectors + vector) * 8;
    return {vector, channel, thread / t.vectors, thread < t.vectors * t.strips && channel < channels};
}

// A strip's image, row and first column.
struct Strip {
    int image, row, column;
};

DLPERF_INDEX Strip strip_of(const Gather& g, int number) {
    const int across = depthwise_row_strips(g), rest = number / across;
    return {rest / g.rows, rest % g.rows, number % across * kStrip};
}

// Parts of the weight gradient's sum over strips.
inline int depthwise_parts(const Convolution& v, const Device& device) {
    const DepthwiseTile t = depthwise_tile(v.c);
    const int64_t blocks = ceil_div(int64_t(v.n) * v.p * ceil_div(v.q, kStrip), int64_t(t.strips) * 4);
    const int64_t wanted = ceil_div<int64_t>(8 * int64_t(device.processors), t.tiles);
    const int64_t parts = blocks < wanted ? blocks : wanted;
    return int(parts < kMostDepthwiseParts ? parts : kMostDepthwiseParts);
}

inline int64_t depthwise_workspace(const Convolution& v, const Device& device) {
    return int64_t(depthwise_parts(v, device)) * v.r * v.s * v.c;
}

// As those of conv.h, with geometry.k == geometry.c and weight [c, r, s].
void depthwise_forward(const ConvolutionCall& call, const Device& device);
void depthwise_input(const ConvolutionCall& call, const Device& device);
void depthwise_weight(const ConvolutionCall& call, const Device& device);

}  // namespace dlperf::cuda

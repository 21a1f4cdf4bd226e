// Attention from compute capability 8.0: mma.sync on tiles that cp.async brings. Warps own 16 rows each; probabilities
// go from one product to the next in registers. Backward: one kernel by keys, one by queries, so that nothing is added
// atomically. Formulas: docs/math/attention.md.
#pragma once

#include "cuda/attention_strip.cuh"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

// A chunk of a tile [rows][Dimension] in shared memory.
template <int Dimension>
DLPERF_INDEX int head_chunk(int row, int chunk) {
    return row * (Dimension * 2) + (chunk ^ (row & 7)) * 16;
}

template <class T, int Dimension, int Rows, int Threads>
DLPERF_DEVICE void load_rows(uint32_t tile, const Heads& from, int batch, int head, int first, int limit) {
    constexpr int kChunks = Dimension / 8;
    const T* data = static_cast<const T*>(from.data) + batch * from.batch + head * from.head;
#pragma unroll
    for (int i = threadIdx.x; i < Rows * kChunks; i += Threads) {
        const int row = i / kChunks, chunk = i % kChunks;
        const bool there = first + row < limit;
        copy_async(tile + head_chunk<Dimension>(row, chunk), data + (there ? (first + row) * from.row + chunk * 8 : 0),
                   there);
    }
}

// s [16 x 8 J] += the strip's 16 rows of tile a times rows of tile b, transposed.
template <class T, int Dimension, int J>
DLPERF_DEVICE void multiply_rows(float (&s)[4 * J], uint32_t a, int a_row, uint32_t b, int lane) {
    const int matrix = lane / 8, r = lane % 8;
#pragma unroll
    for (int k = 0; k < Dimension / 8; k += 2) {
        uint32_t fa[4];
        load_matrices(fa, a + head_chunk<Dimension>(a_row + (matrix & 1) * 8 + r, k + (matrix >> 1)));
#pragma unroll
        for (int j = 0; j < J; j += 2) {
            uint32_t fb[4];
            load_matrices(fb, b + head_chunk<Dimension>(j * 8 + (matrix >> 1) * 8 + r, k + (matrix & 1)));
            multiply<T>(*reinterpret_cast<float (*)[4]>(&s[4 * j]), fa, fb[0], fb[1]);
            multiply<T>(*reinterpret_cast<float (*)[4]>(&s[4 * j + 4]), fa, fb[2], fb[3]);
        }
    }
}

// acc [16 x Dimension] += strip [16 x 8 J] times the 8 J rows of tile b.
template <class T, int Dimension, int J>
DLPERF_DEVICE void multiply_strip(float (&acc)[Dimension / 2], const float (&strip)[4 * J], uint32_t b, int lane) {
    const int matrix = lane / 8, r = lane % 8;
#pragma unroll
    for (int k = 0; k < J / 2; ++k) {
        uint32_t fa[4];
        strip_operand<T>(fa, strip, k);
#pragma unroll
        for (int n = 0; n < Dimension / 8; n += 2) {
            uint32_t fb[4];
            load_matrices_transposed(fb, b + head_chunk<Dimension>(k * 16 + (matrix & 1) * 8 + r, n + (matrix >> 1)));
            multiply<T>(*reinterpret_cast<float (*)[4]>(&acc[4 * n]), fa, fb[0], fb[1]);
            multiply<T>(*reinterpret_cast<float (*)[4]>(&acc[4 * n + 4]), fa, fb[2], fb[3]);
        }
    }
}

constexpr int kForwardQueries = 128, kForwardKeys = 64, kForwardThreads = 256;
constexpr int kBackwardRows = 64, kBackwardStep = 32, kBackwardThreads = 128;

template <int Dimension>
constexpr int attention_forward_bytes() {
    return (kForwardQueries + 4 * kForwardKeys) * Dimension * 2;
}

template <int Dimension>
constexpr int attention_backward_bytes() {
    return (2 * kBackwardRows + 4 * kBackwardStep) * Dimension * 2;
}

template <class T, int Dimension>
__global__ void __launch_bounds__(kForwardThreads) attention_kernel(const __grid_constant__ Attention p) {
#ifdef DLPERF_PORTABLE
    constexpr int kTile = kForwardKeys * Dimension * 2, kQueryBytes = kForwardQueries * Dimension * 2;
    constexpr int J = kForwardKeys / 8;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const AttentionPlace place = attention_place(blockIdx.x, ceil_div(p.queries, kForwardQueries), p.heads);
    const int first = place.block * kForwardQueries, kv_head = place.head / (p.heads / p.kv_heads);
    const int last = first + kForwardQueries < p.queries ? first + kForwardQueries - 1 : p.queries - 1;
    const int tiles = ceil_div(keys_seen(p, last), kForwardKeys);
    const uint32_t shared = shared_address(dynamic_shared()), ring = shared + kQueryBytes;
    auto load = [&](int tile) {
        if (tile < tiles) {
            const uint32_t to = ring + tile % 2 * 2 * kTile;
            load_rows<T, Dimension, kForwardKeys, kForwardThreads>(to, p.k, place.batch, kv_head, tile * kForwardKeys,
                                                                   p.keys);
            load_rows<T, Dimension, kForwardKeys, kForwardThreads>(to + kTile, p.v, place.batch, kv_head,
                                                                   tile * kForwardKeys, p.keys);
        }
        copy_commit();
    };
    load_rows<T, Dimension, kForwardQueries, kForwardThreads>(shared, p.q, place.batch, place.head, first, p.queries);
    load(0);
    const int row = first + warp * 16;
    float acc[Dimension / 2] = {};
    RunningSoftmax softmax;
    for (int tile = 0; tile < tiles; ++tile) {
        load(tile + 1);
        copy_wait<1>();
        sync_block();
        const uint32_t keys = ring + tile % 2 * 2 * kTile;
        float s[4 * J] = {}, factor[2];
        multiply_rows<T, Dimension, J>(s, shared, warp * 16, keys, lane);
        const int column = tile * kForwardKeys;
        if (column + kForwardKeys > p.keys || (p.causal && column + kForwardKeys > row + 1))
            mask_strip<J>(s, p, row, column, lane);
        softmax.update<J>(s, p.scale * kLog2E, factor);
        scale_rows(acc, factor);
        multiply_strip<T, Dimension, J>(acc, s, keys + kTile, lane);
        sync_block();
    }
    copy_wait<0>();
    sync_block();
    float inverse[2];
    softmax.finish(inverse);
    scale_rows(acc, inverse);
    store_statistics(p, softmax, place.batch, place.head, row, lane);
    float* stage = reinterpret_cast<float*>(dynamic_shared()) + warp * kStageFloats;
    store_rows<T, Dimension>(acc, stage, lane, row, p.queries, p.out, place.batch, place.head);
#endif
}

// gk and gv of 64 keys: rows are keys, columns queries.
template <class T, int Dimension>
__global__ void __launch_bounds__(kBackwardThreads) attention_keys_kernel(const __grid_constant__ Attention p) {
#ifdef DLPERF_PORTABLE
    constexpr int kRows = kBackwardRows * Dimension * 2, kTile = kBackwardStep * Dimension * 2, J = kBackwardStep / 8;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const AttentionPlace place = attention_place(blockIdx.x, ceil_div(p.keys, kBackwardRows), p.kv_heads);
    const int first = place.block * kBackwardRows, group = p.heads / p.kv_heads;
    const int start = first_query(p, first) / kBackwardStep;
    const int per_head = ceil_div(p.queries, kBackwardStep) - start, tiles = per_head > 0 ? per_head * group : 0;
    const uint32_t shared = shared_address(dynamic_shared()), ring = shared + 2 * kRows;
    auto load = [&](int tile) {
        if (tile < tiles) {
            const int head = place.head * group + tile / per_head, query = (start + tile % per_head) * kBackwardStep;
            const uint32_t to = ring + tile % 2 * 2 * kTile;
            load_rows<T, Dimension, kBackwardStep, kBackwardThreads>(to, p.q, place.batch, head, query, p.queries);
            load_rows<T, Dimension, kBackwardStep, kBackwardThreads>(to + kTile, p.go, place.batch, head, query,
                                                                     p.queries);
        }
        copy_commit();
    };
    load_rows<T, Dimension, kBackwardRows, kBackwardThreads>(shared, p.k, place.batch, place.head, first, p.keys);
    load_rows<T, Dimension, kBackwardRows, kBackwardThreads>(shared + kRows, p.v, place.batch, place.head, first,
                                                             p.keys);
    load(0);
    const int row = first + warp * 16;
    float gk[Dimension / 2] = {}, gv[Dimension / 2] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        load(tile + 1);
        copy_wait<1>();
        sync_block();
        const int head = place.head * group + tile / per_head, query = (start + tile % per_head) * kBackwardStep;
        const uint32_t queries = ring + tile % 2 * 2 * kTile;
        float s[4 * J] = {}, gp[4 * J] = {};
        multiply_rows<T, Dimension, J>(s, shared, warp * 16, queries, lane);
        multiply_rows<T, Dimension, J>(gp, shared + kRows, warp * 16, queries + kTile, lane);
        gradient_strip<true, J>(s, gp, p, place.batch, head, row, query, lane);
        multiply_strip<T, Dimension, J>(gv, s, queries + kTile, lane);
        multiply_strip<T, Dimension, J>(gk, gp, queries, lane);
        sync_block();
    }
    copy_wait<0>();
    sync_block();
    const float scale[2] = {p.scale, p.scale};
    scale_rows(gk, scale);
    float* stage = reinterpret_cast<float*>(dynamic_shared()) + warp * kStageFloats;
    store_rows<T, Dimension>(gk, stage, lane, row, p.keys, p.gk, place.batch, place.head);
    store_rows<T, Dimension>(gv, stage, lane, row, p.keys, p.gv, place.batch, place.head);
#endif
}

// gq of 64 queries: rows are queries, columns keys.
template <class T, int Dimension>
__global__ void __launch_bounds__(kBackwardThreads) attention_queries_kernel(const __grid_constant__ Attention p) {
#ifdef DLPERF_PORTABLE
    constexpr int kRows = kBackwardRows * Dimension * 2, kTile = kBackwardStep * Dimension * 2, J = kBackwardStep / 8;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const AttentionPlace place = attention_place(blockIdx.x, ceil_div(p.queries, kBackwardRows), p.heads);
    const int first = place.block * kBackwardRows, kv_head = place.head / (p.heads / p.kv_heads);
    const int last = first + kBackwardRows < p.queries ? first + kBackwardRows - 1 : p.queries - 1;
    const int tiles = ceil_div(keys_seen(p, last), kBackwardStep);
    const uint32_t shared = shared_address(dynamic_shared()), ring = shared + 2 * kRows;
    auto load = [&](int tile) {
        if (tile < tiles) {
            const uint32_t to = ring + tile % 2 * 2 * kTile;
            load_rows<T, Dimension, kBackwardStep, kBackwardThreads>(to, p.k, place.batch, kv_head,
                                                                     tile * kBackwardStep, p.keys);
            load_rows<T, Dimension, kBackwardStep, kBackwardThreads>(to + kTile, p.v, place.batch, kv_head,
                                                                     tile * kBackwardStep, p.keys);
        }
        copy_commit();
    };
    load_rows<T, Dimension, kBackwardRows, kBackwardThreads>(shared, p.q, place.batch, place.head, first, p.queries);
    load_rows<T, Dimension, kBackwardRows, kBackwardThreads>(shared + kRows, p.go, place.batch, place.head, first,
                                                             p.queries);
    load(0);
    const int row = first + warp * 16;
    float gq[Dimension / 2] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        load(tile + 1);
        copy_wait<1>();
        sync_block();
        const uint32_t keys = ring + tile % 2 * 2 * kTile;
        float s[4 * J] = {}, gp[4 * J] = {};
        multiply_rows<T, Dimension, J>(s, shared, warp * 16, keys, lane);
        multiply_rows<T, Dimension, J>(gp, shared + kRows, warp * 16, keys + kTile, lane);
        gradient_strip<false, J>(s, gp, p, place.batch, place.head, row, tile * kBackwardStep, lane);
        multiply_strip<T, Dimension, J>(gq, gp, keys, lane);
        sync_block();
    }
    copy_wait<0>();
    sync_block();
    const float scale[2] = {p.scale, p.scale};
    scale_rows(gq, scale);
    float* stage = reinterpret_cast<float*>(dynamic_shared()) + warp * kStageFloats;
    store_rows<T, Dimension>(gq, stage, lane, row, p.queries, p.gq, place.batch, place.head);
#endif
}

}  // namespace dlperf::cuda

// Attention over few keys (attention_short.h), forward, from compute capability 8.0: mma.sync on a whole head's keys
// and values. Warps own strips of 16 queries, whose scores against a step's keys are all in registers.
#pragma once

#include "cuda/attention_kernel.cuh"
#include "cuda/attention_short.h"

namespace dlperf::cuda {

constexpr int kShortThreads = kShortWarps * kWarp;
static_assert(kShortStage == kStageFloats * 4, "the staging's size is written twice");

// A strip's 16 rows of q, copied by one warp.
template <class T>
DLPERF_DEVICE void load_strip(uint32_t to, const Attention& p, const ShortPlace& place, int row, int lane) {
    const T* data = static_cast<const T*>(p.q.data) + place.batch * p.q.batch + place.head * p.q.head;
#pragma unroll
    for (int i = 0; i < kShortStrip * 8 / kWarp; ++i) {
        const int at = i * 4 + lane / 8, chunk = lane % 8;
        const bool there = row + at < p.queries;
        copy_async(to + head_chunk<kShortDimension>(at, chunk), data + (there ? (row + at) * p.q.row + chunk * 8 : 0),
                   there);
    }
    copy_commit();
}

template <class T, int N>
__global__ void __launch_bounds__(kShortThreads, 2)
    attention_short_kernel(const __grid_constant__ Attention p, int steps, int parts) {
#ifdef DLPERF_PORTABLE
    constexpr int D = kShortDimension, J = N / 8;
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const ShortPlace place = short_place(blockIdx.x, ceil_div(p.queries, kShortStrip), parts, p.heads);
    const int kv_head = place.head / (p.heads / p.kv_heads);
    const uint32_t keys = shared_address(dynamic_shared()), values = keys + steps * N * D * 2;
    const uint32_t queries = values + steps * N * D * 2 + warp * (kShortStrip * D * 2);
    const uint32_t staging = values + steps * N * D * 2 + kShortWarps * (kShortStrip * D * 2) + warp * kShortStage;
    float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - keys));
    for (int step = 0; step < steps; ++step) {
        load_rows<T, D, N, kShortThreads>(keys + step * N * D * 2, p.k, place.batch, kv_head, step * N, p.keys);
        load_rows<T, D, N, kShortThreads>(values + step * N * D * 2, p.v, place.batch, kv_head, step * N, p.keys);
    }
    int strip = short_first(place.strips, warp, kShortWarps, blockIdx.x);
    load_strip<T>(queries, p, place, strip * kShortStrip, lane);
    copy_wait<0>();
    sync_block();
    for (; strip < place.strips.end; strip += kShortWarps) {
        const int row = strip * kShortStrip;
        copy_wait<0>();
        sync_warp();
        float acc[D / 2] = {};
        RunningSoftmax softmax;
        for (int step = 0; step < steps; ++step) {
            float s[4 * J] = {}, factor[2];
            multiply_rows<T, D, J>(s, queries, 0, keys + step * N * D * 2, lane);
            if (step == steps - 1) {
                sync_warp();
                load_strip<T>(queries, p, place, row + kShortWarps * kShortStrip, lane);
                if (steps * N > p.keys) mask_keys<J>(s, p.keys - step * N, lane);
            }
            softmax.update<J>(s, p.scale * kLog2E, factor);
            if (step > 0) scale_rows(acc, factor);
            multiply_strip<T, D, J>(acc, s, values + step * N * D * 2, lane);
        }
        float inverse[2];
        softmax.finish(inverse);
        scale_rows(acc, inverse);
        store_statistics(p, softmax, place.batch, place.head, row, lane);
        store_rows<T, D>(acc, stage, lane, row, p.queries, p.out, place.batch, place.head);
    }
    copy_wait<0>();
#endif
}

}  // namespace dlperf::cuda

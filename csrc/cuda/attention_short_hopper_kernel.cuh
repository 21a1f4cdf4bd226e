// Attention over few keys (attention_short.h), forward, on compute capability 9.0: bulk copies bring a whole head's
// keys and values, each step with barriers of its own; warpgroups take strips of 64 queries by wgmma.
#pragma once

#include "cuda/attention_hopper.cuh"
#include "cuda/attention_short.h"

namespace dlperf::cuda {

struct alignas(64) ShortMaps {
    TensorMap q, k, v;  // boxes of a strip, and of a step's keys
    Attention call;
    int steps, parts;
};

constexpr int kShortHopperThreads = 256;  // or 128

template <class T, int N>
__global__ void __launch_bounds__(kShortHopperThreads, 1)
    attention_short_hopper_kernel(const __grid_constant__ ShortMaps maps) {
#ifdef DLPERF_SM90A
    constexpr int D = kShortDimension, kStepBytes = N * D * 2, kStripBytes = kShortHopperStrip * D * 2;
    const Attention& p = maps.call;
    const int groups = blockDim.x / 128, steps = maps.steps;
    const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp, group = thread / 128;
    const uint32_t base = shared_address(dynamic_shared()), keys = (base + 1023) & ~1023u;
    const uint32_t values = keys + steps * kStepBytes, strips = values + steps * kStepBytes;
    const uint32_t queries = strips + group * kStripBytes, staging = strips + groups * kStripBytes;
    const uint32_t barriers = staging + groups * 4 * kShortStage;
    const uint32_t keys_full = barriers + 16, values_full = keys_full + steps * 8, queries_full = barriers + group * 8;
    if (thread == 0) {
        for (int i = 0; i < 2 + 2 * steps; ++i) barrier_init(barriers + i * 8, 1);
        barrier_init_fence();
    }
    sync_block();
    const ShortPlace place = short_place(blockIdx.x, ceil_div(p.queries, kShortHopperStrip), maps.parts, p.heads);
    int strip = short_first(place.strips, group, groups, blockIdx.x);
    auto load_queries = [&](int which) {
        if (thread % 128 != 0 || which >= place.strips.end) return;
        barrier_expect(queries_full, kStripBytes);
        load_box(queries, maps.q, queries_full, 0, which * kShortHopperStrip, place.head, place.batch);
    };
    load_queries(strip);
    if (thread == 0) {
        const int kv_head = place.head / (p.heads / p.kv_heads);
        for (int step = 0; step < steps; ++step) {
            const uint32_t full = keys_full + step * 8, also_full = values_full + step * 8;
            barrier_expect(full, kStepBytes);
            load_box(keys + step * kStepBytes, maps.k, full, 0, step * N, kv_head, place.batch);
            barrier_expect(also_full, kStepBytes);
            load_box(values + step * kStepBytes, maps.v, also_full, 0, step * N, kv_head, place.batch);
        }
    }
    float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - base)) + warp * kStageFloats;
    for (uint32_t parity = 0; strip < place.strips.end; strip += groups, parity ^= 1) {
        const int row = strip * kShortHopperStrip + warp % 4 * 16;
        float acc[D / 2];
#pragma unroll
        for (int i = 0; i < D / 2; ++i) acc[i] = 0.0f;
        RunningSoftmax softmax;
        barrier_wait(queries_full, parity);
        for (int step = 0; step < steps; ++step) {
            float s[N / 2], factor[2];
            barrier_wait(keys_full + step * 8, 0);
            products_fence();
            scores<T, D, N>(s, queries, kStripBytes, keys + step * kStepBytes, kStepBytes);
            products_commit();
            products_wait<0>();
            pin(s);
            if (step == steps - 1) {
                sync_threads(1 + group, 128);  // all four warps have read the strip
                load_queries(strip + groups);
                if (steps * N > p.keys) mask_keys<N / 8>(s, p.keys - step * N, lane);
            }
            softmax.update<N / 8>(s, p.scale * kLog2E, factor);
            if (step > 0) scale_rows(acc, factor);
            uint32_t strip_of_p[N / 16][4];
            strip_operands<T, N>(strip_of_p, s);
            barrier_wait(values_full + step * 8, 0);
            pin(acc);
            pin(strip_of_p);
            products_fence();
            add_product<T, D, N>(acc, strip_of_p, values + step * kStepBytes, kStepBytes);
            products_commit();
            products_wait<0>();
            pin(acc);
        }
        float inverse[2];
        softmax.finish(inverse);
        scale_rows(acc, inverse);
        store_statistics(p, softmax, place.batch, place.head, row, lane);
        store_rows<T, D>(acc, stage, lane, row, p.queries, p.out, place.batch, place.head);
    }
#endif
}

}  // namespace dlperf::cuda

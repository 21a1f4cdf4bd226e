// Attention's forward on compute capability 9.0.
#pragma once

#include "cuda/attention_hopper.cuh"

namespace dlperf::cuda {

constexpr int kHopperKeys = 128;  // a step

#ifdef DLPERF_SM90A

// Two warpgroups take turns at issuing products, so that one's softmax runs beside the other's products (Shah et al.
// 2024, FlashAttention-3). The first begins; a turn that nobody will take is not passed.
struct Turns {
    int own, other;
    DLPERF_DEVICE explicit Turns(int group) : own(1 + group), other(4 - group) {
        if (group == 2) arrive_threads(other, 2 * 128);
    }
    DLPERF_DEVICE void take() const { sync_threads(own, 2 * 128); }
    DLPERF_DEVICE void pass(bool last) const {
        if (!(last && own == 3)) arrive_threads(other, 2 * 128);
    }
};

#endif

template <class T, int Dimension>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_hopper_kernel(const __grid_constant__ AttentionMaps maps) {
#ifdef DLPERF_SM90A
    using Shape = AttentionShape<Dimension, kHopperKeys>;
    constexpr int N = kHopperKeys;
    const Attention& p = maps.call;
    const uint32_t base = shared_address(dynamic_shared()), queries = (base + 1023) & ~1023u;
    const uint32_t ring = queries + Shape::resident, staging = ring + 4 * Shape::step;
    const AttentionBarriers barriers(staging + Shape::staging);
    const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp, group = thread / 128;
    barriers.init(thread);
    const AttentionPlace place = attention_place(blockIdx.x, ceil_div(p.queries, kHopperRows), p.heads);
    const int first = place.block * kHopperRows, kv_head = place.head / (p.heads / p.kv_heads);
    const int last = first + kHopperRows < p.queries ? first + kHopperRows - 1 : p.queries - 1;
    const int tiles = ceil_div(keys_seen(p, last), N);
    RingPosition at;
    if (group == 0) {
        give_registers<40>();
        if (thread == 0) {
            barrier_expect(barriers.resident, Shape::resident);
            load_head<Shape::boxes>(queries, Shape::resident_box, maps.q, barriers.resident, first, place.head,
                                    place.batch);
            for (int tile = 0; tile < tiles; ++tile) {
                const uint32_t to = ring + at.slot * 2 * Shape::step, slot = at.slot * 8;
                barriers.ring.expect(at, Shape::step);
                load_head<Shape::boxes>(to, Shape::step_box, maps.k, barriers.ring.full + slot, tile * N, kv_head,
                                        place.batch);
                barriers.values.expect(at, Shape::step);
                load_head<Shape::boxes>(to + Shape::step, Shape::step_box, maps.v, barriers.values.full + slot,
                                        tile * N, kv_head, place.batch);
                at.advance(2);
            }
        }
    } else {
        take_registers<232>();
        const int row = first + (warp - 4) * 16;
        const uint32_t mine = queries + (group - 1) * kBoxBytes;
        float acc[Dimension / 2];
#pragma unroll
        for (int i = 0; i < Dimension / 2; ++i) acc[i] = 0.0f;
        RunningSoftmax softmax;
        const Turns turns(group);
        float s[N / 2];
        RingPosition next;  // of the keys; `at` is of the values
        uint32_t strip[N / 16][4] = {};
        auto key_tile = [&] { return ring + next.slot * 2 * Shape::step; };
        auto end_scores = [&] {
            pin(s);
            barriers.ring.release(next, lane);
            next.advance(2);
        };
        auto begin_values = [&](int tile) {
            float factor[2];
            if (tile * N + N > p.keys || (p.causal && tile * N + N > row + 1))
                mask_strip<N / 8>(s, p, row, tile * N, lane);
            softmax.update<N / 8>(s, p.scale * kLog2E, factor);
            products_wait<0>();
            pin(acc);
            pin(strip);  // it was read until here
            if (tile > 0) {
                barriers.values.release(at, lane);
                at.advance(2);
            }
            scale_rows(acc, factor);
            strip_operands<T, N>(strip, s);
            barriers.values.wait(at);
        };
        auto add_values = [&] {
            add_product<T, Dimension, N>(acc, strip, ring + at.slot * 2 * Shape::step + Shape::step, Shape::step_box);
            products_commit();
        };
        barrier_wait(barriers.resident, 0);
        barriers.ring.wait(next);
        products_fence();
        scores<T, Dimension, N>(s, mine, Shape::resident_box, key_tile(), Shape::step_box);
        products_commit();
        products_wait<0>();
        end_scores();
        // The next tile's scores are multiplied before this one's values, so that its softmax runs beside the latter.
        for (int tile = 0; tile + 1 < tiles; ++tile) {
            begin_values(tile);
            barriers.ring.wait(next);
            turns.take();
            pin(s);
            pin(acc);
            pin(strip);
            products_fence();
            scores<T, Dimension, N>(s, mine, Shape::resident_box, key_tile(), Shape::step_box);
            products_commit();
            add_values();
            turns.pass(false);
            products_wait<1>();
            end_scores();
        }
        begin_values(tiles - 1);
        turns.take();
        pin(acc);
        pin(strip);
        products_fence();
        add_values();
        turns.pass(true);
        products_wait<0>();
        pin(acc);
        float inverse[2];
        softmax.finish(inverse);
        scale_rows(acc, inverse);
        store_statistics(p, softmax, place.batch, place.head, row, lane);
        float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - base)) + (warp - 4) * kStageFloats;
        store_rows<T, Dimension>(acc, stage, lane, row, p.queries, p.out, place.batch, place.head);
    }
#endif
}

}  // namespace dlperf::cuda

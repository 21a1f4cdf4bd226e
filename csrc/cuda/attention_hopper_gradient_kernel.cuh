// Attention's backward on compute capability 9.0, in two kernels as in attention_kernel.cuh.
#pragma once

#include "cuda/attention_hopper.cuh"

namespace dlperf::cuda {

constexpr int kHopperBackward = 64;  // rows of a step, in both kernels

// ByKeys: gk and gv of a block of keys, past which queries and their gradients go. Else gq of a block of queries, past
// which keys and values go.
template <class T, int Dimension, bool ByKeys>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_gradient_hopper_kernel(const __grid_constant__ AttentionMaps maps) {
#ifdef DLPERF_SM90A
    using Shape = AttentionShape<Dimension, kHopperBackward>;
    constexpr int N = kHopperBackward;
    const Attention& p = maps.call;
    const uint32_t base = shared_address(dynamic_shared()), first_tile = (base + 1023) & ~1023u;
    const uint32_t second_tile = first_tile + Shape::resident, ring = second_tile + Shape::resident;
    const uint32_t staging = ring + 4 * Shape::step;
    const AttentionBarriers barriers(staging + Shape::staging);
    const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp, group = thread / 128;
    barriers.init(thread);
    const int rows = ByKeys ? p.keys : p.queries, repeats = p.heads / p.kv_heads;
    const AttentionPlace place =
        attention_place(blockIdx.x, ceil_div(rows, kHopperRows), ByKeys ? p.kv_heads : p.heads);
    const int first = place.block * kHopperRows;
    const int last = first + kHopperRows < rows ? first + kHopperRows - 1 : rows - 1;
    const int start = ByKeys ? first_query(p, first) / N : 0;
    const int end = ByKeys ? ceil_div(p.queries, N) : ceil_div(keys_seen(p, last), N);
    const int per_head = end > start ? end - start : 0, tiles = ByKeys ? per_head * repeats : per_head;
    auto head_of = [&](int tile) { return ByKeys ? place.head * repeats + tile / per_head : place.head / repeats; };
    RingPosition at;
    if (group == 0) {
        give_registers<24>();
        if (thread == 0) {
            const TensorMap &a = ByKeys ? maps.k : maps.q, &b = ByKeys ? maps.v : maps.go;
            const TensorMap &c = ByKeys ? maps.q : maps.k, &d = ByKeys ? maps.go : maps.v;
            barrier_expect(barriers.resident, 2 * Shape::resident);
            load_head<Shape::boxes>(first_tile, Shape::resident_box, a, barriers.resident, first, place.head,
                                    place.batch);
            load_head<Shape::boxes>(second_tile, Shape::resident_box, b, barriers.resident, first, place.head,
                                    place.batch);
            for (int tile = 0; tile < tiles; ++tile) {
                const uint32_t to = ring + at.slot * 2 * Shape::step, full = barriers.ring.full + at.slot * 8;
                const int from = (start + tile % per_head) * N;
                barriers.ring.expect(at, 2 * Shape::step);
                load_head<Shape::boxes>(to, Shape::step_box, c, full, from, head_of(tile), place.batch);
                load_head<Shape::boxes>(to + Shape::step, Shape::step_box, d, full, from, head_of(tile), place.batch);
                at.advance(2);
            }
        }
    } else {
        take_registers<240>();
        const int row = first + (warp - 4) * 16;
        const uint32_t mine = first_tile + (group - 1) * kBoxBytes, also_mine = second_tile + (group - 1) * kBoxBytes;
        float acc[Dimension / 2], more[ByKeys ? Dimension / 2 : 2];
#pragma unroll
        for (int i = 0; i < Dimension / 2; ++i) acc[i] = 0.0f;
        if (ByKeys)
#pragma unroll
            for (int i = 0; i < (ByKeys ? Dimension / 2 : 2); ++i) more[i] = 0.0f;
        barrier_wait(barriers.resident, 0);
        for (int tile = 0; tile < tiles; ++tile) {
            barriers.ring.wait(at);
            const uint32_t c = ring + at.slot * 2 * Shape::step, d = c + Shape::step;
            const int column = (start + tile % per_head) * N;
            float s[N / 2], gp[N / 2];
            uint32_t strip[N / 16][4];
            products_fence();
            scores<T, Dimension, N>(s, mine, Shape::resident_box, c, Shape::step_box);
            if constexpr (ByKeys) {
                // One matrix of float32 scores at a time: two beside two accumulators are more registers than there
                // are.
                products_commit();
                products_wait<0>();
                pin(s);
                const QueryStatistics* of_head = statistics_of(p, place.batch, head_of(tile));
                probability_strip<N / 8>(s, p, of_head, row, column, lane);
                uint32_t probabilities[N / 16][4];
                strip_operands<T, N>(probabilities, s);
                pin(more);
                pin(probabilities);
                products_fence();
                add_product<T, Dimension, N>(more, probabilities, d, Shape::step_box);
                scores<T, Dimension, N>(gp, also_mine, Shape::resident_box, d, Shape::step_box);
                products_commit();
                products_wait<0>();
                pin(more);
                pin(gp);
                score_gradient_strip<T, N / 8>(gp, probabilities, p, of_head, column, lane);
            } else {
                scores<T, Dimension, N>(gp, also_mine, Shape::resident_box, d, Shape::step_box);
                products_commit();
                products_wait<0>();
                pin(s);
                pin(gp);
                gradient_strip<false, N / 8>(s, gp, p, place.batch, place.head, row, column, lane);
            }
            strip_operands<T, N>(strip, gp);
            pin(acc);
            pin(strip);
            products_fence();
            add_product<T, Dimension, N>(acc, strip, c, Shape::step_box);
            products_commit();
            products_wait<0>();
            pin(acc);
            barriers.ring.release(at, lane);
            at.advance(2);
        }
        const float scale[2] = {p.scale, p.scale};
        scale_rows(acc, scale);
        float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - base)) + (warp - 4) * kStageFloats;
        store_rows<T, Dimension>(acc, stage, lane, row, rows, ByKeys ? p.gk : p.gq, place.batch, place.head);
        if constexpr (ByKeys) store_rows<T, Dimension>(more, stage, lane, row, rows, p.gv, place.batch, place.head);
    }
#endif
}

}  // namespace dlperf::cuda

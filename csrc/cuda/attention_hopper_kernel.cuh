// Attention on compute capability 9.0: one warp brings tiles by bulk copies, two warpgroups of 64 rows multiply by
// wgmma. Probabilities stay in registers as the second product's left operand. Backward as in attention_kernel.cuh.
#pragma once

#include "cuda/attention_strip.cuh"
#include "cuda/wgmma_kernel.cuh"

namespace dlperf::cuda {

constexpr int kHopperRows = 128;  // of a block: 64 a warpgroup

// q, k, v, go as maps of 64-column boxes: of a block's own rows, or of the rows that pass by.
struct alignas(64) AttentionMaps {
    TensorMap q, k, v, go;
    Attention call;
};

// Two resident tiles of kHopperRows rows, and a ring of two pairs of tiles of Step rows.
template <int Dimension, int Step>
struct AttentionShape {
    static constexpr int boxes = Dimension / 64;
    static constexpr int resident_box = kHopperRows * 128, resident = boxes * resident_box;
    static constexpr int step_box = Step * 128, step = boxes * step_box;
    static constexpr int staging = kConsumerWarps * kStageFloats * 4;
    static constexpr int shared_bytes = 1024 + 2 * resident + 4 * step + staging + 64;
};

template <int Boxes>
DLPERF_DEVICE void load_head(uint32_t to, uint32_t box_bytes, const TensorMap& map, uint32_t barrier, int row, int head,
                             int batch) {
#pragma unroll
    for (int i = 0; i < Boxes; ++i) load_box(to + i * box_bytes, map, barrier, i * 64, row, head, batch);
}

#ifdef DLPERF_SM90A

// s [64 x N] = the warpgroup's rows of a, times the N rows of b, transposed; both lie along the head's dimension.
template <class T, int Dimension, int N>
DLPERF_DEVICE void scores(float (&s)[N / 2], uint32_t a, uint32_t a_box, uint32_t b, uint32_t b_box) {
#pragma unroll
    for (int k = 0; k < Dimension / 16; ++k)
        products<T, N, Major::k, Major::k>(s, operand<Major::k>(a + k / 4 * a_box, k % 4),
                                           operand<Major::k>(b + k / 4 * b_box, k % 4), k > 0);
}

// acc [64 x Dimension] += strip [64 x N] times the N rows of b.
template <class T, int Dimension, int N>
DLPERF_DEVICE void add_product(float (&acc)[Dimension / 2], const uint32_t (&strip)[N / 16][4], uint32_t b,
                               uint32_t b_box) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k)
        products<T, Dimension, Major::mn>(acc, strip[k], operand<Major::mn>(b, k, b_box), true);
}

template <class T, int N>
DLPERF_DEVICE void strip_operands(uint32_t (&to)[N / 16][4], const float (&s)[N / 2]) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) strip_operand<T>(to[k], s, k);
}

// The barriers of a resident part and of a ring of two.
struct AttentionBarriers {
    uint32_t resident, full, empty;
    DLPERF_DEVICE void init(int thread) const {
        if (thread == 0) {
            barrier_init(resident, 1);
            for (int i = 0; i < 2; ++i) {
                barrier_init(full + i * 8, 1);
                barrier_init(empty + i * 8, kConsumerWarps);
            }
            barrier_init_fence();
        }
        sync_block();
    }
};

#endif

constexpr int kHopperKeys = 128;     // a step of forward
constexpr int kHopperBackward = 64;  // a step of both backward kernels

template <class T, int Dimension>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_hopper_kernel(const __grid_constant__ AttentionMaps maps) {
#ifdef DLPERF_SM90A
    using Shape = AttentionShape<Dimension, kHopperKeys>;
    constexpr int N = kHopperKeys;
    const Attention& p = maps.call;
    const uint32_t base = shared_address(dynamic_shared()), queries = (base + 1023) & ~1023u;
    const uint32_t ring = queries + Shape::resident, staging = ring + 4 * Shape::step;
    const uint32_t after = staging + Shape::staging;
    const AttentionBarriers barriers = {after, after + 8, after + 24};
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
                barrier_wait(barriers.empty + at.slot * 8, at.parity ^ 1);
                const uint32_t to = ring + at.slot * 2 * Shape::step, full = barriers.full + at.slot * 8;
                barrier_expect(full, 2 * Shape::step);
                load_head<Shape::boxes>(to, Shape::step_box, maps.k, full, tile * N, kv_head, place.batch);
                load_head<Shape::boxes>(to + Shape::step, Shape::step_box, maps.v, full, tile * N, kv_head,
                                        place.batch);
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
        barrier_wait(barriers.resident, 0);
        for (int tile = 0; tile < tiles; ++tile) {
            barrier_wait(barriers.full + at.slot * 8, at.parity);
            const uint32_t keys = ring + at.slot * 2 * Shape::step;
            float s[N / 2], factor[2];
            products_fence();
            scores<T, Dimension, N>(s, mine, Shape::resident_box, keys, Shape::step_box);
            products_commit();
            products_wait<0>();
            pin(s);
            if (tile * N + N > p.keys || (p.causal && tile * N + N > row + 1))
                mask_strip<N / 8>(s, p, row, tile * N, lane);
            softmax.update<N / 8>(s, p.scale * kLog2E, factor);
            scale_rows(acc, factor);
            uint32_t strip[N / 16][4];
            strip_operands<T, N>(strip, s);
            pin(acc);
            pin(strip);
            products_fence();
            add_product<T, Dimension, N>(acc, strip, keys + Shape::step, Shape::step_box);
            products_commit();
            products_wait<0>();
            pin(acc);
            if (lane == 0) barrier_arrive(barriers.empty + at.slot * 8);
            at.advance(2);
        }
        float inverse[2];
        softmax.finish(inverse);
        scale_rows(acc, inverse);
        store_statistics(p, softmax, place.batch, place.head, row, lane);
        float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - base)) + (warp - 4) * kStageFloats;
        store_rows<T, Dimension>(acc, stage, lane, row, p.queries, p.out, place.batch, place.head);
    }
#endif
}

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
    const uint32_t staging = ring + 4 * Shape::step, after = staging + Shape::staging;
    const AttentionBarriers barriers = {after, after + 8, after + 24};
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
                barrier_wait(barriers.empty + at.slot * 8, at.parity ^ 1);
                const uint32_t to = ring + at.slot * 2 * Shape::step, full = barriers.full + at.slot * 8;
                const int from = (start + tile % per_head) * N;
                barrier_expect(full, 2 * Shape::step);
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
            barrier_wait(barriers.full + at.slot * 8, at.parity);
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
            if (lane == 0) barrier_arrive(barriers.empty + at.slot * 8);
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

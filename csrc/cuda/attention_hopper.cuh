// What attention's kernels of compute capability 9.0 share: one warp brings tiles by bulk copies, two warpgroups of 64
// rows multiply by wgmma. Probabilities stay in registers as the second product's left operand.
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
    static constexpr int shared_bytes = 1024 + 2 * resident + 4 * step + staging + 128;
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

// The barriers of a ring of two.
struct RingBarriers {
    uint32_t full, empty;
    DLPERF_DEVICE void init() const {
        for (int i = 0; i < 2; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, kConsumerWarps);
        }
    }
    DLPERF_DEVICE void expect(const RingPosition& at, int bytes) const {
        barrier_wait(empty + at.slot * 8, at.parity ^ 1);
        barrier_expect(full + at.slot * 8, bytes);
    }
    DLPERF_DEVICE void wait(const RingPosition& at) const { barrier_wait(full + at.slot * 8, at.parity); }
    DLPERF_DEVICE void release(const RingPosition& at, int lane) const {
        if (lane == 0) barrier_arrive(empty + at.slot * 8);
    }
};

// Of a resident part and of one ring, or of one for keys and one for values.
struct AttentionBarriers {
    uint32_t resident;
    RingBarriers ring, values;
    DLPERF_DEVICE explicit AttentionBarriers(uint32_t at)
        : resident(at), ring{at + 8, at + 24}, values{at + 40, at + 56} {}
    DLPERF_DEVICE void init(int thread) const {
        if (thread == 0) {
            barrier_init(resident, 1);
            ring.init();
            values.init();
            barrier_init_fence();
        }
        sync_block();
    }
};

#endif

}  // namespace dlperf::cuda

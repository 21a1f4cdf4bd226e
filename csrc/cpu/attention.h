// Scaled dot-product attention in blocks: softmax(scale q k^T + mask) v, and its gradients. The Sq x Sk matrix never
// exists: beyond the outputs, memory is linear in the sequence lengths. Mathematics: docs/math/attention.md.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// What is added to the scores: nothing, 0 or -inf by a byte, or the value itself.
enum class MaskKind : int { none = 0, boolean = 1, f32 = 2, bf16 = 3, f16 = 4 };

constexpr int64_t kAttentionMaxHeadDim = 256;

// Strides are in elements over (batch, head, sequence); the last dimension has unit stride.
struct AttentionShape {
    int64_t batch, heads, kv_heads;  // heads is a multiple of kv_heads
    int64_t sq, sk, e, ev;
    int64_t q[3], k[3], v[3], out[3];
    int64_t mask[4];  // over (batch, head, query, key), 0 where broadcast
    DType dtype;
    MaskKind mask_kind;
    bool causal;  // query i sees keys 0..i
    float scale;
    double dropout_p;
};

// Gradients of an AttentionShape. `d_out` and the results have strides of their own.
struct AttentionGradShape {
    AttentionShape forward;
    int64_t d_out[3], dq[3], dk[3], dv[3];
};

struct AttentionTensors {
    const void *q, *k, *v, *mask;
    const int64_t* rng;  // seed and offset; read where dropout_p > 0
};

struct AttentionTable {
    // Bytes of workspace, 64-byte aligned, for that many threads.
    int64_t (*forward_bytes)(const AttentionShape&, int threads);
    int64_t (*backward_bytes)(const AttentionGradShape&, int threads);
    // stats [B, H, Sq, 2] float32: the row's maximum and the logarithm of its sum of exp(s - maximum); (0, +inf) for a
    // row that sees no key.
    void (*forward)(const AttentionShape&, const AttentionTensors&, void* out, float* stats, void* workspace,
                    int threads);
    // d_scores: null, or [B, H, Sq, Sk] float32 for the gradient of an additive mask.
    void (*backward)(const AttentionGradShape&, const AttentionTensors&, const void* out, const float* stats,
                     const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE_BF16(dlperf::AttentionTable, attention_table)

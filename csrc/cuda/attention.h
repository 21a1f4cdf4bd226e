// Attention, 16-bit, head dimensions 64 and 128, full or causal, without mask and dropout.
#pragma once

#include "cuda/gemm.h"

namespace dlperf::cuda {

// [batch, heads, rows, dimension] with neighbours of a head next to each other; strides in elements, multiples of 8.
struct Heads {
    const void* data;
    int64_t batch, head, row;
};

// stats [batches, heads, queries, 2]: the row's maximum and the logarithm of its sum of exp(score - maximum).
// delta [batches, heads, queries, 2]: scratch of backward. `heads` is a multiple of kv_heads.
struct Attention {
    int batches, heads, kv_heads, queries, keys, dimension;
    bool causal;
    float scale;
    Heads q, k, v, out, go, gq, gk, gv;
    float *stats, *delta;
    Type type;
};

void attention_forward(const Attention& call, const Device& device);
void attention_backward(const Attention& call, const Device& device);

// Blocks of `size` queries or keys a head, and where a block's heads lie.
struct AttentionPlace {
    int block, head, batch;
};

// Long causal rows first: they take longest.
DLPERF_INDEX AttentionPlace attention_place(int number, int blocks, int heads) {
    return {blocks - 1 - number % blocks, number / blocks % heads, number / blocks / heads};
}

// Keys that the queries up to `last` see.
DLPERF_INDEX int keys_seen(const Attention& p, int last) {
    const int seen = p.causal && last + 1 < p.keys ? last + 1 : p.keys;
    return seen;
}

// The first query that sees the key.
DLPERF_INDEX int first_query(const Attention& p, int key) {
    return p.causal ? key : 0;
}

}  // namespace dlperf::cuda

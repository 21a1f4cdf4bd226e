// Prints the dynamic shared memory that launches ask for, one "kernel bytes" a line: the compiler's report has only
// static memory.
#include <cstdio>

#include "cuda/attention_hopper_gradient_kernel.cuh"
#include "cuda/attention_hopper_kernel.cuh"
#include "cuda/attention_kernel.cuh"
#include "cuda/attention_short.h"
#include "cuda/depthwise.h"
#include "cuda/mma_kernel.cuh"
#include "cuda/norm.h"

using namespace dlperf::cuda;

template <int BlockM, int BlockN>
void portable() {
    std::printf("mma_kernel %d %d %d\n", BlockM, BlockN, mma_shared_bytes<BlockM, BlockN>());
}

template <int BlockN>
void hopper() {
    std::printf("wgmma_kernel %d %d\n", BlockN, WgmmaShape<BlockN>::shared_bytes);
}

template <int Dimension>
void attention() {
    std::printf("attention_kernel %d %d\n", Dimension, attention_forward_bytes<Dimension>());
    std::printf("attention_keys_kernel %d %d\n", Dimension, attention_backward_bytes<Dimension>());
    std::printf("attention_queries_kernel %d %d\n", Dimension, attention_backward_bytes<Dimension>());
    std::printf("attention_hopper_kernel %d %d\n", Dimension, AttentionShape<Dimension, kHopperKeys>::shared_bytes);
    std::printf("attention_gradient_hopper_kernel %d %d\n", Dimension,
                AttentionShape<Dimension, kHopperBackward>::shared_bytes);
}

// The most that any number of keys asks for.
static void short_attention(const char* kernel, int capability, int width) {
    int most = 0;
    Attention p = {};
    p.batches = p.heads = p.queries = 1, p.dimension = kShortDimension;
    for (p.keys = 1; p.keys <= 1024; ++p.keys) {
        const ShortPlan plan = short_plan(p, {capability, 132, nullptr});
        if (plan.width == width && plan.bytes > most) most = plan.bytes;
    }
    std::printf("%s %d %d\n", kernel, width, most);
}

int main() {
    portable<128, 128>();
    portable<128, 64>();
    portable<64, 64>();
    hopper<64>();
    hopper<128>();
    hopper<256>();
    attention<64>();
    attention<128>();
    for (int width : kShortWidths) {
        short_attention("attention_short_kernel", 80, width);
        short_attention("attention_short_hopper_kernel", 90, width);
    }
    std::printf("depthwise_kernel %d\n", kDepthwiseTaps * kMostVectors * 32);
    std::printf("depthwise_weight_kernel %d\n", kDepthwiseThreads * 32);
    std::printf("row_norm_gradient_kernel 1 %d\n", 4 * 8 * kWarp * 8);  // two sums a column, of the longest such row
    return 0;
}

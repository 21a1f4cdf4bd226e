// Prints the dynamic shared memory that launches ask for, one "kernel bytes" a line: the compiler's report has only
// static memory.
#include <cstdio>

#include "cuda/attention_hopper_kernel.cuh"
#include "cuda/attention_kernel.cuh"
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

int main() {
    portable<128, 128>();
    portable<128, 64>();
    portable<64, 64>();
    hopper<64>();
    hopper<128>();
    hopper<256>();
    attention<64>();
    attention<128>();
    std::printf("row_norm_gradient_kernel 1 %d\n", 4 * 8 * kWarp * 8);  // two sums a column, of the longest such row
    return 0;
}

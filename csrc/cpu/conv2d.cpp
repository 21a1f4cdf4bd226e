#include "cpu/conv2d.h"

namespace dlperf {
namespace {

int64_t tiles_of(int64_t n, int64_t h, int64_t w) {
    return n * ((h + 3) / 4) * ((w + 3) / 4);
}

// Pairs of bfloat16 are multiplied twice as fast as floats, on tiles fourteen times; floats in three parts twice.
double direct_speed(DType dtype) {
    const bool bf16 = dtype == DType::bf16;
    if (current_isa() >= Isa::avx512_amx) return bf16 ? 10 : 1.7;
    return bf16 && current_isa() >= Isa::avx512_bf16 ? 2 : 1;
}

// Costs in multiply-adds, per pair of an input and an output channel except for the tiles' transforms. Fitted to the
// 3x3 layers of ResNet-18/50 and the DDPM U-Net, batch 1 and 8.
bool winograd_pays(const Conv2dShape& s, ConvDirection direction, bool prepacked) {
    constexpr double kTileTransform = 300;                       // per tile and channel
    constexpr double kMade = 300, kKept = 500, kGradient = 250;  // making or reading 36 values
    constexpr double kDirectFilters = 90, kDirectPack = 110;
    const bool input = direction == ConvDirection::bwd_input, weight = direction == ConvDirection::bwd_weight;
    const int64_t h = input ? s.h : s.oh, w = input ? s.w : s.ow;
    const double tiles = double(tiles_of(s.n, h, w)), channels = double(s.c + s.k), pairs = double(s.c) * double(s.k);
    const bool packs = !prepacked && !weight;
    // Multiply-adds that the direct sum does while Winograd's float32 does one.
    const double per_step = direct_speed(s.dtype);
    const double direct = double(s.n * h * w) * 9 / per_step + kDirectFilters + (packs ? kDirectPack : 0);
    const bool kept = pairs < kKeptFilters;
    const double made = kMade * (kept ? 1 : 1 + tiles / kFewTiles);  // once a call, or in each step
    const double filters = weight ? kGradient : prepacked && kept ? kKept : made;
    const double winograd = tiles * 36 + filters;
    return winograd + tiles * kTileTransform * channels / pairs < 0.9 * direct;
}

}  // namespace

ConvAlgorithm choose_algorithm(const Conv2dShape& s, ConvDirection direction, bool prepacked) {
    const bool can =
        s.groups == 1 && s.r == 3 && s.s == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dil_h == 1 && s.dil_w == 1;
    if (!can || s.algorithm == ConvAlgorithm::direct) return ConvAlgorithm::direct;
    if (s.algorithm == ConvAlgorithm::winograd) return ConvAlgorithm::winograd;
    if (s.c < 16 || s.k < 16) return ConvAlgorithm::direct;
    return winograd_pays(s, direction, prepacked) ? ConvAlgorithm::winograd : ConvAlgorithm::direct;
}

const Conv2dTable& conv2d_kernels(const Conv2dShape& s, ConvDirection direction, bool prepacked) {
    if (s.groups == s.c && s.c > 1) return DLPERF_DISPATCH(depthwise_table);
    if (choose_algorithm(s, direction, prepacked) == ConvAlgorithm::winograd) return DLPERF_DISPATCH(winograd_table);
    return DLPERF_DISPATCH_BF16(conv2d_table);
}

}  // namespace dlperf

#include "cpu/conv2d.h"

namespace dlperf {
namespace {

int64_t tiles_of(int64_t n, int64_t h, int64_t w) {
    return n * ((h + 3) / 4) * ((w + 3) / 4);
}

// How the direct sum compares with Winograd's float32: multiply-adds that it does while Winograd does one, and what it
// spends on filters packed beforehand, and on packing them.
struct Direct {
    double speed, filters, pack;
};

Direct direct_costs(DType dtype, ConvDirection direction) {
    const bool bf16 = dtype == DType::bf16;
    if (current_isa() >= Isa::avx512_amx && (bf16 || float32_tiles())) {
        // Both operands of the weight's gradient are cut into parts.
        const double parts = direction == ConvDirection::bwd_weight ? 1.4 : 2.0;
        return bf16 ? Direct{12, 10, 60} : Direct{parts, 30, 330};
    }
    return {bf16 && current_isa() >= Isa::avx512_bf16 ? 2.0 : 1.0, 90, 110};
}

// Costs in multiply-adds, per pair of an input and an output channel except for the tiles' transforms. Fitted to the
// 3x3 layers of ResNet-18/50 and the DDPM U-Net, batch 1 and 8, with AMX and without.
bool winograd_pays(const Conv2dShape& s, ConvDirection direction, bool prepacked) {
    constexpr double kTileTransform = 300;                       // per tile and channel
    constexpr double kMade = 300, kKept = 500, kGradient = 250;  // making or reading 36 values
    const bool input = direction == ConvDirection::bwd_input, weight = direction == ConvDirection::bwd_weight;
    const int64_t h = input ? s.h : s.oh, w = input ? s.w : s.ow;
    const double tiles = double(tiles_of(s.n, h, w)), channels = double(s.c + s.k), pairs = double(s.c) * double(s.k);
    const bool packs = !prepacked && !weight;
    const Direct d = direct_costs(s.dtype, direction);
    const double direct = double(s.n * h * w) * 9 / d.speed + d.filters + (packs ? d.pack : 0);
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

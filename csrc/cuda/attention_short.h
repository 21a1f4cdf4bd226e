// Attention over few keys (a ViT's 50 to 577, a text's 77): all keys and values of a head lie in shared memory at once,
// and go through in one step or few, as wide as registers allow. Plain C++17.
#pragma once

#include "cuda/attention.h"
#include "cuda/plan.h"

namespace dlperf::cuda {

constexpr int kShortDimension = 64;
constexpr int kShortWidths[] = {208, 144, 64};  // keys of a step, widest first
constexpr int kShortKeyBytes = 2 * kShortDimension * 2;
constexpr int kShortStage = 16 * 40 * 4;  // a warp's staging (epilogue.cuh)
constexpr int kShortBarriers = 256;

// Portable: four warps take strips of 16 queries. 9.0: warpgroups take strips of 64.
constexpr int kShortStrip = 16, kShortWarps = 4, kShortHopperStrip = 64;
// 86 and 89 have the least shared memory of all; 9.0 has more.
constexpr int kShortBytes = 101376, kShortHopperBytes = 232448;

struct ShortPlan {
    int width, steps;  // no steps: not for this kernel
    int owners;        // warps or warpgroups that share a block's strips
    int parts;         // blocks that share a head's strips
    int bytes;
};

inline int short_bytes(bool hopper, int keys, int owners) {
    return hopper ? 1024 + keys * kShortKeyBytes + owners * (kShortHopperStrip * 128 + 4 * kShortStage) + kShortBarriers
                  : keys * kShortKeyBytes + owners * (kShortStrip * 128 + kShortStage);
}

inline ShortPlan short_plan(const Attention& p, const Device& device) {
    const bool hopper = device.capability == 90;
    ShortPlan plan = {};
    if (p.dimension != kShortDimension || p.causal || p.keys > 1024) return plan;
    int least = 1 << 30;
    for (int width : kShortWidths) {
        const int steps = ceil_div(p.keys, width), cost = steps * (width + 8);
        if (cost < least) least = cost, plan.width = width, plan.steps = steps;
    }
    const int keys = plan.width * plan.steps, limit = hopper ? kShortHopperBytes : kShortBytes;
    // One warpgroup a block where two blocks fit beside each other, else two.
    plan.owners = !hopper ? kShortWarps : 2 * (short_bytes(true, keys, 1) + 1024) <= limit ? 1 : 2;
    plan.bytes = short_bytes(hopper, keys, plan.owners);
    const bool saves = keys <= 256 || keys < ceil_div(p.keys, 128) * 128;  // against the kernel for any length
    if (plan.bytes > limit || !saves) return {};
    const int64_t pairs = int64_t(p.batches) * p.heads;
    const int most = ceil_div(ceil_div(p.queries, hopper ? kShortHopperStrip : kShortStrip), plan.owners);
    const int64_t wanted = ceil_div<int64_t>(4 * int64_t(device.processors), pairs);
    plan.parts = int(wanted < most ? wanted : most);
    return plan;
}

void attention_short_forward(const Attention& call, const ShortPlan& plan, const Device& device);

struct ShortPlace {
    int head, batch;
    Range strips;
};

DLPERF_INDEX ShortPlace short_place(int block, int strips, int parts, int heads) {
    const int pair = block / parts;
    return {pair % heads, pair / heads, split_range(strips, parts, block % parts)};
}

// Where an owner begins in a block's strips; it goes on by `owners`. Turned by the block, so that the longer shares do
// not all fall to the same quarter of a multiprocessor.
DLPERF_INDEX int short_first(const Range& strips, int owner, int owners, int block) {
    return strips.begin + (owner + block) % owners;
}

}  // namespace dlperf::cuda

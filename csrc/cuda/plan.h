// Which kernel, tile and split a product gets, and the workspace that it needs. Plain C++17. Tiles are from the
// compiler's report (docs/cuda.md) and not measured yet.
#pragma once

#include "cuda/common.h"

namespace dlperf::cuda {

struct Device {
    int capability;  // 80, 90, ...
    int processors;
    void* stream;
};

// The widest tiles of 9.0 are computed two at a time, one above the other, by a cluster whose blocks share their
// columns' operand.
DLPERF_INDEX constexpr int cluster_of(int block_n) {
    return block_n == 256 ? 2 : 1;
}

struct Plan {
    bool hopper;  // wgmma and bulk copies
    int block_m, block_n, parts;
    int cluster() const { return hopper ? cluster_of(block_n) : 1; }
};

constexpr int kGroup = 8;  // rows of tiles that run together
constexpr int kMostParts = 32;

// rows x columns summed over `depth`, `batches` times. unit_columns: what a tile's columns must not straddle (a tap's
// channels in the weight's gradient), or `columns`.
inline Plan plan_product(const Device& device, bool bulk_copies_fit, int64_t rows, int64_t columns,
                         int64_t unit_columns, int64_t depth, int batches) {
    Plan plan;
    plan.hopper = device.capability == 90 && bulk_copies_fit;
    auto tiles = [&](int block_m, int block_n) {
        return batches * ceil_div<int64_t>(rows, block_m) * (columns / unit_columns) *
               ceil_div<int64_t>(unit_columns, block_n);
    };
    struct Candidate {
        int m, n;
    };
    constexpr Candidate on_hopper[] = {{128, 256}, {128, 128}, {128, 64}};
    constexpr Candidate portable[] = {{128, 128}, {128, 64}, {64, 64}};
    const Candidate* candidates = plan.hopper ? on_hopper : portable;
    int chosen = 2;
    for (int i = 2; i >= 0; --i) {
        const bool wide_enough = candidates[i].n < 2 * unit_columns || candidates[i].n == 64;
        if (rows <= 128 && candidates[i].n == 256) continue;  // no second tile for a cluster
        if (wide_enough && (i == 2 || tiles(candidates[i].m, candidates[i].n) * 4 >= device.processors * 3)) chosen = i;
    }
    plan.block_m = candidates[chosen].m, plan.block_n = candidates[chosen].n;
    const int64_t steps = ceil_div<int64_t>(depth, plan.hopper ? 64 : 32), count = tiles(plan.block_m, plan.block_n);
    plan.parts = 1;
    while (count * plan.parts * 2 <= device.processors * 2 && steps >= plan.parts * 8 && plan.parts < kMostParts)
        plan.parts *= 2;
    return plan;
}

// Float32 values.
inline int64_t workspace(const Plan& plan, int64_t elements) {
    return plan.parts > 1 ? plan.parts * elements : 0;
}

inline Schedule schedule_of(const Plan& plan, int64_t rows, int64_t column_tiles, int batches) {
    const int together = plan.cluster();  // the schedule's rows of tiles are a cluster's
    return {int(ceil_div<int64_t>(rows, plan.block_m * together)), int(column_tiles), batches, plan.parts,
            kGroup / together};
}

}  // namespace dlperf::cuda

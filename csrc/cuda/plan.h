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
    int split;  // tiles (clusters) whose reduction is in parts: all, or those behind the last full wave
    int cluster() const { return hopper ? cluster_of(block_n) : 1; }
};

constexpr int kGroup = 8;  // rows of tiles that run together
constexpr int kMostParts = 32;

// rate: a multiprocessor's speed on such tiles, of its highest: narrow ones read more for each multiplication. A guess.
struct TileKind {
    int m, n;
    double rate;
};

constexpr TileKind kHopperTiles[] = {{128, 256, 1.0}, {128, 128, 0.8}, {128, 64, 0.55}};
constexpr TileKind kPortableTiles[] = {{128, 128, 1.0}, {128, 64, 0.8}, {64, 64, 0.6}};

// Cycles that a product of `units` tiles (clusters) takes if the last `split` of them are in parts: the waves in which
// `workers` take them, each with its start and its end, and what joining parts reads and writes. A model, not measured.
inline double product_cycles(const TileKind& tile, int64_t units, int64_t split, int parts, int64_t steps,
                             int64_t workers, int together) {
    constexpr double start_and_end = 4.0, per_step = 1.0 / 32.0;    // steps; cycles for each of a tile's elements
    constexpr double second_launch = 3000.0, bytes_a_cycle = 20.0;  // of a multiprocessor
    const double size = double(tile.m) * tile.n, step = size * per_step / tile.rate;
    const double whole = double(ceil_div(units - split, workers)) * (double(steps) + start_and_end) * step;
    if (split == 0) return whole;
    const double waves = double(ceil_div(split * parts, workers));
    const double bytes = double(split) * together * size * (8.0 * parts + 2.0);
    return whole + waves * (double(ceil_div<int64_t>(steps, parts)) + start_and_end) * step + second_launch +
           bytes / (bytes_a_cycle * double(workers) * together);
}

// rows x columns summed over `depth`, `batches` times. unit_columns: what a tile's columns must not straddle (a tap's
// channels in the weight's gradient), or `columns`. whole_tail: tiles behind full waves are not split.
inline Plan plan_product(const Device& device, bool bulk_copies_fit, int64_t rows, int64_t columns,
                         int64_t unit_columns, int64_t depth, int batches, bool whole_tail = false) {
    const bool hopper = device.capability == 90 && bulk_copies_fit;
    const int64_t steps = ceil_div<int64_t>(depth, hopper ? 64 : 32);
    Plan plan = {hopper, 0, 0, 1, 0};
    double least = 0.0;
    for (const TileKind& tile : hopper ? kHopperTiles : kPortableTiles) {
        const int together = hopper ? cluster_of(tile.n) : 1;
        const int64_t workers = device.processors < together ? 1 : device.processors / together;
        const int64_t units = ceil_div<int64_t>(rows, int64_t(tile.m) * together) * batches * (columns / unit_columns) *
                              ceil_div<int64_t>(unit_columns, tile.n);
        const int64_t tail = units < workers ? units : whole_tail ? 0 : units % workers;
        for (int parts = 1; parts == 1 || (parts <= kMostParts && tail > 0 && steps >= parts * 4); ++parts) {
            const int64_t split = parts > 1 ? tail : 0;
            const double cycles = product_cycles(tile, units, split, parts, steps, workers, together);
            if (plan.block_m == 0 || cycles < least) least = cycles, plan = {hopper, tile.m, tile.n, parts, int(split)};
        }
    }
    return plan;
}

// Float32 values.
inline int64_t workspace(const Plan& plan) {
    return int64_t(plan.split) * plan.cluster() * plan.parts * plan.block_m * plan.block_n;
}

inline Schedule schedule_of(const Plan& plan, int64_t rows, int64_t column_tiles, int batches) {
    const int together = plan.cluster();  // the schedule's rows of tiles are a cluster's
    return {int(ceil_div<int64_t>(rows, plan.block_m * together)),
            int(column_tiles),
            batches,
            plan.split,
            plan.parts,
            kGroup / together};
}

}  // namespace dlperf::cuda

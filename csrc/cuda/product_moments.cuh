// Moments of a product's columns (moments.h), from the warps' staged slabs; lane l of a warp has column l of a slab.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

// Of a column's first `count` of 16 rows, as they are stored.
template <class T>
DLPERF_DEVICE Moments staged_moments(const float* stage, int lane, int count) {
    auto value = [&](int i) { return to_float(from_float<T>(stage[i * kStageStride + lane])); };
    float sum = 0.0f, squares = 0.0f;
#pragma unroll 4
    for (int i = 0; i < 16; ++i) sum += i < count ? value(i) : 0.0f;
    const float mean = count == 0 ? 0.0f : sum / float(count);
#pragma unroll 4
    for (int i = 0; i < 16; ++i) squares += i < count ? (value(i) - mean) * (value(i) - mean) : 0.0f;
    return {float(count), mean, squares};
}

DLPERF_DEVICE void store_moments(const MomentsTarget& to, const Moments& all, int entry, int column) {
    if (column >= to.columns || all.count == 0.0f) return;
    const int64_t at = int64_t(entry) * to.columns + column;
    to.out[at] = all.mean;
    to.out[int64_t(to.entries()) * to.columns + at] = all.squares;
}

// Warps that own 16 rows each of the same columns meet at every slab; one of them joins what all have found.
// exchange: 2 * Warps * 2 * kSlab floats, used in turns, so that one meeting a slab is enough.
template <class T, int Warps, bool Wanted>
struct SharedMoments {
    static constexpr int bytes = 2 * Warps * 2 * kSlab * 4;
    const MomentsTarget& to;
    float* exchange;
    int warp, lane, row, column, barrier;  // row: the tile's first

    DLPERF_DEVICE void operator()(int slab, const float* stage) {
        if (!Wanted || to.out == nullptr) return;
        float* found = exchange + slab % 2 * (Warps * 2 * kSlab);
        const Moments own = staged_moments<T>(stage, lane, rows_there(to.rows, row + warp * 16, 16));
        found[warp * 2 * kSlab + lane] = own.mean;
        found[warp * 2 * kSlab + kSlab + lane] = own.squares;
        sync_threads(barrier, Warps * kWarp);
        if (slab % Warps != warp) return;
        Moments all = {0.0f, 0.0f, 0.0f};
        for (int i = 0; i < Warps; ++i)
            all = merge(all, {float(rows_there(to.rows, row + i * 16, 16)), found[i * 2 * kSlab + lane],
                              found[i * 2 * kSlab + kSlab + lane]});
        store_moments(to, all, row / to.step, column + slab * kSlab + lane);
    }
};

// A warp that owns all rows of an entry, strip by strip.
template <class T, int Slabs, bool Wanted>
struct OwnMoments {
    const MomentsTarget& to;
    int lane, row;  // row: the strip's
    Moments all[Slabs] = {};

    DLPERF_DEVICE void operator()(int slab, const float* stage) {
        if (!Wanted || to.out == nullptr) return;
        all[slab] = merge(all[slab], staged_moments<T>(stage, lane, rows_there(to.rows, row, 16)));
    }

    DLPERF_DEVICE void store(int entry, int column) const {
        if (!Wanted || to.out == nullptr) return;
#pragma unroll
        for (int i = 0; i < Slabs; ++i) store_moments(to, all[i], entry, column + i * kSlab + lane);
    }
};

}  // namespace dlperf::cuda

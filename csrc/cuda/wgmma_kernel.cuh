// The product of compute capability 9.0: one warp fills a ring of tiles by bulk copies, two warpgroups multiply them by
// wgmma, 64 rows each; persistent over the schedule's units. The widest tiles are computed by clusters of two blocks,
// of which each loads half of what both multiply by. Convolutions differ in where their tiles come from.
#pragma once

#include "cuda/product_moments.cuh"
#include "cuda/wgmma.cuh"

namespace dlperf::cuda {

constexpr int kTileRows = 128;
constexpr int kTileDepth = 64;
constexpr int kWgmmaThreads = 384;
constexpr int kConsumerWarps = 8;

template <int BlockN>
struct WgmmaShape {
    static constexpr int a_bytes = kTileRows * kTileDepth * 2;
    static constexpr int stage_bytes = a_bytes + BlockN * kTileDepth * 2;
    static constexpr int stages = 196608 / stage_bytes;
    static constexpr int staging_bytes = kConsumerWarps * kStageFloats * 4;
    static constexpr int exchange_bytes = SharedMoments<float, kConsumerWarps, true>::bytes;
    static constexpr int shared_bytes = 1024 + stages * stage_bytes + staging_bytes + exchange_bytes + 2 * stages * 8;
};

// One of a cluster's `Parts` blocks, which loads its share of what all of them multiply by, into all of them.
template <int Parts>
struct Share {
    int rank;
    uint32_t barrier;
    DLPERF_DEVICE void box(uint32_t to, const TensorMap& map, int c0, int c1, int c2) const {
        if (Parts == 1)
            load_box(to, map, barrier, c0, c1, c2);
        else
            load_box_to_all(to, map, barrier, Parts, c0, c1, c2);
    }
    DLPERF_DEVICE void pixels(uint32_t to, const TensorMap& map, int c, const Pixel& at, int offset_w,
                              int offset_h) const {
        if (Parts == 1)
            load_pixels(to, map, barrier, c, at.w, at.h, at.image, offset_w, offset_h);
        else
            load_pixels_to_all(to, map, barrier, Parts, c, at.w, at.h, at.image, offset_w, offset_h);
    }
};

// A share of a matrix operand's tile of `Rows` rows (along m or n) by 64 of k; the map's boxes are Rows / Parts x 64,
// or 64 x 64 where the matrix lies across k.
template <Major M, int Rows, int Parts>
DLPERF_DEVICE void load_tile(uint32_t to, const TensorMap& map, const Share<Parts>& share, int row, int k, int batch) {
    if (M == Major::k) {
        const int first = share.rank * (Rows / Parts);
        share.box(to + first * 128, map, k, row + first, batch);
    } else {
#pragma unroll
        for (int i = 0; i < Rows / 64 / Parts; ++i) {
            const int box = share.rank * (Rows / 64 / Parts) + i;
            share.box(to + box * kBoxBytes, map, row + box * 64, k, batch);
        }
    }
}

template <Major A, Major B>
struct MatrixSource {
    static constexpr Major major_a = A, major_b = B;
    TensorMap a, b;
    template <int BlockN, int Parts>
    DLPERF_DEVICE void load(uint32_t to_a, uint32_t to_b, const Share<Parts>& share, const Unit& unit, int step) const {
        const Share<1> own = {0, share.barrier};
        load_tile<A, kTileRows>(to_a, a, own, unit.tile.m * kTileRows, step * kTileDepth, unit.batch);
        load_tile<B, BlockN>(to_b, b, share, unit.tile.n * BlockN, step * kTileDepth, unit.batch);
    }
};

// A gather's rows against a weight [k, taps, c]: along its channels (forward), or across them (the input's gradient).
template <Major B>
struct GatherSource {
    static constexpr Major major_a = Major::k, major_b = B;
    TensorMap a, b;
    Gather gather;
    TapOrder order;
    int blocks;  // of kTileDepth channels of the gather
    template <int BlockN, int Parts>
    DLPERF_DEVICE void load(uint32_t to_a, uint32_t to_b, const Share<Parts>& share, const Unit& unit, int step) const {
        const int tap = step / blocks, channel = step % blocks * kTileDepth;
        const Pixel pixel = pixel_of(gather, unit.tile.m * kTileRows);
        load_pixels(to_a, a, share.barrier, channel, pixel.w, pixel.h, pixel.image, tap % gather.taps_s * gather.step_w,
                    tap / gather.taps_s * gather.step_h);
        const int weight_tap = order(tap, gather.taps_s), row = unit.tile.n * BlockN;
        if (B == Major::k) {
            const int first = share.rank * (BlockN / Parts);
            share.box(to_b + first * 128, b, channel, weight_tap, row + first);
        } else {
#pragma unroll
            for (int i = 0; i < BlockN / 64 / Parts; ++i) {
                const int box = share.rank * (BlockN / 64 / Parts) + i;
                share.box(to_b + box * kBoxBytes, b, row + box * 64, weight_tap, channel);
            }
        }
    }
};

// The weight's gradient: the output's gradient [pixels, k] across its pixels, against the gather's, tap by tap.
struct WeightSource {
    static constexpr Major major_a = Major::mn, major_b = Major::mn;
    TensorMap a, b;
    Gather gather;
    int padded;  // columns of a tap
    template <int BlockN, int Parts>
    DLPERF_DEVICE void load(uint32_t to_a, uint32_t to_b, const Share<Parts>& share, const Unit& unit, int step) const {
        const Share<1> own = {0, share.barrier};
        load_tile<Major::mn, kTileRows>(to_a, a, own, unit.tile.m * kTileRows, step * kTileDepth, 0);
        const Pixel pixel = pixel_of(gather, step * kTileDepth);
        const int column = unit.tile.n * BlockN, tap = column / padded, channel = column % padded;
#pragma unroll
        for (int i = 0; i < BlockN / 64 / Parts; ++i) {
            const int box = share.rank * (BlockN / 64 / Parts) + i;
            share.pixels(to_b + box * kBoxBytes, b, channel + box * 64, pixel, tap % gather.taps_s * gather.step_w,
                         tap / gather.taps_s * gather.step_h);
        }
    }
};

template <class Source, class Place>
struct alignas(64) WgmmaProblem {
    Source source;
    int steps;  // of kTileDepth
    Schedule schedule;
    Place place;
    Epilogue epilogue;
};

// Which slot of a ring comes next, and the parity of its turn.
struct RingPosition {
    int slot = 0;
    uint32_t parity = 0;
    DLPERF_INDEX void advance(int slots) {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
};

template <class T, int BlockN, class Source, class Place>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    wgmma_kernel(const __grid_constant__ WgmmaProblem<Source, Place> p) {
#ifdef DLPERF_SM90A
    using Shape = WgmmaShape<BlockN>;
    constexpr int kTogether = cluster_of(BlockN);
    const int rank = kTogether > 1 ? int(blockIdx.x) % kTogether : 0;
    const int first = int(blockIdx.x) / kTogether, stride = int(gridDim.x) / kTogether;
    auto unit_of = [&](int number) {
        Unit unit = p.schedule.unit(number);
        unit.tile.m = unit.tile.m * kTogether + rank;
        return unit;
    };
    const uint32_t base = shared_address(dynamic_shared()), ring = (base + 1023) & ~1023u;
    const uint32_t staging = ring + Shape::stages * Shape::stage_bytes;
    const uint32_t exchange = staging + Shape::staging_bytes;
    const uint32_t full = exchange + Shape::exchange_bytes, empty = full + Shape::stages * 8;
    const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp, group = thread / 128;
    if (thread == 0) {
        for (int i = 0; i < Shape::stages; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, kConsumerWarps * kTogether);
        }
        barrier_init_fence();
    }
    if (kTogether > 1)
        cluster_sync();
    else
        sync_block();
    // A slot is empty when all blocks that get its tiles have multiplied them.
    auto release = [&](int slot) {
        if (kTogether == 1 && lane == 0) barrier_arrive(empty + slot * 8);
        if (kTogether > 1 && lane < kTogether) barrier_arrive(empty + slot * 8, lane);
    };
    RingPosition at;
    if (group == 0) {
        give_registers<40>();
        if (thread == 0) {
            prefetch_map(p.source.a);
            prefetch_map(p.source.b);
            for (int number = first; number < p.schedule.units(); number += stride) {
                const Unit unit = unit_of(number);
                const Range range = split_range(p.steps, unit.parts, unit.part);
#pragma unroll 1  // the loading warp has 40 registers
                for (int step = range.begin; step < range.end; ++step) {
                    barrier_wait(empty + at.slot * 8, at.parity ^ 1);
                    const uint32_t tile = ring + at.slot * Shape::stage_bytes, barrier = full + at.slot * 8;
                    barrier_expect(barrier, Shape::stage_bytes);
                    const Share<kTogether> share = {rank, barrier};
                    p.source.template load<BlockN>(tile, tile + Shape::a_bytes, share, unit, step);
                    at.advance(Shape::stages);
                }
            }
        }
    } else {
        take_registers<232>();
        float* stage = reinterpret_cast<float*>(dynamic_shared() + (staging - base)) + (warp - 4) * kStageFloats;
        for (int number = first; number < p.schedule.units(); number += stride) {
            const Unit unit = unit_of(number);
            const Range range = split_range(p.steps, unit.parts, unit.part);
            float acc[BlockN / 2];
#pragma unroll
            for (int i = 0; i < BlockN / 2; ++i) acc[i] = 0.0f;
            int before = -1;
            for (int step = range.begin; step < range.end; ++step) {
                barrier_wait(full + at.slot * 8, at.parity);
                const uint32_t tile = ring + at.slot * Shape::stage_bytes;
                pin(acc);
                products_fence();
#pragma unroll
                for (int k = 0; k < kTileDepth / 16; ++k)
                    products<T, BlockN, Source::major_a, Source::major_b>(
                        acc, operand<Source::major_a>(tile + (group - 1) * kBoxBytes, k),
                        operand<Source::major_b>(tile + Shape::a_bytes, k), true);
                products_commit();
                products_wait<1>();
                if (before >= 0) release(before);
                before = at.slot;
                at.advance(Shape::stages);
            }
            products_wait<0>();
            pin(acc);
            if (before >= 0) release(before);
            const int row = unit.tile.m * kTileRows, column = unit.tile.n * BlockN;
            float* found = reinterpret_cast<float*>(dynamic_shared() + (exchange - base));
            finish_strip<T, BlockN / 8>(
                acc, stage, lane, row + (warp - 4) * 16, column, unit.batch,
                part_target<kTileRows, BlockN>(p.epilogue, unit, unit.slot * kTogether + rank, (warp - 4) * 16, 0),
                p.epilogue, p.place,
                SharedMoments<T, kConsumerWarps, Place::has_moments>{p.epilogue.moments, found, warp - 4, lane, row,
                                                                     column, 1});
        }
    }
    if (kTogether > 1) cluster_sync();  // no block ends while another may still reach into it
#endif
}

}  // namespace dlperf::cuda

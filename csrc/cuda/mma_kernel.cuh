// The portable product, from compute capability 8.0: cp.async ring, ldmatrix, mma.sync. Convolutions are products too:
// operands say where their chunks lie.
#pragma once

#include "cuda/operands.h"
#include "cuda/product_moments.cuh"

namespace dlperf::cuda {

template <class T, class A, class B, class Place>
struct MmaProblem {
    const T* a;
    const T* b;
    A a_operand;
    B b_operand;
    int64_t a_batch, b_batch;
    int steps;  // of kStep values of the reduction
    Schedule schedule;
    Place place;
    Epilogue epilogue;
};

constexpr int kMmaThreads = 128;
constexpr int kMmaStages = 4;

template <int BlockM, int BlockN>
constexpr int mma_shared_bytes() {
    return kMmaStages * (BlockM + BlockN) * kStep * 2;
}

// A tile's chunk inside shared memory: [length][kStep] along k, else [kStep][length]; exclusive-or spreads the banks.
template <bool AlongK, int Length>
DLPERF_INDEX int chunk_at(int outer, int chunk) {
    return AlongK ? outer * (kStep * 2) + (chunk ^ (outer >> 1 & 3)) * 16
                  : outer * (Length * 2) + (chunk ^ (outer & 7)) * 16;
}

// One thread's share of loading one operand's tiles.
template <class T, class Operand, int Length>
struct TileLoader {
    static constexpr int kChunksAcross = Operand::along_k ? kStep / 8 : Length / 8;
    static constexpr int kOuterStep = kMmaThreads / kChunksAcross;
    static constexpr int kCount = (Operand::along_k ? Length : kStep) / kOuterStep;
    static constexpr int kFixed = Operand::along_k ? kCount : 1;

    typename Operand::Fixed fixed[kFixed];
    int outer, chunk;

    DLPERF_DEVICE TileLoader(const Operand& operand, int first, int thread)
        : outer(thread / kChunksAcross), chunk(thread % kChunksAcross) {
#pragma unroll
        for (int i = 0; i < kFixed; ++i)
            fixed[i] = operand.fix(first + (Operand::along_k ? outer + i * kOuterStep : chunk * 8));
    }

    DLPERF_DEVICE void load(const Operand& operand, const T* from, uint32_t tile, int step) const {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int row = outer + i * kOuterStep;
            bool there;
            const int64_t at =
                operand.at(fixed[Operand::along_k ? i : 0], step, Operand::along_k ? chunk * 8 : row, there);
            copy_async(tile + chunk_at<Operand::along_k, Length>(row, chunk), from + (there ? at : 0), there);
        }
    }
};

// multiply()'s a of 16 rows by 16 k.
template <bool AlongK, int Length>
DLPERF_DEVICE void load_a(uint32_t (&a)[4], uint32_t tile, int row, int k, int lane) {
    const int matrix = lane / 8, r = lane % 8;
    if (AlongK)
        load_matrices(a, tile + chunk_at<true, Length>(row + (matrix & 1) * 8 + r, k / 8 + (matrix >> 1)));
    else
        load_matrices_transposed(a, tile + chunk_at<false, Length>(k + (matrix >> 1) * 8 + r, row / 8 + (matrix & 1)));
}

// multiply()'s b0, b1 of columns 0 to 7, then of columns 8 to 15.
template <bool AlongK, int Length>
DLPERF_DEVICE void load_b(uint32_t (&b)[4], uint32_t tile, int column, int k, int lane) {
    const int matrix = lane / 8, r = lane % 8;
    if (AlongK)
        load_matrices(b, tile + chunk_at<true, Length>(column + (matrix >> 1) * 8 + r, k / 8 + (matrix & 1)));
    else
        load_matrices_transposed(b,
                                 tile + chunk_at<false, Length>(k + (matrix & 1) * 8 + r, column / 8 + (matrix >> 1)));
}

// Four warps, two by two, each a quarter of the tile.
template <class T, int BlockM, int BlockN, class A, class B, class Place>
DLPERF_DEVICE void mma_product(const MmaProblem<T, A, B, Place>& p) {
    constexpr int kRowTiles = BlockM / 32, kColumnTiles = BlockN / 16;  // of 16 rows, of 8 columns, per warp
    constexpr int kBytesA = BlockM * kStep * 2, kStage = (BlockM + BlockN) * kStep * 2;
    const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
    const int warp_row = warp / 2 * (BlockM / 2), warp_column = warp % 2 * (BlockN / 2);
    const Unit unit = p.schedule.unit(blockIdx.x);
    const Range range = split_range(p.steps, unit.parts, unit.part);
    const uint32_t shared = shared_address(dynamic_shared());
    const T* a = p.a + unit.batch * p.a_batch;
    const T* b = p.b + unit.batch * p.b_batch;
    const TileLoader<T, A, BlockM> a_loader(p.a_operand, unit.tile.m * BlockM, thread);
    const TileLoader<T, B, BlockN> b_loader(p.b_operand, unit.tile.n * BlockN, thread);

    auto load = [&](int step) {
        if (step < range.end) {
            const uint32_t tile = shared + (step - range.begin) % kMmaStages * kStage;
            a_loader.load(p.a_operand, a, tile, step);
            b_loader.load(p.b_operand, b, tile + kBytesA, step);
        }
        copy_commit();
    };

    float acc[kRowTiles][kColumnTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kMmaStages - 1; ++i) load(range.begin + i);
    for (int step = range.begin; step < range.end; ++step) {
        copy_wait<kMmaStages - 2>();
        sync_block();
        load(step + kMmaStages - 1);
        const uint32_t tile = shared + (step - range.begin) % kMmaStages * kStage;
#pragma unroll
        for (int k = 0; k < kStep; k += 16) {
            uint32_t fa[kRowTiles][4];
#pragma unroll
            for (int i = 0; i < kRowTiles; ++i) load_a<A::along_k, BlockM>(fa[i], tile, warp_row + i * 16, k, lane);
#pragma unroll
            for (int j = 0; j < kColumnTiles; j += 2) {
                uint32_t fb[4];
                load_b<B::along_k, BlockN>(fb, tile + kBytesA, warp_column + j * 8, k, lane);
#pragma unroll
                for (int i = 0; i < kRowTiles; ++i) {
                    multiply<T>(acc[i][j], fa[i], fb[0], fb[1]);
                    multiply<T>(acc[i][j + 1], fa[i], fb[2], fb[3]);
                }
            }
        }
    }
    copy_wait<0>();
    sync_block();  // the ring becomes the warps' staging
    float* stage = reinterpret_cast<float*>(dynamic_shared()) + warp * kStageFloats;
    const int row = unit.tile.m * BlockM + warp_row, column = unit.tile.n * BlockN + warp_column;
    OwnMoments<T, kColumnTiles / 4, Place::has_moments> moments{p.epilogue.moments, lane, row};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
        moments.row = row + i * 16;
        const PartTarget part =
            part_target<BlockM, BlockN>(p.epilogue, unit, unit.slot, warp_row + i * 16, warp_column);
        finish_strip<T, kColumnTiles>(&acc[i][0][0], stage, lane, row + i * 16, column, unit.batch, part, p.epilogue,
                                      p.place, moments);
    }
    moments.store(row / (BlockM / 2), column);
}

template <class T, int BlockM, int BlockN, class A, class B, class Place>
__global__ void __launch_bounds__(kMmaThreads) mma_kernel(const __grid_constant__ MmaProblem<T, A, B, Place> p) {
    if constexpr (kIsPortable || !Place::fits_bulk_copies) mma_product<T, BlockM, BlockN>(p);
}

}  // namespace dlperf::cuda

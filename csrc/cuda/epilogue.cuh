// How a tile of a product ends: act(alpha sum + bias + beta residual), from a warp's accumulators to 16-byte stores.
#pragma once

#include "cuda/math.cuh"
#include "cuda/moments.h"
#include "cuda/places.h"

namespace dlperf::cuda {

// parts: where tiles that are split write their float32 sums, [slot, part, rows of a tile, columns of a tile];
// join_kernel ends them. moments: of the result's columns, where there is nothing but the sum.
struct Epilogue {
    const void* bias;
    const void* residual;
    void* out;
    float* parts;
    int64_t batch_size, residual_batch;
    float alpha, beta;
    Activation activation;
    MomentsTarget moments;
};

constexpr int kSlab = 32;         // columns that a warp writes at a time
constexpr int kStageStride = 40;  // floats of a staged row: no two rows' pairs share a bank
constexpr int kStageFloats = 16 * kStageStride;

// Eight neighbouring values of one row.
template <class T>
DLPERF_DEVICE void finish_chunk(float (&value)[8], const Epilogue& e, int batch, int64_t residual_at, int64_t at,
                                int bias_at) {
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= e.alpha;
    if (e.bias != nullptr) {
        float bias[8];
        load8(bias, static_cast<const T*>(e.bias) + bias_at);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] += bias[i];
    }
    if (e.residual != nullptr) {
        float residual[8];
        load8(residual, static_cast<const T*>(e.residual) + batch * e.residual_batch + residual_at);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] += e.beta * residual[i];
    }
    activate(value, e.activation);
    store8(static_cast<T*>(e.out) + batch * e.batch_size + at, value);
}

// Where a strip of a part begins in the workspace, and how far its rows are apart; null: the product ends here.
struct PartTarget {
    float* to;
    int stride;
};

template <int Rows, int Columns>
DLPERF_DEVICE PartTarget part_target(const Epilogue& e, const Unit& unit, int slot, int row, int column) {
    if (unit.parts == 1) return {nullptr, 0};
    return {e.parts + ((int64_t(slot) * unit.parts + unit.part) * Rows + row) * Columns + column, Columns};
}

struct NoMoments {
    DLPERF_DEVICE void operator()(int, const float*) {}
};

// 16 rows by 8 * J columns, held as multiply()'s c one after the other, from (row, column) of the product on.
// stage: kStageFloats of the warp's own. moments(slab, stage): what else becomes of the staged values.
template <class T, int J, class Place, class Observer = NoMoments>
DLPERF_DEVICE void finish_strip(const float* acc, float* stage, int lane, int row, int column, int batch,
                                const PartTarget& part, const Epilogue& e, const Place& place,
                                Observer&& moments = {}) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int slab = 0; slab < J / 4; ++slab) {
        sync_warp();
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float* c = acc + (slab * 4 + j) * 4;
            stage[g * kStageStride + j * 8 + 2 * t] = c[0];
            stage[g * kStageStride + j * 8 + 2 * t + 1] = c[1];
            stage[(g + 8) * kStageStride + j * 8 + 2 * t] = c[2];
            stage[(g + 8) * kStageStride + j * 8 + 2 * t + 1] = c[3];
        }
        sync_warp();
        moments(slab, stage);
        const Position to_column = place.column(column + slab * kSlab + t * 8);
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            const Position to_row = place.row(row + half * 8 + g);
            if (part.to == nullptr && !(to_row.there && to_column.there)) continue;
            float value[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) value[i] = stage[(half * 8 + g) * kStageStride + t * 8 + i];
            if (part.to != nullptr) {
                store8(part.to + (half * 8 + g) * part.stride + slab * kSlab + t * 8, value);
            } else {
                const int64_t residual_at = place.residual_row(row + half * 8 + g) + to_column.at;
                finish_chunk<T>(value, e, batch, residual_at, to_row.at + to_column.at, int(to_column.at));
            }
        }
    }
}

}  // namespace dlperf::cuda

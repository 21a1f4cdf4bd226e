// The end of tiles whose reduction was split: their parts added in order, and the epilogue.
#pragma once

#include "cuda/epilogue.cuh"

namespace dlperf::cuda {

template <class Place>
struct Join {
    Schedule schedule;
    int block_m, block_n, together;  // together: tiles of a cluster, one above the other
    Place place;
    Epilogue epilogue;
    DLPERF_INDEX int64_t chunks() const { return int64_t(schedule.split) * together * block_m * (block_n / 8); }
};

// Eight columns of one row of a split tile: where they lie in the product, and where in a slot of the workspace.
struct JoinedChunk {
    int slot, row, column, batch, m, n;
};

template <class Place>
DLPERF_INDEX JoinedChunk joined_chunk(const Join<Place>& p, int64_t number) {
    const int across = p.block_n / 8, of_tile = p.block_m * across, inside = int(number % of_tile);
    const int slot = int(number / of_tile), row = inside / across, column = inside % across * 8;
    const Unit unit = p.schedule.unit(p.schedule.whole() + slot / p.together);
    return {slot,
            row,
            column,
            unit.batch,
            (unit.tile.m * p.together + slot % p.together) * p.block_m + row,
            unit.tile.n * p.block_n + column};
}

template <class T, class Place>
__global__ void __launch_bounds__(256, 2) join_kernel(const __grid_constant__ Join<Place> p) {
    const int64_t number = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (number >= p.chunks()) return;
    const JoinedChunk chunk = joined_chunk(p, number);
    const Position row = p.place.row(chunk.m), column = p.place.column(chunk.n);
    if (!row.there || !column.there) return;
    float sum[8] = {};
    for (int part = 0; part < p.schedule.parts; ++part) {
        const int64_t slot = int64_t(chunk.slot) * p.schedule.parts + part;
        float value[8];
        load8(value, p.epilogue.parts + (slot * p.block_m + chunk.row) * p.block_n + chunk.column);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] += value[i];
    }
    finish_chunk<T>(sum, p.epilogue, chunk.batch, p.place.residual_row(chunk.m) + column.at, row.at + column.at,
                    int(column.at));
}

}  // namespace dlperf::cuda

// The outer engine: A and B both packed per block of a long reduction. Products with A transposed, weight gradients;
// one thread's share.
#pragma once

#include "cpu/gemm_engine.h"

namespace dlperf::DLPERF_ISA_NS {

// One thread's region of C over [k_begin, k_end): rows x panels, small enough that its accumulators and packed A stay
// in L2.
struct Region {
    int64_t m_begin, m_end, panel_begin, panel_end, k_begin, k_end;
};

constexpr int64_t kOuterRows = kTiles ? 480 : 528, kOuterPanels = 512 / kPanel;

// Rows of a block where there are `rows`: blocks of about the same size.
static inline int64_t outer_rows(int64_t rows, int64_t mr) {
    return round_up(ceil_div(max64(rows, 1), ceil_div(max64(rows, 1), kOuterRows)), mr);
}

// Rows that regions are multiples of.
static inline int64_t outer_mr(bool tiles, int64_t plain) {
    return tiles ? 2 * kTileRows : plain;
}

// Floats of the buffers for blocks of `rows`.
static inline int64_t outer_a_floats(int64_t rows, bool pairs, bool tiles) {
    const int64_t plain = rows * kBlocks.outer_depth;
    return tiles && !pairs ? max64(plain, round_up(rows, 2 * kTileRows) * kThirdsDepth * kThirds / 2)
                           : round_up(rows, tiles ? 2 * kTileRows : 1) * kBlocks.outer_depth;
}
static inline int64_t outer_b_floats(bool pairs, bool tiles) {
    return kBlocks.outer_depth * kPanel + (tiles && !pairs ? kThirdsDepth * kPanel * kThirds / 2 : 0);
}

struct Placed {
    const float* first;
    int64_t step;
};

// Whether a float32 B of `columns` can be read where it lies: whole vectors, and rows that don't all meet in the few
// lines of one set of the cache.
static inline bool rows_in_place(int64_t columns, int64_t row_step) {
    return columns % Vec::W == 0 && row_step % 512 != 0;
}

// Whether a float32 A that is contiguous along its rows can be read where it lies: steps of 16 KB and more gain
// nothing.
static inline bool columns_in_place(int64_t step) {
    return step < 4096;
}

#if DLPERF_ISA_LEVEL >= 4
// run_outer on tiles. Returns false, with nothing to rely on, where float32's parts can't stand for the operands.
template <class Width, class PackA, class PackB, class Done>
static bool run_outer_tiles(bool pairs, const Region& r, float* a_buffer, float* b_buffer, float* acc, bool finish,
                            const Width& width_of, const PackA& pack_a, const PackB& pack_b, const Done& done) {
    const TileProducts& products = pairs ? tile_pairs : tile_thirds;
    const int64_t depth = pairs ? kBlocks.outer_depth * 2 : kThirdsDepth, rows = r.m_end - r.m_begin;
    const int64_t steps = max64(1, ceil_div(r.k_end - r.k_begin, depth)), parts = parts_of(pairs);
    Ahead nothing = {};
    float* cut_b = b_buffer + kBlocks.outer_depth * kPanel;
    for (int64_t step = 0; step < steps; ++step) {
        const int64_t k0 = r.k_begin + step * depth, k1 = min64(r.k_end, k0 + depth), run = max64(0, k1 - k0);
        const int64_t length = steps_of(run);
        const bool last = finish && step == steps - 1;
        if (run > 0 && !pack_a(r.m_begin, r.m_end, k0, k1, a_buffer, true)) return false;
        for (int64_t panel = r.panel_begin; panel < r.panel_end; ++panel) {
            const int64_t width = width_of(panel);
            const float* b = b_buffer;
            if (run > 0) {
                const Placed placed = pack_b(panel, k0, k1, b_buffer);
                if (pairs) {
                    for (int64_t i = ceil_div(run, 2) * width; i < length * kTileUnits * width; i += Vec::W) {
                        Vec::zero().store(b_buffer + i);
                    }
                } else {
                    __m512i most[kPanel / Vec::W] = {};
                    cut_panel(placed.first, placed.step, run, width, cut_b, most);
                    for (const __m512i& m : most) {
                        if (unfit(m)) return false;
                    }
                    b = cut_b;
                }
            }
            TileScope scope;
            float* panel_acc = acc + (panel - r.panel_begin) * kPanel * rows;
            for (int64_t m = 0; m < rows; m += 2 * kTileRows) {
                const int64_t height = min64(2 * kTileRows, rows - m), whole = height > kTileRows ? 2 : 1;
                const char* a = reinterpret_cast<const char*>(a_buffer + m * length * kStepRun / 2 * parts);
                // Tiles are whole: rows past the end go through a block of their own. So do later blocks of parts: with
                // six products each, roundings would add up.
                alignas(64) float local[2 * kTileRows * kPanel];
                float* c = panel_acc + m * width;
                const bool part = height < whole * kTileRows, apart = !pairs && step > 0;
                float* sums = part || apart ? local : c;
                if (part && pairs && step > 0) std::memcpy(local, c, size_t(height * width) * 4);
                const int64_t step_bytes = parts * kTileFloats * 4;
                const TileOperand operand = {a, a + length * step_bytes, 64, step_bytes, length};
                products.of[whole - 1][width / 16 - 1](&operand, 1, 0, reinterpret_cast<const char*>(b), sums, width,
                                                       apart || step == 0, nothing);
                if (apart) {
                    add_block(local, c, height * width);
                    sums = c;
                }
                if (last) {
                    TileCall t = {};
                    t.acc = sums;
                    done(t, r.m_begin + m, panel);
                    finish_block(t, int(height), width);
                } else if (sums != c) {
                    std::memcpy(c, local, size_t(height * width) * 4);
                }
            }
        }
    }
    return true;
}
#endif

// Accumulates the region into acc: panel by panel, kPanel x rows floats apart, each [rows][width].
//   width_of(panel)                      its columns, in whole vectors
//   place_a(m0, k0)                      where A lies, if it is to be read in place: its first row and step, or null
//   pack_a(m0, m1, k0, k1, dst, tiles)   tiles of mr rows, or AMX's; returns whether these serve
//   pack_b(panel, k0, k1, dst)           where the block's first row lies: dst, or B itself
//   done(tile, m, panel)                 fills in the epilogue of a tile's last block; not called unless `finish`
template <class Width, class PlaceA, class PackA, class PackB, class Done>
static void run_outer(bool pairs, bool tiles, int mr, const Region& r, float* a_buffer, float* b_buffer, float* acc,
                      bool finish, const Width& width_of, const PlaceA& place_a, const PackA& pack_a,
                      const PackB& pack_b, const Done& done) {
#if DLPERF_ISA_LEVEL >= 4
    if (tiles && run_outer_tiles(pairs, r, a_buffer, b_buffer, acc, finish, width_of, pack_a, pack_b, done)) return;
#endif
    const MicroTable& micro = micro_table(pairs);
    const int64_t depth = kBlocks.outer_depth * (pairs ? 2 : 1), rows = r.m_end - r.m_begin;
    const int64_t steps = max64(1, ceil_div(r.k_end - r.k_begin, depth));
    TileCall t = {};
    t.taps = 1;
    for (int64_t step = 0; step < steps; ++step) {
        const int64_t k0 = r.k_begin + step * depth, k1 = min64(r.k_end, k0 + depth);
        t.units = max64(0, units_of(k1 - k0, pairs));
        t.first = step == 0;
        t.last = finish && step == steps - 1;
        const Placed a = place_a(r.m_begin, k0);
        if (t.units > 0 && !a.first) pack_a(r.m_begin, r.m_end, k0, k1, a_buffer, false);
        for (int64_t panel = r.panel_begin; panel < r.panel_end; ++panel) {
            const int64_t width = width_of(panel);
            const int nv = int(width / Vec::W);
            if (t.units > 0) {
                const Placed b = pack_b(panel, k0, k1, b_buffer);
                t.b = b.first;
                t.b_step = b.step;
            }
            float* panel_acc = acc + (panel - r.panel_begin) * kPanel * rows;
            for (int64_t m = 0; m < rows; m += mr) {
                t.a = a.first ? a.first + m : a_buffer + m * t.units;
                t.a_step = a.first ? a.step : min64(mr, rows - m);
                t.acc = panel_acc + m * width;
                if (t.last) done(t, r.m_begin + m, panel);
                micro.packed[nv][min64(mr, rows - m)](t);
            }
        }
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

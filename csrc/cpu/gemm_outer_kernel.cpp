// Products whose A is contiguous along m: both operands are packed, block by block of the reduction.
// DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/gemm_impl.h"
#include "cpu/gemm_outer.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr double kReduceCost = 4;  // cycles per vector and part

bool outer_tiles(const GemmShape& s) {
    return uses_tiles(uses_pairs(s.dtype), s.m, s.n, s.k, false);
}

int64_t region_mr(const GemmShape& s) {
    return outer_mr(outer_tiles(s), kPanelMr);
}

Grid outer_grid(const GemmShape& s, int64_t threads) {
    Grid best = {1, 1, 1};
    double best_cost = 1e300;
    const int64_t mr = region_mr(s), tiles = ceil_div(s.m, mr), panels = ceil_div(s.n, kPanel),
                  depths = ceil_div(s.k, kBlocks.outer_depth);
    for (int64_t k = 1; k <= threads; ++k) {
        if (k > 1 && (k > depths || s.m * s.n > 1 << 20)) break;
        for (int64_t n = 1; n <= threads / k && n <= panels; ++n) {
            const int64_t m = min64(threads / k / n, tiles);
            const double rows = double(ceil_div(tiles, m) * mr), columns = double(ceil_div(panels, n) * kPanel);
            const double depth = double(ceil_div(depths, k) * kBlocks.outer_depth);
            const double passes = double(ceil_div(ceil_div(panels, n), kOuterPanels));
            double cost = rows * columns * depth / 32 + depth * (rows * passes * 0.25 + columns * 0.25);
            if (k > 1)
                cost += 20000 + double(s.m) * double(s.n) * double(k + 2) / (16.0 * double(threads)) * kReduceCost;
            if (cost < best_cost) {
                best = {m, n, k};
                best_cost = cost;
            }
        }
    }
    return best;
}

bool reads_in_place(const GemmShape& s) {
    return s.dtype == DType::f32 && s.b_col == 1 && rows_in_place(s.n, s.b_row);
}

struct OuterWorkspace {
    float *a, *b, *acc;
    RowTables tables;
};

OuterWorkspace take_outer(Arena& arena, const GemmShape& s, const Grid& g) {
    const int64_t mr = region_mr(s), rows = round_up(ceil_div(s.m, g.m), mr) + mr;
    const bool pairs = uses_pairs(s.dtype), tiles = outer_tiles(s);
    const int64_t panels = ceil_div(ceil_div(s.n, kPanel), g.n);
    const int64_t block_m = g.k > 1 ? rows : min64(rows, kOuterRows);
    const int64_t block_n = (g.k > 1 ? panels : min64(panels, kOuterPanels)) * kPanel;
    OuterWorkspace w;
    w.a = arena.take<float>(outer_a_floats(block_m, pairs, tiles));
    w.b = arena.take<float>(outer_b_floats(pairs, tiles));
    w.acc = arena.take<float>(block_m * block_n);
    w.tables.out = arena.take<int64_t>(block_m);
    w.tables.residual = arena.take<int64_t>(block_m);
    w.tables.bias = arena.take<float>(block_m);
    return w;
}

template <bool Pairs, class T>
void outer_item(const GemmShape& s, int64_t batch, const Operands& o, const Epilogue& e, const float* bias_col,
                const Region& r, bool finish, const OuterWorkspace& w) {
    const T* a = reinterpret_cast<const T*>(o.a) + batch * s.a_batch;
    const T* b = reinterpret_cast<const T*>(o.b) + batch * s.b_batch;
    const float* bias_row = s.bias_per_row && o.bias ? w.tables.bias : nullptr;
    const bool in_place = reads_in_place(s);
    const auto place_a = [&](int64_t m0, int64_t k0) {
        if constexpr (std::is_same_v<T, float>) {
            if (s.a_row == 1 && columns_in_place(s.a_col)) return Placed{a + m0 + k0 * s.a_col, s.a_col};
        }
        return Placed{nullptr, 0};
    };
    const auto pack_a = [&](int64_t m0, int64_t m1, int64_t k0, int64_t k1, float* dst, bool tiles) {
        const T* from = a + m0 * s.a_row + k0 * s.a_col;
#if DLPERF_ISA_LEVEL >= 4
        if (tiles) return pack_turned<Pairs>(from, s.a_row, s.a_col, k1 - k0, m1 - m0, dst);
#endif
        pack_tiles<Pairs>(from, s.a_row, s.a_col, k1 - k0, m1 - m0, kPanelMr, dst);
        return true;
    };
    const auto pack_b = [&](int64_t panel, int64_t k0, int64_t k1, float* dst) {
        const int64_t n0 = panel * kPanel;
        const T* from = b + n0 * s.b_col + k0 * s.b_row;
        if constexpr (std::is_same_v<T, float>) {
            if (in_place) return Placed{from, s.b_row};
        }
        pack_panel<Pairs>(from, s.b_row, s.b_col, k1 - k0, min64(kPanel, s.n - n0), dst);
        return Placed{dst, panel_width(s.n, n0)};
    };
    const auto width_of = [&](int64_t panel) { return panel_width(s.n, panel * kPanel); };
    const auto done = [&](TileCall& t, int64_t m, int64_t panel) {
        const int64_t n0 = panel * kPanel;
        const int64_t i = m - r.m_begin;
        t.epilogue = &e;
        t.out_offset = w.tables.out + i;
        t.residual_offset = w.tables.residual + i;
        t.bias_row = bias_row ? bias_row + i : nullptr;
        t.bias_col = bias_col;
        t.n0 = n0;
        t.n_valid = int(min64(kPanel, s.n - n0));
    };
    if (finish) fill_offsets(s, s.m, batch, r.m_begin, r.m_end - r.m_begin, o.bias, w.tables);
    run_outer(Pairs, outer_tiles(s), kPanelMr, r, w.a, w.b, w.acc, finish, width_of, place_a, pack_a, pack_b, done);
}

}  // namespace

void gemm_outer(const GemmShape& s, const Operands& o, Arena& arena, int64_t threads) {
    const bool alone = item_per_thread(s, threads);
    const Grid grid = alone ? Grid{1, 1, 1} : outer_grid(s, threads);
    float* bias = arena.take<float>(padded_bias(s.n));
    const bool bias_col = o.bias && !s.bias_per_row;
    if (bias_col) expand_bias(s.dtype, o.bias, s.n, bias);
    const Epilogue e = epilogue_of(s, o);
    const int64_t used = arena.used, panels = ceil_div(s.n, kPanel), parts = grid.m * grid.n * grid.k;
    Arena sized = {nullptr};
    take_outer(sized, s, grid);
    const int64_t share = sized.used;

#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        const auto workspace_of = [&](int64_t part) {
            Arena mine = {arena.base, used + part * share};
            return take_outer(mine, s, grid);
        };
        const auto region_of = [&](int64_t part) {
            const Range m = split(s.m, grid.m, part / grid.n % grid.m, region_mr(s));
            const Range n = split(panels, grid.n, part % grid.n);
            const Range k = split(s.k, grid.k, part / grid.n / grid.m, kBlocks.outer_depth);
            return Region{m.begin, m.end, n.begin, n.end, k.begin, k.end};
        };
        const Range batch = alone ? split(s.batch, team, me) : Range{0, s.batch};
        for (int64_t b = batch.begin; b < batch.end; ++b) {
            for (int64_t part = alone ? 0 : me; part < parts; part += alone ? 1 : team) {
                const OuterWorkspace w = workspace_of(alone ? me : part);
                const Region whole = region_of(part);
                if (grid.k > 1) {
                    DLPERF_PAIRS_SWITCH(s.dtype,
                                        outer_item<Pairs, T>(s, b, o, e, bias_col ? bias : nullptr, whole, false, w))
                    continue;
                }
                const int64_t rows = outer_rows(whole.m_end - whole.m_begin, region_mr(s));
                for (int64_t m = whole.m_begin; m < whole.m_end; m += rows) {
                    for (int64_t n = whole.panel_begin; n < whole.panel_end; n += kOuterPanels) {
                        const Region r = {m,
                                          min64(m + rows, whole.m_end),
                                          n,
                                          min64(n + kOuterPanels, whole.panel_end),
                                          whole.k_begin,
                                          whole.k_end};
                        DLPERF_PAIRS_SWITCH(s.dtype,
                                            outer_item<Pairs, T>(s, b, o, e, bias_col ? bias : nullptr, r, true, w))
                    }
                }
            }
            if (grid.k == 1) continue;
#pragma omp barrier
            // Parts of the reduction are added in order: the result depends on the number of threads alone.
            const Range rows = split(s.m, team, me);
            for (int64_t n = 0; n < panels; ++n) {
                const int64_t n0 = n * kPanel, width = panel_width(s.n, n0);
                for (int64_t m = rows.begin; m < rows.end; ++m) {
                    alignas(64) float sum[kPanel];
                    bool first = true;
                    for (int64_t k = 0; k < grid.k; ++k) {
                        for (int64_t g = 0; g < grid.m * grid.n; ++g) {
                            const int64_t part = k * grid.m * grid.n + g;
                            const Region r = region_of(part);
                            if (m < r.m_begin || m >= r.m_end || n < r.panel_begin || n >= r.panel_end) continue;
                            const float* from = workspace_of(part).acc +
                                                (n - r.panel_begin) * kPanel * (r.m_end - r.m_begin) +
                                                (m - r.m_begin) * width;
                            for (int64_t j = 0; j < width; j += Vec::W) {
                                const Vec v = Vec::load(from + j);
                                (first ? v : Vec::load(sum + j) + v).store(sum + j);
                            }
                            first = false;
                        }
                    }
                    int64_t out, residual;
                    float row_bias = 0;
                    RowTables t = {};
                    t.out = &out;
                    t.residual = &residual;
                    t.bias = &row_bias;
                    fill_offsets(s, s.m, b, m, 1, o.bias, t);
                    TileCall call = {};
                    call.acc = sum;
                    call.epilogue = &e;
                    call.out_offset = &out;
                    call.residual_offset = &residual;
                    call.bias_row = s.bias_per_row && o.bias ? &row_bias : nullptr;
                    call.bias_col = bias_col ? bias : nullptr;
                    call.n0 = n0;
                    call.n_valid = int(min64(kPanel, s.n - n0));
                    finish_rows(call, 1, kPanel);
                }
            }
#pragma omp barrier
        }
    }
}

void take_gemm_outer(Arena& arena, const GemmShape& s, int64_t threads) {
    arena.take<float>(padded_bias(s.n));
    const Grid grid = item_per_thread(s, threads) ? Grid{1, 1, 1} : outer_grid(s, threads);
    for (int64_t i = 0; i < max64(threads, grid.m * grid.n * grid.k); ++i) take_outer(arena, s, grid);
}

}  // namespace dlperf::DLPERF_ISA_NS

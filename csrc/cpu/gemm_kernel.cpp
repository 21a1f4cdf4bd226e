// Matrix products: the table, and the path that reads A's rows in place. DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/gemm_impl.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// ---- Row path ----

void rows_of_thread(const GemmShape& s, int64_t per_batch, int64_t batch0, Range m, Range n, int64_t step,
                    const Operands& o, const Product& p, const RowTables& t) {
    for (int64_t i = m.begin; i < m.end; i += step) {
        const int64_t count = min64(step, m.end - i);
        fill_offsets(s, per_batch, batch0, i, count, o.bias, t);
        fill_rows(s, per_batch, batch0, i, count, o.a, t);
        RowBlock block = {t.rows, count, count, t.out, t.residual, s.bias_per_row && o.bias ? t.bias : nullptr};
        if (s.a_col == 1 && s.a_row == s.k) {
            block.next = t.rows[count - 1] + row_bytes(s);
            block.next_bytes = min64(step, s.m - i - count) * row_bytes(s);
        }
        run_rows(p, block, n.begin, n.end, t.acc);
    }
}

int64_t thread_rows(const GemmShape& s) {
    return min64(round_up(s.m, kBlocks.row_step), kBlocks.rows);
}

// Whether a call that packs B itself, or packs it beforehand, does so for tiles.
bool wants_tiles(const GemmShape& s, bool prepacked) {
    return uses_tiles(uses_pairs(s.dtype), s.m * (prepacked ? s.batch : 1), s.n, s.k, prepacked);
}

int64_t pack_floats(const GemmShape& s, bool tiles) {
    return packed_floats(1, s.k, s.n, uses_pairs(s.dtype), tiles);
}

// A small A under a wide B: each thread packs a panel, uses it while it is in L2, and packs the next over it.
bool may_pack_by_panel(const GemmShape& s, int64_t threads, bool tiles) {
    return !tiles && s.m * row_bytes(s) <= 2 * kBlocks.a_bytes && !copies_rows(s) &&
           (item_per_thread(s, threads) || ceil_div(s.n, kPanel) >= threads);
}

struct RowWorkspace {
    int64_t* taken;  // blocks of each thread's share
    float* bias;
    float* pack;  // of all threads, or of each
    int64_t pack_step;
    float* panel;  // of each thread
    int64_t panel_step;
};

RowWorkspace take_row_workspace(Arena& arena, const GemmShape& s, int64_t threads, Path path, bool prepacked,
                                bool tiles) {
    const bool packs = path == Path::row && !prepacked, pairs = uses_pairs(s.dtype);
    RowWorkspace w;
    w.taken = arena.take<int64_t>(threads * Shares::kApart);
    w.bias = arena.take<float>(padded_bias(s.n));
    const bool alone = item_per_thread(s, threads), by_panel = packs && may_pack_by_panel(s, threads, tiles);
    w.pack_step = packs && !(alone && by_panel) ? round_up(pack_floats(s, tiles), 16) : 0;
    w.pack = arena.take<float>(w.pack_step * (alone ? threads : 1));
    const bool panels = path == Path::in_place || by_panel;
    w.panel_step = panels ? round_up(packed_floats(1, s.k, kPanel, pairs, false), 16) : 0;
    w.panel = arena.take<float>(w.panel_step * threads);
    return w;
}

// One item of a batch on one thread's share of it.
struct Share {
    const GemmShape& s;
    int64_t per_batch, batch;
    Range m, panels;
    int64_t step;  // rows of a block
    const Operands& o;
    const Epilogue& e;
    const float* bias_col;
    const RowTables& t;
    bool tiles;

    int64_t end() const { return min64(panels.end * kPanel, s.n); }
};

// Columns [n0, n1) of the share. Packed B counts from column `origin`; in place (b_step != 0) from the first.
void run_share(const Share& w, const float* b, int64_t b_step, int64_t origin, int64_t n0, int64_t n1) {
    const int64_t size = dtype_size(w.s.dtype);
    Epilogue e = w.e;
    e.out = static_cast<char*>(e.out) + origin * size;
    if (e.residual) e.residual = static_cast<const char*>(e.residual) + origin * e.residual_col * size;
    Product p = {};
    p.pairs = uses_pairs(w.s.dtype);
    p.taps = p.all_taps = 1;
    p.run = w.s.k;
    p.b = b;
    p.b_step = b_step;
    p.n = w.s.n - origin;
    p.epilogue = &e;
    p.from_last = w.s.from_last;
    p.tiles = w.tiles;
    p.bias_col = w.bias_col ? w.bias_col + origin : nullptr;
    rows_of_thread(w.s, w.per_batch, w.batch, w.m, {n0 - origin, n1 - origin}, w.step, w.o, p, w.t);
}

template <bool Pairs, class T>
void run_by_panel(const Share& w, const T* b, float* buffer) {
    for (int64_t panel = w.panels.begin; panel < w.panels.end; ++panel) {
        const int64_t n0 = panel * kPanel, columns = min64(kPanel, w.s.n - n0);
        pack_panel<Pairs>(b + n0 * w.s.b_col, w.s.b_row, w.s.b_col, w.s.k, columns, buffer);
        run_share(w, buffer, 0, n0, n0, n0 + columns);
    }
}

// B as it lies, but for a last panel that is no whole number of vectors.
void run_in_place(const Share& w, const float* b, float* buffer) {
    const GemmShape& s = w.s;
    const int64_t whole = s.n % Vec::W ? s.n / kPanel * kPanel : s.n, n0 = w.panels.begin * kPanel;
    if (n0 < min64(w.end(), whole)) run_share(w, b, s.b_row, 0, n0, min64(w.end(), whole));
    if (w.end() > whole) {
        pack_panel<false>(b + whole, s.b_row, s.b_col, s.k, s.n - whole, buffer);
        run_share(w, buffer, 0, whole, whole, s.n);
    }
}

void run_row_path(const GemmShape& s, int64_t per_batch, const Operands& o, Arena& arena, int64_t threads, Path path,
                  bool prepacked) {
    const PackHead* head = prepacked ? reinterpret_cast<const PackHead*>(o.b) : nullptr;
    const bool wanted = head ? head->tiles : path == Path::row && wants_tiles(s, false);
    const RowWorkspace w = take_row_workspace(arena, s, threads, path, prepacked, wanted);
    const Epilogue e = epilogue_of(s, o);
    const bool bias_col = o.bias && !s.bias_per_row;
    if (bias_col) expand_bias(s.dtype, o.bias, s.n, w.bias);
    const int64_t used = arena.used, panels = ceil_div(s.n, kPanel);
    const bool alone = item_per_thread(s, threads);
    const int64_t mr = row_mr(wanted), grain = row_grain(wanted);
    std::memset(w.taken, 0, size_t(threads * Shares::kApart) * sizeof(int64_t));
    bool unfit = false;  // where threads share B: it can't be packed for tiles

#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        Arena mine = {arena.base, used};
        const int64_t rows = thread_rows(s), zero = 0;
        for (int64_t i = 0; i < me; ++i) take_row_tables(mine, s, rows, wanted);
        const RowTables t = take_row_tables(mine, s, rows, wanted);
        const Grid grid = alone ? Grid{1, 1, 1} : row_grid(s.m, panels, row_bytes(s), s.k * kPanel * 4, team, grain);
        const int64_t part = alone ? 0 : me;
        const bool by_panel =
            path == Path::row && !prepacked && may_pack_by_panel(s, threads, wanted) && (alone || grid.m == 1);
        const Range batch = alone ? split(s.batch, team, me) : Range{0, s.batch};
        bool tiles = wanted;
        for (int64_t b = batch.begin; b < batch.end; ++b) {
            const char* b_item = o.b + b * s.b_batch * dtype_size(s.dtype);
            const float* packed = reinterpret_cast<const float*>(o.b) + kHeadFloats;
            const auto rows_of = [&](int64_t i) {
                return i < grid.m * grid.n ? split(s.m, grid.m, i / grid.n, grain) : Range{0, 0};
            };
            const auto panels_of = [&](int64_t i) {
                return i < grid.m * grid.n ? split(panels, grid.n, i % grid.n) : Range{0, 0};
            };
            const Range m = rows_of(part);
            Share share = {s,
                           per_batch,
                           b,
                           m,
                           panels_of(part),
                           block_rows(m.end - m.begin, row_bytes(s), 1),
                           o,
                           e,
                           bias_col ? w.bias : nullptr,
                           t,
                           tiles};
            if (by_panel) {
                DLPERF_PAIRS_SWITCH(s.dtype, run_by_panel<Pairs>(share, reinterpret_cast<const T*>(b_item),
                                                                 w.panel + me * w.panel_step))
                continue;
            }
            if (path == Path::in_place) {
                run_in_place(share, reinterpret_cast<const float*>(b_item), w.panel + me * w.panel_step);
                continue;
            }
            if (!prepacked) {
                const WeightView view = view_b(s, b_item, &zero);
                const PackPlan plan = plan_pack(view, uses_pairs(s.dtype), nullptr);
                float* pack = w.pack + (alone ? me * w.pack_step : 0);
                if (!alone && b > batch.begin) {
#pragma omp barrier
                }
                const int64_t parts = alone ? 1 : team;
                bool fit = true;
                DLPERF_PAIRS_SWITCH(s.dtype, fit = pack_weight<Pairs, T>(view, plan, tiles, pack, parts, part))
                if (!alone) {
                    if (!fit) {
#pragma omp atomic write
                        unfit = true;
                    }
#pragma omp barrier
                    fit = !unfit;
                }
                if (!fit && tiles) {
                    tiles = share.tiles = false;
                    DLPERF_PAIRS_SWITCH(s.dtype, pack_weight<Pairs, T>(view, plan, false, pack, parts, part))
                    if (!alone) {
#pragma omp barrier
                    }
                }
                packed = pack;
            }
            if (alone || s.batch > 1) {
                run_share(share, packed, 0, 0, share.panels.begin * kPanel, share.end());
                continue;
            }
            const auto cut_of = [&](int64_t i) {
                const Range rows = rows_of(i), columns = panels_of(i);
                const int64_t count = rows.end - rows.begin, step = block_rows(count, row_bytes(s), 1);
                return cut_share(count, columns.end - columns.begin, s.k * kPanel * 4, step, team, mr,
                                 tiles && !uses_pairs(s.dtype));
            };
            const auto run_block = [&](int64_t i, int64_t index) {
                const Cut cut = cut_of(i);
                const int64_t block = s.from_last ? cut.blocks() - 1 - index : index;
                const Range rows = rows_of(i), columns = panels_of(i);
                Share one = share;
                one.step = cut.step;
                one.m.begin = rows.begin + block / cut.groups() * cut.step;
                one.m.end = min64(rows.end, one.m.begin + cut.step);
                one.panels.begin = columns.begin + block % cut.groups() * cut.group;
                one.panels.end = min64(columns.end, one.panels.begin + cut.group);
                run_share(one, packed, 0, 0, one.panels.begin * kPanel, one.end());
            };
            Shares{w.taken}.run(team, me, [&](int64_t i) { return cut_of(i).blocks(); }, run_block);
        }
    }
}

// ---- The table ----

int64_t workspace_bytes(const GemmShape& shape, int64_t threads, bool prepacked) {
    const GemmShape s = folded(shape, prepacked);
    Arena arena = {nullptr};
    const Path path = choose_path(s, prepacked);
    if (path == Path::dot) {
        arena.take<float>(padded_bias(s.n));
    } else if (path == Path::outer) {
        take_gemm_outer(arena, s, threads);
    } else {
        const bool tiles = prepacked ? kTiles : path == Path::row && wants_tiles(s, false);
        take_row_workspace(arena, s, threads, path, prepacked, tiles);
        for (int64_t i = 0; i < threads; ++i) take_row_tables(arena, s, thread_rows(s), tiles);
    }
    return max64(arena.used, 64);
}

void run(const GemmShape& shape, const void* a, const void* b, const void* bias, const void* residual, void* c,
         void* workspace, int64_t threads, bool prepacked) {
    if (shape.batch <= 0 || shape.m <= 0 || shape.n <= 0) return;
    const GemmShape s = folded(shape, prepacked);
    const Operands o = {static_cast<const char*>(a), static_cast<const char*>(b), bias, residual, c};
    Arena arena = {static_cast<char*>(workspace)};
    const Path path = choose_path(s, prepacked);
    if (path == Path::dot) {
        gemm_dot(s, shape.m, o, arena, threads);
    } else if (path == Path::outer) {
        gemm_outer(s, o, arena, threads);
    } else {
        run_row_path(s, shape.m, o, arena, threads, path, prepacked);
    }
}

int64_t pack_bytes(const GemmShape& s) {
    return int64_t(sizeof(PackHead)) + max64(64, pack_floats(s, wants_tiles(s, true)) * 4);
}

void pack_b(const GemmShape& s, const void* b, void* packed) {
    const int64_t zero = 0;
    const WeightView view = view_b(s, b, &zero);
    const PackPlan plan = plan_pack(view, uses_pairs(s.dtype), nullptr);
    PackHead* head = static_cast<PackHead*>(packed);
    float* out = static_cast<float*>(packed) + kHeadFloats;
    const auto pack = [&](bool tiles) {
        bool fit = true;
#pragma omp parallel if (s.k * s.n > 1 << 15) reduction(&& : fit)
        {
            const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
            DLPERF_PAIRS_SWITCH(s.dtype, fit = pack_weight<Pairs, T>(view, plan, tiles, out, team, me))
        }
        return fit;
    };
    head->tiles = wants_tiles(s, true);
    if (!pack(head->tiles)) {
        head->tiles = false;
        pack(false);
    }
}

}  // namespace

extern const GemmTable gemm_table;
const GemmTable gemm_table = {workspace_bytes, run, pack_bytes, pack_b, sum_rows};

}  // namespace dlperf::DLPERF_ISA_NS

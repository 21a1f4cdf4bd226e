// The row engine: A in place through row pointers, B packed beforehand. Forward products, convolutions as such; one
// thread's share. gemm_outer.h has the other loop nest around the register tiles.
#pragma once

#include "cpu/gemm_tiles.h"

namespace dlperf::DLPERF_ISA_NS {

// Hands out pieces of a workspace; with a null base it only measures.
struct Arena {
    char* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t count) {
        T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += round_up(count * int64_t(sizeof(T)), 64);
        return p;
    }
};

static inline bool uses_pairs(DType dtype) {
    return kNativeBf16 && dtype == DType::bf16;
}
static inline bool needs_conversion(DType dtype) {
    return dtype != DType::f32 && !uses_pairs(dtype);
}
static inline int64_t dtype_size(DType dtype) {
    return dtype == DType::f32 ? 4 : 2;
}
// Tiles read pairs by whole steps.
static inline int64_t units_of(int64_t run, bool pairs) {
    return pairs ? round_up(ceil_div(run, 2), kTiles ? kTileUnits : 1) : run;
}

// Runs `...` with T the storage type and `constexpr bool Pairs`.
#if DLPERF_ISA_LEVEL >= 3
#define DLPERF_PAIRS_SWITCH(dtype, ...) \
    DLPERF_DTYPE_SWITCH(dtype, constexpr bool Pairs = sizeof(T) == 2 && kIsBf16<T>; __VA_ARGS__)
#else
#define DLPERF_PAIRS_SWITCH(dtype, ...) DLPERF_DTYPE_SWITCH(dtype, constexpr bool Pairs = false; __VA_ARGS__)
#endif

template <class T>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<bf16_t> = true;

// Bias as floats, zero up to a whole panel, so that tiles load it without masks.
static inline int64_t padded_bias(int64_t n) {
    return round_up(n, kPanel);
}
static inline void expand_bias(DType dtype, const void* bias, int64_t n, float* out) {
    DLPERF_DTYPE_SWITCH(dtype, convert_run(static_cast<const T*>(bias), out, n))
    for (int64_t i = n; i < padded_bias(n); ++i) out[i] = 0.0f;
}

// How threads divide rows x panels (x reduction).
struct Grid {
    int64_t m, n, k;
};

// Rows that a register tile takes.
static inline int64_t row_mr(bool tiles) {
    return tiles ? 2 * kTileRows : kPanelMr;
}

// Rows that threads divide by: tiles need theirs whole, a register tile of fewer rows costs little more than its share.
static inline int64_t row_grain(bool tiles) {
    return tiles ? 2 * kTileRows : 1;
}

// What a byte costs that another thread wrote or will read, where one of A that is multiplied by a panel costs 1: cores
// need not share a cache.
constexpr double kShared = 1.5;

// Least work of the busiest thread first, then least traffic: rows and panels read by one thread. Threads that divide
// rows find in their own caches what they wrote in the layer before.
static inline Grid row_grid(int64_t rows, int64_t panels, int64_t row_bytes, int64_t panel_bytes, int64_t threads,
                            int64_t grain) {
    Grid best = {threads, 1, 1};
    double best_cost = 0;
    for (int64_t tn = 1; tn <= threads && tn <= panels; ++tn) {
        const int64_t tm = threads / tn;
        const int64_t mine = ceil_div(ceil_div(rows, grain), tm) * grain, mine_panels = ceil_div(panels, tn);
        const double work = double(mine) * double(mine_panels) * double(row_bytes);
        const double traffic = 4.0 * double(mine * row_bytes) + 2.0 * double(mine_panels * panel_bytes);
        const double shared = tn == 1 ? 0.0 : kShared * double(mine) * double(row_bytes + mine_panels * kPanel * 4);
        const double cost = work + traffic + shared;
        if (tn == 1 || cost < best_cost) {
            best = {tm, tn, 1};
            best_cost = cost;
        }
    }
    return best;
}

// Rows of a block: as many as L2 holds, where several taps read the same rows; with one tap the reduction is cut
// instead.
static inline int64_t block_rows(int64_t rows, int64_t row_bytes, int64_t taps) {
    const int64_t fit = kBlocks.a_bytes / max64(row_bytes, 1) / kBlocks.row_step * kBlocks.row_step;
    const int64_t most = taps <= 1 ? kBlocks.rows : max64(kBlocks.row_step, min64(fit, kBlocks.rows));
    const int64_t blocks = ceil_div(max64(rows, 1), most);
    return round_up(ceil_div(max64(rows, 1), blocks), kBlocks.row_step);
}

// Blocks of a share: at most `step` rows, and several where there is more than one thread. Weights that stay in L2 are
// read again for each block of rows; larger ones are divided, unless each part would have A's rows cut anew.
constexpr int64_t kBlocksOfShare = 4, kLeastRows = 64;

static inline Cut cut_share(int64_t rows, int64_t panels, int64_t panel_bytes, int64_t step, int64_t team, int64_t mr,
                            bool cuts_rows) {
    Cut cut = {rows, step, panels, panels};
    if (team == 1 || cut.blocks() >= kBlocksOfShare) return cut;
    if (cuts_rows || panels * panel_bytes <= kBlocks.a_bytes / 2) {
        const int64_t even = round_up(ceil_div(rows, kBlocksOfShare), mr);
        cut.step = min64(step, max64(even, round_up(kLeastRows, mr)));
    }
    if (cuts_rows) return cut;
    const int64_t blocks = max64(1, ceil_div(rows, cut.step));
    cut.group = max64(1, ceil_div(panels * blocks, kBlocksOfShare));
    return cut;
}

// ---- Row engine ----

struct Product {
    bool pairs;
    int64_t taps, run;            // the reduction: so many runs of so many elements
    int64_t a_offset;             // bytes added to every row pointer
    int64_t first_tap, all_taps;  // which of the packed taps
    const float* b;               // packed panels, or (b_step != 0) whole vectors in place
    int64_t b_step;
    int64_t n;
    const Epilogue* epilogue;
    const float* bias_col;
    bool from_last;  // panels in falling order
    bool tiles;      // B is packed for tiles
};

// Rows of bfloat16 evenly apart under every tap, whole steps each, as tiles read them.
struct EvenRows {
    const char* base;
    const int64_t* taps;  // bytes from a row to what it reads under a tap
    int64_t row;          // bytes to the next row
};

struct RowBlock {
    const char* const* rows;
    int64_t rows_ld;
    int64_t count;
    const int64_t* out_offset;  // negative: the row is not written; EvenRows alone
    const int64_t* residual_offset;
    const float* bias_row;
    const EvenRows* even = nullptr;  // instead of `rows`
    const char* next = nullptr;      // memory that the next block reads
    int64_t next_bytes = 0;
};

// Panels whose accumulators are kept while the reduction advances by a stretch that leaves A's part of it in L2.
constexpr int64_t kPanelsTogether = 4;
constexpr int64_t kAccColumns = kPanelsTogether * kPanel;
constexpr int64_t kRowsToFetch = 5;

// What run_rows keeps between its steps.
static inline int64_t engine_floats(int64_t rows, int64_t columns, int64_t taps, int64_t run, bool pairs, bool tiles) {
    return max64(rows * kAccColumns, tiles ? tile_sizes(rows, columns, taps, run, pairs).floats() : 0);
}

#if DLPERF_ISA_LEVEL >= 4
void run_row_tiles(const Product& p, const RowBlock& block, int64_t n_begin, int64_t n_end, float* scratch);
#endif

// Columns [n_begin, n_end), n_begin on a panel. `acc` holds engine_floats.
static inline void run_rows(const Product& p, const RowBlock& block, int64_t n_begin, int64_t n_end, float* acc) {
#if DLPERF_ISA_LEVEL >= 4
    if (p.tiles) return run_row_tiles(p, block, n_begin, n_end, acc);
#endif
    const MicroTable& micro = micro_table(p.pairs);
    const int64_t units = units_of(p.run, p.pairs);
    const bool odd = p.pairs && p.run % 2 != 0;
    const int64_t chunks = max64(1, ceil_div(units, kBlocks.depth));
    const int64_t chunk = max64(1, ceil_div(units, chunks));
    const int64_t group = chunks > 1 ? 1 : max64(1, kBlocks.depth / max64(units, 1));  // taps per call
    const int64_t steps = units == 0 || p.taps == 0 ? 1 : ceil_div(p.taps, group) * chunks;
    const int64_t stretch = p.taps == 1 ? max64(2, kBlocks.a_bytes / (block.count * chunk * 4)) : steps;

    TileCall t = {};
    t.rows_ld = block.rows_ld;
    t.epilogue = p.epilogue;
    t.bias_col = p.bias_col;
    // Rows of one tap are read once from far away, too few bytes of each for the processor to see it coming.
    const bool fetches_a = p.taps == 1;
    const auto run_panel = [&](int64_t n0, int64_t step_begin, int64_t step_end, float* panel_acc) {
        const int64_t width = panel_width(p.n, n0);
        const int nv = int(width / Vec::W), mr = kBlocks.mr[nv];
        t.n0 = n0;
        t.n_valid = int(min64(p.n - n0, kPanel));
        t.b_step = p.b_step ? p.b_step : width;
        const float* panel = p.b_step ? p.b + n0 : p.b + n0 * p.all_taps * units + p.first_tap * units * width;
        for (int64_t step = step_begin; step < step_end; ++step) {
            const int64_t tap = step / chunks * group, u0 = step % chunks * chunk;
            t.taps = max64(0, min64(group, p.taps - tap));
            t.units = min64(chunk, units - u0);
            t.odd = odd && u0 + t.units == units;
            t.a_offset = p.a_offset + u0 * 4;
            t.b = panel + (tap * units + u0) * t.b_step;
            t.first = step == 0;
            t.last = step == steps - 1;
            const char* const* rows = block.rows + tap * block.rows_ld;
            // The next block of B follows this one in memory: each tile fetches its share of it. With few rows asking
            // takes longer than it saves.
            const int64_t block_lines = ceil_div(t.taps * t.units * t.b_step, 16), tiles = ceil_div(block.count, mr);
            const int64_t share = p.b_step || block.count < kRowsToFetch ? 0 : ceil_div(block_lines, tiles);
            t.next = reinterpret_cast<const char*>(t.b + t.taps * t.units * t.b_step);
            t.next_lines = ceil_div(share, max64(1, t.taps * ceil_stretch(t.units)));
            for (int64_t m = 0; m < block.count; m += mr) {
                const int height = int(min64(mr, block.count - m));
                t.rows = rows + m;
                t.acc = panel_acc + m * width;
                t.out_offset = block.out_offset + m;
                t.residual_offset = block.residual_offset + m;
                t.bias_row = block.bias_row ? block.bias_row + m : nullptr;
                t.next_rows = fetches_a && n0 == n_begin ? max64(0, min64(mr, block.count - m - mr)) : 0;
                micro.rows[nv][height](t);
                t.next += share * 64;
            }
        }
    };
    const int64_t together = (stretch < steps ? kPanelsTogether : 1) * kPanel;
    const int64_t groups = ceil_div(n_end - n_begin, together);
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t n = n_begin + (p.from_last ? groups - 1 - i : i) * together;
        for (int64_t step = 0; step < steps; step += stretch) {
            for (int64_t n0 = n; n0 < min64(n + together, n_end); n0 += kPanel) {
                run_panel(n0, step, min64(steps, step + stretch), acc + (n0 - n) * block.count);
            }
        }
    }
}

// ---- Packing of B for the row engine ----

// B as it lies in memory: element (tap, k = q * run_inner + c, n) at
// tap_offset[tap] + q * outer_step + c * run_step + n * n_step.
struct WeightView {
    const void* p;
    int64_t n, n_step;
    int64_t taps;
    const int64_t* tap_offset;
    int64_t run_outer, outer_step, run_inner, run_step;

    int64_t run() const { return run_outer * run_inner; }
};

// The order of packing, made once and read by all threads. `index` and `first_unit` point into the workspace.
struct PackPlan {
    enum Kind { rows, columns, gather } kind;
    RunMap map;
};

static inline int64_t pack_table_length(const WeightView& w) {
    return w.taps * w.run();
}

static inline PackPlan plan_pack(const WeightView& w, bool pairs, int32_t* tables) {
    const int64_t run = w.run(), units = units_of(run, pairs), count = w.taps * run;
    PackPlan plan = {PackPlan::gather, {1, 0, count, nullptr, nullptr, units * w.taps}};
    if (w.n_step == 1) {
        plan.kind = PackPlan::rows;
        return plan;
    }
    if (w.taps == 1 && w.run_outer == 1) {
        if (w.run_step == 1 || run == 1) plan.kind = PackPlan::columns;
        return plan;
    }
    int64_t furthest_tap = 0;
    for (int64_t t = 0; t < w.taps; ++t) furthest_tap = max64(furthest_tap, w.tap_offset[t]);
    const int64_t furthest = furthest_tap + (w.run_outer - 1) * w.outer_step + (w.run_inner - 1) * w.run_step;
    int32_t *index = tables, *first_unit = tables + count;
    if (furthest + 1 == count) {  // the whole reduction is one run of memory
        for (int64_t t = 0; t < w.taps; ++t) {
            for (int64_t k = 0; k < run; ++k) {
                const int64_t at = w.tap_offset[t] + k / w.run_inner * w.outer_step + k % w.run_inner * w.run_step;
                index[at] = int32_t(k);
                first_unit[at] = int32_t(t * units);
            }
        }
        plan.kind = PackPlan::columns;
    } else if (furthest_tap + 1 == w.taps && w.run_outer == 1) {  // the taps of one index are
        for (int64_t t = 0; t < w.taps; ++t) {
            index[w.tap_offset[t]] = 0;
            first_unit[w.tap_offset[t]] = int32_t(t * units);
        }
        plan.kind = PackPlan::columns;
        plan.map.outer = run;
        plan.map.outer_step = w.run_step;
        plan.map.length = w.taps;
    } else {
        return plan;
    }
    plan.map.index = index;
    plan.map.first_unit = first_unit;
    return plan;
}

static inline int64_t packed_floats(int64_t taps, int64_t run, int64_t n, bool pairs, bool tiles) {
    const int64_t units = tiles ? steps_of(run) * kTileUnits * parts_of(pairs) : units_of(run, pairs);
    return taps * units * round_up(n, Vec::W);
}

// What is packed beforehand begins with its form.
struct PackHead {
    int32_t tiles;
    int32_t unused[15];
};
constexpr int64_t kHeadFloats = sizeof(PackHead) / 4;

// Share `index` of `parts` of the packing, as it is multiplied without tiles; and pairs for tiles.
template <bool Pairs, class T>
static void pack_plain(const WeightView& w, const PackPlan& plan, float* dst, int64_t parts, int64_t index) {
    const T* src = static_cast<const T*>(w.p);
    const int64_t run = w.run(), units = units_of(run, Pairs), panel_units = w.taps * units;
    if (plan.kind == PackPlan::columns) {
        const Range mine = split(ceil_div(w.n, Vec::W), parts, index);
        for (int64_t v = mine.begin; v < mine.end; ++v) {
            const int64_t n0 = v * Vec::W / kPanel * kPanel, j = v * Vec::W;
            pack_panel_columns<Pairs>(src + j * w.n_step, w.n_step, w.n - j, plan.map,
                                      dst + n0 * panel_units + (j - n0), panel_width(w.n, n0));
        }
        return;
    }
    // (panel, tap, depth block) in that order, so that few panels divide too.
    const int64_t block = 64, blocks = max64(1, ceil_div(run, block)), panels = ceil_div(w.n, kPanel);
    const Range mine = split(panels * w.taps * blocks, parts, index);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        const int64_t n0 = i / (w.taps * blocks) * kPanel, tap = i / blocks % w.taps, k0 = i % blocks * block;
        const int64_t width = panel_width(w.n, n0), columns = min64(kPanel, w.n - n0), end = min64(run, k0 + block);
        float* out = dst + n0 * panel_units + (tap * units + k0 / (Pairs ? 2 : 1)) * width;
        if (Pairs && kTiles && end == run) {
            for (int64_t u = ceil_div(run, 2); u < units; ++u) {
                for (int64_t j = 0; j < width; j += Vec::W) {
                    Vec::zero().store(dst + n0 * panel_units + (tap * units + u) * width + j);
                }
            }
        }
        const T* from = src + w.tap_offset[tap] + n0 * w.n_step;
        if (w.run_outer == 1) {
            pack_panel<Pairs>(from + k0 * w.run_step, w.run_step, w.n_step, end - k0, columns, out);
            continue;
        }
        for (int64_t k = k0; k < end; k += Pairs ? 2 : 1, out += width) {
            const T* first = from + k / w.run_inner * w.outer_step + k % w.run_inner * w.run_step;
            const int64_t l = k + 1, next = l / w.run_inner * w.outer_step + l % w.run_inner * w.run_step;
            const int64_t pair_step = from + next - first;
            pack_panel<Pairs>(first, Pairs ? pair_step : 0, w.n_step, Pairs ? min64(2, end - k) : 1, columns, out);
        }
    }
}

// Share `index` of `parts` of a float32 B in three parts. Returns whether these can stand for every column.
template <class T>
static bool pack_thirds(const WeightView& w, const PackPlan& plan, float* dst, int64_t parts, int64_t index) {
    bool fit = true;
#if DLPERF_ISA_LEVEL >= 4
    const int64_t floats = packed_floats(w.taps, w.run(), 1, false, true) / Vec::W;
    const Range mine = split(ceil_div(w.n, kPanel), parts, index);
    for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
        const int64_t n0 = panel * kPanel, width = panel_width(w.n, n0);
        WeightView part = w;
        part.p = static_cast<const T*>(w.p) + n0 * w.n_step;
        part.n = min64(kPanel, w.n - n0);
        // The plain panel lies at the end of its place and is cut from its beginning on.
        float *out = dst + n0 * floats, *plain = out + (floats - w.taps * w.run()) * width;
        pack_plain<false, T>(part, plan, plain, 1, 0);
        __m512i most[kPanel / Vec::W] = {};
        for (int64_t tap = 0; tap < w.taps; ++tap) {
            cut_panel(plain + tap * w.run() * width, width, w.run(), width,
                      out + tap * steps_of(w.run()) * kTileUnits * kThirds * width, most);
        }
        for (const __m512i& m : most) fit &= !unfit(m);
    }
#endif
    return fit;
}

// Share `index` of `parts` of the packing. Returns false where B has to be packed again, without tiles.
template <bool Pairs, class T>
static bool pack_weight(const WeightView& w, const PackPlan& plan, bool tiles, float* dst, int64_t parts,
                        int64_t index) {
    if (tiles && !Pairs) return pack_thirds<T>(w, plan, dst, parts, index);
    pack_plain<Pairs, T>(w, plan, dst, parts, index);
    return true;
}

}  // namespace dlperf::DLPERF_ISA_NS

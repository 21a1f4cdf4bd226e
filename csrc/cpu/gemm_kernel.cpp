// Matrix products. DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/gemm.h"

#include "cpu/gemm_engine.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// ---- Which way a product goes ----

enum class Path { dot, in_place, row, outer };

constexpr int64_t kDotRows = 12;      // rows up to which packing B costs more than it saves, B contiguous along k
constexpr int64_t kInPlaceRows = 24;  // the same, B contiguous along n

// A batch that shares B is one product over all its rows, where rows are read one by one.
GemmShape folded(GemmShape s, bool prepacked) {
    if (s.b_batch == 0 && s.batch > 1 && s.m > 0 && (s.a_col == 1 || s.k <= 1 || prepacked)) {
        s.m *= s.batch;
        s.batch = 1;
    }
    return s;
}

Path choose_path(const GemmShape& s, bool prepacked) {
    if (prepacked) return Path::row;
    if (s.m <= kDotRows && s.a_col == 1 && s.b_row == 1 && s.k > 0) return Path::dot;
    if (s.a_col != 1 && s.k > 1) return Path::outer;
    const bool converts = s.dtype != DType::f32;
    if (s.m <= kInPlaceRows && s.b_col == 1 && !converts && s.n >= Vec::W) return Path::in_place;
    return Path::row;
}

struct Operands {
    const char *a, *b;
    const void *bias, *residual;
    void* c;
};

// A's rows go through scratch: converted, or gathered where a packed B asks for rows that A has not.
bool copies_rows(const GemmShape& s) {
    return needs_conversion(s.dtype) || (s.a_col != 1 && s.k > 1);
}

int64_t row_bytes(const GemmShape& s) {
    return max64(1, s.k) * (needs_conversion(s.dtype) ? 4 : dtype_size(s.dtype));
}

// ---- Rows of C: where they are ----

struct RowTables {
    const char** rows;
    int64_t *out, *residual;
    float* bias;
    float* copied;
    float* acc;
};

RowTables take_row_tables(Arena& arena, const GemmShape& s, int64_t rows) {
    RowTables t;
    t.rows = arena.take<const char*>(rows);
    t.out = arena.take<int64_t>(rows);
    t.residual = arena.take<int64_t>(rows);
    t.bias = arena.take<float>(rows);
    t.copied = arena.take<float>(copies_rows(s) ? rows * s.k : 0);
    t.acc = arena.take<float>(rows * kPanel);
    return t;
}

// `per_batch` is m before folding.
void fill_offsets(const GemmShape& s, int64_t per_batch, int64_t batch0, int64_t begin, int64_t count, const void* bias,
                  const RowTables& t) {
    for (int64_t i = 0; i < count; ++i) {
        const int64_t b = batch0 + (begin + i) / per_batch, m = (begin + i) % per_batch;
        t.out[i] = b * s.c_batch + m * s.c_row;
        t.residual[i] = b * s.r_batch + m * s.r_row;
        if (s.bias_per_row && bias) {
            DLPERF_DTYPE_SWITCH(s.dtype, t.bias[i] = to_float(static_cast<const T*>(bias)[m]))
        }
    }
}

template <bool Pairs, class T>
void copy_row(const T* row, int64_t step, int64_t k, float* to) {
    if (Pairs) {
        T* same = reinterpret_cast<T*>(to);
        for (int64_t i = 0; i < k; ++i) same[i] = row[i * step];
    } else if (step == 1) {
        convert_run(row, to, k);
    } else {
        for (int64_t i = 0; i < k; ++i) to[i] = to_float(row[i * step]);
    }
}

void fill_rows(const GemmShape& s, int64_t per_batch, int64_t batch0, int64_t begin, int64_t count, const char* a,
               const RowTables& t) {
    const int64_t size = dtype_size(s.dtype);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t b = batch0 + (begin + i) / per_batch, m = (begin + i) % per_batch;
        const char* row = a + (b * s.a_batch + m * s.a_row) * size;
        t.rows[i] = row;
        if (copies_rows(s)) {
            float* to = t.copied + i * s.k;
            DLPERF_PAIRS_SWITCH(s.dtype, copy_row<Pairs>(reinterpret_cast<const T*>(row), s.a_col, s.k, to))
            t.rows[i] = reinterpret_cast<const char*>(to);
        }
    }
}

Epilogue epilogue_of(const GemmShape& s, const Operands& o) {
    Epilogue e;
    e.dtype = s.dtype;
    e.out = o.c;
    e.residual = s.beta != 0.0f ? o.residual : nullptr;
    e.residual_col = s.r_col;
    e.alpha = s.alpha;
    e.beta = s.beta;
    e.act = s.act;
    e.act_param = s.act_param;
    return e;
}

WeightView view_b(const GemmShape& s, const void* b, const int64_t* zero) {
    return {b, s.n, s.b_col, 1, zero, 1, 0, s.k, s.b_row};
}

// ---- Row path ----

void rows_of_thread(const GemmShape& s, int64_t per_batch, int64_t batch0, Range m, Range n, const Operands& o,
                    Product p, const RowTables& t) {
    const int64_t step = block_rows(m.end - m.begin, row_bytes(s));
    for (int64_t i = m.begin; i < m.end; i += step) {
        const int64_t count = min64(step, m.end - i);
        fill_offsets(s, per_batch, batch0, i, count, o.bias, t);
        fill_rows(s, per_batch, batch0, i, count, o.a, t);
        const RowBlock block = {t.rows, count, count, t.out, t.residual, s.bias_per_row && o.bias ? t.bias : nullptr};
        run_rows(p, block, n.begin, n.end, t.acc);
    }
}

// Whole items of a batch per thread, or all threads on one item after another.
bool item_per_thread(const GemmShape& s, int64_t threads) {
    if (threads == 1) return true;
    if (s.batch == 1) return false;
    return s.batch % threads == 0 || s.batch >= 4 * threads || double(s.m) * double(s.n) * double(s.k) < 1e6;
}

int64_t thread_rows(const GemmShape& s) {
    return min64(round_up(s.m, kBlocks.row_step), kBlocks.rows);
}

int64_t pack_floats(const GemmShape& s) {
    return packed_floats(1, s.k, s.n, uses_pairs(s.dtype));
}

struct RowWorkspace {
    float* bias;
    float* pack;
    int64_t pack_step;
};

RowWorkspace take_row_workspace(Arena& arena, const GemmShape& s, int64_t threads, Path path) {
    RowWorkspace w;
    w.bias = arena.take<float>(padded_bias(s.n));
    w.pack_step = path == Path::in_place ? packed_floats(1, s.k, Vec::W * kBlocks.nv_max, false)
                  : path == Path::row    ? pack_floats(s)
                                         : 0;
    w.pack_step = round_up(w.pack_step, 16);
    w.pack = arena.take<float>(w.pack_step * (path == Path::in_place || item_per_thread(s, threads) ? threads : 1));
    return w;
}

void run_row_path(const GemmShape& s, int64_t per_batch, const Operands& o, Arena& arena, int64_t threads, Path path,
                  bool prepacked) {
    const bool pairs = uses_pairs(s.dtype);
    const RowWorkspace w = take_row_workspace(arena, s, threads, prepacked ? Path::dot : path);
    const Epilogue e = epilogue_of(s, o);
    const bool bias_col = o.bias && !s.bias_per_row;
    if (bias_col) expand_bias(s.dtype, o.bias, s.n, w.bias);
    const int64_t used = arena.used, zero = 0, panels = ceil_div(s.n, kPanel);
    const bool alone = item_per_thread(s, threads);

#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        Arena mine = {arena.base, used};
        const int64_t rows = thread_rows(s);
        for (int64_t i = 0; i < me; ++i) take_row_tables(mine, s, rows);
        const RowTables t = take_row_tables(mine, s, rows);
        Product p = {pairs, 1, s.k, 0, 0, 1, w.pack, 0, s.n, &e, bias_col ? w.bias : nullptr};
        const Grid grid = row_grid(s.m, panels, row_bytes(s), s.k * kPanel * 4, team);
        const Range batch = alone ? split(s.batch, team, me) : Range{0, s.batch};
        const bool works = alone || me < grid.m * grid.n;
        const Range m = alone ? Range{0, s.m} : split(s.m, grid.m, me / grid.n, kPanelMr);
        const Range np = alone ? Range{0, panels} : split(panels, grid.n, me % grid.n);
        const Range n = {np.begin * kPanel, min64(np.end * kPanel, s.n)};
        for (int64_t b = batch.begin; b < batch.end; ++b) {
            const char* b_item = o.b + b * s.b_batch * dtype_size(s.dtype);
            if (prepacked) {
                p.b = reinterpret_cast<const float*>(o.b);
            } else if (path == Path::in_place) {
                float* tail = w.pack + me * w.pack_step;
                const float* src = reinterpret_cast<const float*>(b_item);
                const int64_t whole = s.n % Vec::W ? (panels - 1) * kPanel : s.n;
                if (!works || m.begin >= m.end) continue;
                if (n.begin < min64(n.end, whole)) {
                    p.b = src;
                    p.b_step = s.b_row;
                    rows_of_thread(s, per_batch, b, m, {n.begin, min64(n.end, whole)}, o, p, t);
                }
                if (n.end > whole) {
                    pack_panel<false>(src + whole, s.b_row, s.b_col, s.k, s.n - whole, tail);
                    p.b = tail - whole * s.k;
                    p.b_step = 0;
                    rows_of_thread(s, per_batch, b, m, {whole, s.n}, o, p, t);
                }
                continue;
            } else {
                const WeightView view = view_b(s, b_item, &zero);
                const PackPlan plan = plan_pack(view, pairs, nullptr);
                float* pack = w.pack + (alone ? me * w.pack_step : 0);
                if (!alone && b > batch.begin) {
#pragma omp barrier
                }
                DLPERF_PAIRS_SWITCH(s.dtype, pack_weight<Pairs, T>(view, plan, pack, alone ? 1 : team, alone ? 0 : me))
                p.b = pack;
                if (!alone) {
#pragma omp barrier
                }
            }
            if (works && m.begin < m.end) rows_of_thread(s, per_batch, b, m, n, o, p, t);
        }
    }
}

// ---- Outer path: A contiguous along m ----

constexpr double kReduceCost = 4;  // cycles per vector and part

Grid outer_grid(const GemmShape& s, int64_t threads) {
    Grid best = {1, 1, 1};
    double best_cost = 1e300;
    const int64_t tiles = ceil_div(s.m, kPanelMr), panels = ceil_div(s.n, kPanel),
                  depths = ceil_div(s.k, kBlocks.depth);
    for (int64_t k = 1; k <= threads; ++k) {
        if (k > 1 && (k > depths || s.m * s.n > 1 << 20)) break;
        for (int64_t n = 1; n <= threads / k && n <= panels; ++n) {
            const int64_t m = min64(threads / k / n, tiles);
            const double rows = double(ceil_div(tiles, m) * kPanelMr), columns = double(ceil_div(panels, n) * kPanel);
            const double depth = double(ceil_div(depths, k) * kBlocks.depth);
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

struct OuterWorkspace {
    float *a, *b, *acc;
    RowTables tables;
};

OuterWorkspace take_outer(Arena& arena, const GemmShape& s, const Grid& g) {
    const int64_t rows = round_up(ceil_div(s.m, g.m), kPanelMr) + kPanelMr;
    const int64_t panels = ceil_div(ceil_div(s.n, kPanel), g.n);
    const int64_t block_m = g.k > 1 ? rows : min64(rows, kOuterRows);
    const int64_t block_n = (g.k > 1 ? panels : min64(panels, kOuterPanels)) * kPanel;
    OuterWorkspace w;
    w.a = arena.take<float>(block_m * kBlocks.depth);
    w.b = arena.take<float>(kBlocks.depth * kPanel);
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
    const auto pack_a = [&](int64_t m0, int64_t m1, int64_t k0, int64_t k1, float* dst) {
        pack_tiles<Pairs>(a + m0 * s.a_row + k0 * s.a_col, s.a_row, s.a_col, k1 - k0, m1 - m0, kPanelMr, dst);
    };
    const auto pack_b = [&](int64_t panel, int64_t k0, int64_t k1, float* dst) {
        const int64_t n0 = panel * kPanel;
        pack_panel<Pairs>(b + n0 * s.b_col + k0 * s.b_row, s.b_row, s.b_col, k1 - k0, min64(kPanel, s.n - n0), dst);
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
    run_outer(Pairs, kPanelMr, r, w.a, w.b, w.acc, finish, width_of, pack_a, pack_b, done);
}

void run_outer_path(const GemmShape& s, const Operands& o, Arena& arena, int64_t threads) {
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
            const Range m = split(s.m, grid.m, part / grid.n % grid.m, kPanelMr);
            const Range n = split(panels, grid.n, part % grid.n);
            const Range k = split(s.k, grid.k, part / grid.n / grid.m, kBlocks.depth);
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
                for (int64_t m = whole.m_begin; m < whole.m_end; m += kOuterRows) {
                    for (int64_t n = whole.panel_begin; n < whole.panel_end; n += kOuterPanels) {
                        const Region r = {m,
                                          min64(m + kOuterRows, whole.m_end),
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

// ---- Dot path: few rows, A and B both contiguous along k: read once, in place ----

#if DLPERF_ISA_LEVEL == 3
DLPERF_INLINE __m512bh load_bf16(const bf16_t* p, int64_t n) {
    const __mmask32 mask = n >= 32 ? 0xffffffffu : _bzhi_u32(0xffffffffu, unsigned(n));
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, p);
}
#endif

template <int MR, int NR, class T>
void dot_tile(const T* const* a, const T* const* b, int64_t k, float* out, int64_t out_step) {
    Vec acc[MR][NR];
    for (int i = 0; i < MR; ++i) {
        for (int j = 0; j < NR; ++j) acc[i][j] = Vec::zero();
    }
#if DLPERF_ISA_LEVEL == 3
    if constexpr (kIsBf16<T>) {
        for (int64_t l = 0; l < k; l += 32) {
            __m512bh bv[NR];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) bv[j] = load_bf16(b[j] + l, k - l);
#pragma GCC unroll 4
            for (int i = 0; i < MR; ++i) {
                const __m512bh av = load_bf16(a[i] + l, k - l);
#pragma GCC unroll 4
                for (int j = 0; j < NR; ++j) acc[i][j].v = _mm512_dpbf16_ps(acc[i][j].v, av, bv[j]);
            }
        }
    } else
#endif
    {
        for (int64_t l = 0; l < k; l += Vec::W) {
            Vec bv[NR];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) bv[j] = load_some(b[j] + l, k - l);
#pragma GCC unroll 4
            for (int i = 0; i < MR; ++i) {
                const Vec av = load_some(a[i] + l, k - l);
#pragma GCC unroll 4
                for (int j = 0; j < NR; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) out[i * out_step + j] = acc[i][j].sum();
    }
}

constexpr int kDotTile = 4;

template <class T>
void dot_columns(const GemmShape& s, const T* const* a, const T* b, int64_t n0, int64_t n1, float* acc) {
    for (int64_t n = n0; n < n1; n += kDotTile) {
        const T* columns[kDotTile];
        const int width = int(min64(kDotTile, n1 - n));
        for (int j = 0; j < width; ++j) columns[j] = b + (n + j) * s.b_col;
        for (int64_t m = 0; m < s.m; m += kDotTile) {
            float* out = acc + m * kPanel + (n - n0);
            const int height = int(min64(kDotTile, s.m - m));
            if (width == kDotTile && height == 4) {
                dot_tile<4, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile && height == 3) {
                dot_tile<3, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile && height == 2) {
                dot_tile<2, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile) {
                dot_tile<1, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else {
                for (int i = 0; i < height; ++i) {
                    for (int j = 0; j < width; ++j) {
                        dot_tile<1, 1>(a + m + i, columns + j, s.k, out + i * kPanel + j, kPanel);
                    }
                }
            }
        }
    }
}

// `per_batch` rows to an item of the batch before folding, as everywhere.
void run_dot_path(const GemmShape& s, int64_t per_batch, const Operands& o, Arena& arena, int64_t threads) {
    float* bias = arena.take<float>(padded_bias(s.n));
    const bool bias_col = o.bias && !s.bias_per_row;
    if (bias_col) expand_bias(s.dtype, o.bias, s.n, bias);
    const Epilogue e = epilogue_of(s, o);
    // Pieces of a panel, so that few panels keep all threads busy.
    int64_t piece = kPanel;
    while (piece > 8 && s.batch * ceil_div(s.n, piece) < 8 * threads) piece /= 2;
    const int64_t pieces = ceil_div(s.n, piece), size = dtype_size(s.dtype);
    parallel_for(s.batch * pieces, max64(1, (1 << 14) / max64(1, piece * s.k)), [&](int64_t begin, int64_t end) {
        alignas(64) float acc[kDotRows * kPanel];
        const char* rows[kDotRows];
        int64_t out[kDotRows], residual[kDotRows];
        float bias_row[kDotRows];
        RowTables t = {};
        t.out = out;
        t.residual = residual;
        t.bias = bias_row;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t batch = i / pieces, n0 = i % pieces * piece, n1 = min64(s.n, n0 + piece);
            if (i == begin || n0 == 0) {
                fill_offsets(s, per_batch, batch, 0, s.m, o.bias, t);
                for (int64_t m = 0; m < s.m; ++m) {
                    rows[m] = o.a + ((batch + m / per_batch) * s.a_batch + m % per_batch * s.a_row) * size;
                }
            }
            const char* b = o.b + batch * s.b_batch * size;
            DLPERF_DTYPE_SWITCH(s.dtype, dot_columns(s, reinterpret_cast<const T* const*>(rows),
                                                     reinterpret_cast<const T*>(b), n0, n1, acc))
            TileCall call = {};
            call.acc = acc;
            call.epilogue = &e;
            call.out_offset = out;
            call.residual_offset = residual;
            call.bias_row = s.bias_per_row && o.bias ? bias_row : nullptr;
            call.bias_col = bias_col ? bias : nullptr;
            call.n0 = n0;
            call.n_valid = int(n1 - n0);
            finish_rows(call, int(s.m), kPanel);
        }
    });
}

// ---- The table ----

int64_t workspace_bytes(const GemmShape& shape, int64_t threads, bool prepacked) {
    const GemmShape s = folded(shape, prepacked);
    Arena arena = {nullptr};
    const Path path = choose_path(s, prepacked);
    if (path == Path::dot) {
        arena.take<float>(padded_bias(s.n));
    } else if (path == Path::outer) {
        arena.take<float>(padded_bias(s.n));
        const Grid grid = item_per_thread(s, threads) ? Grid{1, 1, 1} : outer_grid(s, threads);
        for (int64_t i = 0; i < max64(threads, grid.m * grid.n * grid.k); ++i) take_outer(arena, s, grid);
    } else {
        take_row_workspace(arena, s, threads, prepacked ? Path::dot : path);
        for (int64_t i = 0; i < threads; ++i) take_row_tables(arena, s, thread_rows(s));
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
        run_dot_path(s, shape.m, o, arena, threads);
    } else if (path == Path::outer) {
        run_outer_path(s, o, arena, threads);
    } else {
        run_row_path(s, shape.m, o, arena, threads, path, prepacked);
    }
}

int64_t pack_bytes(const GemmShape& s) {
    return max64(64, pack_floats(s) * 4);
}

void pack_b(const GemmShape& s, const void* b, void* packed) {
    const int64_t zero = 0;
    const WeightView view = view_b(s, b, &zero);
    const PackPlan plan = plan_pack(view, uses_pairs(s.dtype), nullptr);
#pragma omp parallel if (s.k * s.n > 1 << 15)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        DLPERF_PAIRS_SWITCH(s.dtype, pack_weight<Pairs, T>(view, plan, static_cast<float*>(packed), team, me))
    }
}

// Sums blocks of rows, then the blocks: the error grows with the block, not with the rows.
template <class T>
void sum_columns(int64_t rows, int64_t columns, int64_t row_step, const T* x, T* out) {
    constexpr int64_t kBlock = 128;
    parallel_for(
        columns, max64(1, (1 << 15) / max64(1, rows)),
        [&](int64_t begin, int64_t end) {
            for (int64_t j0 = begin; j0 < end; j0 += kPanel) {
                const int64_t n = min64(kPanel, end - j0);
                Vec total[kBlocks.nv_max];
                for (int v = 0; v < kBlocks.nv_max; ++v) total[v] = Vec::zero();
                for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
                    Vec part[kBlocks.nv_max];
                    for (int v = 0; v < kBlocks.nv_max; ++v) part[v] = Vec::zero();
                    for (int64_t i = i0; i < min64(rows, i0 + kBlock); ++i) {
                        const T* p = x + i * row_step + j0;
#pragma GCC unroll 4
                        for (int v = 0; v < kBlocks.nv_max; ++v) {
                            if (v * Vec::W < n) part[v] = part[v] + load_some(p + v * Vec::W, n - v * Vec::W);
                        }
                    }
                    for (int v = 0; v < kBlocks.nv_max; ++v) total[v] = total[v] + part[v];
                }
                for (int v = 0; v < kBlocks.nv_max; ++v) {
                    if (v * Vec::W < n) store_some(out + j0 + v * Vec::W, total[v], n - v * Vec::W);
                }
            }
        },
        16);
}

void sum_rows(int64_t rows, int64_t columns, int64_t row_step, DType dtype, const void* x, void* out) {
    DLPERF_DTYPE_SWITCH(dtype, sum_columns(rows, columns, row_step, static_cast<const T*>(x), static_cast<T*>(out)))
}

}  // namespace

extern const GemmTable gemm_table;
const GemmTable gemm_table = {workspace_bytes, run, pack_bytes, pack_b, sum_rows};

}  // namespace dlperf::DLPERF_ISA_NS

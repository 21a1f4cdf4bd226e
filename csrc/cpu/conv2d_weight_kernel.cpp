// Convolution's gradient for the weight: gy^T times the pixels that each tap sees, reduced over all output pixels.
// DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/conv2d_impl.h"
#include "cpu/conv2d_pixels.h"
#include "cpu/gemm_outer.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Panels run over (channel block, tap), taps innermost. With merged taps there is one tap of columns (r, s, c).
// Narrow groups are computed several at a time: of the product only the blocks on the diagonal are kept.
struct Weights {
    Conv2dShape s;
    bool pairs, merged, tiles;
    int64_t groups, together;  // products, and groups in each
    int64_t rows, columns;     // filters of a product; columns of a tap
    int64_t taps, blocks;      // taps; channel blocks of kPanel
    int64_t pixels;
    int mr;  // rows that regions are multiples of

    int64_t panels() const { return taps * blocks; }
    int64_t panel_columns(int64_t panel) const { return min64(kPanel, columns - panel / taps * kPanel); }
    int64_t width(int64_t panel) const { return round_up(panel_columns(panel), Vec::W); }
    // A tap's pixels are x itself.
    bool reads_in_place() const {
        return s.dtype == DType::f32 && s.r == 1 && s.s == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 &&
               s.pad_w == 0 && rows_in_place(columns, s.c);
    }
    // Rows of gw take whole vectors of the result as they are.
    bool stores_directly() const { return !merged && together == 1 && s.w_c == 1; }
};

Weights make_weights(const Conv2dShape& s) {
    Weights w;
    w.s = s;
    w.pairs = uses_pairs(s.dtype);
    w.merged = merges_taps(s);
    w.together = 1;
    const int64_t channels = s.c / s.groups;
    for (int64_t f = 2; f <= s.groups && f * channels <= Vec::W; ++f) {
        if (s.groups % f == 0) w.together = f;
    }
    w.groups = s.groups / w.together;
    w.rows = s.k / w.groups;
    w.columns = s.c / w.groups * (w.merged ? s.r * s.s : 1);
    w.taps = w.merged ? 1 : s.r * s.s;
    w.blocks = ceil_div(w.columns, kPanel);
    w.pixels = s.n * s.oh * s.ow;
    w.tiles = uses_tiles(w.pairs, w.rows, w.columns * w.taps, w.pixels, false);
    w.mr = int(outer_mr(w.tiles, kBlocks.mr[w.width(0) / Vec::W]));
    return w;
}

// Accumulators of one block: rows x (channel blocks with all their taps).
constexpr int64_t kAccFloats = (1 << 20) / 4;

struct Blocking {
    Grid grid;             // rows, channel blocks, pixels
    int64_t rows, blocks;  // of a block, at most
};

Blocking choose_blocking(const Weights& w, int64_t threads) {
    Blocking b = {{1, 1, 1}, 0, 0};
    double best = 1e300;
    const int64_t tiles = ceil_div(w.rows, w.mr), pixel_units = units_of(w.pixels, w.pairs);
    const int64_t depths = max64(1, ceil_div(pixel_units, kBlocks.outer_depth));
    const double result = double(w.rows) * double(w.panels()) * kPanel;
    for (int64_t k = 1; k <= threads && k <= depths; ++k) {
        if (k > 1 && result * double(k) > double(int64_t(16) << 20)) break;
        for (int64_t n = 1; n <= threads / k && n <= w.blocks; ++n) {
            const int64_t m = min64(threads / k / n, tiles);
            const double rows = double(ceil_div(tiles, m) * w.mr);
            const double panels = double(ceil_div(w.blocks, n) * w.taps);
            const double depth = double(ceil_div(depths, k) * kBlocks.outer_depth);
            double cost = rows * panels * kPanel * depth / 32 + depth * (rows * 0.3 + panels * kPanel * 0.25);
            if (k > 1) cost += 10000 + result / 16 * double(k) / double(threads) * 3;
            if (cost < best) {
                best = cost;
                b.grid = {m, n, k};
            }
        }
    }
    const int64_t my_rows = ceil_div(tiles, b.grid.m) * w.mr, my_blocks = ceil_div(w.blocks, b.grid.n);
    const int64_t fit = max64(kBlocks.row_step, kAccFloats / (w.taps * kPanel) / w.mr * w.mr);
    b.rows = min64(outer_rows(my_rows, w.mr), fit);
    b.blocks = min64(my_blocks, max64(1, kAccFloats / (b.rows * w.taps * kPanel)));
    return b;
}

struct Scratch {
    float *a, *b, *acc;
};

// With a split reduction every thread keeps the accumulators of its whole region.
Scratch take_scratch(Arena& arena, const Weights& w, const Blocking& b) {
    const int64_t rows = b.grid.k > 1 ? ceil_div(ceil_div(w.rows, w.mr), b.grid.m) * w.mr : b.rows;
    const int64_t blocks = b.grid.k > 1 ? ceil_div(w.blocks, b.grid.n) : b.blocks;
    Scratch t;
    t.a = arena.take<float>(outer_a_floats(b.rows, w.pairs, w.tiles));
    t.b = arena.take<float>(outer_b_floats(w.pairs, w.tiles));
    t.acc = arena.take<float>(rows * blocks * w.taps * kPanel);
    return t;
}

// ---- x as the panel's rows: one per output pixel ----

constexpr int64_t kPixelsAhead = 16;

// Pixels [k0, k1) of one panel. Where the tap falls beside the image the row is zero.
template <bool Pairs, class T>
void pack_pixels(const Weights& w, const T* x, int64_t panel, int64_t k0, int64_t k1, float* dst) {
    const Conv2dShape& s = w.s;
    const int64_t tap = panel % w.taps, c0 = panel / w.taps * kPanel;
    const int64_t r = w.merged ? 0 : tap / s.s, q = w.merged ? 0 : tap % s.s;
    const int64_t columns = w.panel_columns(panel), width = w.width(panel), per_unit = Pairs ? 2 : 1;
    const int64_t per_last = per_unit - 1;
    const int64_t shift = q * s.dil_w - s.pad_w;
    alignas(64) T line[kPanel] = {};
    const Pieces pieces(s, w.merged ? c0 : 0, w.merged ? columns : 0);
    for (int64_t k = k0; k < k1;) {
        const int64_t n = k / (s.oh * s.ow), oh = k / s.ow % s.oh, ow = k % s.ow;
        const int64_t end = min64(k1, k - ow + s.ow);
        const int64_t ih = oh * s.stride_h - s.pad_h + r * s.dil_h;
        const bool inside = ih >= 0 && ih < s.h;
        int64_t iw = ow * s.stride_w + shift;
        const T* image = x + n * s.h * s.w * s.c;
        const T* row = image + (inside ? ih : 0) * s.w * s.c;
        const bool whole = w.merged && ih + pieces.first_row * s.dil_h >= 0 && ih + pieces.last_row * s.dil_h < s.h;
        for (; k < end; ++k, iw += s.stride_w) {
            float* out = dst + (k - k0) / per_unit * width;
            const int64_t half = (k - k0) % per_unit;
            if (Pairs && !w.merged && !half && k + 1 < end && inside && iw >= 0 && iw + s.stride_w < s.w) {
                const T* pixel = row + iw * s.c + c0;
                const int64_t step = s.stride_w * s.c, bytes = columns * int64_t(sizeof(T));
                for (int64_t at = 0; at < bytes; at += 64) {
                    const char* ahead = reinterpret_cast<const char*>(pixel + kPixelsAhead * step) + at;
                    __builtin_prefetch(ahead, 0, 3);
                    __builtin_prefetch(ahead + step * int64_t(sizeof(T)), 0, 3);
                }
                put_pair(pixel, pixel + step, columns, width, out);
                ++k;
                iw += s.stride_w;
                continue;
            }
            if (whole && iw >= 0 && iw + per_last * s.stride_w + s.s <= s.w && half == 0 && k + per_last < end) {
                const T* pixel = image + (ih * s.w + iw) * s.c;
                put_pieces<Pairs>(pieces, pixel, pixel + s.stride_w * s.c, width, out);
                k += per_last;
                iw += per_last * s.stride_w;
                continue;
            }
            if (w.merged) {
                gather_line(s, image, ih, iw, c0, columns, line);
                put_pixel<Pairs>(line, columns, width, half, out);
            } else if (inside && iw >= 0 && iw < s.w) {
                const T* ahead = row + (iw + kPixelsAhead * s.stride_w) * s.c + c0;
                for (int64_t j = 0; j < columns; j += 64 / int64_t(sizeof(T))) __builtin_prefetch(ahead + j, 0, 3);
                put_pixel<Pairs>(row + iw * s.c + c0, columns, width, half, out);
            } else {
                put_zero(width, Pairs, half, out);
            }
        }
    }
}

// ---- Writing the result ----

// Where the parts of one region's accumulators lie: added in order.
struct Parts {
    float* acc;
    int64_t step, count;
};

DLPERF_INLINE Vec sum_parts(const Parts& p, int64_t at) {
    Vec v = Vec::load(p.acc + at);
    for (int64_t i = 1; i < p.count; ++i) v = v + Vec::load(p.acc + i * p.step + at);
    return v;
}

// Some rows of a region whose accumulators are `parts`; gw at the product's first filter.
template <class T>
void write_weights(const Weights& w, const Region& r, Range rows, const Parts& parts, T* gw) {
    const Conv2dShape& s = w.s;
    const int64_t height = r.m_end - r.m_begin, channels = s.c / s.groups, filters = s.k / s.groups;
    const bool taps_inside =
        !w.merged && s.w_c == w.taps && s.w_s == 1 && (s.r == 1 || s.w_r == s.s) && w.taps > 1 && w.taps <= Vec::W;
    for (int64_t m = rows.begin; m < rows.end; ++m) {
        T* filter = gw + m * s.w_k;
        // The row's own group among those computed together.
        const int64_t own = w.together > 1 ? m / filters * channels : 0;
        const int64_t own_end = w.together > 1 ? own + channels : w.columns;
        for (int64_t first = r.panel_begin; first < r.panel_end; first += w.taps) {
            const int64_t columns = w.panel_columns(first), width = w.width(first);
            const int64_t c0 = first / w.taps * kPanel;
            const auto at = [&](int64_t tap, int64_t j) {
                return (first + tap - r.panel_begin) * kPanel * height + (m - r.m_begin) * width + j;
            };
            for (int64_t j = 0; j < columns; j += Vec::W) {
                const int64_t begin = max64(own, c0 + j), end = min64(own_end, c0 + j + min64(Vec::W, columns - j));
                if (taps_inside) {
                    Vec v[Vec::W];
                    for (int64_t tap = 0; tap < Vec::W; ++tap) {
                        v[tap] = tap < w.taps ? sum_parts(parts, at(tap, j)) : Vec::zero();
                    }
                    transpose(v);
                    for (int64_t c = begin; c < end; ++c) {
                        store_some(filter + (c - own) * s.w_c, v[c - c0 - j], w.taps);
                    }
                    continue;
                }
                for (int64_t tap = 0; tap < w.taps; ++tap) {
                    const Vec v = sum_parts(parts, at(tap, j));
                    if (w.stores_directly()) {
                        store_some(filter + tap / s.s * s.w_r + tap % s.s * s.w_s + c0 + j, v, end - begin);
                        continue;
                    }
                    alignas(64) float lane[Vec::W];
                    v.store(lane);
                    for (int64_t c = begin; c < end; ++c) {
                        const int64_t t = w.merged ? c / s.c : tap, channel = w.merged ? c % s.c : c - own;
                        filter[t / s.s * s.w_r + t % s.s * s.w_s + channel * s.w_c] = from_float<T>(lane[c - c0 - j]);
                    }
                }
            }
        }
    }
}

template <bool Pairs, class T>
void accumulate(const Weights& w, const T* gy, const T* x, const Region& r, const Scratch& t, float* acc, bool finish,
                T* gw) {
    const auto width_of = [&](int64_t panel) { return w.width(panel); };
    const int plain_mr = kBlocks.mr[w.width(0) / Vec::W];
    const auto pack_a = [&](int64_t m0, int64_t m1, int64_t k0, int64_t k1, float* dst, bool tiles) {
        const T* from = gy + m0 + k0 * w.s.k;
#if DLPERF_ISA_LEVEL >= 4
        if (tiles) return pack_turned<Pairs>(from, 1, w.s.k, k1 - k0, m1 - m0, dst);
#endif
        pack_tiles<Pairs>(from, 1, w.s.k, k1 - k0, m1 - m0, plain_mr, dst);
        return true;
    };
    const auto place_a = [&](int64_t m0, int64_t k0) {
        if constexpr (std::is_same_v<T, float>) {
            if (columns_in_place(w.s.k)) return Placed{gy + m0 + k0 * w.s.k, w.s.k};
        }
        return Placed{nullptr, 0};
    };
    const bool in_place = w.reads_in_place();
    const auto pack_b = [&](int64_t panel, int64_t k0, int64_t k1, float* dst) {
        if constexpr (std::is_same_v<T, float>) {
            if (in_place) return Placed{x + k0 * w.s.c + panel * kPanel, w.s.c};
        }
        pack_pixels<Pairs>(w, x, panel, k0, k1, dst);
        return Placed{dst, w.width(panel)};
    };
    Epilogue e;
    e.dtype = w.s.dtype;
    e.out = gw;
    int64_t out[kMrMax > 2 * kTileRows ? kMrMax : 2 * kTileRows];
    const auto done = [&](TileCall& tile, int64_t m, int64_t panel) {
        const int64_t tap = panel % w.taps;
        for (int64_t i = 0; i < w.mr; ++i) out[i] = (m + i) * w.s.w_k + tap / w.s.s * w.s.w_r + tap % w.s.s * w.s.w_s;
        tile.epilogue = &e;
        tile.out_offset = out;
        tile.n0 = panel / w.taps * kPanel;
        tile.n_valid = int(w.panel_columns(panel));
    };
    run_outer(Pairs, w.tiles, plain_mr, r, t.a, t.b, acc, finish, width_of, place_a, pack_a, pack_b, done);
}

template <bool Pairs, class T>
void group_gradient(const Weights& w, const Blocking& b, const T* gy, const T* x, T* gw, Arena shared, int64_t share,
                    int64_t team, int64_t me) {
    const Grid& g = b.grid;
    const auto scratch_of = [&](int64_t part) {
        Arena mine = {shared.base, shared.used + part * share};
        return take_scratch(mine, w, b);
    };
    const auto region_of = [&](int64_t part) {
        const Range m = split(w.rows, g.m, part / g.n % g.m, w.mr);
        const Range n = split(w.blocks, g.n, part % g.n);
        const Range k = split(w.pixels, g.k, part / g.n / g.m, kBlocks.outer_depth * 2);
        return Region{m.begin, m.end, n.begin * w.taps, n.end * w.taps, k.begin, k.end};
    };
    const int64_t parts = g.m * g.n * g.k;
    for (int64_t part = me; part < parts; part += team) {
        const Region whole = region_of(part);
        const Scratch t = scratch_of(part);
        for (int64_t m = whole.m_begin; m < whole.m_end; m += b.rows) {
            const int64_t step = g.k > 1 ? whole.panel_end - whole.panel_begin : b.blocks * w.taps;
            for (int64_t n = whole.panel_begin; n < whole.panel_end; n += step) {
                const Region r = {
                    m, min64(m + b.rows, whole.m_end), n, min64(n + step, whole.panel_end), whole.k_begin, whole.k_end};
                // Row blocks of a split region lie one after another.
                float* acc = t.acc + (g.k > 1 ? (m - whole.m_begin) * step * kPanel : 0);
                const bool direct = g.k == 1 && w.stores_directly();
                accumulate<Pairs>(w, gy, x, r, t, acc, direct, gw);
                if (g.k == 1 && !direct) write_weights(w, r, {r.m_begin, r.m_end}, {acc, 0, 1}, gw);
            }
        }
    }
    if (g.k == 1) return;
#pragma omp barrier
    const Range mine = split(w.rows, team, me);
    for (int64_t part = 0; part < g.m * g.n; ++part) {
        const Region whole = region_of(part);
        const int64_t step = whole.panel_end - whole.panel_begin;
        for (int64_t m = whole.m_begin; m < whole.m_end; m += b.rows) {
            const Region r = {m, min64(m + b.rows, whole.m_end), whole.panel_begin, whole.panel_end, 0, 0};
            const Range rows = {max64(r.m_begin, mine.begin), min64(r.m_end, mine.end)};
            float* acc = scratch_of(part).acc + (m - whole.m_begin) * step * kPanel;
            write_weights(w, r, rows, {acc, g.m * g.n * share / 4, g.k}, gw);
        }
    }
#pragma omp barrier
}

// Many groups go to threads whole.
bool group_per_thread(const Weights& w, int64_t threads) {
    return w.groups >= 2 * threads;
}

}  // namespace

int64_t conv2d_weight_bytes(const Conv2dShape& s, int64_t threads) {
    const Weights w = make_weights(s);
    const Blocking b = choose_blocking(w, group_per_thread(w, threads) ? 1 : threads);
    Arena arena = {nullptr};
    for (int64_t i = 0; i < threads; ++i) take_scratch(arena, w, b);
    return arena.used;
}

void conv2d_bwd_weight(const Conv2dShape& s, const void* gy, const void* x, void* gw, void* workspace,
                       int64_t threads) {
    const Weights w = make_weights(s);
    const bool alone = group_per_thread(w, threads);
    const Blocking b = choose_blocking(w, alone ? 1 : threads);
    Arena measure = {nullptr};
    take_scratch(measure, w, b);
    const int64_t share = measure.used, filters = w.rows, channels = s.c / w.groups;
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        const Range groups = alone ? split(w.groups, team, me) : Range{0, w.groups};
        const Arena shared = {static_cast<char*>(workspace), alone ? me * share : 0};
        for (int64_t g = groups.begin; g < groups.end; ++g) {
            DLPERF_PAIRS_SWITCH(s.dtype, group_gradient<Pairs>(w, b, static_cast<const T*>(gy) + g * filters,
                                                               static_cast<const T*>(x) + g * channels,
                                                               static_cast<T*>(gw) + g * filters * s.w_k, shared, share,
                                                               alone ? 1 : team, alone ? 0 : me))
        }
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

// Convolution by Winograd's F(4x4, 3x3): forward and backward to the input, 3x3 filters of stride 1. Values of any
// type are widened as they are transformed: all else is float32.
//
// A tile of 6x6 pixels is transformed into 36 values per channel; for each of the 36 a product of [tiles, channels] and
// [channels, filters] follows on the row engine, and the results are transformed into 4x4 pixels. Each thread takes
// blocks of tiles, few enough that what lies between the steps stays in its L2, through all three steps.
#include "cpu/activation_math.h"
#include "cpu/winograd_impl.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

using namespace winograd;

// A convolution of stride 1 from src to dst: the input's gradient is one over gy, with flipped filters.
struct Problem {
    Conv2dShape s;
    bool forward;
    int64_t src_c, dst_h, dst_w, dst_c;
    TileGrid tiles;
    int64_t padded_c;    // of a row of transformed data, whole vectors
    int64_t point_step;  // floats from one point's packed filters to the next's

    int64_t panels() const { return ceil_div(dst_c, kPanel); }
};

Problem make_problem(const Conv2dShape& s, bool forward) {
    Problem p;
    p.s = s;
    p.forward = forward;
    p.src_c = forward ? s.c : s.k;
    p.dst_h = forward ? s.oh : s.h;
    p.dst_w = forward ? s.ow : s.w;
    p.dst_c = forward ? s.k : s.c;
    p.tiles = make_tile_grid(s.n, forward ? s.h : s.oh, forward ? s.w : s.ow, p.src_c, forward ? s.pad_h : 2 - s.pad_h,
                             forward ? s.pad_w : 2 - s.pad_w, p.dst_h, p.dst_w);
    p.padded_c = round_up(p.src_c, Vec::W);
    // One cache line over, so that the 36 streams of a transform don't meet in one set of the cache.
    p.point_step = round_up(packed_floats(1, p.src_c, p.dst_c, false), 16) + 16;
    return p;
}

// ---- Filters ----

// The nine taps of `lanes` filters lane_step apart, in the order of the forward pass or flipped.
template <class T>
DLPERF_INLINE void load_taps(const Conv2dShape& s, const T* w, int64_t lane_step, int64_t lanes, bool flip,
                             Vec (&g)[9]) {
    if (lane_step != 1 && s.w_s == 1 && s.w_r == 3 && Vec::W >= 8) {
        Vec r[Vec::W], last[Vec::W];
        for (int i = 0; i < Vec::W; ++i) {
            r[i] = i < lanes ? load_some(w + i * lane_step, min64(9, Vec::W)) : Vec::zero();
            if (Vec::W < 9) last[i] = i < lanes ? Vec::set1(to_float(w[i * lane_step + 8])) : Vec::zero();
        }
        transpose(r);
        if (Vec::W < 9) transpose(last);
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t) g[flip ? 8 - t : t] = t < Vec::W ? r[t % Vec::W] : last[0];
        return;
    }
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) {
        const T* tap = w + t / 3 * s.w_r + t % 3 * s.w_s;
        Vec v;
        if (lane_step == 1) {
            v = load_some(tap, lanes);
        } else {
            alignas(64) float lane[Vec::W] = {0};
            for (int i = 0; i < Vec::W && i < lanes; ++i) lane[i] = to_float(tap[i * lane_step]);
            v = Vec::load(lane);
        }
        g[flip ? 8 - t : t] = v;
    }
}

// G g G^T of one vector of filters, to the same place of each point's pack.
DLPERF_INLINE void transform_filter(const Vec (&g)[9], float* out, int64_t point_step) {
    Vec rows[3][kIn];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
        const Vec line[3] = {g[3 * i], g[3 * i + 1], g[3 * i + 2]};
        filter_line(line, rows[i]);
    }
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) {
        const Vec line[3] = {rows[0][j], rows[1][j], rows[2][j]};
        Vec u[kIn];
        filter_line(line, u);
#pragma GCC unroll 6
        for (int i = 0; i < kIn; ++i) u[i].store(out + (i * kIn + j) * point_step);
    }
}

// The taps of `lanes` filters and `units` neighbouring channels, which lie next to each other: out[tap][unit][lane].
template <class T>
void load_taps_across(const Conv2dShape& s, const T* w, int64_t lane_step, int64_t lanes, int64_t units, bool flip,
                      float* out) {
    for (int t = 0; t < 9; ++t) {
        const T* tap = w + t / 3 * s.w_r + t % 3 * s.w_s;
        Vec r[Vec::W];
        for (int i = 0; i < Vec::W; ++i) r[i] = i < lanes ? load_some(tap + i * lane_step, units) : Vec::zero();
        transpose(r);
        float* to = out + (flip ? 8 - t : t) * Vec::W * Vec::W;
        for (int i = 0; i < Vec::W; ++i) r[i].store(to + i * Vec::W);
    }
}

// Share `me` of `team` of the filters: each point's pack is a packed B of the row engine.
template <class T>
void pack_filters(const Problem& p, const T* w, float* packed, int64_t team, int64_t me) {
    const Conv2dShape& s = p.s;
    const int64_t lane_step = p.forward ? s.w_k : s.w_c, unit_step = p.forward ? s.w_c : s.w_k;
    const int64_t vectors = ceil_div(p.dst_c, Vec::W), block = 16, blocks = ceil_div(p.src_c, block);
    const Range mine = split(vectors * blocks, team, me);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        const int64_t n = i / blocks * Vec::W, n0 = n / kPanel * kPanel, width = panel_width(p.dst_c, n0);
        const int64_t end = min64(p.src_c, (i % blocks + 1) * block);
        if (unit_step == 1 && lane_step != 1) {
            for (int64_t u0 = i % blocks * block; u0 < end; u0 += Vec::W) {
                alignas(64) float taps[9 * Vec::W * Vec::W];
                const int64_t units = min64(Vec::W, end - u0);
                load_taps_across(s, w + n * lane_step + u0, lane_step, p.dst_c - n, units, !p.forward, taps);
                for (int64_t u = 0; u < units; ++u) {
                    Vec g[9];
#pragma GCC unroll 9
                    for (int t = 0; t < 9; ++t) g[t] = Vec::load(taps + (t * Vec::W + u) * Vec::W);
                    transform_filter(g, packed + n0 * p.src_c + (u0 + u) * width + (n - n0), p.point_step);
                }
            }
            continue;
        }
        for (int64_t u = i % blocks * block; u < end; ++u) {
            Vec g[9];
            load_taps(s, w + n * lane_step + u * unit_step, lane_step, p.dst_c - n, !p.forward, g);
            transform_filter(g, packed + n0 * p.src_c + u * width + (n - n0), p.point_step);
        }
    }
}

// ---- One thread's blocks ----

// Tiles of a block at most: transformed data and one panel's results within about 1 MB.
constexpr int64_t kBlockBytes = 960 << 10;

int64_t most_tiles(const Problem& p) {
    const int64_t bytes = kPoints * 4 * (p.padded_c + min64(p.dst_c, kPanel)), step = kBlocks.row_step;
    // Filters of many channels don't fit in L2 whatever the block: more tiles read them less often.
    return max64(p.src_c < 192 ? step : 2 * step, min64(4 * step, kBlockBytes / bytes / step * step));
}

int64_t tiles_per_block(const Problem& p, int64_t tiles) {
    const int64_t blocks = max64(1, ceil_div(tiles, most_tiles(p)));
    return round_up(max64(1, ceil_div(tiles, blocks)), kPanelMr);
}

struct Scratch {
    float *data, *products, *acc;
    const char** rows;
    int64_t* out;
    int64_t data_step, product_step;
};

Scratch take_scratch(const Problem& p, Arena& arena) {
    const int64_t tiles = min64(most_tiles(p), round_up(max64(1, p.tiles.count), kPanelMr));
    Scratch t;
    t.data_step = tiles * p.padded_c + 16;
    t.product_step = tiles * min64(round_up(p.dst_c, Vec::W), kPanel) + 16;
    t.data = arena.take<float>(kPoints * t.data_step);
    t.products = arena.take<float>(kPoints * t.product_step);
    t.acc = arena.take<float>(tiles * kAccColumns);
    t.rows = arena.take<const char*>(tiles);
    t.out = arena.take<int64_t>(tiles);
    return t;
}

struct Call {
    const Problem& p;
    const float* filters;
    const float* bias;  // whole vectors, or null
    const void *src, *residual;
    void* dst;
};

// A^T m A of a block's tiles for one panel, with the epilogue. Returns 0, or NaN where a sum was not finite.
template <Act A, class T>
Vec transform_results(const Call& call, const Scratch& t, int64_t begin, int64_t count, int64_t n0, int64_t width) {
    const Problem& p = call.p;
    const T* residual = static_cast<const T*>(call.residual);
    T* dst = static_cast<T*>(call.dst);
    Vec bad = Vec::zero();
    for (int64_t i = 0; i < count; ++i) {
        const int64_t tile = begin + i, h0 = p.tiles.row(tile) * kTile, w0 = p.tiles.column(tile) * kTile;
        const int rows = int(min64(kTile, p.dst_h - h0)), columns = int(min64(kTile, p.dst_w - w0));
        const int64_t pixel = ((p.tiles.image(tile) * p.dst_h + h0) * p.dst_w + w0) * p.dst_c, row = p.dst_w * p.dst_c;
        const float* m = t.products + i * width;
        for (int64_t j = 0; j < width; j += Vec::W) {
            Vec lines[kIn][kTile];
#pragma GCC unroll 6
            for (int r = 0; r < kIn; ++r) {
                Vec line[kIn];
#pragma GCC unroll 6
                for (int c = 0; c < kIn; ++c) line[c] = Vec::load(m + (r * kIn + c) * t.product_step + j);
                result_line(line, lines[r]);
            }
            const int64_t lanes = p.dst_c - n0 - j;
            const Vec bias = call.bias ? Vec::load(call.bias + n0 + j) : Vec::zero();
#pragma GCC unroll 4
            for (int c = 0; c < kTile; ++c) {
                const Vec line[kIn] = {lines[0][c], lines[1][c], lines[2][c], lines[3][c], lines[4][c], lines[5][c]};
                Vec y[kTile];
                result_line(line, y);
                if (c >= columns) continue;
#pragma GCC unroll 4
                for (int r = 0; r < kTile; ++r) {
                    if (r >= rows) break;
                    bad = fma(y[r], Vec::zero(), bad);
                    const int64_t at = pixel + r * row + c * p.dst_c + n0 + j;
                    Vec v = y[r] + bias;
                    if (residual) v = v + load_some(residual + at, lanes);
                    store_some(dst + at, activate<A>(v, p.s.act_param), lanes);
                }
            }
        }
    }
    return bad;
}

// Tiles and panels of one thread. Returns whether every sum was finite.
template <class T>
bool run_blocks(const Call& call, const float* zero, Range tiles, Range panels, const Scratch& t) {
    const Problem& p = call.p;
    const int64_t step = tiles_per_block(p, tiles.end - tiles.begin);
    Vec bad = Vec::zero();
    for (int64_t i = tiles.begin; i < tiles.end; i += step) {
        const int64_t count = min64(step, tiles.end - i);
        transform_data(p.tiles, static_cast<const T*>(call.src), zero, i, count, t.data, t.data_step);
        for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
            const int64_t n0 = panel * kPanel, width = panel_width(p.dst_c, n0);
            for (int64_t r = 0; r < count; ++r) {
                t.rows[r] = reinterpret_cast<const char*>(t.data + r * p.padded_c);
                t.out[r] = r * width;
            }
            const RowBlock block = {t.rows, count, count, t.out, t.out, nullptr};
            Epilogue e;
            Product product = {};
            product.taps = product.all_taps = 1;
            product.run = p.src_c;
            product.n = width;
            product.epilogue = &e;
            for (int64_t point = 0; point < kPoints; ++point) {
                e.out = t.products + point * t.product_step;
                product.a_offset = point * t.data_step * 4;
                product.b = call.filters + point * p.point_step + n0 * p.src_c;
                run_rows(product, block, 0, width, t.acc);
            }
            DLPERF_ACT_SWITCH(p.s.act, bad = bad + transform_results<A, T>(call, t, i, count, n0, width));
        }
    }
    const float sum = bad.sum();
    return sum == 0.0f;
}

// ---- The whole call ----

struct Buffers {
    float *zero, *bias, *filters;
};

Conv2dShape fallback_shape(const Conv2dShape& s, bool prepacked) {
    Conv2dShape f = direct_shape(s);
    if (prepacked) {  // the pack keeps the weight as [k][r][s][c]
        f.w_k = 9 * s.c;
        f.w_r = 3 * s.c;
        f.w_s = s.c;
        f.w_c = 1;
    }
    return f;
}

Buffers take_buffers(const Problem& p, Arena& arena, bool prepacked) {
    Buffers b = {};
    b.zero = arena.take<float>(p.padded_c);
    b.bias = arena.take<float>(padded_bias(p.dst_c));
    b.filters = arena.take<float>(prepacked ? 0 : kPoints * p.point_step);
    return b;
}

int64_t workspace_bytes(const Conv2dShape& s, ConvDirection direction, int64_t threads, bool prepacked) {
    if (direction == ConvDirection::bwd_weight) return winograd_weight_bytes(s, threads);
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    Arena arena = {nullptr};
    take_buffers(p, arena, prepacked);
    for (int64_t i = 0; i < threads; ++i) take_scratch(p, arena);
    // A fallback to the direct sum starts anew.
    return max64(arena.used, conv2d_table.workspace_bytes(fallback_shape(s, prepacked), direction, threads, false));
}

// Behind the packed filters: the weight itself, as [k][r][s][c].
int64_t pack_bytes(const Conv2dShape& s, ConvDirection direction) {
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    return kPoints * p.point_step * 4 + round_up(9 * s.k * s.c * dtype_size(s.dtype), 64);
}

template <class T>
void pack_as(const Problem& p, const T* w, float* out) {
    const Conv2dShape& s = p.s;
    T* copy = reinterpret_cast<T*>(out + kPoints * p.point_step);
#pragma omp parallel
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        pack_filters(p, w, out, team, me);
        const Range mine = split(s.k, team, me);
        for (int64_t k = mine.begin; k < mine.end; ++k) {
            for (int64_t t = 0; t < 9; ++t) {
                const T* tap = w + k * s.w_k + t / 3 * s.w_r + t % 3 * s.w_s;
                for (int64_t c = 0; c < s.c; ++c) copy[(k * 9 + t) * s.c + c] = tap[c * s.w_c];
            }
        }
    }
}

void pack(const Conv2dShape& s, ConvDirection direction, const void* weight, void* packed) {
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    DLPERF_DTYPE_SWITCH(s.dtype, pack_as(p, static_cast<const T*>(weight), static_cast<float*>(packed)))
}

void run(const Conv2dShape& s, bool forward, const void* src, const void* weight, const void* bias,
         const void* residual, void* dst, void* workspace, int64_t threads, bool prepacked) {
    const Problem p = make_problem(s, forward);
    if (s.n * p.dst_h * p.dst_w * p.dst_c == 0) return;
    Arena arena = {static_cast<char*>(workspace)};
    const Buffers b = take_buffers(p, arena, prepacked);
    std::memset(b.zero, 0, size_t(p.padded_c) * 4);
    if (bias) expand_bias(s.dtype, bias, p.dst_c, b.bias);
    const Call call = {p, prepacked ? static_cast<const float*>(weight) : b.filters, bias ? b.bias : nullptr,
                       src, residual, dst};
    bool finite = true;
#pragma omp parallel num_threads(int(threads)) if (threads > 1) reduction(&& : finite)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        Arena mine = arena;
        for (int64_t i = 0; i < me; ++i) take_scratch(p, mine);
        const Scratch t = take_scratch(p, mine);
        if (!prepacked) {
            DLPERF_DTYPE_SWITCH(s.dtype, pack_filters(p, static_cast<const T*>(weight), b.filters, team, me))
#pragma omp barrier
        }
        const Grid grid = row_grid(p.tiles.count, p.panels(), p.src_c * 4, p.src_c * kPanel * 4, team);
        if (me < grid.m * grid.n) {
            const Range tiles = split(p.tiles.count, grid.m, me / grid.n, kPanelMr);
            const Range panels = split(p.panels(), grid.n, me % grid.n);
            DLPERF_DTYPE_SWITCH(s.dtype, finite = run_blocks<T>(call, b.zero, tiles, panels, t))
        }
    }
    if (finite) return;
    // An infinity or NaN spreads over its whole tile here: the direct sum puts it where it belongs.
    const Conv2dShape f = fallback_shape(s, prepacked);
    const void* w = prepacked ? static_cast<const float*>(weight) + kPoints * p.point_step : weight;
    const auto direct = forward ? conv2d_table.forward : conv2d_table.bwd_input;
    direct(f, src, w, bias, residual, dst, workspace, threads, false);
}

void forward(const Conv2dShape& s, const void* x, const void* w, const void* bias, const void* residual, void* y,
             void* workspace, int64_t threads, bool prepacked) {
    run(s, true, x, w, bias, residual, y, workspace, threads, prepacked);
}

void bwd_input(const Conv2dShape& s, const void* gy, const void* w, const void* bias, const void* residual, void* gx,
               void* workspace, int64_t threads, bool prepacked) {
    run(s, false, gy, w, bias, residual, gx, workspace, threads, prepacked);
}

}  // namespace

extern const Conv2dTable winograd_table;
const Conv2dTable winograd_table = {workspace_bytes, forward, bwd_input, winograd_bwd_weight, pack_bytes, pack};

}  // namespace dlperf::DLPERF_ISA_NS

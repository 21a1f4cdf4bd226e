// Convolution's gradient for the weight by Winograd's F(3x3, 4x4): 3x3 filters of stride 1.
//
// Tiles of 6x6 input pixels and of 4x4 pixels of gy are transformed into 36 values each; for each of the 36 a product
// [channels, tiles] x [tiles, filters] sums over all tiles, and its result becomes 3x3 taps. All threads transform a
// chunk of tiles, then each multiplies its own channels and filters.
#include "cpu/winograd_impl.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

using namespace winograd;

constexpr int64_t kChunkBytes = 8 << 20;  // transformed tiles at a time
constexpr int64_t kRows = 48;             // channels of a block, a multiple of the full panel's tile
constexpr int kMr = kPanelMr;

struct Problem {
    Conv2dShape s;
    TileGrid tiles;
    int64_t padded_c, padded_k;
    int64_t chunk;                     // tiles
    int64_t data_step, gradient_step;  // floats from point to point

    int64_t panels() const { return ceil_div(s.k, kPanel); }
    int64_t chunks() const { return ceil_div(tiles.count, chunk); }
};

Problem make_problem(const Conv2dShape& s) {
    Problem p;
    p.s = s;
    p.tiles = make_tile_grid(s.n, s.h, s.w, s.c, s.pad_h, s.pad_w, s.oh, s.ow);
    p.padded_c = round_up(s.c, Vec::W);
    p.padded_k = round_up(s.k, Vec::W);
    const int64_t fit = max64(kBlocks.outer_depth / 2, kChunkBytes / (kPoints * 4 * (p.padded_c + p.padded_k)));
    p.chunk = ceil_div(p.tiles.count, max64(1, ceil_div(p.tiles.count, fit)));
    // One cache line over, so that the 36 streams of a transform don't meet in one set of the cache.
    p.data_step = round_up(p.chunk * p.padded_c, 16) + 16;
    p.gradient_step = round_up(p.chunk * p.padded_k, 16) + 16;
    return p;
}

// How threads divide channels x panels.
struct Split {
    int64_t m, n;
};

Split divide(const Problem& p, int64_t threads) {
    Split best = {threads, 1};
    double best_cost = 0;
    for (int64_t n = 1; n <= threads && n <= p.panels(); ++n) {
        const int64_t m = threads / n;
        const double rows = double(ceil_div(ceil_div(p.s.c, kMr), m) * kMr);
        const double columns = double(ceil_div(p.panels(), n) * kPanel);
        const double cost = rows * columns + 8 * (2 * rows + columns);  // fitted when rows were packed
        if (n == 1 || cost < best_cost) {
            best = {m, n};
            best_cost = cost;
        }
    }
    return best;
}

struct Shared {
    float *zero, *data, *gradient;
};

Shared take_shared(const Problem& p, Arena& arena) {
    Shared b;
    b.zero = arena.take<float>(max64(p.padded_c, p.padded_k));
    b.data = arena.take<float>(kPoints * p.data_step);
    b.gradient = arena.take<float>(kPoints * p.gradient_step);
    return b;
}

struct Scratch {
    float* acc;
    int64_t acc_step;  // floats from point to point, of one block
};

// With several chunks a thread keeps the sums of its whole region, else of one block.
Scratch take_scratch(const Problem& p, Arena& arena, int64_t threads) {
    const Split split = divide(p, threads);
    const int64_t row_blocks = ceil_div(ceil_div(ceil_div(p.s.c, kMr), split.m) * kMr, kRows);
    const int64_t blocks = p.chunks() > 1 ? row_blocks * ceil_div(p.panels(), split.n) : 1;
    Scratch t;
    t.acc_step = kRows * kPanel + 16;
    t.acc = arena.take<float>(blocks * kPoints * t.acc_step);
    return t;
}

// G' y G'^T of tiles [begin, end) of a chunk that starts at `first`: out[point][panel][tile][column].
template <class T>
void transform_gradient(const Problem& p, const T* gy, const float* zero, int64_t first, int64_t count, Range mine,
                        float* out) {
    const Conv2dShape& s = p.s;
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        const int64_t tile = first + i, h0 = p.tiles.row(tile) * kTile, w0 = p.tiles.column(tile) * kTile;
        const T* image = gy + p.tiles.image(tile) * s.oh * s.ow * s.k;
        const T* pixel[kTile][kTile];
        for (int r = 0; r < kTile; ++r) {
            for (int c = 0; c < kTile; ++c) {
                const bool here = h0 + r < s.oh && w0 + c < s.ow;
                pixel[r][c] = here ? image + ((h0 + r) * s.ow + w0 + c) * s.k : reinterpret_cast<const T*>(zero);
            }
        }
        for (int64_t k = 0; k < s.k; k += Vec::W) {
            const int64_t n0 = k / kPanel * kPanel;
            float* to = out + n0 * count + i * panel_width(s.k, n0) + (k - n0);
            Vec columns[kTile][kIn];
#pragma GCC unroll 4
            for (int j = 0; j < kTile; ++j) {
                Vec y[kTile];
#pragma GCC unroll 4
                for (int r = 0; r < kTile; ++r) y[r] = load_some(pixel[r][j] + k, s.k - k);
                gradient_line(y, columns[j]);
            }
#pragma GCC unroll 6
            for (int r = 0; r < kIn; ++r) {
                const Vec line[kTile] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r]};
                Vec u[kIn];
                gradient_line(line, u);
#pragma GCC unroll 6
                for (int j = 0; j < kIn; ++j) u[j].store(to + (r * kIn + j) * p.gradient_step);
            }
        }
    }
}

// Sums a chunk of `count` tiles into one block's accumulators: acc[point][row tile][row][column].
void multiply(const Problem& p, const Shared& b, const Scratch& t, float* acc, int64_t count, Range rows, int64_t panel,
              bool first) {
    const int64_t n0 = panel * kPanel, width = panel_width(p.s.k, n0), height = rows.end - rows.begin;
    const int nv = int(width / Vec::W), mr = kBlocks.mr[nv];
    const MicroTable& micro = micro_table(false);
    TileCall call = {};
    call.taps = 1;
    call.a_step = p.padded_c;
    call.b_step = width;
    for (int64_t point = 0; point < kPoints; ++point) {
        const float* data = b.data + point * p.data_step + rows.begin;
        const float* gradient = b.gradient + point * p.gradient_step + n0 * count;
        for (int64_t k = 0; k < count; k += kBlocks.outer_depth) {
            call.units = min64(kBlocks.outer_depth, count - k);
            call.first = first && k == 0;
            call.b = gradient + k * width;
            for (int64_t m = 0; m < height; m += mr) {
                call.a = data + k * p.padded_c + m;
                call.acc = acc + point * t.acc_step + m * width;
                micro.packed[nv][min64(mr, height - m)](call);
            }
        }
    }
}

// A'^T m A' of one vector of filters: its nine taps. Adds 0, or NaN where one is not finite, to `bad`.
DLPERF_INLINE void transform_sums(const float* from, int64_t point_step, Vec* taps, Vec& bad) {
    Vec lines[kIn][3];
#pragma GCC unroll 6
    for (int r = 0; r < kIn; ++r) {
        Vec line[kIn];
#pragma GCC unroll 6
        for (int c = 0; c < kIn; ++c) line[c] = Vec::load(from + (r * kIn + c) * point_step);
        weight_line(line, lines[r]);
    }
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {
        const Vec line[kIn] = {lines[0][c], lines[1][c], lines[2][c], lines[3][c], lines[4][c], lines[5][c]};
        Vec w[3];
        weight_line(line, w);
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r) {
            taps[3 * r + c] = w[r];
            bad = fma(w[r], Vec::zero(), bad);
        }
    }
}

// `lanes` filters of one channel to gw, by whichever way its strides allow.
template <class T>
DLPERF_INLINE void store_taps(const Conv2dShape& s, Vec* taps, int64_t lanes, T* to) {
#if DLPERF_ISA_LEVEL >= 2
    if (s.w_s == 1 && s.w_r == 3) {
        Vec r[Vec::W];
#pragma GCC unroll 9
        for (int i = 0; i < 9; ++i) r[i] = taps[i];
        for (int i = 9; i < Vec::W; ++i) r[i] = Vec::zero();
        transpose(r);
        for (int64_t i = 0; i < lanes; ++i) store_some(to + i * s.w_k, r[i], 9);
        return;
    }
#endif
    for (int i = 0; i < 9; ++i) {
        alignas(64) float lane[Vec::W];
        taps[i].store(lane);
        for (int64_t l = 0; l < lanes; ++l) to[i / 3 * s.w_r + i % 3 * s.w_s + l * s.w_k] = from_float<T>(lane[l]);
    }
}

// One block of sums to gw. Returns 0, or NaN where one is not finite.
template <class T>
Vec write_weights(const Problem& p, const Scratch& t, const float* acc, Range rows, int64_t panel, T* gw) {
    const Conv2dShape& s = p.s;
    const int64_t n0 = panel * kPanel, width = panel_width(s.k, n0);
    Vec bad = Vec::zero();
    for (int64_t j = 0; j < width && n0 + j < s.k; j += Vec::W) {
        const int64_t lanes = min64(Vec::W, s.k - n0 - j);
        const float* from = acc + j;
        T* to = gw + (n0 + j) * s.w_k;
        if (s.w_c != 1 || Vec::W == 1) {
            for (int64_t m = rows.begin; m < rows.end; ++m) {
                Vec taps[9];
                transform_sums(from + (m - rows.begin) * width, t.acc_step, taps, bad);
                store_taps(s, taps, lanes, to + m * s.w_c);
            }
            continue;
        }
        // Channels lie next to each other: a square of channels and filters is turned.
        for (int64_t m0 = rows.begin; m0 < rows.end; m0 += Vec::W) {
            const int64_t count = min64(Vec::W, rows.end - m0);
            alignas(64) float square[9][Vec::W][Vec::W];
            for (int64_t m = 0; m < count; ++m) {
                Vec taps[9];
                transform_sums(from + (m0 + m - rows.begin) * width, t.acc_step, taps, bad);
#pragma GCC unroll 9
                for (int i = 0; i < 9; ++i) taps[i].store(square[i][m]);
            }
            for (int i = 0; i < 9; ++i) {
                Vec r[Vec::W];
                for (int64_t m = 0; m < Vec::W; ++m) r[m] = m < count ? Vec::load(square[i][m]) : Vec::zero();
                transpose(r);
                T* tap = to + i / 3 * s.w_r + i % 3 * s.w_s + m0;
                for (int64_t l = 0; l < lanes; ++l) store_some(tap + l * s.w_k, r[l], count);
            }
        }
    }
    return bad;
}

}  // namespace

int64_t winograd_weight_bytes(const Conv2dShape& s, int64_t threads) {
    const Problem p = make_problem(s);
    Arena arena = {nullptr};
    take_shared(p, arena);
    for (int64_t i = 0; i < threads; ++i) take_scratch(p, arena, threads);
    return max64(arena.used, conv2d_weight_bytes(direct_shape(s), threads));
}

void winograd_bwd_weight(const Conv2dShape& s, const void* gy, const void* x, void* gw, void* workspace,
                         int64_t threads) {
    const Problem p = make_problem(s);
    Arena arena = {static_cast<char*>(workspace)};
    const Shared b = take_shared(p, arena);
    std::memset(b.zero, 0, size_t(max64(p.padded_c, p.padded_k)) * 4);
    const int64_t chunks = p.chunks();
    bool finite = true;
#pragma omp parallel num_threads(int(threads)) if (threads > 1) reduction(&& : finite)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        const Split parts = divide(p, threads);
        Vec bad = Vec::zero();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t first = chunk * p.chunk, count = min64(p.chunk, p.tiles.count - first);
            const Range mine = split(count, team, me);
            DLPERF_DTYPE_SWITCH(
                s.dtype,
                transform_data(p.tiles, static_cast<const T*>(x), b.zero, first + mine.begin, mine.end - mine.begin,
                               b.data + mine.begin * p.padded_c, {p.data_step, p.padded_c, 0});
                transform_gradient(p, static_cast<const T*>(gy), b.zero, first, count, mine, b.gradient))
#pragma omp barrier
            // A smaller team than was planned for takes several parts each.
            for (int64_t part = me; part < parts.m * parts.n; part += team) {
                const Range rows = split(s.c, parts.m, part / parts.n, kMr);
                const Range panels = split(p.panels(), parts.n, part % parts.n);
                Arena own = arena;
                for (int64_t i = 0; i < part; ++i) take_scratch(p, own, threads);
                const Scratch t = take_scratch(p, own, threads);
                float* acc = t.acc;
                for (int64_t m = rows.begin; m < rows.end; m += kRows) {
                    const Range block = {m, min64(m + kRows, rows.end)};
                    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
                        multiply(p, b, t, acc, count, block, panel, chunk == 0);
                        if (chunk == chunks - 1) {
                            DLPERF_DTYPE_SWITCH(s.dtype,
                                                bad = bad + write_weights(p, t, acc, block, panel, static_cast<T*>(gw)))
                        }
                        if (chunks > 1) acc += kPoints * t.acc_step;
                    }
                }
            }
#pragma omp barrier
        }
        finite = bad.sum() == 0.0f;
    }
    if (!finite) conv2d_bwd_weight(direct_shape(s), gy, x, gw, workspace, threads);
}

}  // namespace dlperf::DLPERF_ISA_NS

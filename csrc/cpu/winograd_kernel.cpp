// Convolution by Winograd's F(4x4, 3x3): forward and backward to the input, 3x3 filters of stride 1. Values of any
// type are widened as they are transformed: all else is float32.
//
// A tile of 6x6 pixels is transformed into 36 values per channel; for each of the 36 a product of [tiles, channels] and
// [channels, filters] follows on the row engine, and the results are transformed into 4x4 pixels. Each thread takes
// blocks of tiles, few enough that what lies between the steps stays in its L2, through all three steps.
//
// Few tiles or many filters go another way: 36 values a filter are more than a weight's 9, so filters are
// transformed piece by piece where they are multiplied and never leave L2.
#include <type_traits>

#include "cpu/activation_math.h"
#include "cpu/winograd_filter.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

using namespace winograd;

// ---- Filters made beforehand ----

// Share `me` of `team` of the filters: each panel's of a point are a packed B of the row engine.
template <class T>
void pack_filters(const Problem& p, const T* w, float* packed, int64_t team, int64_t me) {
    const int64_t vectors = ceil_div(p.dst_c, Vec::W), block = 16, blocks = ceil_div(p.src_c, block);
    const Range mine = split(vectors * blocks, team, me);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
        const int64_t n = i / blocks * Vec::W, n0 = n / kPanel * kPanel, width = panel_width(p.dst_c, n0);
        const int64_t u0 = i % blocks * block, u1 = min64(p.src_c, u0 + block);
        transform_filters(p, w, n, u0, u1, packed + p.panel_start(n0) + u0 * width + (n - n0), width, p.point_step(n0));
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
    float* filters;  // a panel's, of one piece of channels
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
            const int64_t lanes = p.dst_c - n0 - j, at = pixel + n0 + j;
            const Vec bias = call.bias ? Vec::load(call.bias + n0 + j) : Vec::zero();
            const auto finish = [&](auto whole) {
                constexpr bool kWhole = decltype(whole)::value;  // a tile inside the picture, all lanes
#pragma GCC unroll 4
                for (int c = 0; c < kTile; ++c) {
                    const Vec line[kIn] = {lines[0][c], lines[1][c], lines[2][c],
                                           lines[3][c], lines[4][c], lines[5][c]};
                    Vec y[kTile];
                    result_line(line, y);
                    if (!kWhole && c >= columns) continue;
#pragma GCC unroll 4
                    for (int r = 0; r < kTile; ++r) {
                        if (!kWhole && r >= rows) break;
                        bad = fma(y[r], Vec::zero(), bad);
                        const int64_t to = at + r * row + c * p.dst_c;
                        Vec v = y[r] + bias;
                        if (residual) v = v + (kWhole ? Vec::load(residual + to) : load_some(residual + to, lanes));
                        v = activate<A>(v, p.s.act_param);
                        if (kWhole) {
                            v.store(dst + to);
                        } else {
                            store_some(dst + to, v, lanes);
                        }
                    }
                }
            };
            if (rows == kTile && columns == kTile && lanes >= Vec::W) {
                finish(std::true_type{});
            } else {
                finish(std::false_type{});
            }
        }
    }
    return bad;
}

// One thread's part. Returns whether every sum was finite.
template <class T>
bool run_blocks(const Call& call, const float* zero, const Shares& shares, int64_t team, int64_t me, const Scratch& t) {
    const Problem& p = call.p;
    const Grid grid = row_grid(p.tiles.count, p.panels(), p.src_c * 4, p.src_c * kPanel * 4, team, 1);
    Vec bad = Vec::zero();
    const auto tiles_of = [&](int64_t share) {
        return share < grid.m * grid.n ? split(p.tiles.count, grid.m, share / grid.n) : Range{0, 0};
    };
    const auto blocks = [&](int64_t share) {
        const Range tiles = tiles_of(share);
        return ceil_div(tiles.end - tiles.begin, tiles_per_block(p, tiles.end - tiles.begin));
    };
    const auto run_block = [&](int64_t share, int64_t block_index) {
        const Range tiles = tiles_of(share), panels = split(p.panels(), grid.n, share % grid.n);
        const int64_t step = tiles_per_block(p, tiles.end - tiles.begin), i = tiles.begin + block_index * step;
        const int64_t count = min64(step, tiles.end - i);
        transform_data(p.tiles, static_cast<const T*>(call.src), zero, i, count, t.data, {t.data_step, p.padded_c, 0});
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
                product.b = call.filters + p.panel_start(n0) + point * p.point_step(n0);
                run_rows(product, block, 0, width, t.acc);
            }
            DLPERF_ACT_SWITCH(p.s.act, bad = bad + transform_results<A, T>(call, t, i, count, n0, width));
        }
    };
    shares.run(team, me, blocks, run_block);
    const float sum = bad.sum();
    return sum == 0.0f;
}

// ---- Filters made where they are multiplied ----

// Tiles of a step, as even as can be.
int64_t few_tiles(const Problem& p) {
    return max64(1, ceil_div(p.tiles.count, max64(1, ceil_div(p.tiles.count, kFewTiles))));
}

// Pieces lie apart, so that the rows of a product follow each other.
DataLayout few_layout(const Problem& p) {
    const int64_t piece_step = few_tiles(p) * kPiece;
    return {ceil_div(p.src_c, kPiece) * piece_step + 16, kPiece, piece_step};
}

// Whether each thread that takes panels transforms all data for itself: little beside its products, and nothing to wait
// for or to read from another core's cache.
bool little_data(const Problem& p) {
    return kPoints * few_layout(p).point_step * 4 <= kBlockBytes;
}

Scratch take_few_scratch(const Problem& p, Arena& arena) {
    const int64_t width = min64(round_up(p.dst_c, Vec::W), kPanel);
    Scratch t = {};
    t.product_step = few_tiles(p) * width + 16;
    t.products = arena.take<float>(kPoints * t.product_step);
    t.filters = arena.take<float>(kPoints * (kPiece * width + 16));
    t.rows = arena.take<const char*>(few_tiles(p));
    t.data = arena.take<float>(little_data(p) ? kPoints * few_layout(p).point_step : 0);
    return t;
}

// Every thread that shares a panel's tiles with another makes its filters again.
Grid few_grid(const Problem& p, int64_t threads) {
    constexpr int64_t kTransform = 300;  // multiply-adds that making a filter is worth
    Grid best = {threads, 1, 1};
    int64_t best_cost = 0;
    for (int64_t n = 1; n <= threads && n <= p.panels(); ++n) {
        const int64_t m = threads / n, tiles = ceil_div(ceil_div(few_tiles(p), kPanelMr), m) * kPanelMr;
        const int64_t cost = (tiles * kPoints + kTransform) * ceil_div(p.panels(), n);
        if (n == 1 || cost < best_cost) {
            best = {m, n, 1};
            best_cost = cost;
        }
    }
    return best;
}

// Some tiles of a step, which starts at tile `first` and whose transformed data is `data`, by the filters of some
// panels. Returns 0, or NaN where a sum was not finite.
template <class T>
Vec run_few(const Call& call, const T* weight, bool turned, const float* data, int64_t first, Range tiles, Range panels,
            const Scratch& t) {
    const Problem& p = call.p;
    const MicroTable& micro = micro_table(false);
    const DataLayout layout = few_layout(p);
    const int64_t count = tiles.end - tiles.begin;
    // Between filters and between channels of the weight, whose next piece is asked for: too many short streams for the
    // processor to see them coming.
    const int64_t lane_step = p.forward ? p.s.w_k : p.s.w_c, unit_step = p.forward ? p.s.w_c : p.s.w_k;
    for (int64_t i = 0; i < count; ++i) t.rows[i] = reinterpret_cast<const char*>(data + (tiles.begin + i) * kPiece);
    Vec bad = Vec::zero();
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t n0 = panel * kPanel, width = panel_width(p.dst_c, n0), filter_step = kPiece * width + 16;
        const int nv = int(width / Vec::W), mr = kBlocks.mr[nv];
        const int64_t half = round_up(width / 2, Vec::W);
        TileCall tile = {};
        tile.taps = 1;
        tile.b_step = width;
        tile.rows_ld = count;
        for (int64_t u0 = 0; u0 < p.src_c; u0 += kPiece) {
            const int64_t u1 = min64(p.src_c, u0 + kPiece);
            const int64_t next_panel = panel + 1 < panels.end ? kPanel * lane_step - u0 * unit_step : 0;
            const int64_t ahead = u1 < p.src_c ? kPiece * unit_step : next_panel;
            for (int64_t v = 0; v < width; v += Vec::W) {
                if (turned) {
                    const T* taps = weight + turned_offset(p, n0 + v, u0);
                    transform_turned(taps, u1 - u0, t.filters + v, width, filter_step,
                                     v < half ? half * (u1 - u0) * 9 : 0);
                } else {
                    transform_filters(p, weight, n0 + v, u0, u1, t.filters + v, width, filter_step, ahead);
                }
            }
            tile.units = u1 - u0;
            tile.first = u0 == 0;
            // Turned weights come from memory in one stream: half of a piece while the other half is transformed, the
            // other while the piece before is multiplied.
            if (turned) {
                const int64_t stretches = kPoints * ceil_div(count, mr) * ceil_stretch(tile.units);
                tile.next = reinterpret_cast<const char*>(weight + turned_offset(p, n0, u0) + tile.units * width * 9);
                tile.next_lines = ceil_div(half * kPiece * 9 * int64_t(sizeof(T)) / 64, stretches);
            }
            for (int64_t point = 0; point < kPoints; ++point) {
                tile.b = t.filters + point * filter_step;
                tile.a_offset = (point * layout.point_step + u0 / kPiece * layout.piece_step) * 4;
                for (int64_t m = 0; m < count; m += mr) {
                    tile.rows = t.rows + m;
                    tile.acc = t.products + point * t.product_step + m * width;
                    tile.next_rows = max64(0, min64(mr, count - m - mr));
                    micro.rows[nv][min64(mr, count - m)](tile);
                    tile.next += tile.next_lines * ceil_stretch(tile.units) * 64;
                }
            }
        }
        DLPERF_ACT_SWITCH(p.s.act, bad = bad + transform_results<A, T>(call, t, first + tiles.begin, count, n0, width))
    }
    return bad;
}

// ---- The whole call ----

struct Buffers {
    int64_t* taken;  // blocks of each thread's share
    float *zero, *bias, *filters, *data;
};

Conv2dShape fallback_shape(const Conv2dShape& s, bool prepacked) {
    Conv2dShape f = direct_shape(s);
    if (prepacked) {  // the weight as [k][r][s][c]
        f.w_k = 9 * s.c;
        f.w_r = 3 * s.c;
        f.w_s = s.c;
        f.w_c = 1;
    }
    return f;
}

int64_t weight_bytes(const Conv2dShape& s) {
    return round_up(9 * s.k * s.c * dtype_size(s.dtype), 64);
}

// Whether a pack holds transformed filters.
bool keeps_filters(const Problem& p) {
    return p.src_c * p.dst_c < kKeptFilters;
}

bool makes_filters(const Problem& p, bool prepacked) {
    return !keeps_filters(p) || (!prepacked && p.tiles.count <= kFewTiles);
}

Buffers take_buffers(const Problem& p, Arena& arena, int64_t threads, bool prepacked) {
    const bool few = makes_filters(p, prepacked);
    Buffers b = {};
    b.taken = arena.take<int64_t>(threads * Shares::kApart);
    b.zero = arena.take<float>(p.padded_c);
    b.bias = arena.take<float>(padded_bias(p.dst_c));
    b.filters = arena.take<float>(prepacked || few ? 0 : p.filters());
    b.data = arena.take<float>(few ? kPoints * few_layout(p).point_step : 0);
    return b;
}

int64_t workspace_bytes(const Conv2dShape& s, ConvDirection direction, int64_t threads, bool prepacked) {
    if (direction == ConvDirection::bwd_weight) return winograd_weight_bytes(s, threads);
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    Arena arena = {nullptr};
    take_buffers(p, arena, threads, prepacked);
    const bool few = makes_filters(p, prepacked);
    for (int64_t i = 0; i < threads; ++i) few ? take_few_scratch(p, arena) : take_scratch(p, arena);
    // A fallback to the direct sum starts anew, from the weight as it was.
    const int64_t weight = prepacked && few ? weight_bytes(s) : 0;
    const Conv2dShape fallback = fallback_shape(s, prepacked);
    return max64(arena.used, weight + conv2d_table.workspace_bytes(fallback, direction, threads, false));
}

// The filters and the weight itself as [k][r][s][c], or where filters are not kept the weight turned.
int64_t filter_floats(const Problem& p) {
    return keeps_filters(p) ? p.filters() : 0;
}

int64_t pack_bytes(const Conv2dShape& s, ConvDirection direction) {
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    if (keeps_filters(p)) return filter_floats(p) * 4 + weight_bytes(s);
    return round_up(turned_elements(p) * dtype_size(s.dtype), 64);
}

template <class T>
void pack_as(const Problem& p, const T* w, float* out) {
    const Conv2dShape& s = p.s;
#pragma omp parallel
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        if (keeps_filters(p)) {
            pack_filters(p, w, out, team, me);
            T* copy = reinterpret_cast<T*>(out + filter_floats(p));
            const Range mine = split(s.k, team, me);
            for (int64_t k = mine.begin; k < mine.end; ++k) {
                for (int64_t t = 0; t < 9; ++t) {
                    const T* tap = w + k * s.w_k + t / 3 * s.w_r + t % 3 * s.w_s;
                    for (int64_t c = 0; c < s.c; ++c) copy[(k * 9 + t) * s.c + c] = tap[c * s.w_c];
                }
            }
        } else {
            turn_weight(p, w, reinterpret_cast<T*>(out), split(ceil_div(p.dst_c, Vec::W), team, me));
        }
    }
}

void pack(const Conv2dShape& s, ConvDirection direction, const void* weight, void* packed) {
    const Problem p = make_problem(s, direction == ConvDirection::forward);
    DLPERF_DTYPE_SWITCH(s.dtype, pack_as(p, static_cast<const T*>(weight), static_cast<float*>(packed)))
}

// One thread's part of a call that makes its filters as it goes.
template <class T>
bool run_making_filters(const Call& call, const T* weight, bool turned, const float* zero, float* data,
                        const Scratch& t, int64_t team, int64_t me) {
    const Problem& p = call.p;
    const Grid grid = few_grid(p, team);
    const int64_t step = few_tiles(p);
    const bool alone = grid.m == 1 && little_data(p);
    if (alone) data = t.data;
    Vec bad = Vec::zero();
    for (int64_t first = 0; first < p.tiles.count; first += step) {
        const int64_t count = min64(step, p.tiles.count - first);
        const Range part = alone ? Range{0, me < grid.n ? count : 0} : split(count, team, me);
        transform_data(p.tiles, static_cast<const T*>(call.src), zero, first + part.begin, part.end - part.begin,
                       data + part.begin * kPiece, few_layout(p));
        if (!alone) {
#pragma omp barrier
        }
        if (me < grid.m * grid.n) {
            const Range tiles = split(count, grid.m, me / grid.n, kPanelMr);
            const Range panels = split(p.panels(), grid.n, me % grid.n);
            bad = bad + run_few(call, weight, turned, data, first, tiles, panels, t);
        }
        if (!alone) {
#pragma omp barrier
        }
    }
    const float sum = bad.sum();
    return sum == 0.0f;
}

void run(const Conv2dShape& shape, bool forward, const void* src, const void* weight, const void* bias,
         const void* residual, void* dst, void* workspace, int64_t threads, bool prepacked) {
    Problem p = make_problem(shape, forward);
    if (shape.n * p.dst_h * p.dst_w * p.dst_c == 0) return;
    const bool makes = makes_filters(p, prepacked), turned = makes && prepacked;
    const void* w = prepacked ? static_cast<const float*>(weight) + filter_floats(p) : weight;
    Arena arena = {static_cast<char*>(workspace)};
    const Buffers b = take_buffers(p, arena, threads, prepacked);
    std::memset(b.taken, 0, size_t(threads * Shares::kApart) * sizeof(int64_t));
    std::memset(b.zero, 0, size_t(p.padded_c) * 4);
    if (bias) expand_bias(shape.dtype, bias, p.dst_c, b.bias);
    const float* filters = prepacked ? static_cast<const float*>(weight) : b.filters;
    const Call call = {p, filters, bias ? b.bias : nullptr, src, residual, dst};
    bool finite = true;
#pragma omp parallel num_threads(int(threads)) if (threads > 1) reduction(&& : finite)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        Arena mine = arena;
        const auto take = makes ? take_few_scratch : take_scratch;
        for (int64_t i = 0; i < me; ++i) take(p, mine);
        const Scratch t = take(p, mine);
        if (makes) {
            DLPERF_DTYPE_SWITCH(shape.dtype, finite = run_making_filters(call, static_cast<const T*>(w), turned, b.zero,
                                                                         b.data, t, team, me))
        } else {
            if (!prepacked) {
                DLPERF_DTYPE_SWITCH(shape.dtype, pack_filters(p, static_cast<const T*>(weight), b.filters, team, me))
#pragma omp barrier
            }
            DLPERF_DTYPE_SWITCH(shape.dtype, finite = run_blocks<T>(call, b.zero, {b.taken}, team, me, t))
        }
    }
    if (finite) return;
    // An infinity or NaN spreads over its whole tile here: the direct sum puts it where it belongs.
    const auto run_direct = forward ? conv2d_table.forward : conv2d_table.bwd_input;
    char* rest = static_cast<char*>(workspace);
    if (turned) {
        DLPERF_DTYPE_SWITCH(shape.dtype, turn_back(p, static_cast<const T*>(w), reinterpret_cast<T*>(rest)))
        w = rest;
        rest += weight_bytes(shape);
    }
    run_direct(fallback_shape(shape, prepacked), src, w, bias, residual, dst, rest, threads, false);
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

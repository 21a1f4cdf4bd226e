// Convolution forward and backward to the input: one loop over (grid of pixels) x (list of taps), as a product whose
// rows are read in place through pointers. DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/conv2d_raster.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Whether a call that packs the weights itself, or packs them beforehand, does so for tiles.
bool wants_tiles(const Conv2dShape& s, bool forward, bool prepacked) {
    const int64_t rows = s.n * (forward ? s.oh * s.ow : s.h * s.w), n = (forward ? s.k : s.c) / s.groups;
    return uses_tiles(uses_pairs(s.dtype), rows, n, s.r * s.s * (forward ? s.c : s.k) / s.groups, prepacked);
}

WeightView view_weight(const Problem& p, const void* w) {
    const Conv2dShape& s = p.s;
    if (p.merged) return {w, p.n, s.w_k, s.r, p.tap_offset, s.s, s.w_s, s.c, s.w_c};
    if (p.forward) return {w, p.n, s.w_k, p.all_taps, p.tap_offset, 1, 0, p.run, s.w_c};
    return {w, p.n, s.w_c, p.all_taps, p.tap_offset, 1, 0, p.run, s.w_k};
}

// Share `me` of `team` of all groups' packing. Returns false where they have to be packed without tiles.
bool pack_all(const Problem& p, const void* w, const PackPlan& plan, bool tiles, float* packed, int64_t team,
              int64_t me) {
    bool fit = true;
    const int64_t groups = p.s.groups, group_step = p.s.k / groups * p.s.w_k;
    const Range mine = groups > 1 ? split(groups, team, me) : Range{0, 1};
    for (int64_t g = mine.begin; g < mine.end; ++g) {
        const char* src = static_cast<const char*>(w) + g * group_step * dtype_size(p.s.dtype);
        DLPERF_PAIRS_SWITCH(p.s.dtype,
                            fit &= pack_weight<Pairs, T>(view_weight(p, src), plan, tiles, packed + g * p.pack_step(),
                                                         groups > 1 ? 1 : team, groups > 1 ? 0 : me))
    }
    return fit;
}

// ---- One thread's row blocks ----

constexpr int64_t kTableBytes = 160 << 10;
constexpr int64_t kPanelRows = 2048;  // pixels up to which weights are packed panel by panel

// The most rows of any block: what the tables below are sized for.
int64_t rows_per_block(const Problem& p, int64_t rows, int64_t taps) {
    const int64_t reads = p.forward ? min64(p.s.stride_h * p.s.stride_w, p.all_taps) : 1;
    const int64_t fit = block_rows(rows, p.src_c * p.src_size * reads, taps);
    const int64_t table = kTableBytes / 8 / max64(1, taps) / kBlocks.row_step * kBlocks.row_step;
    return min64(fit, max64(kBlocks.row_step, table));
}

struct Scratch {
    const char** rows;
    int64_t* out;
    float* acc;
    char* slab;
    float* panel;
    int64_t* tap_bytes;  // of a raster
};

int64_t slab_rows(const Problem& p, int64_t rows) {
    const Conv2dShape& s = p.s;
    const int64_t src_h = p.forward ? s.h : s.oh, stride_h = s.stride_h, stride_w = s.stride_w;
    const int64_t grid_h = p.forward ? s.oh : max64(1, s.h / stride_h);
    const int64_t grid_w = p.forward ? s.ow : max64(1, s.w / stride_w);
    const int64_t span = p.forward ? (s.r - 1) * s.dil_h + 1 : ceil_div((s.r - 1) * s.dil_h, stride_h) + 2;
    const int64_t images = min64(s.n, ceil_div(rows, max64(1, grid_h * grid_w)) + 1);
    return images * min64(src_h, ceil_div(rows, max64(1, grid_w)) * (p.forward ? stride_h : 1) + span);
}

Scratch take_scratch(const Problem& p, Arena& arena, bool prepacked) {
    const int64_t rows = kBlocks.rows;
    Scratch t;
    t.rows = arena.take<const char*>(max64(kTableBytes / 8, kBlocks.row_step * p.all_taps));
    t.out = arena.take<int64_t>(max64(rows, kPanelRows));
    t.acc = arena.take<float>(engine_floats(rows, p.n, p.all_taps, p.run, p.pairs, p.tiles));
    const int64_t slab = p.slab ? slab_rows(p, rows) * p.slab_w * p.src_c * p.src_size : 0;
    t.slab = arena.take<char>(max64(slab, may_raster(p) ? kRasterBytes + raster_slack(p) : 0));
    t.tap_bytes = arena.take<int64_t>(p.all_taps);
    t.panel = arena.take<float>(prepacked || p.slab || p.tiles || p.s.groups > 1
                                    ? 0
                                    : packed_floats(p.all_taps, p.run, kPanel, p.pairs, false));
    return t;
}

// Pointers of `count` grid pixels from `begin` on, and where they are written.
void fill_rows(const Problem& p, const char* src, const char* zero, int64_t ph, int64_t pw, int64_t begin,
               int64_t count, const Scratch& t) {
    const Axis &ah = p.h, &aw = p.w;
    const int64_t gh = ah.grid(ph), gw = aw.grid(pw), taps_w = aw.taps(pw);
    const int64_t pixel = p.src_c * p.src_size, src_w = p.slab ? p.slab_w : aw.src, row_bytes = src_w * pixel;
    const int64_t *off_h = ah.offset + ah.first[ph], *off_w = aw.offset + aw.first[pw];
    int64_t least = 0, most = 0;
    for (int64_t r = 0; r < ah.taps(ph); ++r) {
        if (r == 0 || off_h[r] < least) least = off_h[r];
        if (r == 0 || off_h[r] > most) most = off_h[r];
    }
    char* slab = t.slab;
    const char* image = nullptr;  // so that row ih is at image + ih * row_bytes
    int64_t done = 0, last_image = -1;
    while (done < count) {
        const int64_t i = begin + done, n = i / (gh * gw), gi = i / gw % gh, gj = i % gw;
        const int64_t length = min64(gw - gj, count - done);
        if (n != last_image) {
            last_image = n;
            if (p.slab) {
                const int64_t end = min64(begin + count, (n + 1) * gh * gw) - 1;
                const int64_t lo = max64(0, gi * ah.step + least);
                const int64_t hi = min64(ah.src - 1, end / gw % gh * ah.step + most);
                image = slab - lo * row_bytes;
                if (lo <= hi) {
                    const int64_t at = n * ah.src * (p.merged ? p.s.w : aw.src) * p.src_c;
                    DLPERF_PAIRS_SWITCH(p.s.dtype,
                                        fill_slab<Pairs>(p, reinterpret_cast<const T*>(src) + at, lo, hi, slab))
                    slab += (hi - lo + 1) * row_bytes;
                }
            } else {
                image = src + n * ah.src * row_bytes;
            }
        }
        const int64_t out = ((n * ah.dst + gi * ah.dst_step + ph) * aw.dst + gj * aw.dst_step + pw) * p.dst_c;
        for (int64_t j = 0; j < length; ++j) t.out[done + j] = out + j * aw.dst_step * p.dst_c;
        for (int64_t r = 0; r < ah.taps(ph); ++r) {
            const int64_t ih = gi * ah.step + off_h[r];
            const bool inside = ih >= 0 && ih < ah.src;
            for (int64_t c = 0; c < taps_w; ++c) {
                const char** to = t.rows + (r * taps_w + c) * count + done;
                int64_t iw = gj * aw.step + off_w[c];
                for (int64_t j = 0; j < length; ++j, iw += aw.step) {
                    to[j] = inside && iw >= 0 && iw < src_w ? image + ih * row_bytes + iw * pixel : zero;
                }
            }
        }
        done += length;
    }
}

struct Buffers {
    int64_t* taken;  // blocks of each thread's share, of each phase
    int32_t* tables;
    float* bias;
    char* zero;
    float* pack;
};

int64_t counters(const Problem& p, int64_t threads) {
    return threads * Shares::kApart * (p.forward ? 1 : p.s.stride_h * p.s.stride_w);
}

Buffers take_buffers(const Problem& p, Arena& arena, int64_t threads, bool prepacked) {
    Buffers b;
    b.taken = arena.take<int64_t>(counters(p, threads));
    b.tables = arena.take<int32_t>(prepacked ? 0 : 2 * p.all_taps * p.run);
    b.bias = arena.take<float>(p.s.groups * padded_bias(p.n));
    b.zero = arena.take<char>(max64(p.src_c, p.run) * 4 + 64);
    b.pack = arena.take<float>(prepacked ? 0 : p.s.groups * p.pack_step());
    return b;
}

struct Call {
    const Problem& p;
    const float* packed;
    const Buffers& buffers;
    const char* src;
    char* dst;
    const char* residual;
    bool has_bias;
    Epilogue epilogue;
    bool tiles;  // how the weights are packed
};

// Columns [n0, n1) of group g for the rows in `block`. Packed weights and n0 count from column `origin`.
void run_columns(const Call& c, const RowBlock& block, int64_t g, int64_t first_tap, int64_t taps, const float* packed,
                 int64_t origin, int64_t n0, int64_t n1, float* acc) {
    const Problem& p = c.p;
    const int64_t size = dtype_size(p.s.dtype), column = g * p.n + origin;
    Epilogue e = c.epilogue;
    e.out = c.dst + column * size;
    e.residual = c.residual ? c.residual + column * size : nullptr;
    Product product = {};
    product.pairs = p.pairs;
    product.taps = taps;
    product.run = p.run;
    product.a_offset = g * p.run * p.src_size;
    product.first_tap = first_tap;
    product.all_taps = p.all_taps;
    product.b = packed;
    product.n = p.n - origin;
    product.epilogue = &e;
    product.tiles = c.tiles;
    product.bias_col = c.has_bias ? c.buffers.bias + g * padded_bias(p.n) + origin : nullptr;
    run_rows(product, block, n0, n1, acc);
}

// A phase of the grid: its first tap in the packed weights, and the counters of its blocks.
struct Phase {
    int64_t h, w, first_tap, taps;
    Shares shares;
};

// Panels [first, stop) of all groups, for the rows in `block`.
void run_panels_of(const Call& c, const RowBlock& block, const Phase& phase, int64_t first, int64_t stop, float* acc) {
    const Problem& p = c.p;
    for (int64_t at = first; at < stop;) {
        const int64_t g = at / p.panels(), end = min64(stop, (g + 1) * p.panels());
        const int64_t n0 = (at - g * p.panels()) * kPanel, n1 = (end - g * p.panels()) * kPanel;
        run_columns(c, block, g, phase.first_tap, phase.taps, c.packed + g * p.pack_step(), 0, n0, min64(n1, p.n), acc);
        at = end;
    }
}

void run_phase(const Call& c, const Phase& phase, int64_t team, int64_t me, const Scratch& t) {
    const Problem& p = c.p;
    const int64_t all_panels = p.s.groups * p.panels(), grain = row_grain(c.tiles), pixel = p.src_c * p.src_size;
    const int64_t rows = p.rows(phase.h, phase.w), taps = phase.taps, panel_bytes = taps * p.run * kPanel * 4;
    if (rows == 0) return;
    const Grid grid = row_grid(rows, all_panels, pixel, panel_bytes, team, grain);
    const auto rows_of = [&](int64_t share) { return split(rows, grid.m, share / grid.n, grain); };
    const auto panels_of = [&](int64_t share) { return split(all_panels, grid.n, share % grid.n); };
    const auto cut_of = [&](int64_t share) {
        if (share >= grid.m * grid.n) return Cut{};
        const Range m = rows_of(share), panels = panels_of(share);
        const int64_t step = rows_per_block(p, max64(1, m.end - m.begin), taps);
        return cut_share(m.end - m.begin, panels.end - panels.begin, panel_bytes, step, team, row_mr(c.tiles),
                         c.tiles && !p.pairs);
    };
    // Whether pixels are read once each, in their order.
    const bool in_order = taps == 1 && !p.slab && p.s.groups == 1 && p.h.step == 1 && p.w.step == 1 &&
                          p.h.dst_step == 1 && p.w.dst_step == 1 && p.h.src == p.h.dst && p.w.src == p.w.dst;
    Range filled = {0, 0};
    const auto run_block = [&](int64_t share, int64_t block) {
        const Cut cut = cut_of(share);
        const Range m = rows_of(share), panels = panels_of(share);
        const int64_t begin = m.begin + block / cut.groups() * cut.step, count = min64(cut.step, m.end - begin);
        if (filled.begin != begin || filled.end != begin + count) {
            fill_rows(p, c.src, c.buffers.zero, phase.h, phase.w, begin, count, t);
            filled = {begin, begin + count};
        }
        RowBlock rows_block = {t.rows, count, count, t.out, t.out, nullptr};
        if (in_order) {
            rows_block.next = c.src + (begin + count) * pixel;
            rows_block.next_bytes = min64(cut.step, m.end - begin - count) * pixel;
        }
        const int64_t first = panels.begin + block % cut.groups() * cut.group;
        run_panels_of(c, rows_block, phase, first, min64(panels.end, first + cut.group), t.acc);
    };
    phase.shares.run(team, me, [&](int64_t share) { return cut_of(share).blocks(); }, run_block);
}

#if DLPERF_ISA_LEVEL >= 4
// The same where blocks of grid lines are copied.
void run_phase_rasters(const Call& c, const Phase& phase, const Raster& r, int64_t team, int64_t me, const Scratch& t) {
    const Problem& p = c.p;
    const int64_t gh = p.h.grid(phase.h), gw = p.w.grid(phase.w), panels = p.panels();
    const int64_t per_image = ceil_div(gh, r.lines), parts = p.s.n * per_image;
    const int64_t wanted = team > 1 ? ceil_div(kBlocksOfShare * team, parts) : 1;
    const int64_t group = max64(min64(panels, 2), ceil_div(panels, wanted)), groups = ceil_div(panels, group);
    const int64_t image_bytes = p.h.src * (p.merged ? p.s.w : p.w.src) * p.src_c * p.src_size;
    raster_taps(p, r, phase.h, phase.w, t.tap_bytes);
    const EvenRows even = {t.slab, t.tap_bytes, r.row};
    int64_t filled = -1;
    bool fit = true;
    const auto run_block = [&](int64_t share, int64_t i) {
        const int64_t block = split(parts * groups, team, share).begin + i, part = block / groups;
        const int64_t image = part / per_image, line = part % per_image * r.lines, lines = min64(r.lines, gh - line);
        const int64_t first = block % groups * group, stop = min64(panels, first + group);
        if (filled != part) {
            fit = fill_raster(p, r, c.src + image * image_bytes, line, lines, t.slab);
            filled = part;
            for (int64_t y = 0; y < lines; ++y) {
                const int64_t ih = (line + y) * p.h.dst_step + phase.h;
                const int64_t at = ((image * p.h.dst + ih) * p.w.dst + phase.w) * p.dst_c;
                for (int64_t x = 0; x < r.pitch; ++x) {
                    t.out[y * r.pitch + x] = x < gw ? at + x * p.w.dst_step * p.dst_c : -1;
                }
            }
        }
        if (!fit) {
            filled = -1;
            const int64_t begin = (image * gh + line) * gw, end = begin + lines * gw;
            const int64_t step = rows_per_block(p, end - begin, phase.taps);
            for (int64_t row = begin; row < end; row += step) {
                const int64_t count = min64(step, end - row);
                fill_rows(p, c.src, c.buffers.zero, phase.h, phase.w, row, count, t);
                run_panels_of(c, {t.rows, count, count, t.out, t.out, nullptr}, phase, first, stop, t.acc);
            }
            return;
        }
        const int64_t count = (lines - 1) * r.pitch + gw;
        RowBlock rows = {nullptr, 0, count, t.out, t.out, nullptr};
        rows.even = &even;
        const int64_t line_bytes = image_bytes / p.h.src, next = min64(p.h.src, (line + lines) * p.h.step + p.h.step);
        rows.next = c.src + image * image_bytes + next * line_bytes;
        rows.next_bytes = min64(lines * p.h.step * line_bytes, (p.s.n - image) * image_bytes - next * line_bytes);
        run_panels_of(c, rows, phase, first, stop, t.acc);
    };
    phase.shares.run(
        team, me,
        [&](int64_t share) {
            const Range mine = split(parts * groups, team, share);
            return mine.end - mine.begin;
        },
        run_block);
}
#endif

// All phases on weights packed beforehand: threads divide pixels and panels of every phase.
void run_phases(const Call& c, int64_t team, int64_t me, const Scratch& t) {
    const Problem& p = c.p;
    Phase phase = {0, 0, 0, 0, {c.buffers.taken}};
    for (phase.h = 0; phase.h < p.h.phases; ++phase.h) {
        for (phase.w = 0; phase.w < p.w.phases; ++phase.w) {
            phase.taps = p.h.taps(phase.h) * p.w.taps(phase.w);
#if DLPERF_ISA_LEVEL >= 4
            const Raster raster = plan_raster(p, phase.h, phase.w, team);
            if (raster.lines > 0) {
                run_phase_rasters(c, phase, raster, team, me, t);
            } else {
                run_phase(c, phase, team, me, t);
            }
#else
            run_phase(c, phase, team, me, t);
#endif
            phase.first_tap += phase.taps;
            phase.shares.taken += team * Shares::kApart;
        }
    }
}

// Few pixels under many weights: each thread packs a panel, uses it while it is in L2, and packs the next over it.
bool packs_by_panel(const Problem& p, int64_t team) {
    if (p.tiles || p.s.groups > 1 || p.slab || p.h.phases * p.w.phases > 1 || p.panels() < team) return false;
    const int64_t rows = p.rows(0, 0);
    return rows <= kPanelRows && rows * p.all_taps <= kTableBytes / 8 &&
           rows * p.src_c * p.src_size <= 2 * kBlocks.a_bytes &&
           row_grid(rows, p.panels(), p.src_c * p.src_size, p.all_taps * p.run * kPanel * 4, team, row_grain(false))
                   .m == 1;
}

void run_panels(const Call& c, const WeightView& weight, const PackPlan& plan, Range panels, const Scratch& t) {
    const Problem& p = c.p;
    const int64_t rows = p.rows(0, 0), step = rows_per_block(p, rows, p.all_taps);
    fill_rows(p, c.src, c.buffers.zero, 0, 0, 0, rows, t);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t n0 = panel * kPanel;
        WeightView part = weight;
        part.p = static_cast<const char*>(weight.p) + n0 * weight.n_step * dtype_size(p.s.dtype);
        part.n = min64(kPanel, weight.n - n0);
        DLPERF_PAIRS_SWITCH(p.s.dtype, pack_weight<Pairs, T>(part, plan, false, t.panel, 1, 0))
        for (int64_t i = 0; i < rows; i += step) {
            const RowBlock block = {t.rows + i, rows, min64(step, rows - i), t.out + i, t.out + i, nullptr};
            run_columns(c, block, 0, 0, p.all_taps, t.panel, n0, 0, part.n, t.acc);
        }
    }
}

void run(const Conv2dShape& s, bool forward, const void* src, const void* weight, const void* bias,
         const void* residual, void* dst, void* workspace, int64_t threads, bool prepacked) {
    Arena arena = {static_cast<char*>(workspace)};
    const PackHead* head = static_cast<const PackHead*>(prepacked ? weight : nullptr);
    const bool tiles = head ? head->tiles : wants_tiles(s, forward, false);
    const Problem p = make_problem(s, forward, tiles, arena);
    if (s.n * p.h.dst * p.w.dst * p.dst_c == 0) return;
    const Buffers buffers = take_buffers(p, arena, threads, prepacked);
    const int64_t used = arena.used, size = dtype_size(s.dtype);
    const PackPlan plan = prepacked ? PackPlan{} : plan_pack(view_weight(p, weight), p.pairs, buffers.tables);
    const float* packed = prepacked ? static_cast<const float*>(weight) + kHeadFloats : buffers.pack;
    std::memset(buffers.taken, 0, size_t(counters(p, threads)) * sizeof(int64_t));
    std::memset(buffers.zero, 0, size_t(max64(p.src_c, p.run) * 4 + 64));
    if (bias) {
        for (int64_t g = 0; g < s.groups; ++g) {
            expand_bias(s.dtype, static_cast<const char*>(bias) + g * p.n * size, p.n,
                        buffers.bias + g * padded_bias(p.n));
        }
    }
    Call call = {p,
                 packed,
                 buffers,
                 static_cast<const char*>(src),
                 static_cast<char*>(dst),
                 static_cast<const char*>(residual),
                 bias != nullptr,
                 {},
                 tiles};
    call.epilogue.dtype = s.dtype;
    call.epilogue.act = s.act;
    call.epilogue.act_param = s.act_param;
    bool unfit = false;

#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        Arena mine = {arena.base, used};
        for (int64_t i = 0; i < me; ++i) take_scratch(p, mine, prepacked);
        const Scratch t = take_scratch(p, mine, prepacked);
        if (!prepacked && packs_by_panel(p, team)) {
            const Range panels = split(p.panels(), team, me);
            if (panels.begin < panels.end) run_panels(call, view_weight(p, weight), plan, panels, t);
        } else {
            if (!prepacked) {
                if (!pack_all(p, weight, plan, tiles, buffers.pack, team, me)) {
#pragma omp atomic write
                    unfit = true;
                }
#pragma omp barrier
                if (unfit) pack_all(p, weight, plan, false, buffers.pack, team, me);
#pragma omp barrier
            }
            Call as_packed = call;
            as_packed.tiles = tiles && !unfit;
            run_phases(as_packed, team, me, t);
        }
    }
}

void forward(const Conv2dShape& s, const void* x, const void* w, const void* bias, const void* residual, void* y,
             void* workspace, int64_t threads, bool prepacked) {
    run(s, true, x, w, bias, residual, y, workspace, threads, prepacked);
}

void bwd_input(const Conv2dShape& s, const void* gy, const void* w, const void* bias, const void* residual, void* gx,
               void* workspace, int64_t threads, bool prepacked) {
    run(s, false, gy, w, bias, residual, gx, workspace, threads, prepacked);
}

int64_t workspace_bytes(const Conv2dShape& s, ConvDirection direction, int64_t threads, bool prepacked) {
    if (direction == ConvDirection::bwd_weight) return conv2d_weight_bytes(s, threads);
    Arena arena = {nullptr};
    const bool forward = direction == ConvDirection::forward;
    const Problem p = make_problem(s, forward, prepacked ? kTiles : wants_tiles(s, forward, false), arena);
    take_buffers(p, arena, threads, prepacked);
    for (int64_t i = 0; i < threads; ++i) take_scratch(p, arena, prepacked);
    return arena.used;
}

int64_t pack_bytes(const Conv2dShape& s, ConvDirection direction) {
    const bool forward = direction == ConvDirection::forward;
    Arena arena = {nullptr};
    const Problem p = make_problem(s, forward, wants_tiles(s, forward, true), arena);
    arena.take<PackHead>(1);
    // Behind the pack lie the tables that packing needs.
    arena.take<float>(s.groups * p.pack_step());
    arena.take<int32_t>(2 * p.all_taps * p.run);
    return arena.used;
}

void pack(const Conv2dShape& s, ConvDirection direction, const void* w, void* packed) {
    const bool forward = direction == ConvDirection::forward;
    const bool tiles = wants_tiles(s, forward, true);
    Arena measure = {nullptr};
    const Problem size = make_problem(s, forward, tiles, measure);
    Arena arena = {static_cast<char*>(packed)};
    PackHead* head = arena.take<PackHead>(1);
    float* out = arena.take<float>(s.groups * size.pack_step());
    const Problem p = make_problem(s, forward, tiles, arena);
    const PackPlan plan = plan_pack(view_weight(p, w), p.pairs, arena.take<int32_t>(2 * p.all_taps * p.run));
    bool fit = true;
#pragma omp parallel reduction(&& : fit)
    fit = pack_all(p, w, plan, tiles, out, omp_get_num_threads(), omp_get_thread_num());
    if (!fit) {
#pragma omp parallel
        pack_all(p, w, plan, false, out, omp_get_num_threads(), omp_get_thread_num());
    }
    head->tiles = tiles && fit;
}

}  // namespace

extern const Conv2dTable conv2d_table;
const Conv2dTable conv2d_table = {workspace_bytes, forward, bwd_input, conv2d_bwd_weight, pack_bytes, pack};

}  // namespace dlperf::DLPERF_ISA_NS

// The filters of Winograd's F(4x4, 3x3): G g G^T, for both directions.
#pragma once

#include "cpu/winograd_impl.h"

namespace dlperf::DLPERF_ISA_NS::winograd {

// A convolution of stride 1 from src to dst: the input's gradient is one over gy, with flipped filters.
struct Problem {
    Conv2dShape s;
    bool forward;
    int64_t src_c, dst_h, dst_w, dst_c;
    TileGrid tiles;
    int64_t padded_c;  // of a row of transformed data, whole vectors

    int64_t panels() const { return ceil_div(dst_c, kPanel); }

    // Filters made beforehand: [panel][point][channel][filter of the panel], in the order in which they are multiplied.
    // One cache line over, so that the 36 streams of a transform don't meet in one set of the cache.
    int64_t point_step(int64_t n0) const { return panel_width(dst_c, n0) * src_c + 16; }
    int64_t panel_start(int64_t n0) const { return n0 * src_c * kPoints + n0 / kPanel * kPoints * 16; }
    int64_t filters() const {
        const int64_t last = max64(0, panels() - 1) * kPanel;
        return panel_start(last) + kPoints * point_step(last);
    }
};

static inline Problem make_problem(const Conv2dShape& s, bool forward) {
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
    return p;
}

// The nine taps of `lanes` filters lane_step apart, in the order of the forward pass or flipped.
template <class T>
static DLPERF_INLINE void load_taps(const Conv2dShape& s, const T* w, int64_t lane_step, int64_t lanes, bool flip,
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
static DLPERF_INLINE void transform_filter(const Vec (&g)[9], float* out, int64_t point_step) {
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
// What lies `ahead` elements further is asked for.
template <class T>
static void load_taps_across(const Conv2dShape& s, const T* w, int64_t lane_step, int64_t lanes, int64_t units,
                             bool flip, float* out, int64_t ahead) {
    for (int t = 0; t < 9; ++t) {
        const T* tap = w + t / 3 * s.w_r + t % 3 * s.w_s;
        Vec r[Vec::W];
        for (int i = 0; i < Vec::W; ++i) r[i] = i < lanes ? load_some(tap + i * lane_step, units) : Vec::zero();
        if (ahead) {
            for (int i = 0; i < Vec::W && i < lanes; ++i) __builtin_prefetch(tap + i * lane_step + ahead, 0, 2);
        }
        transpose(r);
        float* to = out + (flip ? 8 - t : t) * Vec::W * Vec::W;
        for (int i = 0; i < Vec::W; ++i) r[i].store(to + i * Vec::W);
    }
}

// Filters n .. n + W - 1 by channels u0 .. u1 - 1, every point: channel u0's vector at `out`, the next `width` floats
// on. `ahead`: elements from these filters to those that will be transformed next, or 0.
template <class T>
static void transform_filters(const Problem& p, const T* weight, int64_t n, int64_t u0, int64_t u1, float* out,
                              int64_t width, int64_t point_step, int64_t ahead = 0) {
    const Conv2dShape& s = p.s;
    const int64_t lane_step = p.forward ? s.w_k : s.w_c, unit_step = p.forward ? s.w_c : s.w_k;
    const T* w = weight + n * lane_step;
    if (unit_step == 1 && lane_step != 1) {
        for (int64_t begin = u0; begin < u1; begin += Vec::W) {
            alignas(64) float taps[9 * Vec::W * Vec::W];
            const int64_t units = min64(Vec::W, u1 - begin);
            load_taps_across(s, w + begin, lane_step, p.dst_c - n, units, !p.forward, taps, ahead);
            for (int64_t u = 0; u < units; ++u, out += width) {
                Vec g[9];
#pragma GCC unroll 9
                for (int t = 0; t < 9; ++t) g[t] = Vec::load(taps + (t * Vec::W + u) * Vec::W);
                transform_filter(g, out, point_step);
            }
        }
        return;
    }
    for (int64_t u = u0; u < u1; ++u, out += width) {
        Vec g[9];
        load_taps(s, w + u * unit_step, lane_step, p.dst_c - n, !p.forward, g);
        transform_filter(g, out, point_step);
    }
}

// ---- Weights turned beforehand ----
//
// [panel][piece of channels][vector][channel][tap][lane]: one stream in the order in which filters are made of it.

constexpr int64_t kPiece = 64;  // channels: a panel's filters of a piece are 576 KB

static inline int64_t turned_elements(const Problem& p) {
    return round_up(p.dst_c, Vec::W) * p.src_c * 9;
}

// Where the taps of the vector of filters from n on, of the piece of channels from u0 on, begin.
static inline int64_t turned_offset(const Problem& p, int64_t n, int64_t u0) {
    const int64_t n0 = n / kPanel * kPanel, units = min64(kPiece, p.src_c - u0);
    return 9 * (n0 * p.src_c + u0 * panel_width(p.dst_c, n0) + (n - n0) * units);
}

// Vectors of filters `vectors` of `weight`, turned.
template <class T>
static void turn_weight(const Problem& p, const T* weight, T* turned, Range vectors) {
    const Conv2dShape& s = p.s;
    const int64_t lane_step = p.forward ? s.w_k : s.w_c, unit_step = p.forward ? s.w_c : s.w_k;
    for (int64_t n = vectors.begin * Vec::W; n < vectors.end * Vec::W; n += Vec::W) {
        const int64_t lanes = min64(Vec::W, p.dst_c - n);
        for (int64_t u = 0; u < p.src_c; ++u) {
            T* out = turned + turned_offset(p, n, u / kPiece * kPiece) + u % kPiece * 9 * Vec::W;
            for (int64_t t = 0; t < 9; ++t) {
                const T* tap = weight + t / 3 * s.w_r + t % 3 * s.w_s + u * unit_step + n * lane_step;
                T* to = out + (p.forward ? t : 8 - t) * Vec::W;
                for (int64_t i = 0; i < Vec::W; ++i) to[i] = i < lanes ? tap[i * lane_step] : from_float<T>(0.0f);
            }
        }
    }
}

// The inverse, to [k][r][s][c].
template <class T>
static void turn_back(const Problem& p, const T* turned, T* weight) {
    for (int64_t n = 0; n < p.dst_c; ++n) {
        for (int64_t u = 0; u < p.src_c; ++u) {
            const T* from = turned + turned_offset(p, n / Vec::W * Vec::W, u / kPiece * kPiece) +
                            u % kPiece * 9 * Vec::W + n % Vec::W;
            const int64_t k = p.forward ? n : u, c = p.forward ? u : n;
            for (int64_t t = 0; t < 9; ++t) {
                weight[(k * 9 + t) * p.s.c + c] = from[(p.forward ? t : 8 - t) * Vec::W];
            }
        }
    }
}

// As transform_filters, of `units` channels of one vector whose taps are turned. What lies `ahead` elements further is
// asked for, unless 0.
template <class T>
static void transform_turned(const T* taps, int64_t units, float* out, int64_t width, int64_t point_step,
                             int64_t ahead) {
    constexpr int64_t kTaps = 9 * Vec::W, kLine = 64 / int64_t(sizeof(T));
    for (int64_t u = 0; u < units; ++u, taps += kTaps, out += width) {
        for (int64_t i = 0; i < (ahead ? kTaps : 0); i += kLine) __builtin_prefetch(taps + ahead + i, 0, 2);
        Vec g[9];
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t) g[t] = Vec::load(taps + t * Vec::W);
        transform_filter(g, out, point_step);
    }
}

}  // namespace dlperf::DLPERF_ISA_NS::winograd

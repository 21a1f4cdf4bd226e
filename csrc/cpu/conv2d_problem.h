// A convolution, forward or backward to the input, as one loop over (grid of pixels) x (list of taps).
#pragma once

#include "cpu/conv2d_impl.h"

namespace dlperf::DLPERF_ISA_NS {

// Taps along one axis, grouped by phase. The forward direction has one phase; backward to the input one for each
// remainder of the pixel's index by the stride, within which every pixel has the same taps at stride 1.
struct Axis {
    int64_t src, dst, phases;
    int64_t step;      // source pixels per grid index
    int64_t dst_step;  // destination pixels per grid index
    int64_t* tap;      // filter index
    int64_t* offset;   // source pixel = index * step + offset
    int64_t* first;    // of each phase, in tap and offset; one more at the end

    int64_t grid(int64_t phase) const { return phase < dst ? ceil_div(dst - phase, dst_step) : 0; }
    int64_t taps(int64_t phase) const { return first[phase + 1] - first[phase]; }
};

static inline Axis make_axis(bool forward, int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t pad,
                             int64_t dilation, int64_t* memory) {
    Axis a;
    a.src = forward ? in : out;
    a.dst = forward ? out : in;
    a.phases = forward ? 1 : stride;
    a.step = forward ? stride : 1;
    a.dst_step = forward ? 1 : stride;
    a.tap = memory;
    a.offset = memory + filter;
    a.first = memory + 2 * filter;
    int64_t count = 0;
    for (int64_t phase = 0; phase < a.phases; ++phase) {
        a.first[phase] = count;
        for (int64_t i = 0; i < filter; ++i) {
            const int64_t distance = forward ? i * dilation - pad : phase + pad - i * dilation;
            if (!forward && distance % stride != 0) continue;
            a.tap[count] = i;
            a.offset[count++] = forward ? distance : distance / stride;
        }
    }
    a.first[a.phases] = count;
    return a;
}

static inline int64_t axis_memory(int64_t filter, int64_t stride) {
    return 2 * filter + stride + 1;
}

struct Problem {
    Conv2dShape s;
    bool forward, merged, slab, pairs, tiles;
    Axis h, w;
    int64_t src_c, dst_c;  // channels of a pixel
    int64_t run, n;        // reduction per tap, output channels; of one group
    int64_t all_taps;
    int64_t* tap_offset;  // of the weight, in packed order
    int64_t src_size;     // bytes of an element as the tiles read it
    int64_t slab_w;       // pixels of a slab's row

    int64_t panels() const { return ceil_div(n, kPanel); }
    int64_t pack_step() const { return round_up(packed_floats(all_taps, run, n, pairs, tiles), 16); }
    int64_t rows(int64_t ph, int64_t pw) const { return s.n * h.grid(ph) * w.grid(pw); }
};

static inline Problem make_problem(const Conv2dShape& s, bool forward, bool tiles, Arena& arena) {
    Problem p;
    p.s = s;
    p.forward = forward;
    p.merged = forward && merges_taps(s);
    p.slab = p.merged || needs_conversion(s.dtype);
    p.pairs = uses_pairs(s.dtype);
    p.src_size = p.pairs ? 2 : 4;
    p.src_c = forward ? s.c : s.k;
    p.dst_c = forward ? s.k : s.c;
    p.run = p.src_c / s.groups * (p.merged ? s.s : 1);
    p.n = p.dst_c / s.groups;
    p.all_taps = p.merged ? s.r : s.r * s.s;
    p.tiles = tiles;
    const int64_t filter_w = p.merged ? 1 : s.s;
    int64_t* mh = arena.take<int64_t>(axis_memory(s.r, s.stride_h));
    int64_t* mw = arena.take<int64_t>(axis_memory(filter_w, s.stride_w));
    p.tap_offset = arena.take<int64_t>(p.all_taps);
    p.slab_w = p.merged ? (s.ow - 1) * s.stride_w + s.s : forward ? s.w : s.ow;
    if (!arena.base) return p;
    p.h = make_axis(forward, s.h, s.oh, s.r, s.stride_h, s.pad_h, s.dil_h, mh);
    p.w = make_axis(forward, s.w, s.ow, filter_w, s.stride_w, p.merged ? 0 : s.pad_w, s.dil_w, mw);
    int64_t t = 0;
    for (int64_t ph = 0; ph < p.h.phases; ++ph) {
        for (int64_t pw = 0; pw < p.w.phases; ++pw) {
            for (int64_t r = p.h.first[ph]; r < p.h.first[ph + 1]; ++r) {
                for (int64_t c = p.w.first[pw]; c < p.w.first[pw + 1]; ++c) {
                    p.tap_offset[t++] = p.h.tap[r] * s.w_r + p.w.tap[c] * s.w_s;
                }
            }
        }
    }
    return p;
}

// Rows [lo, hi] of an image into the slab: converted, and with merged taps padded in width.
template <bool Pairs, class T>
static void fill_slab(const Problem& p, const T* image, int64_t lo, int64_t hi, char* slab) {
    using Out = typename Choose<Pairs, T, float>::type;
    const Conv2dShape& s = p.s;
    Out* out = reinterpret_cast<Out*>(slab);
    if (!p.merged) {
        const int64_t row = p.slab_w * p.src_c;
        return copy_run(image + lo * row, out, (hi - lo + 1) * row);
    }
    const int64_t row = p.slab_w * s.c, left = min64(row, s.pad_w * s.c);
    const int64_t from = max64(0, -s.pad_w * s.c), kept = max64(0, min64(s.w * s.c - from, row - max64(0, left)));
    const int64_t start = max64(0, left);
    for (int64_t ih = lo; ih <= hi; ++ih, out += row) {
        for (int64_t i = 0; i < start; ++i) out[i] = Out{};
        copy_run(image + ih * s.w * s.c + from, out + start, kept);
        for (int64_t i = start + kept; i < row; ++i) out[i] = Out{};
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

// A block of pixels of bfloat16 for AMX's tiles, copied once with its borders, so that under every tap the pixels of
// all grid lines lie evenly apart.
//
//   [plane][line][pitch][step of the reduction][32 bfloat16]
//
// With a stride there is a plane for each remainder of a source pixel's index by it, within which neighbours of the
// grid are neighbours. A grid line is `pitch` rows of the product; those beyond the grid's width straddle two lines,
// are computed with the others and written nowhere. With merged taps a line is [pitch][stride * channels]. float32 was
// tried too and gained nothing: its six products outweigh what cutting the same pixels into parts for each tap costs.
#pragma once

#include "cpu/conv2d_problem.h"

namespace dlperf::DLPERF_ISA_NS {

// Offsets along an axis as those of planes.
struct PlaneAxis {
    int64_t least, span;  // of the taps' distance in a plane
};

struct Raster {
    int64_t lines = 0;  // grid lines of a block; none where a block of pixels is not copied
    int64_t pitch, row;
    int64_t plane;  // bytes
    PlaneAxis h, w;
};

constexpr int64_t kRasterRows = 1024, kRasterLines = 4;  // of a block: at most, and at least where threads are many
constexpr int64_t kRasterBytes = 768 << 10;
constexpr double kRasterWaste = 1.2;  // rows computed for each that is wanted

static inline int64_t floor_div(int64_t a, int64_t b) {
    return a >= 0 ? a / b : -ceil_div(-a, b);
}

static inline PlaneAxis plane_axis(const Axis& a, int64_t phase) {
    PlaneAxis p = {0, 0};
    for (int64_t i = a.first[phase]; i < a.first[phase + 1]; ++i) {
        const int64_t q = floor_div(a.offset[i], a.step);
        const int64_t most = max64(i == a.first[phase] ? q : p.least + p.span, q);
        p.least = i == a.first[phase] ? q : min64(p.least, q);
        p.span = most - p.least;
    }
    return p;
}

static inline bool may_raster(const Problem& p) {
    return p.tiles && p.pairs && p.s.groups == 1 && p.all_taps > 1;
}

static inline int64_t raster_row(const Problem& p) {
    return p.merged ? p.s.stride_w * p.src_c * p.src_size : steps_of(p.run) * kStepRun * 2;
}

// Tiles reach so far beyond the last row.
static inline int64_t raster_slack(const Problem& p) {
    return 2 * kTileRows * raster_row(p) + 64;
}

// How a phase's pixels are copied for `team` threads.
static inline Raster plan_raster(const Problem& p, int64_t ph, int64_t pw, int64_t team) {
    Raster r;
    const int64_t gh = p.h.grid(ph), gw = p.w.grid(pw);
    if (!may_raster(p) || p.h.taps(ph) * p.w.taps(pw) < 2 || p.s.n * gh * gw == 0) return r;
    r.h = plane_axis(p.h, ph);
    r.w = plane_axis(p.w, pw);
    r.row = raster_row(p);
    r.pitch = p.merged ? gw - 1 + ceil_div(steps_of(p.run) * kStepRun * 2, r.row) : gw + r.w.span;
    const int64_t planes = p.h.step * (p.merged ? 1 : p.w.step), line = r.pitch * r.row * planes;
    const int64_t fit = min64(kRasterBytes / line - r.h.span, kRasterRows / r.pitch);
    if (fit < 1) return r;
    const int64_t wanted = max64(kRasterLines, ceil_div(gh, ceil_div(kBlocksOfShare * team, p.s.n)));
    const int64_t blocks = ceil_div(gh, min64(fit, team > 1 ? wanted : gh));
    const int64_t lines = ceil_div(gh, blocks), rows = round_up((lines - 1) * r.pitch + gw, 2 * kTileRows);
    if (double(rows) > kRasterWaste * double(lines * gw)) return r;
    r.lines = lines;
    r.plane = (r.lines + r.h.span) * r.pitch * r.row;
    return r;
}

#if DLPERF_ISA_LEVEL >= 4

static inline bool finite_pairs(const uint16_t* x, int64_t count) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 bad = 0;
    for (int64_t i = 0; i < count; i += 32) {
        const __mmask32 there = count - i >= 32 ? 0xffffffffu : (1u << (count - i)) - 1;
        const __m512i v = _mm512_maskz_loadu_epi16(there, x + i);
        bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(v, exponent), exponent);
    }
    return bad == 0;
}

// `count` pixels, src_step bytes apart, each as whole steps.
static inline void copy_pixels(const char* src, int64_t src_step, int64_t run, int64_t count, char* dst) {
    const int64_t row = steps_of(run) * kStepRun * 2;
    if (src_step == row && run * 2 == row) {
        std::memcpy(dst, src, size_t(count * row));
        return;
    }
    for (int64_t i = 0; i < count; ++i, src += src_step, dst += row) {
        const uint16_t* x = reinterpret_cast<const uint16_t*>(src);
        for (int64_t k = 0; k < run; k += kStepRun) {
            const __mmask32 there = run - k >= kStepRun ? 0xffffffffu : (1u << (run - k)) - 1;
            _mm512_storeu_si512(dst + k * 2, _mm512_maskz_loadu_epi16(there, x + k));
        }
    }
}

// Grid lines [line, line + count) of an image and their borders. Returns whether tiles may multiply them: with merged
// taps a row's last step goes on into other pixels, under weights of zero, which only what is finite allows.
static inline bool fill_raster(const Problem& p, const Raster& r, const char* image, int64_t line, int64_t count,
                               char* out) {
    const int64_t pixel = p.src_c * p.src_size, sh = p.h.step, sw = p.w.step;
    const int64_t width = p.w.src, pitch_bytes = r.pitch * r.row;
    bool fit = true;
    for (int64_t plane = 0; plane < sh * (p.merged ? 1 : sw); ++plane) {
        const int64_t rh = p.merged ? plane : plane / sw, rw = p.merged ? 0 : plane % sw;
        char* dst = out + plane * r.plane;
        for (int64_t i = 0; i < count + r.h.span; ++i, dst += pitch_bytes) {
            const int64_t ih = (line + i + r.h.least) * sh + rh;
            if (ih < 0 || ih >= p.h.src) {
                std::memset(dst, 0, size_t(pitch_bytes));
                continue;
            }
            if (p.merged) {
                const int64_t filled = p.slab_w * pixel;
                fill_slab<true>(p, reinterpret_cast<const bf16_t*>(image), ih, ih, dst);
                std::memset(dst + filled, 0, size_t(pitch_bytes - filled));
                fit &= finite_pairs(reinterpret_cast<const uint16_t*>(dst), filled / 2);
                continue;
            }
            const char* src = image + ih * width * pixel;
            // Pixel j of the line is the source's (j + least) * sw + rw.
            const int64_t j0 = min64(r.pitch, max64(0, -r.w.least));
            const int64_t j1 = max64(j0, min64(r.pitch, floor_div(width - 1 - rw, sw) + 1 - r.w.least));
            std::memset(dst, 0, size_t(j0 * r.row));
            copy_pixels(src + ((j0 + r.w.least) * sw + rw) * pixel, sw * pixel, p.run, j1 - j0, dst + j0 * r.row);
            std::memset(dst + j1 * r.row, 0, size_t((r.pitch - j1) * r.row));
        }
    }
    return fit;
}

// Bytes from a row of the product to what it reads under each tap of a phase.
static inline void raster_taps(const Problem& p, const Raster& r, int64_t ph, int64_t pw, int64_t* bytes) {
    const int64_t sh = p.h.step, sw = p.merged ? 1 : p.w.step;
    for (int64_t a = p.h.first[ph]; a < p.h.first[ph + 1]; ++a) {
        const int64_t qh = floor_div(p.h.offset[a], sh), rh = p.h.offset[a] - qh * sh;
        for (int64_t b = p.w.first[pw]; b < p.w.first[pw + 1]; ++b) {
            const int64_t qw = floor_div(p.w.offset[b], sw), rw = p.w.offset[b] - qw * sw;
            const int64_t in_plane = (qh - r.h.least) * r.pitch + qw - r.w.least;
            *bytes++ = (rh * sw + rw) * r.plane + in_plane * r.row;
        }
    }
}

#endif

}  // namespace dlperf::DLPERF_ISA_NS

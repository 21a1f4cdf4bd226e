// Convolutions as products over gathered pixels: the one description that both kernels, both gradients and the tests
// of index arithmetic use. Plain C++17.
#pragma once

#include "cuda/common.h"

namespace dlperf::cuda {

// x [n, h, w, c], weight [k, r, s, c], y [n, p, q, k], NHWC and KRSC.
struct Convolution {
    int n, h, w, c, k, r, s, p, q;
    int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// Rows of a product, one for each (image, i, j) of rows x columns, gathered from an image [n, h, w, c]: tap (t_r, t_s)
// of row (i, j) reads the pixel (first_h + i stride_h + t_r step_h, first_w + j stride_w + t_s step_w), zero outside.
struct Gather {
    int n, h, w, c;
    int rows, columns;
    int stride_h, stride_w, first_h, first_w, step_h, step_w;
    int taps_r, taps_s;

    DLPERF_INDEX int taps() const { return taps_r * taps_s; }
    DLPERF_INDEX int count() const { return n * rows * columns; }
};

struct Pixel {
    int image, h, w;  // of tap (0, 0)
};

DLPERF_INDEX Pixel pixel_of(const Gather& g, int row) {
    const int j = row % g.columns, rest = row / g.columns, i = rest % g.rows;
    return {rest / g.rows, g.first_h + i * g.stride_h, g.first_w + j * g.stride_w};
}

// Whether the tap's pixel exists; `at`: where its channels begin.
DLPERF_INDEX bool tap_of(const Gather& g, const Pixel& pixel, int tap, int64_t& at) {
    const int h = pixel.h + tap / g.taps_s * g.step_h, w = pixel.w + tap % g.taps_s * g.step_w;
    at = ((int64_t(pixel.image) * g.h + h) * g.w + w) * g.c;
    return pixel.image < g.n && h >= 0 && h < g.h && w >= 0 && w < g.w;
}

// Which tap of the weight [k, r, s, c] belongs to a gather's tap.
struct TapOrder {
    int first_r, first_s, step_r, step_s, width;
    DLPERF_INDEX int operator()(int tap, int taps_s) const {
        return (first_r + tap / taps_s * step_r) * width + first_s + tap % taps_s * step_s;
    }
};

inline Gather forward_gather(const Convolution& v) {
    return {v.n,        v.h,      v.w,      v.c,          v.p,          v.q, v.stride_h,
            v.stride_w, -v.pad_h, -v.pad_w, v.dilation_h, v.dilation_w, v.r, v.s};
}

inline TapOrder forward_taps(const Convolution& v) {
    return {0, 0, 1, 1, v.s};
}

// One phase of the input's gradient: the pixels (phase_h + i stride_h, phase_w + j stride_w) of x meet the same taps.
struct Phase {
    Gather gather;  // of gy
    TapOrder taps;
    int row, column;  // of x: the phase's first
};

namespace detail {

struct Axis {
    int rows, first, step, taps, first_tap, tap_step;
};

inline int gcd(int a, int b) {
    return b == 0 ? a : gcd(b, a % b);
}

// gx[phase + i stride] = sum over taps t with (phase + pad - t dilation) divisible by stride of gy[that / stride + i]
inline Axis phase_axis(int size, int stride, int pad, int dilation, int taps, int phase) {
    const int tap_step = stride / gcd(stride, dilation), back = tap_step * dilation / stride;
    int first_tap = 0;
    while (first_tap < tap_step && (phase + pad - first_tap * dilation) % stride != 0) ++first_tap;
    const int rows = size > phase ? (size - phase + stride - 1) / stride : 0;
    const int count = first_tap < tap_step && first_tap < taps ? (taps - first_tap + tap_step - 1) / tap_step : 0;
    if (count == 0) return {rows, 0, 1, 0, 0, 0};
    // Taps in falling order, so that the pixel read moves forward with the tap.
    const int last_tap = first_tap + (count - 1) * tap_step;
    const int base = (phase + pad - first_tap * dilation) / stride;
    return {rows, base - (count - 1) * back, back, count, last_tap, -tap_step};
}

}  // namespace detail

inline Phase input_phase(const Convolution& v, int phase_h, int phase_w) {
    const detail::Axis a = detail::phase_axis(v.h, v.stride_h, v.pad_h, v.dilation_h, v.r, phase_h);
    const detail::Axis b = detail::phase_axis(v.w, v.stride_w, v.pad_w, v.dilation_w, v.s, phase_w);
    const Gather gather = {v.n, v.p, v.q, v.k, a.rows, b.rows, 1, 1, a.first, b.first, a.step, b.step, a.taps, b.taps};
    return {gather, {a.first_tap, b.first_tap, a.tap_step, b.tap_step, v.s}, phase_h, phase_w};
}

// What im2col mode of the copy engine can address: offsets of 8 bits, a bounding box within 8 bits, strides to 8, rows
// that move forward, and no row beyond what the box yields.
inline bool fits_im2col(const Gather& g) {
    auto axis = [](int size, int rows, int stride, int first, int step, int taps) {
        const int upper = first + (rows - 1) * stride + 1 - size;
        return taps > 0 && rows > 0 && stride <= 8 && step > 0 && first >= -128 && first <= 127 && upper >= -128 &&
               upper <= 127 && (taps - 1) * step <= 255;
    };
    return axis(g.h, g.rows, g.stride_h, g.first_h, g.step_h, g.taps_r) &&
           axis(g.w, g.columns, g.stride_w, g.first_w, g.step_w, g.taps_s);
}

}  // namespace dlperf::cuda

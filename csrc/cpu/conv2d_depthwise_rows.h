// Depthwise rows: three, five or seven neighbouring taps of a filter row, one filter a channel. A strip of neighbouring
// results stays in registers, and each pixel that is loaded serves every tap and result of the strip that reads it.
#pragma once

#include "cpu/activation_math.h"
#include "cpu/conv2d_impl.h"

namespace dlperf::DLPERF_ISA_NS {

// A sum over taps from src to dst: the forward pass, or, at stride 1, the input's gradient as one with flipped filters.
struct DepthwiseSum {
    int64_t src_h, src_w, dst_h, dst_w, channels;
    int64_t r, s, stride_h, stride_w, pad_h, pad_w, dil_h;
    const float* weight;  // of the first tap: [r * s][channels]
    int64_t tap_step;     // floats from one tap to the next, negative where filters are flipped
    const float* bias;    // whole panels, or null
    Epilogue e;
};

// Whether depthwise_strips serves: it reads each channel's own pixels, neighbouring taps, and strides as unrolled.
static inline bool has_strips(const Conv2dShape& s, bool forward) {
    const bool taps = s.s == 3 || s.s == 5 || s.s == 7;
    const bool strides = s.stride_w == 1 || (s.stride_w == 2 && s.s <= 5);
    return s.k == s.c && taps && s.dil_w == 1 && strides && (forward || (s.stride_h == 1 && s.stride_w == 1));
}

static inline DepthwiseSum make_sum(const Conv2dShape& s, bool forward, const float* weight, const float* bias,
                                    const Epilogue& e) {
    if (forward) {
        return {s.h,        s.w,     s.oh,    s.ow,    s.k,    s.r, s.s,  s.stride_h,
                s.stride_w, s.pad_h, s.pad_w, s.dil_h, weight, s.k, bias, e};
    }
    const int64_t pad_h = (s.r - 1) * s.dil_h - s.pad_h, pad_w = s.s - 1 - s.pad_w;
    return {s.oh, s.ow, s.h, s.w, s.k, s.r, s.s, 1, 1, pad_h, pad_w, s.dil_h, weight + (s.r * s.s - 1) * s.k,
            -s.k, bias, e};
}

// Results [column, column + P) of one row, of `Wide` vectors of channels from k on, of which `lanes` are there: more
// than all vectors but the last hold.
template <class T, int S, int Stride, int P, int Wide, bool Inside>
static void depthwise_strip(const DepthwiseSum& d, const T* image, int64_t first_row, int64_t column, int64_t k,
                            int64_t lanes, int64_t out) {
    constexpr int kColumns = (P - 1) * Stride + S;
    Vec v[P][Wide];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < Wide; ++j) v[i][j] = d.bias ? Vec::load(d.bias + k + j * Vec::W) : Vec::zero();
    }
    const int64_t from = column * Stride - d.pad_w;
    for (int64_t r = 0; r < d.r; ++r) {
        const int64_t row = first_row + r * d.dil_h;
        if (row < 0 || row >= d.src_h) continue;
        const T* x = image + (row * d.src_w + from) * d.channels + k;
        const float* w = d.weight + r * S * d.tap_step + k;
        Vec taps[S][Wide];
#pragma GCC unroll 7
        for (int q = 0; q < S; ++q) {
#pragma GCC unroll 2
            for (int j = 0; j < Wide; ++j) taps[q][j] = Vec::load(w + q * d.tap_step + j * Vec::W);
        }
#pragma GCC unroll 16
        for (int c = 0; c < kColumns; ++c) {
            if (!Inside && uint64_t(from + c) >= uint64_t(d.src_w)) continue;
            Vec pixel[Wide];
#pragma GCC unroll 2
            for (int j = 0; j < Wide; ++j) pixel[j] = load_some(x + c * d.channels + j * Vec::W, lanes - j * Vec::W);
#pragma GCC unroll 7
            for (int q = 0; q < S; ++q) {
                const int at = c - q, i = at / Stride;
                if (at < 0 || at % Stride != 0 || i >= P) continue;
#pragma GCC unroll 2
                for (int j = 0; j < Wide; ++j) v[i][j] = fma(pixel[j], taps[q][j], v[i][j]);
            }
        }
    }
    if (d.e.dtype != DType::f16 && !d.e.residual && (d.e.act == Act::none || d.e.act == Act::relu)) {
        T* y = static_cast<T*>(d.e.out) + out + k;
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < Wide; ++j) {
                const Vec value = d.e.act == Act::relu ? activate<Act::relu>(v[i][j], 0.0f) : v[i][j];
                store_some(y + i * d.channels + j * Vec::W, value, lanes - j * Vec::W);
            }
        }
        return;
    }
    alignas(64) float sums[P * Wide * Vec::W];
    int64_t rows[P];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < Wide; ++j) v[i][j].store(sums + (i * Wide + j) * Vec::W);
        rows[i] = out + i * d.channels;
    }
    TileCall call = {};
    call.acc = sums;
    call.epilogue = &d.e;
    call.out_offset = call.residual_offset = rows;
    call.n0 = k;
    call.n_valid = int(min64(lanes, Wide * Vec::W));
    finish_rows(call, P, Wide * Vec::W);
}

// Channels [begin, end) of P results from `column` on.
template <class T, int S, int Stride, int P>
static DLPERF_INLINE void depthwise_columns(const DepthwiseSum& d, const T* image, int64_t first_row, int64_t column,
                                            int64_t begin, int64_t end, int64_t out) {
    constexpr int kWide = Vec::W == 16 ? 2 : 1;  // what the registers hold beside a filter row's taps
    const int64_t from = column * Stride - d.pad_w, to = from + (P - 1) * Stride + S;
    const bool inside = from >= 0 && to <= d.src_w;
    for (int64_t k = begin; k < end; k += kWide * Vec::W) {
        if (inside && end - k >= kWide * Vec::W) {
            depthwise_strip<T, S, Stride, P, kWide, true>(d, image, first_row, column, k, kWide * Vec::W, out);
        } else if (end - k > (kWide - 1) * Vec::W) {
            depthwise_strip<T, S, Stride, P, kWide, false>(d, image, first_row, column, k, end - k, out);
        } else {
            depthwise_strip<T, S, Stride, P, 1, false>(d, image, first_row, column, k, end - k, out);
        }
    }
}

// Channels [begin, end) of one row of dst.
template <class T, int S, int Stride>
static void depthwise_strips(const DepthwiseSum& d, const T* src, int64_t n, int64_t row, int64_t begin, int64_t end) {
    const T* image = src + n * d.src_h * d.src_w * d.channels;
    const int64_t first_row = row * d.stride_h - d.pad_h;
    int64_t out = (n * d.dst_h + row) * d.dst_w * d.channels, j = 0;
    for (; j + 7 <= d.dst_w; j += 7, out += 7 * d.channels) {
        depthwise_columns<T, S, Stride, 7>(d, image, first_row, j, begin, end, out);
    }
    for (; j + 4 <= d.dst_w; j += 4, out += 4 * d.channels) {
        depthwise_columns<T, S, Stride, 4>(d, image, first_row, j, begin, end, out);
    }
    for (; j < d.dst_w; ++j, out += d.channels) {
        depthwise_columns<T, S, Stride, 1>(d, image, first_row, j, begin, end, out);
    }
}

template <class T>
static void depthwise_strips(const DepthwiseSum& d, const T* src, int64_t n, int64_t row, int64_t begin, int64_t end) {
    if (d.stride_w == 2) {
        return d.s == 3 ? depthwise_strips<T, 3, 2>(d, src, n, row, begin, end)
                        : depthwise_strips<T, 5, 2>(d, src, n, row, begin, end);
    }
    return d.s == 3   ? depthwise_strips<T, 3, 1>(d, src, n, row, begin, end)
           : d.s == 5 ? depthwise_strips<T, 5, 1>(d, src, n, row, begin, end)
                      : depthwise_strips<T, 7, 1>(d, src, n, row, begin, end);
}

// Parts that a row's channels are cut into, so that few rows divide evenly among threads too.
static inline int64_t channel_parts(int64_t rows, int64_t channels, int64_t threads) {
    constexpr int64_t kRowsEach = 16, kLeast = 4 * Vec::W;
    return max64(1, min64(ceil_div(kRowsEach * threads, max64(rows, 1)), channels / kLeast));
}

}  // namespace dlperf::DLPERF_ISA_NS

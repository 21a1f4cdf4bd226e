// Depthwise convolution (one input channel per group): vectors run over channels.
#include "cpu/conv2d_depthwise_rows.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Weights and bias as floats: [r * s][k].
template <class T>
void expand_weights(const Conv2dShape& s, const T* w, float* out) {
    for (int64_t r = 0; r < s.r; ++r) {
        for (int64_t q = 0; q < s.s; ++q) {
            for (int64_t k = 0; k < s.k; ++k) *out++ = to_float(w[k * s.w_k + r * s.w_r + q * s.w_s]);
        }
    }
}

int64_t weight_floats(const Conv2dShape& s) {
    return s.r * s.s * s.k + kPanel;
}

// Channels of x under the lanes k..k+W of y: the same, or each repeated by the multiplier.
template <class T>
DLPERF_INLINE Vec load_repeated(const T* pixel, int64_t k, int64_t multiplier, int64_t lanes) {
    if (multiplier == 1) return load_some(pixel + k, lanes);
    alignas(64) float lane[Vec::W] = {0};
    for (int64_t i = 0; i < lanes && i < Vec::W; ++i) lane[i] = to_float(pixel[(k + i) / multiplier]);
    return Vec::load(lane);
}

// Taps that one pixel reads, the same along a stretch of the row but for a step.
struct TapList {
    const char** pixel;
    const float** weight;
    int64_t count;
};

struct DepthwiseRow {
    const Conv2dShape* s;
    bool forward;
    const float* weight;
    const float* bias;
    Epilogue e;
};

// One pixel of y (or of gx, multiplier 1).
template <class T>
void pixel_same(const DepthwiseRow& p, const TapList& taps, int64_t channels, int64_t out) {
    constexpr int kWide = 4;
    alignas(64) float acc[kWide * Vec::W];
    const int64_t multiplier = p.s->k / p.s->c;
    for (int64_t k = 0; k < channels; k += kWide * Vec::W) {
        const int64_t left = channels - k;
        Vec v[kWide];
        for (int j = 0; j < kWide; ++j) v[j] = Vec::zero();
        for (int64_t t = 0; t < taps.count; ++t) {
            const T* x = reinterpret_cast<const T*>(taps.pixel[t]);
            if (multiplier == 1 && left >= kWide * Vec::W) {
#pragma GCC unroll 4
                for (int j = 0; j < kWide; ++j) {
                    const int64_t at = k + j * Vec::W;
                    v[j] = fma(Vec::load(x + at), Vec::load(taps.weight[t] + at), v[j]);
                }
            } else {
                for (int j = 0; j < kWide && j * Vec::W < left; ++j) {
                    const int64_t at = k + j * Vec::W, lanes = left - j * Vec::W;
                    v[j] = fma(load_repeated(x, at, multiplier, lanes), load_some(taps.weight[t] + at, lanes), v[j]);
                }
            }
        }
        if (p.e.dtype == DType::f32 && !p.e.residual && p.e.act == Act::none) {
            float* y = static_cast<float*>(p.e.out) + out + k;
            for (int j = 0; j < kWide && j * Vec::W < left; ++j) {
                const int64_t at = j * Vec::W;
                store_some(y + at, p.bias ? v[j] + Vec::load(p.bias + k + at) : v[j], left - at);
            }
            continue;
        }
        for (int j = 0; j < kWide; ++j) v[j].store(acc + j * Vec::W);
        TileCall call = {};
        call.acc = acc;
        call.epilogue = &p.e;
        call.out_offset = &out;
        call.residual_offset = &out;
        call.bias_col = p.bias;
        call.n0 = k;
        call.n_valid = int(min64(kWide * Vec::W, left));
        finish_rows(call, 1, kWide * Vec::W);
    }
}

// Some neighbouring pixels whose taps all lie `step` bytes apart: the weights are read once for all of them.
template <class T, int Pixels, int Wide>
DLPERF_INLINE void stretch_block(const DepthwiseRow& p, const TapList& taps, int64_t step, int64_t k, int64_t lanes,
                                 int64_t channels, int64_t out) {
    Vec v[Pixels][Wide];
#pragma GCC unroll 4
    for (int i = 0; i < Pixels; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) v[i][j] = p.bias ? Vec::load(p.bias + k + j * Vec::W) : Vec::zero();
    }
    for (int64_t t = 0; t < taps.count; ++t) {
        Vec w[Wide];
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) w[j] = load_some(taps.weight[t] + k + j * Vec::W, lanes - j * Vec::W);
#pragma GCC unroll 4
        for (int i = 0; i < Pixels; ++i) {
            const T* x = reinterpret_cast<const T*>(taps.pixel[t] + i * step) + k;
#pragma GCC unroll 4
            for (int j = 0; j < Wide; ++j) v[i][j] = fma(load_some(x + j * Vec::W, lanes - j * Vec::W), w[j], v[i][j]);
        }
    }
    T* y = static_cast<T*>(p.e.out) + out + k;
#pragma GCC unroll 4
    for (int i = 0; i < Pixels; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) {
            const Vec r = p.e.act == Act::relu ? max(v[i][j], Vec::zero()) : v[i][j];
            store_some(y + i * channels + j * Vec::W, r, lanes - j * Vec::W);
        }
    }
}

constexpr int kPixels = 4;

template <class T>
void pixel_stretch(const DepthwiseRow& p, const TapList& taps, int64_t step, int64_t channels, int64_t out) {
    int64_t k = 0;
    for (; k + 4 * Vec::W <= channels; k += 4 * Vec::W) {
        stretch_block<T, kPixels, 4>(p, taps, step, k, 4 * Vec::W, channels, out);
    }
    for (; k + 2 * Vec::W <= channels; k += 2 * Vec::W) {
        stretch_block<T, kPixels, 2>(p, taps, step, k, 2 * Vec::W, channels, out);
    }
    for (; k < channels; k += Vec::W) stretch_block<T, kPixels, 1>(p, taps, step, k, channels - k, channels, out);
}

// One pixel of gx where several channels of gy belong to each channel of x.
template <class T>
void pixel_reduced(const DepthwiseRow& p, const TapList& taps, int64_t out) {
    const int64_t multiplier = p.s->k / p.s->c;
    for (int64_t c0 = 0; c0 < p.s->c; c0 += Vec::W) {
        alignas(64) float acc[Vec::W] = {0};
        const int64_t lanes = min64(Vec::W, p.s->c - c0);
        for (int64_t i = 0; i < lanes; ++i) {
            float sum = 0;
            for (int64_t t = 0; t < taps.count; ++t) {
                const T* gy = reinterpret_cast<const T*>(taps.pixel[t]);
                for (int64_t k = (c0 + i) * multiplier; k < (c0 + i + 1) * multiplier; ++k) {
                    sum += to_float(gy[k]) * taps.weight[t][k];
                }
            }
            acc[i] = sum;
        }
        TileCall call = {};
        call.acc = acc;
        call.epilogue = &p.e;
        call.out_offset = &out;
        call.residual_offset = &out;
        call.bias_col = p.bias;
        call.n0 = c0;
        call.n_valid = int(lanes);
        finish_rows(call, 1, Vec::W);
    }
}

// Source index under `index` through tap `t`, or -1.
DLPERF_INLINE int64_t source_index(bool forward, int64_t index, int64_t t, int64_t stride, int64_t pad,
                                   int64_t dilation, int64_t size) {
    int64_t at = forward ? index * stride - pad + t * dilation : index + pad - t * dilation;
    if (!forward) {
        if (at < 0 || at % stride != 0) return -1;
        at /= stride;
    }
    return at >= 0 && at < size ? at : -1;
}

// One row of the destination.
template <class T>
void depthwise_row(const DepthwiseRow& p, const T* src, int64_t n, int64_t row, const TapList& scratch) {
    const Conv2dShape& s = *p.s;
    const int64_t src_h = p.forward ? s.h : s.oh, src_w = p.forward ? s.w : s.ow, src_c = p.forward ? s.c : s.k;
    const int64_t dst_h = p.forward ? s.oh : s.h, dst_w = p.forward ? s.ow : s.w, dst_c = p.forward ? s.k : s.c;
    const bool reduces = !p.forward && s.k != s.c;
    // Between the first and last pixel whose taps all lie inside, pointers only advance (stride-1 sources only).
    const bool advances = p.forward || s.stride_w == 1;
    const int64_t advance = (p.forward ? s.stride_w : 1) * src_c;
    const bool stretches = s.k == s.c && !p.e.residual && (p.e.act == Act::none || p.e.act == Act::relu);
    const int64_t edge_tap = p.forward ? s.s - 1 : 0;
    const auto inside = [&](int64_t j) {
        return j < dst_w && source_index(p.forward, j, edge_tap, s.stride_w, s.pad_w, s.dil_w, src_w) >= 0;
    };
    TapList taps = scratch;
    bool inner = false;
    for (int64_t j = 0; j < dst_w; ++j) {
        if (inner && j > 0) {
            if (inside(j)) {
                for (int64_t t = 0; t < taps.count; ++t) {
                    taps.pixel[t] = reinterpret_cast<const char*>(reinterpret_cast<const T*>(taps.pixel[t]) + advance);
                }
            } else {
                inner = false;
            }
        }
        if (!inner) {
            taps.count = 0;
            int64_t widths = 0;
            for (int64_t q = 0; q < s.s; ++q) {
                widths += source_index(p.forward, j, q, s.stride_w, s.pad_w, s.dil_w, src_w) >= 0;
            }
            for (int64_t r = 0; r < s.r; ++r) {
                const int64_t ih = source_index(p.forward, row, r, s.stride_h, s.pad_h, s.dil_h, src_h);
                if (ih < 0) continue;
                for (int64_t q = 0; q < s.s; ++q) {
                    const int64_t iw = source_index(p.forward, j, q, s.stride_w, s.pad_w, s.dil_w, src_w);
                    if (iw < 0) continue;
                    taps.pixel[taps.count] =
                        reinterpret_cast<const char*>(src + ((n * src_h + ih) * src_w + iw) * src_c);
                    taps.weight[taps.count++] = p.weight + (r * s.s + q) * s.k;
                }
            }
            inner = advances && widths == s.s;
        }
        const int64_t out = ((n * dst_h + row) * dst_w + j) * dst_c;
        if (inner && stretches && inside(j + kPixels - 1)) {
            pixel_stretch<T>(p, taps, advance * int64_t(sizeof(T)), dst_c, out);
            for (int64_t t = 0; t < taps.count; ++t) taps.pixel[t] += (kPixels - 1) * advance * int64_t(sizeof(T));
            j += kPixels - 1;
        } else if (reduces) {
            pixel_reduced<T>(p, taps, out);
        } else {
            pixel_same<T>(p, taps, dst_c, out);
        }
    }
}

struct Buffers {
    float *weight, *bias;
    const char** pixel;
    const float** tap_weight;
};

Buffers take_buffers(const Conv2dShape& s, Arena& arena, int64_t threads, bool prepacked) {
    Buffers b;
    b.weight = arena.take<float>(prepacked ? 0 : weight_floats(s));
    b.bias = arena.take<float>(padded_bias(max64(s.k, s.c)));
    b.pixel = arena.take<const char*>(s.r * s.s * threads);
    b.tap_weight = arena.take<const float*>(s.r * s.s * threads);
    return b;
}

void run(const Conv2dShape& s, bool forward, const void* src, const void* weight, const void* bias,
         const void* residual, void* dst, void* workspace, int64_t threads, bool prepacked) {
    Arena arena = {static_cast<char*>(workspace)};
    const Buffers b = take_buffers(s, arena, threads, prepacked);
    if (!prepacked) DLPERF_DTYPE_SWITCH(s.dtype, expand_weights(s, static_cast<const T*>(weight), b.weight))
    if (bias) expand_bias(s.dtype, bias, forward ? s.k : s.c, b.bias);
    DepthwiseRow p = {
        &s, forward, prepacked ? static_cast<const float*>(weight) : b.weight, bias ? b.bias : nullptr, {}};
    p.e.dtype = s.dtype;
    p.e.act = s.act;
    p.e.act_param = s.act_param;
    p.e.out = dst;
    p.e.residual = residual;
    const int64_t height = forward ? s.oh : s.h, width = forward ? s.ow : s.w, taps = s.r * s.s;
    if (s.n * height * width * s.c == 0) return;
    if (has_strips(s, forward)) {
        const DepthwiseSum sum = make_sum(s, forward, p.weight, p.bias, p.e);
        const int64_t parts = channel_parts(s.n * height, s.k, threads);
#pragma omp parallel num_threads(int(threads)) if (threads > 1 && s.n * height * parts > 1)
        {
            const Range mine = split(s.n * height * parts, omp_get_num_threads(), omp_get_thread_num());
            for (int64_t i = mine.begin; i < mine.end; ++i) {
                const int64_t n = i / parts / height, row = i / parts % height;
                const Range k = split(s.k, parts, i % parts, 2 * Vec::W);
                DLPERF_DTYPE_SWITCH(s.dtype, depthwise_strips(sum, static_cast<const T*>(src), n, row, k.begin, k.end))
            }
        }
        return;
    }
#pragma omp parallel num_threads(int(threads)) if (threads > 1 && s.n * height > 1)
    {
        const int64_t me = omp_get_thread_num();
        const TapList list = {b.pixel + me * taps, b.tap_weight + me * taps, 0};
        const Range rows = split(s.n * height, omp_get_num_threads(), me);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
            DLPERF_DTYPE_SWITCH(s.dtype, depthwise_row(p, static_cast<const T*>(src), i / height, i % height, list))
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

// ---- Weight ----

constexpr int kWide = 4;

// acc[q][k..] += the products of pixels [first, last] of a row for `Taps` neighbouring taps; multiplier 1.
template <int Taps, int Wide, class T>
DLPERF_INLINE void weight_stretch(const Conv2dShape& s, const T* gy, const T* x, int64_t first, int64_t last,
                                  int64_t lanes, float* acc) {
    Vec v[Taps][Wide];
#pragma GCC unroll 4
    for (int q = 0; q < Taps; ++q) {
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) v[q][j] = Vec::zero();
    }
    for (int64_t ow = first; ow <= last; ++ow) {
        const T *g = gy + ow * s.k, *p = x + ow * s.stride_w * s.c;
        Vec gv[Wide];
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) gv[j] = load_some(g + j * Vec::W, lanes - j * Vec::W);
#pragma GCC unroll 4
        for (int q = 0; q < Taps; ++q) {
#pragma GCC unroll 4
            for (int j = 0; j < Wide; ++j) {
                v[q][j] = fma(gv[j], load_some(p + q * s.dil_w * s.c + j * Vec::W, lanes - j * Vec::W), v[q][j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Taps; ++q) {
#pragma GCC unroll 4
        for (int j = 0; j < Wide; ++j) {
            float* to = acc + q * s.k + j * Vec::W;
            const int64_t left = lanes - j * Vec::W;
            store_some(to, load_some(to, left) + v[q][j], left);
        }
    }
}

// The same for any multiplier, one tap.
template <class T>
void weight_repeated(const Conv2dShape& s, const T* gy, const T* x, int64_t k, int64_t first, int64_t last,
                     float* acc) {
    const int64_t multiplier = s.k / s.c;
    for (int64_t at = k; at < min64(s.k, k + kWide * Vec::W); at += Vec::W) {
        const int64_t lanes = s.k - at;
        Vec v = Vec::zero();
        for (int64_t ow = first; ow <= last; ++ow) {
            const Vec p = load_repeated(x + ow * s.stride_w * s.c, at, multiplier, lanes);
            v = fma(load_some(gy + ow * s.k + at, lanes), p, v);
        }
        store_some(acc + at, load_some(acc + at, lanes) + v, lanes);
    }
}

// acc[tap][k] += the products of one row of gy.
template <class T>
void weight_row(const Conv2dShape& s, const T* gy, const T* x, int64_t n, int64_t oh, float* acc) {
    const T* gy_row = gy + (n * s.oh + oh) * s.ow * s.k;
    const auto first_of = [&](int64_t q) {
        const int64_t shift = q * s.dil_w - s.pad_w;
        return shift < 0 ? ceil_div(-shift, s.stride_w) : 0;
    };
    const auto last_of = [&](int64_t q) {
        const int64_t shift = q * s.dil_w - s.pad_w;
        return shift >= s.w ? int64_t(-1) : min64(s.ow - 1, (s.w - 1 - shift) / s.stride_w);
    };
    for (int64_t k = 0; k < s.k; k += kWide * Vec::W) {
        const int64_t lanes = s.k - k;
        for (int64_t r = 0; r < s.r; ++r) {
            const int64_t ih = oh * s.stride_h - s.pad_h + r * s.dil_h;
            if (ih < 0 || ih >= s.h) continue;
            const T* x_row = x + (n * s.h + ih) * s.w * s.c;
            const auto run = [&](int64_t q, int64_t first, int64_t last) {
                if (first > last) return;
                const T* shifted = x_row + (q * s.dil_w - s.pad_w) * s.c;
                float* to = acc + (r * s.s + q) * s.k;
                if (s.k != s.c) {
                    weight_repeated(s, gy_row, shifted, k, first, last, to);
                } else if (lanes >= kWide * Vec::W) {
                    weight_stretch<1, kWide>(s, gy_row + k, shifted + k, first, last, lanes, to + k);
                } else {
                    for (int64_t at = k; at < s.k; at += Vec::W) {
                        weight_stretch<1, 1>(s, gy_row + at, shifted + at, first, last, s.k - at, to + at);
                    }
                }
            };
            int64_t q = 0;
            for (; q + 3 <= s.s && s.k == s.c; q += 3) {
                // The pixels that all three taps see, then each tap's own before and after.
                const int64_t first = first_of(q), last = last_of(q + 2);
                const int64_t stretch = last < first ? first - 1 : last;
                const T* shifted = x_row + (q * s.dil_w - s.pad_w) * s.c;
                float* to = acc + (r * s.s + q) * s.k;
                if (last >= first && lanes >= kWide * Vec::W) {
                    weight_stretch<3, kWide>(s, gy_row + k, shifted + k, first, last, lanes, to + k);
                } else if (last >= first) {
                    for (int64_t at = k; at < s.k; at += Vec::W) {
                        weight_stretch<3, 1>(s, gy_row + at, shifted + at, first, last, s.k - at, to + at);
                    }
                }
                for (int64_t i = q; i < q + 3; ++i) {
                    run(i, first_of(i), min64(first - 1, last_of(i)));
                    run(i, max64(stretch + 1, first_of(i)), last_of(i));
                }
            }
            for (; q < s.s; ++q) run(q, first_of(q), last_of(q));
        }
    }
}

void bwd_weight(const Conv2dShape& s, const void* gy, const void* x, void* gw, void* workspace, int64_t threads) {
    const int64_t share = round_up(weight_floats(s), 16), elements = s.r * s.s * s.k;
    float* parts = static_cast<float*>(workspace);
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        float* acc = parts + me * share;
        for (int64_t i = 0; i < elements; ++i) acc[i] = 0.0f;
        const Range rows = split(s.n * s.oh, team, me);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
            DLPERF_DTYPE_SWITCH(
                s.dtype, weight_row(s, static_cast<const T*>(gy), static_cast<const T*>(x), i / s.oh, i % s.oh, acc))
        }
#pragma omp barrier
        const Range filters = split(s.k, team, me);
        for (int64_t k = filters.begin; k < filters.end; ++k) {
            for (int64_t t = 0; t < s.r * s.s; ++t) {
                float sum = 0;
                for (int64_t i = 0; i < team; ++i) sum += parts[i * share + t * s.k + k];
                const int64_t at = k * s.w_k + t / s.s * s.w_r + t % s.s * s.w_s;
                DLPERF_DTYPE_SWITCH(s.dtype, static_cast<T*>(gw)[at] = from_float<T>(sum))
            }
        }
    }
}

int64_t workspace_bytes(const Conv2dShape& s, ConvDirection direction, int64_t threads, bool prepacked) {
    if (direction == ConvDirection::bwd_weight) return threads * round_up(weight_floats(s), 16) * 4;
    Arena arena = {nullptr};
    take_buffers(s, arena, threads, prepacked);
    return arena.used;
}

int64_t pack_bytes(const Conv2dShape& s, ConvDirection) {
    return weight_floats(s) * 4;
}

void pack(const Conv2dShape& s, ConvDirection, const void* w, void* packed) {
    DLPERF_DTYPE_SWITCH(s.dtype, expand_weights(s, static_cast<const T*>(w), static_cast<float*>(packed)))
}

}  // namespace

extern const Conv2dTable depthwise_table;
const Conv2dTable depthwise_table = {workspace_bytes, forward, bwd_input, bwd_weight, pack_bytes, pack};

}  // namespace dlperf::DLPERF_ISA_NS

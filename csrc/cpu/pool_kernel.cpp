// Pooling forward. Channels last: vectors of channels, a window's positions in turn. Channels first: vectors of
// outputs along a row where whole windows lie inside the picture, single outputs at its edges.
#include "cpu/pool.h"
#include "cpu/pool_window.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Running result of U vectors of outputs.
template <PoolKind kKind, bool kIndex, int U>
struct Pooled {
    Vec value[U], row[U], index[U];

    DLPERF_INLINE void start(int32_t first) {
        for (int u = 0; u < U; ++u) {
            value[u] = kKind == PoolKind::max ? Vec::set1(-__builtin_inff()) : Vec::zero();
            if (kIndex) index[u] = bits_of(first);
        }
    }
    // Averages are summed row by row, which keeps rounding small in large windows.
    DLPERF_INLINE void start_row() {
        if (kKind == PoolKind::average) {
            for (int u = 0; u < U; ++u) row[u] = Vec::zero();
        }
    }
    DLPERF_INLINE void end_row() {
        if (kKind == PoolKind::average) {
            for (int u = 0; u < U; ++u) value[u] = value[u] + row[u];
        }
    }
    DLPERF_INLINE void add(int u, Vec v, int32_t position) {
        if (kKind == PoolKind::average) {
            row[u] = row[u] + v;
        } else if (kIndex) {
            const Mask taken = wins(v, value[u]);
            value[u] = select(taken, v, value[u]);
            index[u] = select(taken, bits_of(position), index[u]);
        } else {
            value[u] = max(value[u], v);
        }
    }
    DLPERF_INLINE Vec result(int u, float divisor) const {
        return kKind == PoolKind::average ? value[u] / Vec::set1(divisor) : value[u];
    }
};

template <PoolKind kKind, bool kIndex, int U, class T>
static DLPERF_INLINE void pool_channels(const PoolShape& shape, const T* x, const Window& wy, const Window& wx, T* y,
                                        int32_t* indices, int lanes) {
    const int64_t dy = dilation_of(shape, shape.h), dx = dilation_of(shape, shape.w);
    Pooled<kKind, kIndex, U> pooled;
    pooled.start(int32_t(wy.begin * shape.w.in + wx.begin));
    for (int64_t ih = wy.begin; ih < wy.end; ih += dy) {
        pooled.start_row();
        for (int64_t iw = wx.begin; iw < wx.end; iw += dx) {
            const int64_t position = ih * shape.w.in + iw;
            const T* p = x + position * shape.c;
            for (int u = 0; u < U; ++u) {
                const Vec v = U > 1 || lanes == Vec::W ? Vec::load(p + u * Vec::W) : Vec::load(p, lanes);
                pooled.add(u, v, int32_t(position));
            }
        }
        pooled.end_row();
    }
    const float divisor = divisor_of(shape, wy, wx);
    for (int u = 0; u < U; ++u) {
        const bool whole = U > 1 || lanes == Vec::W, empty = wy.begin >= wy.end || wx.begin >= wx.end;
        const Vec v = kKind == PoolKind::average && empty ? Vec::zero() : pooled.result(u, divisor);
        if (whole) {
            v.store(y + u * Vec::W);
            if (kIndex) pooled.index[u].store((float*)indices + u * Vec::W);
        } else {
            v.store(y, lanes);
            if (kIndex) pooled.index[u].store((float*)indices, lanes);
        }
    }
}

template <PoolKind kKind, bool kIndex, class T>
static void forward_channels_last(const PoolShape& shape, const T* x, T* y, int32_t* indices) {
    constexpr int U = 4;
    const int64_t rows = shape.n * shape.h.out, block = channel_block(shape, rows);
    const int64_t blocks = (shape.c + block - 1) / block;
    const int64_t work = shape.h.in * shape.w.in * block / (shape.h.out + 1);
    for_units(rows * blocks, work, [&](int64_t unit) {
        const int64_t n = unit / blocks / shape.h.out, oh = unit / blocks % shape.h.out;
        const int64_t c0 = unit % blocks * block, c1 = c0 + block < shape.c ? c0 + block : shape.c;
        const T* image = x + n * shape.h.in * shape.w.in * shape.c;
        const Window wy = window_of(shape, shape.h, oh);
        for (int64_t ow = 0; ow < shape.w.out; ++ow) {
            const Window wx = window_of(shape, shape.w, ow);
            const int64_t at = ((n * shape.h.out + oh) * shape.w.out + ow) * shape.c;
            int64_t c = c0;
            for (; c + U * Vec::W <= c1; c += U * Vec::W) {
                pool_channels<kKind, kIndex, U>(shape, image + c, wy, wx, y + at + c, indices + at + c, Vec::W);
            }
            for (; c < c1; c += Vec::W) {
                const int lanes = c + Vec::W <= c1 ? Vec::W : int(c1 - c);
                pool_channels<kKind, kIndex, 1>(shape, image + c, wy, wx, y + at + c, indices + at + c, lanes);
            }
        }
    });
}

// Every second element of 2 W - 1, and no other element read: the upper half is loaded one early.
#if defined(__AVX512F__)
static DLPERF_INLINE Vec load_even(const float* p) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
    return {_mm512_permutex2var_ps(_mm512_loadu_ps(p), order, _mm512_loadu_ps(p + 15))};
}
static DLPERF_INLINE __m256i even_halves(const void* p) {
    const __m256i low = _mm256_and_si256(_mm256_loadu_si256((const __m256i*)p), _mm256_set1_epi32(0xffff));
    const __m256i high = _mm256_srli_epi32(_mm256_loadu_si256((const __m256i*)((const uint16_t*)p + 15)), 16);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}
static DLPERF_INLINE Vec load_even(const bf16_t* p) {
    return Vec::widen_bf16(even_halves(p));
}
static DLPERF_INLINE Vec load_even(const f16_t* p) {
    return {_mm512_cvtph_ps(even_halves(p))};
}
#elif defined(__AVX2__)
static DLPERF_INLINE Vec load_even(const float* p) {
    const __m256 pairs = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 7), 0xd8);
    return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0xd8))};
}
static DLPERF_INLINE __m128i even_halves(const void* p) {
    const __m128i low = _mm_and_si128(_mm_loadu_si128((const __m128i*)p), _mm_set1_epi32(0xffff));
    const __m128i high = _mm_srli_epi32(_mm_loadu_si128((const __m128i*)((const uint16_t*)p + 7)), 16);
    return _mm_packus_epi32(low, high);
}
static DLPERF_INLINE Vec load_even(const bf16_t* p) {
    return Vec::widen_bf16(even_halves(p));
}
static DLPERF_INLINE Vec load_even(const f16_t* p) {
    return {_mm256_cvtph_ps(even_halves(p))};
}
#else
template <class T>
static DLPERF_INLINE Vec load_even(const T* p) {
    return Vec::load(p);
}
#endif

template <class T>
static DLPERF_INLINE Vec load_strided(const T* p, int64_t stride) {
    if (stride == 1) return Vec::load(p);
    if (stride == 2) return load_even(p);
    alignas(64) float lanes[Vec::W];
    for (int i = 0; i < Vec::W; ++i) lanes[i] = to_float(p[i * stride]);
    return Vec::load(lanes);
}

template <class T>
static double sum_of_span(const T* p, int64_t length) {
    constexpr int64_t kChunk = 1024;
    double total = 0;
    for (int64_t i = 0; i < length; i += kChunk) {
        const int64_t n = i + kChunk < length ? kChunk : length - i;
        Vec even = Vec::zero(), odd = Vec::zero();
        int64_t j = 0;
        for (; j + 2 * Vec::W <= n; j += 2 * Vec::W) {
            even = even + Vec::load(p + i + j);
            odd = odd + Vec::load(p + i + j + Vec::W);
        }
        for (; j < n; j += Vec::W) even = even + load_some(p + i + j, n - j);
        total += (even + odd).sum();
    }
    return total;
}

template <class T>
static float average_window(const PoolShape& shape, const T* plane, const Window& wy, const Window& wx) {
    if (wy.begin >= wy.end || wx.begin >= wx.end) return 0.0f;
    double total = 0;
    if (wx.end - wx.begin == shape.w.in) {
        total = sum_of_span(plane + wy.begin * shape.w.in, (wy.end - wy.begin) * shape.w.in);
    } else if (wx.end - wx.begin >= 16) {
        for (int64_t ih = wy.begin; ih < wy.end; ++ih) {
            total += sum_of_span(plane + ih * shape.w.in + wx.begin, wx.end - wx.begin);
        }
    } else {
        for (int64_t ih = wy.begin; ih < wy.end; ++ih) {
            for (int64_t iw = wx.begin; iw < wx.end; ++iw) total += to_float(plane[ih * shape.w.in + iw]);
        }
    }
    return float(total / divisor_of(shape, wy, wx));
}

template <class T>
static float max_window(const PoolShape& shape, const T* plane, const Window& wy, const Window& wx, int32_t& index) {
    const int64_t dy = dilation_of(shape, shape.h), dx = dilation_of(shape, shape.w);
    float best = -__builtin_inff();
    index = int32_t(wy.begin * shape.w.in + wx.begin);
    for (int64_t ih = wy.begin; ih < wy.end; ih += dy) {
        for (int64_t iw = wx.begin; iw < wx.end; iw += dx) {
            const float v = to_float(plane[ih * shape.w.in + iw]);
            if (v > best || v != v) {
                best = v;
                index = int32_t(ih * shape.w.in + iw);
            }
        }
    }
    return best;
}

// W outputs of one row whose windows lie inside the picture's width.
template <PoolKind kKind, bool kIndex, class T>
static DLPERF_INLINE void pool_outputs(const PoolShape& shape, const T* plane, const Window& wy, int64_t ow, T* y,
                                       int32_t* indices) {
    const int64_t dy = dilation_of(shape, shape.h), dx = dilation_of(shape, shape.w);
    const int64_t start = ow * shape.w.stride - shape.w.padding;
    Pooled<kKind, kIndex, 1> pooled;
    // The winner is noted as the first output's position; each lane's own lies stride further on.
    pooled.start(int32_t(wy.begin * shape.w.in + start));
    for (int64_t ih = wy.begin; ih < wy.end; ih += dy) {
        pooled.start_row();
        for (int64_t k = 0; k < shape.w.kernel; ++k) {
            const int64_t position = ih * shape.w.in + start + k * dx;
            pooled.add(0, load_strided(plane + position, shape.w.stride), int32_t(position));
        }
        pooled.end_row();
    }
    const Window wx = window_of(shape, shape.w, ow);
    pooled.result(0, divisor_of(shape, wy, wx)).store(y + ow);
    if (kIndex) {
        alignas(64) int32_t first[Vec::W];
        pooled.index[0].store((float*)first);
        for (int i = 0; i < Vec::W; ++i) indices[ow + i] = first[i] + int32_t(i * shape.w.stride);
    }
}

template <PoolKind kKind, bool kIndex, class T>
static void forward_planes(const PoolShape& shape, const T* x, T* y, int32_t* indices) {
    const PoolAxis& w = shape.w;
    // Outputs [inside.begin, inside.end) have whole windows; wide windows are better summed along themselves.
    Range inside{0, 0};
    if (!shape.adaptive && w.kernel < 16) {
        const int64_t room = w.in - 1 - (w.kernel - 1) * w.dilation + w.padding;
        const int64_t end = room < 0 ? 0 : room / w.stride + 1;
        inside = {(w.padding + w.stride - 1) / w.stride, end < w.out ? end : w.out};
    }
    // Finding a window takes divisions; where there is one alone, once is enough.
    const bool one_row = shape.h.out == 1;
    const Window only_y = window_of(shape, shape.h, 0), first_x = window_of(shape, w, 0);
    const int64_t work = shape.h.in * w.in / (shape.h.out + 1);
    for_units(shape.n * shape.c * shape.h.out, work, [&](int64_t unit) {
        const T* plane = x + (one_row ? unit : unit / shape.h.out) * shape.h.in * w.in;
        const Window wy = one_row ? only_y : window_of(shape, shape.h, unit % shape.h.out);
        T* out = y + unit * w.out;
        int32_t* out_indices = indices + unit * w.out;
        const bool vectors = wy.begin < wy.end && inside.end - inside.begin >= Vec::W;
        int64_t ow = 0;
        while (ow < w.out) {
            if (vectors && ow >= inside.begin && ow < inside.end) {
                // The last vector steps back over outputs already there.
                const int64_t first = ow + Vec::W <= inside.end ? ow : inside.end - Vec::W;
                pool_outputs<kKind, kIndex>(shape, plane, wy, first, out, out_indices);
                ow = first + Vec::W;
                continue;
            }
            const Window wx = ow == 0 ? first_x : window_of(shape, w, ow);
            if (kKind == PoolKind::average) {
                out[ow] = from_float<T>(average_window(shape, plane, wy, wx));
            } else {
                int32_t index;
                out[ow] = from_float<T>(max_window(shape, plane, wy, wx, index));
                if (kIndex) out_indices[ow] = index;
            }
            ++ow;
        }
    });
}

template <PoolKind kKind, bool kIndex, class T>
static void forward_kind(const PoolShape& shape, const T* x, T* y, int32_t* indices) {
    if (shape.channels_last) {
        forward_channels_last<kKind, kIndex>(shape, x, y, indices);
    } else {
        forward_planes<kKind, kIndex>(shape, x, y, indices);
    }
}

template <class T>
static void forward_typed(const PoolShape& shape, const T* x, T* y, int32_t* indices) {
    if (shape.kind == PoolKind::average) {
        forward_kind<PoolKind::average, false>(shape, x, y, indices);
    } else if (indices == nullptr) {
        forward_kind<PoolKind::max, false>(shape, x, y, indices);
    } else {
        forward_kind<PoolKind::max, true>(shape, x, y, indices);
    }
}

void forward(const PoolShape& shape, const void* x, void* y, int32_t* indices) {
    DLPERF_DTYPE_SWITCH(shape.dtype, forward_typed(shape, (const T*)x, (T*)y, indices));
}

}  // namespace

const PoolTable pool_table = {forward};

}  // namespace dlperf::DLPERF_ISA_NS

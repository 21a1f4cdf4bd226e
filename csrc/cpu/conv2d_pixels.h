// One output pixel's row of a panel, as the weight gradient's products read it: of a tap's channels or, where taps are
// merged, of whole rows of the filter.
#pragma once

#include "cpu/conv2d_impl.h"
#include "cpu/gemm_pack.h"

namespace dlperf::DLPERF_ISA_NS {

static DLPERF_INLINE void copy_some(const float* src, float* dst, int64_t n) {
    for (int64_t i = 0; i < n; i += Vec::W) store_some(dst + i, load_some(src + i, n - i), n - i);
}

template <class T>
static DLPERF_INLINE void copy_some(const T* src, T* dst, int64_t n) {
    std::memcpy(dst, src, size_t(n) * sizeof(T));
}

#if DLPERF_ISA_LEVEL >= 3
// Words 0, 32, 1, 33, ... of two vectors of 32, and words 16, 48, 17, 49, ...
alignas(64) constexpr uint16_t kInterleave[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                                  16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                  24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
#endif

template <bool Pairs, class T>
static DLPERF_INLINE void put_pixel(const T* src, int64_t columns, int64_t width, int64_t unit_half, float* dst) {
    for (int64_t j = 0; j < width; j += Vec::W) {
        Vec v = load_lanes<Pairs>(src + j, columns - j);
        if (Pairs && unit_half) v = join_pair(Vec::load(dst + j), v);
        v.store(dst + j);
    }
}

// Both halves of a unit: two pixels of `columns` channels.
template <class T>
static DLPERF_INLINE void put_pair(const T* first, const T* second, int64_t columns, int64_t width, float* dst) {
#if DLPERF_ISA_LEVEL >= 3
    const __m512i low = _mm512_loadu_si512(kInterleave), high = _mm512_loadu_si512(kInterleave + 32);
    for (int64_t j = 0; j < width; j += 2 * Vec::W) {
        const __mmask32 mask = columns - j >= 32 ? 0xffffffffu : (1u << (columns - j)) - 1;
        const __m512i a = _mm512_maskz_loadu_epi16(mask, first + j), b = _mm512_maskz_loadu_epi16(mask, second + j);
        _mm512_storeu_si512(dst + j, _mm512_permutex2var_epi16(a, low, b));
        if (j + Vec::W < width) _mm512_storeu_si512(dst + j + Vec::W, _mm512_permutex2var_epi16(a, high, b));
    }
#endif
}

static DLPERF_INLINE void put_zero(int64_t width, bool pairs, int64_t unit_half, float* dst) {
    if (pairs && unit_half) return;
    for (int64_t j = 0; j < width; j += Vec::W) Vec::zero().store(dst + j);
}

// Columns [c0, c0 + columns) of (r, s, c) under the filter at (ih, iw): a piece of memory per filter row, zero beside
// the image.
template <class T>
static DLPERF_INLINE void gather_line(const Conv2dShape& s, const T* image, int64_t ih, int64_t iw, int64_t c0,
                                      int64_t columns, T* line) {
    const int64_t length = s.s * s.c;
    const int64_t left = min64(length, max64(0, -iw * s.c)), right = max64(left, min64(length, (s.w - iw) * s.c));
    for (int64_t r = c0 / length; r * length < c0 + columns; ++r) {
        const int64_t begin = max64(0, c0 - r * length), end = min64(length, c0 + columns - r * length);
        const int64_t row = ih + r * s.dil_h;
        const bool inside = row >= 0 && row < s.h;
        const int64_t from = inside ? min64(end, max64(begin, left)) : end;
        const int64_t to = inside ? max64(from, min64(end, right)) : end;
        T* out = line + r * length - c0;
        for (int64_t i = begin; i < from; ++i) out[i] = T{};
        copy_some(image + (row * s.w + iw) * s.c + from, out + from, to - from);
        for (int64_t i = to; i < end; ++i) out[i] = T{};
    }
}

// With merged taps: what a panel's row takes from one row of the filter, where all of it lies in the image.
struct Piece {
    int64_t from, to, length;  // elements from the filter's first pixel; column of the panel
};

struct Pieces {
    Piece of[kPanel + 1];
    int64_t count, first_row, last_row;  // of the filter

    Pieces(const Conv2dShape& s, int64_t c0, int64_t columns) : count(0) {
        const int64_t length = s.s * s.c;
        first_row = c0 / length;
        last_row = (c0 + columns - 1) / length;
        for (int64_t r = first_row; r <= last_row; ++r) {
            const int64_t begin = max64(0, c0 - r * length), end = min64(length, c0 + columns - r * length);
            of[count++] = {r * s.dil_h * s.w * s.c + begin, r * length - c0 + begin, end - begin};
        }
    }
};

// What the vectors of a piece write behind it the next one overwrites, or is the padding's zeros.
template <bool Pairs, class T>
static DLPERF_INLINE void put_pieces(const Pieces& pieces, const T* first, const T* second, int64_t width, float* dst) {
    Vec::zero().store(dst + width - Vec::W);
    for (int64_t i = 0; i < pieces.count; ++i) {
        const Piece piece = pieces.of[i];
        float* out = dst + piece.to;
        const int64_t room = width - piece.to;
#if DLPERF_ISA_LEVEL >= 3
        if constexpr (Pairs) {
            const __m512i low = _mm512_loadu_si512(kInterleave), high = _mm512_loadu_si512(kInterleave + 32);
            for (int64_t j = 0; j < piece.length; j += 2 * Vec::W) {
                const int64_t left = piece.length - j;
                const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
                const __m512i a = _mm512_maskz_loadu_epi16(mask, first + piece.from + j);
                const __m512i b = _mm512_maskz_loadu_epi16(mask, second + piece.from + j);
                store_some(out + j, Vec{_mm512_castsi512_ps(_mm512_permutex2var_epi16(a, low, b))}, room - j);
                if (left <= Vec::W) continue;
                const __m512i upper = _mm512_permutex2var_epi16(a, high, b);
                store_some(out + j + Vec::W, Vec{_mm512_castsi512_ps(upper)}, room - j - Vec::W);
            }
            continue;
        }
#endif
        for (int64_t j = 0; j < piece.length; j += Vec::W) {
            store_some(out + j, load_lanes<false>(first + piece.from + j, piece.length - j), room - j);
        }
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

// Register-tiled block products and packing for attention. Only its `*_kernel.cpp` files include this.
//
// Scratch rows (queries, scores) lie kLd floats apart: a constant, so that one register addresses a whole tile.
#pragma once

#include "cpu/attention.h"
#include "cpu/vec.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics: _mm512_undefined
#endif

namespace dlperf::DLPERF_ISA_NS::attention {

#if DLPERF_ISA_LEVEL >= 2
constexpr int kMaxVecs = 4, kMr[] = {0, 12, 12, 8, 6};
#elif DLPERF_ISA_LEVEL == 1
constexpr int kMaxVecs = 2, kMr[] = {0, 8, 6};
#else
constexpr int kMaxVecs = 4, kMr[] = {0, 4, 4, 4, 4};
#endif
constexpr int kMrMax = kMr[1];
constexpr int64_t kPanel = kMaxVecs * Vec::W;

constexpr int64_t kQueries = 96;  // per block: a multiple of every tile's rows
constexpr int64_t kKeys = 256;    // per block
constexpr int64_t kLd = 272;      // >= kKeys and the head dimension; off powers of two

static_assert(kLd >= kKeys && kLd >= kAttentionMaxHeadDim && kKeys % kPanel == 0);

static DLPERF_INLINE int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}
static DLPERF_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// A in rows: a[i * kLd + k]. A transposed: a[k * kLd + i].
enum class Side { rows, columns };

// What a step of the reduction multiplies: floats, or pairs of bfloat16 in the place of one.
enum class Unit { single, pair };

template <class T>
constexpr Unit unit_of = Unit::single;
#if DLPERF_ISA_LEVEL >= 3
template <>
constexpr Unit unit_of<bf16_t> = Unit::pair;
#endif

// Steps of a reduction over n elements.
template <class T>
static DLPERF_INLINE int64_t units(int64_t n) {
    return unit_of<T> == Unit::pair ? (n + 1) / 2 : n;
}

template <Unit unit>
static DLPERF_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
#if DLPERF_ISA_LEVEL >= 3
    if constexpr (unit == Unit::pair) return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
#endif
    return fma(a, b, c);
}

// c[MR][NV * W] (+)= A b, with b [depth][NV * W] b_step apart.
template <Side side, Unit unit, int MR, int NV>
static void tile(int64_t depth, const float* a, const float* b, int64_t b_step, float* c, int64_t c_step,
                 bool accumulate) {
    constexpr int64_t row = side == Side::rows ? kLd : 1, step = side == Side::rows ? 1 : kLd;
    Vec acc[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = Vec::zero();
    }
    for (int64_t k = 0; k < depth; ++k, a += step, b += b_step) {
        Vec bv[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) bv[j] = Vec::load(b + j * Vec::W);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const Vec av = Vec::set1(a[i * row]);
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j] = multiply_add<unit>(av, bv[j], acc[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
            float* out = c + i * c_step + j * Vec::W;
            (accumulate ? acc[i][j] + Vec::load(out) : acc[i][j]).store(out);
        }
    }
}

using TileFunction = void (*)(int64_t, const float*, const float*, int64_t, float*, int64_t, bool);

template <Side side, Unit unit>
struct Tiles {
    TileFunction of[kMaxVecs + 1][kMrMax + 1];

    template <int MR, int NV>
    constexpr void fill() {
        of[NV][MR] = tile<side, unit, MR, NV>;
        if constexpr (MR < kMr[NV]) {
            fill<MR + 1, NV>();
        } else if constexpr (NV < kMaxVecs) {
            fill<1, NV + 1>();
        }
    }
    constexpr Tiles() : of() { fill<1, 1>(); }
};

template <Side side, Unit unit>
static constexpr Tiles<side, unit> tiles{};

// c[rows][vecs * W] (+)= A[rows][depth] b[depth][vecs * W]. Panels of b lie panel_step apart, their rows b_step.
template <Side side, Unit unit = Unit::single>
static void product(int64_t rows, int64_t vecs, int64_t depth, const float* a, const float* b, int64_t b_step,
                    int64_t panel_step, float* c, int64_t c_step, bool accumulate) {
    constexpr int64_t row = side == Side::rows ? kLd : 1;
    for (int64_t v = 0; v < vecs; v += kMaxVecs, b += panel_step, c += kPanel) {
        const int nv = int(least(kMaxVecs, vecs - v));
        const TileFunction* const by_rows = tiles<side, unit>.of[nv];
        for (int64_t i = 0; i < rows; i += kMr[nv]) {
            by_rows[least(kMr[nv], rows - i)](depth, a + i * row, b, b_step, c + i * c_step, c_step, accumulate);
        }
    }
}

// r[i][j] and r[j][i] change places.
static DLPERF_INLINE void transpose(Vec (&r)[Vec::W]) {
#if defined(__AVX512F__)
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
    for (int d = 8; d > 0; d /= 2) {
        const __mmask16 high = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(d));
        const __m512i crossed = _mm512_xor_si512(lane, _mm512_set1_epi32(d));
        const __m512i from_second = _mm512_set1_epi32(16);
        const __m512i first = _mm512_mask_or_epi32(lane, high, crossed, from_second);
        const __m512i second = _mm512_mask_blend_epi32(high, crossed, _mm512_or_si512(lane, from_second));
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            if (i & d) continue;
            const __m512 a = r[i].v, b = r[i | d].v;
            r[i].v = _mm512_permutex2var_ps(a, first, b);
            r[i | d].v = _mm512_permutex2var_ps(a, second, b);
        }
    }
#elif defined(__AVX2__)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m256 a = r[i].v, b = r[i + 4].v;
        r[i].v = _mm256_permute2f128_ps(a, b, 0x20);
        r[i + 4].v = _mm256_permute2f128_ps(a, b, 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        if (i & 2) continue;
        const __m256d a = _mm256_castps_pd(r[i].v), b = _mm256_castps_pd(r[i + 2].v);
        r[i].v = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        r[i + 2].v = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        const __m256 a = r[i].v, b = r[i + 1].v;
        r[i].v = _mm256_blend_ps(a, _mm256_moveldup_ps(b), 0xaa);
        r[i + 1].v = _mm256_blend_ps(_mm256_movehdup_ps(a), b, 0xaa);
    }
#endif
}

#if DLPERF_ISA_LEVEL >= 3
// 16 pairs of neighbours, of which the first n elements are there; the others are zero.
static DLPERF_INLINE Vec load_pairs(const bf16_t* p, int64_t n) {
    const __mmask32 mask = n >= 32 ? 0xffffffffu : n > 0 ? (1u << n) - 1 : 0;
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p))};
}

// One panel of keys: dst[(e + 1) / 2][kPanel] of pairs along a row, from rows src[n][e], n <= kPanel; zero beyond n.
static inline void pack_key_pairs(const bf16_t* src, int64_t src_step, int64_t n, int64_t e, float* dst) {
    for (int64_t j = 0; j < kPanel; j += Vec::W) {
        for (int64_t d = 0; d < e; d += 2 * Vec::W) {
            Vec r[Vec::W];
#pragma GCC unroll 16
            for (int i = 0; i < Vec::W; ++i) {
                r[i] = j + i < n ? load_pairs(src + (j + i) * src_step + d, e - d) : Vec::zero();
            }
            transpose(r);
            const int64_t units = least(Vec::W, (e - d + 1) / 2);
#pragma GCC unroll 16
            for (int i = 0; i < Vec::W; ++i) {
                if (i < units) r[i].store(dst + (d / 2 + i) * kPanel + j);
            }
        }
    }
}

// A panel of values: dst[(n + 1) / 2][round_up(width, W)] of pairs of rows, from src[n][width].
static inline void pack_value_pairs(const bf16_t* src, int64_t src_step, int64_t n, int64_t width, float* dst,
                                    int64_t dst_step) {
    const auto load = [](const bf16_t* p, int64_t lanes) {
        const __mmask16 mask = lanes >= Vec::W ? __mmask16(0xffff) : Vec::first(int(lanes));
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
    };
    for (int64_t i = 0; i < n; i += 2, dst += dst_step) {
        const bf16_t* row = src + i * src_step;
        for (int64_t d = 0; d < width; d += Vec::W) {
            __m512i v = load(row + d, width - d);
            if (i + 1 < n) v = _mm512_or_si512(v, _mm512_slli_epi32(load(row + src_step + d, width - d), 16));
            Vec{_mm512_castsi512_ps(v)}.store(dst + d);
        }
    }
}

// n rows of pairs along them: dst[n][(width + 1) / 2].
static inline void copy_pairs(const bf16_t* src, int64_t src_step, int64_t n, int64_t width, float* dst,
                              int64_t dst_step) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t d = 0; d < width; d += 2 * Vec::W) {
            load_pairs(src + i * src_step + d, width - d).store(dst + i * dst_step + d / 2);
        }
    }
}

// n rows of `width` floats as pairs of rows, rounded: dst[(n + 1) / 2][width]. dst may be src.
static inline void round_to_row_pairs(const float* src, int64_t step, int64_t n, int64_t width, float* dst) {
    for (int64_t i = 0; i < n; i += 2) {
        for (int64_t j = 0; j < width; j += Vec::W) {
            const Vec low = Vec::load(src + i * step + j);
            const Vec high = i + 1 < n ? Vec::load(src + (i + 1) * step + j) : Vec::zero();
            const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low.v));
            const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high.v));
            Vec{_mm512_castsi512_ps(_mm512_or_si512(a, _mm512_slli_epi32(b, 16)))}.store(dst + i / 2 * step + j);
        }
    }
}

// A row of `width` floats becomes one of pairs of bfloat16, in place.
static inline void round_to_pairs(float* row, int64_t width) {
    for (int64_t j = 0; j < width; j += 2 * Vec::W) {
        const Vec low = Vec::load(row + j), high = j + Vec::W < width ? Vec::load(row + j + Vec::W) : Vec::zero();
        Vec{_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v))}.store(row + j / 2);
    }
}
#endif

// One panel of the transpose: dst[depth][kPanel] from rows src[n][depth], n <= kPanel; zero beyond n.
template <class T>
static void pack_transposed(const T* src, int64_t src_step, int64_t n, int64_t depth, float* dst) {
    for (int64_t j = 0; j < kPanel; j += Vec::W) {
        for (int64_t d = 0; d < depth; d += Vec::W) {
            const int64_t lanes = least(Vec::W, depth - d);
            Vec r[Vec::W];
#pragma GCC unroll 16
            for (int i = 0; i < Vec::W; ++i) {
                r[i] = j + i < n ? load_some(src + (j + i) * src_step + d, lanes) : Vec::zero();
            }
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < Vec::W; ++i) {
                if (i < lanes) r[i].store(dst + (d + i) * kPanel + j);
            }
        }
    }
}

// dst[n][round_up(width, W)] = factor * src[n][width], zero beyond width.
template <class T>
static void load_rows(const T* src, int64_t src_step, int64_t n, int64_t width, float factor, float* dst,
                      int64_t dst_step) {
    const Vec f = Vec::set1(factor);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t d = 0; d < width; d += Vec::W) {
            (f * load_some(src + i * src_step + d, width - d)).store(dst + i * dst_step + d);
        }
    }
}

// dst[n][width] = factor * src[n][width] in the storage type.
template <class T>
static void store_row(const float* src, int64_t width, float factor, T* dst) {
    const Vec f = Vec::set1(factor);
    for (int64_t d = 0; d < width; d += Vec::W) store_some(dst + d, f * Vec::load(src + d), width - d);
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

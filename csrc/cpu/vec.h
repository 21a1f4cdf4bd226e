// A vector of float32 as wide as the instruction set has it, with one set of names for all of them.
// Only `*_kernel.cpp` files include this, each compiled in the namespace of its instruction set.
//
//   Vec::W                      lanes: 1, 8 or 16
//   load(p), load(p, n)         n lanes from float, bf16_t or f16_t; the rest are zero, nothing past p[n-1] is read
//   v.store(p), v.store(p, n)   rounds to nearest even; nothing past p[n-1] is written
//   fma(a, b, c)                a * b + c
//   max, min                    NaN in either operand gives NaN, as torch
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/dtype.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define DLPERF_INLINE inline __attribute__((always_inline))

namespace dlperf::DLPERF_ISA_NS {

static DLPERF_INLINE float to_float(float x) {
    return x;
}

static DLPERF_INLINE float to_float(bf16_t x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

static DLPERF_INLINE float to_float(f16_t x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#else
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float magnitude = float(mantissa) * 0x1p-24f;
        std::memcpy(&bits, &magnitude, 4);
        bits |= sign;
    }
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
#endif
}

template <class T>
static DLPERF_INLINE T from_float(float x);

template <>
DLPERF_INLINE float from_float<float>(float x) {
    return x;
}

template <>
DLPERF_INLINE bf16_t from_float<bf16_t>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <>
DLPERF_INLINE f16_t from_float<f16_t>(float x) {
#if defined(__F16C__)
    return {uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00)};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};
    if (magnitude < 0x38800000u) {  // below the smallest normal: let float addition round at 2^-24
        float value;
        std::memcpy(&value, &magnitude, 4);
        value += 0.5f;
        uint32_t rounded;
        std::memcpy(&rounded, &value, 4);
        return {uint16_t(sign | (rounded - 0x3f000000u))};
    }
    const uint32_t rebased = magnitude - (112u << 23);
    return {uint16_t(sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13))};
#endif
}

#if defined(__AVX512F__)

using Mask = __mmask16;

struct Vec {
    static constexpr int W = 16;
    __m512 v;

    static DLPERF_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
    static DLPERF_INLINE Vec set1(float x) { return {_mm512_set1_ps(x)}; }
    static DLPERF_INLINE Mask first(int n) { return Mask(_bzhi_u32(0xffffu, unsigned(n))); }

    static DLPERF_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static DLPERF_INLINE Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
    static DLPERF_INLINE Vec widen_bf16(__m256i h) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
    }
    static DLPERF_INLINE Vec load(const bf16_t* p) { return widen_bf16(_mm256_loadu_si256((const __m256i*)p)); }
    static DLPERF_INLINE Vec load(const bf16_t* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
    static DLPERF_INLINE Vec load(const f16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
    static DLPERF_INLINE Vec load(const f16_t* p, int n) {
        return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))};
    }

    // Integer rounding, not vcvtneps2bf16: that one flushes denormals, torch does not.
    DLPERF_INLINE __m256i narrow_bf16() const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
        const Mask nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
    }
    DLPERF_INLINE __m256i narrow_f16() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

    DLPERF_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
    DLPERF_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
    DLPERF_INLINE void store(bf16_t* p) const { _mm256_storeu_si256((__m256i*)p, narrow_bf16()); }
    DLPERF_INLINE void store(bf16_t* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow_bf16()); }
    DLPERF_INLINE void store(f16_t* p) const { _mm256_storeu_si256((__m256i*)p, narrow_f16()); }
    DLPERF_INLINE void store(f16_t* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow_f16()); }

    DLPERF_INLINE float sum() const { return _mm512_reduce_add_ps(v); }
    DLPERF_INLINE float max_value() const { return _mm512_reduce_max_ps(v); }  // no NaN expected
};

static DLPERF_INLINE Vec operator+(Vec a, Vec b) {
    return {_mm512_add_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator-(Vec a, Vec b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator*(Vec a, Vec b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator/(Vec a, Vec b) {
    return {_mm512_div_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
static DLPERF_INLINE Vec sqrt(Vec a) {
    return {_mm512_sqrt_ps(a.v)};
}
static DLPERF_INLINE Vec abs(Vec a) {
    return {_mm512_abs_ps(a.v)};
}
static DLPERF_INLINE Vec round(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static DLPERF_INLINE Mask operator<(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
static DLPERF_INLINE Mask operator<=(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ);
}
static DLPERF_INLINE Mask operator>(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ);
}
static DLPERF_INLINE Mask operator>=(Vec a, Vec b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ);
}
static DLPERF_INLINE Mask is_nan(Vec a) {
    return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
}
static DLPERF_INLINE Vec select(Mask m, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(m, no.v, yes.v)};
}
static DLPERF_INLINE Vec max(Vec a, Vec b) {
    return select(is_nan(a), a, {_mm512_max_ps(a.v, b.v)});
}
static DLPERF_INLINE Vec min(Vec a, Vec b) {
    return select(is_nan(a), a, {_mm512_min_ps(a.v, b.v)});
}
// 2^n for integral n in [-252, 254], exact down to denormals.
static DLPERF_INLINE Vec scale2(Vec x, Vec n) {
    return {_mm512_scalef_ps(x.v, n.v)};
}

#elif defined(__AVX2__)

struct Mask {
    __m256 m;
};

struct Vec {
    static constexpr int W = 8;
    __m256 v;

    static DLPERF_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
    static DLPERF_INLINE Vec set1(float x) { return {_mm256_set1_ps(x)}; }
    static DLPERF_INLINE __m256i first(int n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static DLPERF_INLINE __m128i load16(const void* p) { return _mm_loadu_si128((const __m128i*)p); }
    static DLPERF_INLINE __m128i load16(const void* p, int n) {
        alignas(16) uint16_t lanes[8] = {0};
        std::memcpy(lanes, p, size_t(n) * 2);
        return _mm_load_si128((const __m128i*)lanes);
    }
    static DLPERF_INLINE void store16(void* p, __m128i h, int n) {
        alignas(16) uint16_t lanes[8];
        _mm_store_si128((__m128i*)lanes, h);
        std::memcpy(p, lanes, size_t(n) * 2);
    }

    static DLPERF_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static DLPERF_INLINE Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
    static DLPERF_INLINE Vec widen_bf16(__m128i h) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
    }
    static DLPERF_INLINE Vec load(const bf16_t* p) { return widen_bf16(load16(p)); }
    static DLPERF_INLINE Vec load(const bf16_t* p, int n) { return widen_bf16(load16(p, n)); }
    static DLPERF_INLINE Vec load(const f16_t* p) { return {_mm256_cvtph_ps(load16(p))}; }
    static DLPERF_INLINE Vec load(const f16_t* p, int n) { return {_mm256_cvtph_ps(load16(p, n))}; }

    DLPERF_INLINE __m128i narrow_bf16() const {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
        const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
        const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(kept), 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    }
    DLPERF_INLINE __m128i narrow_f16() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

    DLPERF_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
    DLPERF_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
    DLPERF_INLINE void store(bf16_t* p) const { _mm_storeu_si128((__m128i*)p, narrow_bf16()); }
    DLPERF_INLINE void store(bf16_t* p, int n) const { store16(p, narrow_bf16(), n); }
    DLPERF_INLINE void store(f16_t* p) const { _mm_storeu_si128((__m128i*)p, narrow_f16()); }
    DLPERF_INLINE void store(f16_t* p, int n) const { store16(p, narrow_f16(), n); }

    DLPERF_INLINE float sum() const {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
    }
    DLPERF_INLINE float max_value() const {
        __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_max_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
    }
};

static DLPERF_INLINE Vec operator+(Vec a, Vec b) {
    return {_mm256_add_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec operator/(Vec a, Vec b) {
    return {_mm256_div_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
static DLPERF_INLINE Vec sqrt(Vec a) {
    return {_mm256_sqrt_ps(a.v)};
}
static DLPERF_INLINE Vec abs(Vec a) {
    return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
}
static DLPERF_INLINE Vec round(Vec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static DLPERF_INLINE Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
static DLPERF_INLINE Mask operator<=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
}
static DLPERF_INLINE Mask operator>(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)};
}
static DLPERF_INLINE Mask operator>=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)};
}
static DLPERF_INLINE Mask is_nan(Vec a) {
    return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)};
}
static DLPERF_INLINE Vec select(Mask m, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.v, yes.v, m.m)};
}
static DLPERF_INLINE Vec max(Vec a, Vec b) {
    return select(is_nan(a), a, {_mm256_max_ps(a.v, b.v)});
}
static DLPERF_INLINE Vec min(Vec a, Vec b) {
    return select(is_nan(a), a, {_mm256_min_ps(a.v, b.v)});
}
static DLPERF_INLINE Vec power2(__m256i n) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))};
}
// Two factors, so that each stays a normal number over the whole range of n.
static DLPERF_INLINE Vec scale2(Vec x, Vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
    return x * power2(half) * power2(_mm256_sub_epi32(whole, half));
}

#else

using Mask = bool;

struct Vec {
    static constexpr int W = 1;
    float v;

    static DLPERF_INLINE Vec zero() { return {0.0f}; }
    static DLPERF_INLINE Vec set1(float x) { return {x}; }
    template <class T>
    static DLPERF_INLINE Vec load(const T* p) {
        return {to_float(*p)};
    }
    template <class T>
    static DLPERF_INLINE Vec load(const T* p, int n) {
        return {n > 0 ? to_float(*p) : 0.0f};
    }
    template <class T>
    DLPERF_INLINE void store(T* p) const {
        *p = from_float<T>(v);
    }
    template <class T>
    DLPERF_INLINE void store(T* p, int n) const {
        if (n > 0) *p = from_float<T>(v);
    }
    DLPERF_INLINE float sum() const { return v; }
    DLPERF_INLINE float max_value() const { return v; }
};

static DLPERF_INLINE Vec operator+(Vec a, Vec b) {
    return {a.v + b.v};
}
static DLPERF_INLINE Vec operator-(Vec a, Vec b) {
    return {a.v - b.v};
}
static DLPERF_INLINE Vec operator*(Vec a, Vec b) {
    return {a.v * b.v};
}
static DLPERF_INLINE Vec operator/(Vec a, Vec b) {
    return {a.v / b.v};
}
static DLPERF_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {a.v * b.v + c.v};
}
static DLPERF_INLINE Vec sqrt(Vec a) {
    return {__builtin_sqrtf(a.v)};
}
static DLPERF_INLINE Vec abs(Vec a) {
    return {__builtin_fabsf(a.v)};
}
static DLPERF_INLINE Vec round(Vec a) {
    return {__builtin_rintf(a.v)};
}
static DLPERF_INLINE Mask operator<(Vec a, Vec b) {
    return a.v < b.v;
}
static DLPERF_INLINE Mask operator<=(Vec a, Vec b) {
    return a.v <= b.v;
}
static DLPERF_INLINE Mask operator>(Vec a, Vec b) {
    return a.v > b.v;
}
static DLPERF_INLINE Mask operator>=(Vec a, Vec b) {
    return a.v >= b.v;
}
static DLPERF_INLINE Mask is_nan(Vec a) {
    return a.v != a.v;
}
static DLPERF_INLINE Vec select(Mask m, Vec yes, Vec no) {
    return m ? yes : no;
}
static DLPERF_INLINE Vec max(Vec a, Vec b) {
    return (a.v > b.v || a.v != a.v) ? a : b;
}
static DLPERF_INLINE Vec min(Vec a, Vec b) {
    return (a.v < b.v || a.v != a.v) ? a : b;
}
static DLPERF_INLINE Vec scale2(Vec x, Vec n) {
    return {__builtin_ldexpf(x.v, int(n.v))};
}

#endif

// n lanes, or a whole vector where n >= W: what a loop's body and its tail share.
template <class T>
static DLPERF_INLINE Vec load_some(const T* p, int64_t n) {
    return n >= Vec::W ? Vec::load(p) : Vec::load(p, int(n));
}

template <class T>
static DLPERF_INLINE void store_some(T* p, Vec x, int64_t n) {
    if (n >= Vec::W) {
        x.store(p);
    } else {
        x.store(p, int(n));
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

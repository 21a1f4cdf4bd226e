// Elementary functions on Vec, within about 2 ulp over the whole range, infinities and denormals included; NaN gives
// NaN. Only `*_kernel.cpp` files include this. Polynomials: minimax fits of this project; derivations in
// docs/math/elementary.md.
#pragma once

#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {

#if defined(__AVX512F__)

// NaN stays NaN: min and max return their second operand where either is NaN.
static DLPERF_INLINE Vec clamp(Vec x, float lowest, float highest) {
    return {_mm512_min_ps(_mm512_set1_ps(highest), _mm512_max_ps(_mm512_set1_ps(lowest), x.v))};
}
// The larger of two numbers; where either is NaN, one of the two.
static DLPERF_INLINE Vec max_any(Vec a, Vec b) {
    return {_mm512_max_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec at_most(Vec x, float highest) {
    return {_mm512_min_ps(_mm512_set1_ps(highest), x.v)};
}
static DLPERF_INLINE Vec copysign(Vec magnitude, Vec sign) {
    const __m512i bit = _mm512_set1_epi32(int(0x80000000u));
    // 0xd8: take b where the mask c is set, else a
    return {_mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_castps_si512(magnitude.v), _mm512_castps_si512(sign.v), bit, 0xd8))};
}
// x = m * 2^e with m in [sqrt(1/2), sqrt(2)), for positive finite x.
static DLPERF_INLINE Vec split_exponent(Vec x, Vec& e) {
    const __m512 m = _mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const Mask high = _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.41421356f), _CMP_GE_OQ);
    const __m512 exponent = _mm512_getexp_ps(x.v);
    e = {_mm512_mask_add_ps(exponent, high, exponent, _mm512_set1_ps(1.0f))};
    return {_mm512_mask_mul_ps(m, high, m, _mm512_set1_ps(0.5f))};
}

// 1 / x for x >= 1 within 1 ulp; 0 from 2^126 on. Division has a fraction of the throughput.
static DLPERF_INLINE Vec reciprocal_above_one(Vec x) {
    const __m512 r = _mm512_rcp14_ps(x.v), missing = _mm512_fnmadd_ps(x.v, r, _mm512_set1_ps(1.0f));
    const Mask representable = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(0x1p126f), _CMP_NGE_UQ);
    return {_mm512_maskz_fmadd_ps(representable, missing, r, r)};
}

#elif defined(__AVX2__)

static DLPERF_INLINE Vec clamp(Vec x, float lowest, float highest) {
    return {_mm256_min_ps(_mm256_set1_ps(highest), _mm256_max_ps(_mm256_set1_ps(lowest), x.v))};
}
static DLPERF_INLINE Vec reciprocal_above_one(Vec x) {
    return Vec::set1(1.0f) / x;
}
static DLPERF_INLINE Vec max_any(Vec a, Vec b) {
    return {_mm256_max_ps(a.v, b.v)};
}
static DLPERF_INLINE Vec at_most(Vec x, float highest) {
    return {_mm256_min_ps(_mm256_set1_ps(highest), x.v)};
}
static DLPERF_INLINE Vec copysign(Vec magnitude, Vec sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
static DLPERF_INLINE Vec split_exponent(Vec x, Vec& e) {
    const Mask tiny = x < Vec::set1(0x1p-126f);
    const __m256i bits = _mm256_castps_si256(select(tiny, x * Vec::set1(0x1p24f), x).v);
    // Counted from sqrt(1/2), so that the fraction comes out around one.
    const __m256i shifted = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3));
    const __m256i exponent = _mm256_srai_epi32(shifted, 23);
    e = Vec{_mm256_cvtepi32_ps(exponent)} - select(tiny, Vec::set1(24.0f), Vec::zero());
    return {_mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)))};
}

#else

static DLPERF_INLINE Vec clamp(Vec x, float lowest, float highest) {
    return {x.v < lowest ? lowest : x.v > highest ? highest : x.v};
}
static DLPERF_INLINE Vec max_any(Vec a, Vec b) {
    return {a.v > b.v ? a.v : b.v};
}
static DLPERF_INLINE Vec at_most(Vec x, float highest) {
    return {x.v > highest ? highest : x.v};
}
static DLPERF_INLINE Vec reciprocal_above_one(Vec x) {
    return {1.0f / x.v};
}
static DLPERF_INLINE Vec copysign(Vec magnitude, Vec sign) {
    return {__builtin_copysignf(magnitude.v, sign.v)};
}
static DLPERF_INLINE Vec split_exponent(Vec x, Vec& e) {
    const bool tiny = x.v < 0x1p-126f;
    const float normal = tiny ? x.v * 0x1p24f : x.v;
    uint32_t bits;
    std::memcpy(&bits, &normal, 4);
    const int32_t exponent = int32_t(bits - 0x3f3504f3u) >> 23;
    bits -= uint32_t(exponent) << 23;
    e = {float(exponent) - (tiny ? 24.0f : 0.0f)};
    Vec m;
    std::memcpy(&m.v, &bits, 4);
    return m;
}

#endif

// c0 + c1 x + c2 x^2 + ...
static DLPERF_INLINE Vec polynomial(Vec, float c0) {
    return Vec::set1(c0);
}
template <class... Rest>
static DLPERF_INLINE Vec polynomial(Vec x, float c0, Rest... rest) {
    return fma(polynomial(x, rest...), x, Vec::set1(c0));
}

constexpr float kLog2e = 1.44269504f;
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * kLn2High is exact for |n| < 2^15

// x = n ln 2 + r with |r| <= ln(2) / 2, for |x| < 2^20. Adding 1.5 * 2^23 rounds to an integer.
static DLPERF_INLINE Vec reduce_ln2(Vec x, Vec& n) {
    const Vec rounder = Vec::set1(0x1.8p23f);
    n = fma(x, Vec::set1(kLog2e), rounder) - rounder;
    return fma(n, Vec::set1(-kLn2Low), fma(n, Vec::set1(-kLn2High), x));
}

// exp(x) for x in [-170, 170]; what float32 can't hold becomes infinity or, rounded, zero
static DLPERF_INLINE Vec exp_bounded(Vec x) {
    Vec n;
    const Vec r = reduce_ln2(x, n);
    const Vec p = polynomial(r, 0.49999994f, 0.166665196f, 0.0416683927f, 0.00836875569f, 0.00138145173f);
    return scale2(fma(p, r * r, r) + Vec::set1(1.0f), n);
}

static DLPERF_INLINE Vec exp(Vec x) {
    return exp_bounded(clamp(x, -104.0f, 89.0f));
}

// exp(x) - 1 without the cancellation near zero
static DLPERF_INLINE Vec expm1(Vec x) {
    const Vec one = Vec::set1(1.0f);
    Vec n;
    const Vec r = reduce_ln2(clamp(x, -26.0f, 89.0f), n);
    const Vec p = polynomial(r, 0.5f, 0.166666657f, 0.0416663587f, 0.00833338965f, 0.00139406847f, 0.000198458831f);
    return scale2(fma(p, r * r, r) + (one - scale2(one, Vec::zero() - n)), n);
}

// log(m 2^e + correction) for m in [sqrt(1/2), sqrt(2))
static DLPERF_INLINE Vec log_of_parts(Vec m, Vec e, Vec correction) {
    const Vec f = m - Vec::set1(1.0f), f2 = f * f;
    const Vec p = polynomial(f, 0.333333313f, -0.250008196f, 0.200012267f, -0.166233569f, 0.142017588f, -0.131601825f,
                             0.12761575f, -0.0763449445f);
    const Vec tail = fma(f2, fma(p, f, Vec::set1(-0.5f)), fma(e, Vec::set1(kLn2Low), correction));
    return fma(e, Vec::set1(kLn2High), f + tail);
}

static DLPERF_INLINE Vec log(Vec x) {
    const Vec infinity = Vec::set1(__builtin_inff());
    Vec e;
    const Vec m = split_exponent(x, e);
    const Vec finite = log_of_parts(m, e, Vec::zero());
    const Vec at_edges =
        select(x > Vec::zero(), x, select(x >= Vec::zero(), Vec::zero() - infinity, Vec::set1(__builtin_nanf(""))));
    return select(x > Vec::zero(), select(x < infinity, finite, x), at_edges);
}

// log(1 + x) for x >= 0: what rounding took from 1 + x is given back to first order.
static DLPERF_INLINE Vec log1p_positive(Vec x) {
    const Vec one = Vec::set1(1.0f), u = x + one;
    const Vec lost = select(x <= one, x - (u - one), one - (u - x));
    Vec e;
    const Vec m = split_exponent(u, e);
    return select(u < Vec::set1(__builtin_inff()), log_of_parts(m, e, lost * reciprocal_above_one(u)), u);
}

static DLPERF_INLINE Vec sigmoid(Vec x) {
    const Vec one = Vec::set1(1.0f);
    return reciprocal_above_one(one + exp(Vec::zero() - x));
}

// sigmoid(x), and 1 - sigmoid(x) without cancellation
static DLPERF_INLINE Vec sigmoid(Vec x, Vec& complement) {
    const Vec one = Vec::set1(1.0f);
    const Vec e = exp(Vec::zero() - abs(x)), large = reciprocal_above_one(one + e), small = e * large;
    complement = select(x > Vec::zero(), small, large);
    return select(x > Vec::zero(), large, small);
}

static DLPERF_INLINE Vec tanh(Vec x) {
    const Vec e = expm1(Vec::set1(-2.0f) * abs(x));
    return copysign(e * reciprocal_above_one(e + Vec::set1(2.0f)), x);
}

static DLPERF_INLINE Vec erf(Vec x) {
    const Vec one = Vec::set1(1.0f), a = abs(x), s = x * x;
    const Vec near = fma(x,
                         polynomial(s, 0.128379166f, -0.376126349f, 0.112836972f, -0.0268594995f, 0.00520128617f,
                                    -0.000814559811f, 8.38239139e-05f),
                         x);
    // -log(erfc(a)) about 1.5
    const Vec u = clamp(a, 0.0f, 4.0f) - Vec::set1(1.5f);
    const Vec q = polynomial(u, 3.38449216f, 3.50880122f, 0.892640591f, 0.0258167032f, -0.00601567188f, 0.00127978227f,
                             -0.000195937231f);
    const Vec far = copysign(one - exp(Vec::zero() - q), x);
    return select(a < Vec::set1(0.92f), near, far);
}

// The standard normal distribution function; `bell` becomes exp(-x^2 / 2).
// Relative error: 2 ulp, and where x < 0 the half ulp of x^2 / 2 besides.
static DLPERF_INLINE Vec normal_cdf(Vec x, Vec& bell) {
    const Vec one = Vec::set1(1.0f), a = at_most(abs(x), 15.0f);
    bell = exp_bounded(Vec::set1(-0.5f) * a * a);
    // exp(a^2 / 2) cdf(-a) as a polynomial in 1 / (1 + a / 4)
    const Vec t = reciprocal_above_one(fma(a, Vec::set1(0.25f), one)) - Vec::set1(0.5625f);
    const Vec tail = bell * polynomial(t, 0.117801636f, 0.410210758f, 0.617320955f, 0.70784843f, 0.579950869f,
                                       0.276561886f, -0.00869176257f, -0.100944839f, -0.0241313893f, 0.0333226174f);
    return select(x > Vec::zero(), one - tail, tail);
}

}  // namespace dlperf::DLPERF_ISA_NS

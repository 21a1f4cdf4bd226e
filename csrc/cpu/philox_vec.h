// Philox on vectors: 4 * Vec::W elements at a time, in element order, words bit-equal to philox.h's.
// Only `*_kernel.cpp` files include this.
#pragma once

#include "cpu/philox.h"
#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {

// Words as vectors of W 32-bit integers. Inside each 128-bit part of register j, word j of four blocks; interleave()
// turns that into element order. So block numbers go to lanes in an order that needs no crossing of those parts.
#if defined(__AVX512F__)

using Words = __m512i;

// Blocks per half: even lanes are computed apart from odd ones, since multiplication takes 32 bits to 64.
struct PhiloxHalf {
    __m512i c0, c1, c2, c3;
};

static DLPERF_INLINE void philox_round(PhiloxHalf& h, __m512i k0, __m512i k1) {
    const __m512i p0 = _mm512_mul_epu32(h.c0, _mm512_set1_epi64(kPhiloxMultiplier0));
    const __m512i p1 = _mm512_mul_epu32(h.c2, _mm512_set1_epi64(kPhiloxMultiplier1));
    h.c0 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), h.c1, k0, 0x96);  // a ^ b ^ c
    h.c2 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), h.c3, k1, 0x96);
    h.c1 = p1;
    h.c3 = p0;
}

// w[j], lane 4 i + k: word j of block (first + 4 k + i). counter.low names the first block.
static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words (&w)[4]) {
    const __m512i first = _mm512_set1_epi64(int64_t(counter.low));
    const __m512i even = _mm512_add_epi64(first, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11));
    const __m512i odd = _mm512_add_epi64(even, _mm512_set1_epi64(4));
    const __m512i high = _mm512_set1_epi64(int64_t(counter.high)), higher = _mm512_srli_epi64(high, 32);
    PhiloxHalf a{even, _mm512_srli_epi64(even, 32), high, higher}, b{odd, _mm512_srli_epi64(odd, 32), high, higher};
    uint32_t k0 = key.word[0], k1 = key.word[1];
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const __m512i v0 = _mm512_set1_epi64(k0), v1 = _mm512_set1_epi64(k1);
        philox_round(a, v0, v1);
        philox_round(b, v0, v1);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    // The odd lanes of the result take the even lanes of b.
    w[0] = _mm512_mask_shuffle_epi32(a.c0, 0xaaaa, b.c0, _MM_PERM_CCAA);
    w[1] = _mm512_mask_shuffle_epi32(a.c1, 0xaaaa, b.c1, _MM_PERM_CCAA);
    w[2] = _mm512_mask_shuffle_epi32(a.c2, 0xaaaa, b.c2, _MM_PERM_CCAA);
    w[3] = _mm512_mask_shuffle_epi32(a.c3, 0xaaaa, b.c3, _MM_PERM_CCAA);
}

// From word order to element order: v[j] becomes elements W j to W j + W - 1.
static DLPERF_INLINE void interleave(Words (&v)[4]) {
    const __m512i ab = _mm512_unpacklo_epi32(v[0], v[1]), AB = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i cd = _mm512_unpacklo_epi32(v[2], v[3]), CD = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(ab, cd);
    v[1] = _mm512_unpackhi_epi64(ab, cd);
    v[2] = _mm512_unpacklo_epi64(AB, CD);
    v[3] = _mm512_unpackhi_epi64(AB, CD);
}
static DLPERF_INLINE void interleave(Vec (&v)[4]) {
    Words w[4];
    for (int j = 0; j < 4; ++j) w[j] = _mm512_castps_si512(v[j].v);
    interleave(w);
    for (int j = 0; j < 4; ++j) v[j].v = _mm512_castsi512_ps(w[j]);
}

static DLPERF_INLINE Words top24(Words w) {
    return _mm512_srli_epi32(w, 8);
}
static DLPERF_INLINE Vec to_vec(Words w) {
    return {_mm512_cvtepi32_ps(w)};
}
static DLPERF_INLINE Mask at_least(Words w, uint32_t threshold) {
    return _mm512_cmpge_epi32_mask(w, _mm512_set1_epi32(int(threshold)));
}
static DLPERF_INLINE void store_words(uint32_t* p, Words w) {
    _mm512_storeu_si512(p, w);
}
// For 24-bit v: the quarter turn nearest to v / 2^24 turns, and how far v is from it, in 2^-24 turns.
static DLPERF_INLINE Words nearest_quarter(Words v, Words& rest) {
    const Words q = _mm512_srli_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(1 << 21)), 22);
    rest = _mm512_sub_epi32(v, _mm512_slli_epi32(q, 22));
    return q;
}
// sin and cos of q quarter turns plus an angle, from those of the angle
static DLPERF_INLINE void turn(Words q, Vec& sine, Vec& cosine) {
    const Mask odd = _mm512_test_epi32_mask(q, _mm512_set1_epi32(1));
    const Words sign = _mm512_set1_epi32(int(0x80000000u));
    const Vec s = select(odd, cosine, sine), c = select(odd, sine, cosine);
    const Words flip_s = _mm512_slli_epi32(q, 30),
                flip_c = _mm512_slli_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(1)), 30);
    // a ^ (b & c)
    sine = {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(s.v), flip_s, sign, 0x78))};
    cosine = {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(c.v), flip_c, sign, 0x78))};
}

#elif defined(__AVX2__)

using Words = __m256i;

struct PhiloxHalf {
    __m256i c0, c1, c2, c3;
};

static DLPERF_INLINE void philox_round(PhiloxHalf& h, __m256i k0, __m256i k1) {
    const __m256i p0 = _mm256_mul_epu32(h.c0, _mm256_set1_epi64x(kPhiloxMultiplier0));
    const __m256i p1 = _mm256_mul_epu32(h.c2, _mm256_set1_epi64x(kPhiloxMultiplier1));
    h.c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), h.c1), k0);
    h.c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), h.c3), k1);
    h.c1 = p1;
    h.c3 = p0;
}

// w[j], lane 4 i + k: word j of block (first + 2 k + i).
static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words (&w)[4]) {
    const __m256i first = _mm256_set1_epi64x(int64_t(counter.low));
    const __m256i even = _mm256_add_epi64(first, _mm256_setr_epi64x(0, 4, 1, 5));
    const __m256i odd = _mm256_add_epi64(even, _mm256_set1_epi64x(2));
    const __m256i high = _mm256_set1_epi64x(int64_t(counter.high)), higher = _mm256_srli_epi64(high, 32);
    PhiloxHalf a{even, _mm256_srli_epi64(even, 32), high, higher}, b{odd, _mm256_srli_epi64(odd, 32), high, higher};
    uint32_t k0 = key.word[0], k1 = key.word[1];
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const __m256i v0 = _mm256_set1_epi64x(k0), v1 = _mm256_set1_epi64x(k1);
        philox_round(a, v0, v1);
        philox_round(b, v0, v1);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    w[0] = _mm256_blend_epi32(a.c0, _mm256_slli_epi64(b.c0, 32), 0xaa);
    w[1] = _mm256_blend_epi32(a.c1, _mm256_slli_epi64(b.c1, 32), 0xaa);
    w[2] = _mm256_blend_epi32(a.c2, _mm256_slli_epi64(b.c2, 32), 0xaa);
    w[3] = _mm256_blend_epi32(a.c3, _mm256_slli_epi64(b.c3, 32), 0xaa);
}

static DLPERF_INLINE void interleave(Words (&v)[4]) {
    const __m256i ab = _mm256_unpacklo_epi32(v[0], v[1]), AB = _mm256_unpackhi_epi32(v[0], v[1]);
    const __m256i cd = _mm256_unpacklo_epi32(v[2], v[3]), CD = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(ab, cd);
    v[1] = _mm256_unpackhi_epi64(ab, cd);
    v[2] = _mm256_unpacklo_epi64(AB, CD);
    v[3] = _mm256_unpackhi_epi64(AB, CD);
}
static DLPERF_INLINE void interleave(Vec (&v)[4]) {
    Words w[4];
    for (int j = 0; j < 4; ++j) w[j] = _mm256_castps_si256(v[j].v);
    interleave(w);
    for (int j = 0; j < 4; ++j) v[j].v = _mm256_castsi256_ps(w[j]);
}

static DLPERF_INLINE Words top24(Words w) {
    return _mm256_srli_epi32(w, 8);
}
static DLPERF_INLINE Vec to_vec(Words w) {
    return {_mm256_cvtepi32_ps(w)};
}
static DLPERF_INLINE Mask at_least(Words w, uint32_t threshold) {
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(w, _mm256_set1_epi32(int(threshold) - 1)))};
}
static DLPERF_INLINE void store_words(uint32_t* p, Words w) {
    _mm256_storeu_si256((__m256i*)p, w);
}
static DLPERF_INLINE Words nearest_quarter(Words v, Words& rest) {
    const Words q = _mm256_srli_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(1 << 21)), 22);
    rest = _mm256_sub_epi32(v, _mm256_slli_epi32(q, 22));
    return q;
}
static DLPERF_INLINE void turn(Words q, Vec& sine, Vec& cosine) {
    const Mask odd = {_mm256_castsi256_ps(_mm256_slli_epi32(q, 31))};  // the blend looks at sign bits only
    const Words sign = _mm256_set1_epi32(int(0x80000000u));
    const Words flip_s = _mm256_and_si256(_mm256_slli_epi32(q, 30), sign);
    const Words flip_c = _mm256_and_si256(_mm256_slli_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(1)), 30), sign);
    const Vec s = select(odd, cosine, sine), c = select(odd, sine, cosine);
    sine = {_mm256_xor_ps(s.v, _mm256_castsi256_ps(flip_s))};
    cosine = {_mm256_xor_ps(c.v, _mm256_castsi256_ps(flip_c))};
}

#else

using Words = uint32_t;

static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words (&w)[4]) {
    const PhiloxWords words = philox(key, counter);
    for (int j = 0; j < 4; ++j) w[j] = words.word[j];
}
static DLPERF_INLINE void interleave(Words (&)[4]) {}
static DLPERF_INLINE void interleave(Vec (&)[4]) {}
static DLPERF_INLINE Words top24(Words w) {
    return w >> 8;
}
static DLPERF_INLINE Vec to_vec(Words w) {
    return {float(int32_t(w))};
}
static DLPERF_INLINE Mask at_least(Words w, uint32_t threshold) {
    return w >= threshold;
}
static DLPERF_INLINE void store_words(uint32_t* p, Words w) {
    *p = w;
}
static DLPERF_INLINE Words nearest_quarter(Words v, Words& rest) {
    const Words q = (v + (1u << 21)) >> 22;
    rest = v - (q << 22);
    return q;
}
static DLPERF_INLINE void turn(Words q, Vec& sine, Vec& cosine) {
    const Vec s = q & 1 ? cosine : sine, c = q & 1 ? sine : cosine;
    sine = {q & 2 ? -s.v : s.v};
    cosine = {(q + 1) & 2 ? -c.v : c.v};
}

#endif

// sin and cos of v / 2^24 turns, for 24-bit v
static DLPERF_INLINE void sincos_turns(Words v, Vec& sine, Vec& cosine) {
    Words rest;
    const Words quarter = nearest_quarter(v, rest);
    const Vec a = to_vec(rest) * Vec::set1(0x1p-24f * 6.28318531f), a2 = a * a;  // |a| <= pi / 4
    sine = fma(a * a2, polynomial(a2, -0.166666552f, 0.00833215564f, -0.00019514632f), a);
    cosine = fma(a2, polynomial(a2, -0.5f, 0.0416666232f, -0.00138867553f, 2.43896338e-05f), Vec::set1(1.0f));
    turn(quarter, sine, cosine);
}

// Box-Muller on two 24-bit integers: radius from u1 = (a + 1) / 2^24 in (0, 1], angle b / 2^24 turns.
static DLPERF_INLINE void box_muller(Words a, Words b, Vec& first, Vec& second) {
    Vec e;
    const Vec m = split_exponent(fma(to_vec(a), Vec::set1(0x1p-24f), Vec::set1(0x1p-24f)), e);
    const Vec radius = sqrt(Vec::set1(-2.0f) * log_of_parts(m, e, Vec::zero()));
    Vec sine, cosine;
    sincos_turns(b, sine, cosine);
    first = radius * cosine;
    second = radius * sine;
}

// Standard normals of the 4 * Vec::W elements from counter's first block on.
static DLPERF_INLINE void philox_normals(PhiloxKey key, PhiloxCounter counter, Vec (&out)[4]) {
    Words w[4];
    philox_words(key, counter, w);
    box_muller(top24(w[0]), top24(w[1]), out[0], out[1]);
    box_muller(top24(w[2]), top24(w[3]), out[2], out[3]);
    interleave(out);
}

// Their 24-bit integers: uniform * 2^24.
static DLPERF_INLINE void philox_integers(PhiloxKey key, PhiloxCounter counter, Words (&out)[4]) {
    philox_words(key, counter, out);
    interleave(out);
    for (int j = 0; j < 4; ++j) out[j] = top24(out[j]);
}

}  // namespace dlperf::DLPERF_ISA_NS

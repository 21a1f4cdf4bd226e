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

// Groups whose words are computed together: chains enough to hide the latency of a round.
constexpr int kPhiloxGroups = 2;

// w[4 g + j], lane 4 i + k: word j of block (first + 16 g + 4 k + i). counter.low names the first block.
template <int G>
static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words* w) {
    const __m512i first = _mm512_set1_epi64(int64_t(counter.low));
    const __m512i lanes = _mm512_add_epi64(first, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11));
    const __m512i high = _mm512_set1_epi64(int64_t(counter.high)), higher = _mm512_srli_epi64(high, 32);
    PhiloxHalf h[2 * G];  // of each group the even lanes, then the odd ones
#pragma GCC unroll 8
    for (int i = 0; i < 2 * G; ++i) {
        const __m512i low = _mm512_add_epi64(lanes, _mm512_set1_epi64(i / 2 * 16 + i % 2 * 4));
        h[i] = {low, _mm512_srli_epi64(low, 32), high, higher};
    }
    uint32_t k0 = key.word[0], k1 = key.word[1];
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const __m512i v0 = _mm512_set1_epi64(k0), v1 = _mm512_set1_epi64(k1);
#pragma GCC unroll 8
        for (int i = 0; i < 2 * G; ++i) philox_round(h[i], v0, v1);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    // The odd lanes of the result take the even lanes of the second half.
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
        const PhiloxHalf &a = h[2 * g], &b = h[2 * g + 1];
        w[4 * g] = _mm512_mask_shuffle_epi32(a.c0, 0xaaaa, b.c0, _MM_PERM_CCAA);
        w[4 * g + 1] = _mm512_mask_shuffle_epi32(a.c1, 0xaaaa, b.c1, _MM_PERM_CCAA);
        w[4 * g + 2] = _mm512_mask_shuffle_epi32(a.c2, 0xaaaa, b.c2, _MM_PERM_CCAA);
        w[4 * g + 3] = _mm512_mask_shuffle_epi32(a.c3, 0xaaaa, b.c3, _MM_PERM_CCAA);
    }
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
static DLPERF_INLINE Words load_words(const uint32_t* p) {
    return _mm512_loadu_si512(p);
}
// For v = w >> 8: x in [-1/2, 1/2) where v / 2^24 turns are a whole number of half turns and x of one.
static DLPERF_INLINE Vec rest_of_half_turns(Words w) {
    const Words kept = _mm512_and_si512(w, _mm512_set1_epi32(int(0xffffff00u)));
    return Vec{_mm512_cvtepi32_ps(_mm512_slli_epi32(kept, 1))} * Vec::set1(0x1p-32f);
}
// -x where that whole number is odd
static DLPERF_INLINE Vec negate_by_half_turns(Words w, Vec x) {
    const Words half = _mm512_add_epi32(w, _mm512_set1_epi32(1 << 30)), sign = _mm512_set1_epi32(int(0x80000000u));
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(x.v), half, sign, 0x78))};  // a ^ (b & c)
}
// -2 ln(((w >> 8) + 1) / 2^24): the number is m 2^e with m in [63/64, 63/32), and r = m / c - 1 for the sixteenth c
// nearest to m. Near one e = 0 and c = 1: there the error is small against the logarithm, not against one.
static DLPERF_INLINE Vec minus_two_log(Words w) {
    const __m512 inverse = _mm512_setr_ps(1.0f, 0.941176474f, 0.888888896f, 0.842105269f, 0.800000012f, 0.761904776f,
                                          0.727272749f, 0.695652187f, 0.666666687f, 0.639999986f, 0.615384638f,
                                          0.592592597f, 0.571428597f, 0.551724136f, 0.533333361f, 0.516129017f);
    // 2 ln(inverse)
    const __m512 twice_log =
        _mm512_setr_ps(0.0f, -0.121249236f, -0.23556605f, -0.343700498f, -0.446287066f, -0.543867409f, -0.636907399f,
                       -0.725810945f, -0.810930133f, -0.892574251f, -0.971015573f, -1.04649627f, -1.11923146f,
                       -1.18941426f, -1.25721717f, -1.32279706f);
    constexpr int kLowest = 0x3f7c0000;  // 63/64
    const __m512i n = _mm512_add_epi32(_mm512_srli_epi32(w, 8), _mm512_set1_epi32(1));
    const __m512i bits = _mm512_castps_si512(_mm512_cvtepi32_ps(n));
    const __m512i above = _mm512_sub_epi32(bits, _mm512_set1_epi32(kLowest + (24 << 23)));
    const Vec e = {_mm512_cvtepi32_ps(_mm512_srai_epi32(above, 23))};
    const __m512i fraction = _mm512_and_si512(above, _mm512_set1_epi32((1 << 23) - 1));
    const Vec m = {_mm512_castsi512_ps(_mm512_add_epi32(fraction, _mm512_set1_epi32(kLowest)))};
    const __m512i place = _mm512_srli_epi32(above, 19);  // the look-up reads its low four bits
    const Vec r = fma(m, Vec{_mm512_permutexvar_ps(place, inverse)}, Vec::set1(-1.0f));
    const Vec whole = fma(e, Vec::set1(-1.38629436f), Vec{_mm512_permutexvar_ps(place, twice_log)});
    return fma(r * r, polynomial(r, 1.0f, -0.666666667f, 0.5f), fma(r, Vec::set1(-2.0f), whole));
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

constexpr int kPhiloxGroups = 1;  // two halves fill the sixteen registers

// w[j], lane 4 i + k: word j of block (first + 2 k + i).
template <int G>
static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words* w) {
    static_assert(G == 1, "one group at a time");
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
static DLPERF_INLINE Words load_words(const uint32_t* p) {
    return _mm256_loadu_si256((const __m256i*)p);
}
static DLPERF_INLINE Vec rest_of_half_turns(Words w) {
    const Words kept = _mm256_and_si256(w, _mm256_set1_epi32(int(0xffffff00u)));
    return Vec{_mm256_cvtepi32_ps(_mm256_slli_epi32(kept, 1))} * Vec::set1(0x1p-32f);
}
static DLPERF_INLINE Vec negate_by_half_turns(Words w, Vec x) {
    const Words half = _mm256_add_epi32(w, _mm256_set1_epi32(1 << 30)), sign = _mm256_set1_epi32(int(0x80000000u));
    return {_mm256_xor_ps(x.v, _mm256_castsi256_ps(_mm256_and_si256(half, sign)))};
}

#else

using Words = uint32_t;

constexpr int kPhiloxGroups = 1;

template <int G>
static DLPERF_INLINE void philox_words(PhiloxKey key, PhiloxCounter counter, Words* w) {
    static_assert(G == 1, "one group at a time");
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
static DLPERF_INLINE Words load_words(const uint32_t* p) {
    return *p;
}
static DLPERF_INLINE Vec rest_of_half_turns(Words w) {
    return {float(int32_t((w & 0xffffff00u) << 1)) * 0x1p-32f};
}
static DLPERF_INLINE Vec negate_by_half_turns(Words w, Vec x) {
    return {(w + (1u << 30)) >> 31 ? -x.v : x.v};
}

#endif

#if !defined(__AVX512F__)
static DLPERF_INLINE Vec minus_two_log(Words w) {
    Vec e;
    const Vec m = split_exponent(fma(to_vec(top24(w)), Vec::set1(0x1p-24f), Vec::set1(0x1p-24f)), e);
    return Vec::set1(-2.0f) * log_of_parts(m, e, Vec::zero());
}
#endif

// Box-Muller on the top 24 bits of two words: radius from u = (a + 1) / 2^24 in (0, 1], angle b / 2^24 turns.
static DLPERF_INLINE void box_muller(Words a, Words b, Vec& first, Vec& second) {
    const Vec x = rest_of_half_turns(b), x2 = x * x;
    const Vec radius = negate_by_half_turns(b, sqrt(minus_two_log(a)));
    const Vec sine = x * polynomial(x2, 3.1415925f, -5.16770792f, 2.55004215f, -0.598097980f, 0.0773087442f);
    const Vec cosine = polynomial(x2, 1.0f, -4.93480206f, 4.05871010f, -1.33522153f, 0.234978274f, -0.0244586505f);
    first = radius * cosine;
    second = radius * sine;
}

// Elements that one call of philox_normals makes at most.
constexpr int64_t kNormals = 512;

// Standard normals of `count` elements from counter's first block on, with room for whole groups in `out`.
// In two sweeps through the nearest cache, so that neither waits for the other's long chains.
static inline void philox_normals(PhiloxKey key, PhiloxCounter counter, int64_t count, float* out) {
    constexpr int kWords = 4 * kPhiloxGroups, kStride = kWords * int(Vec::W);
    alignas(64) uint32_t buffer[kNormals];
    for (int64_t i = 0; i < count; i += kStride, counter.low += uint64_t(Vec::W) * kPhiloxGroups) {
        Words w[kWords];
        philox_words<kPhiloxGroups>(key, counter, w);
#pragma GCC unroll 8
        for (int j = 0; j < kWords; ++j) store_words(buffer + i + j * Vec::W, w[j]);
    }
    for (int64_t i = 0; i < count; i += 4 * Vec::W) {
        const uint32_t* w = buffer + i;
        Vec v[4];
        box_muller(load_words(w), load_words(w + Vec::W), v[0], v[1]);
        box_muller(load_words(w + 2 * Vec::W), load_words(w + 3 * Vec::W), v[2], v[3]);
        interleave(v);
        for (int j = 0; j < 4; ++j) v[j].store(out + i + j * Vec::W);
    }
}

// The 24-bit integers of 4 * Vec::W elements: uniform * 2^24.
static DLPERF_INLINE void philox_integers(PhiloxKey key, PhiloxCounter counter, Words (&out)[4]) {
    philox_words<1>(key, counter, out);
    interleave(out);
    for (int j = 0; j < 4; ++j) out[j] = top24(out[j]);
}

}  // namespace dlperf::DLPERF_ISA_NS

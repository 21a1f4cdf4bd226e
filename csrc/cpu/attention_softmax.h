// Rows of scores: masks, the running softmax, dropout. Only attention's `*_kernel.cpp` files include this.
#pragma once

#include "cpu/attention_tile.h"
#include "cpu/philox_vec.h"

namespace dlperf::DLPERF_ISA_NS::attention {

constexpr float kInfinity = __builtin_inff();

// NaN in x gives y; NaN in y gives NaN.
static DLPERF_INLINE Vec larger(Vec x, Vec y) {
#if defined(__AVX512F__)
    return {_mm512_max_ps(x.v, y.v)};
#elif defined(__AVX2__)
    return {_mm256_max_ps(x.v, y.v)};
#else
    return {x.v > y.v ? x.v : y.v};
#endif
}

// p * 2^n for n in [-126, 127]
static DLPERF_INLINE Vec times_power(Vec p, Vec n) {
#if defined(__AVX512F__)
    return {_mm512_scalef_ps(p.v, n.v)};
#elif defined(__AVX2__)
    return p * power2(_mm256_cvtps_epi32(n.v));
#else
    return scale2(p, n);
#endif
}

// exp(x) for x <= 0, within 2 ulp; 0 below 2^-125: denormal results take a slow path in hardware. NaN stays NaN.
static DLPERF_INLINE Vec exp_below(Vec x) {
    const Vec lowest = Vec::set1(-125.0f), exponent = x * Vec::set1(1.44269504f);
    const Vec y = larger(lowest, exponent), n = round(y), f = y - n;
    Vec p = Vec::set1(0.00132647273f);
    p = fma(p, f, Vec::set1(0.00967151299f));
    p = fma(p, f, Vec::set1(0.0555073358f));
    p = fma(p, f, Vec::set1(0.240222424f));
    p = fma(p, f, Vec::set1(0.693147004f));
    p = fma(p, f, Vec::set1(1.0f));
    return select(exponent < lowest, Vec::zero(), times_power(p, n));
}

static DLPERF_INLINE float exp_below(float x) {
    float lanes[Vec::W];
    exp_below(Vec::set1(x)).store(lanes);
    return lanes[0];
}

// x where the lane is below n, else `other`.
static DLPERF_INLINE Vec first_lanes(Vec x, int64_t n, Vec other) {
    if (n >= Vec::W) return x;
#if defined(__AVX512F__)
    return select(Vec::first(int(n)), x, other);
#elif defined(__AVX2__)
    return select(Mask{_mm256_castsi256_ps(Vec::first(int(n)))}, x, other);
#else
    return n > 0 ? x : other;
#endif
}

template <class M>
static void additive(const M* mask, int64_t step, int64_t n, float* out) {
    if (step == 1) {
        for (int64_t j = 0; j < n; j += Vec::W) load_some(mask + j, n - j).store(out + j);
    } else {
        for (int64_t j = 0; j < n; ++j) out[j] = to_float(mask[j * step]);
    }
}

// Keys k0 .. k0 + n of one query's mask, as what is added to its scores. `out` has room for whole vectors.
static inline void load_mask(const AttentionShape& s, const void* mask, int64_t b, int64_t h, int64_t q, int64_t k0,
                             int64_t n, float* out) {
    const int64_t at = b * s.mask[0] + h * s.mask[1] + q * s.mask[2] + k0 * s.mask[3], step = s.mask[3];
    switch (s.mask_kind) {
        case MaskKind::none:
            break;
        case MaskKind::boolean: {
            const uint8_t* m = static_cast<const uint8_t*>(mask) + at;
            for (int64_t j = 0; j < n; ++j) out[j] = m[j * step] ? 0.0f : -kInfinity;
            break;
        }
        case MaskKind::f32:
            additive(static_cast<const float*>(mask) + at, step, n, out);
            break;
        case MaskKind::bf16:
            additive(static_cast<const bf16_t*>(mask) + at, step, n, out);
            break;
        case MaskKind::f16:
            additive(static_cast<const f16_t*>(mask) + at, step, n, out);
            break;
    }
}

// The state of one query's softmax over the keys seen so far.
struct RunningSoftmax {
    float maximum = -kInfinity, sum = 0;
};

// Scores become exp(score - maximum), zero from n up to width. Returns what earlier sums are multiplied by.
static inline float softmax_row(float* s, int64_t n, int64_t width, const float* mask, RunningSoftmax& state) {
    const Vec low = Vec::set1(-kInfinity);
    Vec top[4] = {low, low, low, low};
    int64_t j = 0;
    if (mask) {
        for (; j < n; j += Vec::W) {
            const Vec x = first_lanes(Vec::load(s + j) + load_some(mask + j, n - j), n - j, low);
            x.store(s + j);
            top[0] = larger(x, top[0]);
        }
    } else {
        for (; j + 4 * Vec::W <= n; j += 4 * Vec::W) {
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u) top[u] = larger(Vec::load(s + j + u * Vec::W), top[u]);
        }
        for (; j < n; j += Vec::W) {
            const Vec x = first_lanes(Vec::load(s + j), n - j, low);
            x.store(s + j);
            top[0] = larger(x, top[0]);
        }
    }
    const float seen = larger(larger(top[0], top[1]), larger(top[2], top[3])).max_value();
    const float before = state.maximum, maximum = seen > before ? seen : before;
    const Vec base = Vec::set1(maximum == -kInfinity ? 0.0f : maximum);
    Vec sum = Vec::zero();
    for (j = 0; j < n; j += Vec::W) {
        const Vec p = exp_below(Vec::load(s + j) - base);
        p.store(s + j);
        sum = sum + p;
    }
    for (; j < width; j += Vec::W) Vec::zero().store(s + j);
    const float correction =
        maximum == before ? (maximum == kInfinity ? before - maximum : 1.0f) : exp_below(before - maximum);
    state.maximum = maximum;
    state.sum = state.sum * correction + sum.sum();
    return correction;
}

// P = exp(score - maximum - log_sum) from a row's saved statistics, zero from n up to width.
static inline void probabilities_row(float* s, int64_t n, int64_t width, const float* mask, const float* stats) {
    const Vec maximum = Vec::set1(stats[0]), log_sum = Vec::set1(stats[1]);
    int64_t j = 0;
    for (; j < n; j += Vec::W) {
        Vec x = Vec::load(s + j);
        if (mask) x = x + load_some(mask + j, n - j);
        first_lanes(exp_below((x - maximum) - log_sum), n - j, Vec::zero()).store(s + j);
    }
    for (; j < width; j += Vec::W) Vec::zero().store(s + j);
}

// What dropout multiplies a row's probabilities by, the same in forward and backward.
struct Dropout {
    bool on;
    PhiloxKey key;
    uint64_t offset;
    uint32_t threshold;
    float kept;

    Dropout(const AttentionShape& s, const int64_t* rng) : on(s.dropout_p > 0), key{}, offset(0) {
        threshold = dropout_threshold(s.dropout_p);
        kept = s.dropout_p < 1 ? float(1.0 / (1.0 - s.dropout_p)) : 0.0f;
        if (on) key = philox_key(uint64_t(rng[0])), offset = uint64_t(rng[1]);
    }

    // For n probabilities from `element` on, an index in [B, H, Sq, Sk]; zero from there to whole vectors.
    void load_factors(uint64_t element, int64_t n, float* factors) const {
        constexpr int64_t step = 4 * Vec::W;
        alignas(64) uint32_t words[kKeys + 4 + step];
        const int64_t skip = int64_t(element % 4);
        for (int64_t j = 0; j < skip + n; j += step) {
            Words w[4];
            philox_integers(key, philox_counter((element + uint64_t(j)) / 4, 0, 0, RandomStream::attention, offset), w);
            for (int i = 0; i < 4; ++i) store_words(words + j + i * Vec::W, w[i]);
        }
        for (int64_t j = 0; j < n; ++j) factors[j] = words[skip + j] >= threshold ? kept : 0.0f;
        for (int64_t j = n; j % Vec::W != 0; ++j) factors[j] = 0;
    }
};

static DLPERF_INLINE void scale_row(float* x, float by, int64_t n) {
    const Vec factor = Vec::set1(by);
    for (int64_t j = 0; j < n; j += Vec::W) (factor * Vec::load(x + j)).store(x + j);
}

static DLPERF_INLINE void multiply(float* x, const float* by, int64_t n) {
    for (int64_t j = 0; j < n; j += Vec::W) (Vec::load(x + j) * Vec::load(by + j)).store(x + j);
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

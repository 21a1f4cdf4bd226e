// Arithmetic and 16-byte memory access that kernels share.
#pragma once

#include <cmath>

#include "cuda/ptx.cuh"

namespace dlperf::cuda {

DLPERF_DEVICE float bits_to_float(uint32_t x) {
    union {
        uint32_t bits;
        float value;
    } u;
    u.bits = x;
    return u.value;
}

DLPERF_DEVICE uint32_t float_to_bits(float x) {
    union {
        float value;
        uint32_t bits;
    } u;
    u.value = x;
    return u.bits;
}

// Eight values, 16-byte aligned.
template <class T>
DLPERF_DEVICE void load8(float (&out)[8], const T* from) {
    const Chunk c = *reinterpret_cast<const Chunk*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = to_float(T{uint16_t(c.word[i])});
        out[2 * i + 1] = to_float(T{uint16_t(c.word[i] >> 16)});
    }
}

template <>
DLPERF_DEVICE void load8<float>(float (&out)[8], const float* from) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Chunk c = reinterpret_cast<const Chunk*>(from)[half];
#pragma unroll
        for (int i = 0; i < 4; ++i) out[half * 4 + i] = bits_to_float(c.word[i]);
    }
}

template <class T>
DLPERF_DEVICE void store8(T* to, const float (&value)[8]) {
    Chunk c;
#pragma unroll
    for (int i = 0; i < 4; ++i) c.word[i] = pack<T>(value[2 * i], value[2 * i + 1]);
    *reinterpret_cast<Chunk*>(to) = c;
}

template <>
DLPERF_DEVICE void store8<float>(float* to, const float (&value)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Chunk c;
#pragma unroll
        for (int i = 0; i < 4; ++i) c.word[i] = float_to_bits(value[half * 4 + i]);
        reinterpret_cast<Chunk*>(to)[half] = c;
    }
}

// What is not a number stays one, and minus infinity gives the limit. Formulas: docs/math/activation.md.
DLPERF_DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// 1 + erf(x), absolute error 1.5e-7 (Abramowitz & Stegun 1964, 7.1.26): far below what 16 bits hold, and short enough
// to stand in an unrolled epilogue.
DLPERF_DEVICE float one_plus_erf(float x) {
    const float t = 1.0f / (1.0f + 0.3275911f * fabsf(x));
    const float tail =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)))) *
        expf(-x * x);
    return x < 0.0f ? tail : 2.0f - tail;
}

DLPERF_DEVICE float activate(float x, Activation kind) {
    if (kind == Activation::relu) return x <= 0.0f ? 0.0f : x;
    float y;
    if (kind == Activation::gelu)
        y = 0.5f * x * one_plus_erf(x * 0.70710678f);
    else
        y = x * sigmoid(kind == Activation::silu ? x : 1.59576912f * (x + 0.044715f * x * x * x));
    return x == -INFINITY ? 0.0f : y;
}

template <int Count>
DLPERF_DEVICE void activate(float (&x)[Count], Activation kind) {
    if (kind == Activation::none) return;
#pragma unroll
    for (int i = 0; i < Count; ++i) x[i] = activate(x[i], kind);
}

// g act'(x). relu selects: an infinite g meets no zero.
DLPERF_DEVICE float activation_gradient(float g, float x, Activation kind) {
    if (kind == Activation::none) return g;
    if (kind == Activation::relu) return x <= 0.0f ? 0.0f : g;
    if (kind == Activation::gelu)
        return g * (0.5f * one_plus_erf(x * 0.70710678f) + x * expf(-0.5f * x * x) * 0.39894228f);
    const float u = kind == Activation::silu ? x : 1.59576912f * (x + 0.044715f * x * x * x);
    const float du = kind == Activation::silu ? x : 1.59576912f * x * (1.0f + 0.134145f * x * x);
    const float s = sigmoid(u);
    return x == -INFINITY ? 0.0f : g * (s + du * s * (1.0f - s));
}

DLPERF_DEVICE float warp_sum(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

}  // namespace dlperf::cuda

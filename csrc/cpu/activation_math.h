// Activations and their derivatives on Vec, conventions at kinks, NaN and infinity as torch's.
// Only `*_kernel.cpp` files include this. Formulas: docs/math/activation.md.
#pragma once

#include "cpu/activation.h"
#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {

constexpr float kInvSqrt2Pi = 0.398942280f;
constexpr float kGeluTanhScale = 0.797884561f;  // sqrt(2 / pi)
constexpr float kGeluTanhCubic = 0.044715f;
constexpr float kSoftplusThreshold = 20.0f;
constexpr float kMishLinear = 20.0f;  // tanh(softplus(x)) is 1 in float32 from here

// 2 sqrt(2/pi) (x + 0.044715 x^3): gelu_tanh(x) = x * sigmoid(of this)
static DLPERF_INLINE Vec gelu_tanh_argument(Vec x) {
    return x * Vec::set1(2.0f * kGeluTanhScale) * fma(x * x, Vec::set1(kGeluTanhCubic), Vec::set1(1.0f));
}

template <Act A>
static DLPERF_INLINE Vec activate(Vec x, float param) {
    [[maybe_unused]] const Vec zero = Vec::zero();
    if constexpr (A == Act::none) {
        return x;
    } else if constexpr (A == Act::relu) {
        return clamp(x, 0.0f, __builtin_inff());
    } else if constexpr (A == Act::relu6) {
        return clamp(x, 0.0f, 6.0f);
    } else if constexpr (A == Act::leaky_relu) {
        return select(x > zero, x, x * Vec::set1(param));
    } else if constexpr (A == Act::elu) {
        return select(x >= zero, x, expm1(x) * Vec::set1(param));
    } else if constexpr (A == Act::gelu) {
        Vec bell;
        return x * normal_cdf(x, bell);
    } else if constexpr (A == Act::gelu_tanh) {
        return x * sigmoid(gelu_tanh_argument(x));
    } else if constexpr (A == Act::silu) {
        return x * sigmoid(x);
    } else if constexpr (A == Act::sigmoid) {
        return sigmoid(x);
    } else if constexpr (A == Act::tanh) {
        return tanh(x);
    } else if constexpr (A == Act::hardsigmoid) {
        return clamp(x + Vec::set1(3.0f), 0.0f, 6.0f) * Vec::set1(1.0f / 6.0f);
    } else if constexpr (A == Act::hardswish) {
        return x * (clamp(x + Vec::set1(3.0f), 0.0f, 6.0f) * Vec::set1(1.0f / 6.0f));
    } else if constexpr (A == Act::softplus) {
        const Vec z = x * Vec::set1(param);
        return select(z > Vec::set1(kSoftplusThreshold), x, log1p_positive(exp(z)) / Vec::set1(param));
    } else {
        static_assert(A == Act::mish);
        const Vec e = exp(at_most(x, kMishLinear)), n = e * (e + Vec::set1(2.0f));
        return x * (n * reciprocal_above_one(n + Vec::set1(2.0f)));
    }
}

// True where the derivative is 0 or 1 or a constant by cases: the gradient is then selected, never multiplied by zero.
template <Act A>
constexpr bool kPiecewise =
    A == Act::none || A == Act::relu || A == Act::relu6 || A == Act::leaky_relu || A == Act::hardsigmoid;

// gy * act'(x)
template <Act A>
static DLPERF_INLINE Vec activate_backward(Vec gy, Vec x, float param);

// act'(x)
template <Act A>
static DLPERF_INLINE Vec activate_grad(Vec x, float param) {
    [[maybe_unused]] const Vec zero = Vec::zero(), one = Vec::set1(1.0f), two = Vec::set1(2.0f);
    if constexpr (kPiecewise<A>) {
        return activate_backward<A>(one, x, param);
    } else if constexpr (A == Act::elu) {
        return select(x > zero, one, exp(x) * Vec::set1(param));
    } else if constexpr (A == Act::gelu) {
        Vec bell;
        const Vec cdf = normal_cdf(x, bell);
        return fma(x, bell * Vec::set1(kInvSqrt2Pi), cdf);
    } else if constexpr (A == Act::gelu_tanh) {
        Vec complement;
        const Vec bounded = clamp(x, -60.0f, 60.0f);  // flat beyond; keeps 0 * infinity out
        const Vec s = sigmoid(gelu_tanh_argument(bounded), complement);
        const Vec slope =
            Vec::set1(2.0f * kGeluTanhScale) * fma(bounded * bounded, Vec::set1(3.0f * kGeluTanhCubic), one);
        return fma(x * (s * complement), slope, s);
    } else if constexpr (A == Act::silu) {
        Vec complement;
        const Vec s = sigmoid(x, complement);
        return s * fma(x, complement, one);
    } else if constexpr (A == Act::sigmoid) {
        Vec complement;
        const Vec s = sigmoid(x, complement);
        return s * complement;
    } else if constexpr (A == Act::tanh) {
        Vec complement;
        const Vec s = sigmoid(x * two, complement);
        return Vec::set1(4.0f) * (s * complement);
    } else if constexpr (A == Act::hardswish) {
        const Vec three = Vec::set1(3.0f);
        const Vec ramp = fma(x, Vec::set1(1.0f / 3.0f), Vec::set1(0.5f));
        return select(x <= zero - three, zero, select(x >= three, one, ramp));
    } else if constexpr (A == Act::softplus) {
        const Vec z = x * Vec::set1(param);
        return select(z > Vec::set1(kSoftplusThreshold), one, sigmoid(z));
    } else {
        static_assert(A == Act::mish);
        const Vec e = exp(at_most(x, kMishLinear)), n = e * (e + two);
        const Vec inverse = reciprocal_above_one(n + two);
        // tanh(softplus(x)) = n / (n + 2), and its derivative is 4 e (1 + e) / (n + 2)^2
        const Vec bent = fma(x, Vec::set1(4.0f) * (e * inverse) * ((e + one) * inverse), n * inverse);
        return select(x > Vec::set1(kMishLinear), one + (x - x), bent);
    }
}

template <Act A>
static DLPERF_INLINE Vec activate_backward(Vec gy, Vec x, float param) {
    const Vec zero = Vec::zero();
    if constexpr (A == Act::none) {
        return gy;
    } else if constexpr (A == Act::relu) {
        return select(x <= zero, zero, gy);
    } else if constexpr (A == Act::relu6) {
        return select(x <= zero, zero, select(x >= Vec::set1(6.0f), zero, gy));
    } else if constexpr (A == Act::leaky_relu) {
        return select(x > zero, gy, gy * Vec::set1(param));
    } else if constexpr (A == Act::hardsigmoid) {
        return select(abs(x) < Vec::set1(3.0f), gy * Vec::set1(1.0f / 6.0f), zero);
    } else {
        return gy * activate_grad<A>(x, param);
    }
}

// gy * act'(x) from the output y
template <Act A>
static DLPERF_INLINE Vec activate_backward_from_output(Vec gy, Vec y) {
    static_assert(derivative_from_output(A));
    const Vec one = Vec::set1(1.0f);
    if constexpr (A == Act::sigmoid) {
        return gy * ((one - y) * y);
    } else if constexpr (A == Act::tanh) {
        return gy * (one - y * y);
    } else {
        return activate_backward<A>(gy, y, 0.0f);
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

// Runs `...` with `constexpr Act A` naming the run-time value `act`.
#define DLPERF_ACT_CASE(name, ...)                       \
    case ::dlperf::Act::name: {                          \
        constexpr ::dlperf::Act A = ::dlperf::Act::name; \
        __VA_ARGS__;                                     \
        break;                                           \
    }
#define DLPERF_ACT_SWITCH(act, ...)               \
    switch (act) {                                \
        DLPERF_ACT_CASE(none, __VA_ARGS__)        \
        DLPERF_ACT_CASE(relu, __VA_ARGS__)        \
        DLPERF_ACT_CASE(relu6, __VA_ARGS__)       \
        DLPERF_ACT_CASE(leaky_relu, __VA_ARGS__)  \
        DLPERF_ACT_CASE(elu, __VA_ARGS__)         \
        DLPERF_ACT_CASE(gelu, __VA_ARGS__)        \
        DLPERF_ACT_CASE(gelu_tanh, __VA_ARGS__)   \
        DLPERF_ACT_CASE(silu, __VA_ARGS__)        \
        DLPERF_ACT_CASE(sigmoid, __VA_ARGS__)     \
        DLPERF_ACT_CASE(tanh, __VA_ARGS__)        \
        DLPERF_ACT_CASE(hardsigmoid, __VA_ARGS__) \
        DLPERF_ACT_CASE(hardswish, __VA_ARGS__)   \
        DLPERF_ACT_CASE(softplus, __VA_ARGS__)    \
        DLPERF_ACT_CASE(mish, __VA_ARGS__)        \
    }

// The normal distribution's upper tail where a result of 16 bits is all that is wanted: Phi(x) within 3e-7, by cubics
// on 32 stretches of |x| < 6, beyond which it is 0 and 1. Coefficients: interpolation at Chebyshev's nodes.
#pragma once

#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {

constexpr float kTailEnd = 6.0f, kTailStretches = 32.0f;

alignas(64) constexpr float kTail0[32] = {
    0.462653935f,    0.389259458f,    0.319624364f,    0.255831867f,
    0.199404776f,    0.151211992f,    0.111469686f,    0.0798250362f,
    0.0554960519f,   0.0374357998f,   0.0244908631f,   0.0155320186f,
    0.00954542123f,  0.00568278413f,  0.00327640818f,  0.00182890811f,
    0.000988192507f, 0.000516721688f, 0.000261430599f, 0.000127958265f,
    6.05797104e-05f, 2.77379495e-05f, 1.22816509e-05f, 5.258069e-06f,
    2.17640354e-06f, 8.70876249e-07f, 3.36853589e-07f, 1.25939096e-07f,
    4.55076439e-08f, 1.58922244e-08f, 5.36334932e-09f, 0.0f,
};
alignas(64) constexpr float kTail1[32] = {
    -0.0744736344f,   -0.0719009191f,   -0.0670190379f,   -0.0603106171f,
    -0.0523987859f,   -0.0439521931f,   -0.0355935805f,   -0.0278288089f,
    -0.0210062899f,   -0.0153086148f,   -0.0107709542f,   -0.00731651392f,
    -0.00479828333f,  -0.00303808041f,  -0.00185713847f,  -0.00109602616f,
    -0.000624495151f, -0.000343533233f, -0.000182448348f, -9.35497228e-05f,
    -4.63101824e-05f, -2.21330756e-05f, -1.02126469e-05f, -4.54952533e-06f,
    -1.9567035e-06f,  -8.12484359e-07f, -3.257137e-07f,   -1.260631e-07f,
    -4.71054129e-08f, -1.69935639e-08f, -5.91873395e-09f, 0.0f,
};
alignas(64) constexpr float kTail2[32] = {
    0.000653121795f, 0.00189177552f,  0.00293918373f,  0.00370354252f,
    0.00413788622f,  0.00424325978f,  0.00406233175f,  0.00366608542f,
    0.00313757174f,  0.00255673635f,  0.00198926823f,  0.00148080464f,
    0.00105623354f,  0.000722749566f, 0.000474876084f, 0.000299817038f,
    0.000182001502f, 0.00010627952f,  5.97252256e-05f, 3.23109161e-05f,
    1.68325969e-05f, 8.44641363e-06f, 4.08325968e-06f, 1.90211574e-06f,
    8.53952486e-07f, 3.69538981e-07f, 1.54160219e-07f, 6.20039557e-08f,
    2.40461588e-08f, 8.99271502e-09f, 3.24332472e-09f, 0.0f,
};
alignas(64) constexpr float kTail3[32] = {
    0.00043182823f,   0.000387384294f,  0.00030603254f,   0.00020107656f,
    8.85779227e-05f,  -1.60295112e-05f, -0.00010079897f,  -0.000158953466f,
    -0.000189162456f, -0.000194608117f, -0.000181324271f, -0.000156373615f,
    -0.000126328203f, -9.6310192e-05f,  -6.96307761e-05f, -4.79039008e-05f,
    -3.14385798e-05f, -1.97193676e-05f, -1.18383941e-05f, -6.81024221e-06f,
    -3.75756008e-06f, -1.99000374e-06f, -1.0122352e-06f,  -4.94788878e-07f,
    -2.32523021e-07f, -1.05096476e-07f, -4.57017038e-08f, -1.91260661e-08f,
    -7.70512099e-09f, -2.98876679e-09f, -1.11647902e-09f, 0.0f,
};

static DLPERF_INLINE Vec brief_normal_cdf(Vec x) {
#if DLPERF_ISA_LEVEL >= 2
    // NaN takes the last stretch; the caller's factor x makes it NaN again.
    const __m512 size = _mm512_abs_ps(x.v);
    const __m512 at = _mm512_min_ps(_mm512_mul_ps(size, _mm512_set1_ps(kTailStretches / kTailEnd)),
                                    _mm512_set1_ps(kTailStretches - 0.5f));
    const __m512i i = _mm512_cvttps_epi32(at);
    const __m512 t = _mm512_sub_ps(_mm512_sub_ps(at, _mm512_cvtepi32_ps(i)), _mm512_set1_ps(0.5f));
    const auto look = [&](const float* table) {
        return _mm512_permutex2var_ps(_mm512_load_ps(table), i, _mm512_load_ps(table + 16));
    };
    __m512 tail = _mm512_fmadd_ps(look(kTail3), t, look(kTail2));
    tail = _mm512_fmadd_ps(tail, t, look(kTail1));
    tail = _mm512_fmadd_ps(tail, t, look(kTail0));
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x.v));
    return {_mm512_mask_sub_ps(tail, __mmask16(~negative), _mm512_set1_ps(1.0f), tail)};
#else
    Vec bell;
    return normal_cdf(x, bell);
#endif
}

}  // namespace dlperf::DLPERF_ISA_NS

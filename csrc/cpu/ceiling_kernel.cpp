// DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/ceiling.h"

#include "cpu/gemm_tiles.h"
#include "cpu/parallel.h"
#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Independent chains: more than latency times ports, fewer than the registers.
#if defined(__AVX512F__)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

// To the compiler `x` may have any value from here on, and is used: no loop around it can be dropped.
template <class T>
DLPERF_INLINE void opaque(T& x) {
    asm volatile("" : "+x"(x));
}

// step(chain) is one instruction on one of the independent chains.
template <class Step>
DLPERF_INLINE void run_chains(int64_t iterations, const Step& step) {
    Vec acc[kChains];
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) acc[i] = Vec::set1(0.001f * float(i));
    for (int64_t it = 0; it < iterations; ++it) {
#pragma GCC unroll 24
        for (int i = 0; i < kChains; ++i) acc[i] = step(acc[i]);
    }
    Vec total = Vec::zero();
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) total = total + acc[i];
    opaque(total.v);
}

double fma_f32(int64_t iterations) {
    const int threads = omp_get_max_threads();
#pragma omp parallel num_threads(threads)
    {
        float factor = 0.999f, addend = 0.001f;
        opaque(factor), opaque(addend);
        const Vec a = Vec::set1(factor), b = Vec::set1(addend);
        run_chains(iterations, [&](Vec acc) { return fma(acc, a, b); });
    }
    return 2.0 * Vec::W * kChains * double(iterations) * threads;
}

#if DLPERF_ISA_LEVEL >= 4
double dot_bf16(int64_t iterations) {
    const int threads = omp_get_max_threads();
    constexpr int kProducts = 4;
#pragma omp parallel num_threads(threads)
    {
        TileScope scope;
        alignas(64) uint16_t values[512];
        for (uint16_t& v : values) v = 0x3000;  // 4.7e-10 as bfloat16
        alignas(64) float result[256];
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_loadd(4, values, 64);
        _tile_loadd(5, values, 64);
        for (int64_t it = 0; it < iterations; ++it) {
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 5);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 5);
        }
        _tile_stored(0, result, 64);
    }
    return 2.0 * 16 * 16 * 32 * kProducts * double(iterations) * threads;
}
#elif defined(__AVX512BF16__)
double dot_bf16(int64_t iterations) {
    const int threads = omp_get_max_threads();
#pragma omp parallel num_threads(threads)
    {
        __m512i a = _mm512_set1_epi16(0x3000), b = _mm512_set1_epi16(0x2f00);  // 4.7e-10 and 1.2e-10 as bfloat16
        opaque(a), opaque(b);
        run_chains(iterations, [&](Vec acc) { return Vec{_mm512_dpbf16_ps(acc.v, (__m512bh)a, (__m512bh)b)}; });
    }
    return 2.0 * 32 * kChains * double(iterations) * threads;
}
#endif

void copy(const float* src, float* dst, int64_t n) {
    parallel_for(
        n, 1 << 14,
        [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i += Vec::W) store_some(dst + i, load_some(src + i, end - i), end - i);
        },
        16);
}

void copy_streaming(const float* src, float* dst, int64_t n) {
#if defined(__AVX2__)
    if ((reinterpret_cast<uintptr_t>(src) | reinterpret_cast<uintptr_t>(dst)) % 64 == 0) {
        parallel_for(n / 16, 1 << 10, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin * 16; i < end * 16; i += Vec::W) {
#if defined(__AVX512F__)
                _mm512_stream_ps(dst + i, _mm512_load_ps(src + i));
#else
                    _mm256_stream_ps(dst + i, _mm256_load_ps(src + i));
#endif
            }
            _mm_sfence();
        });
        copy(src + n / 16 * 16, dst + n / 16 * 16, n % 16);
        return;
    }
#endif
    copy(src, dst, n);
}

void triad(const float* a, const float* b, float* dst, int64_t n) {
    parallel_for(
        n, 1 << 14,
        [&](int64_t begin, int64_t end) {
            const Vec three = Vec::set1(3.0f);
            for (int64_t i = begin; i < end; i += Vec::W) {
                store_some(dst + i, fma(three, load_some(b + i, end - i), load_some(a + i, end - i)), end - i);
            }
        },
        16);
}

}  // namespace

extern const CeilingKernels ceiling_kernels = {
    fma_f32,
#if defined(__AVX512BF16__)
    dot_bf16,
#else
    nullptr,
#endif
    copy,     copy_streaming, triad,
};

}  // namespace dlperf::DLPERF_ISA_NS

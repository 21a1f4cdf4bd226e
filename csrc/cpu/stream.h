// Stores past the caches, for outputs larger than what the next operator could find there.
// Only `*_kernel.cpp` files include this.
#pragma once

#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {

// Bytes of output from which not reading the lines to be overwritten is worth more than having them cached.
constexpr int64_t kStreamBytes = int64_t(48) << 20;

// The vector stores below need addresses aligned to themselves: elements until p is.
template <class T>
static DLPERF_INLINE int64_t until_aligned(const T* p) {
    return int64_t((64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof(T));
}

#if defined(__AVX512F__)
static DLPERF_INLINE void stream(float* p, Vec x) {
    _mm512_stream_ps(p, x.v);
}
static DLPERF_INLINE void stream(bf16_t* p, Vec x) {
    _mm256_stream_si256((__m256i*)p, x.narrow_bf16());
}
static DLPERF_INLINE void stream(f16_t* p, Vec x) {
    _mm256_stream_si256((__m256i*)p, x.narrow_f16());
}
static DLPERF_INLINE void stream_fence() {
    _mm_sfence();
}
#elif defined(__AVX2__)
static DLPERF_INLINE void stream(float* p, Vec x) {
    _mm256_stream_ps(p, x.v);
}
static DLPERF_INLINE void stream(bf16_t* p, Vec x) {
    _mm_stream_si128((__m128i*)p, x.narrow_bf16());
}
static DLPERF_INLINE void stream(f16_t* p, Vec x) {
    _mm_stream_si128((__m128i*)p, x.narrow_f16());
}
static DLPERF_INLINE void stream_fence() {
    _mm_sfence();
}
#else
template <class T>
static DLPERF_INLINE void stream(T* p, Vec x) {
    x.store(p);
}
static DLPERF_INLINE void stream_fence() {}
#endif

}  // namespace dlperf::DLPERF_ISA_NS

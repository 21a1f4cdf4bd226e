// Which inputs a pooling window covers, and which windows cover an input.
#pragma once

#include "cpu/parallel.h"
#include "cpu/pool.h"
#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

struct Window {
    int64_t begin, end;  // positions begin, begin + dilation, ... below end
    int64_t count;       // of an average: positions with the padding, where it counts
};

static DLPERF_INLINE Window window_of(const PoolShape& shape, const PoolAxis& axis, int64_t o) {
    if (shape.adaptive) {
        const int64_t begin = o * axis.in / axis.out, end = ((o + 1) * axis.in + axis.out - 1) / axis.out;
        return {begin, end, end - begin};
    }
    const int64_t start = o * axis.stride - axis.padding, stop = start + (axis.kernel - 1) * axis.dilation + 1;
    const int64_t skipped = start < 0 ? (axis.dilation - 1 - start) / axis.dilation : 0;
    const int64_t begin = start + skipped * axis.dilation, end = stop < axis.in ? stop : axis.in;
    const int64_t padded = axis.in + axis.padding;
    return {begin, end, shape.count_include_pad ? (stop < padded ? stop : padded) - start : end - begin};
}

static DLPERF_INLINE int64_t dilation_of(const PoolShape& shape, const PoolAxis& axis) {
    return shape.adaptive ? 1 : axis.dilation;
}

static DLPERF_INLINE float divisor_of(const PoolShape& shape, const Window& y, const Window& x) {
    return float(shape.divisor_override != 0 ? shape.divisor_override : y.count * x.count);
}

// Calls body(o) for each window o that covers position `i`, in ascending order.
template <class Body>
static DLPERF_INLINE void each_window_over(const PoolShape& shape, const PoolAxis& axis, int64_t i, const Body& body) {
    if (shape.adaptive) {
        const int64_t end = ((i + 1) * axis.out + axis.in - 1) / axis.in;
        for (int64_t o = i * axis.out / axis.in; o < end; ++o) body(o);
        return;
    }
    for (int64_t k = axis.kernel - 1; k >= 0; --k) {
        const int64_t start = i + axis.padding - k * axis.dilation;
        if (start >= 0 && start % axis.stride == 0 && start / axis.stride < axis.out) body(start / axis.stride);
    }
}

// Integers carried in the bits of a Vec: moved and selected, never computed with.
static DLPERF_INLINE Vec bits_of(int32_t i) {
    float out;
    std::memcpy(&out, &i, 4);
    return Vec::set1(out);
}

#if defined(__AVX512F__)
static DLPERF_INLINE Mask same_bits(Vec a, Vec b) {
    return _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v));
}
// Whether v takes over from best as torch has it: greater, or NaN.
static DLPERF_INLINE Mask wins(Vec v, Vec best) {
    return (v > best) | is_nan(v);
}
#elif defined(__AVX2__)
static DLPERF_INLINE Mask same_bits(Vec a, Vec b) {
    return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
}
static DLPERF_INLINE Mask wins(Vec v, Vec best) {
    return {_mm256_or_ps((v > best).m, is_nan(v).m)};
}
#else
static DLPERF_INLINE Mask same_bits(Vec a, Vec b) {
    return std::memcmp(&a.v, &b.v, 4) == 0;
}
static DLPERF_INLINE Mask wins(Vec v, Vec best) {
    return v > best || is_nan(v);
}
#endif

// Runs body(i) over units of `work` elements each.
template <class Body>
static void for_units(int64_t units, int64_t work, const Body& body) {
    parallel_for(units, (16 * 1024) / (work + 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) body(i);
    });
}

// Channels that one unit takes: all, unless there are too few other units to go round.
static inline int64_t channel_block(const PoolShape& shape, int64_t units) {
    return units >= 4 * int64_t(omp_get_max_threads()) || shape.c <= 64 ? shape.c : 64;
}

}  // namespace
}  // namespace dlperf::DLPERF_ISA_NS

// Spans of memory taken by whole vectors and one shorter last one, and the sums that norms need over them.
// Only `*_kernel.cpp` files include this.
#pragma once

#include "cpu/vec.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"

// After a lambda's parameters: the loop that it is the body of must not call it.
#define DLPERF_LAMBDA __attribute__((always_inline))

// For functions that a parallel region calls: without it a weak reference to the exception machinery appears.
#define DLPERF_NOTHROW __attribute__((nothrow))

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Both offer the same operations, so that one loop body serves the vectors inside a span and its tail.
struct WholeVector {
    template <class T>
    DLPERF_INLINE Vec load(const T* p) const {
        return Vec::load(p);
    }
    template <class T>
    DLPERF_INLINE void store(T* p, Vec x) const {
        x.store(p);
    }
    DLPERF_INLINE Vec keep(Vec x) const { return x; }
};

alignas(64) static const float kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct PartVector {
    int n;
    template <class T>
    DLPERF_INLINE Vec load(const T* p) const {
        return Vec::load(p, n);
    }
    template <class T>
    DLPERF_INLINE void store(T* p, Vec x) const {
        x.store(p, n);
    }
    // Zero in the lanes past the end.
    DLPERF_INLINE Vec keep(Vec x) const {
        return select(Vec::load(kLaneNumbers) < Vec::set1(float(n)), x, Vec::zero());
    }
};

// body(i, lanes, slot): slot counts 0..3 round, for independent accumulators.
template <class Body>
static DLPERF_INLINE void for_span(int64_t length, const Body& body) {
    constexpr int64_t W = Vec::W;
    int64_t i = 0;
    for (; i + 4 * W <= length; i += 4 * W) {
        body(i, WholeVector{}, 0);
        body(i + W, WholeVector{}, 1);
        body(i + 2 * W, WholeVector{}, 2);
        body(i + 3 * W, WholeVector{}, 3);
    }
    for (; i + W <= length; i += W) body(i, WholeVector{}, 0);
    if (W > 1 && i < length) body(i, PartVector{int(length - i)}, 1);
}

// Elements that are summed in float32 before they join a float64 total.
constexpr int64_t kSumSpan = 4096;

// Calls body(begin, length) for consecutive pieces of at most kSumSpan.
template <class Body>
static DLPERF_INLINE void for_pieces(int64_t total, const Body& body) {
    for (int64_t begin = 0; begin < total; begin += kSumSpan) {
        body(begin, total - begin < kSumSpan ? total - begin : kSumSpan);
    }
}

struct Sum4 {
    Vec part[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    DLPERF_INLINE float total() const { return ((part[0] + part[1]) + (part[2] + part[3])).sum(); }
};

// Count, mean and sum of squared deviations, merged pairwise (Chan, Golub & LeVeque 1979).
struct Moments {
    double count = 0, mean = 0, m2 = 0;
    DLPERF_INLINE void add(double n, double other_mean, double other_m2) {
        if (n == 0) return;
        const double both = count + n, delta = other_mean - mean;
        mean += delta * (n / both);
        m2 += other_m2 + delta * delta * (count * n / both);
        count = both;
    }
    DLPERF_INLINE double rstd(double eps) const { return 1.0 / __builtin_sqrt(m2 / count + eps); }
};

template <class T>
static void add_moments(Moments& moments, const T* x, int64_t n) {
    for_pieces(n, [&](int64_t begin, int64_t length) {
        const T* p = x + begin;
        Sum4 sum;
        for_span(length, [&](int64_t i, auto lanes, int slot)
                             DLPERF_LAMBDA { sum.part[slot] = sum.part[slot] + lanes.load(p + i); });
        const float mean = sum.total() / float(length);
        const Vec center = Vec::set1(mean);
        Sum4 first, second;
        for_span(length, [&](int64_t i, auto lanes, int slot) DLPERF_LAMBDA {
            const Vec d = lanes.keep(lanes.load(p + i) - center);
            first.part[slot] = first.part[slot] + d;
            second.part[slot] = fma(d, d, second.part[slot]);
        });
        // What rounding left in the mean is taken out to first order.
        const double left = first.total(), count = double(length);
        moments.add(count, mean + left / count, second.total() - left * left / count);
    });
}

static DLPERF_INLINE float load_as(const void* p, DType dtype, int64_t i) {
    if (dtype == DType::bf16) return to_float(((const bf16_t*)p)[i]);
    if (dtype == DType::f16) return to_float(((const f16_t*)p)[i]);
    return ((const float*)p)[i];
}

static DLPERF_INLINE void store_as(void* p, DType dtype, int64_t i, double x) {
    if (dtype == DType::bf16) {
        ((bf16_t*)p)[i] = from_float<bf16_t>(float(x));
    } else if (dtype == DType::f16) {
        ((f16_t*)p)[i] = from_float<f16_t>(float(x));
    } else {
        ((float*)p)[i] = float(x);
    }
}

}  // namespace
}  // namespace dlperf::DLPERF_ISA_NS

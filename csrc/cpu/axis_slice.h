// Reductions over the middle axis of a dense [outer, dim, inner], written once for both ways that vectors can lie:
// along the axis where inner is 1 (RowSlice), across neighbouring rows where it is not (ColumnSlice). Only
// `*_kernel.cpp` files include this.
#pragma once

#include "cpu/parallel.h"
#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

alignas(64) static const float kAxisLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct AllLanes {
    template <class T>
    DLPERF_INLINE Vec load(const T* p, float) const {
        return Vec::load(p);
    }
    template <class T>
    DLPERF_INLINE void store(T* p, Vec v) const {
        v.store(p);
    }
    DLPERF_INLINE Vec keep(Vec v) const { return v; }
};

struct SomeLanes {
    int count;
    // `missing` in the lanes past the end
    template <class T>
    DLPERF_INLINE Vec load(const T* p, float missing) const {
        return select(Vec::load(kAxisLanes) < Vec::set1(float(count)), Vec::load(p, count), Vec::set1(missing));
    }
    template <class T>
    DLPERF_INLINE void store(T* p, Vec v) const {
        v.store(p, count);
    }
    // Zero in the lanes past the end
    DLPERF_INLINE Vec keep(Vec v) const {
        return select(Vec::load(kAxisLanes) < Vec::set1(float(count)), v, Vec::zero());
    }
};

// Accumulators of a slice, one per slot
struct Slots {
    Vec v[4];
    static DLPERF_INLINE Slots all(float x) { return {{Vec::set1(x), Vec::set1(x), Vec::set1(x), Vec::set1(x)}}; }
};

// One row whose dim elements are neighbours.
struct RowSlice {
    int64_t dim;
    static constexpr int rows = 1;
    static constexpr int64_t stride = 1;  // from one element of the row to the next

    // body(at, lanes, i, slot): element i of the row lies `at` from the slice's base, and the vector's others follow
    // it. slot counts 0 to 3 round, for independent accumulators.
    template <class Body>
    DLPERF_INLINE void each(const Body& body) const {
        constexpr int64_t W = Vec::W;
        int64_t i = 0;
        for (; i + 4 * W <= dim; i += 4 * W) {
            for (int slot = 0; slot < 4; ++slot) body(i + slot * W, AllLanes{}, i + slot * W, slot);
        }
        for (; i + W <= dim; i += W) body(i, AllLanes{}, i, 0);
        if (i < dim) body(i, SomeLanes{int(dim - i)}, i, 1);
    }
    DLPERF_INLINE Vec total(const Slots& s) const { return Vec::set1(((s.v[0] + s.v[1]) + (s.v[2] + s.v[3])).sum()); }
    DLPERF_INLINE Vec largest(const Slots& s) const {
        return Vec::set1(max_any(max_any(s.v[0], s.v[1]), max_any(s.v[2], s.v[3])).max_value());
    }
    // What depends on i alone, and what depends on the row alone
    template <class Lanes>
    DLPERF_INLINE Vec along(const float* p, int64_t i, Lanes lanes) const {
        return lanes.load(p + i, 0.0f);
    }
    template <class T>
    DLPERF_INLINE Vec per_row(const T* p) const {
        return Vec::set1(to_float(*p));
    }
};

// Up to Vec::W neighbouring rows, a lane each.
struct ColumnSlice {
    int64_t dim, stride;
    int rows;

    template <class Body>
    DLPERF_INLINE void each(const Body& body) const {
        if (rows == Vec::W) {
            each(body, AllLanes{});
        } else {
            each(body, SomeLanes{rows});
        }
    }
    template <class Body, class Lanes>
    DLPERF_INLINE void each(const Body& body, Lanes lanes) const {
        int64_t i = 0;
        for (; i + 4 <= dim; i += 4) {
            for (int slot = 0; slot < 4; ++slot) body((i + slot) * stride, lanes, i + slot, slot);
        }
        for (; i < dim; ++i) body(i * stride, lanes, i, 0);
    }
    DLPERF_INLINE Vec total(const Slots& s) const { return (s.v[0] + s.v[1]) + (s.v[2] + s.v[3]); }
    DLPERF_INLINE Vec largest(const Slots& s) const {
        return max_any(max_any(s.v[0], s.v[1]), max_any(s.v[2], s.v[3]));
    }
    template <class Lanes>
    DLPERF_INLINE Vec along(const float* p, int64_t i, Lanes) const {
        return Vec::set1(p[i]);
    }
    template <class T>
    DLPERF_INLINE Vec per_row(const T* p) const {
        return load_some(p, rows);
    }
};

constexpr int64_t kSliceMinPerThread = 1 << 13;  // elements

// body(slice, base, row): the slice's first element lies at `base`, its first row is number `row`.
template <class Body>
static inline void for_slices(int64_t outer, int64_t dim, int64_t inner, const Body& body) {
    if (inner == 1) {
        parallel_for(outer, kSliceMinPerThread / (dim + 1) + 1, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) body(RowSlice{dim}, row * dim, row);
        });
        return;
    }
    const int64_t columns = (inner + Vec::W - 1) / Vec::W;
    parallel_for(outer * columns, kSliceMinPerThread / (dim * Vec::W + 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t o = unit / columns, first = unit % columns * Vec::W, left = inner - first;
            const ColumnSlice slice{dim, inner, left < Vec::W ? int(left) : Vec::W};
            body(slice, o * dim * inner + first, o * inner + first);
        }
    });
}

// The largest element of each row; where one is NaN, anything.
template <class S, class T>
static DLPERF_INLINE Vec slice_max(const S& slice, const T* x) {
    const float lowest = -__builtin_inff();
    Slots largest = Slots::all(lowest);
    slice.each([&](int64_t at, auto lanes, int64_t, int slot) {
        largest.v[slot] = max_any(lanes.load(x + at, lowest), largest.v[slot]);
    });
    return slice.largest(largest);
}

// sum(exp(x - maximum)) of each row
template <class S, class T>
static DLPERF_INLINE Vec slice_exp_sum(const S& slice, const T* x, Vec maximum) {
    Slots sum = Slots::all(0.0f);
    slice.each([&](int64_t at, auto lanes, int64_t, int slot) {
        sum.v[slot] = sum.v[slot] + exp(lanes.load(x + at, -__builtin_inff()) - maximum);
    });
    return slice.total(sum);
}

}  // namespace
}  // namespace dlperf::DLPERF_ISA_NS

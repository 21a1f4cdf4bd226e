// How per-channel reductions over [n, c, s] are cut up among threads, shared by the batch-norm kernels.
//
// Channels last: memory is rows of c values. Narrow rows are folded, `fold` of them to one row of `width`
// pseudo-channels, so that vectors are full; what the fold leaves over is one shorter last row.
// Channels first: memory is planes of s values, cut into segments; an item is (image, segment), all channels.
#pragma once

#include "cpu/batch_norm.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"
#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kChunkRows = 64;            // rows summed in float32 before they join the float64 sums
constexpr int64_t kChunkSpan = 1024;          // the same for values of a plane
constexpr int64_t kSegment = 4096;            // the part of a plane that a thread takes at a time
constexpr int64_t kMinPerThread = 16 * 1024;  // elements

struct ChannelView {
    int64_t n, c, s;
    bool channels_last;
    int64_t fold, width, padded;  // padded: width rounded up to whole vectors
    int64_t rows, partial;        // whole rows, and the length of the shorter one after them
    int64_t segments, items;      // channels first
    int parts, item_parts, channel_parts;

    explicit ChannelView(const BatchNormShape& shape)
        : n(shape.n), c(shape.c), s(shape.s), channels_last(shape.channels_last || shape.s == 1) {
        const int64_t count = n * s;
        fold = 1;
        if (channels_last && c < 256 && (c % 16 != 0 || c < 64)) {
            int64_t multiple = 16;
            while (multiple > 1 && c * (multiple / 2) % 16 == 0) multiple /= 2;
            while (c * multiple < 64) multiple *= 2;
            if (count >= 16 * multiple) fold = multiple;
        }
        width = c * fold;
        padded = (width + 15) / 16 * 16;
        rows = count / fold;
        partial = count % fold * c;
        segments = s <= 2 * kSegment ? 1 : (s + kSegment - 1) / kSegment;
        items = channels_last ? rows : n * segments;

        const int64_t most = omp_in_parallel() ? 1 : omp_get_max_threads();
        const int64_t useful = count * c / kMinPerThread;
        parts = int(useful < 1 ? 1 : useful < most ? useful : most);
        const bool even = items % parts == 0 && (!channels_last || items >= 4 * parts);
        const bool by_items = even || items >= 8 * parts || width < 64 * parts;
        item_parts = by_items ? int(items < 1 ? 1 : items < parts ? items : parts) : 1;
        channel_parts = by_items ? 1 : parts;
        parts = item_parts * channel_parts;
    }

    Range item_range(int part) const { return split(items, item_parts, part / channel_parts); }
    Range channel_range(int part) const { return split(width, channel_parts, part % channel_parts, 64); }
    bool has_partial(int part) const { return partial > 0 && part / channel_parts == item_parts - 1; }
    Range segment(int64_t item) const { return split(s, segments, item % segments, 16); }

    // Elements of pseudo-channel `index` in the share of `item_part`.
    int64_t count(int item_part, int64_t index) const {
        const Range r = split(items, item_parts, item_part);
        if (channels_last) return r.end - r.begin + (item_part == item_parts - 1 && index < partial);
        int64_t total = (r.end - r.begin) / segments * s;
        for (int64_t i = r.begin + (r.end - r.begin) / segments * segments; i < r.end; ++i) {
            total += segment(i).end - segment(i).begin;
        }
        return total;
    }
};

// Float64 sums and float32 scratch of one part, each `padded` long; coefficients are shared by all parts.
struct Workspace {
    char* base;
    int64_t padded;
    int parts;

    Workspace(void* memory, const ChannelView& view)
        : base((char*)((uintptr_t(memory) + 63) / 64 * 64)), padded(view.padded), parts(view.parts) {}
    static int64_t bytes(const ChannelView& view) {
        return 64 + view.padded * (view.parts * int64_t(2 * sizeof(double) + 3 * sizeof(float)) + 4 * sizeof(float));
    }
    // `item_part`s sharing channels have their own; parts that split channels share one.
    double* sum(int item_part, int which) const { return (double*)base + (2 * item_part + which) * padded; }
    float* scratch(int item_part, int which) const {
        return (float*)((double*)base + 2 * parts * padded) + (3 * item_part + which) * padded;
    }
    float* coefficient(int which) const { return scratch(parts, 0) + which * padded; }
};

// The whole vectors of a span, and its last, shorter one: one body serves both.
struct Full {
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

// Of whole vectors alone, at addresses that are multiples of them: stores go past the caches.
struct Streamed : Full {
    template <class T>
    DLPERF_INLINE void store(T* p, Vec x) const {
        stream(p, x);
    }
};

alignas(64) static const float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct Tail {
    int n;
    template <class T>
    DLPERF_INLINE Vec load(const T* p) const {
        return Vec::load(p, n);
    }
    template <class T>
    DLPERF_INLINE void store(T* p, Vec x) const {
        x.store(p, n);
    }
    // Zero past the end.
    DLPERF_INLINE Vec keep(Vec x) const { return select(Vec::load(kLanes) < Vec::set1(float(n)), x, Vec::zero()); }
};

template <class Body>
static DLPERF_INLINE void for_vectors(int64_t length, const Body& body) {
    int64_t i = 0;
    for (; i + Vec::W <= length; i += Vec::W) body(i, Full{});
    if (Vec::W > 1 && i < length) body(i, Tail{int(length - i)});
}

// Whole vectors alone, stored past the caches.
template <class Body>
static DLPERF_INLINE void for_streamed(int64_t length, const Body& body) {
    for (int64_t i = 0; i < length; i += Vec::W) body(i, Streamed{});
}

// Whether a result is larger than what the next operator finds in the caches, and has whole rows of vectors: then it is
// written past them, without reading the lines first. Results of 13 MB in ResNet-50's training gain nothing.
template <class T>
static inline bool streams_rows(const ChannelView& view, const T* out) {
    constexpr int64_t kLeastBytes = int64_t(16) << 20;
    return view.channels_last && view.width % 16 == 0 && view.partial == 0 && uintptr_t(out) % 64 == 0 &&
           view.rows * view.width * int64_t(sizeof(T)) >= kLeastBytes;
}

// Per-channel coefficients as a span sees them: one per element along a row, or one for a whole plane.
struct AlongRow {
    const float* values;
    DLPERF_INLINE Vec at(int64_t i) const { return Vec::load(values + i); }
};

struct OnPlane {
    Vec value;
    OnPlane(const float* values, int64_t channel) : value(Vec::set1(values[channel])) {}
    DLPERF_INLINE Vec at(int64_t) const { return value; }
};

// A line that is read soon. The processor doesn't see it coming: several rows are read side by side.
static DLPERF_INLINE void fetch(const void* p) {
    __builtin_prefetch(p, 0, 2);
}

// Runs body(row) from the last stretch of rows to the first, forwards within a stretch: what the sweep before read last
// is still in the cache, and memory is read in the direction that the processor fetches ahead.
template <class Body>
static DLPERF_INLINE void each_row_backwards(Range rows, int64_t row_bytes, const Body& body) {
    constexpr int64_t kStretchBytes = 64 << 10;
    const int64_t step = row_bytes < kStretchBytes ? kStretchBytes / row_bytes : 1;
    for (int64_t end = rows.end; end > rows.begin; end -= step) {
        const int64_t begin = end - step > rows.begin ? end - step : rows.begin;
        for (int64_t r = begin; r < end; ++r) body(r);
    }
}

// Runs body(part) for every part, then waits for all; inside a parallel region.
template <class Body>
static DLPERF_INLINE void each_part(int parts, const Body& body) {
    const int step = omp_get_num_threads();
    for (int part = omp_get_thread_num(); part < parts; part += step) body(part);
#pragma omp barrier
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

// How group norm is cut up among threads, shared by forward and backward. Only `*_kernel.cpp` files include this.
//
// A unit shares nothing with another: an image (channels last) or a group of an image (channels first). Where units
// are too few for the threads, positions are cut into segments, and what segments sum is merged after a barrier.
#pragma once

#include "cpu/group_norm.h"
#include "cpu/parallel.h"
#include "cpu/span.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinPerThread = 16 * 1024;   // elements
constexpr int64_t kChunkElements = 64 * 1024;  // channels last: rows are taken twice while they are in the cache

struct GroupPlan {
    int64_t n, c, s, groups, depth;  // depth: channels of a group
    bool channels_last;
    int64_t fold, width, padded;  // channels last: `fold` positions make one row of `width` elements
    int64_t units, segments;
    int threads;

    explicit GroupPlan(const GroupNormShape& shape)
        : n(shape.n),
          c(shape.c),
          s(shape.s),
          groups(shape.groups),
          depth(shape.c / shape.groups),
          channels_last(shape.channels_last || shape.s == 1) {
        fold = 1;
        while (channels_last && c * fold < 64 && s % (2 * fold) == 0 && fold < 16) fold *= 2;
        width = c * fold;
        padded = (width + 15) / 16 * 16;
        const int64_t most = omp_in_parallel() ? 1 : omp_get_max_threads(), useful = n * c * s / kMinPerThread;
        threads = int(useful < 1 ? 1 : useful < most ? useful : most);
        units = channels_last ? n : n * groups;
        segments = 1;
        if (threads > 1 && units % threads != 0 && units < 4 * threads) {
            const int64_t longest = channels_last ? s / fold / 8 : s / 64;
            segments = longest < 1 ? 1 : longest < threads ? longest : threads;
        }
        if (units * segments < threads) threads = int(units * segments < 1 ? 1 : units * segments);
    }

    int64_t items() const { return units * segments; }
    // Positions (channels first) or rows (channels last) of a segment.
    Range segment(int64_t item) const {
        return split(channels_last ? s / fold : s, segments, item % segments, channels_last ? 1 : 16);
    }
    int64_t chunk_rows() const {
        const int64_t rows = kChunkElements / width;
        return rows < 8 ? 8 : rows > 512 ? 512 : rows;
    }
    Range items_of(int thread) const { return split(items(), threads, thread); }
};

// The arrays of one thread, `width` elements each, and what segments leave for each other.
struct GroupWorkspace {
    char* base;
    int64_t padded, per_thread;
    GroupWorkspace(void* memory, const GroupPlan& plan, int floats, int doubles)
        : base((char*)((uintptr_t(memory) + 63) / 64 * 64)),
          padded(plan.padded),
          per_thread(plan.padded * (8 * doubles + 4 * floats)) {}
    static int64_t bytes(const GroupPlan& plan, int floats, int doubles, int64_t shared) {
        return 64 + plan.threads * plan.padded * (8 * doubles + 4 * floats) + 8 * shared;
    }
    double* doubles(int thread, int which) const { return (double*)(base + thread * per_thread) + which * padded; }
    float* floats(int thread, int doubles_before, int which) const {
        return (float*)doubles(thread, doubles_before) + which * padded;
    }
    double* shared(int threads) const { return (double*)(base + threads * per_thread); }
};

// body(thread) for every thread of the plan, however many the runtime gives; then waits for all.
template <class Body>
static DLPERF_INLINE void each_thread(const GroupPlan& plan, const Body& body) {
    for (int thread = omp_get_thread_num(); thread < plan.threads; thread += omp_get_num_threads()) body(thread);
#pragma omp barrier
}

static DLPERF_INLINE float affine_or(const void* p, DType dtype, int64_t i, float otherwise) {
    return p != nullptr ? load_as(p, dtype, i) : otherwise;
}

// Runs `...` with `constexpr Act A` naming one of the activations that norms fuse.
#define DLPERF_NORM_ACT_SWITCH(act, ...) \
    if ((act) == Act::silu) {            \
        constexpr Act A = Act::silu;     \
        __VA_ARGS__;                     \
    } else if ((act) == Act::relu) {     \
        constexpr Act A = Act::relu;     \
        __VA_ARGS__;                     \
    } else {                             \
        constexpr Act A = Act::none;     \
        __VA_ARGS__;                     \
    }

}  // namespace
}  // namespace dlperf::DLPERF_ISA_NS

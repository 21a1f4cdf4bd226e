// Threading. OpenMP with the caller's own thread count (torch.set_num_threads governs both).
// Everything here is a template or has internal linkage: ISA translation units may include it.
#pragma once

#include <omp.h>

#include <cstdint>

namespace dlperf::DLPERF_ISA_NS {

struct Range {
    int64_t begin, end;
};

// Part `index` of `parts` near-equal parts of [0, total), boundaries at multiples of `grain`.
static inline Range split(int64_t total, int64_t parts, int64_t index, int64_t grain = 1) {
    const int64_t units = (total + grain - 1) / grain;
    const int64_t begin = units * index / parts * grain, end = units * (index + 1) / parts * grain;
    return {begin < total ? begin : total, end < total ? end : total};
}

// Work divided beforehand into one share of blocks for each thread. Who is done takes blocks of the others' shares:
// cores seldom run at one speed. What a block computes may not depend on who computes it.
struct Shares {
    static constexpr int64_t kApart = 8;    // counters on lines of their own
    static constexpr int64_t kVisited = 8;  // shares that a thread looks at, its own among them

    int64_t* taken;  // kApart for each share, zero at the beginning

    // Calls body(share, block) for thread `me` of `team`, where `blocks(share)` is how many that share has.
    template <class Blocks, class Body>
    void run(int64_t team, int64_t me, const Blocks& blocks, const Body& body) const {
        for (int64_t i = 0; i < team && i < kVisited; ++i) {
            const int64_t share = (me + i) % team, count = blocks(share);
            int64_t* next = taken + share * kApart;
            while (__atomic_load_n(next, __ATOMIC_RELAXED) < count) {
                const int64_t block = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
                if (block >= count) break;
                body(share, block);
            }
        }
    }
};

// How a share of `rows` by `panels` is cut into blocks of `step` rows by `group` panels.
struct Cut {
    int64_t rows, step, panels, group;

    int64_t groups() const { return group > 0 ? (panels + group - 1) / group : 0; }
    int64_t blocks() const { return step > 0 ? (rows + step - 1) / step * groups() : 0; }
};

// Calls body(begin, end) over [0, total) on up to omp_get_max_threads() threads; one thread where
// there is less than `min_per_thread` for each. Deterministic at a given thread count.
template <class Body>
static inline void parallel_for(int64_t total, int64_t min_per_thread, const Body& body, int64_t grain = 1) {
    if (total <= 0) return;
    int64_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    const int64_t useful = min_per_thread > 0 ? total / min_per_thread : total;
    if (threads > useful) threads = useful;
    if (threads <= 1) {
        body(int64_t(0), total);
        return;
    }
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        const Range r = split(total, omp_get_num_threads(), omp_get_thread_num(), grain);
        if (r.begin < r.end) body(r.begin, r.end);
    }
}

}  // namespace dlperf::DLPERF_ISA_NS

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

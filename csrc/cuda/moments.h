// Means and squared deviations of a product's columns, gathered where its tiles end: what a batch norm behind a
// convolution needs, without another reading of the result. Entries of equal numbers of rows, float32, joined in order.
// Plain C++17.
#pragma once

#include "cuda/plan.h"

namespace dlperf::cuda {

// Mean and squared deviations of `count` values.
struct Moments {
    float count, mean, squares;
};

// Chan, Golub & LeVeque 1979
DLPERF_INDEX Moments merge(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float delta = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + delta * share, a.squares + b.squares + delta * delta * a.count * share};
}

// Where a product's tiles write: means, then squares, each [entries, columns]. out: null where not wanted.
struct MomentsTarget {
    float* out;
    int rows, columns, step;  // step: rows of an entry
    DLPERF_INDEX int entries() const { return ceil_div(rows, step); }
};

// Of the rows [first, first + most), those that there are.
DLPERF_INDEX int rows_there(int rows, int first, int most) {
    const int left = rows - first;
    return left < 0 ? 0 : left < most ? left : most;
}

// Rows of an entry; 0: the product's sums are split, and its moments must be taken from the result.
inline int moment_rows(const Plan& plan) {
    return plan.parts > 1 ? 0 : plan.hopper ? plan.block_m : plan.block_m / 2;
}

constexpr int kJoinedEntries = 128;  // that one block joins; more are merged in groups first

inline int moment_group(int entries) {
    return ceil_div(entries, kJoinedEntries);
}

// Float32 values for both steps.
inline int64_t moments_workspace(int rows, int columns, int step) {
    const int entries = ceil_div(rows, step);
    return 2 * int64_t(columns) * (entries + ceil_div(entries, moment_group(entries)));
}

// mean, var [columns]: the mean and the biased variance of all rows.
void join_moments(const MomentsTarget& target, float* mean, float* var, const Device& device);

}  // namespace dlperf::cuda

// Random fills and dropout on the Philox contract of philox.h. The seed and the offset are read through a pointer when
// the kernel runs: {seed, offset}, two int64, so that a replayed graph sees fresh ones.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"
#include "cpu/philox.h"

namespace dlperf {

// `samples` times `elements`, dense; sample i draws as sample first_sample + i, whatever the batch around it.
struct RandomFill {
    int64_t samples, elements;
    uint32_t first_sample, step;
    RandomStream stream;
};

struct RandomTable {
    // Element e of a sample is word e % 4 of block e / 4.
    void (*words)(const RandomFill& fill, const int64_t* seed_offset, uint32_t* out);
    // Float32 in [0, 1)
    void (*uniform)(const RandomFill& fill, const int64_t* seed_offset, float* out);
    // Standard normals
    void (*normal)(DType dtype, const RandomFill& fill, const int64_t* seed_offset, void* out);
    // y = x / (1 - p) where the element's uniform is at least p, else x * 0. The gradient is the same function of gy.
    void (*dropout)(DType dtype, int64_t n, double p, const int64_t* seed_offset, const void* x, void* y);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::RandomTable, random_table)

// Nearest and bilinear interpolation of [n, c, ih, iw] to [n, c, oh, ow] by tables: what each output row and column
// takes.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// Along one axis: output o is (1 - weight[o]) * input[index[o]] + weight[o] * input[index[o] + 1]; index does not
// decrease. Nearest: weight is null. Input i reaches outputs first[i] to last[i] - 1 and none else.
struct UpsampleAxis {
    int64_t in, out;
    const int64_t* index;
    const float* weight;
    const int64_t* first;
    const int64_t* last;
};

struct UpsampleShape {
    int64_t n, c;
    DType dtype;
    bool channels_last;  // memory is [n, h, w, c], else [n, c, h, w]
    UpsampleAxis rows, cols;
};

struct UpsampleTable {
    int64_t (*workspace)(const UpsampleShape&);  // bytes
    void (*forward)(const UpsampleShape&, const void* x, void* y, void* workspace);
    void (*backward)(const UpsampleShape&, const void* gy, void* gx, void* workspace);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::UpsampleTable, upsample_table)

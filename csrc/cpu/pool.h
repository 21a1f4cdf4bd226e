// Maximum and average pooling over two axes, sliding or adaptive windows, forward and backward.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

enum class PoolKind : int { max = 0, average = 1 };

// One axis. Adaptive pooling uses `in` and `out` alone.
struct PoolAxis {
    int64_t in, out, kernel, stride, padding, dilation;
};

struct PoolShape {
    int64_t n, c;
    PoolAxis h, w;
    PoolKind kind;
    DType dtype;
    bool channels_last;  // memory is [n, h, w, c], else [n, c, h, w]
    bool adaptive;
    bool count_include_pad;    // average: positions in the padding count in the divisor
    int64_t divisor_override;  // average: 0 for none
};

struct PoolTable {
    // indices: for the maximum, h * in_w + w of each window's winner, laid out as y; null where not wanted.
    void (*forward)(const PoolShape&, const void* x, void* y, int32_t* indices);
};

struct PoolBackwardTable {
    int64_t (*workspace)(const PoolShape&);  // bytes that backward needs
    void (*backward)(const PoolShape&, const void* gy, const int32_t* indices, void* gx, void* workspace);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::PoolTable, pool_table)
DLPERF_DECLARE_TABLE(dlperf::PoolBackwardTable, pool_backward_table)

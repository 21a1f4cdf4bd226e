// Memory layout: batched transposition, which turns NCHW into NHWC and back.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace dlperf {

struct LayoutTable {
    // dst[b, c, r] = src[b, r, c], elements of 2 or 4 bytes. NCHW to NHWC is rows = C, cols = H * W.
    void (*transpose)(const void* src, void* dst, int64_t batch, int64_t rows, int64_t cols, int element_size);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::LayoutTable, layout_table)

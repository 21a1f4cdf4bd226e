// Memory layout: batched transposition, which turns NCHW into NHWC and back; concatenation, zero padding, copies of
// slices.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace dlperf {

struct LayoutTable {
    // dst[b, c, r] = src[b, r, c], elements of 2 or 4 bytes. NCHW to NHWC is rows = C, cols = H * W.
    void (*transpose)(const void* src, void* dst, int64_t batch, int64_t rows, int64_t cols, int element_size);
    // Row r of dst is row r of each source, one after the other; src[i] has rows of bytes[i] bytes.
    void (*concatenate)(const void* const* src, const int64_t* bytes, int64_t sources, void* dst, int64_t rows);
    // dst[n, top + h + bottom, left + w + right] of pixels of `bytes` bytes: src, zero around it.
    void (*pad)(const void* src, void* dst, int64_t n, int64_t h, int64_t w, int64_t bytes, const int64_t (&around)[4]);
    // Row r of dst, rows next to each other, is the first `bytes` bytes at src + r * step.
    void (*copy_rows)(const void* src, int64_t step, void* dst, int64_t rows, int64_t bytes);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::LayoutTable, layout_table)

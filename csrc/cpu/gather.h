// Embedding lookups, and the rearrangements between channels and positions of pixel_shuffle.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct EmbeddingShape {
    int64_t count, rows, cols;  // indices; the table is [rows, cols]
    int64_t padding;            // the row whose gradient is zero, or -1
    bool by_frequency;          // a row's gradient is divided by how often it was looked up
    DType dtype;
};

// x is [n, c * r * r, h, w] and y [n, c, h * r, w * r], both in one memory order.
struct ShuffleShape {
    int64_t n, c, h, w, r;
    bool channels_last;
    int element_size;  // 2 or 4
};

struct GatherTable {
    // Returns the position of the first index outside the table, or -1; then nothing of it was read.
    int64_t (*embedding)(const EmbeddingShape&, const int64_t* indices, const void* table, void* out);
    int64_t (*embedding_workspace)(const EmbeddingShape&);  // bytes
    void (*embedding_backward)(const EmbeddingShape&, const int64_t* indices, const void* gy, void* gtable,
                               void* workspace);
    void (*pixel_shuffle)(const ShuffleShape&, const void* x, void* y);
    void (*pixel_unshuffle)(const ShuffleShape&, const void* y, void* x);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::GatherTable, gather_table)

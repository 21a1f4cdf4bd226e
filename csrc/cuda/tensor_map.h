// What the copy engine is told of a tensor: cuTensorMapEncodeTiled's and cuTensorMapEncodeIm2col's parameters, as plain
// numbers that the tests read. 16-bit elements, 128-byte swizzle, zeros outside.
#pragma once

#include "cuda/geometry.h"

namespace dlperf::cuda {

constexpr int kRow = 64;  // values of a swizzled row

struct TensorMapParameters {
    const void* base;
    int rank;
    uint64_t size[5];    // innermost first
    uint64_t stride[4];  // bytes, of the dimensions from the second on
    uint32_t box[5];     // tiled mode
    bool im2col;
    int lower[2], upper[2];  // of the bounding box of first pixels, (w, h)
    uint32_t pixels;         // of a column
    uint32_t traversal[5];   // strides between pixels
};

// Why the driver would refuse the map, or null.
inline const char* why_not(const TensorMapParameters& p) {
    if (reinterpret_cast<uintptr_t>(p.base) % 16 != 0) return "the address is no multiple of 16 bytes";
    for (int i = 0; i < p.rank; ++i)
        if (p.size[i] == 0 || p.size[i] > (uint64_t(1) << 32)) return "a size is zero or above 2^32";
    for (int i = 0; i + 1 < p.rank; ++i)
        if (p.stride[i] % 16 != 0 || p.stride[i] >= (uint64_t(1) << 40))
            return "a stride is no multiple of 16 bytes, or above 2^40";
    if (!p.im2col) {
        for (int i = 0; i < p.rank; ++i)
            if (p.box[i] == 0 || p.box[i] > 256) return "a box is longer than 256";
    } else {
        for (int i = 0; i < 2; ++i)
            if (p.lower[i] < -128 || p.lower[i] > 127 || p.upper[i] < -128 || p.upper[i] > 127)
                return "a corner of the bounding box is beyond 8 bits";
        if (p.pixels > 1024) return "a column has more than 1024 pixels";
        for (int i = 0; i < p.rank; ++i)
            if (p.traversal[i] == 0 || p.traversal[i] > 8) return "a stride is above 8";
    }
    return nullptr;
}

// [batches, rows, columns], in boxes of box_rows x 64.
inline TensorMapParameters matrix_map(const void* base, int64_t columns, int64_t rows, int64_t batches, int64_t stride,
                                      int64_t batch_stride, int box_rows) {
    TensorMapParameters p = {};
    p.base = base;
    p.rank = 3;
    p.size[0] = columns, p.size[1] = rows, p.size[2] = batches;
    p.stride[0] = stride * 2, p.stride[1] = (batches > 1 ? batch_stride : stride) * 2;
    p.box[0] = kRow, p.box[1] = box_rows, p.box[2] = 1;
    return p;
}

// A weight [rows, taps, channels]: boxes of one tap, box_rows x 64 channels.
inline TensorMapParameters weight_map(const void* base, int rows, int taps, int channels, int box_rows) {
    TensorMapParameters p = {};
    p.base = base;
    p.rank = 3;
    p.size[0] = channels, p.size[1] = taps, p.size[2] = rows;
    p.stride[0] = uint64_t(channels) * 2, p.stride[1] = uint64_t(channels) * taps * 2;
    p.box[0] = kRow, p.box[1] = 1, p.box[2] = box_rows;
    return p;
}

// A gather's image in im2col mode: columns of `pixels` pixels by 64 channels.
inline TensorMapParameters gather_map(const void* base, const Gather& g, int pixels) {
    TensorMapParameters p = {};
    p.base = base;
    p.rank = 4;
    p.size[0] = g.c, p.size[1] = g.w, p.size[2] = g.h, p.size[3] = g.n;
    p.stride[0] = uint64_t(g.c) * 2, p.stride[1] = p.stride[0] * g.w, p.stride[2] = p.stride[1] * g.h;
    p.im2col = true;
    p.lower[0] = g.first_w, p.lower[1] = g.first_h;
    p.upper[0] = g.first_w + (g.columns - 1) * g.stride_w + 1 - g.w;
    p.upper[1] = g.first_h + (g.rows - 1) * g.stride_h + 1 - g.h;
    p.pixels = pixels;
    p.traversal[0] = 1, p.traversal[1] = g.stride_w, p.traversal[2] = g.stride_h, p.traversal[3] = 1;
    return p;
}

// [batches, heads, rows, columns] of any strides (in elements), in boxes of box_rows x 64.
inline TensorMapParameters head_map(const void* base, int columns, int64_t rows, int64_t heads, int64_t batches,
                                    int64_t row_stride, int64_t head_stride, int64_t batch_stride, int box_rows) {
    TensorMapParameters p = {};
    p.base = base;
    p.rank = 4;
    p.size[0] = columns, p.size[1] = rows, p.size[2] = heads, p.size[3] = batches;
    p.stride[0] = (rows > 1 ? row_stride : columns) * 2;
    p.stride[1] = (heads > 1 ? head_stride : columns) * 2;
    p.stride[2] = (batches > 1 ? batch_stride : columns) * 2;
    p.box[0] = kRow, p.box[1] = box_rows, p.box[2] = 1, p.box[3] = 1;
    return p;
}

}  // namespace dlperf::cuda

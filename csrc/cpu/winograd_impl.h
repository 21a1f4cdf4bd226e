// What Winograd's kernels of one instruction set share.
#pragma once

#include "cpu/conv2d_impl.h"
#include "cpu/winograd_transform.h"

namespace dlperf::DLPERF_ISA_NS {

// The tiles of a convolution of stride 1 and the pixels that each reads: 6x6, from 4 (row, column) - pad on.
struct TileGrid {
    int64_t h, w, c;  // of the source
    int64_t pad_h, pad_w;
    int64_t rows, columns;  // tiles of an image
    int64_t count;          // of all images

    int64_t image(int64_t tile) const { return tile / (rows * columns); }
    int64_t row(int64_t tile) const { return tile / columns % rows; }
    int64_t column(int64_t tile) const { return tile % columns; }
};

static inline TileGrid make_tile_grid(int64_t n, int64_t h, int64_t w, int64_t c, int64_t pad_h, int64_t pad_w,
                                      int64_t dst_h, int64_t dst_w) {
    const int64_t rows = ceil_div(dst_h, winograd::kTile), columns = ceil_div(dst_w, winograd::kTile);
    return {h, w, c, pad_h, pad_w, rows, columns, n * rows * columns};
}

// B^T d B of one tile and one vector of channels; load(row, column) gives d.
template <class Load>
static DLPERF_INLINE void transform_vector(const Load& load, float* out, int64_t point_step) {
    using namespace winograd;
    Vec columns[kIn][kIn];
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) {
        Vec d[kIn];
#pragma GCC unroll 6
        for (int r = 0; r < kIn; ++r) d[r] = load(r, j);
        data_line(d, columns[j]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kIn; ++r) {
        const Vec line[kIn] = {columns[0][r], columns[1][r], columns[2][r],
                               columns[3][r], columns[4][r], columns[5][r]};
        Vec v[kIn];
        data_line(line, v);
#pragma GCC unroll 6
        for (int j = 0; j < kIn; ++j) v[j].store(out + (r * kIn + j) * point_step);
    }
}

// How transformed data lies: out[point][piece][tile][channel of the piece], pieces of whole vectors.
struct DataLayout {
    int64_t point_step;  // floats from one point's to the next's
    int64_t piece;       // channels
    int64_t piece_step;  // floats from one piece to the next
};

// B^T d B of `count` tiles from `begin` on. `zero` holds a pixel of zeros.
template <class T>
static void transform_data(const TileGrid& g, const T* src, const float* zero, int64_t begin, int64_t count, float* out,
                           const DataLayout& layout) {
    using namespace winograd;
    for (int64_t tile = begin; tile < begin + count; ++tile, out += layout.piece) {
        const int64_t h0 = g.row(tile) * kTile - g.pad_h, w0 = g.column(tile) * kTile - g.pad_w;
        const T* image = src + g.image(tile) * g.h * g.w * g.c;
        const T* pixel[kIn][kIn];
        for (int r = 0; r < kIn; ++r) {
            const bool inside = h0 + r >= 0 && h0 + r < g.h;
            for (int c = 0; c < kIn; ++c) {
                const bool here = inside && w0 + c >= 0 && w0 + c < g.w;
                pixel[r][c] = here ? image + ((h0 + r) * g.w + w0 + c) * g.c : reinterpret_cast<const T*>(zero);
            }
        }
        float* to = out;
        for (int64_t begin = 0; begin < g.c; begin += layout.piece, to += layout.piece_step) {
            const int64_t end = min64(g.c, begin + layout.piece);
            int64_t c = begin;
            for (; c + Vec::W <= end; c += Vec::W) {
                transform_vector(
                    [&](int r, int j) {
                        // The next tile's new pixels: too many short streams for the processor to see them coming.
                        if (j >= 2) __builtin_prefetch(pixel[r][j] + kTile * g.c + c, 0, 3);
                        return Vec::load(pixel[r][j] + c);
                    },
                    to + (c - begin), layout.point_step);
            }
            if (c < end) {
                transform_vector([&](int r, int j) { return Vec::load(pixel[r][j] + c, int(end - c)); },
                                 to + (c - begin), layout.point_step);
            }
        }
    }
}

// The shape for the direct kernels, which serve where a sum is not finite.
static inline Conv2dShape direct_shape(const Conv2dShape& s) {
    Conv2dShape d = s;
    d.algorithm = ConvAlgorithm::direct;
    return d;
}

int64_t winograd_weight_bytes(const Conv2dShape& s, int64_t threads);
void winograd_bwd_weight(const Conv2dShape& s, const void* gy, const void* x, void* gw, void* workspace,
                         int64_t threads);

}  // namespace dlperf::DLPERF_ISA_NS

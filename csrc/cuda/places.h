// Where a product's rows and columns lie in its result. Chunks of eight columns are wholly inside or outside.
#pragma once

#include "cuda/geometry.h"

namespace dlperf::cuda {

struct Position {
    int64_t at;
    bool there;
};

// A matrix of `rows` x `columns`, its rows `stride` elements apart, the residual's `residual_stride`.
struct MatrixPlace {
    static constexpr bool fits_bulk_copies = true;  // always, so that 9.0 needs no other kernel
    static constexpr bool has_moments = true;       // may be asked for its columns' (moments.h)
    int rows, columns;
    int64_t stride, residual_stride;
    DLPERF_INDEX Position row(int m) const { return {m * stride, m < rows}; }
    DLPERF_INDEX Position column(int n) const { return {n, n < columns}; }
    DLPERF_INDEX int64_t residual_row(int m) const { return m * residual_stride; }
};

// Pixels (first + i * step) of an NHWC image of `channels`: all of them, or one phase of a strided convolution's
// gradient. Rows count (image, i, j).
struct PixelPlace {
    static constexpr bool fits_bulk_copies = false;
    static constexpr bool has_moments = true;
    int images, phase_rows, phase_columns;
    int height, width, first_row, first_column, step_row, step_column, channels;
    DLPERF_INDEX Position row(int m) const {
        const int j = m % phase_columns, rest = m / phase_columns, i = rest % phase_rows, image = rest / phase_rows;
        const int64_t pixel =
            (int64_t(image) * height + first_row + i * step_row) * width + first_column + j * step_column;
        return {pixel * channels, image < images};
    }
    DLPERF_INDEX Position column(int n) const { return {n, n < channels}; }
    DLPERF_INDEX int64_t residual_row(int m) const { return row(m).at; }
};

// A weight's gradient [rows, taps, channels]: columns count (tap, channel) with each tap padded to `padded` columns.
struct TapPlace {
    static constexpr bool fits_bulk_copies = false;
    static constexpr bool has_moments = false;
    int rows, taps, channels, padded;
    DLPERF_INDEX Position row(int m) const { return {int64_t(m) * taps * channels, m < rows}; }
    DLPERF_INDEX Position column(int n) const {
        const int tap = n / padded, c = n % padded;
        return {int64_t(tap) * channels + c, tap < taps && c < channels};
    }
    DLPERF_INDEX int64_t residual_row(int) const { return 0; }
};

}  // namespace dlperf::cuda

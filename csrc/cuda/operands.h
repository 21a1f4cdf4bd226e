// Where the 16-byte chunks of a product's operands lie: the portable kernel gathers them one by one.
//
// A chunk is eight neighbouring values. What stays the same for a thread through the reduction is `fix`ed once: the row
// where the operand lies along k, else the column. `at(fixed, step, inner, there)` is the chunk's element number, with
// inner the k of its first value, or its k row, inside the step of kStep values.
#pragma once

#include "cuda/geometry.h"

namespace dlperf::cuda {

constexpr int kStep = 32;

// [rows, depth], rows `stride` apart.
struct RowsAlongK {
    static constexpr bool along_k = true;
    int rows, depth;
    int64_t stride;
    struct Fixed {
        int64_t at;
        bool there;
    };
    DLPERF_INDEX Fixed fix(int row) const { return {row * stride, row < rows}; }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        const int k = step * kStep + inner;
        there = f.there && k < depth;
        return f.at + k;
    }
};

// [depth, columns], rows `stride` apart.
struct ColumnsAcrossK {
    static constexpr bool along_k = false;
    int columns, depth;
    int64_t stride;
    struct Fixed {
        int column;
    };
    DLPERF_INDEX Fixed fix(int column) const { return {column}; }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        const int k = step * kStep + inner;
        there = f.column < columns && k < depth;
        return k * stride + f.column;
    }
};

// A gather's rows; steps count (tap, block of channels).
struct GatheredRows {
    static constexpr bool along_k = true;
    Gather gather;
    int blocks;  // of kStep channels
    using Fixed = Pixel;
    DLPERF_INDEX Fixed fix(int row) const { return pixel_of(gather, row); }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        const int c = step % blocks * kStep + inner;
        int64_t at;
        there = tap_of(gather, f, step / blocks, at) && c < gather.c;
        return at + c;
    }
};

// The forward weight [k, taps, c] beside a gather's rows.
struct WeightRows {
    static constexpr bool along_k = true;
    int rows, taps, channels, blocks;
    struct Fixed {
        int64_t at;
        bool there;
    };
    DLPERF_INDEX Fixed fix(int row) const { return {int64_t(row) * taps * channels, row < rows}; }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        const int c = step % blocks * kStep + inner;
        there = f.there && c < channels;
        return f.at + int64_t(step / blocks) * channels + c;
    }
};

// The same weight for the input's gradient: the reduction goes over its rows, tap by tap.
struct WeightColumns {
    static constexpr bool along_k = false;
    int rows, all_taps, channels, blocks, taps_s;
    TapOrder order;
    struct Fixed {
        int column;
    };
    DLPERF_INDEX Fixed fix(int column) const { return {column}; }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        const int row = step % blocks * kStep + inner;
        there = row < rows && f.column < channels;
        return (int64_t(row) * all_taps + order(step / blocks, taps_s)) * channels + f.column;
    }
};

// A gather's pixels as the reduction: columns count (tap, channel), each tap padded to `padded` columns.
struct GatheredColumns {
    static constexpr bool along_k = false;
    Gather gather;
    int padded;
    struct Fixed {
        int tap, channel;
    };
    DLPERF_INDEX Fixed fix(int column) const { return {column / padded, column % padded}; }
    DLPERF_INDEX int64_t at(const Fixed& f, int step, int inner, bool& there) const {
        int64_t at = 0;
        there = f.tap < gather.taps() && f.channel < gather.c &&
                tap_of(gather, pixel_of(gather, step * kStep + inner), f.tap, at);
        return at + f.channel;
    }
};

}  // namespace dlperf::cuda

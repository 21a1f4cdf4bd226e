// Register tiles of matrix products: what every GEMM and convolution loop calls.
//
// A tile is MR rows by NV vectors of columns, held in registers over one block of the reduction. Reduction steps are
// counted in units of 32 bits: one float, or a pair of bfloat16 where the instruction set multiplies pairs.
//   rows mode    A is read in place through one pointer per row and tap: unit stride along the reduction
//   packed mode  A is [units][MR], contiguous
//   B            [units][NV * W], b_step apart: a packed panel, or a matrix in place
// Between blocks of the reduction a tile lives as [MR][NV * W] floats in scratch; the last block applies the epilogue
// in registers and stores in the output's type.
#pragma once

#include "cpu/activation.h"
#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {

#if DLPERF_ISA_LEVEL >= 3
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif

struct BlockSizes {
    int nv_max;           // vectors per full panel
    int mr[5];            // rows of the tile that has nv vectors
    int row_step;         // common multiple of mr: what row blocks are rounded to
    int64_t depth;        // units of reduction per block: depth x panel of B stays in L2, beside A's share
    int64_t outer_depth;  // the same where A is packed too
    int64_t rows;         // rows per block at most
    int64_t a_bytes;      // bytes of A that one row block may touch: its share of L2
};

#if DLPERF_ISA_LEVEL >= 4
// Panels as wide as a block of tiles (gemm_tiles.h).
constexpr BlockSizes kBlocks = {2, {0, 12, 12, 0, 0}, 96, 512, 256, 288, 1 << 20};
#elif DLPERF_ISA_LEVEL >= 2
constexpr BlockSizes kBlocks = {4, {0, 12, 12, 8, 6}, 24, 384, 256, 120, 512 << 10};
#elif DLPERF_ISA_LEVEL == 1
constexpr BlockSizes kBlocks = {2, {0, 8, 6, 0, 0}, 24, 256, 256, 240, 256 << 10};
#else
constexpr BlockSizes kBlocks = {4, {0, 4, 4, 4, 4}, 24, 256, 256, 120, 256 << 10};
#endif

// Fetching goes along with the products, a little every so many steps: more at once than the processor keeps track of
// would stop it.
constexpr int64_t kStretch = 16;  // steps: one cache line of a row of A

static DLPERF_INLINE int64_t ceil_stretch(int64_t steps) {
    return (steps + kStretch - 1) / kStretch;
}

constexpr int kMrMax = kBlocks.mr[1];
constexpr int kPanel = kBlocks.nv_max * Vec::W;       // columns of a full panel
constexpr int kPanelMr = kBlocks.mr[kBlocks.nv_max];  // rows of a full panel's tile

// y = act(alpha * acc + bias + beta * residual), stored as `dtype`.
struct Epilogue {
    DType dtype = DType::f32;
    void* out = nullptr;
    const void* residual = nullptr;
    int64_t residual_col = 1;
    float alpha = 1, beta = 1;
    Act act = Act::none;
    float act_param = 0;
};

struct TileCall {
    const char* const* rows;  // [taps][rows_ld] row pointers (rows mode)
    int64_t rows_ld;
    int64_t a_offset;    // bytes added to each row pointer
    int64_t next_rows;   // rows mode: how many row pointers after the tile's own to fetch from memory meanwhile
    const char* next;    // rows mode: memory to fetch meanwhile,
    int64_t next_lines;  // so many lines every kStretch steps
    const float* a;      // packed mode: the tile's rows next to each other,
    int64_t a_step;      // and floats from one unit to the next
    int64_t taps;        // runs of the reduction
    int64_t units;       // per tap
    bool odd;            // rows mode: of each tap's last pair only the first half is there
    const float* b;
    int64_t b_step;
    float* acc;
    bool first, last;
    // For the last block:
    const Epilogue* epilogue;
    const int64_t* out_offset;       // elements, per row
    const int64_t* residual_offset;  // elements, per row
    const float* bias_row;           // per row, or null
    const float* bias_col;           // padded to whole vectors, or null
    int64_t n0;
    int n_valid;
};

using TileFunction = void (*)(const TileCall&);

struct MicroTable {
    TileFunction rows[5][kMrMax + 1];    // [NV][MR]
    TileFunction packed[5][kMrMax + 1];  // [NV][MR]
};

extern const MicroTable micro_f32;
#if DLPERF_ISA_LEVEL == 3
extern const MicroTable micro_bf16;
#endif

// out[i][n0 + j] = epilogue(acc[i * acc_step + j]), any activation and layout.
void finish_rows(const TileCall& t, int mr, int64_t acc_step);

static inline const MicroTable& micro_table(bool pairs) {
#if DLPERF_ISA_LEVEL == 3
    if (pairs) return micro_bf16;
#endif
    return micro_f32;
}

}  // namespace dlperf::DLPERF_ISA_NS

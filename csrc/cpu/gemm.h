// C[b] = act(alpha * A[b] @ B[b] + bias + beta * residual[b]) for every b of a batch.
//
// From Python (dlperf._C), tensors as data_ptr() addresses, 0 for None:
//
//   shape = GemmShape(batch, m, n, k,
//                     a_batch, a_row, a_col,       strides in elements; 0 in a batch stride broadcasts
//                     b_batch, b_row, b_col,
//                     c_batch, c_row,              C's columns are contiguous; C must not overlap an input
//                     r_batch, r_row, r_col,       the residual's; any, 0 too
//                     dtype, act, act_param, alpha, beta, bias_per_row)
//   bytes = gemm_workspace_bytes(shape, threads, prepacked)
//   gemm(shape, a, b, bias, residual, c, workspace, threads, prepacked)
//   bytes = gemm_pack_bytes(shape)                 only where b_batch == 0 or batch == 1
//   gemm_pack_b(shape, b, packed)                  then gemm(..., b=packed, prepacked=True)
//   sum_rows(rows, columns, row_step, dtype, x, out)      out[j] = sum over i of x[i][j]: a bias' gradient
//
// dtype: 0 float32, 1 bfloat16, 2 float16, of A, B, C, bias and residual alike; act indexes _C.ACTIVATIONS' order.
// bias: n values, or m where bias_per_row. beta == 0 ignores the residual. k == 0 leaves bias and residual.
// A and B may have any strides; those with a unit stride are read fast. workspace: 64-byte aligned, at least that many
// bytes for the same shape, `threads`, `prepacked` and _C.isa(); it holds nothing between calls. `threads` is what the
// call runs on at most. A pack belongs to the _C.isa() and to the n, k, dtype and B strides it was made with.
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

struct GemmShape {
    int64_t batch, m, n, k;
    int64_t a_batch, a_row, a_col;
    int64_t b_batch, b_row, b_col;
    int64_t c_batch, c_row;
    int64_t r_batch, r_row, r_col;
    DType dtype;
    Act act;
    float act_param, alpha, beta;
    bool bias_per_row;
    bool from_last = false;  // columns in falling order: calls that alternate find the end of a large B in the cache
};

struct GemmTable {
    int64_t (*workspace_bytes)(const GemmShape&, int64_t threads, bool prepacked);
    void (*run)(const GemmShape&, const void* a, const void* b, const void* bias, const void* residual, void* c,
                void* workspace, int64_t threads, bool prepacked);
    int64_t (*pack_bytes)(const GemmShape&);
    void (*pack_b)(const GemmShape&, const void* b, void* packed);
    void (*sum_rows)(int64_t rows, int64_t columns, int64_t row_step, DType, const void* x, void* out);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE_BF16(GemmTable, gemm_table)

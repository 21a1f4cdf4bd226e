// Few rows, A and B both contiguous along k: B is read once, in place. And sums over rows.
// DLPERF_HAS_AVX512_BF16_VARIANT
#include "cpu/gemm_impl.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

#if DLPERF_ISA_LEVEL >= 3
DLPERF_INLINE __m512bh load_bf16(const bf16_t* p, int64_t n) {
    const __mmask32 mask = n >= 32 ? 0xffffffffu : _bzhi_u32(0xffffffffu, unsigned(n));
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, p);
}
#endif

template <int MR, int NR, class T>
void dot_tile(const T* const* a, const T* const* b, int64_t k, float* out, int64_t out_step) {
    Vec acc[MR][NR];
    for (int i = 0; i < MR; ++i) {
        for (int j = 0; j < NR; ++j) acc[i][j] = Vec::zero();
    }
#if DLPERF_ISA_LEVEL >= 3
    if constexpr (kIsBf16<T>) {
        for (int64_t l = 0; l < k; l += 32) {
            __m512bh bv[NR];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) bv[j] = load_bf16(b[j] + l, k - l);
#pragma GCC unroll 4
            for (int i = 0; i < MR; ++i) {
                const __m512bh av = load_bf16(a[i] + l, k - l);
#pragma GCC unroll 4
                for (int j = 0; j < NR; ++j) acc[i][j].v = _mm512_dpbf16_ps(acc[i][j].v, av, bv[j]);
            }
        }
    } else
#endif
    {
        for (int64_t l = 0; l < k; l += Vec::W) {
            Vec bv[NR];
#pragma GCC unroll 4
            for (int j = 0; j < NR; ++j) bv[j] = load_some(b[j] + l, k - l);
#pragma GCC unroll 4
            for (int i = 0; i < MR; ++i) {
                const Vec av = load_some(a[i] + l, k - l);
#pragma GCC unroll 4
                for (int j = 0; j < NR; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NR; ++j) out[i * out_step + j] = acc[i][j].sum();
    }
}

constexpr int kDotTile = 4;

template <class T>
void dot_columns(const GemmShape& s, const T* const* a, const T* b, int64_t n0, int64_t n1, float* acc) {
    for (int64_t n = n0; n < n1; n += kDotTile) {
        const T* columns[kDotTile];
        const int width = int(min64(kDotTile, n1 - n));
        for (int j = 0; j < width; ++j) columns[j] = b + (n + j) * s.b_col;
        for (int64_t m = 0; m < s.m; m += kDotTile) {
            float* out = acc + m * kPanel + (n - n0);
            const int height = int(min64(kDotTile, s.m - m));
            if (width == kDotTile && height == 4) {
                dot_tile<4, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile && height == 3) {
                dot_tile<3, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile && height == 2) {
                dot_tile<2, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else if (width == kDotTile) {
                dot_tile<1, kDotTile>(a + m, columns, s.k, out, kPanel);
            } else {
                for (int i = 0; i < height; ++i) {
                    for (int j = 0; j < width; ++j) {
                        dot_tile<1, 1>(a + m + i, columns + j, s.k, out + i * kPanel + j, kPanel);
                    }
                }
            }
        }
    }
}

// Sums blocks of rows, then the blocks: the error grows with the block, not with the rows.
template <class T>
void sum_columns(int64_t rows, int64_t columns, int64_t row_step, const T* x, T* out) {
    constexpr int64_t kBlock = 128;
    parallel_for(
        columns, max64(1, (1 << 15) / max64(1, rows)),
        [&](int64_t begin, int64_t end) {
            for (int64_t j0 = begin; j0 < end; j0 += kPanel) {
                const int64_t n = min64(kPanel, end - j0);
                Vec total[kBlocks.nv_max];
                for (int v = 0; v < kBlocks.nv_max; ++v) total[v] = Vec::zero();
                for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
                    Vec part[kBlocks.nv_max];
                    for (int v = 0; v < kBlocks.nv_max; ++v) part[v] = Vec::zero();
                    for (int64_t i = i0; i < min64(rows, i0 + kBlock); ++i) {
                        const T* p = x + i * row_step + j0;
#pragma GCC unroll 4
                        for (int v = 0; v < kBlocks.nv_max; ++v) {
                            if (v * Vec::W < n) part[v] = part[v] + load_some(p + v * Vec::W, n - v * Vec::W);
                        }
                    }
                    for (int v = 0; v < kBlocks.nv_max; ++v) total[v] = total[v] + part[v];
                }
                for (int v = 0; v < kBlocks.nv_max; ++v) {
                    if (v * Vec::W < n) store_some(out + j0 + v * Vec::W, total[v], n - v * Vec::W);
                }
            }
        },
        16);
}

}  // namespace

// `per_batch` rows to an item of the batch before folding, as everywhere.
void gemm_dot(const GemmShape& s, int64_t per_batch, const Operands& o, Arena& arena, int64_t threads) {
    float* bias = arena.take<float>(padded_bias(s.n));
    const bool bias_col = o.bias && !s.bias_per_row;
    if (bias_col) expand_bias(s.dtype, o.bias, s.n, bias);
    const Epilogue e = epilogue_of(s, o);
    // Pieces of a panel, so that few panels keep all threads busy.
    int64_t piece = kPanel;
    while (piece > 8 && s.batch * ceil_div(s.n, piece) < 8 * threads) piece /= 2;
    const int64_t pieces = ceil_div(s.n, piece), size = dtype_size(s.dtype);
    parallel_for(s.batch * pieces, max64(1, (1 << 14) / max64(1, piece * s.k)), [&](int64_t begin, int64_t end) {
        alignas(64) float acc[kDotRows * kPanel];
        const char* rows[kDotRows];
        int64_t out[kDotRows], residual[kDotRows];
        float bias_row[kDotRows];
        RowTables t = {};
        t.out = out;
        t.residual = residual;
        t.bias = bias_row;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t batch = i / pieces, n0 = i % pieces * piece, n1 = min64(s.n, n0 + piece);
            if (i == begin || n0 == 0) {
                fill_offsets(s, per_batch, batch, 0, s.m, o.bias, t);
                for (int64_t m = 0; m < s.m; ++m) {
                    rows[m] = o.a + ((batch + m / per_batch) * s.a_batch + m % per_batch * s.a_row) * size;
                }
            }
            const char* b = o.b + batch * s.b_batch * size;
            DLPERF_DTYPE_SWITCH(s.dtype, dot_columns(s, reinterpret_cast<const T* const*>(rows),
                                                     reinterpret_cast<const T*>(b), n0, n1, acc))
            TileCall call = {};
            call.acc = acc;
            call.epilogue = &e;
            call.out_offset = out;
            call.residual_offset = residual;
            call.bias_row = s.bias_per_row && o.bias ? bias_row : nullptr;
            call.bias_col = bias_col ? bias : nullptr;
            call.n0 = n0;
            call.n_valid = int(n1 - n0);
            finish_rows(call, int(s.m), kPanel);
        }
    });
}

void sum_rows(int64_t rows, int64_t columns, int64_t row_step, DType dtype, const void* x, void* out) {
    DLPERF_DTYPE_SWITCH(dtype, sum_columns(rows, columns, row_step, static_cast<const T*>(x), static_cast<T*>(out)))
}

}  // namespace dlperf::DLPERF_ISA_NS

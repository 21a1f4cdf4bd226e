// What the matrix product's files of one instruction set share: the choice of path, and where rows lie.
#pragma once

#include "cpu/gemm.h"
#include "cpu/gemm_engine.h"

namespace dlperf::DLPERF_ISA_NS {

// ---- Which way a product goes ----

enum class Path { dot, in_place, row, outer };

constexpr int64_t kDotRows = 40;      // rows up to which packing B costs more than it saves, B contiguous along k
constexpr int64_t kInPlaceRows = 24;  // the same, B contiguous along n

// A batch that shares B is one product over all its rows, where rows are read one by one.
static inline GemmShape folded(GemmShape s, bool prepacked) {
    if (s.b_batch == 0 && s.batch > 1 && s.m > 0 && (s.a_col == 1 || s.k <= 1 || prepacked)) {
        s.m *= s.batch;
        s.batch = 1;
    }
    return s;
}

static inline Path choose_path(const GemmShape& s, bool prepacked) {
    if (prepacked) return Path::row;
    if (s.m <= kDotRows && s.a_col == 1 && s.b_row == 1 && s.k > 0) return Path::dot;
    if (s.a_col != 1 && s.k > 1) return Path::outer;
    const bool converts = s.dtype != DType::f32;
    if (s.m <= kInPlaceRows && s.b_col == 1 && !converts && s.n >= Vec::W) return Path::in_place;
    return Path::row;
}

struct Operands {
    const char *a, *b;
    const void *bias, *residual;
    void* c;
};

// A's rows go through scratch: converted, or gathered where a packed B asks for rows that A has not.
static inline bool copies_rows(const GemmShape& s) {
    return needs_conversion(s.dtype) || (s.a_col != 1 && s.k > 1);
}

static inline int64_t row_bytes(const GemmShape& s) {
    return max64(1, s.k) * (needs_conversion(s.dtype) ? 4 : dtype_size(s.dtype));
}

// ---- Rows of C: where they are ----

struct RowTables {
    const char** rows;
    int64_t *out, *residual;
    float* bias;
    float* copied;
    float* acc;
};

static inline RowTables take_row_tables(Arena& arena, const GemmShape& s, int64_t rows, bool tiles) {
    RowTables t;
    t.rows = arena.take<const char*>(rows);
    t.out = arena.take<int64_t>(rows);
    t.residual = arena.take<int64_t>(rows);
    t.bias = arena.take<float>(rows);
    t.copied = arena.take<float>(copies_rows(s) ? rows * s.k : 0);
    t.acc = arena.take<float>(engine_floats(rows, s.n, 1, s.k, uses_pairs(s.dtype), tiles));
    return t;
}

// `per_batch` is m before folding.
static inline void fill_offsets(const GemmShape& s, int64_t per_batch, int64_t batch0, int64_t begin, int64_t count,
                                const void* bias, const RowTables& t) {
    int64_t b = batch0 + begin / per_batch, m = begin % per_batch;
    for (int64_t i = 0; i < count; ++i) {
        t.out[i] = b * s.c_batch + m * s.c_row;
        t.residual[i] = b * s.r_batch + m * s.r_row;
        if (s.bias_per_row && bias) {
            DLPERF_DTYPE_SWITCH(s.dtype, t.bias[i] = to_float(static_cast<const T*>(bias)[m]))
        }
        if (++m == per_batch) {
            m = 0;
            ++b;
        }
    }
}

template <bool Pairs, class T>
static void copy_row(const T* row, int64_t step, int64_t k, float* to) {
    if (Pairs) {
        T* same = reinterpret_cast<T*>(to);
        for (int64_t i = 0; i < k; ++i) same[i] = row[i * step];
    } else if (step == 1) {
        convert_run(row, to, k);
    } else {
        for (int64_t i = 0; i < k; ++i) to[i] = to_float(row[i * step]);
    }
}

static inline void fill_rows(const GemmShape& s, int64_t per_batch, int64_t batch0, int64_t begin, int64_t count,
                             const char* a, const RowTables& t) {
    const int64_t size = dtype_size(s.dtype);
    int64_t b = batch0 + begin / per_batch, m = begin % per_batch;
    for (int64_t i = 0; i < count; ++i) {
        const char* row = a + (b * s.a_batch + m * s.a_row) * size;
        t.rows[i] = row;
        if (copies_rows(s)) {
            float* to = t.copied + i * s.k;
            DLPERF_PAIRS_SWITCH(s.dtype, copy_row<Pairs>(reinterpret_cast<const T*>(row), s.a_col, s.k, to))
            t.rows[i] = reinterpret_cast<const char*>(to);
        }
        if (++m == per_batch) {
            m = 0;
            ++b;
        }
    }
}

static inline Epilogue epilogue_of(const GemmShape& s, const Operands& o) {
    Epilogue e;
    e.dtype = s.dtype;
    e.out = o.c;
    e.residual = s.beta != 0.0f ? o.residual : nullptr;
    e.residual_col = s.r_col;
    e.alpha = s.alpha;
    e.beta = s.beta;
    e.act = s.act;
    e.act_param = s.act_param;
    return e;
}

static inline WeightView view_b(const GemmShape& s, const void* b, const int64_t* zero) {
    return {b, s.n, s.b_col, 1, zero, 1, 0, s.k, s.b_row};
}

// Whole items of a batch per thread, or all threads on one item after another.
static inline bool item_per_thread(const GemmShape& s, int64_t threads) {
    if (threads == 1) return true;
    if (s.batch == 1) return false;
    return s.batch % threads == 0 || s.batch >= 4 * threads || double(s.m) * double(s.n) * double(s.k) < 1e6;
}

// The paths of the other files.
void gemm_outer(const GemmShape& s, const Operands& o, Arena& arena, int64_t threads);
void take_gemm_outer(Arena& arena, const GemmShape& s, int64_t threads);
void gemm_dot(const GemmShape& s, int64_t per_batch, const Operands& o, Arena& arena, int64_t threads);
void sum_rows(int64_t rows, int64_t columns, int64_t row_step, DType dtype, const void* x, void* out);

}  // namespace dlperf::DLPERF_ISA_NS

// The register tiles themselves: DLPERF_HAS_AVX512_BF16_VARIANT adds those on pairs of bfloat16.
#include "cpu/activation_math.h"
#include "cpu/gemm_micro.h"
#include "cpu/normal_tail.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

struct F32Unit {
    static DLPERF_INLINE Vec madd(Vec a, Vec b, Vec c) { return fma(a, b, c); }
};

#if DLPERF_ISA_LEVEL == 3
struct PairUnit {
    static DLPERF_INLINE Vec madd(Vec a, Vec b, Vec c) { return {_mm512_dpbf16_ps(c.v, (__m512bh)b.v, (__m512bh)a.v)}; }
};
#endif

static DLPERF_INLINE Vec broadcast(const char* p) {
    float unit;
    std::memcpy(&unit, p, 4);
    return Vec::set1(unit);
}

static DLPERF_INLINE Vec broadcast_half(const char* p) {
    uint16_t half;
    std::memcpy(&half, p, 2);
    const uint32_t bits = half;
    float unit;
    std::memcpy(&unit, &bits, 4);
    return Vec::set1(unit);
}

template <int MR, int NV, class T>
static DLPERF_INLINE void store_tile(const TileCall& t, Vec (&acc)[MR][NV]) {
    const Epilogue& e = *t.epilogue;
    const int tail = t.n_valid - (NV - 1) * Vec::W;
    if (e.residual) {
        const Vec beta = Vec::set1(e.beta);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const T* r = static_cast<const T*>(e.residual) + t.residual_offset[i] + t.n0;
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) {
                const Vec x = j < NV - 1 ? Vec::load(r + j * Vec::W) : load_some(r + j * Vec::W, tail);
                acc[i][j] = fma(beta, x, acc[i][j]);
            }
        }
    }
    if (e.act == Act::relu) {
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j] = activate<Act::relu>(acc[i][j], 0.0f);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
        T* y = static_cast<T*>(e.out) + t.out_offset[i] + t.n0;
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
            if (j < NV - 1) {
                acc[i][j].store(y + j * Vec::W);
            } else {
                store_some(y + j * Vec::W, acc[i][j], tail);
            }
        }
    }
}

// Steps of the reduction by which B is fetched ahead: those that 192 multiply-adds take.
constexpr int fetch_ahead(int mr, int nv) {
    return 192 / (mr * nv);
}

// Asks for the lines of one row of a tile's results and residual: where these are larger than the caches, every store
// would else wait.
template <int NV>
static DLPERF_INLINE void fetch_result(const TileCall& t, int row) {
    const Epilogue& e = *t.epilogue;
    const int64_t size = e.dtype == DType::f32 ? 4 : 2, bytes = NV * Vec::W * size;
    const char* y = static_cast<const char*>(e.out) + (t.out_offset[row] + t.n0) * size;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(y + at, 0, 2);
    if (!e.residual || e.residual_col != 1) return;
    const char* r = static_cast<const char*>(e.residual) + (t.residual_offset[row] + t.n0) * size;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(r + at, 0, 2);
}

constexpr int64_t kRowsAhead = 16;  // units of A, whose rows may lie far apart

template <class Unit, int MR, int NV, bool Packed>
void tile(const TileCall& t) {
    Vec acc[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
            acc[i][j] = t.first ? Vec::zero() : Vec::load(t.acc + (i * NV + j) * Vec::W);
        }
    }
    const float* b = t.b;
    const int64_t b_step = t.b_step, b_ahead = fetch_ahead(MR, NV) * b_step;
    int results = t.last ? 0 : MR;  // rows of results asked for
    const int64_t stretches = ceil_stretch(t.taps * t.units), each = stretches ? (MR + stretches - 1) / stretches : 0;
    const auto fetch_results = [&] {
        for (int64_t i = 0; i < each && results < MR; ++i) fetch_result<NV>(t, results++);
    };
    const auto step = [&](auto&& broadcast_row) __attribute__((always_inline)) {
        Vec bv[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) bv[j] = Vec::load(b + j * Vec::W);
        // A block of B is larger than the L1 cache: it comes from L2, ahead of its use.
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) __builtin_prefetch(b + b_ahead + j * Vec::W, 0, 3);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const Vec av = broadcast_row(i);
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j] = Unit::madd(av, bv[j], acc[i][j]);
        }
    };
    if constexpr (Packed) {
        const char* a = reinterpret_cast<const char*>(t.a);
        const int64_t units = t.taps * t.units, a_step = t.a_step * 4;
        for (int64_t begin = 0; begin < units; begin += kStretch) {
            fetch_results();
            const int64_t end = begin + kStretch < units ? begin + kStretch : units;
            for (int64_t k = begin; k < end; ++k, b += b_step, a += a_step) {
                // A row in place may straddle two lines.
                __builtin_prefetch(a + kRowsAhead * a_step, 0, 3);
                __builtin_prefetch(a + kRowsAhead * a_step + (MR - 1) * 4, 0, 3);
                step([&](int i) { return broadcast(a + i * 4); });
            }
        }
    } else {
        const char* next = t.next;
        for (int64_t tap = 0; tap < t.taps; ++tap) {
            const char* a[MR];
            const char* const* rows = t.rows + tap * t.rows_ld;
#pragma GCC unroll 16
            for (int i = 0; i < MR; ++i) a[i] = rows[i] + t.a_offset;
            const int64_t whole = (t.units - t.odd) * 4;
            for (int64_t begin = 0; begin < whole; begin += kStretch * 4) {
                fetch_results();
                for (int64_t i = 0; i < t.next_rows; ++i) __builtin_prefetch(rows[MR + i] + t.a_offset + begin, 0, 3);
                for (int64_t i = 0; i < t.next_lines; ++i, next += 64) __builtin_prefetch(next, 0, 2);
                const int64_t end = begin + kStretch * 4 < whole ? begin + kStretch * 4 : whole;
                for (int64_t k = begin; k < end; k += 4, b += b_step) {
                    step([&](int i) { return broadcast(a[i] + k); });
                }
            }
            if (t.odd) {
#pragma GCC unroll 16
                for (int i = 0; i < MR; ++i) {
                    const Vec av = broadcast_half(a[i] + whole);
#pragma GCC unroll 4
                    for (int j = 0; j < NV; ++j) {
                        acc[i][j] = Unit::madd(av, Vec::load(b + j * Vec::W), acc[i][j]);
                    }
                }
                b += b_step;
            }
        }
    }

    const bool simple = t.last && t.epilogue->dtype != DType::f16 && t.epilogue->residual_col == 1 &&
                        (t.epilogue->act == Act::none || t.epilogue->act == Act::relu) && !t.bias_row;
    if (!simple) {
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j].store(t.acc + (i * NV + j) * Vec::W);
        }
        if (t.last) finish_rows(t, MR, NV * Vec::W);
        return;
    }
    if (t.epilogue->alpha != 1.0f) {
        const Vec alpha = Vec::set1(t.epilogue->alpha);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j] = acc[i][j] * alpha;
        }
    }
    if (t.bias_col) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) {
            const Vec bias = Vec::load(t.bias_col + t.n0 + j * Vec::W);
#pragma GCC unroll 16
            for (int i = 0; i < MR; ++i) acc[i][j] = acc[i][j] + bias;
        }
    }
    if (t.epilogue->dtype == DType::f32) {
        store_tile<MR, NV, float>(t, acc);
    } else {
        store_tile<MR, NV, bf16_t>(t, acc);
    }
}

// activate for results of T.
template <Act A, class T>
DLPERF_INLINE Vec activate_to(Vec x, float param) {
    if constexpr (A == Act::gelu && sizeof(T) == 2) return x * brief_normal_cdf(x);
    return activate<A>(x, param);
}

template <Act A, class T>
void finish(const TileCall& t, int mr, int64_t acc_step) {
    const Epilogue& e = *t.epilogue;
    const Vec alpha = Vec::set1(e.alpha), beta = Vec::set1(e.beta);
    for (int i = 0; i < mr; ++i) {
        const Vec row_bias = t.bias_row ? Vec::set1(t.bias_row[i]) : Vec::zero();
        T* y = static_cast<T*>(e.out) + t.out_offset[i] + t.n0;
        for (int j = 0; j < t.n_valid; j += Vec::W) {
            Vec v = load_some(t.acc + i * acc_step + j, t.n_valid - j);
            v = fma(v, alpha, row_bias);
            if (t.bias_col) v = v + load_some(t.bias_col + t.n0 + j, t.n_valid - j);
            if (e.residual) {
                const T* r = static_cast<const T*>(e.residual) + t.residual_offset[i];
                Vec x;
                if (e.residual_col == 1) {
                    x = load_some(r + t.n0 + j, t.n_valid - j);
                } else {
                    alignas(64) float lanes[Vec::W] = {0};
                    const int count = t.n_valid - j < Vec::W ? t.n_valid - j : Vec::W;
                    for (int l = 0; l < count; ++l) lanes[l] = to_float(r[(t.n0 + j + l) * e.residual_col]);
                    x = Vec::load(lanes);
                }
                v = fma(beta, x, v);
            }
            store_some(y + j, activate_to<A, T>(v, e.act_param), t.n_valid - j);
        }
    }
}

template <Act A>
void finish_dtype(const TileCall& t, int mr, int64_t acc_step) {
    DLPERF_DTYPE_SWITCH(t.epilogue->dtype, finish<A, T>(t, mr, acc_step))
}

}  // namespace

void finish_rows(const TileCall& t, int mr, int64_t acc_step) {
    DLPERF_ACT_SWITCH(t.epilogue->act, finish_dtype<A>(t, mr, acc_step));
}

// Rows 1..MR of one width.
#define TILES_4(U, NV, P) nullptr, tile<U, 1, NV, P>, tile<U, 2, NV, P>, tile<U, 3, NV, P>, tile<U, 4, NV, P>
#define TILES_6(U, NV, P) TILES_4(U, NV, P), tile<U, 5, NV, P>, tile<U, 6, NV, P>
#define TILES_8(U, NV, P) TILES_6(U, NV, P), tile<U, 7, NV, P>, tile<U, 8, NV, P>
#define TILES_12(U, NV, P) \
    TILES_8(U, NV, P), tile<U, 9, NV, P>, tile<U, 10, NV, P>, tile<U, 11, NV, P>, tile<U, 12, NV, P>

#if DLPERF_ISA_LEVEL >= 4
#define WIDTHS(U, P) \
    {}, {TILES_12(U, 1, P)}, {TILES_12(U, 2, P)}, {}, {}
#elif DLPERF_ISA_LEVEL >= 2
#define WIDTHS(U, P)                                                    \
    {}, {TILES_12(U, 1, P)}, {TILES_12(U, 2, P)}, {TILES_8(U, 3, P)}, { \
        TILES_6(U, 4, P)                                                \
    }
#elif DLPERF_ISA_LEVEL == 1
#define WIDTHS(U, P) \
    {}, {TILES_8(U, 1, P)}, {TILES_6(U, 2, P)}, {}, {}
#else
#define WIDTHS(U, P)                                                  \
    {}, {TILES_4(U, 1, P)}, {TILES_4(U, 2, P)}, {TILES_4(U, 3, P)}, { \
        TILES_4(U, 4, P)                                              \
    }
#endif

const MicroTable micro_f32 = {{WIDTHS(F32Unit, false)}, {WIDTHS(F32Unit, true)}};
#if DLPERF_ISA_LEVEL == 3
const MicroTable micro_bf16 = {{WIDTHS(PairUnit, false)}, {WIDTHS(PairUnit, true)}};
#endif

}  // namespace dlperf::DLPERF_ISA_NS

// Attention on AMX's tiles: packing, block products, and rows of scores as what the tiles take.
// Only attention's `*_kernel.cpp` files include this.
//
// Operands are bfloat16, or float32 (float16 too) cut into three bfloat16 parts (gemm_tiles.h):
//
//   A    rows a constant step apart, of [step][part] 32 bfloat16 each
//   B    [step][part][16 units], rows of columns a constant step apart
//
// A unit is two neighbours of the reduction in bfloat16, and u and u + 16 in parts. Both sides are zero beyond the
// reduction's end: what a tile holds there is multiplied.
//
// How far float32's parts are float32 depends on magnitudes. Errors of scores count as they are, not relative to the
// scores: there it is enough that no part overflows. For factors of sums (values) a column's largest has to be 0 or
// kLeastFactor at least: then what is lost is below 2^-30 of it, or below float32's least normal number.
#pragma once

#include "cpu/attention_softmax.h"
#include "cpu/gemm_tiles.h"

namespace dlperf::DLPERF_ISA_NS::attention {

constexpr int64_t kSlab = 32;  // queries whose scores are in the first-level cache together
constexpr float kLeastFactor = 0x1p-96f, kMostScale = 0x1p30f;

// Whether there are tiles and they pay: float32 has to be cut into parts first.
static inline bool uses_tiles(const AttentionShape& s) {
    if (!kTiles) return false;
    if (s.dtype == DType::bf16) return true;
    const int64_t queries = s.kv_heads ? s.sq * (s.heads / s.kv_heads) : 0;
    return float32_tiles() && queries >= 32 && s.sk >= 32 && s.e >= 20 && s.ev >= 12 && s.scale > -kMostScale &&
           s.scale < kMostScale;
}

#if DLPERF_ISA_LEVEL >= 4

template <class T>
constexpr bool kThirdsOf = true;
template <>
constexpr bool kThirdsOf<bf16_t> = false;

// Floats of a row of A over n elements: an odd number of cache lines.
template <bool Thirds>
static DLPERF_INLINE int64_t row_step(int64_t n) {
    return kTileUnits * (steps_of(n) * parts_of(!Thirds) | 1);
}
// Rows of B over n elements.
template <bool Thirds>
static DLPERF_INLINE int64_t units_of(int64_t n) {
    return kTileUnits * steps_of(n) * parts_of(!Thirds);
}

// ---- Products ----

// Tiles 0 to 3 are C's, 4 and 5 A's, 6 and 7 B's.
template <bool Thirds, int Rows, int Columns>
static void tile_block(const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t steps, float* c,
                       int64_t c_step, bool accumulate) {
    const int64_t a_bytes = a_step * 4, b_bytes = b_step * 4, c_bytes = c_step * 4;
    const float *a_low = a + kTileRows * a_step, *b_right = b + kTileRows;
    float* c_low = c + kTileRows * c_step;
    const auto load_a = [&](int64_t part) {
        _tile_loadd(4, a + part * kTileUnits, a_bytes);
        if constexpr (Rows == 2) _tile_loadd(5, a_low + part * kTileUnits, a_bytes);
    };
    const auto load_b = [&](int64_t part) {
        _tile_loadd(6, b + part * kTileUnits * b_step, b_bytes);
        if constexpr (Columns == 2) _tile_loadd(7, b_right + part * kTileUnits * b_step, b_bytes);
    };
    const auto multiply = [] {
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (Columns == 2) _tile_dpbf16ps(1, 4, 7);
        if constexpr (Rows == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (Rows == 2 && Columns == 2) _tile_dpbf16ps(3, 5, 7);
    };
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        if constexpr (Columns == 2) _tile_loadd(1, c + kTileRows, c_bytes);
        if constexpr (Rows == 2) _tile_loadd(2, c_low, c_bytes);
        if constexpr (Rows == 2 && Columns == 2) _tile_loadd(3, c_low + kTileRows, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    constexpr int64_t parts = Thirds ? kThirds : 1;
    for (int64_t step = 0; step < steps; ++step) {
        if constexpr (Thirds) {
            load_b(0), load_a(2), multiply();
            load_a(1), multiply();
            load_a(0), multiply();
            load_b(1), multiply();
            load_a(1), multiply();
            load_a(0), load_b(2), multiply();
        } else {
            load_a(0), load_b(0), multiply();
        }
        a += parts * kTileUnits, a_low += parts * kTileUnits;
        b += parts * kTileUnits * b_step, b_right += parts * kTileUnits * b_step;
    }
    _tile_stored(0, c, c_bytes);
    if constexpr (Columns == 2) _tile_stored(1, c + kTileRows, c_bytes);
    if constexpr (Rows == 2) _tile_stored(2, c_low, c_bytes);
    if constexpr (Rows == 2 && Columns == 2) _tile_stored(3, c_low + kTileRows, c_bytes);
}

// c[rows][vecs * 16] (+)= A b over `steps`. Rows of all three are whole tiles; panels of b lie panel_step apart.
template <bool Thirds>
static void tile_product(int64_t rows, int64_t vecs, int64_t steps, const float* a, int64_t a_step, const float* b,
                         int64_t b_step, int64_t panel_step, float* c, int64_t c_step, bool accumulate) {
    constexpr int64_t two = 2 * kTileRows;
    for (int64_t v = 0; v < vecs; v += 2) {
        const float* columns = b + v / kMaxVecs * panel_step + v % kMaxVecs * Vec::W;
        for (int64_t i = 0; i < rows; i += two) {
            const bool low = rows - i > kTileRows, right = vecs - v > 1;
            const auto block = low ? (right ? tile_block<Thirds, 2, 2> : tile_block<Thirds, 2, 1>)
                                   : (right ? tile_block<Thirds, 1, 2> : tile_block<Thirds, 1, 1>);
            block(a + i * a_step, a_step, columns, b_step, steps, c + i * c_step + v * Vec::W, c_step, accumulate);
        }
    }
}

// ---- Packing ----

// What was seen of operands: largest magnitudes by lane.
struct Seen {
    __m512i most = _mm512_setzero_si512();

    DLPERF_INLINE void add(Vec x) { most = largest(most, x); }
    // Of a factor, too small a row or column won't do either: it counts as too large.
    DLPERF_INLINE void add_factor(const Seen& row) {
        const __m512i least_factor = _mm512_castps_si512(_mm512_set1_ps(kLeastFactor));
        const Mask small = _mm512_cmplt_epu32_mask(row.most, least_factor) & _mm512_test_epi32_mask(row.most, row.most);
        most = _mm512_max_epu32(most, _mm512_mask_set1_epi32(row.most, small, -1));
    }
    DLPERF_INLINE Seen together() const { return {_mm512_set1_epi32(int(_mm512_reduce_max_epu32(most)))}; }
    // A part of some element overflows, or the element is no number.
    DLPERF_INLINE bool unfit() const {
        return _mm512_cmpge_epu32_mask(most, _mm512_castps_si512(_mm512_set1_ps(kMostMagnitude)));
    }
};

// 32 neighbours as a row of A's tiles.
template <bool Thirds>
static DLPERF_INLINE void put_row(Vec a, Vec b, float* dst) {
    if constexpr (Thirds) {
        const Parts p = cut(a, b);
        for (int64_t i = 0; i < kThirds; ++i) _mm512_storeu_si512(dst + i * kTileUnits, p.part[i]);
    } else {
        _mm512_storeu_si512(dst, (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v));
    }
}

// n rows of A from src[n][width].
template <bool Thirds, class T>
static void pack_rows(const T* src, int64_t src_step, int64_t n, int64_t width, float* dst, int64_t dst_step,
                      Seen& seen) {
    if constexpr (Thirds) {
        for (int64_t i = 0; i < n; ++i, src += src_step, dst += dst_step) {
            for (int64_t d = 0; d < width; d += kStepRun) {
                const Vec a = load_some(src + d, width - d);
                const Vec b = width - d > Vec::W ? load_some(src + d + Vec::W, width - d - Vec::W) : Vec::zero();
                seen.add(a), seen.add(b);
                put_row<true>(a, b, dst + d / kStepRun * kThirds * kTileUnits);
            }
        }
    } else {
        copy_pairs(src, src_step, n, width, dst, dst_step);
    }
}

// A panel of B from the transpose of src[n][width]: dst[units][kPanel], zero beyond n.
template <bool Thirds, class T>
static void pack_panel_turned(const T* src, int64_t src_step, int64_t n, int64_t width, float* dst, Seen& seen) {
    for (int64_t j = 0; j < kPanel; j += Vec::W) {
        float* out = dst + j;
        for (int64_t d = 0; d < width; d += kStepRun) {
            Vec r[Vec::W];
            if constexpr (Thirds) {
                Vec low[Vec::W];
#pragma GCC unroll 16
                for (int i = 0; i < Vec::W; ++i) {
                    low[i] = j + i < n ? load_some(src + (j + i) * src_step + d, width - d) : Vec::zero();
                }
                attention::transpose(low);
#pragma GCC unroll 16
                for (int i = 0; i < Vec::W; ++i) {
                    const int64_t left = width - d - Vec::W;
                    r[i] = j + i < n && left > 0 ? load_some(src + (j + i) * src_step + d + Vec::W, left) : Vec::zero();
                }
                attention::transpose(r);
                for (int u = 0; u < Vec::W; ++u, out += kPanel) {
                    const Parts p = cut(low[u], r[u]);
                    seen.add(low[u]), seen.add(r[u]);
                    for (int64_t i = 0; i < kThirds; ++i) {
                        _mm512_storeu_si512(out + i * kTileUnits * kPanel, p.part[i]);
                    }
                }
                out += (kThirds - 1) * kTileUnits * kPanel;
            } else {
#pragma GCC unroll 16
                for (int i = 0; i < Vec::W; ++i) {
                    r[i] = j + i < n ? load_pairs(src + (j + i) * src_step + d, width - d) : Vec::zero();
                }
                attention::transpose(r);
#pragma GCC unroll 16
                for (int u = 0; u < Vec::W; ++u) r[u].store(out + u * kPanel);
                out += kTileUnits * kPanel;
            }
        }
    }
}

// B from src[n][width]: dst[units][dst_step], whole steps.
template <bool Thirds, class T>
static void pack_straight(const T* src, int64_t src_step, int64_t n, int64_t width, float* dst, int64_t dst_step,
                          Seen& seen) {
    for (int64_t k = 0; k < n; k += kStepRun, dst += (Thirds ? kThirds : 1) * kTileUnits * dst_step) {
        const int64_t there = least(kStepRun, n - k);
        const T* rows = src + k * src_step;
        if constexpr (Thirds) {
            for (int64_t d = 0; d < width; d += Vec::W) {
                Seen column;
                for (int64_t u = 0; u < kTileUnits; ++u) {
                    const T* p = rows + u * src_step + d;
                    const Vec a = u < there ? load_some(p, width - d) : Vec::zero();
                    const Vec b =
                        u + kTileUnits < there ? load_some(p + kTileUnits * src_step, width - d) : Vec::zero();
                    const Parts cuts = cut(a, b);
                    column.add(a), column.add(b);
                    for (int64_t i = 0; i < kThirds; ++i) {
                        _mm512_storeu_si512(dst + (i * kTileUnits + u) * dst_step + d, cuts.part[i]);
                    }
                }
                seen.add_factor(column);
            }
        } else {
            pack_value_pairs(rows, src_step, there, width, dst, dst_step);
            for (int64_t u = (there + 1) / 2; u < kTileUnits; ++u) {
                for (int64_t d = 0; d < width; d += Vec::W) Vec::zero().store(dst + u * dst_step + d);
            }
        }
    }
}

// Two rows of a step, units of B: neighbours in bfloat16, else u and u + 16.
template <bool Thirds>
static DLPERF_INLINE void put_unit(Vec a, Vec b, float* dst, int64_t dst_step) {
    if constexpr (Thirds) {
        const Parts p = cut(a, b);
        for (int64_t i = 0; i < kThirds; ++i) _mm512_storeu_si512(dst + i * kTileUnits * dst_step, p.part[i]);
    } else {
        const __m256i low = (__m256i)_mm512_cvtneps_pbh(a.v), high = (__m256i)_mm512_cvtneps_pbh(b.v);
        join_pair({_mm512_castsi512_ps(_mm512_cvtepu16_epi32(low))}, {_mm512_castsi512_ps(_mm512_cvtepu16_epi32(high))})
            .store(dst);
    }
}

// A from the transpose of src[n][width]: dst[round_up(width, 16)][dst_step], whole steps, zero beyond n and width.
template <bool Thirds, class T>
static void pack_rows_turned(const T* src, int64_t src_step, int64_t n, int64_t width, float* dst, int64_t dst_step,
                             Seen& seen) {
    constexpr int64_t parts = Thirds ? kThirds : 1;
    for (int64_t k = 0; k < n; k += kStepRun, dst += parts * kTileUnits) {
        const int64_t there = n - k;
        for (int64_t d = 0; d < width; d += Vec::W) {
            const auto load = [&](int64_t i) {
                return i < there ? load_lanes<!Thirds>(src + (k + i) * src_step + d, width - d) : Vec::zero();
            };
            Vec r[parts][Vec::W];
            Seen row;
#pragma GCC unroll 16
            for (int u = 0; u < Vec::W; ++u) {
                if constexpr (Thirds) {
                    const Vec a = load(u), b = load(u + kTileUnits);
                    const Parts p = cut(a, b);
                    row.add(a), row.add(b);
                    for (int64_t i = 0; i < parts; ++i) r[i][u] = {_mm512_castsi512_ps(p.part[i])};
                } else {
                    r[0][u] = join_pair(load(2 * u), load(2 * u + 1));
                }
            }
            for (int64_t i = 0; i < parts; ++i) {
                attention::transpose(r[i]);
#pragma GCC unroll 16
                for (int j = 0; j < Vec::W; ++j) r[i][j].store(dst + (d + j) * dst_step + i * kTileUnits);
            }
            if constexpr (Thirds) seen.add_factor(row);
        }
    }
}

// ---- Rows of scores ----

// 2^x for x <= 0 within 2 ulp, or for bfloat16 within 3e-6; 0 below 2^-125. NaN stays NaN.
template <bool Thirds>
static DLPERF_INLINE Vec power_below(Vec x, Mask lanes = 0xffff) {
    const Mask there = _mm512_mask_cmp_ps_mask(lanes, x.v, _mm512_set1_ps(-125.0f), _CMP_NLT_UQ);
    const Vec f = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
    Vec p;
    if constexpr (Thirds) {
        p = Vec::set1(0.0018671453f);
        p = fma(p, f, Vec::set1(0.00901699346f));
        p = fma(p, f, Vec::set1(0.0557999462f));
        p = fma(p, f, Vec::set1(0.240164444f));
        p = fma(p, f, Vec::set1(0.693151295f));
    } else {
        p = Vec::set1(0.0134266848f);
        p = fma(p, f, Vec::set1(0.0522424728f));
        p = fma(p, f, Vec::set1(0.241280213f));
        p = fma(p, f, Vec::set1(0.693044841f));
    }
    p = fma(p, f, Vec::set1(1.0f));
    return {_mm512_maskz_scalef_ps(there, p.v, x.v)};
}

static DLPERF_INLINE float power_below(float x) {
    return _mm512_cvtss_f32(power_below<true>(Vec::set1(x)).v);
}

// s = scale s + mask.
static inline void mask_row(float* s, int64_t n, float scale, const float* mask) {
    for (int64_t j = 0; j < n; j += Vec::W) {
        fma(Vec::set1(scale), Vec::load(s + j), load_some(mask + j, n - j)).store(s + j);
    }
}

// NaN are passed over.
static DLPERF_INLINE float largest_of_row(const float* s, int64_t n) {
    const Vec low = Vec::set1(-kInfinity);
    Vec top[4] = {low, low, low, low};
    int64_t j = 0;
    for (; j + 4 * Vec::W <= n; j += 4 * Vec::W) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) top[u] = larger(Vec::load(s + j + u * Vec::W), top[u]);
    }
    for (; j < n; j += Vec::W) top[0] = larger(first_lanes(Vec::load(s + j), n - j, low), top[0]);
    return larger(larger(top[0], top[1]), larger(top[2], top[3])).max_value();
}

// A row of A's: 2^(factor (score - base)) times dropout's factors, if any; zero from n up to the end of steps. In
// bfloat16 `out` may be `s`. Returns the sum without dropout.
template <bool Thirds, bool Dropped>
static DLPERF_INLINE float weights_row(const float* s, int64_t n, int64_t steps, float base, float factor,
                                       const float* dropout, float* out) {
    constexpr int64_t out_step = (Thirds ? kThirds : 1) * kTileUnits;
    const Vec from = Vec::set1(base), by = Vec::set1(factor);
    Vec sum[2] = {Vec::zero(), Vec::zero()};
    int64_t step = 0;
    for (; step < n / kStepRun; ++step, s += kStepRun, out += out_step) {
        Vec a = power_below<Thirds>((Vec::load(s) - from) * by);
        Vec b = power_below<Thirds>((Vec::load(s + Vec::W) - from) * by);
        sum[0] = sum[0] + a, sum[1] = sum[1] + b;
        if constexpr (Dropped) {
            a = a * Vec::load(dropout), b = b * Vec::load(dropout + Vec::W);
            dropout += kStepRun;
        }
        put_row<Thirds>(a, b, out);
    }
    n -= step * kStepRun;
    if (n > 0) {
        const Mask first = Vec::first(int(least(n, Vec::W))), second = Vec::first(int(n > Vec::W ? n - Vec::W : 0));
        Vec a = power_below<Thirds>((Vec::load(s) - from) * by, first);
        Vec b = power_below<Thirds>((Vec::load(s + Vec::W) - from) * by, second);
        sum[0] = sum[0] + a, sum[1] = sum[1] + b;
        if constexpr (Dropped) {
            a = select(first, a * Vec::load(dropout), Vec::zero());
            b = select(second, b * Vec::load(dropout + Vec::W), Vec::zero());
        }
        put_row<Thirds>(a, b, out);
        ++step, out += out_step;
    }
    for (; step < steps; ++step) {
        for (int64_t i = 0; i < out_step; i += Vec::W, out += Vec::W) Vec::zero().store(out);
    }
    return (sum[0] + sum[1]).sum();
}

#endif

}  // namespace dlperf::DLPERF_ISA_NS::attention

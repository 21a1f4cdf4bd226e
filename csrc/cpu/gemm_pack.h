// Packing: operands of a product into the order that the register tiles read, converted to the type they multiply in.
//
// B becomes panels of kPanel columns (the last one of as many whole vectors as are left): [units][panel width], zero
// beyond N. A becomes tiles of MR rows: [units][MR]. With pairs, a unit is two bfloat16 neighbours of the reduction
// (zero in the place of a missing second), else a float.
#pragma once

#include "cpu/gemm_micro.h"
#include "cpu/parallel.h"

namespace dlperf::DLPERF_ISA_NS {

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}
static inline int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// Columns of the panel that starts at n0, rounded to whole vectors.
static inline int64_t panel_width(int64_t n, int64_t n0) {
    return round_up(min64(n - n0, kPanel), Vec::W);
}

// Lanes of float; or, for pairs, of bfloat16 bits in the low half.
template <bool Pairs, class T>
static DLPERF_INLINE Vec load_lanes(const T* p, int64_t n) {
#if DLPERF_ISA_LEVEL >= 3
    if constexpr (Pairs) {
        const __m256i h = _mm256_maskz_loadu_epi16(n >= 16 ? __mmask16(0xffff) : Vec::first(int(n)), p);
        return {_mm512_castsi512_ps(_mm512_cvtepu16_epi32(h))};
    }
#endif
    return load_some(p, n);
}

// Units from two neighbours of the reduction: lanes of load_lanes<true>.
static DLPERF_INLINE Vec join_pair(Vec low, Vec high) {
#if DLPERF_ISA_LEVEL >= 3
    return {_mm512_castsi512_ps(
        _mm512_or_si512(_mm512_castps_si512(low.v), _mm512_slli_epi32(_mm512_castps_si512(high.v), 16)))};
#else
    return low;
#endif
}

static DLPERF_INLINE Vec overlay(Vec a, Vec b) {
#if DLPERF_ISA_LEVEL >= 2
    return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))};
#else
    return b;
#endif
}

#if DLPERF_ISA_LEVEL >= 2
static DLPERF_INLINE void transpose(Vec (&r)[16]) {
    __m512 t[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        const __m512 a = _mm512_unpacklo_ps(r[i].v, r[i + 1].v), b = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m512 c = _mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v), d = _mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
#elif DLPERF_ISA_LEVEL == 1
static DLPERF_INLINE void transpose(Vec (&r)[8]) {
    __m256 t[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        const __m256 a = _mm256_unpacklo_ps(r[i].v, r[i + 1].v), b = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m256 c = _mm256_unpacklo_ps(r[i + 2].v, r[i + 3].v), d = _mm256_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[i].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        r[i + 4].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}
#else
static DLPERF_INLINE void transpose(Vec (&)[1]) {}
#endif

// One panel of B whose columns are contiguous: `depth` rows, row_step elements apart.
template <bool Pairs, class T>
static void pack_panel_rows(const T* src, int64_t row_step, int64_t depth, int64_t columns, float* dst) {
    const int64_t width = round_up(columns, Vec::W);
    for (int64_t k = 0; k < depth; k += Pairs ? 2 : 1, dst += width) {
        const T* row = src + k * row_step;
        for (int64_t j = 0; j < width; j += Vec::W) {
            Vec v = load_lanes<Pairs>(row + j, columns - j);
            if (Pairs && k + 1 < depth) v = join_pair(v, load_lanes<Pairs>(row + row_step + j, columns - j));
            v.store(dst + j);
        }
    }
}

// Where the elements of a contiguous run of memory go: reduction index within the tap, and the tap's first unit.
// Without tables the run is the reduction itself. The run repeats `outer` times, each adding one to the index.
struct RunMap {
    int64_t outer, outer_step, length;
    const int32_t* index;
    const int32_t* first_unit;
    int64_t units;  // of the whole panel
};

constexpr int64_t kColumnAhead = 256;  // bytes: weights come from memory, in too many streams to be seen coming

// One vector of columns (`lanes` of them, column_step apart) of a panel; each column's run is contiguous.
template <bool Pairs, class T>
static void pack_panel_columns(const T* src, int64_t column_step, int64_t lanes, const RunMap& map, float* dst,
                               int64_t dst_step) {
    if (Pairs) {
        for (int64_t u = 0; u < map.units; ++u) Vec::zero().store(dst + u * dst_step);
    }
    Vec r[Vec::W];
    for (int64_t o = 0; o < map.outer; ++o, src += map.outer_step) {
        for (int64_t j0 = 0; j0 < map.length; j0 += Vec::W) {
            const int64_t count = min64(Vec::W, map.length - j0);
            // Past its end a column is followed by the one that the next call packs.
            const int64_t ahead = j0 + kColumnAhead / int64_t(sizeof(T)), next = ahead < map.length ? 0 : Vec::W;
            const T* fetch = src + next * column_step + ahead - (next ? map.length : 0);
            for (int i = 0; i < Vec::W; ++i) __builtin_prefetch(fetch + i * column_step, 0, 2);
            if (lanes >= Vec::W && count == Vec::W) {
                for (int i = 0; i < Vec::W; ++i) r[i] = load_lanes<Pairs>(src + i * column_step + j0, Vec::W);
            } else {
                for (int i = 0; i < Vec::W; ++i) {
                    r[i] = i < lanes ? load_lanes<Pairs>(src + i * column_step + j0, count) : Vec::zero();
                }
            }
            transpose(r);
            for (int64_t j = 0; j < count; ++j) {
                const int64_t k = (map.index ? map.index[j0 + j] : j0 + j) + o;
                const int64_t first = map.first_unit ? map.first_unit[j0 + j] : 0;
                if constexpr (Pairs) {
                    float* p = dst + (first + k / 2) * dst_step;
                    const Vec there = Vec::load(p);
                    (k & 1 ? join_pair(there, r[j]) : overlay(there, r[j])).store(p);
                } else {
                    r[j].store(dst + (first + k) * dst_step);
                }
            }
        }
    }
}

// One vector of columns, any strides: element (k, lane) at src[k * row_step + lane * column_step].
template <bool Pairs, class T>
static void pack_panel_gather(const T* src, int64_t row_step, int64_t column_step, int64_t lanes, int64_t depth,
                              float* dst, int64_t dst_step) {
    for (int64_t k = 0; k < depth; k += Pairs ? 2 : 1, dst += dst_step) {
        T gathered[2][Vec::W] = {};
        for (int64_t i = 0; i < lanes && i < Vec::W; ++i) {
            gathered[0][i] = src[k * row_step + i * column_step];
            if (Pairs && k + 1 < depth) gathered[1][i] = src[(k + 1) * row_step + i * column_step];
        }
        Vec v = load_lanes<Pairs>(gathered[0], Vec::W);
        if (Pairs) v = join_pair(v, load_lanes<Pairs>(gathered[1], Vec::W));
        v.store(dst);
    }
}

// A panel of B by whichever way its strides allow: element (k, n) at src[k * row_step + n * column_step].
template <bool Pairs, class T>
static void pack_panel(const T* src, int64_t row_step, int64_t column_step, int64_t depth, int64_t columns,
                       float* dst) {
    if (column_step == 1) return pack_panel_rows<Pairs>(src, row_step, depth, columns, dst);
    const int64_t width = round_up(columns, Vec::W);
    for (int64_t j = 0; j < columns; j += Vec::W) {
        if (row_step == 1) {
            const RunMap map = {1, 0, depth, nullptr, nullptr, ceil_div(depth, Pairs ? 2 : 1)};
            pack_panel_columns<Pairs>(src + j * column_step, column_step, columns - j, map, dst + j, width);
        } else {
            pack_panel_gather<Pairs>(src + j * column_step, row_step, column_step, columns - j, depth, dst + j, width);
        }
    }
}

#if DLPERF_ISA_LEVEL >= 2
static DLPERF_INLINE __m256 load_eight(const float* p) {
    return _mm256_loadu_ps(p);
}
static DLPERF_INLINE __m256 load_eight(const bf16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static DLPERF_INLINE __m256 load_eight(const f16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#endif

constexpr int kEight = 8;

// Eight units of neighbouring rows, of the reduction's step at p and, in pairs, of the next one at `next`.
template <bool Pairs, class T>
static DLPERF_INLINE void put_eight(const T* p, const T* next, float* dst) {
#if DLPERF_ISA_LEVEL >= 2
    if constexpr (Pairs) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(next));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), _mm_unpacklo_epi16(low, high));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 4), _mm_unpackhi_epi16(low, high));
    } else {
        _mm256_storeu_ps(dst, load_eight(p));
    }
#else
    for (int i = 0; i < kEight; i += Vec::W) Vec::load(p + i).store(dst + i);
#endif
}

// `width` units of one step, masked.
template <bool Pairs, class T>
static DLPERF_INLINE void put_some(const T* p, int64_t m_step, int64_t k_step, bool second, int width, float* dst) {
    for (int i = 0; i < width; i += Vec::W) {
        const int count = width - i;
        Vec v;
        if (m_step == 1) {
            v = load_lanes<Pairs>(p + i, count);
            if (second) v = join_pair(v, load_lanes<Pairs>(p + i + k_step, count));
        } else {
            T gathered[2][Vec::W] = {};
            for (int l = 0; l < count && l < Vec::W; ++l) {
                gathered[0][l] = p[(i + l) * m_step];
                if (second) gathered[1][l] = p[(i + l) * m_step + k_step];
            }
            v = load_lanes<Pairs>(gathered[0], Vec::W);
            if (Pairs) v = join_pair(v, load_lanes<Pairs>(gathered[1], Vec::W));
        }
        store_some(dst + i, v, count);
    }
}

constexpr int kTilesTogether = 8;  // their rows fill whole cache lines, or nearly
constexpr int kStepsAhead = 8;

// Tiles of A whose rows are contiguous in memory across m: element (m, k) at src[m * m_step + k * k_step].
// Tile t of `mr` rows starts at dst + t * mr * units; the last tile is as narrow as its rows.
// Few tiles at a time: one step of all would be as many lines of dst as there are tiles, most of them in the same sets
// of the L1 cache.
template <bool Pairs, class T>
static void pack_tiles(const T* src, int64_t m_step, int64_t k_step, int64_t depth, int64_t rows, int mr, float* dst) {
    const int64_t units = ceil_div(depth, Pairs ? 2 : 1), together = kTilesTogether * mr;
    // What eight units write beyond a tile's `mr` the next step overwrites; what they read beyond them is the next
    // row's.
    const bool eight = m_step == 1 && mr <= kEight && k_step >= kEight;
    for (int64_t begin = 0; begin < rows; begin += together) {
        const int64_t end = min64(rows, begin + together);
        for (int64_t u = 0; u < units; ++u) {
            const int64_t k = Pairs ? 2 * u : u;
            const bool second = Pairs && k + 1 < depth;
            const T* step = src + k * k_step;
            if (m_step == 1) {
                const char* ahead =
                    reinterpret_cast<const char*>(step + kStepsAhead * (Pairs ? 2 : 1) * k_step + begin);
                for (int64_t at = 0; at < (end - begin) * int64_t(sizeof(T)); at += 64) {
                    __builtin_prefetch(ahead + at, 0, 3);
                    if (Pairs) __builtin_prefetch(ahead + at + k_step * int64_t(sizeof(T)), 0, 3);
                }
            }
            for (int64_t m = begin; m < end; m += mr) {
                const int width = int(min64(mr, end - m));
                float* out = dst + m * units + u * width;
                if (eight && width == mr && u + 2 < units) {
                    put_eight<Pairs>(step + m, step + m + k_step, out);
                } else {
                    put_some<Pairs>(step + m * m_step, m_step, k_step, second, width, out);
                }
            }
        }
    }
}

template <bool Condition, class A, class B>
struct Choose {
    using type = A;
};
template <class A, class B>
struct Choose<false, A, B> {
    using type = B;
};

template <class T>
static void convert_run(const T* src, float* dst, int64_t n) {
    for (int64_t i = 0; i < n; i += Vec::W) store_some(dst + i, load_some(src + i, n - i), n - i);
}

template <class T>
static void copy_run(const T* src, float* dst, int64_t n) {
    convert_run(src, dst, n);
}

static inline void copy_run(const bf16_t* src, bf16_t* dst, int64_t n) {
    std::memcpy(dst, src, size_t(max64(0, n)) * sizeof(bf16_t));
}

}  // namespace dlperf::DLPERF_ISA_NS

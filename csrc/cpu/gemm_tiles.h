// Products on AMX's tiles of bfloat16: what packs for them and what multiplies agree on.
//
// A tile of A is 16 rows of 32 neighbours of the reduction, a tile of B 16 pairs of them by 16 columns, a tile of C 16
// by 16 floats; a step multiplies 32 rows by 32 columns. bfloat16 is multiplied as it is. float32 is cut into three
// bfloat16 whose sum it is, exactly,
//
//   x = x1 + x2 + x3,  |x2| <= 2^-8 |x|,  |x3| <= 2^-16 |x|,
//
// and x y = x1 y1 + x1 y2 + x2 y1 + x2 y2 + x1 y3 + x3 y1 + r with |r| <= 2^-23 |x y|. The tiles
// sum in float32. They take denormals for zero, and a part of an infinity
// is no number: so a row of A or a column of B is multiplied so only where its largest magnitude is 0 or lies in
// [kLeastMagnitude, kMostMagnitude); what a flushed product loses then is below 2^-30 of the row's largest times the
// column's, and no part overflows. Other rows, and products with other columns, are multiplied as floats.
//
//   A    [tile of 16 rows][step][part][16 rows][32 bfloat16]
//   B    [step][part][16 units][panel width], a unit being two neighbours of the reduction: 2u and 2u + 1 of bfloat16,
//        u and u + 16 of float32's parts (A's rows hold them in that order too)
#pragma once

#include "cpu/gemm_pack.h"
#include "cpu/isa.h"

namespace dlperf::DLPERF_ISA_NS {

#if DLPERF_ISA_LEVEL >= 4
constexpr bool kTiles = true;
#else
constexpr bool kTiles = false;
#endif

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileUnits = 16;  // of a step: 32 elements of the reduction
constexpr int64_t kStepRun = 32;    // elements of a step
constexpr int64_t kTileFloats = 256;
constexpr int64_t kThirds = 3;
constexpr int64_t kAPackBytes = 704 << 10;  // of a chunk of the reduction: a share of L2
constexpr int64_t kGroupColumns = 1024;     // whose sums are kept while the reduction advances by chunks
constexpr float kLeastMagnitude = 0x1p-48f, kMostMagnitude = 0x1p60f;

constexpr int64_t kThirdsDepth = 256;  // of a block of the reduction where both operands are cut
// Fewer rows or columns are not worth cutting the other operand into parts.
constexpr int64_t kThirdsRows = 48, kThirdsPackedRows = 24, kThirdsColumns = 32;

// Whether a product goes by tiles: all of bfloat16 do, of float32 those large enough.
static inline bool uses_tiles(bool pairs, int64_t rows, int64_t columns, int64_t run, bool prepacked) {
    if (!kTiles) return false;
    if (pairs) return true;
    return float32_tiles() && rows >= (prepacked ? kThirdsPackedRows : kThirdsRows) && columns >= kThirdsColumns &&
           run > 0;
}

static inline int64_t parts_of(bool pairs) {
    return pairs ? 1 : kThirds;
}
static inline int64_t steps_of(int64_t run) {
    return ceil_div(run, kStepRun);
}

// Two tiles of A over so many steps of the reduction. `row` and `step` are bytes to the next row and the next step.
struct TileOperand {
    const char *upper, *lower;
    int64_t row, step, steps;
};

// Memory that is asked for while tiles are multiplied: `bytes`, whole lines, in each step.
struct Ahead {
    const char *at, *end;
    int64_t bytes;
};

struct TileSizes {
    int64_t tiles;          // of 16 rows, an even number
    int64_t chunk, chunks;  // steps of a chunk, and how many there are
    int64_t a, most, acc;   // floats
    int64_t operands;

    int64_t floats() const { return a + most + acc + operands; }
};

// What `rows` by `columns` need between the steps: no less than fewer rows, columns or taps do.
static inline TileSizes tile_sizes(int64_t rows, int64_t columns, int64_t taps, int64_t run, bool pairs) {
    TileSizes z;
    z.tiles = round_up(ceil_div(rows, kTileRows), 2);
    const int64_t steps = max64(1, taps * steps_of(run)), parts = parts_of(pairs);
    const int64_t most = max64(4, kAPackBytes / (z.tiles * kTileFloats * 4 * parts));
    z.chunks = ceil_div(steps, most);
    z.chunk = ceil_div(steps, z.chunks);
    const int64_t step = z.tiles * parts * kTileFloats;
    z.a = min64(steps * step, max64(most * step, kAPackBytes / 4));
    z.most = pairs ? 0 : z.tiles * kTileRows * Vec::W;
    z.acc = z.chunks > 1 ? z.tiles * kTileRows * min64(round_up(columns, kPanel), kGroupColumns) : 0;
    z.operands = z.tiles / 2 * ((taps + 1) * int64_t(sizeof(TileOperand)) + 8) / 4;
    return z;
}

// The same for EvenRows: one chunk, nothing copied; one row's operands serve all, in no more space than above.
static inline TileSizes even_sizes(int64_t rows, int64_t taps, int64_t run) {
    TileSizes z = {};
    z.tiles = round_up(ceil_div(rows, kTileRows), 2);
    z.chunks = 1;
    z.chunk = max64(1, taps * steps_of(run));
    return z;
}

#if DLPERF_ISA_LEVEL >= 4

// The tiles' configuration for as long as this lives; then the caller's own, whose library may rely on it.
class TileScope {
  public:
    TileScope() {
        alignas(64) Configuration ours = {};
        ours.palette = 1;
        for (int i = 0; i < 8; ++i) {
            ours.row_bytes[i] = 64;
            ours.rows[i] = 16;
        }
        _tile_storeconfig(&before_);
        _tile_loadconfig(&ours);
    }
    ~TileScope() {
        if (before_.palette) {
            _tile_loadconfig(&before_);
        } else {
            _tile_release();
        }
    }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;

  private:
    struct Configuration {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    alignas(64) Configuration before_;
};

struct Parts {
    __m512i part[kThirds];
};

// 32 floats as three vectors of bfloat16, a's in the even places.
static DLPERF_INLINE Parts cut(Vec a, Vec b) {
    const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(int(0xffff0000u));
    const auto join = [](__m512i even, __m512i odd) {
        return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(even, 16), odd);
    };
    const auto round = [&](Vec x) {
        return Vec{_mm512_castsi512_ps(_mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x.v), half), high))};
    };
    const Vec a1 = round(a), b1 = round(b), a_left = a - a1, b_left = b - b1;
    const Vec a2 = round(a_left), b2 = round(b_left), a3 = a_left - a2, b3 = b_left - b2;
    return {{join(_mm512_castps_si512(a1.v), _mm512_castps_si512(b1.v)),
             join(_mm512_castps_si512(a2.v), _mm512_castps_si512(b2.v)),
             join(_mm512_castps_si512(a3.v), _mm512_castps_si512(b3.v))}};
}

// Both halves of `cut`, exactly.
static DLPERF_INLINE void uncut(const float* part, int64_t part_step, Vec& a, Vec& b) {
    const __m512i high = _mm512_set1_epi32(int(0xffff0000u));
    a = b = Vec::zero();
    for (int64_t i = kThirds - 1; i >= 0; --i) {
        const __m512i v = _mm512_loadu_si512(part + i * part_step);
        a = a + Vec{_mm512_castsi512_ps(_mm512_slli_epi32(v, 16))};
        b = b + Vec{_mm512_castsi512_ps(_mm512_and_si512(v, high))};
    }
}

// Largest magnitudes, as bits: these order as the magnitudes do, infinities and NaN above all.
static DLPERF_INLINE __m512i largest(__m512i most, Vec x) {
    return _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff)));
}
static DLPERF_INLINE __mmask16 unfit(__m512i most) {
    const __m512i least = _mm512_castps_si512(_mm512_set1_ps(kLeastMagnitude));
    const __m512i end = _mm512_castps_si512(_mm512_set1_ps(kMostMagnitude));
    return _mm512_cmpge_epu32_mask(most, end) |
           (_mm512_cmplt_epu32_mask(most, least) & _mm512_test_epi32_mask(most, most));
}

// A panel of `run` floats by `width` columns, row_step apart, as parts: whole steps. `plain` may end where `out` ends.
// Adds the columns' magnitudes to `most`.
static inline void cut_panel(const float* plain, int64_t row_step, int64_t run, int64_t width, float* out,
                             __m512i* most) {
    for (int64_t k0 = 0; k0 < run; k0 += kStepRun, out += kThirds * kTileUnits * width) {
        alignas(64) float step[kStepRun][kPanel];
        const int64_t there = min64(kStepRun, run - k0);
        for (int64_t k = 0; k < kStepRun; ++k) {
            for (int64_t j = 0; j < width; j += Vec::W) {
                const Vec v = k < there ? Vec::load(plain + (k0 + k) * row_step + j) : Vec::zero();
                most[j / Vec::W] = largest(most[j / Vec::W], v);
                v.store(&step[k][j]);
            }
        }
        for (int64_t u = 0; u < kTileUnits; ++u) {
            for (int64_t j = 0; j < width; j += Vec::W) {
                const Parts p = cut(Vec::load(&step[u][j]), Vec::load(&step[u + kTileUnits][j]));
                for (int64_t i = 0; i < kThirds; ++i) {
                    _mm512_storeu_si512(out + (i * kTileUnits + u) * width + j, p.part[i]);
                }
            }
        }
    }
}

// A operand contiguous along its rows, element (m, k) at src[m * m_step + k * k_step], as tiles: whole steps, an even
// number of tiles. Returns whether float32's parts can stand for these rows.
template <bool Pairs, class T>
static bool pack_turned(const T* src, int64_t m_step, int64_t k_step, int64_t depth, int64_t rows, float* dst) {
    constexpr int64_t kParts = Pairs ? 1 : kThirds;
    __mmask16 bad = 0;
    for (int64_t m0 = 0; m0 < round_up(rows, 2 * kTileRows); m0 += kTileRows) {
        const int64_t lanes = max64(0, min64(kTileRows, rows - m0));
        const auto load = [&](int64_t k) {
            if (k >= depth || lanes == 0) return Vec::zero();
            const T* p = src + m0 * m_step + k * k_step;
            if (m_step == 1) return load_lanes<Pairs>(p, lanes);
            T gathered[Vec::W] = {};
            for (int64_t i = 0; i < lanes; ++i) gathered[i] = p[i * m_step];
            return load_lanes<Pairs>(gathered, Vec::W);
        };
        __m512i most = _mm512_setzero_si512();
        for (int64_t k0 = 0; k0 < depth; k0 += kStepRun) {
            alignas(64) float units[kParts][kTileUnits][Vec::W];
            if (m_step == 1 && k0 + 2 * kStepRun <= depth) {
                const char* ahead = reinterpret_cast<const char*>(src + m0 + (k0 + kStepRun) * k_step);
                for (int64_t k = 0; k < kStepRun; ++k)
                    __builtin_prefetch(ahead + k * k_step * int64_t(sizeof(T)), 0, 3);
            }
            for (int64_t u = 0; u < kTileUnits; ++u) {
                if constexpr (Pairs) {
                    join_pair(load(k0 + 2 * u), load(k0 + 2 * u + 1)).store(units[0][u]);
                } else {
                    const Vec a = load(k0 + u), b = load(k0 + u + kTileUnits);
                    const Parts p = cut(a, b);
                    for (int64_t i = 0; i < kParts; ++i) _mm512_store_si512(units[i][u], p.part[i]);
                    most = largest(largest(most, a), b);
                }
            }
            for (int64_t i = 0; i < kParts; ++i, dst += kTileFloats) {
                Vec r[16];
#pragma GCC unroll 16
                for (int u = 0; u < 16; ++u) r[u] = Vec::load(units[i][u]);
                transpose(r);
#pragma GCC unroll 16
                for (int u = 0; u < 16; ++u) r[u].store(dst + u * Vec::W);
            }
        }
        bad |= unfit(most);
    }
    return !bad;
}

// C's 32 x `width` block, c_step floats from row to row, (+)= A's operands, one after the other, by one panel's steps.
// A's are `shift` bytes from where they say.
using TileProduct = void (*)(const TileOperand* a, int64_t operands, int64_t shift, const char* b, float* c,
                             int64_t c_step, bool first, Ahead& ahead);

// [tiles of rows - 1][tiles of columns - 1]
struct TileProducts {
    TileProduct of[2][2];
};
extern const TileProducts tile_pairs, tile_thirds;

static inline void add_block(const float* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; i += Vec::W) (Vec::load(to + i) + Vec::load(from + i)).store(to + i);
}

// finish_rows of a block of a panel's width.
void finish_block(const TileCall& t, int rows, int64_t width);

#endif

}  // namespace dlperf::DLPERF_ISA_NS

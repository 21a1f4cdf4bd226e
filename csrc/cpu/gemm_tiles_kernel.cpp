// Products on AMX's tiles, with A's rows in place: DLPERF_AMX_ONLY.
#include "cpu/activation_math.h"
#include "cpu/gemm_engine.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// ---- Blocks of 2 x 2 tiles ----

constexpr int64_t kLine = 64;

// Tiles 0 to 3 are C's, 4 and 5 A's, 6 and 7 B's.
template <int Rows, int Columns>
DLPERF_INLINE void load_result(const float* c, int64_t bytes, int64_t lower) {
    _tile_loadd(0, c, bytes);
    if constexpr (Columns == 2) _tile_loadd(1, c + 16, bytes);
    if constexpr (Rows == 2) _tile_loadd(2, c + lower, bytes);
    if constexpr (Rows == 2 && Columns == 2) _tile_loadd(3, c + lower + 16, bytes);
}

template <int Rows, int Columns>
DLPERF_INLINE void store_result(float* c, int64_t bytes, int64_t lower) {
    _tile_stored(0, c, bytes);
    if constexpr (Columns == 2) _tile_stored(1, c + 16, bytes);
    if constexpr (Rows == 2) _tile_stored(2, c + lower, bytes);
    if constexpr (Rows == 2 && Columns == 2) _tile_stored(3, c + lower + 16, bytes);
}

template <int Rows>
DLPERF_INLINE void load_a(const char* a, const char* second, int64_t row) {
    _tile_loadd(4, a, row);
    if constexpr (Rows == 2) _tile_loadd(5, second, row);
}

template <int Columns>
DLPERF_INLINE void load_b(const char* b) {
    _tile_loadd(6, b, Columns * 64);
    if constexpr (Columns == 2) _tile_loadd(7, b + 64, Columns * 64);
}

template <int Rows, int Columns>
DLPERF_INLINE void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Columns == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (Rows == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (Rows == 2 && Columns == 2) _tile_dpbf16ps(3, 5, 7);
}

template <bool Thirds, int Rows, int Columns>
void tiles(const TileOperand* a, int64_t operands, int64_t shift, const char* b, float* c, int64_t c_step, bool first,
           Ahead& ahead) {
    constexpr int64_t kTile = kTileFloats * 4, kB = Columns * kTile, kParts = Thirds ? kThirds : 1;
    const int64_t bytes = c_step * 4, lower = kTileRows * c_step;
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        load_result<Rows, Columns>(c, bytes, lower);
    }
    const char* asked = ahead.at;
    for (const TileOperand* end = a + operands; a < end; ++a) {
        const char *upper = a->upper + shift, *second = a->lower + shift;
        const int64_t row = a->row, step = a->step;
        for (int64_t i = 0; i < a->steps; ++i, upper += step, second += step, b += kParts * kB) {
            if (asked < ahead.end) {
                for (const char* stop = asked + ahead.bytes; asked < stop; asked += kLine)
                    __builtin_prefetch(asked, 0, 2);
            }
            if constexpr (Thirds) {
                load_b<Columns>(b);
                load_a<Rows>(upper + 2 * kTile, second + 2 * kTile, row);
                multiply<Rows, Columns>();
                load_a<Rows>(upper + kTile, second + kTile, row);
                multiply<Rows, Columns>();
                load_a<Rows>(upper, second, row);
                multiply<Rows, Columns>();
                load_b<Columns>(b + kB);
                multiply<Rows, Columns>();
                load_a<Rows>(upper + kTile, second + kTile, row);
                multiply<Rows, Columns>();
                load_a<Rows>(upper, second, row);
                load_b<Columns>(b + 2 * kB);
                multiply<Rows, Columns>();
            } else {
                load_a<Rows>(upper, second, row);
                load_b<Columns>(b);
                multiply<Rows, Columns>();
            }
        }
    }
    ahead.at = asked;
    store_result<Rows, Columns>(c, bytes, lower);
}

// ---- A's rows as tiles ----

constexpr int64_t kRowBytes = 64;  // of a tile

// `count` elements, at most a step's, as one row of a tile.
DLPERF_INLINE void put_pairs(const char* src, int64_t count, char* dst) {
    const __mmask32 mask = count >= kStepRun ? 0xffffffffu : (1u << count) - 1;
    _mm512_store_si512(dst, _mm512_maskz_loadu_epi16(mask, src));
}

DLPERF_INLINE __m512i put_thirds(const char* src, int64_t count, char* dst, __m512i most) {
    const float* x = reinterpret_cast<const float*>(src);
    const Vec a = load_some(x, count), b = count > Vec::W ? load_some(x + Vec::W, count - Vec::W) : Vec::zero();
    const Parts p = cut(a, b);
    for (int64_t i = 0; i < kThirds; ++i) _mm512_store_si512(dst + i * kTileFloats * 4, p.part[i]);
    return largest(largest(most, a), b);
}

// One tile's steps of one tap, from the tap's step `begin` on: the tile's rows in place, zero below them.
template <bool Thirds>
void pack_tile(const Product& p, const char* const* rows, int64_t count, int64_t begin, int64_t steps, char* out,
               float* most) {
    constexpr int64_t kParts = Thirds ? kThirds : 1, kStepBytes = kStepRun * (Thirds ? 4 : 2);
    constexpr int64_t kStepSize = kParts * kTileFloats * 4;
    for (int64_t i = 0; i < kTileRows; ++i, out += kRowBytes) {
        char* line = out;
        if (i >= count) {
            for (int64_t part = 0; part < steps * kParts; ++part, line += kTileFloats * 4) {
                _mm512_store_si512(line, _mm512_setzero_si512());
            }
            continue;
        }
        const char* src = rows[i] + p.a_offset + begin * kStepBytes;
        int64_t left = p.run - begin * kStepRun;
        if constexpr (Thirds) {
            float* seen = most + i * Vec::W;
            __m512i m = _mm512_load_si512(seen);
            for (int64_t s = 0; s < steps; ++s, src += kStepBytes, line += kStepSize, left -= kStepRun) {
                m = put_thirds(src, left, line, m);
            }
            _mm512_store_si512(seen, m);
        } else {
            for (int64_t s = 0; s < steps; ++s, src += kStepBytes, line += kStepSize, left -= kStepRun) {
                put_pairs(src, left, line);
            }
        }
    }
}

// Rows that lie one distance apart are read in place.
bool evenly_apart(const char* const* rows, int64_t count, int64_t distance) {
    bool even = true;
    for (int64_t i = 1; i < count; ++i) even &= rows[i] - rows[i - 1] == distance;
    return even;
}

// Two tiles of rows from `row` on over steps [begin, end), as operands; returns how many. Packs at `out` what is not
// read in place, the tiles `tile_size` bytes apart.
template <bool Thirds>
int64_t place_rows(const Product& p, const RowBlock& block, int64_t row, int64_t begin, int64_t end, bool in_place,
                   char* out, int64_t tile_size, float* most, TileOperand* operands) {
    constexpr int64_t kStepSize = (Thirds ? kThirds : 1) * kTileFloats * 4;
    const int64_t per_tap = steps_of(p.run), count = min64(2 * kTileRows, block.count - row);
    const bool whole = count % kTileRows == 0;
    TileOperand *const made = operands, *last = nullptr;
    for (int64_t step = begin; step < end;) {
        const int64_t tap = step / per_tap, first = step - tap * per_tap, stop = min64(end, (tap + 1) * per_tap);
        const char* const* rows = block.rows + tap * block.rows_ld + row;
        const int64_t steps = stop - step, distance = whole ? rows[1] - rows[0] : 0;
        step = stop;
        if (!Thirds && in_place && whole && evenly_apart(rows, count, distance)) {
            const char* upper = rows[0] + p.a_offset + first * kRowBytes;
            *operands++ = {upper, upper + kTileRows * distance, distance, kRowBytes, steps};
            last = nullptr;
            continue;
        }
        char* to = out + (stop - steps - begin) * kStepSize;
        pack_tile<Thirds>(p, rows, min64(count, kTileRows), first, steps, to, most);
        if (count > kTileRows) {
            pack_tile<Thirds>(p, rows + kTileRows, count - kTileRows, first, steps, to + tile_size,
                              most + kTileRows * Vec::W);
        }
        if (last) {
            last->steps += steps;
        } else {
            last = operands++;
            *last = {to, to + tile_size, kRowBytes, kStepSize, steps};
        }
    }
    return operands - made;
}

// Operands of EvenRows' first two tiles; all others' are a shift away.
void place_even(const EvenRows& e, int64_t taps, int64_t steps, TileOperand* operands) {
    for (int64_t tap = 0; tap < taps; ++tap) {
        const char* upper = e.base + e.taps[tap];
        operands[tap] = {upper, upper + kTileRows * e.row, e.row, kRowBytes, steps};
    }
}

// ---- Rows that float32's parts can't stand for ----

bool unfit_rows(const float* most, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
        const uint32_t m = _mm512_reduce_max_epu32(_mm512_load_si512(most + i * Vec::W));
        if (unfit(_mm512_set1_epi32(int(m)))) return true;
    }
    return false;
}

// c[rows][width] = rows of A by one panel, as floats.
void multiply_plainly(const Product& p, const RowBlock& block, int64_t row, int64_t rows, const float* b, int64_t width,
                      float* c) {
    for (int64_t i = 0; i < rows * width; i += Vec::W) Vec::zero().store(c + i);
    for (int64_t tap = 0; tap < p.taps; ++tap) {
        for (int64_t k0 = 0; k0 < p.run; k0 += kStepRun, b += kThirds * kTileUnits * width) {
            alignas(64) float step[kStepRun][kPanel];
            for (int64_t u = 0; u < kTileUnits; ++u) {
                for (int64_t j = 0; j < width; j += Vec::W) {
                    Vec low, high;
                    uncut(b + u * width + j, kTileUnits * width, low, high);
                    low.store(&step[u][j]);
                    high.store(&step[u + kTileUnits][j]);
                }
            }
            for (int64_t i = 0; i < rows; ++i) {
                const float* x =
                    reinterpret_cast<const float*>(block.rows[tap * block.rows_ld + row + i] + p.a_offset) + k0;
                for (int64_t k = 0; k < min64(kStepRun, p.run - k0); ++k) {
                    const Vec a = Vec::set1(x[k]);
                    for (int64_t j = 0; j < width; j += Vec::W) {
                        fma(a, Vec::load(&step[k][j]), Vec::load(c + i * width + j)).store(c + i * width + j);
                    }
                }
            }
        }
    }
}

// ---- The epilogue ----

DLPERF_INLINE void store_both(float* y, Vec low, Vec high) {
    low.store(y);
    high.store(y + Vec::W);
}

// Denormals become zero, as they do in the tiles' sums.
DLPERF_INLINE void store_both(bf16_t* y, Vec low, Vec high) {
    _mm512_storeu_si512(y, (__m512i)_mm512_cvtne2ps_pbh(high.v, low.v));
}

// A block of whole panels whose epilogue is a scale, a bias, a residual and perhaps a ReLU.
template <class T, bool Residual, bool Relu>
void finish_whole(const TileCall& t, int rows) {
    const Epilogue& e = *t.epilogue;
    const Vec alpha = Vec::set1(e.alpha), beta = Vec::set1(e.beta);
    const Vec low_bias = t.bias_col ? Vec::load(t.bias_col + t.n0) : Vec::zero();
    const Vec high_bias = t.bias_col ? Vec::load(t.bias_col + t.n0 + Vec::W) : Vec::zero();
    T* y = static_cast<T*>(e.out) + t.n0;
    const T* r = static_cast<const T*>(e.residual) + t.n0;
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
        Vec low = fma(Vec::load(t.acc + i * kPanel), alpha, low_bias);
        Vec high = fma(Vec::load(t.acc + i * kPanel + Vec::W), alpha, high_bias);
        if constexpr (Residual) {
            low = fma(beta, Vec::load(r + t.residual_offset[i]), low);
            high = fma(beta, Vec::load(r + t.residual_offset[i] + Vec::W), high);
        }
        if constexpr (Relu) {
            low = activate<Act::relu>(low, 0.0f);
            high = activate<Act::relu>(high, 0.0f);
        }
        store_both(y + t.out_offset[i], low, high);
    }
}

template <class T>
void finish_whole_as(const TileCall& t, int rows) {
    const bool relu = t.epilogue->act == Act::relu;
    if (t.epilogue->residual) {
        relu ? finish_whole<T, true, true>(t, rows) : finish_whole<T, true, false>(t, rows);
    } else {
        relu ? finish_whole<T, false, true>(t, rows) : finish_whole<T, false, false>(t, rows);
    }
}

}  // namespace

void finish_block(const TileCall& t, int rows, int64_t width) {
    const Epilogue& e = *t.epilogue;
    const bool whole = width == kPanel && t.n_valid == kPanel && (!e.residual || e.residual_col == 1) &&
                       (e.act == Act::none || e.act == Act::relu) && !t.bias_row;
    if (whole && e.dtype == DType::f32) return finish_whole_as<float>(t, rows);
    if (whole && e.dtype == DType::bf16) return finish_whole_as<bf16_t>(t, rows);
    finish_rows(t, rows, width);
}

namespace {

// ---- The loop nest ----

// A block whose products are made and whose epilogue waits until those of the next are under way.
struct Pending {
    const float* c = nullptr;
    int64_t width, row, n0;
};

constexpr int64_t kRowsFirst = 256 << 10;  // bytes of B

template <bool Thirds>
void run(const Product& p, const RowBlock& block, int64_t n_begin, int64_t n_end, float* scratch) {
    constexpr int64_t kParts = Thirds ? kThirds : 1;
    const int64_t steps = p.taps * steps_of(p.run);
    const TileSizes z = block.even ? even_sizes(block.count, p.taps, p.run)
                                   : tile_sizes(block.count, n_end - n_begin, p.taps, p.run, !Thirds);
    char* a = reinterpret_cast<char*>(scratch);
    float *most = scratch + z.a, *acc = most + z.most;
    TileOperand* operands = reinterpret_cast<TileOperand*>(acc + z.acc);
    int64_t* counts = reinterpret_cast<int64_t*>(operands + z.tiles / 2 * (p.taps + 1));
    const int64_t all_steps = p.all_taps * steps_of(p.run);
    const TileProducts& products = Thirds ? tile_thirds : tile_pairs;

    TileCall t = {};
    t.epilogue = p.epilogue;
    t.bias_col = p.bias_col;
    const auto finish_rows_of = [&](const float* c, int64_t width, int64_t row, int64_t rows, int64_t n0) {
        t.acc = const_cast<float*>(c);
        t.out_offset = block.out_offset + row;
        t.residual_offset = block.residual_offset + row;
        t.bias_row = block.bias_row ? block.bias_row + row : nullptr;
        t.n0 = n0;
        t.n_valid = int(min64(p.n - n0, kPanel));
        finish_block(t, int(rows), width);
    };
    const auto finish = [&](const float* c, int64_t width, int64_t row, int64_t n0) {
        const int64_t end = row + min64(2 * kTileRows, block.count - row);
        if (!block.even) return finish_rows_of(c, width, row, end - row, n0);
        for (int64_t i = row; i < end;) {
            int64_t stop = i;
            while (stop < end && block.out_offset[stop] >= 0) ++stop;
            if (stop > i) finish_rows_of(c + (i - row) * width, width, i, stop - i, n0);
            for (i = stop; i < end && block.out_offset[i] < 0;) ++i;
        }
    };
    const auto panel_of = [&](int64_t n0, int64_t width) {
        return p.b + (n0 * all_steps + p.first_tap * steps_of(p.run) * width) * kTileUnits * kParts;
    };

    alignas(64) float local[2][2 * kTileRows * kPanel];
    Pending pending;
    int turn = 0;
    const auto finish_pending = [&] {
        if (pending.c) finish(pending.c, pending.width, pending.row, pending.n0);
        pending.c = nullptr;
    };
    // Asks for the lines that a block's results go to, and those of its residual, while its products are made.
    const auto fetch = [&](int64_t row, int64_t n0) {
        const Epilogue& e = *p.epilogue;
        const int64_t size = dtype_size(e.dtype), bytes = min64(p.n - n0, kPanel) * size;
        const int64_t rows = min64(2 * kTileRows, block.count - row);
        for (int64_t i = row; i < row + rows; ++i) {
            if (block.out_offset[i] < 0) continue;
            const char* y = static_cast<const char*>(e.out) + (block.out_offset[i] + n0) * size;
            for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(y + at, 1, 2);
            if (!e.residual || e.residual_col != 1) continue;
            const char* r = static_cast<const char*>(e.residual) + (block.residual_offset[i] + n0) * size;
            for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(r + at, 0, 2);
        }
    };
    const int64_t all = ceil_div(n_end - n_begin, kPanel) * (z.tiles / 2) * max64(1, steps);
    Ahead ahead = {block.next, block.next + block.next_bytes, round_up(ceil_div(block.next_bytes, all), kLine)};
    if (block.even) place_even(*block.even, p.taps, steps_of(p.run), operands);
    const bool in_place = p.run % kStepRun == 0;
    // Results' lines in their order, where B's panels are not too large to be read again for each 32 rows.
    const bool rows_first =
        z.chunks == 1 && steps * kStepRun * 2 * kParts * min64(n_end - n_begin, kGroupColumns) <= kRowsFirst;
    for (int64_t group = n_begin; group < n_end; group += kGroupColumns) {
        const int64_t group_end = min64(n_end, group + kGroupColumns);
        // Where everything is one chunk, the next group finds A packed.
        const bool packs = z.chunks > 1 || group == n_begin;
        for (int64_t i = 0; packs && i < z.most; i += Vec::W) Vec::zero().store(most + i);
        for (int64_t chunk = 0; chunk < z.chunks; ++chunk) {
            const int64_t begin = chunk * z.chunk, end = min64(steps, begin + z.chunk), length = max64(0, end - begin);
            const int64_t tile_size = length * kParts * kTileFloats * 4;
            for (int64_t row = 0; packs && !block.even && row < block.count; row += 2 * kTileRows) {
                const int64_t pair = row / (2 * kTileRows);
                counts[pair] =
                    place_rows<Thirds>(p, block, row, begin, begin + length, in_place, a + 2 * pair * tile_size,
                                       tile_size, most + row * Vec::W, operands + pair * (p.taps + 1));
            }
            TileScope scope;
            const auto multiply_block = [&](int64_t n0, int64_t row) {
                const int64_t width = panel_width(p.n, n0), pair = row / (2 * kTileRows);
                const char* b =
                    reinterpret_cast<const char*>(panel_of(n0, width) + begin * kTileUnits * kParts * width);
                const int columns = int(width / 16 - 1), rows = block.count - row > kTileRows ? 1 : 0;
                float* sums = acc + (n0 - group) * z.tiles * kTileRows + row * kPanel;
                // Each chunk's parts are summed by themselves: with six products each, roundings would add up.
                const bool apart = Thirds && chunk > 0, begins = apart || chunk == 0;
                float* c = apart || z.chunks == 1 ? local[turn ^= 1] : sums;
                if (chunk == z.chunks - 1) fetch(row, n0);
                if (block.even) {
                    products.of[rows][columns](operands, p.taps, row * block.even->row, b, c, width, begins, ahead);
                } else {
                    products.of[rows][columns](operands + pair * (p.taps + 1), counts[pair], 0, b, c, width, begins,
                                               ahead);
                }
                if (apart) {
                    add_block(c, sums, (rows + 1) * kTileRows * width);
                    c = sums;
                }
                finish_pending();
                if (chunk == z.chunks - 1) pending = {c, width, row, n0};
            };
            if (rows_first) {
                for (int64_t row = 0; row < block.count; row += 2 * kTileRows) {
                    for (int64_t n0 = group; n0 < group_end; n0 += kPanel) multiply_block(n0, row);
                }
            } else {
                for (int64_t n0 = group; n0 < group_end; n0 += kPanel) {
                    for (int64_t row = 0; row < block.count; row += 2 * kTileRows) multiply_block(n0, row);
                }
            }
            finish_pending();
        }
        if (!Thirds) continue;
        for (int64_t row = 0; row < block.count; row += 2 * kTileRows) {
            const int64_t rows = min64(2 * kTileRows, block.count - row);
            if (!unfit_rows(most + row * Vec::W, rows)) continue;
            for (int64_t n0 = group; n0 < group_end; n0 += kPanel) {
                const int64_t width = panel_width(p.n, n0);
                multiply_plainly(p, block, row, rows, panel_of(n0, width), width, local[0]);
                finish(local[0], width, row, n0);
            }
        }
    }
}

}  // namespace

extern const TileProducts tile_pairs, tile_thirds;
const TileProducts tile_pairs = {{{tiles<false, 1, 1>, tiles<false, 1, 2>}, {tiles<false, 2, 1>, tiles<false, 2, 2>}}};
const TileProducts tile_thirds = {{{tiles<true, 1, 1>, tiles<true, 1, 2>}, {tiles<true, 2, 1>, tiles<true, 2, 2>}}};

void run_row_tiles(const Product& p, const RowBlock& block, int64_t n_begin, int64_t n_end, float* scratch) {
    p.pairs ? run<false>(p, block, n_begin, n_end, scratch) : run<true>(p, block, n_begin, n_end, scratch);
}

}  // namespace dlperf::DLPERF_ISA_NS

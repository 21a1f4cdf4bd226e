// Batched transposition by square register tiles, gathered in blocks that stay in the first-level cache.
#include "cpu/layout.h"

#include <cstring>

#include "cpu/parallel.h"
#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kBlock = 64;  // elements on a side of a cache block

// A tile of EDGE x EDGE elements: src rows lie `lds` apart, dst rows `ldd`.
template <int EDGE>
struct Tile {
    template <class T>
    static DLPERF_INLINE void run(const T* src, int64_t lds, T* dst, int64_t ldd) {
        for (int c = 0; c < EDGE; ++c) {
            for (int r = 0; r < EDGE; ++r) dst[c * ldd + r] = src[r * lds + c];
        }
    }
};

#if defined(__AVX2__)
template <>
struct Tile<4> {
    static DLPERF_INLINE void run(const uint32_t* src, int64_t lds, uint32_t* dst, int64_t ldd) {
        __m128 r[4];
        for (int i = 0; i < 4; ++i) r[i] = _mm_loadu_ps((const float*)(src + i * lds));
        _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
        for (int i = 0; i < 4; ++i) _mm_storeu_ps((float*)(dst + i * ldd), r[i]);
    }
    static DLPERF_INLINE void run(const uint16_t* src, int64_t lds, uint16_t* dst, int64_t ldd) {
        __m128i r[4];
        for (int i = 0; i < 4; ++i) r[i] = _mm_loadl_epi64((const __m128i*)(src + i * lds));
        const __m128i ab = _mm_unpacklo_epi16(r[0], r[1]), cd = _mm_unpacklo_epi16(r[2], r[3]);
        const __m128i low = _mm_unpacklo_epi32(ab, cd), high = _mm_unpackhi_epi32(ab, cd);
        _mm_storel_epi64((__m128i*)dst, low);
        _mm_storel_epi64((__m128i*)(dst + ldd), _mm_unpackhi_epi64(low, low));
        _mm_storel_epi64((__m128i*)(dst + 2 * ldd), high);
        _mm_storel_epi64((__m128i*)(dst + 3 * ldd), _mm_unpackhi_epi64(high, high));
    }
};

template <>
struct Tile<8> {
    static DLPERF_INLINE void run(const uint32_t* src, int64_t lds, uint32_t* dst, int64_t ldd) {
        __m256 r[8], t[8];
        // Row i beside row i + 4, so that only shuffles inside 128-bit lanes remain.
        for (int i = 0; i < 4; ++i) {
            for (int half = 0; half < 2; ++half) {
                const float* p = (const float*)(src + i * lds + half * 4);
                r[i + 4 * half] =
                    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * lds), 1);
            }
        }
        for (int half = 0; half < 8; half += 4) {
            t[half] = _mm256_unpacklo_ps(r[half], r[half + 1]);
            t[half + 1] = _mm256_unpackhi_ps(r[half], r[half + 1]);
            t[half + 2] = _mm256_unpacklo_ps(r[half + 2], r[half + 3]);
            t[half + 3] = _mm256_unpackhi_ps(r[half + 2], r[half + 3]);
        }
        for (int half = 0; half < 8; half += 4) {
            uint32_t* out = dst + half * ldd;
            _mm256_storeu_ps((float*)out, _mm256_shuffle_ps(t[half], t[half + 2], 0x44));
            _mm256_storeu_ps((float*)(out + ldd), _mm256_shuffle_ps(t[half], t[half + 2], 0xee));
            _mm256_storeu_ps((float*)(out + 2 * ldd), _mm256_shuffle_ps(t[half + 1], t[half + 3], 0x44));
            _mm256_storeu_ps((float*)(out + 3 * ldd), _mm256_shuffle_ps(t[half + 1], t[half + 3], 0xee));
        }
    }
    static DLPERF_INLINE void run(const uint16_t* src, int64_t lds, uint16_t* dst, int64_t ldd) {
        __m128i a[8], b[8];
        for (int i = 0; i < 8; ++i) a[i] = _mm_loadu_si128((const __m128i*)(src + i * lds));
        for (int i = 0; i < 4; ++i) {
            b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
        }
        for (int i = 0; i < 4; ++i) {
            a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
            a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
        }
        for (int i = 0; i < 4; ++i) {
            b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
        }
        for (int i = 0; i < 8; ++i) _mm_storeu_si128((__m128i*)(dst + i * ldd), b[i]);
    }
};
#endif

#if defined(__AVX512F__)
template <>
struct Tile<16> {
    static DLPERF_INLINE void run(const uint32_t* src, int64_t lds, uint32_t* dst, int64_t ldd) {
        __m512i a[16], b[16];
        for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(src + i * lds);
        for (int i = 0; i < 16; i += 2) {
            b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) {
            a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
        // a[4 g + j] holds, in 128-bit lane l, column 4 l + j of rows 4 g .. 4 g + 3.
        for (int j = 0; j < 4; ++j) {
            const __m512i lower_even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
            const __m512i lower_odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
            const __m512i upper_even = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
            const __m512i upper_odd = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
            _mm512_storeu_si512(dst + j * ldd, _mm512_shuffle_i32x4(lower_even, upper_even, 0x88));
            _mm512_storeu_si512(dst + (4 + j) * ldd, _mm512_shuffle_i32x4(lower_odd, upper_odd, 0x88));
            _mm512_storeu_si512(dst + (8 + j) * ldd, _mm512_shuffle_i32x4(lower_even, upper_even, 0xdd));
            _mm512_storeu_si512(dst + (12 + j) * ldd, _mm512_shuffle_i32x4(lower_odd, upper_odd, 0xdd));
        }
    }
};
#endif

// A block at least EDGE on both sides; its last tiles step back and overlap rather than be masked.
template <int EDGE, class T>
static void transpose_block(const T* src, int64_t lds, T* dst, int64_t ldd, int64_t rows, int64_t cols) {
    for (int64_t c = 0; c < cols; c += EDGE) {
        const int64_t cc = c + EDGE <= cols ? c : cols - EDGE;
        for (int64_t r = 0; r < rows; r += EDGE) {
            const int64_t rr = r + EDGE <= rows ? r : rows - EDGE;
            Tile<EDGE>::run(src + rr * lds + cc, lds, dst + cc * ldd + rr, ldd);
        }
    }
}

template <class T>
static void transpose_any(const T* src, int64_t lds, T* dst, int64_t ldd, int64_t rows, int64_t cols) {
    const int64_t edge = rows < cols ? rows : cols;
#if defined(__AVX512F__)
    if (sizeof(T) == 4 && edge >= 16) return transpose_block<sizeof(T) == 4 ? 16 : 8>(src, lds, dst, ldd, rows, cols);
#endif
    if (edge >= 8) return transpose_block<8>(src, lds, dst, ldd, rows, cols);
    if (edge >= 4) return transpose_block<4>(src, lds, dst, ldd, rows, cols);
    if (rows == 3) {  // pictures: NCHW to NHWC
        for (int64_t c = 0; c < cols; ++c) {
            dst[c * ldd] = src[c];
            dst[c * ldd + 1] = src[lds + c];
            dst[c * ldd + 2] = src[2 * lds + c];
        }
        return;
    }
    for (int64_t c = 0; c < cols; ++c) {
        for (int64_t r = 0; r < rows; ++r) dst[c * ldd + r] = src[r * lds + c];
    }
}

// Splits `size` into blocks of `block`, the last one taking the remainder so that none is small.
static inline Range block_range(int64_t size, int64_t block, int64_t count, int64_t index) {
    return {index * block, index + 1 == count ? size : (index + 1) * block};
}

template <class T>
static void transpose_typed(const T* src, T* dst, int64_t batch, int64_t rows, int64_t cols) {
    const int64_t row_blocks = rows < 2 * kBlock ? 1 : rows / kBlock;
    const int64_t col_blocks = cols < 2 * kBlock ? 1 : cols / kBlock;
    const int64_t per_block = rows * cols / (row_blocks * col_blocks) + 1;
    const int64_t grain = (1 << 14) / per_block + 1;
    parallel_for(batch * col_blocks * row_blocks, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t b = i / (col_blocks * row_blocks), rest = i % (col_blocks * row_blocks);
            const Range r = block_range(rows, kBlock, row_blocks, rest % row_blocks);
            const Range c = block_range(cols, kBlock, col_blocks, rest / row_blocks);
            const int64_t base = b * rows * cols;
            transpose_any(src + base + r.begin * cols + c.begin, cols, dst + base + c.begin * rows + r.begin, rows,
                          r.end - r.begin, c.end - c.begin);
        }
    });
}

void transpose(const void* src, void* dst, int64_t batch, int64_t rows, int64_t cols, int element_size) {
    if (batch * rows * cols == 0) return;
    if (rows == 1 || cols == 1) {
        const int64_t bytes = batch * rows * cols * element_size;
        parallel_for(
            bytes, 1 << 16,
            [&](int64_t begin, int64_t end) {
                std::memcpy((char*)dst + begin, (const char*)src + begin, size_t(end - begin));
            },
            4096);
    } else if (element_size == 4) {
        transpose_typed((const uint32_t*)src, (uint32_t*)dst, batch, rows, cols);
    } else {
        transpose_typed((const uint16_t*)src, (uint16_t*)dst, batch, rows, cols);
    }
}

void concatenate(const void* const* src, const int64_t* bytes, int64_t sources, void* dst, int64_t rows) {
    int64_t row_bytes = 0;
    for (int64_t i = 0; i < sources; ++i) row_bytes += bytes[i];
    if (row_bytes == 0) return;
    const auto copy = [&](int64_t row, int64_t from, int64_t to) {
        char* out = static_cast<char*>(dst) + row * row_bytes;
        int64_t at = 0;
        for (int64_t i = 0; i < sources; at += bytes[i++]) {
            const int64_t begin = from > at ? from : at, end = to < at + bytes[i] ? to : at + bytes[i];
            if (begin >= end) continue;
            std::memcpy(out + begin, static_cast<const char*>(src[i]) + row * bytes[i] + begin - at,
                        size_t(end - begin));
        }
    };
    // By bytes, not by rows: there may be one row.
    parallel_for(
        rows * row_bytes, 1 << 15,
        [&](int64_t begin, int64_t end) {
            for (int64_t row = begin / row_bytes; row * row_bytes < end; ++row) {
                const int64_t first = row * row_bytes, last = first + row_bytes;
                copy(row, begin > first ? begin - first : 0, (end < last ? end : last) - first);
            }
        },
        64);
}

void pad(const void* src, void* dst, int64_t n, int64_t h, int64_t w, int64_t bytes, const int64_t (&around)[4]) {
    const auto [top, bottom, left, right] = around;
    const int64_t height = top + h + bottom, line = (left + w + right) * bytes;
    parallel_for(n * height, (1 << 15) / (line + 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            char* out = static_cast<char*>(dst) + i * line;
            const int64_t row = i % height - top;
            if (row < 0 || row >= h) {
                std::memset(out, 0, size_t(line));
                continue;
            }
            const char* in = static_cast<const char*>(src) + (i / height * h + row) * w * bytes;
            std::memset(out, 0, size_t(left * bytes));
            std::memcpy(out + left * bytes, in, size_t(w * bytes));
            std::memset(out + (left + w) * bytes, 0, size_t(right * bytes));
        }
    });
}

void copy_rows(const void* src, int64_t step, void* dst, int64_t rows, int64_t bytes) {
    if (bytes == 0) return;
    parallel_for(
        rows * bytes, 1 << 15,
        [&](int64_t begin, int64_t end) {
            for (int64_t row = begin / bytes; row * bytes < end; ++row) {
                const int64_t first = row * bytes;
                const int64_t from = begin > first ? begin - first : 0,
                              to = (end < first + bytes ? end - first : bytes);
                std::memcpy(static_cast<char*>(dst) + first + from, static_cast<const char*>(src) + row * step + from,
                            size_t(to - from));
            }
        },
        64);
}

}  // namespace

const LayoutTable layout_table = {transpose, concatenate, pad, copy_rows};

}  // namespace dlperf::DLPERF_ISA_NS

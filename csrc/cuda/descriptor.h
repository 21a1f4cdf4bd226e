// How wgmma finds its operands in shared memory. Plain C++17.
#pragma once

#include "cuda/common.h"

namespace dlperf::cuda {

// Along what a row of 64 values lies: k, or m (of A) or n (of B).
enum class Major : int { k = 0, mn = 1 };

// Rows of 128 bytes, swizzled by the copy engine's 128-byte mode. stride: bytes from one group of eight rows to the
// next. leading: with Major::mn, bytes from one 64 columns to the next; not read with Major::k.
DLPERF_INDEX uint64_t descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
    return uint64_t((address & 0x3FFFF) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
           uint64_t(1) << 62;
}

constexpr uint32_t kGroupBytes = 1024;  // eight rows of 128 bytes
constexpr uint32_t kBoxBytes = 8192;    // 64 rows

// Of the 16 values of k from 16 * number on, in a tile of 64 (more rows across k). `tile`: where the 64 rows (A) or all
// columns (B) begin. leading: with Major::mn, bytes of a box of 64 columns.
template <Major M>
DLPERF_INDEX uint64_t operand(uint32_t tile, int number, uint32_t leading = kBoxBytes) {
    return M == Major::k ? descriptor(tile + number * 32, 16, kGroupBytes)
                         : descriptor(tile + number * 2 * kGroupBytes, leading, kGroupBytes);
}

}  // namespace dlperf::cuda

// What host and device code share: plain C++17, so that index arithmetic is tested on the CPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DLPERF_DEVICE __device__ __forceinline__
#define DLPERF_INDEX __host__ __device__ __forceinline__
#else
#define DLPERF_DEVICE inline
#define DLPERF_INDEX inline
#endif

namespace dlperf::cuda {

constexpr int kWarp = 32;

enum class Activation : int { none = 0, relu = 1, silu = 2, gelu = 3, gelu_tanh = 4 };

template <class Int>
DLPERF_INDEX constexpr Int ceil_div(Int a, Int b) {
    return (a + b - 1) / b;
}

struct Tile {
    int m, n;
};

// Tile number to (m, n), `group` rows of tiles at a time, so that blocks that run together share operands in the L2
// cache.
DLPERF_INDEX Tile tile_of(int number, int tiles_m, int tiles_n, int group) {
    const int in_group = group * tiles_n, first = number / in_group * group;
    const int height = tiles_m - first < group ? tiles_m - first : group;
    return {first + number % in_group % height, number % in_group / height};
}

struct Range {
    int begin, end;
};

// Part `part` of `parts` of `steps` steps: lengths differ by one at most.
DLPERF_INDEX Range split_range(int steps, int parts, int part) {
    const int base = steps / parts, longer = steps % parts;
    const int begin = part * base + (part < longer ? part : longer);
    return {begin, begin + base + (part < longer ? 1 : 0)};
}

// One output tile of one batch, or one part of its reduction. slot: its number among the tiles that are split.
struct Unit {
    Tile tile;
    int batch, part, parts, slot;
};

// The grid of a product: units in the order in which they are given out, tiles fastest. The last `split` tiles are
// given out in `parts` parts each.
struct Schedule {
    int tiles_m, tiles_n, batches, split, parts, group;
    DLPERF_INDEX int whole() const { return tiles_m * tiles_n * batches - split; }
    DLPERF_INDEX int units() const { return whole() + split * parts; }
    DLPERF_INDEX Unit unit(int number) const {
        const int tiles = tiles_m * tiles_n, past = number - whole();
        const bool is_whole = past < 0;
        const int slot = is_whole ? 0 : past % split, index = is_whole ? number : whole() + slot;
        return {tile_of(index % tiles, tiles_m, tiles_n, group), index / tiles, is_whole ? 0 : past / split,
                is_whole ? 1 : parts, slot};
    }
};

}  // namespace dlperf::cuda

// csrc/cuda/hopper.cuh on the emulator: a tensor map is its parameters, copies are done at once.
#pragma once

#include "cuda/ptx.cuh"
#include "cuda/tensor_map.h"

namespace dlperf::cuda {

constexpr bool kIsPortable = true;

struct alignas(64) TensorMap {
    TensorMapParameters parameters;
};

inline void barrier_init(uint32_t barrier, int arrivals) {
    emulator::block->barriers[barrier] = {arrivals, arrivals, 0, 0};
}

inline void barrier_init_fence() {}

namespace detail {

inline void settle(emulator::PhaseBarrier& b) {
    emulator::progress();
    if (b.pending == 0 && b.bytes == 0) {
        b.pending = b.count;
        ++b.phase;
    }
}

inline void arrive(uint32_t barrier, int bytes) {
    emulator::PhaseBarrier& b = emulator::block->barriers.at(barrier);
    if (b.pending == 0) emulator::fail("an arrival too many");
    --b.pending;
    b.bytes += bytes;
    settle(b);
}

inline void arrived(uint32_t barrier, int bytes) {
    emulator::PhaseBarrier& b = emulator::block->barriers.at(barrier);
    b.bytes -= bytes;
    settle(b);
}

// 16 bytes of a row of 128 in the 128-byte swizzle: bits 4 to 6 of the address take an exclusive-or of bits 7 to 9.
inline unsigned char* swizzled(uint32_t address) {
    return emulator::shared_at(address ^ (address >> 7 & 7) << 4, 1);
}

// 64 channels of one pixel, or of one row of a box.
inline void copy_row(uint32_t to, const TensorMapParameters& p, const int64_t (&at)[5]) {
    bool there = true;
    const unsigned char* row = static_cast<const unsigned char*>(p.base);
    for (int i = 1; i < p.rank; ++i) {
        there = there && at[i] >= 0 && at[i] < int64_t(p.size[i]);
        if (there) row += at[i] * int64_t(p.stride[i - 1]);
    }
    for (int c = 0; c < kRow; ++c) {
        uint16_t value = 0;
        if (there && at[0] + c >= 0 && at[0] + c < int64_t(p.size[0])) std::memcpy(&value, row + (at[0] + c) * 2, 2);
        std::memcpy(swizzled(to + c * 2), &value, 2);
    }
}

inline void load_box(uint32_t to, const TensorMap& map, uint32_t barrier, const int64_t (&first)[5]) {
    const TensorMapParameters& p = map.parameters;
    if (why_not(p) != nullptr) emulator::fail(why_not(p));
    if (to % 1024 != 0) emulator::fail("a box is not at a multiple of 1024 bytes");
    if (p.im2col || p.box[0] != kRow) emulator::fail("not this kind of map");
    int rows = 0;
    int64_t at[5] = {first[0], 0, 0, 0, 0};
    for (unsigned c = 0; c < (p.rank > 3 ? p.box[3] : 1); ++c)
        for (unsigned b = 0; b < p.box[2]; ++b)
            for (unsigned a = 0; a < p.box[1]; ++a) {
                at[1] = first[1] + a, at[2] = first[2] + b, at[3] = first[3] + c;
                copy_row(to + 128 * rows++, p, at);
            }
    arrived(barrier, rows * 128);
}

}  // namespace detail

inline void barrier_arrive(uint32_t barrier) {
    detail::arrive(barrier, 0);
}
inline void barrier_arrive(uint32_t barrier, int rank) {
    emulator::at_rank(rank, [&] { detail::arrive(barrier, 0); });
}
inline void barrier_expect(uint32_t barrier, int bytes) {
    detail::arrive(barrier, bytes);
}
inline void cluster_sync() {
    emulator::meet(emulator::cluster_meeting, int(emulator::cluster.size() * blockDim.x));
}

inline void barrier_wait(uint32_t barrier, uint32_t parity) {
    const emulator::PhaseBarrier& b = emulator::block->barriers.at(barrier);
    while ((b.phase & 1) == parity) emulator::give_way();
    emulator::progress();
}

inline void load_box(uint32_t to, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2) {
    if (map.parameters.rank != 3) emulator::fail("a map of another rank");
    detail::load_box(to, map, barrier, {c0, c1, c2, 0, 0});
}

inline void load_box(uint32_t to, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2, int c3) {
    if (map.parameters.rank != 4) emulator::fail("a map of another rank");
    detail::load_box(to, map, barrier, {c0, c1, c2, c3, 0});
}

inline void load_pixels(uint32_t to, const TensorMap& map, uint32_t barrier, int c, int w, int h, int n, int offset_w,
                        int offset_h) {
    const TensorMapParameters& p = map.parameters;
    if (why_not(p) != nullptr) emulator::fail(why_not(p));
    if (!p.im2col) emulator::fail("not this kind of map");
    if (to % 1024 != 0) emulator::fail("a column is not at a multiple of 1024 bytes");
    if (offset_w < 0 || offset_w > 255 || offset_h < 0 || offset_h > 255) emulator::fail("an offset beyond 8 bits");
    for (unsigned i = 0; i < p.pixels; ++i) {
        detail::copy_row(to + 128 * i, p, {c, w + offset_w, h + offset_h, n, 0});
        w += int(p.traversal[1]);
        if (w > int(p.size[1]) - 1 + p.upper[0]) {
            w = p.lower[0];
            h += int(p.traversal[2]);
            if (h > int(p.size[2]) - 1 + p.upper[1]) {
                h = p.lower[1];
                ++n;
            }
        }
    }
    detail::arrived(barrier, int(p.pixels) * 128);
}

inline void load_box_to_all(uint32_t to, const TensorMap& map, uint32_t barrier, int blocks, int c0, int c1, int c2) {
    for (int rank = 0; rank < blocks; ++rank) emulator::at_rank(rank, [&] { load_box(to, map, barrier, c0, c1, c2); });
}

inline void load_pixels_to_all(uint32_t to, const TensorMap& map, uint32_t barrier, int blocks, int c, int w, int h,
                               int n, int offset_w, int offset_h) {
    for (int rank = 0; rank < blocks; ++rank)
        emulator::at_rank(rank, [&] { load_pixels(to, map, barrier, c, w, h, n, offset_w, offset_h); });
}

inline void prefetch_map(const TensorMap&) {}

template <int Registers>
inline void take_registers() {}

template <int Registers>
inline void give_registers() {}

inline void arrive_threads(int number, int threads) {
    emulator::Meeting& m = emulator::block->meeting[number];
    emulator::progress();
    if (++m.arrived == threads) m.arrived = 0, ++m.generation;
}

inline void sync_threads(int number, int threads) {
    emulator::meet(emulator::block->meeting[number], threads);
}

}  // namespace dlperf::cuda

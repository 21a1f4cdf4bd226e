// csrc/cuda/ptx.cuh on the emulator.
#pragma once

#include "cuda/common.h"
#include "emulator.h"

namespace dlperf::cuda {

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

struct alignas(16) Chunk {
    uint32_t word[4];
};

inline float to_float(float x) {
    return x;
}

inline float to_float(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline float to_float(f16 x) {
    const int sign = x.bits >> 15, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float out = exponent == 0    ? std::ldexp(float(fraction), -24)
                : exponent == 31 ? (fraction ? NAN : INFINITY)
                                 : std::ldexp(float(fraction + 1024), exponent - 25);
    return sign ? -out : out;
}

template <class T>
inline T from_float(float x);

template <>
inline float from_float<float>(float x) {
    return x;
}

template <>
inline bf16 from_float<bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return {0x7fff};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
inline f16 from_float<f16>(float x) {
    if (x != x) return {0x7fff};
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float a = std::fabs(x);
    if (a >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    int exponent;
    std::frexp(a, &exponent);
    const int unit = (exponent > -13 ? exponent : -13) - 11;  // of the last place
    const long scaled = std::lrint(std::ldexp(a, -unit));
    if (a == 0.0f) return {sign};
    if (unit == -24 && scaled < 1024) return {uint16_t(sign | scaled)};
    const int carried = scaled == 2048;
    return {uint16_t(sign | ((unit + 25 + carried) << 10) | ((carried ? 1024 : scaled) & 1023))};
}

template <class T>
inline uint32_t pack(float low, float high) {
    return uint32_t(from_float<T>(low).bits) | uint32_t(from_float<T>(high).bits) << 16;
}

inline uint32_t shared_address(const void* p) {
    return uint32_t(static_cast<const unsigned char*>(p) - emulator::block->base) + emulator::kSharedStart;
}

inline unsigned char* dynamic_shared() {
    return emulator::block->base;
}

inline void copy_async(uint32_t to, const void* from, bool there) {
    emulator::block->fibers[emulator::block->current].open.push_back({to, from, there});
}

inline void copy_commit() {
    emulator::Fiber& f = emulator::block->fibers[emulator::block->current];
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}

// As late as allowed, so that a missing wait shows.
template <int Pending>
inline void copy_wait() {
    emulator::Fiber& f = emulator::block->fibers[emulator::block->current];
    while (f.groups.size() > size_t(Pending)) {
        emulator::run_copies(f.groups.front());
        f.groups.pop_front();
    }
}

namespace detail {

inline void load_matrices(uint32_t (&r)[4], uint32_t from, bool transposed) {
    emulator::slot(emulator::lane())[0] = from;
    emulator::meet_warp();
    const int g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        uint16_t pair[2];
        for (int j = 0; j < 2; ++j) {
            const int row = transposed ? 2 * t + j : g, column = transposed ? g : 2 * t + j;
            std::memcpy(&pair[j], emulator::shared_at(emulator::slot(8 * i + row)[0], 16) + column * 2, 2);
        }
        r[i] = uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
    }
    emulator::meet_warp();
}

template <class T>
inline float half_of(uint32_t pair, int which) {
    return to_float(T{uint16_t(which ? pair >> 16 : pair)});
}

}  // namespace detail

inline void load_matrices(uint32_t (&r)[4], uint32_t from) {
    detail::load_matrices(r, from, false);
}
inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
    detail::load_matrices(r, from, true);
}

// The value of A at (row, k) from the fragments that a warp has put into its slots' words 0 to 3.
template <class T>
inline float fragment_a(int row, int k) {
    const int which = (row >= 8) + 2 * (k >= 8), of_lane = row % 8 * 4 + k % 8 / 2;
    return detail::half_of<T>(emulator::slot(of_lane)[which], k & 1);
}

template <class T>
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    uint32_t* mine = emulator::slot(emulator::lane());
    for (int i = 0; i < 4; ++i) mine[i] = a[i];
    mine[4] = b0, mine[5] = b1;
    emulator::meet_warp();
    const int g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        for (int k = 0; k < 16; ++k) {
            const uint32_t pair = emulator::slot(column * 4 + k % 8 / 2)[4 + (k >= 8)];
            c[i] += fragment_a<T>(row, k) * detail::half_of<T>(pair, k & 1);
        }
    }
    emulator::meet_warp();
}

inline float shuffle_xor(float x, int mask) {
    std::memcpy(emulator::slot(emulator::lane()), &x, 4);
    emulator::meet_warp();
    float out;
    std::memcpy(&out, emulator::slot(emulator::lane() ^ mask), 4);
    emulator::meet_warp();
    return out;
}

inline void sync_block() {
    emulator::meet(emulator::block->meeting[0], int(blockDim.x));
}
inline void sync_warp() {
    emulator::meet_warp();
}
inline void keep_order() {}
inline float exp2_fast(float x) {
    return std::exp2(x);
}

}  // namespace dlperf::cuda

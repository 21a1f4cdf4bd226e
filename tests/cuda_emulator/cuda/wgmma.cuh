// csrc/cuda/wgmma.cuh on the emulator: descriptors are decoded. Products are done as late as allowed, by the wait for
// them, so that operands which are overwritten too early and results which are used too early show.
#pragma once

#include "cuda/descriptor.h"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

inline void products_fence() {}
inline void products_commit() {
    emulator::Fiber& f = emulator::block->fibers[emulator::block->current];
    f.products.push_back(std::move(f.open_products));
    f.open_products.clear();
}
template <int Pending>
inline void products_wait() {
    emulator::Fiber& f = emulator::block->fibers[emulator::block->current];
    while (f.products.size() > size_t(Pending)) {
        for (const auto& product : f.products.front()) product();
        f.products.pop_front();
    }
}
template <int Count>
inline void pin(float (&)[Count]) {}
template <int Count>
inline void pin(uint32_t (&)[Count][4]) {}

namespace detail {

// The value at (index along m or n, k of 16) of the operand that a descriptor names.
template <class T, Major M>
inline float value_at(uint64_t d, int index, int k) {
    if (d >> 62 != 1) emulator::fail("not the 128-byte swizzle");
    const uint32_t start = uint32_t(d & 0x3FFF) << 4, leading = uint32_t(d >> 16 & 0x3FFF) << 4,
                   stride = uint32_t(d >> 32 & 0x3FFF) << 4;
    const uint32_t at = M == Major::k ? start + index % 8 * 128 + index / 8 * stride + k * 2
                                      : start + index % 64 * 2 + index / 64 * leading + k % 8 * 128 + k / 8 * stride;
    uint16_t bits;
    std::memcpy(&bits, swizzled(at), 2);
    return to_float(T{bits});
}

inline void later(std::function<void()> product) {
    emulator::block->fibers[emulator::block->current].open_products.push_back(std::move(product));
}

template <class T, int N, Major MajorB, class ValueA>
inline void products(float* d, uint64_t b, bool accumulate, const ValueA& a_at) {
    const int g = emulator::lane() / 4, t = emulator::lane() % 4;
    float a[2][16];
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < 16; ++k) a[half][k] = a_at(g + 8 * half, k);
    for (int j = 0; j < N / 8; ++j)
        for (int side = 0; side < 2; ++side) {
            float sum[2] = {};
            for (int k = 0; k < 16; ++k) {
                const float value = value_at<T, MajorB>(b, 8 * j + 2 * t + side, k);
                sum[0] += a[0][k] * value, sum[1] += a[1][k] * value;
            }
            for (int half = 0; half < 2; ++half) {
                float& to = d[4 * j + 2 * half + side];
                to = (accumulate ? to : 0.0f) + sum[half];
            }
        }
}

}  // namespace detail

template <class T, int N, Major MajorA, Major MajorB>
inline void products(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
    float* to = d;
    detail::later([=] {
        const int first = emulator::warp() % 4 * 16;
        detail::products<T, N, MajorB>(to, b, accumulate,
                                       [&](int row, int k) { return detail::value_at<T, MajorA>(a, first + row, k); });
    });
}

template <class T, int N, Major MajorB>
inline void products(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    float* to = d;
    const uint32_t* from = a;  // the registers themselves: they are read until the wait
    detail::later([=] {
        for (int i = 0; i < 4; ++i) emulator::slot(emulator::lane())[i] = from[i];
        emulator::meet_warp();
        detail::products<T, N, MajorB>(to, b, accumulate, [&](int row, int k) { return fragment_a<T>(row, k); });
        emulator::meet_warp();
    });
}

}  // namespace dlperf::cuda

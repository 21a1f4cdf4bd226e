// The matrices of Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016, arXiv:1509.09308), as code on vectors of
// channels.
//
// The interpolation points are 0, +-2/3, +-3/2 and infinity, not the usual 0, +-1, +-2 and infinity: a and b = 1/a of
// about equal distance from 1 keep the matrices' entries close together. Measured in float32 with 256 channels the
// error is a third to a quarter of the usual points', 4 times that of the direct sum. Additions and products are as
// many.
//
// One transform serves three products: with B the data's, G the filter's and A the result's matrix,
//   forward and gradient to the input    Y = A^T [(G g G^T) . (B^T d B)] A      g 3x3, d 6x6, Y 4x4
//   gradient to the weight              gW = A'^T [(G' y G'^T) . (B^T d B)] A'  y 4x4, d 6x6, gW 3x3
#pragma once

#include "cpu/vec.h"

namespace dlperf::DLPERF_ISA_NS::winograd {

constexpr int kTile = 4;            // outputs of a tile along an axis
constexpr int kIn = 6;              // inputs of a tile along an axis
constexpr int kPoints = kIn * kIn;  // products per tile, input channel and output channel

constexpr float kA = 2.0f / 3.0f, kB = 3.0f / 2.0f;
constexpr float kA2 = float(4.0 / 9.0), kB2 = float(9.0 / 4.0);
constexpr float kSum = float(4.0 / 9.0 + 9.0 / 4.0);
constexpr float kA3 = float(8.0 / 27.0), kB3 = float(27.0 / 8.0);
// One over the derivative of x (x^2 - a^2) (x^2 - b^2) at a and at b.
constexpr float kNa = float(1.0 / (2 * (4.0 / 9.0) * (4.0 / 9.0 - 9.0 / 4.0)));
constexpr float kNb = float(1.0 / (2 * (9.0 / 4.0) * (9.0 / 4.0 - 4.0 / 9.0)));

// B^T d for one line of 6.
static DLPERF_INLINE void data_line(const Vec (&d)[kIn], Vec (&v)[kIn]) {
    const Vec sum = Vec::set1(-kSum), a = Vec::set1(kA), b = Vec::set1(kB);
    const Vec a2 = Vec::set1(-kA2), b2 = Vec::set1(-kB2);
    v[0] = fma(sum, d[2], d[0] + d[4]);
    const Vec even_a = fma(b2, d[2], d[4]), odd_a = fma(b2, d[1], d[3]) * a;
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    const Vec even_b = fma(a2, d[2], d[4]), odd_b = fma(a2, d[1], d[3]) * b;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = fma(sum, d[3], d[1] + d[5]);
}

// A^T m for one line: 6 to 4.
static DLPERF_INLINE void result_line(const Vec (&m)[kIn], Vec (&y)[kTile]) {
    const Vec sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];
    y[0] = m[0] + (sa + sb);
    y[1] = fma(Vec::set1(kA), da, Vec::set1(kB) * db);
    y[2] = fma(Vec::set1(kA2), sa, Vec::set1(kB2) * sb);
    y[3] = fma(Vec::set1(kA3), da, fma(Vec::set1(kB3), db, m[5]));
}

// G g for one line: 3 to 6.
static DLPERF_INLINE void filter_line(const Vec (&g)[3], Vec (&u)[kIn]) {
    const Vec even_a = fma(Vec::set1(kA2), g[2], g[0]) * Vec::set1(kNa), odd_a = g[1] * Vec::set1(kA * kNa);
    const Vec even_b = fma(Vec::set1(kB2), g[2], g[0]) * Vec::set1(kNb), odd_b = g[1] * Vec::set1(kB * kNb);
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

// G' y for one line: 4 to 6, y a tile of the result's gradient.
static DLPERF_INLINE void gradient_line(const Vec (&g)[kTile], Vec (&u)[kIn]) {
    const Vec even_a = fma(Vec::set1(kA2), g[2], g[0]) * Vec::set1(kNa);
    const Vec odd_a = fma(Vec::set1(kA2), g[3], g[1]) * Vec::set1(kA * kNa);
    const Vec even_b = fma(Vec::set1(kB2), g[2], g[0]) * Vec::set1(kNb);
    const Vec odd_b = fma(Vec::set1(kB2), g[3], g[1]) * Vec::set1(kB * kNb);
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[3];
}

// A'^T m for one line: 6 to 3.
static DLPERF_INLINE void weight_line(const Vec (&m)[kIn], Vec (&w)[3]) {
    const Vec sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];
    w[0] = m[0] + (sa + sb);
    w[1] = fma(Vec::set1(kA), da, Vec::set1(kB) * db);
    w[2] = fma(Vec::set1(kA2), sa, fma(Vec::set1(kB2), sb, m[5]));
}

}  // namespace dlperf::DLPERF_ISA_NS::winograd

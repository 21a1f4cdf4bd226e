// The elementwise part of recurrent cells, for some units of one row of a step. Formulas: docs/math/recurrent.md.
#pragma once

#include "cpu/recurrent.h"
#include "cpu/span.h"
#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Both are inside [0, 1] and [-1, 1]: their derivatives from themselves.
static DLPERF_INLINE Vec sigmoid_slope(Vec s) {
    return s * (Vec::set1(1.0f) - s);
}
static DLPERF_INLINE Vec tanh_slope(Vec t) {
    return Vec::set1(1.0f) - t * t;
}

// What is kept of a gate: in float32 its value; in 16 bits the sum before the activation, because near saturation a
// rounded value has lost its distance from 1, and with it the derivative.
template <class T>
constexpr bool kKeepsSums = sizeof(T) < 4;

template <class T, class Lanes>
static DLPERF_INLINE void keep(Lanes lanes, T* p, Vec sum, Vec value) {
    lanes.store(p, kKeepsSums<T> ? sum : value);
}
template <class T, class Lanes>
static DLPERF_INLINE Vec kept_sigmoid(Lanes lanes, const T* p) {
    return kKeepsSums<T> ? sigmoid(lanes.load(p)) : lanes.load(p);
}
template <class T, class Lanes>
static DLPERF_INLINE Vec kept_tanh(Lanes lanes, const T* p) {
    return kKeepsSums<T> ? tanh(lanes.load(p)) : lanes.load(p);
}

template <class T>
static void lstm_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const int64_t n = f.hidden;
    T* g = (T*)f.gates + row * 4 * n + begin;
    const T* z = (const T*)f.z + row * 4 * n + begin;
    const int64_t at = row * n + begin;
    const T* past = (const T*)f.past + at;
    T *h = f.h ? (T*)f.h + at : nullptr, *y = (T*)f.y + at, *kept = f.kept ? (T*)f.kept + row * 2 * n + begin : nullptr;
    float* c = f.carried + at;
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec i_sum = lanes.load(g + j) + lanes.load(z + j);
        const Vec forget_sum = lanes.load(g + n + j) + lanes.load(z + n + j);
        const Vec cell_sum = lanes.load(g + 2 * n + j) + lanes.load(z + 2 * n + j);
        const Vec o_sum = lanes.load(g + 3 * n + j) + lanes.load(z + 3 * n + j);
        const Vec i = sigmoid(i_sum), forget = sigmoid(forget_sum), cell = tanh(cell_sum), o = sigmoid(o_sum);
        const Vec before = lanes.load(c + j), after = fma(forget, before, i * cell), out = o * tanh(after);
        if (kept) {
            lanes.store(kept + j, before);
            lanes.store(kept + n + j, lanes.load(past + j));
            keep(lanes, g + j, i_sum, i);
            keep(lanes, g + n + j, forget_sum, forget);
            keep(lanes, g + 2 * n + j, cell_sum, cell);
            keep(lanes, g + 3 * n + j, o_sum, o);
        }
        lanes.store(c + j, after);
        if (h) lanes.store(h + j, out);
        lanes.store(y + j, out);
    });
}

template <class T>
static void gru_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const int64_t n = f.hidden;
    T* g = (T*)f.gates + row * 3 * n + begin;
    const T* z = (const T*)f.z + row * 3 * n + begin;
    const int64_t at = row * n + begin;
    T *h = f.h ? (T*)f.h + at : nullptr, *y = (T*)f.y + at, *kept = f.kept ? (T*)f.kept + row * 2 * n + begin : nullptr;
    float* carried = f.carried + at;
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec reset_sum = lanes.load(g + j) + lanes.load(z + j), reset = sigmoid(reset_sum);
        const Vec update_sum = lanes.load(g + n + j) + lanes.load(z + n + j), update = sigmoid(update_sum);
        const Vec inner = lanes.load(z + 2 * n + j);
        const Vec fresh_sum = fma(reset, inner, lanes.load(g + 2 * n + j)), fresh = tanh(fresh_sum);
        const Vec before = lanes.load(carried + j), out = fma(update, before - fresh, fresh);
        if (kept) {
            lanes.store(kept + j, inner);
            lanes.store(kept + n + j, before);
            keep(lanes, g + j, reset_sum, reset);
            keep(lanes, g + n + j, update_sum, update);
            keep(lanes, g + 2 * n + j, fresh_sum, fresh);
        }
        lanes.store(carried + j, out);
        if (h) lanes.store(h + j, out);
        lanes.store(y + j, out);
    });
}

template <class T, bool Relu>
static void rnn_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const int64_t n = f.hidden;
    const int64_t at = row * n + begin;
    const T *g = (const T*)f.gates + at, *z = (const T*)f.z + at;
    const T* past = (const T*)f.past + at;
    T *h = f.h ? (T*)f.h + at : nullptr, *y = (T*)f.y + at, *kept = f.kept ? (T*)f.kept + at : nullptr;
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec sum = lanes.load(g + j) + lanes.load(z + j);
        const Vec out = Relu ? max(sum, Vec::zero()) : tanh(sum);
        if (kept) lanes.store(kept + j, lanes.load(past + j));
        if (h) lanes.store(h + j, out);
        lanes.store(y + j, out);
    });
}

template <class T>
static void cell_forward(Cell cell, const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    if (cell == Cell::lstm) return lstm_forward<T>(f, row, begin, length);
    if (cell == Cell::gru) return gru_forward<T>(f, row, begin, length);
    if (cell == Cell::rnn_tanh) return rnn_forward<T, false>(f, row, begin, length);
    rnn_forward<T, true>(f, row, begin, length);
}

}  // namespace
}  // namespace dlperf::DLPERF_ISA_NS

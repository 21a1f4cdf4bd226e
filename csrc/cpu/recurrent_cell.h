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

// Where some units of one row of a step begin.
template <class T>
struct Units {
    int64_t hidden;
    T* gates;
    const T *z, *past;
    T *h, *y, *kept;
    float* carried;  // as h and kept, null where there is none

    Units(Cell cell, const StepForward& f, int64_t row, int64_t begin) : hidden(f.hidden) {
        const int64_t at = row * hidden + begin, in_gates = row * gate_count(cell) * hidden + begin;
        gates = (T*)f.gates + in_gates;
        z = (const T*)f.z + in_gates;
        past = (const T*)f.past + at;
        h = f.h ? (T*)f.h + at : nullptr;
        y = (T*)f.y + at;
        kept = f.kept ? (T*)f.kept + row * kept_count(cell) * hidden + begin : nullptr;
        carried = f.carried ? f.carried + at : nullptr;
    }
};

template <class T>
static void lstm_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const Units<T> u(Cell::lstm, f, row, begin);
    const int64_t n = u.hidden;
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec i_sum = lanes.load(u.gates + j) + lanes.load(u.z + j);
        const Vec forget_sum = lanes.load(u.gates + n + j) + lanes.load(u.z + n + j);
        const Vec cell_sum = lanes.load(u.gates + 2 * n + j) + lanes.load(u.z + 2 * n + j);
        const Vec o_sum = lanes.load(u.gates + 3 * n + j) + lanes.load(u.z + 3 * n + j);
        const Vec i = sigmoid(i_sum), forget = sigmoid(forget_sum), cell = tanh(cell_sum), o = sigmoid(o_sum);
        const Vec before = lanes.load(u.carried + j), after = fma(forget, before, i * cell), out = o * tanh(after);
        if (u.kept) {
            lanes.store(u.kept + j, before);
            lanes.store(u.kept + n + j, lanes.load(u.past + j));
            keep(lanes, u.gates + j, i_sum, i);
            keep(lanes, u.gates + n + j, forget_sum, forget);
            keep(lanes, u.gates + 2 * n + j, cell_sum, cell);
            keep(lanes, u.gates + 3 * n + j, o_sum, o);
        }
        lanes.store(u.carried + j, after);
        if (u.h) lanes.store(u.h + j, out);
        lanes.store(u.y + j, out);
    });
}

template <class T>
static void gru_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const Units<T> u(Cell::gru, f, row, begin);
    const int64_t n = u.hidden;
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec reset_sum = lanes.load(u.gates + j) + lanes.load(u.z + j), reset = sigmoid(reset_sum);
        const Vec update_sum = lanes.load(u.gates + n + j) + lanes.load(u.z + n + j), update = sigmoid(update_sum);
        const Vec inner = lanes.load(u.z + 2 * n + j);
        const Vec fresh_sum = fma(reset, inner, lanes.load(u.gates + 2 * n + j)), fresh = tanh(fresh_sum);
        const Vec before = lanes.load(u.carried + j), out = fma(update, before - fresh, fresh);
        if (u.kept) {
            lanes.store(u.kept + j, inner);
            lanes.store(u.kept + n + j, before);
            keep(lanes, u.gates + j, reset_sum, reset);
            keep(lanes, u.gates + n + j, update_sum, update);
            keep(lanes, u.gates + 2 * n + j, fresh_sum, fresh);
        }
        lanes.store(u.carried + j, out);
        if (u.h) lanes.store(u.h + j, out);
        lanes.store(u.y + j, out);
    });
}

template <class T, bool Relu>
static void rnn_forward(const StepForward& f, int64_t row, int64_t begin, int64_t length) {
    const Units<T> u(Relu ? Cell::rnn_relu : Cell::rnn_tanh, f, row, begin);
    for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
        const Vec sum = lanes.load(u.gates + j) + lanes.load(u.z + j);
        const Vec out = Relu ? max(sum, Vec::zero()) : tanh(sum);
        if (u.kept) lanes.store(u.kept + j, lanes.load(u.past + j));
        if (u.h) lanes.store(u.h + j, out);
        lanes.store(u.y + j, out);
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

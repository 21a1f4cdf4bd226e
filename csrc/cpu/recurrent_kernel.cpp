// One step of a recurrent cell between its matrix products. Formulas: docs/math/recurrent.md.
#include "cpu/parallel.h"
#include "cpu/recurrent_cell.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kPiece = 256;          // elements of a row that one thread takes at once
constexpr int64_t kMinPerThread = 1024;  // elements

// body(row, first column, columns) for pieces that cover [rows, hidden].
template <class Body>
static void for_state(int64_t rows, int64_t hidden, const Body& body) {
    const int64_t pieces = (hidden + kPiece - 1) / kPiece, piece = (hidden + pieces - 1) / pieces;
    parallel_for(rows * pieces, kMinPerThread / piece, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t i = begin; i < end; ++i) {
            const Range r = split(hidden, pieces, i % pieces, 16);
            body(i / pieces, r.begin, r.end - r.begin);
        }
    });
}

template <class T>
static void lstm_backward(const StepBackward& b) {
    const int64_t n = b.hidden;
    for_state(b.rows, n, [&](int64_t row, int64_t begin, int64_t length) {
        const T *g = (const T*)b.gates + row * 4 * n + begin, *kept = (const T*)b.kept + row * 2 * n + begin;
        const int64_t at = row * n + begin;
        const T *gy = b.gy ? (const T*)b.gy + at : nullptr, *gh = (const T*)b.gh + at;
        float* gc = b.carried + at;
        T* d = (T*)b.d + row * 4 * n + begin;
        for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
            const Vec i = kept_sigmoid(lanes, g + j), forget = kept_sigmoid(lanes, g + n + j);
            const Vec cell = kept_tanh(lanes, g + 2 * n + j), o = kept_sigmoid(lanes, g + 3 * n + j);
            const Vec before = lanes.load(kept + j);
            const Vec t = tanh(fma(forget, before, i * cell));
            Vec up = lanes.load(gh + j);
            if (gy) up = up + lanes.load(gy + j);
            const Vec down = fma(up * o, tanh_slope(t), lanes.load(gc + j));
            lanes.store(d + j, down * cell * sigmoid_slope(i));
            lanes.store(d + n + j, down * before * sigmoid_slope(forget));
            lanes.store(d + 2 * n + j, down * i * tanh_slope(cell));
            lanes.store(d + 3 * n + j, up * t * sigmoid_slope(o));
            lanes.store(gc + j, down * forget);
        });
    });
}

template <class T>
static void gru_backward(const StepBackward& b) {
    const int64_t n = b.hidden;
    const Vec one = Vec::set1(1.0f);
    for_state(b.rows, n, [&](int64_t row, int64_t begin, int64_t length) {
        const T *g = (const T*)b.gates + row * 3 * n + begin, *kept = (const T*)b.kept + row * 2 * n + begin;
        const int64_t at = row * n + begin;
        const T *gy = b.gy ? (const T*)b.gy + at : nullptr, *gh = (const T*)b.gh + at;
        float* past = b.carried + at;
        T *d = (T*)b.d + row * 3 * n + begin, *dz = (T*)b.d_hidden + row * 3 * n + begin;
        for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
            const Vec reset = kept_sigmoid(lanes, g + j), update = kept_sigmoid(lanes, g + n + j);
            const Vec fresh = kept_tanh(lanes, g + 2 * n + j);
            const Vec inner = lanes.load(kept + j), before = lanes.load(kept + n + j);
            Vec up = lanes.load(gh + j) + lanes.load(past + j);
            if (gy) up = up + lanes.load(gy + j);
            const Vec d_fresh = up * (one - update) * tanh_slope(fresh);
            const Vec d_reset = d_fresh * inner * sigmoid_slope(reset);
            const Vec d_update = up * (before - fresh) * sigmoid_slope(update);
            lanes.store(d + j, d_reset);
            lanes.store(d + n + j, d_update);
            lanes.store(d + 2 * n + j, d_fresh);
            lanes.store(dz + j, d_reset);
            lanes.store(dz + n + j, d_update);
            lanes.store(dz + 2 * n + j, d_fresh * reset);
            lanes.store(past + j, up * update);
        });
    });
}

template <class T, bool Relu>
static void rnn_backward(const StepBackward& b) {
    const int64_t n = b.hidden;
    for_state(b.rows, n, [&](int64_t row, int64_t begin, int64_t length) {
        const int64_t at = row * n + begin;
        const T *gy = b.gy ? (const T*)b.gy + at : nullptr, *gh = (const T*)b.gh + at, *y = (const T*)b.y + at;
        T* d = (T*)b.d + at;
        for_span(length, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
            Vec up = lanes.load(gh + j);
            if (gy) up = up + lanes.load(gy + j);
            const Vec out = lanes.load(y + j);
            lanes.store(d + j, Relu ? select(out <= Vec::zero(), Vec::zero(), up) : up * tanh_slope(out));
        });
    });
}

void forward(Cell cell, DType dtype, const StepForward& f) {
    DLPERF_DTYPE_SWITCH(dtype, for_state(f.rows, f.hidden, [&](int64_t row, int64_t begin, int64_t length) {
                            cell_forward<T>(cell, f, row, begin, length);
                        });)
}

void backward(Cell cell, DType dtype, const StepBackward& b) {
    DLPERF_DTYPE_SWITCH(
        dtype, if (cell == Cell::lstm) { lstm_backward<T>(b); } else if (cell == Cell::gru) {
            gru_backward<T>(b);
        } else if (cell == Cell::rnn_tanh) { rnn_backward<T, false>(b); } else { rnn_backward<T, true>(b); })
}

}  // namespace

const RecurrentTable recurrent_table = {forward, backward};

}  // namespace dlperf::DLPERF_ISA_NS

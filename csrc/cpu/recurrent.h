// Recurrent layers in one direction: LSTM, GRU and plain RNN cells over the steps of a batch of sequences.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// Order is the interface: dlperf/ops/recurrent.py lists the same names.
enum class Cell : int { lstm = 0, gru, rnn_tanh, rnn_relu };

constexpr int64_t gate_count(Cell cell) {
    return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
}

// What backward needs of the state before a step, in columns of `hidden`: lstm: c, h; gru: W_hn h + b_hn, h; rnn: h.
constexpr int64_t kept_count(Cell cell) {
    return cell == Cell::lstm || cell == Cell::gru ? 2 : 1;
}

// Steps lie one after another: step t has batch_sizes[t] rows, never more than the step before, the first at most n.
struct RecurrentShape {
    Cell cell;
    DType dtype;
    int64_t steps, n, hidden;
    const int64_t* batch_sizes;  // or null: n each
    bool reverse;                // the last step is computed first
    int64_t threads;
};

// All dense; G = gate_count, P = kept_count, R = rows of all steps. Gates left for backward are their values in
// float32, in 16 bits the sums before the activation.
struct RecurrentForward {
    void* gates;       // [R, G hidden]: W_ih x + b_ih; where `kept` is given, lstm and gru leave the gates here
    const void* w_hh;  // [G hidden, hidden], or what recurrent_pack made of it
    const void* b_hh;  // [G hidden] or null
    void* h;           // [n, hidden]: the first state, then the last
    float* carried;    // the same of lstm's c, and of gru's h before rounding
    void* y;           // [R, hidden]
    void* kept;        // [R, P hidden] or null
    bool prepacked;
};

struct RecurrentBackward {
    const void* gy;  // [R, hidden] or null
    const void* w_hh;
    const void *gates, *y, *kept;  // forward's
    void* gh;        // [n, hidden]: gradient of the last h, then of the first; where gru, both with what is carried
    float* carried;  // gradient of lstm's c, or the part of gru's h that goes past W_hh
    void* d;         // [R, G hidden]: gradient of W_ih x + b_ih
    void* d_hidden;  // gru: of W_hh h + b_hh. For the others it is d
};

// Whether the steps are walked in one kernel, whose packs have an order of their own.
bool recurrent_walks(const RecurrentShape&);
int64_t recurrent_workspace(const RecurrentShape&, bool backward, bool prepacked);
int64_t recurrent_pack_bytes(const RecurrentShape&);
void recurrent_pack(const RecurrentShape&, const void* w_hh, void* packed);
void recurrent_forward(const RecurrentShape&, const RecurrentForward&, void* workspace);
void recurrent_backward(const RecurrentShape&, const RecurrentBackward&, void* workspace);

// The elementwise part of one step.
struct StepForward {
    int64_t rows, hidden;
    void* gates;
    const void* z;     // [rows, G hidden]: W_hh h + b_hh
    const void* past;  // h before the step
    void* h;           // after it, may be `past`, or null: y holds it too
    float* carried;
    void *y, *kept;
};

struct StepBackward {
    int64_t rows, hidden;
    const void *gy, *gates, *y, *kept;
    const void* gh;
    float* carried;
    void *d, *d_hidden;
};

struct RecurrentTable {
    void (*forward)(Cell, DType, const StepForward&);
    void (*backward)(Cell, DType, const StepBackward&);
};

// All steps in one parallel region, in float32: for few rows, whose products are as short as the waits between them.
struct RecurrentWalkTable {
    bool (*serves)(const RecurrentShape&);
    int64_t (*pack_bytes)(const RecurrentShape&);
    void (*pack)(const RecurrentShape&, const float* w_hh, float* packed);
    // f.w_hh is packed; z: [n, G hidden] floats.
    void (*forward)(const RecurrentShape&, const RecurrentForward& f, float* z);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::RecurrentTable, recurrent_table)
DLPERF_DECLARE_TABLE(dlperf::RecurrentWalkTable, recurrent_walk_table)

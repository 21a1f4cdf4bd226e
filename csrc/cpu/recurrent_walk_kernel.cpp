// Recurrent layers of few rows: one parallel region for all steps.
//
// A thread has the same units in every step: its part of W_hh stays in its core's cache, as far as it fits there. Of a
// vector of units all gates lie together (a panel), so that a thread can go on to its cells without waiting; one
// barrier a step makes the new h known to all.
#include "cpu/gemm_pack.h"
#include "cpu/recurrent_cell.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int kRowsTogether = Vec::W == 16 ? 6 : 3;  // as many sums as registers hold
// From there on products cut into blocks are as fast.
constexpr int64_t kMaxRows = Vec::W == 16 ? 16 : 4;
constexpr int64_t kMinWorkPerThread = 50 * 1000;  // multiplications of a step
constexpr int kChains = 8;                        // independent sums that hide an addition's latency

static int64_t panels_of(const RecurrentShape& s) {
    return ceil_div(s.hidden, Vec::W);
}

// [hidden][G][W]
static int64_t panel_size(const RecurrentShape& s) {
    return s.hidden * gate_count(s.cell) * Vec::W;
}

bool serves(const RecurrentShape& s) {
    return s.dtype == DType::f32 && s.batch_sizes == nullptr && s.n <= kMaxRows;
}

int64_t pack_bytes(const RecurrentShape& s) {
    return panels_of(s) * panel_size(s) * int64_t(sizeof(float));
}

void pack(const RecurrentShape& s, const float* w_hh, float* packed) {
    const int64_t gates = gate_count(s.cell), k = s.hidden;
    const RunMap map = {1, 0, k, nullptr, nullptr, k};
    parallel_for(panels_of(s) * gates, 1, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t panel = i / gates, gate = i % gates, unit = panel * Vec::W;
            pack_panel_columns<false>(w_hh + (gate * k + unit) * k, k, k - unit, map,
                                      packed + panel * panel_size(s) + gate * Vec::W, gates * Vec::W);
        }
    });
}

struct Product {
    int64_t hidden;
    const float *h, *bias;  // bias may be null
    float* z;
};

// z of `Rows` rows from `row` on, of the units in `Panels` panels from the one at b on.
template <int G, int Rows, int Panels>
static void multiply(const Product& p, int64_t row, const float* b, int64_t panel) {
    const int64_t k = p.hidden, step = k * G * Vec::W;
    const float* h = p.h + row * k;
    Vec sum[Rows][Panels][G];
#pragma GCC unroll 8
    for (int q = 0; q < Panels; ++q) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            const int64_t unit = (panel + q) * Vec::W;
            const Vec start = p.bias ? load_some(p.bias + g * k + unit, k - unit) : Vec::zero();
#pragma GCC unroll 6
            for (int r = 0; r < Rows; ++r) sum[r][q][g] = start;
        }
    }
    for (int64_t j = 0; j < k; ++j, b += G * Vec::W) {
#pragma GCC unroll 8
        for (int q = 0; q < Panels; ++q) {
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) {
                const Vec w = Vec::load(b + q * step + g * Vec::W);
#pragma GCC unroll 6
                for (int r = 0; r < Rows; ++r) sum[r][q][g] = fma(Vec::set1(h[r * k + j]), w, sum[r][q][g]);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int q = 0; q < Panels; ++q) {
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) {
                const int64_t unit = (panel + q) * Vec::W;
                store_some(p.z + ((row + r) * G + g) * k + unit, sum[r][q][g], k - unit);
            }
        }
    }
}

template <int G, int Rows>
static void multiply_panels(const Product& p, int64_t row, const float* b, int64_t panel, int64_t count) {
    constexpr int kTogether = (kChains + G * Rows - 1) / (G * Rows);
    const int64_t size = p.hidden * G * Vec::W;
    int64_t q = 0;
    for (; q + kTogether <= count; q += kTogether) multiply<G, Rows, kTogether>(p, row, b + q * size, panel + q);
    for (; q < count; ++q) multiply<G, Rows, 1>(p, row, b + q * size, panel + q);
}

// Finds the kernel for a number of rows that is known when it runs.
template <int G, int Rows>
static void multiply_rows(const Product& p, int64_t rows, int64_t row, const float* b, int64_t panel, int64_t count) {
    if constexpr (Rows > 1) {
        if (rows < Rows) return multiply_rows<G, Rows - 1>(p, rows, row, b, panel, count);
    }
    multiply_panels<G, Rows>(p, row, b, panel, count);
}

// All rows' z of the units in [range.begin, range.end) panels.
template <int G>
static void multiply_range(const Product& p, int64_t rows, const float* packed, Range range, bool from_last) {
    constexpr int64_t kGroup = (kChains + G - 1) / G;
    const int64_t parts = ceil_div(rows, kRowsTogether);
    const int64_t size = p.hidden * G * Vec::W, groups = ceil_div(range.end - range.begin, kGroup);
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t panel = range.begin + (from_last ? groups - 1 - i : i) * kGroup;
        const int64_t count = min64(kGroup, range.end - panel);
        const float* b = packed + panel * size;
        for (int64_t part = 0; part < parts; ++part) {
            const Range r = split(rows, parts, part);
            multiply_rows<G, kRowsTogether>(p, r.end - r.begin, r.begin, b, panel, count);
        }
    }
}

template <int G>
static void walk(const RecurrentShape& s, const RecurrentForward& f, float* z) {
    const int64_t panels = panels_of(s), k = s.hidden, state = s.n * k;
    const int64_t useful = max64(1, s.n * k * G * k / kMinWorkPerThread);
    const int64_t threads = min64(min64(s.threads, useful), panels);
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        const Range mine = split(panels, omp_get_num_threads(), omp_get_thread_num());
        const int64_t unit = mine.begin * Vec::W, units = min64(k, mine.end * Vec::W) - unit;
        const float* past = static_cast<const float*>(f.h);
        for (int64_t i = 0; i < s.steps; ++i) {
            const int64_t t = s.reverse ? s.steps - 1 - i : i;
            float* y = static_cast<float*>(f.y) + t * state;
            float* kept = f.kept ? static_cast<float*>(f.kept) + t * state * kept_count(s.cell) : nullptr;
            const Product product = {k, past, static_cast<const float*>(f.b_hh), z};
            // Every other step from the end, which the step before has left in the cache.
            multiply_range<G>(product, s.n, static_cast<const float*>(f.w_hh), mine, i % 2 != 0);
            const StepForward step = {
                s.n, k, static_cast<float*>(f.gates) + t * state * G, z, past, nullptr, f.carried, y, kept};
            for (int64_t row = 0; row < s.n; ++row) cell_forward<float>(s.cell, step, row, unit, units);
            past = y;
#pragma omp barrier
        }
        for (int64_t row = 0; row < s.n; ++row) {
            copy_run(past + row * k + unit, static_cast<float*>(f.h) + row * k + unit, units);
        }
    }
}

void forward(const RecurrentShape& s, const RecurrentForward& f, float* z) {
    if (s.n == 0 || s.hidden == 0) return;
    const int64_t gates = gate_count(s.cell);
    if (gates == 4) return walk<4>(s, f, z);
    if (gates == 3) return walk<3>(s, f, z);
    walk<1>(s, f, z);
}

}  // namespace

const RecurrentWalkTable recurrent_walk_table = {serves, pack_bytes, pack, forward};

}  // namespace dlperf::DLPERF_ISA_NS

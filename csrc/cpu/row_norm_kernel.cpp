#include "cpu/row_norm.h"

#include "cpu/parallel.h"
#include "cpu/span.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinPerThread = 16 * 1024;  // elements
constexpr int64_t kRowsInFloat = 128;         // rows whose weight gradients are summed in float32

template <class T>
static double mean_square(const T* x, int64_t n) {
    double total = 0;
    for_pieces(n, [&](int64_t begin, int64_t length) {
        Sum4 squares;
        for_span(length, [&](int64_t i, auto lanes, int slot) DLPERF_LAMBDA {
            const Vec v = lanes.load(x + begin + i);
            squares.part[slot] = fma(v, v, squares.part[slot]);
        });
        total += squares.total();
    });
    return total / double(n);
}

template <class T, class A, bool has_weight, bool has_bias>
static void apply_row(const T* x, const A* weight, const A* bias, T* y, int64_t cols, float mean, float rstd) {
    const Vec center = Vec::set1(mean), scale = Vec::set1(rstd);
    for_span(cols, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
        Vec v = (lanes.load(x + i) - center) * scale;
        if (has_weight && has_bias) {
            v = fma(v, lanes.load(weight + i), lanes.load(bias + i));
        } else if (has_weight) {
            v = v * lanes.load(weight + i);
        } else if (has_bias) {
            v = v + lanes.load(bias + i);
        }
        lanes.store(y + i, v);
    });
}

template <class T, class A>
static void forward_typed(const RowNormShape& shape, const RowNormForward& call) {
    const int64_t rows = shape.rows, cols = shape.cols;
    const T* x = (const T*)call.x;
    const A *weight = (const A*)call.weight, *bias = (const A*)call.bias;
    T* y = (T*)call.y;
    parallel_for(rows, kMinPerThread / cols + 1, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const T* from = x + row * cols;
            float mean = 0.0f, rstd;
            if (shape.rms) {
                rstd = float(1.0 / __builtin_sqrt(mean_square(from, cols) + shape.eps));
                call.stats[row] = rstd;
            } else {
                Moments moments;
                add_moments(moments, from, cols);
                mean = float(moments.mean);
                rstd = float(moments.rstd(shape.eps));
                call.stats[row] = mean;
                call.stats[rows + row] = rstd;
            }
            T* to = y + row * cols;
            if (weight && bias) {
                apply_row<T, A, true, true>(from, weight, bias, to, cols, mean, rstd);
            } else if (weight) {
                apply_row<T, A, true, false>(from, weight, bias, to, cols, mean, rstd);
            } else if (bias) {
                apply_row<T, A, false, true>(from, weight, bias, to, cols, mean, rstd);
            } else {
                apply_row<T, A, false, false>(from, weight, bias, to, cols, mean, rstd);
            }
        }
    });
}

int threads_for(const RowNormShape& shape) {
    const int64_t most = omp_in_parallel() ? 1 : omp_get_max_threads();
    int64_t useful = shape.rows * shape.cols / kMinPerThread;
    if (useful > shape.rows) useful = shape.rows;
    return int(useful < 1 ? 1 : useful < most ? useful : most);
}

// Per thread: float32 sums of the last rows and float64 totals, of the weight's gradient and of the bias's.
struct Partials {
    char* base;
    int64_t cols;
    Partials(void* memory, int64_t cols) : base((char*)((uintptr_t(memory) + 63) / 64 * 64)), cols(cols) {}
    static int64_t bytes(int64_t cols, int threads) { return 64 + threads * cols * int64_t(2 * (8 + 4)); }
    double* total(int thread, int which) const { return (double*)(base + thread * cols * 24) + which * cols; }
    float* recent(int thread, int which) const { return (float*)(total(thread, 2)) + which * cols; }
    void clear(int thread) const { std::memset((void*)total(thread, 0), 0, size_t(cols) * 24); }
    void flush(int thread) const {
        double* total_of = total(thread, 0);
        float* recent_of = recent(thread, 0);
        for (int64_t i = 0; i < 2 * cols; ++i) {
            total_of[i] += recent_of[i];
            recent_of[i] = 0.0f;
        }
    }
};

// sums[0] = sum of gy * weight, sums[1] = sum of gy * weight * xhat
template <class T, class A, bool has_weight>
static void row_sums(const T* gy, const T* x, const A* weight, int64_t cols, float mean, float rstd, double* sums) {
    const Vec center = Vec::set1(mean), scale = Vec::set1(rstd);
    sums[0] = sums[1] = 0;
    for_pieces(cols, [&](int64_t begin, int64_t length) {
        Sum4 plain, with_x;
        for_span(length, [&](int64_t i, auto lanes, int slot) DLPERF_LAMBDA {
            Vec g = lanes.load(gy + begin + i);
            if (has_weight) g = g * lanes.load(weight + begin + i);
            plain.part[slot] = plain.part[slot] + g;
            const Vec xhat = lanes.keep((lanes.load(x + begin + i) - center) * scale);
            with_x.part[slot] = fma(g, xhat, with_x.part[slot]);
        });
        sums[0] += plain.total();
        sums[1] += with_x.total();
    });
}

// gx = rstd * (gy * weight - from_mean - xhat * from_rstd), and the row's part of the weight's and bias's gradients.
template <class T, class A, bool has_weight, bool affine_grads>
static void backward_row(const T* gy, const T* x, const A* weight, T* gx, float* gweight, float* gbias, int64_t cols,
                         float mean, float rstd, float from_mean, float from_rstd) {
    const Vec center = Vec::set1(mean), scale = Vec::set1(rstd);
    const Vec by_mean = Vec::set1(from_mean), by_rstd = Vec::set1(from_rstd);
    for_span(cols, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
        const Vec g = lanes.load(gy + i), xhat = (lanes.load(x + i) - center) * scale;
        if (affine_grads) {
            lanes.store(gweight + i, fma(g, xhat, lanes.load(gweight + i)));
            lanes.store(gbias + i, g + lanes.load(gbias + i));
        }
        if (gx != nullptr) {
            const Vec gw = has_weight ? g * lanes.load(weight + i) : g;
            lanes.store(gx + i, scale * (gw - fma(xhat, by_rstd, by_mean)));
        }
    });
}

template <class T, class A, bool has_weight, bool affine_grads>
DLPERF_NOTHROW static void backward_rows(const RowNormShape& shape, const RowNormBackward& call,
                                         const Partials& partials, Range range, int thread) {
    const int64_t cols = shape.cols;
    const T *gy = (const T*)call.gy, *x = (const T*)call.x;
    const A* weight = (const A*)call.weight;
    T* gx = (T*)call.gx;
    for (int64_t row = range.begin; row < range.end; ++row) {
        const T *gy_row = gy + row * cols, *x_row = x + row * cols;
        const float mean = shape.rms ? 0.0f : call.stats[row];
        const float rstd = shape.rms ? call.stats[row] : call.stats[shape.rows + row];
        double sums[2] = {0, 0};
        if (gx != nullptr) row_sums<T, A, has_weight>(gy_row, x_row, weight, cols, mean, rstd, sums);
        const float from_mean = shape.rms ? 0.0f : float(sums[0] / double(cols));
        backward_row<T, A, has_weight, affine_grads>(gy_row, x_row, weight, gx != nullptr ? gx + row * cols : nullptr,
                                                     partials.recent(thread, 0), partials.recent(thread, 1), cols, mean,
                                                     rstd, from_mean, float(sums[1] / double(cols)));
        if (affine_grads && (row - range.begin) % kRowsInFloat == kRowsInFloat - 1) partials.flush(thread);
    }
    if (affine_grads) partials.flush(thread);
}

template <class T, class A>
static void backward_typed(const RowNormShape& shape, const RowNormBackward& call, void* workspace) {
    const Partials partials(workspace, shape.cols);
    const bool affine_grads = call.gweight != nullptr || call.gbias != nullptr;
    const int threads = threads_for(shape);
#pragma omp parallel num_threads(threads)
    {
        // The runtime may give fewer threads than asked for.
        for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads()) {
            const Range range = split(shape.rows, threads, thread);
            if (affine_grads) {
                partials.clear(thread);
                if (call.weight != nullptr) {
                    backward_rows<T, A, true, true>(shape, call, partials, range, thread);
                } else {
                    backward_rows<T, A, false, true>(shape, call, partials, range, thread);
                }
            } else if (call.weight != nullptr) {
                backward_rows<T, A, true, false>(shape, call, partials, range, thread);
            } else {
                backward_rows<T, A, false, false>(shape, call, partials, range, thread);
            }
        }
    }
    if (!affine_grads) return;
    for (int64_t i = 0; i < shape.cols; ++i) {
        double weight_sum = 0, bias_sum = 0;
        for (int thread = 0; thread < threads; ++thread) {
            weight_sum += partials.total(thread, 0)[i];
            bias_sum += partials.total(thread, 1)[i];
        }
        if (call.gweight != nullptr) store_as(call.gweight, shape.affine_dtype, i, weight_sum);
        if (call.gbias != nullptr) store_as(call.gbias, shape.affine_dtype, i, bias_sum);
    }
}

void forward(const RowNormShape& shape, const RowNormForward& call) {
    if (shape.rows == 0 || shape.cols == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, {
        if (shape.affine_dtype == DType::f32) {
            forward_typed<T, float>(shape, call);
        } else {
            forward_typed<T, T>(shape, call);
        }
    })
}

int64_t backward_workspace(const RowNormShape& shape) {
    return Partials::bytes(shape.cols, threads_for(shape));
}

void backward(const RowNormShape& shape, const RowNormBackward& call, void* workspace) {
    if (shape.cols == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, {
        if (shape.affine_dtype == DType::f32) {
            backward_typed<T, float>(shape, call, workspace);
        } else {
            backward_typed<T, T>(shape, call, workspace);
        }
    })
}

}  // namespace

const RowNormTable row_norm_table = {forward, backward_workspace, backward};

}  // namespace dlperf::DLPERF_ISA_NS

#include "cpu/cross_entropy.h"

#include "cpu/axis_slice.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace dlperf::DLPERF_ISA_NS {
namespace {

static DLPERF_INLINE int64_t row_count(const CrossEntropyShape& shape) {
    return shape.outer * shape.inner;
}

// A row's target: its weight, and where its logit lies from the slice's base. Weight and place are zero for rows that
// do not count, and `counts` is.
struct Targets {
    float weight[Vec::W], counts[Vec::W];
    int64_t at[Vec::W];

    template <class S>
    DLPERF_INLINE Targets(const S& slice, const CrossEntropyShape& shape, const int64_t* targets,
                          const float* weights) {
        for (int r = 0; r < slice.rows; ++r) {
            const int64_t t = targets[r];
            const bool valid = t != shape.ignore_index && t >= 0 && t < shape.classes;
            weight[r] = !valid ? 0.0f : weights ? weights[t] : 1.0f;
            counts[r] = valid ? 1.0f : 0.0f;
            at[r] = valid ? t * slice.stride + r : 0;
        }
    }

    template <class S, class T>
    DLPERF_INLINE Vec pick(const S& slice, const T* x) const {
        float values[Vec::W];
        for (int r = 0; r < slice.rows; ++r) values[r] = counts[r] > 0.0f ? to_float(x[at[r]]) : 0.0f;
        return slice.per_row(values);
    }
};

// A class's weight along the slice, one where there are none
template <class S, class Lanes>
static DLPERF_INLINE Vec class_weight(const S& slice, const float* weights, int64_t i, Lanes lanes) {
    return weights ? slice.along(weights, i, lanes) : Vec::set1(1.0f);
}

static float weight_total(const CrossEntropyShape& shape, const float* weights) {
    if (!weights) return float(shape.classes);
    double total = 0.0;
    for (int64_t c = 0; c < shape.classes; ++c) total += weights[c];
    return float(total);
}

// The gradient that each row receives, before its weights
template <class S, class T>
static DLPERF_INLINE Vec row_grad(const S& slice, const CrossEntropyShape& shape, const T* grad_loss,
                                  const float* saved, int64_t row) {
    if (shape.reduction == Reduction::none) return slice.per_row(grad_loss + row);
    const float divisor = shape.reduction == Reduction::mean ? saved[2 * row_count(shape)] : 1.0f;
    return Vec::set1(to_float(*grad_loss) / divisor);
}

// Serial and in float64: the same at every thread count.
template <class T>
static void reduce(const CrossEntropyShape& shape, const float* row_loss, float divisor, T* loss) {
    const int64_t rows = row_count(shape);
    if (shape.reduction == Reduction::none) {
        if ((const void*)loss == (const void*)row_loss) return;
        for (int64_t r = 0; r < rows; r += Vec::W) store_some(loss + r, load_some(row_loss + r, rows - r), rows - r);
        return;
    }
    double total = 0.0;
    for (int64_t r = 0; r < rows; ++r) total += row_loss[r];
    *loss = from_float<T>(float(shape.reduction == Reduction::mean ? total / divisor : total));
}

template <class T>
static int64_t forward_typed(const CrossEntropyShape& shape, const T* logits, const int64_t* targets,
                             const float* weights, float* row_loss, float* saved, T* loss) {
    const int64_t rows = row_count(shape);
    double divisor = 0.0;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = targets[r];
        if (t == shape.ignore_index) continue;
        if (t < 0 || t >= shape.classes) return r;
        divisor += weights ? weights[t] : 1.0f;
    }
    saved[2 * rows] = float(divisor);

    const float spread = shape.smoothing / float(shape.classes);
    const Vec sharp = Vec::set1(1.0f - shape.smoothing), every = Vec::set1(weight_total(shape, weights));
    for_slices(shape.outer, shape.classes, shape.inner, [&](auto slice, int64_t base, int64_t row) {
        const T* x = logits + base;
        const Targets target(slice, shape, targets + row, weights);
        const Vec maximum = slice_max(slice, x), log_sum = log(slice_exp_sum(slice, x, maximum));
        Vec result = sharp * slice.per_row(target.weight) * ((maximum - target.pick(slice, x)) + log_sum);
        if (spread > 0.0f) {
            Slots below = Slots::all(0.0f);
            slice.each([&](int64_t at, auto lanes, int64_t i, int slot) {
                below.v[slot] = below.v[slot] + lanes.keep(class_weight(slice, weights, i, lanes) *
                                                           (maximum - lanes.load(x + at, 0.0f)));
            });
            result = fma(Vec::set1(spread), fma(every, log_sum, slice.total(below)), result);
        }
        result = select(slice.per_row(target.counts) > Vec::zero(), result, Vec::zero());
        result.store(row_loss + row, slice.rows);
        maximum.store(saved + row, slice.rows);
        log_sum.store(saved + rows + row, slice.rows);
    });
    reduce(shape, row_loss, saved[2 * rows], loss);
    return -1;
}

template <class T>
static void backward_typed(const CrossEntropyShape& shape, const T* logits, const int64_t* targets,
                           const float* weights, const float* saved, const T* grad_loss, T* grad_logits) {
    const int64_t rows = row_count(shape);
    const float spread = shape.smoothing / float(shape.classes);
    const Vec sharp = Vec::set1(1.0f - shape.smoothing), share = Vec::set1(spread);
    const Vec spread_total = Vec::set1(spread * weight_total(shape, weights));
    for_slices(shape.outer, shape.classes, shape.inner, [&](auto slice, int64_t base, int64_t row) {
        const T* x = logits + base;
        T* gx = grad_logits + base;
        const Targets target(slice, shape, targets + row, weights);
        const Vec maximum = slice.per_row(saved + row), log_sum = slice.per_row(saved + rows + row);
        const Vec g = row_grad(slice, shape, grad_loss, saved, row);
        const auto counts = slice.per_row(target.counts) > Vec::zero();
        const Vec pull = sharp * slice.per_row(target.weight), mass = pull + spread_total;
        slice.each([&](int64_t at, auto lanes, int64_t i, int) {
            const Vec p = exp((lanes.load(x + at, 0.0f) - maximum) - log_sum);
            const Vec d = fma(mass, p, Vec::zero() - share * class_weight(slice, weights, i, lanes));
            lanes.store(gx + at, select(counts, g * d, Vec::zero()));
        });
        // The target's own element again, so that it is rounded once.
        const Vec p = exp((target.pick(slice, x) - maximum) - log_sum);
        const Vec own = share * slice.per_row(target.weight) + pull;
        float values[Vec::W];
        (g * fma(mass, p, Vec::zero() - own)).store(values);
        for (int r = 0; r < slice.rows; ++r) {
            if (target.counts[r] > 0.0f) gx[target.at[r]] = from_float<T>(values[r]);
        }
    });
}

template <class T>
static void forward_soft_typed(const CrossEntropyShape& shape, const T* logits, const T* targets, const float* weights,
                               float* row_loss, float* saved, T* loss) {
    const int64_t rows = row_count(shape);
    saved[2 * rows] = float(rows);
    const Vec sharp = Vec::set1(1.0f - shape.smoothing), share = Vec::set1(shape.smoothing / float(shape.classes));
    for_slices(shape.outer, shape.classes, shape.inner, [&](auto slice, int64_t base, int64_t row) {
        const T *x = logits + base, *q = targets + base;
        const Vec maximum = slice_max(slice, x), log_sum = log(slice_exp_sum(slice, x, maximum));
        Slots sum = Slots::all(0.0f);
        slice.each([&](int64_t at, auto lanes, int64_t i, int slot) {
            const Vec probability = fma(lanes.load(q + at, 0.0f), sharp, share);
            const Vec surprise = (maximum - lanes.load(x + at, 0.0f)) + log_sum;
            sum.v[slot] = sum.v[slot] + lanes.keep(class_weight(slice, weights, i, lanes) * probability * surprise);
        });
        slice.total(sum).store(row_loss + row, slice.rows);
        maximum.store(saved + row, slice.rows);
        log_sum.store(saved + rows + row, slice.rows);
    });
    reduce(shape, row_loss, saved[2 * rows], loss);
}

template <class T>
static void backward_soft_typed(const CrossEntropyShape& shape, const T* logits, const T* targets, const float* weights,
                                const float* saved, const T* grad_loss, T* grad_logits, T* grad_targets) {
    const int64_t rows = row_count(shape);
    const Vec sharp = Vec::set1(1.0f - shape.smoothing), share = Vec::set1(shape.smoothing / float(shape.classes));
    for_slices(shape.outer, shape.classes, shape.inner, [&](auto slice, int64_t base, int64_t row) {
        const T *x = logits + base, *q = targets + base;
        const Vec maximum = slice.per_row(saved + row), log_sum = slice.per_row(saved + rows + row);
        const Vec g = row_grad(slice, shape, grad_loss, saved, row);
        Slots mass = Slots::all(0.0f);
        slice.each([&](int64_t at, auto lanes, int64_t i, int slot) {
            const Vec probability = fma(lanes.load(q + at, 0.0f), sharp, share);
            mass.v[slot] = mass.v[slot] + lanes.keep(class_weight(slice, weights, i, lanes) * probability);
        });
        const Vec total = slice.total(mass);
        slice.each([&](int64_t at, auto lanes, int64_t i, int) {
            const Vec w = class_weight(slice, weights, i, lanes);
            const Vec probability = fma(lanes.load(q + at, 0.0f), sharp, share);
            const Vec log_p = (lanes.load(x + at, 0.0f) - maximum) - log_sum;
            if (grad_targets) lanes.store(grad_targets + base + at, Vec::zero() - g * sharp * w * log_p);
            lanes.store(grad_logits + base + at, g * fma(total, exp(log_p), Vec::zero() - w * probability));
        });
    });
}

int64_t forward(DType dtype, const CrossEntropyShape& shape, const void* logits, const int64_t* targets,
                const float* weight, float* row_loss, float* saved, void* loss) {
    DLPERF_DTYPE_SWITCH(dtype,
                        return forward_typed(shape, (const T*)logits, targets, weight, row_loss, saved, (T*)loss))
    return -1;
}

void backward(DType dtype, const CrossEntropyShape& shape, const void* logits, const int64_t* targets,
              const float* weight, const float* saved, const void* grad_loss, void* grad_logits) {
    DLPERF_DTYPE_SWITCH(
        dtype, backward_typed(shape, (const T*)logits, targets, weight, saved, (const T*)grad_loss, (T*)grad_logits))
}

void forward_soft(DType dtype, const CrossEntropyShape& shape, const void* logits, const void* targets,
                  const float* weight, float* row_loss, float* saved, void* loss) {
    DLPERF_DTYPE_SWITCH(
        dtype, forward_soft_typed(shape, (const T*)logits, (const T*)targets, weight, row_loss, saved, (T*)loss))
}

void backward_soft(DType dtype, const CrossEntropyShape& shape, const void* logits, const void* targets,
                   const float* weight, const float* saved, const void* grad_loss, void* grad_logits,
                   void* grad_targets) {
    DLPERF_DTYPE_SWITCH(dtype, backward_soft_typed(shape, (const T*)logits, (const T*)targets, weight, saved,
                                                   (const T*)grad_loss, (T*)grad_logits, (T*)grad_targets))
}

}  // namespace

const CrossEntropyTable cross_entropy_table = {forward, backward, forward_soft, backward_soft};

}  // namespace dlperf::DLPERF_ISA_NS

#include "cpu/activation_math.h"
#include "cpu/group_norm_plan.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Per thread: means and squares of a chunk, and the three coefficients of a channel; totals in float64.
constexpr int kFloats = 3, kDoubles = 2;
enum { kMean = 0, kScale = 1, kShift = 2 };  // the floats of the second pass; the first one uses two of them

// sums[i] = sum over rows of x[row, i]
template <class T>
static void column_sums(const T* x, int64_t rows, int64_t width, float* sums) {
    std::memset((void*)sums, 0, size_t(width) * 4);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const T *x0 = x + r * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
        for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            const Vec pairs = (lanes.load(x0 + i) + lanes.load(x1 + i)) + (lanes.load(x2 + i) + lanes.load(x3 + i));
            lanes.store(sums + i, lanes.load(sums + i) + pairs);
        });
    }
    for (; r < rows; ++r) {
        const T* row = x + r * width;
        for_span(width, [&](int64_t i, auto lanes, int)
                            DLPERF_LAMBDA { lanes.store(sums + i, lanes.load(sums + i) + lanes.load(row + i)); });
    }
}

// squares[i] = sum over rows of (x[row, i] - mean[i])^2
template <class T>
static void column_squares(const T* x, int64_t rows, int64_t width, const float* mean, float* squares) {
    std::memset((void*)squares, 0, size_t(width) * 4);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const T *x0 = x + r * width, *x1 = x0 + width, *x2 = x1 + width, *x3 = x2 + width;
        for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            const Vec m = lanes.load(mean + i);
            const Vec d0 = lanes.load(x0 + i) - m, d1 = lanes.load(x1 + i) - m;
            const Vec d2 = lanes.load(x2 + i) - m, d3 = lanes.load(x3 + i) - m;
            const Vec four = fma(d0, d0, d1 * d1) + fma(d2, d2, d3 * d3);
            lanes.store(squares + i, lanes.load(squares + i) + four);
        });
    }
    for (; r < rows; ++r) {
        const T* row = x + r * width;
        for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            const Vec d = lanes.load(row + i) - lanes.load(mean + i);
            lanes.store(squares + i, fma(d, d, lanes.load(squares + i)));
        });
    }
}

// A group's moments from those of its channels, over `count` rows each.
static Moments group_moments(const GroupPlan& plan, int64_t group, double count, const double* mean, const double* m2) {
    const int64_t first = group * plan.depth;
    double sum = 0, squares = 0;
    for (int64_t f = 0; f < plan.fold; ++f) {
        for (int64_t i = f * plan.c + first; i < f * plan.c + first + plan.depth; ++i) sum += mean[i];
    }
    const double parts = double(plan.fold * plan.depth), center = sum / parts;
    for (int64_t f = 0; f < plan.fold; ++f) {
        for (int64_t i = f * plan.c + first; i < f * plan.c + first + plan.depth; ++i) {
            const double delta = mean[i] - center;
            squares += m2[i] + count * (delta * delta);
        }
    }
    return {count * parts, center, squares};
}

// Channels last: moments of every group over the rows of one segment.
template <class T>
static void segment_moments(const GroupPlan& plan, const T* x, Range rows, double* mean, double* m2, float* chunk_mean,
                            float* chunk_squares, Moments* of_group) {
    const int64_t width = plan.width;
    double count = 0;
    for (int64_t begin = rows.begin, step = plan.chunk_rows(); begin < rows.end; begin += step) {
        const int64_t n = rows.end - begin < step ? rows.end - begin : step;
        column_sums(x + begin * width, n, width, chunk_mean);
        const float inverse = 1.0f / float(n);
        for (int64_t i = 0; i < width; ++i) chunk_mean[i] *= inverse;
        column_squares(x + begin * width, n, width, chunk_mean, chunk_squares);
        if (count == 0) {
            for (int64_t i = 0; i < width; ++i) {
                mean[i] = chunk_mean[i];
                m2[i] = chunk_squares[i];
            }
        } else {
            const double share = double(n) / (count + double(n)), cross = count * share;
            for (int64_t i = 0; i < width; ++i) {
                const double delta = double(chunk_mean[i]) - mean[i];
                mean[i] += delta * share;
                m2[i] += double(chunk_squares[i]) + delta * delta * cross;
            }
        }
        count += double(n);
    }
    for (int64_t g = 0; g < plan.groups; ++g) of_group[g] = group_moments(plan, g, count, mean, m2);
}

template <class T>
static void unit_moments(const GroupPlan& plan, const T* x, int64_t item, const GroupWorkspace& workspace, int thread,
                         Moments* out) {
    const int64_t unit = item / plan.segments;
    if (plan.channels_last) {
        segment_moments(plan, x + unit * plan.s * plan.c, plan.segment(item), workspace.doubles(thread, 0),
                        workspace.doubles(thread, 1), workspace.floats(thread, kDoubles, 0),
                        workspace.floats(thread, kDoubles, 1), out);
        return;
    }
    const T* group = x + unit * plan.depth * plan.s;
    *out = Moments{};
    if (plan.segments == 1) {
        add_moments(*out, group, plan.depth * plan.s);
        return;
    }
    const Range range = plan.segment(item);
    for (int64_t d = 0; d < plan.depth; ++d)
        add_moments(*out, group + d * plan.s + range.begin, range.end - range.begin);
}

template <class T>
static void affine_rows(const GroupPlan& plan, const T* weight, const T* bias, const float* mean, const float* rstd,
                        float* means, float* scales, float* shifts) {
    for (int64_t g = 0, ch = 0; g < plan.groups; ++g) {
        for (int64_t end = ch + plan.depth; ch < end; ++ch) {
            means[ch] = mean[g];
            scales[ch] = weight ? rstd[g] * to_float(weight[ch]) : rstd[g];
            shifts[ch] = bias ? to_float(bias[ch]) : 0.0f;
        }
    }
}

// Fills mean, scale and shift of an image's channels from its groups' statistics.
static void image_coefficients(const GroupNormShape& shape, const GroupPlan& plan, const GroupNormForward& call,
                               int64_t image, const float* mean, const float* rstd, float* coefficients) {
    float *means = coefficients + kMean * plan.padded, *scales = coefficients + kScale * plan.padded;
    float* shifts = coefficients + kShift * plan.padded;
    DLPERF_DTYPE_SWITCH(shape.affine_dtype,
                        affine_rows(plan, static_cast<const T*>(call.weight), static_cast<const T*>(call.bias),
                                    mean + image * plan.groups, rstd + image * plan.groups, means, scales, shifts))
    for (int64_t f = 1; f < plan.fold; ++f) {
        for (int row = kMean; row <= kShift; ++row) {
            float* first = coefficients + row * plan.padded;
            std::memcpy(first + f * plan.c, first, size_t(plan.c) * 4);
        }
    }
}

template <class T, Act A>
static void apply_rows(const T* x, T* y, int64_t rows, int64_t width, const float* mean, const float* scale,
                       const float* shift) {
    for (int64_t r = 0; r < rows; ++r) {
        const T* from = x + r * width;
        T* to = y + r * width;
        for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            const Vec centered = lanes.load(from + i) - lanes.load(mean + i);
            const Vec z = fma(centered, lanes.load(scale + i), lanes.load(shift + i));
            lanes.store(to + i, activate<A>(z, 0.0f));
        });
    }
}

template <class T, Act A>
static void apply_plane(const T* x, T* y, int64_t length, float mean, float scale, float shift) {
    const Vec m = Vec::set1(mean), a = Vec::set1(scale), b = Vec::set1(shift);
    for_span(length, [&](int64_t i, auto lanes, int)
                         DLPERF_LAMBDA { lanes.store(y + i, activate<A>(fma(lanes.load(x + i) - m, a, b), 0.0f)); });
}

template <class T, Act A>
static void apply_item(const GroupNormShape& shape, const GroupPlan& plan, const GroupNormForward& call, int64_t item,
                       float* coefficients) {
    const int64_t unit = item / plan.segments, image = plan.channels_last ? unit : unit / plan.groups;
    const Range range = plan.segment(item);
    const float *mean = call.stats, *rstd = call.stats + plan.n * plan.groups;
    if (plan.channels_last) {
        image_coefficients(shape, plan, call, image, mean, rstd, coefficients);
        const int64_t offset = image * plan.s * plan.c + range.begin * plan.width;
        apply_rows<T, A>((const T*)call.x + offset, (T*)call.y + offset, range.end - range.begin, plan.width,
                         coefficients + kMean * plan.padded, coefficients + kScale * plan.padded,
                         coefficients + kShift * plan.padded);
        return;
    }
    for (int64_t d = 0; d < plan.depth; ++d) {
        const int64_t ch = unit % plan.groups * plan.depth + d;
        const int64_t offset = (image * plan.c + ch) * plan.s + range.begin;
        const float scale = rstd[unit] * affine_or(call.weight, shape.affine_dtype, ch, 1.0f);
        apply_plane<T, A>((const T*)call.x + offset, (T*)call.y + offset, range.end - range.begin, mean[unit], scale,
                          affine_or(call.bias, shape.affine_dtype, ch, 0.0f));
    }
}

template <class T, Act A>
static void forward_typed(const GroupNormShape& shape, const GroupNormForward& call, void* memory) {
    const GroupPlan plan(shape);
    const GroupWorkspace workspace(memory, plan, kFloats, kDoubles);
    const int64_t per_unit = plan.channels_last ? plan.groups : 1, count = plan.n * plan.groups;
    Moments* partial = (Moments*)workspace.shared(plan.threads);
    const auto finish = [&](int64_t unit) {
        for (int64_t g = 0; g < per_unit; ++g) {
            Moments total;
            for (int64_t k = 0; k < plan.segments; ++k) {
                const Moments& part = partial[(unit * plan.segments + k) * per_unit + g];
                total.add(part.count, part.mean, part.m2);
            }
            call.stats[unit * per_unit + g] = float(total.mean);
            call.stats[count + unit * per_unit + g] = float(total.rstd(shape.eps));
        }
    };
#pragma omp parallel num_threads(plan.threads)
    {
        each_thread(plan, [&](int thread) {
            const Range items = plan.items_of(thread);
            for (int64_t item = items.begin; item < items.end; ++item) {
                unit_moments(plan, (const T*)call.x, item, workspace, thread, partial + item * per_unit);
                if (plan.segments > 1) continue;
                finish(item);
                apply_item<T, A>(shape, plan, call, item, workspace.floats(thread, kDoubles, 0));
            }
        });
        if (plan.segments > 1) {
            each_thread(plan, [&](int thread) {
                const Range units = split(plan.units, plan.threads, thread);
                for (int64_t unit = units.begin; unit < units.end; ++unit) finish(unit);
            });
            each_thread(plan, [&](int thread) {
                const Range items = plan.items_of(thread);
                for (int64_t item = items.begin; item < items.end; ++item) {
                    apply_item<T, A>(shape, plan, call, item, workspace.floats(thread, kDoubles, 0));
                }
            });
        }
    }
}

int64_t workspace_bytes(const GroupNormShape& shape) {
    const GroupPlan plan(shape);
    const int64_t moments = plan.items() * (plan.channels_last ? plan.groups : 1);
    return GroupWorkspace::bytes(plan, kFloats, kDoubles, moments * int64_t(sizeof(Moments) / 8));
}

void forward(const GroupNormShape& shape, const GroupNormForward& call, void* workspace) {
    if (shape.n * shape.c * shape.s == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, DLPERF_NORM_ACT_SWITCH(shape.act, (forward_typed<T, A>(shape, call, workspace))))
}

}  // namespace

const GroupNormTable group_norm_table = {workspace_bytes, forward};

}  // namespace dlperf::DLPERF_ISA_NS

#include "cpu/activation_math.h"
#include "cpu/group_norm_plan.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// With z = xhat * weight + bias, y = act(z), g = gy * act'(z):
//   by_x = sum of g * xhat, plain = sum of g, over the positions of an image's channel
//   gx = rstd * (weight * g - (S_plain + xhat * S_x) / (depth * s)), S the weighted sums over the group's channels
enum { kMean, kRstd, kWeight, kBias, kByX, kPlain, kFloats };
constexpr int kDoubles = 2;  // by_x and plain of an item

template <Act A>
static DLPERF_INLINE Vec through_activation(Vec gy, Vec xhat, Vec weight, Vec bias) {
    return A == Act::none ? gy : activate_backward<A>(gy, fma(xhat, weight, bias), 0.0f);
}

// Adds a few rows to by_x and plain.
template <class T, Act A, int kRows>
static DLPERF_INLINE void add_rows(const T* gy, const T* x, int64_t width, int64_t padded, float* floats) {
    for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
        const Vec mean = lanes.load(floats + kMean * padded + i), rstd = lanes.load(floats + kRstd * padded + i);
        const Vec weight = lanes.load(floats + kWeight * padded + i), bias = lanes.load(floats + kBias * padded + i);
        Vec by_x = Vec::zero(), plain = Vec::zero();
        for (int r = 0; r < kRows; ++r) {
            const Vec xhat = (lanes.load(x + r * width + i) - mean) * rstd;
            const Vec g = through_activation<A>(lanes.load(gy + r * width + i), xhat, weight, bias);
            by_x = fma(g, xhat, by_x);
            plain = plain + g;
        }
        float *to_x = floats + kByX * padded + i, *to_plain = floats + kPlain * padded + i;
        lanes.store(to_x, lanes.load(to_x) + by_x);
        lanes.store(to_plain, lanes.load(to_plain) + plain);
    });
}

// Channels last: by_x and plain of every channel over a segment's rows, to out[0..c) and out[c..2c).
template <class T, Act A>
static void sum_rows(const GroupPlan& plan, const T* gy, const T* x, Range rows, float* floats, double* totals,
                     double* out) {
    const int64_t width = plan.width, padded = plan.padded;
    double* total_x = totals;
    double* total_plain = totals + padded;
    for (int64_t i = 0; i < width; ++i) total_x[i] = total_plain[i] = 0;
    for (int64_t begin = rows.begin, step = plan.chunk_rows(); begin < rows.end; begin += step) {
        const int64_t end = rows.end - begin < step ? rows.end : begin + step;
        std::memset((void*)(floats + kByX * padded), 0, size_t(2 * padded) * 4);
        int64_t r = begin;
        for (; r + 4 <= end; r += 4) add_rows<T, A, 4>(gy + r * width, x + r * width, width, padded, floats);
        for (; r < end; ++r) add_rows<T, A, 1>(gy + r * width, x + r * width, width, padded, floats);
        for (int64_t i = 0; i < width; ++i) {
            total_x[i] += floats[kByX * padded + i];
            total_plain[i] += floats[kPlain * padded + i];
        }
    }
    for (int64_t ch = 0; ch < plan.c; ++ch) {
        double by_x = 0, plain = 0;
        for (int64_t f = 0; f < plan.fold; ++f) {
            by_x += total_x[f * plan.c + ch];
            plain += total_plain[f * plan.c + ch];
        }
        out[ch] = by_x;
        out[plan.c + ch] = plain;
    }
}

template <class T, Act A>
static void sum_plane(const T* gy, const T* x, int64_t length, float mean, float rstd, float weight, float bias,
                      double* by_x, double* plain) {
    const Vec m = Vec::set1(mean), s = Vec::set1(rstd), w = Vec::set1(weight), b = Vec::set1(bias);
    *by_x = *plain = 0;
    for_pieces(length, [&](int64_t begin, int64_t piece) {
        Sum4 with_x, alone;
        for_span(piece, [&](int64_t i, auto lanes, int slot) DLPERF_LAMBDA {
            const Vec xhat = (lanes.load(x + begin + i) - m) * s;
            const Vec g = lanes.keep(through_activation<A>(lanes.load(gy + begin + i), xhat, w, b));
            with_x.part[slot] = fma(g, lanes.keep(xhat), with_x.part[slot]);
            alone.part[slot] = alone.part[slot] + g;
        });
        *by_x += with_x.total();
        *plain += alone.total();
    });
}

template <class T, Act A>
struct Backward {
    const GroupNormShape& shape;
    const GroupNormBackward& call;
    const GroupPlan plan;
    const GroupWorkspace workspace;
    const T *gy, *x;
    const float *mean, *rstd;
    double* sums;  // [image][segment][2][c]

    Backward(const GroupNormShape& shape, const GroupNormBackward& call, void* memory)
        : shape(shape),
          call(call),
          plan(shape),
          workspace(memory, plan, kFloats, kDoubles),
          gy((const T*)call.gy),
          x((const T*)call.x),
          mean(call.stats),
          rstd(call.stats + plan.n * plan.groups),
          sums(workspace.shared(plan.threads)) {}

    float weight(int64_t ch) const { return affine_or(call.weight, shape.affine_dtype, ch, 1.0f); }
    float bias(int64_t ch) const { return affine_or(call.bias, shape.affine_dtype, ch, 0.0f); }
    int64_t image_of(int64_t unit) const { return plan.channels_last ? unit : unit / plan.groups; }
    double* sums_of(int64_t image, int64_t segment) const {
        return sums + (image * plan.segments + segment) * 2 * plan.c;
    }
    float* floats(int thread) const { return workspace.floats(thread, kDoubles, 0); }

    // mean, rstd, weight and bias of an image's channels along a row
    void fill_row(int64_t image, float* to) const {
        for (int64_t ch = 0; ch < plan.c; ++ch) {
            const int64_t group = image * plan.groups + ch / plan.depth;
            for (int64_t i = ch; i < plan.width; i += plan.c) {
                to[kMean * plan.padded + i] = mean[group];
                to[kRstd * plan.padded + i] = rstd[group];
                to[kWeight * plan.padded + i] = weight(ch);
                to[kBias * plan.padded + i] = bias(ch);
            }
        }
    }

    DLPERF_NOTHROW void sum_item(int64_t item, int thread) const {
        const int64_t unit = item / plan.segments, image = image_of(unit);
        const Range range = plan.segment(item);
        double* out = sums_of(image, item % plan.segments);
        if (plan.channels_last) {
            fill_row(image, floats(thread));
            const int64_t base = image * plan.s * plan.c;
            sum_rows<T, A>(plan, gy + base, x + base, range, floats(thread), workspace.doubles(thread, 0), out);
            return;
        }
        for (int64_t d = 0; d < plan.depth; ++d) {
            const int64_t ch = unit % plan.groups * plan.depth + d;
            const int64_t at = (image * plan.c + ch) * plan.s + range.begin;
            sum_plane<T, A>(gy + at, x + at, range.end - range.begin, mean[unit], rstd[unit], weight(ch), bias(ch),
                            out + ch, out + plan.c + ch);
        }
    }

    // What a group's elements lose: gx = rstd * (weight * g - plain - xhat * by_x)
    void group_means(int64_t image, int64_t group, float* by_x, float* plain) const {
        double x_total = 0, plain_total = 0;
        for (int64_t segment = 0; segment < plan.segments; ++segment) {
            const double* part = sums_of(image, segment);
            for (int64_t ch = group * plan.depth; ch < (group + 1) * plan.depth; ++ch) {
                x_total += part[ch] * double(weight(ch));
                plain_total += part[plan.c + ch] * double(weight(ch));
            }
        }
        const double count = double(plan.depth) * double(plan.s);
        *by_x = float(x_total / count);
        *plain = float(plain_total / count);
    }

    void write_rows(int64_t image, Range rows, float* floats) const {
        const int64_t width = plan.width, padded = plan.padded, base = image * plan.s * plan.c;
        for (int64_t group = 0; group < plan.groups; ++group) {
            float by_x, plain;
            group_means(image, group, &by_x, &plain);
            for (int64_t f = 0; f < plan.fold; ++f) {
                for (int64_t d = 0; d < plan.depth; ++d) {
                    const int64_t i = f * plan.c + group * plan.depth + d;
                    floats[kByX * padded + i] = by_x;
                    floats[kPlain * padded + i] = plain;
                }
            }
        }
        T* gx = (T*)call.gx + base;
        for (int64_t r = rows.begin; r < rows.end; ++r) {
            const T *gy_row = gy + base + r * width, *x_row = x + base + r * width;
            T* gx_row = gx + r * width;
            for_span(width, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                const auto at = [&](int which) DLPERF_LAMBDA { return lanes.load(floats + which * padded + i); };
                const Vec scale = at(kRstd), w = at(kWeight);
                const Vec xhat = (lanes.load(x_row + i) - at(kMean)) * scale;
                const Vec bias = A == Act::none ? Vec::zero() : at(kBias);
                const Vec g = through_activation<A>(lanes.load(gy_row + i), xhat, w, bias);
                lanes.store(gx_row + i, scale * (fma(g, w, Vec::zero() - at(kPlain)) - xhat * at(kByX)));
            });
        }
    }

    void write_planes(int64_t unit, Range range) const {
        const int64_t image = unit / plan.groups, group = unit % plan.groups;
        float by_x, plain;
        group_means(image, group, &by_x, &plain);
        const Vec m = Vec::set1(mean[unit]), scale = Vec::set1(rstd[unit]);
        const Vec lost_x = Vec::set1(by_x), lost = Vec::set1(-plain);
        for (int64_t d = 0; d < plan.depth; ++d) {
            const int64_t ch = group * plan.depth + d, at = (image * plan.c + ch) * plan.s;
            const Vec w = Vec::set1(weight(ch)), b = Vec::set1(bias(ch));
            T* gx = (T*)call.gx + at + range.begin;
            const T *gy_plane = gy + at + range.begin, *x_plane = x + at + range.begin;
            for_span(range.end - range.begin, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                const Vec xhat = (lanes.load(x_plane + i) - m) * scale;
                const Vec g = through_activation<A>(lanes.load(gy_plane + i), xhat, w, b);
                lanes.store(gx + i, scale * (fma(g, w, lost) - xhat * lost_x));
            });
        }
    }

    DLPERF_NOTHROW void write_item(int64_t item, int thread) const {
        if (call.gx == nullptr) return;
        const int64_t unit = item / plan.segments;
        if (plan.channels_last) {
            fill_row(unit, floats(thread));
            write_rows(unit, plan.segment(item), floats(thread));
        } else {
            write_planes(unit, plan.segment(item));
        }
    }

    DLPERF_NOTHROW void affine_gradients(Range channels) const {
        for (int64_t ch = channels.begin; ch < channels.end; ++ch) {
            double by_x = 0, plain = 0;
            for (int64_t part = 0; part < plan.n * plan.segments; ++part) {
                by_x += sums[part * 2 * plan.c + ch];
                plain += sums[part * 2 * plan.c + plan.c + ch];
            }
            if (call.gweight != nullptr) store_as(call.gweight, shape.affine_dtype, ch, by_x);
            if (call.gbias != nullptr) store_as(call.gbias, shape.affine_dtype, ch, plain);
        }
    }

    void run() const {
#pragma omp parallel num_threads(plan.threads)
        {
            each_thread(plan, [&](int thread) {
                const Range items = plan.items_of(thread);
                for (int64_t item = items.begin; item < items.end; ++item) {
                    sum_item(item, thread);
                    if (plan.segments == 1) write_item(item, thread);
                }
            });
            each_thread(plan, [&](int thread) {
                const Range items = plan.items_of(thread);
                for (int64_t item = items.begin; item < items.end && plan.segments > 1; ++item) {
                    write_item(item, thread);
                }
                affine_gradients(split(plan.c, plan.threads, thread, 16));
            });
        }
    }
};

int64_t workspace_bytes(const GroupNormShape& shape) {
    const GroupPlan plan(shape);
    return GroupWorkspace::bytes(plan, kFloats, kDoubles, plan.n * plan.segments * 2 * plan.c);
}

void backward(const GroupNormShape& shape, const GroupNormBackward& call, void* workspace) {
    if (shape.c == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, DLPERF_NORM_ACT_SWITCH(shape.act, (Backward<T, A>(shape, call, workspace).run())))
}

}  // namespace

const GroupNormBackwardTable group_norm_backward_table = {workspace_bytes, backward};

}  // namespace dlperf::DLPERF_ISA_NS

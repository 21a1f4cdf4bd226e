// Batch-norm forward. Training sweeps x twice: statistics, then y; evaluation sweeps it once.
//
// Statistics: values are taken relative to the mean so far (for the first chunk, its own mean), summed in float32
// over a chunk, and chunks are merged in float64 by Chan's formula. The shift's error enters the squares at most
// as often as it enters the merged variance, so cancellation never exceeds a few units of rounding.
#include "cpu/batch_norm.h"

#include "cpu/activation_math.h"
#include "cpu/channel_view.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr float kLargest = 3.402823466e38f;

// Sums of G rows, relative to `shift`, added to sum and squares.
template <int G, class T>
static DLPERF_INLINE void add_rows(const T* x, int64_t stride, int64_t length, const float* shift, float* sum,
                                   float* squares) {
    for_vectors(length, [&](int64_t i, auto lanes) {
        const Vec center = Vec::load(shift + i);
        Vec d[G], q[G];
        for (int g = 0; g < G; ++g) fetch(x + (g + G) * stride + i);
        for (int g = 0; g < G; ++g) d[g] = lanes.load(x + g * stride + i) - center;
        for (int g = 0; g < G; ++g) q[g] = d[g] * d[g];
        // Unrolled by force: else the compiler keeps d and q in memory, at a quarter of the speed.
#pragma GCC unroll 4
        for (int step = 1; step < G; step *= 2) {
#pragma GCC unroll 8
            for (int g = 0; g < G; g += 2 * step) {
                d[g] = d[g] + d[g + step];
                q[g] = q[g] + q[g + step];
            }
        }
        (Vec::load(sum + i) + d[0]).store(sum + i);
        (Vec::load(squares + i) + q[0]).store(squares + i);
    });
}

template <class T>
static void sum_rows(const T* x, int64_t rows, int64_t stride, int64_t length, const float* shift, float* sum,
                     float* squares) {
    std::memset(sum, 0, size_t(length) * sizeof(float));
    std::memset(squares, 0, size_t(length) * sizeof(float));
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) add_rows<8>(x + r * stride, stride, length, shift, sum, squares);
    for (; r < rows; ++r) add_rows<1>(x + r * stride, stride, length, shift, sum, squares);
}

// Joins a chunk of `count` values, with sums relative to `shift`, to the sums of the `before` values seen so far.
struct Join {
    double count, inv_count, inv_before, weight;

    Join(int64_t chunk, int64_t before)
        : count(double(chunk)),
          inv_count(1.0 / double(chunk)),
          inv_before(before > 0 ? 1.0 / double(before) : 0.0),
          weight(double(before) * double(chunk) / double(before + chunk)) {}

    DLPERF_INLINE void operator()(float shift, double sum, double squares, double& total, double& m2) const {
        const double chunk = count * shift + sum;
        const double delta = chunk * inv_count - total * inv_before;
        m2 += squares - sum * sum * inv_count + delta * delta * weight;
        total += chunk;
    }
};

// What x is taken relative to; an infinite mean would turn later infinities into NaN.
static DLPERF_INLINE float usable_shift(float mean) {
    return __builtin_fabsf(mean) <= kLargest ? mean : 0.0f;
}

template <class T>
static void row_statistics(const T* x, const ChannelView& view, const Workspace& work, int part) {
    const int item_part = part / view.channel_parts;
    const Range rows = view.item_range(part), channels = view.channel_range(part);
    const int64_t c0 = channels.begin, length = channels.end - c0;
    double *total = work.sum(item_part, 0) + c0, *m2 = work.sum(item_part, 1) + c0;
    float *sum = work.scratch(item_part, 0) + c0, *squares = work.scratch(item_part, 1) + c0;
    float* shift = work.scratch(item_part, 2) + c0;
    for (int64_t i = 0; i < length; ++i) total[i] = m2[i] = 0.0, shift[i] = 0.0f;

    int64_t done = 0;
    const auto join = [&](int64_t count, int64_t width) {
        const Join join_one(count, done);
        done += count;
        const double inv_done = 1.0 / double(done);
        for (int64_t i = 0; i < width; ++i) {
            join_one(shift[i], sum[i], squares[i], total[i], m2[i]);
            shift[i] = usable_shift(float(total[i] * inv_done));
        }
    };
    for (int64_t r = rows.begin; r < rows.end; r += kChunkRows) {
        const int64_t count = r + kChunkRows < rows.end ? kChunkRows : rows.end - r;
        const T* first = x + r * view.width + c0;
        if (r == rows.begin) {
            sum_rows(first, count, view.width, length, shift, sum, squares);
            const float inv_count = 1.0f / float(count);
            for (int64_t i = 0; i < length; ++i) shift[i] = usable_shift(sum[i] * inv_count);
        }
        sum_rows(first, count, view.width, length, shift, sum, squares);
        join(count, length);
    }
    if (view.has_partial(part)) {
        sum_rows(x + view.rows * view.width, 1, view.width, view.partial, shift, sum, squares);
        join(1, view.partial);
    }
}

// The same over a chunk of one channel, then over a span of any length.
template <class T>
static DLPERF_INLINE void add_chunk(const T* x, int64_t length, Vec shift, double& sum, double& squares) {
    constexpr int U = 4;
    Vec s[U], q[U];
    for (int u = 0; u < U; ++u) s[u] = q[u] = Vec::zero();
    int64_t i = 0;
    for (; i + U * Vec::W <= length; i += U * Vec::W) {
        for (int u = 0; u < U; ++u) {
            const Vec d = Vec::load(x + i + u * Vec::W) - shift;
            s[u] = s[u] + d;
            q[u] = fma(d, d, q[u]);
        }
    }
    for_vectors(length - i, [&](int64_t j, auto lanes) {
        const Vec d = lanes.keep(lanes.load(x + i + j) - shift);
        s[0] = s[0] + d;
        q[0] = fma(d, d, q[0]);
    });
    sum += ((s[0] + s[1]) + (s[2] + s[3])).sum();
    squares += ((q[0] + q[1]) + (q[2] + q[3])).sum();
}

template <class T>
static void sum_span(const T* x, int64_t length, float shift, double& sum, double& squares) {
    sum = squares = 0.0;
    for (int64_t i = 0; i < length; i += kChunkSpan) {
        add_chunk(x + i, i + kChunkSpan < length ? kChunkSpan : length - i, Vec::set1(shift), sum, squares);
    }
}

template <class T>
static void plane_statistics(const T* x, const ChannelView& view, const Workspace& work, int part) {
    const int item_part = part / view.channel_parts;
    const Range items = view.item_range(part), channels = view.channel_range(part);
    double *total = work.sum(item_part, 0), *m2 = work.sum(item_part, 1);
    for (int64_t c = channels.begin; c < channels.end; ++c) total[c] = m2[c] = 0.0;
    int64_t done = 0;
    for (int64_t item = items.begin; item < items.end; ++item) {
        const Range segment = view.segment(item);
        const int64_t length = segment.end - segment.begin;
        const Join join_one(length, done);
        for (int64_t c = channels.begin; c < channels.end; ++c) {
            const T* p = x + (item / view.segments * view.c + c) * view.s + segment.begin;
            double mean, sum, squares;
            if (done > 0) {
                mean = total[c] * join_one.inv_before;
            } else {
                sum_span(p, length, 0.0f, sum, squares);
                mean = sum / double(length);
            }
            const float shift = usable_shift(float(mean));
            sum_span(p, length, shift, sum, squares);
            join_one(shift, sum, squares, total[c], m2[c]);
        }
        done += length;
    }
}

// Mean and variance of channel `c` over all parts and folds.
static void gather_statistics(const ChannelView& view, const Workspace& work, int64_t c, double& mean,
                              double& variance) {
    double total = 0;
    for (int part = 0; part < view.item_parts; ++part) {
        for (int64_t i = c; i < view.width; i += view.c) total += work.sum(part, 0)[i];
    }
    const double values = double(view.n) * double(view.s);
    double m2 = 0;
    mean = total / values;
    for (int part = 0; part < view.item_parts; ++part) {
        for (int64_t i = c; i < view.width; i += view.c) {
            const int64_t count = view.count(part, i);
            if (count == 0) continue;
            const double delta = work.sum(part, 0)[i] / double(count) - mean;
            m2 += work.sum(part, 1)[i] + double(count) * delta * delta;
        }
    }
    variance = (m2 < 0 ? 0 : m2) / values;
}

static void finish_channel(const BatchNormShape& shape, const BatchNormForward& args, const ChannelView& view,
                           const Workspace& work, int64_t c) {
    double mean, variance;
    if (args.training) {
        gather_statistics(view, work, c, mean, variance);
        store_as(args.mean, shape.stats_dtype, c, mean);
        store_as(args.variance, shape.stats_dtype, c, variance);
    } else {
        mean = load_as(args.mean, shape.stats_dtype, c);
        variance = load_as(args.variance, shape.stats_dtype, c);
    }
    const double rstd = 1.0 / __builtin_sqrt(variance + args.eps);
    const float scale = float((args.weight ? load_as(args.weight, shape.affine_dtype, c) : 1.0f) * rstd);
    const double bias = args.bias ? load_as(args.bias, shape.affine_dtype, c) : 0.0;
    // From the rounded scale, so that x * scale + shift keeps no trace of its rounding at x = mean.
    const float shift = float(bias - mean * double(scale));
    for (int64_t i = c; i < view.width; i += view.c) {
        work.coefficient(0)[i] = scale;
        work.coefficient(1)[i] = shift;
    }
}

// Rounded once, for x * scale and shift cancel where the mean is large: without a fused instruction, by float64.
static DLPERF_INLINE Vec scale_and_shift(Vec x, Vec scale, Vec shift) {
#if defined(__FMA__)
    return fma(x, scale, shift);
#else
    return {float(double(x.v) * scale.v + shift.v)};
#endif
}

template <Act kAct, bool kResidual, bool kStream, class T, class Coefficient>
static DLPERF_INLINE void apply_span(const T* x, const T* residual, T* y, int64_t length, Coefficient scale,
                                     Coefficient shift) {
    const auto body = [&](int64_t i, auto lanes) {
        Vec v = scale_and_shift(lanes.load(x + i), scale.at(i), shift.at(i));
        if (kResidual) v = v + lanes.load(residual + i);
        lanes.store(y + i, activate<kAct>(v, 0.0f));
    };
    if (kStream) {
        for_streamed(length, body);
    } else {
        for_vectors(length, body);
    }
}

// Any activation: a tile of float32 is filled, then activated by a loop of that activation, then stored.
static void activate_tile(float* tile, int64_t length, Act act, float param) {
    DLPERF_ACT_SWITCH(
        act, for (int64_t i = 0; i < length; i += Vec::W) activate<A>(Vec::load(tile + i), param).store(tile + i));
}

template <bool kResidual, class T, class Coefficient>
static void apply_span_tiled(const T* x, const T* residual, T* y, int64_t length, Coefficient scale, Coefficient shift,
                             Act act, float param) {
    constexpr int64_t kTile = 512;
    alignas(64) float tile[kTile];
    for (int64_t t = 0; t < length; t += kTile) {
        const int64_t n = length - t < kTile ? length - t : kTile;
        for_vectors(n, [&](int64_t i, auto lanes) {
            Vec v = scale_and_shift(lanes.load(x + t + i), scale.at(t + i), shift.at(t + i));
            if (kResidual) v = v + lanes.load(residual + t + i);
            v.store(tile + i);
        });
        activate_tile(tile, n, act, param);
        for_vectors(n, [&](int64_t i, auto lanes) { lanes.store(y + t + i, Vec::load(tile + i)); });
    }
}

// Goes backwards: what the statistics read last is still in the cache.
// kFused: the activation is kAct; otherwise it is args.act, through tiles.
template <bool kFused, Act kAct, bool kResidual, bool kStream, class T>
static void apply_part(const BatchNormForward& args, const ChannelView& view, const Workspace& work, int part) {
    const T *x = (const T*)args.x, *residual = (const T*)args.residual;
    T* y = (T*)args.y;
    const float *scale = work.coefficient(0), *shift = work.coefficient(1);
    const Range items = view.item_range(part), channels = view.channel_range(part);
    const auto span = [&](int64_t offset, int64_t length, auto a, auto b) {
        const T* r = kResidual ? residual + offset : nullptr;
        if (kFused) {
            apply_span<kAct, kResidual, kStream>(x + offset, r, y + offset, length, a, b);
        } else {
            apply_span_tiled<kResidual>(x + offset, r, y + offset, length, a, b, args.act, args.act_param);
        }
    };
    if (view.channels_last) {
        const int64_t c0 = channels.begin;
        if (view.has_partial(part)) span(view.rows * view.width, view.partial, AlongRow{scale}, AlongRow{shift});
        each_row_backwards(items, view.width * int64_t(sizeof(T)), [&](int64_t r) {
            span(r * view.width + c0, channels.end - c0, AlongRow{scale + c0}, AlongRow{shift + c0});
        });
        if (kStream) stream_fence();
        return;
    }
    for (int64_t item = items.end - 1; item >= items.begin; --item) {
        const Range segment = view.segment(item);
        for (int64_t c = channels.end - 1; c >= channels.begin; --c) {
            span((item / view.segments * view.c + c) * view.s + segment.begin, segment.end - segment.begin,
                 OnPlane(scale, c), OnPlane(shift, c));
        }
    }
}

template <bool kResidual, class T>
static void apply(const BatchNormForward& args, const ChannelView& view, const Workspace& work, int part) {
    if (args.act == Act::none) {
        streams_rows(view, (const T*)args.y) ? apply_part<true, Act::none, kResidual, true, T>(args, view, work, part)
                                             : apply_part<true, Act::none, kResidual, false, T>(args, view, work, part);
    } else if (args.act == Act::relu) {
        streams_rows(view, (const T*)args.y) ? apply_part<true, Act::relu, kResidual, true, T>(args, view, work, part)
                                             : apply_part<true, Act::relu, kResidual, false, T>(args, view, work, part);
    } else {
        apply_part<false, Act::none, kResidual, false, T>(args, view, work, part);
    }
}

template <class T>
static void forward_typed(const BatchNormShape& shape, const BatchNormForward& args, void* memory) {
    const ChannelView view(shape);
    const Workspace work(memory, view);
#pragma omp parallel num_threads(view.parts)
    {
        if (args.training) {
            each_part(view.parts, [&](int part) {
                if (view.channels_last) {
                    row_statistics((const T*)args.x, view, work, part);
                } else {
                    plane_statistics((const T*)args.x, view, work, part);
                }
            });
        }
        each_part(view.parts, [&](int part) {
            const Range channels = split(view.c, view.parts, part, 16);
            for (int64_t c = channels.begin; c < channels.end; ++c) finish_channel(shape, args, view, work, c);
        });
        each_part(view.parts, [&](int part) {
            args.residual ? apply<true, T>(args, view, work, part) : apply<false, T>(args, view, work, part);
        });
    }
}

int64_t workspace(const BatchNormShape& shape) {
    return Workspace::bytes(ChannelView(shape));
}

void forward(const BatchNormShape& shape, const BatchNormForward& args, void* memory) {
    if (shape.n * shape.c * shape.s == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, forward_typed<T>(shape, args, memory));
}

void update(int64_t c, DType stats_dtype, void* running_mean, void* running_var, const float* mean,
            const float* variance, double momentum, int64_t count) {
    const double unbiased = double(count) / double(count - 1);
    for (int64_t i = 0; i < c; ++i) {
        const double old_mean = load_as(running_mean, stats_dtype, i), old_var = load_as(running_var, stats_dtype, i);
        store_as(running_mean, stats_dtype, i, momentum * mean[i] + (1 - momentum) * old_mean);
        store_as(running_var, stats_dtype, i, momentum * (variance[i] * unbiased) + (1 - momentum) * old_var);
    }
}

}  // namespace

const BatchNormTable batch_norm_table = {workspace, forward, update};

}  // namespace dlperf::DLPERF_ISA_NS

// Batch-norm backward and per-channel sums. Formulas: docs/math/batch_norm.md.
//
// With batch statistics two sweeps are needed: the sums of g and g * (x - mean), then gx. With fixed statistics
// gx needs no sum, and is written chunk by chunk behind the sums, from the cache.
#include "cpu/batch_norm.h"
#include "cpu/channel_view.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// What a sweep adds up, and how it comes by g: gy itself, or gy where relu let the value through.
enum class Sweep { gradient_only, plain, masked, masked_stored };

template <Sweep kSweep, class T, class Lanes>
static DLPERF_INLINE Vec load_gradient(const T* gy, const T* y, T* gresidual, int64_t i, Lanes lanes) {
    Vec g = lanes.load(gy + i);
    if (kSweep == Sweep::masked || kSweep == Sweep::masked_stored) {
        g = select(lanes.load(y + i) <= Vec::zero(), Vec::zero(), g);
        if (kSweep == Sweep::masked_stored) lanes.store(gresidual + i, g);
    }
    return g;
}

// Adds G rows of g and g * (x - mean) to sum and product.
template <Sweep kSweep, int G, class T>
static DLPERF_INLINE void add_rows(const T* gy, const T* x, const T* y, T* gresidual, int64_t stride, int64_t length,
                                   const float* mean, float* sum, float* product) {
    for_vectors(length, [&](int64_t i, auto lanes) {
        Vec g[G], p[G];
        for (int r = G; r < 2 * G; ++r) {
            fetch(gy + r * stride + i);
            if (kSweep != Sweep::gradient_only) fetch(x + r * stride + i);
            if (kSweep == Sweep::masked || kSweep == Sweep::masked_stored) fetch(y + r * stride + i);
        }
        for (int r = 0; r < G; ++r) {
            g[r] = load_gradient<kSweep>(gy, y, gresidual, r * stride + i, lanes);
            if (kSweep != Sweep::gradient_only) p[r] = g[r] * (lanes.load(x + r * stride + i) - Vec::load(mean + i));
        }
        // Unrolled by force, as in batch_norm_kernel.cpp.
#pragma GCC unroll 4
        for (int step = 1; step < G; step *= 2) {
#pragma GCC unroll 8
            for (int r = 0; r < G; r += 2 * step) {
                g[r] = g[r] + g[r + step];
                if (kSweep != Sweep::gradient_only) p[r] = p[r] + p[r + step];
            }
        }
        (Vec::load(sum + i) + g[0]).store(sum + i);
        if (kSweep != Sweep::gradient_only) (Vec::load(product + i) + p[0]).store(product + i);
    });
}

// gx = scale * g + slope * (x - mean) + offset; with fixed statistics scale * g alone.
template <Sweep kSweep, bool kTraining, bool kStream, class T, class Coefficient>
static DLPERF_INLINE void apply_span(const T* gy, const T* x, const T* y, T* gx, int64_t length, Coefficient scale,
                                     Coefficient slope, Coefficient offset, Coefficient mean) {
    const auto body = [&](int64_t i, auto lanes) {
        Vec v = load_gradient<kSweep>(gy, y, (T*)nullptr, i, lanes) * scale.at(i);
        if (kTraining) v = v + fma(lanes.load(x + i) - mean.at(i), slope.at(i), offset.at(i));
        lanes.store(gx + i, v);
    };
    if (kStream) {
        for_streamed(length, body);
    } else {
        for_vectors(length, body);
    }
}

// A sweep's arrays, moved along together.
template <class T>
struct Arrays {
    const T *gy, *x, *y;
    T *gx, *gresidual;

    Arrays at(int64_t offset) const {
        return {gy + offset, x ? x + offset : x, y ? y + offset : y, gx ? gx + offset : gx,
                gresidual ? gresidual + offset : gresidual};
    }
};

// The sweep that reads what `kSweep` has stored.
constexpr Sweep after(Sweep sweep) {
    return sweep == Sweep::masked_stored ? Sweep::plain : sweep;
}

template <Sweep kSweep, bool kTraining, bool kStream, class T, class Coefficient>
static DLPERF_INLINE void apply_arrays(const Arrays<T>& p, int64_t length, Coefficient scale, Coefficient slope,
                                       Coefficient offset, Coefficient mean) {
    const T* gy = kSweep == Sweep::masked_stored ? p.gresidual : p.gy;
    apply_span<after(kSweep), kTraining, kStream>(gy, p.x, p.y, p.gx, length, scale, slope, offset, mean);
}

enum Coefficients { kScale, kMean, kSlope, kOffset };

// `write_gx`: statistics are fixed, so gx = scale * g follows each chunk.
template <Sweep kSweep, class T>
static void reduce_rows(const Arrays<T>& all, const ChannelView& view, const Workspace& work, int part, bool write_gx) {
    constexpr int G = kSweep == Sweep::gradient_only ? 8 : 4;
    const int item_part = part / view.channel_parts;
    const Range rows = view.item_range(part), channels = view.channel_range(part);
    const int64_t c0 = channels.begin, length = channels.end - c0, stride = view.width;
    double *total = work.sum(item_part, 0) + c0, *total_product = work.sum(item_part, 1) + c0;
    float *sum = work.scratch(item_part, 0) + c0, *product = work.scratch(item_part, 1) + c0;
    const float *mean = work.coefficient(kMean) + c0, *scale = work.coefficient(kScale) + c0;
    std::memset(total, 0, size_t(length) * sizeof(double));
    std::memset(total_product, 0, size_t(length) * sizeof(double));

    const auto chunk = [&](int64_t begin, int64_t count, int64_t width) {
        std::memset(sum, 0, size_t(width) * sizeof(float));
        std::memset(product, 0, size_t(width) * sizeof(float));
        int64_t r = 0;
        for (; r + G <= count; r += G) {
            const Arrays<T> p = all.at((begin + r) * stride + c0);
            add_rows<kSweep, G>(p.gy, p.x, p.y, p.gresidual, stride, width, mean, sum, product);
        }
        for (; r < count; ++r) {
            const Arrays<T> p = all.at((begin + r) * stride + c0);
            add_rows<kSweep, 1>(p.gy, p.x, p.y, p.gresidual, stride, width, mean, sum, product);
        }
        for (int64_t i = 0; i < width; ++i) {
            total[i] += sum[i];
            total_product[i] += product[i];
        }
        if (!write_gx) return;
        for (r = 0; r < count; ++r) {
            const AlongRow along{scale};
            apply_arrays<kSweep, false, false>(all.at((begin + r) * stride + c0), width, along, along, along, along);
        }
    };
    for (int64_t r = rows.begin; r < rows.end; r += kChunkRows) {
        chunk(r, r + kChunkRows < rows.end ? kChunkRows : rows.end - r, length);
    }
    if (view.has_partial(part)) chunk(view.rows, 1, view.partial);
}

template <Sweep kSweep, class T>
static DLPERF_INLINE void add_chunk(const Arrays<T>& p, int64_t length, Vec mean, double& sum, double& product) {
    constexpr int U = 4;
    Vec s[U], q[U];
    for (int u = 0; u < U; ++u) s[u] = q[u] = Vec::zero();
    const auto add = [&](int64_t i, int u, auto lanes) {
        const Vec g = load_gradient<kSweep>(p.gy, p.y, p.gresidual, i, lanes);
        s[u] = s[u] + g;
        if (kSweep != Sweep::gradient_only) q[u] = fma(g, lanes.keep(lanes.load(p.x + i) - mean), q[u]);
    };
    int64_t i = 0;
    for (; i + U * Vec::W <= length; i += U * Vec::W) {
        for (int u = 0; u < U; ++u) add(i + u * Vec::W, u, Full{});
    }
    for_vectors(length - i, [&](int64_t j, auto lanes) { add(i + j, 0, lanes); });
    sum += ((s[0] + s[1]) + (s[2] + s[3])).sum();
    product += ((q[0] + q[1]) + (q[2] + q[3])).sum();
}

template <Sweep kSweep, class T>
static void reduce_planes(const Arrays<T>& all, const ChannelView& view, const Workspace& work, int part,
                          bool write_gx) {
    const int item_part = part / view.channel_parts;
    const Range items = view.item_range(part), channels = view.channel_range(part);
    double *total = work.sum(item_part, 0), *total_product = work.sum(item_part, 1);
    for (int64_t c = channels.begin; c < channels.end; ++c) total[c] = total_product[c] = 0.0;
    for (int64_t item = items.begin; item < items.end; ++item) {
        const Range segment = view.segment(item);
        const int64_t length = segment.end - segment.begin;
        for (int64_t c = channels.begin; c < channels.end; ++c) {
            const Arrays<T> p = all.at((item / view.segments * view.c + c) * view.s + segment.begin);
            const Vec mean = Vec::set1(work.coefficient(kMean)[c]);
            for (int64_t i = 0; i < length; i += kChunkSpan) {
                const int64_t n = i + kChunkSpan < length ? kChunkSpan : length - i;
                add_chunk<kSweep>(p.at(i), n, mean, total[c], total_product[c]);
            }
            if (!write_gx) continue;
            const OnPlane scale(work.coefficient(kScale), c);
            apply_arrays<kSweep, false, false>(p, length, scale, scale, scale, scale);
        }
    }
}

// Goes backwards: what the sums read last is still in the cache.
template <Sweep kSweep, bool kTraining, bool kStream, class T>
static void apply_part(const Arrays<T>& all, const ChannelView& view, const Workspace& work, int part) {
    const float *scale = work.coefficient(kScale), *mean = work.coefficient(kMean);
    const float *slope = work.coefficient(kSlope), *offset = work.coefficient(kOffset);
    const Range items = view.item_range(part), channels = view.channel_range(part);
    if (view.channels_last) {
        const auto row = [&](int64_t r, int64_t c0, int64_t length) {
            apply_arrays<kSweep, kTraining, kStream>(all.at(r * view.width + c0), length, AlongRow{scale + c0},
                                                     AlongRow{slope + c0}, AlongRow{offset + c0}, AlongRow{mean + c0});
        };
        if (view.has_partial(part)) row(view.rows, 0, view.partial);
        each_row_backwards(items, view.width * int64_t(sizeof(T)),
                           [&](int64_t r) { row(r, channels.begin, channels.end - channels.begin); });
        if (kStream) stream_fence();
        return;
    }
    for (int64_t item = items.end - 1; item >= items.begin; --item) {
        const Range segment = view.segment(item);
        for (int64_t c = channels.end - 1; c >= channels.begin; --c) {
            apply_arrays<kSweep, kTraining, false>(all.at((item / view.segments * view.c + c) * view.s + segment.begin),
                                                   segment.end - segment.begin, OnPlane(scale, c), OnPlane(slope, c),
                                                   OnPlane(offset, c), OnPlane(mean, c));
        }
    }
}

static double gather(const ChannelView& view, const Workspace& work, int which, int64_t c) {
    double total = 0;
    for (int part = 0; part < view.item_parts; ++part) {
        for (int64_t i = c; i < view.width; i += view.c) total += work.sum(part, which)[i];
    }
    return total;
}

static void spread(const ChannelView& view, const Workspace& work, Coefficients which, int64_t c, double value) {
    for (int64_t i = c; i < view.width; i += view.c) work.coefficient(which)[i] = float(value);
}

// 1 / sqrt(variance + eps), and the same times the weight.
static void scales_of(const BatchNormShape& shape, const BatchNormBackward& args, int64_t c, double& rstd,
                      double& scale) {
    rstd = 1.0 / __builtin_sqrt(load_as(args.variance, shape.stats_dtype, c) + args.eps);
    scale = rstd * (args.weight ? load_as(args.weight, shape.affine_dtype, c) : 1.0f);
}

static void prepare_channel(const BatchNormShape& shape, const BatchNormBackward& args, const ChannelView& view,
                            const Workspace& work, int64_t c) {
    double rstd, scale;
    scales_of(shape, args, c, rstd, scale);
    spread(view, work, kMean, c, load_as(args.mean, shape.stats_dtype, c));
    spread(view, work, kScale, c, scale);
}

static void finish_channel(const BatchNormShape& shape, const BatchNormBackward& args, const ChannelView& view,
                           const Workspace& work, int64_t c) {
    const double sum = gather(view, work, 0, c), product = gather(view, work, 1, c);
    double rstd, scale;
    scales_of(shape, args, c, rstd, scale);
    if (args.gweight) store_as(args.gweight, shape.affine_dtype, c, product * rstd);
    if (args.gbias) store_as(args.gbias, shape.affine_dtype, c, sum);
    const double count = double(view.n) * double(view.s);
    spread(view, work, kSlope, c, -scale * rstd * rstd * product / count);
    spread(view, work, kOffset, c, -scale * sum / count);
}

template <class Body>
static DLPERF_INLINE void each_channel(const ChannelView& view, const Body& body) {
    each_part(view.parts, [&](int part) {
        const Range channels = split(view.c, view.parts, part, 16);
        for (int64_t c = channels.begin; c < channels.end; ++c) body(c);
    });
}

template <Sweep kSweep, class T>
static void backward_sweeps(const BatchNormShape& shape, const BatchNormBackward& args, void* memory) {
    const ChannelView view(shape);
    const Workspace work(memory, view);
    const Arrays<T> all{(const T*)args.gy, (const T*)args.x, (const T*)args.y, (T*)args.gx, (T*)args.gresidual};
    const bool sums = args.gweight || args.gbias || args.gresidual || (args.training && args.gx);
    const bool gx_with_sums = sums && !args.training && args.gx;
#pragma omp parallel num_threads(view.parts)
    {
        each_channel(view, [&](int64_t c) { prepare_channel(shape, args, view, work, c); });
        if (sums) {
            each_part(view.parts, [&](int part) {
                if (view.channels_last) {
                    reduce_rows<kSweep>(all, view, work, part, gx_with_sums);
                } else {
                    reduce_planes<kSweep>(all, view, work, part, gx_with_sums);
                }
            });
            each_channel(view, [&](int64_t c) { finish_channel(shape, args, view, work, c); });
        }
        if (args.gx && !gx_with_sums) {
            each_part(view.parts, [&](int part) {
                if (args.training) {
                    streams_rows(view, all.gx) ? apply_part<kSweep, true, true>(all, view, work, part)
                                               : apply_part<kSweep, true, false>(all, view, work, part);
                } else {
                    apply_part<kSweep, false, false>(all, view, work, part);
                }
            });
        }
    }
}

template <class T>
static void backward_typed(const BatchNormShape& shape, const BatchNormBackward& args, void* memory) {
    if (args.y == nullptr) {
        backward_sweeps<Sweep::plain, T>(shape, args, memory);
    } else if (args.gresidual == nullptr) {
        backward_sweeps<Sweep::masked, T>(shape, args, memory);
    } else {
        backward_sweeps<Sweep::masked_stored, T>(shape, args, memory);
    }
}

template <class T>
static void channel_sum_typed(const BatchNormShape& shape, const T* gy, void* out, void* memory) {
    const ChannelView view(shape);
    const Workspace work(memory, view);
    const Arrays<T> all{gy, nullptr, nullptr, nullptr, nullptr};
#pragma omp parallel num_threads(view.parts)
    {
        each_part(view.parts, [&](int part) {
            if (view.channels_last) {
                reduce_rows<Sweep::gradient_only>(all, view, work, part, false);
            } else {
                reduce_planes<Sweep::gradient_only>(all, view, work, part, false);
            }
        });
        each_channel(view, [&](int64_t c) { store_as(out, shape.affine_dtype, c, gather(view, work, 0, c)); });
    }
}

void backward(const BatchNormShape& shape, const BatchNormBackward& args, void* memory) {
    if (shape.n * shape.c * shape.s == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, backward_typed<T>(shape, args, memory));
}

void channel_sum(const BatchNormShape& shape, const void* gy, void* out, void* memory) {
    if (shape.c == 0) return;
    DLPERF_DTYPE_SWITCH(shape.dtype, channel_sum_typed(shape, (const T*)gy, out, memory));
}

}  // namespace

const BatchNormBackwardTable batch_norm_backward_table = {backward, channel_sum};

}  // namespace dlperf::DLPERF_ISA_NS

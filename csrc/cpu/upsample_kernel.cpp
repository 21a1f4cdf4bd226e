#include "cpu/upsample.h"

#include "cpu/parallel.h"
#include "cpu/span.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinPerThread = 16 * 1024;  // elements

static DLPERF_INLINE int64_t grain(int64_t per_item) {
    return kMinPerThread / (per_item + 1) + 1;
}

// The two inputs of an output, and the second one's share.
struct Taps {
    int64_t a, b;
    float share;
    Taps(const UpsampleAxis& axis, int64_t o)
        : a(axis.index[o]), b(a + 1 < axis.in ? a + 1 : a), share(axis.weight != nullptr ? axis.weight[o] : 0.0f) {}
};

// How much of input i output o takes.
static DLPERF_INLINE float share_of(const UpsampleAxis& axis, int64_t o, int64_t i) {
    const Taps taps(axis, o);
    return (taps.a == i ? 1.0f - taps.share : 0.0f) + (taps.b == i ? taps.share : 0.0f);
}

template <class T>
static void copy_span(const T* from, T* to, int64_t n) {
    std::memcpy((void*)to, (const void*)from, size_t(n) * sizeof(T));
}

template <class T>
static void forward_last(const UpsampleShape& shape, const T* x, T* y) {
    const int64_t c = shape.c, oh = shape.rows.out, ow = shape.cols.out, ih = shape.rows.in, iw = shape.cols.in;
    parallel_for(shape.n * oh, grain(ow * c), [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t row = begin; row < end; ++row) {
            const Taps v(shape.rows, row % oh);
            const T* image = x + row / oh * ih * iw * c;
            const T *top = image + v.a * iw * c, *bottom = image + v.b * iw * c;
            T* out = y + row * ow * c;
            for (int64_t o = 0; o < ow; ++o, out += c) {
                const Taps h(shape.cols, o);
                if (shape.cols.weight == nullptr) {
                    copy_span(top + h.a * c, out, c);
                    continue;
                }
                const Vec right = Vec::set1(h.share), left = Vec::set1(1.0f - h.share);
                const Vec lower = Vec::set1(v.share), upper = Vec::set1(1.0f - v.share);
                const T *ta = top + h.a * c, *tb = top + h.b * c, *ba = bottom + h.a * c, *bb = bottom + h.b * c;
                for_span(c, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                    const Vec above = fma(left, lanes.load(ta + i), right * lanes.load(tb + i));
                    const Vec below = fma(left, lanes.load(ba + i), right * lanes.load(bb + i));
                    lanes.store(out + i, fma(upper, above, lower * below));
                });
            }
        }
    });
}

// The workspace of the thread that runs: one row.
static DLPERF_INLINE float* thread_row(void* workspace, int64_t length) {
    return (float*)workspace + omp_get_thread_num() * ((length + 15) / 16 * 16);
}

template <class T>
static void forward_first(const UpsampleShape& shape, const T* x, T* y, void* workspace) {
    const int64_t oh = shape.rows.out, ow = shape.cols.out, ih = shape.rows.in, iw = shape.cols.in;
    parallel_for(shape.n * shape.c * oh, grain(ow), [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        float* mixed = thread_row(workspace, iw);
        for (int64_t row = begin; row < end; ++row) {
            const Taps v(shape.rows, row % oh);
            const T* plane = x + row / oh * ih * iw;
            const T *top = plane + v.a * iw, *bottom = plane + v.b * iw;
            T* out = y + row * ow;
            if (shape.cols.weight == nullptr) {
                if (row > begin && row % oh != 0 && shape.rows.index[row % oh - 1] == v.a) {
                    copy_span(out - ow, out, ow);
                } else {
                    for (int64_t o = 0; o < ow; ++o) out[o] = top[shape.cols.index[o]];
                }
                continue;
            }
            const Vec lower = Vec::set1(v.share), upper = Vec::set1(1.0f - v.share);
            for_span(iw, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                lanes.store(mixed + i, fma(upper, lanes.load(top + i), lower * lanes.load(bottom + i)));
            });
            for (int64_t o = 0; o < ow; ++o) {
                const Taps h(shape.cols, o);
                out[o] = from_float<T>((1.0f - h.share) * mixed[h.a] + h.share * mixed[h.b]);
            }
        }
    });
}

// Every input gathers from the outputs that took it, in order: no two threads write one element.
template <class T>
static void backward_last(const UpsampleShape& shape, const T* gy, T* gx, void* workspace) {
    const int64_t c = shape.c, oh = shape.rows.out, ow = shape.cols.out, ih = shape.rows.in, iw = shape.cols.in;
    parallel_for(shape.n * ih, grain(iw * c), [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        float* sum = thread_row(workspace, c);
        for (int64_t row = begin; row < end; ++row) {
            const int64_t i = row % ih;
            const T* image = gy + row / ih * oh * ow * c;
            for (int64_t j = 0; j < iw; ++j) {
                std::memset((void*)sum, 0, size_t(c) * 4);
                for (int64_t p = shape.rows.first[i]; p < shape.rows.last[i]; ++p) {
                    const float vertical = share_of(shape.rows, p, i);
                    for (int64_t q = shape.cols.first[j]; q < shape.cols.last[j]; ++q) {
                        const Vec share = Vec::set1(vertical * share_of(shape.cols, q, j));
                        const T* from = image + (p * ow + q) * c;
                        for_span(c, [&](int64_t k, auto lanes, int) DLPERF_LAMBDA {
                            lanes.store(sum + k, fma(share, lanes.load(from + k), lanes.load(sum + k)));
                        });
                    }
                }
                T* to = gx + (row * iw + j) * c;
                for_span(c,
                         [&](int64_t k, auto lanes, int) DLPERF_LAMBDA { lanes.store(to + k, lanes.load(sum + k)); });
            }
        }
    });
}

template <class T>
static void backward_first(const UpsampleShape& shape, const T* gy, T* gx, void* workspace) {
    const int64_t oh = shape.rows.out, ow = shape.cols.out, ih = shape.rows.in, iw = shape.cols.in;
    parallel_for(shape.n * shape.c * ih, grain(iw), [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        float* mixed = thread_row(workspace, ow);
        for (int64_t row = begin; row < end; ++row) {
            const int64_t i = row % ih;
            const T* plane = gy + row / ih * oh * ow;
            std::memset((void*)mixed, 0, size_t(ow) * 4);
            for (int64_t p = shape.rows.first[i]; p < shape.rows.last[i]; ++p) {
                const Vec share = Vec::set1(share_of(shape.rows, p, i));
                const T* from = plane + p * ow;
                for_span(ow, [&](int64_t k, auto lanes, int) DLPERF_LAMBDA {
                    lanes.store(mixed + k, fma(share, lanes.load(from + k), lanes.load(mixed + k)));
                });
            }
            T* to = gx + row * iw;
            for (int64_t j = 0; j < iw; ++j) {
                float sum = 0.0f;
                for (int64_t q = shape.cols.first[j]; q < shape.cols.last[j]; ++q) {
                    sum += share_of(shape.cols, q, j) * mixed[q];
                }
                to[j] = from_float<T>(sum);
            }
        }
    });
}

int64_t workspace_bytes(const UpsampleShape& shape) {
    int64_t longest = shape.c;
    if (shape.cols.in > longest) longest = shape.cols.in;
    if (shape.cols.out > longest) longest = shape.cols.out;
    return omp_get_max_threads() * ((longest + 15) / 16 * 16) * int64_t(sizeof(float));
}

void forward(const UpsampleShape& shape, const void* x, void* y, void* workspace) {
    DLPERF_DTYPE_SWITCH(shape.dtype, {
        if (shape.channels_last) {
            forward_last(shape, (const T*)x, (T*)y);
        } else {
            forward_first(shape, (const T*)x, (T*)y, workspace);
        }
    })
}

void backward(const UpsampleShape& shape, const void* gy, void* gx, void* workspace) {
    DLPERF_DTYPE_SWITCH(shape.dtype, {
        if (shape.channels_last) {
            backward_last(shape, (const T*)gy, (T*)gx, workspace);
        } else {
            backward_first(shape, (const T*)gy, (T*)gx, workspace);
        }
    })
}

}  // namespace

const UpsampleTable upsample_table = {workspace_bytes, forward, backward};

}  // namespace dlperf::DLPERF_ISA_NS

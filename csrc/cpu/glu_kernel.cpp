#include "cpu/glu.h"

#include "cpu/activation_math.h"
#include "cpu/parallel.h"
#include "cpu/span.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinPerThread = 8 * 1024;  // elements
constexpr int64_t kSpan = 4096;

// body(x offset of a, y offset, length) for pieces that cover y.
template <class Body>
static void for_halves(const GluShape& shape, const Body& body) {
    const int64_t pieces = (shape.half + kSpan - 1) / kSpan, piece = (shape.half + pieces - 1) / pieces;
    parallel_for(shape.outer * pieces, kMinPerThread / (piece + 1) + 1, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t outer = i / pieces;
            const Range r = split(shape.half, pieces, i % pieces, 16);
            body(outer * 2 * shape.half + r.begin, outer * shape.half + r.begin, r.end - r.begin);
        }
    });
}

template <class T, Act A>
static void forward_typed(const GluShape& shape, const T* x, T* y) {
    for_halves(shape, [&](int64_t from, int64_t to, int64_t length) {
        const T *a = x + from, *b = a + shape.half;
        for_span(length, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            lanes.store(y + to + i, lanes.load(a + i) * activate<A>(lanes.load(b + i), 0.0f));
        });
    });
}

template <class T, Act A>
static void backward_typed(const GluShape& shape, const T* gy, const T* x, T* gx) {
    for_halves(shape, [&](int64_t from, int64_t to, int64_t length) {
        const T *a = x + from, *b = a + shape.half, *g = gy + to;
        T *ga = gx + from, *gb = ga + shape.half;
        for_span(length, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
            const Vec up = lanes.load(g + i), gate = lanes.load(b + i);
            const Vec through = activate_backward<A>(up * lanes.load(a + i), gate, 0.0f);
            lanes.store(ga + i, up * activate<A>(gate, 0.0f));
            lanes.store(gb + i, through);
        });
    });
}

#define DLPERF_GLU_SWITCH(act, ...)             \
    switch (act) {                              \
        DLPERF_ACT_CASE(relu, __VA_ARGS__)      \
        DLPERF_ACT_CASE(gelu, __VA_ARGS__)      \
        DLPERF_ACT_CASE(gelu_tanh, __VA_ARGS__) \
        DLPERF_ACT_CASE(silu, __VA_ARGS__)      \
        DLPERF_ACT_CASE(sigmoid, __VA_ARGS__)   \
        default:                                \
            break;                              \
    }

void forward(const GluShape& shape, const void* x, void* y) {
    DLPERF_DTYPE_SWITCH(shape.dtype, DLPERF_GLU_SWITCH(shape.act, (forward_typed<T, A>(shape, (const T*)x, (T*)y))))
}

void backward(const GluShape& shape, const void* gy, const void* x, void* gx) {
    DLPERF_DTYPE_SWITCH(shape.dtype,
                        DLPERF_GLU_SWITCH(shape.act, (backward_typed<T, A>(shape, (const T*)gy, (const T*)x, (T*)gx))))
}

}  // namespace

const GluTable glu_table = {forward, backward};

}  // namespace dlperf::DLPERF_ISA_NS

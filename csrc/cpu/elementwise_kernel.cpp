// One streaming loop, instantiated for each operation and storage type.
#include "cpu/elementwise.h"

#include "cpu/activation_math.h"
#include "cpu/parallel.h"
#include "cpu/stream.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kUnroll = 4;              // vectors in flight
constexpr int64_t kMinPerThread = 1 << 14;  // elements below which another thread costs more than it saves
constexpr int64_t kGrain = 64;              // elements: threads share no cache line of output

// y[i] = at(i, count) over [i, end), count being how many lanes matter
template <bool STREAM, class Out, class At>
static DLPERF_INLINE void run(Out* y, int64_t i, int64_t end, const At& at) {
    if (STREAM) {
        const int64_t aligned = i + until_aligned(y + i) < end ? i + until_aligned(y + i) : end;
        for (; i < aligned; i += Vec::W) {
            const int64_t count = aligned - i;
            store_some(y + i, at(i, count), count);
        }
        i = aligned;
    }
    for (; i + kUnroll * Vec::W <= end; i += kUnroll * Vec::W) {
        Vec v[kUnroll];
        for (int64_t u = 0; u < kUnroll; ++u) v[u] = at(i + u * Vec::W, Vec::W);
        for (int64_t u = 0; u < kUnroll; ++u) {
            if (STREAM) {
                stream(y + i + u * Vec::W, v[u]);
            } else {
                v[u].store(y + i + u * Vec::W);
            }
        }
    }
    for (; i < end; i += Vec::W) store_some(y + i, at(i, end - i), end - i);
    if (STREAM) stream_fence();
}

template <class Out, class At>
static inline void each(int64_t n, bool in_place, Out* y, const At& at) {
    const bool streaming = !in_place && n * int64_t(sizeof(Out)) >= kStreamBytes;
    parallel_for(
        n, kMinPerThread,
        [&](int64_t begin, int64_t end) {
            if (streaming) {
                run<true>(y, begin, end, at);
            } else {
                run<false>(y, begin, end, at);
            }
        },
        kGrain);
}

// y[i] = f(x[i])
template <class In, class Out, class F>
static inline void map(int64_t n, const In* x, Out* y, const F& f) {
    each(n, (const void*)x == (const void*)y, y, [&](int64_t i, int64_t count) { return f(load_some(x + i, count)); });
}

// y[i] = f(a[i], b[i])
template <class T, class F>
static inline void zip(int64_t n, const T* a, const T* b, T* y, const F& f) {
    each(n, a == y || b == y, y,
         [&](int64_t i, int64_t count) { return f(load_some(a + i, count), load_some(b + i, count)); });
}

void activation_forward(DType dtype, Act act, float param, int64_t n, const void* x, void* y) {
    DLPERF_DTYPE_SWITCH(
        dtype, DLPERF_ACT_SWITCH(act, map(n, (const T*)x, (T*)y, [=](Vec v) { return activate<A>(v, param); })))
}

void activation_backward(DType dtype, Act act, float param, int64_t n, const void* gy, const void* x, void* gx) {
    DLPERF_DTYPE_SWITCH(dtype, DLPERF_ACT_SWITCH(act, zip(n, (const T*)gy, (const T*)x, (T*)gx, [=](Vec g, Vec v) {
                                                     return activate_backward<A>(g, v, param);
                                                 })))
}

template <Act A>
static void from_output(DType dtype, int64_t n, const void* gy, const void* y, void* gx) {
    if constexpr (derivative_from_output(A)) {
        DLPERF_DTYPE_SWITCH(dtype, zip(n, (const T*)gy, (const T*)y, (T*)gx,
                                       [](Vec g, Vec v) { return activate_backward_from_output<A>(g, v); }))
    }
}

void activation_backward_from_output(DType dtype, Act act, int64_t n, const void* gy, const void* y, void* gx) {
    DLPERF_ACT_SWITCH(act, from_output<A>(dtype, n, gy, y, gx))
}

void add(DType dtype, int64_t n, const void* a, const void* b, float alpha, bool relu, void* y) {
    const Vec scale = Vec::set1(alpha);
    if (relu) {
        DLPERF_DTYPE_SWITCH(dtype, zip(n, (const T*)a, (const T*)b, (T*)y,
                                       [=](Vec u, Vec v) { return activate<Act::relu>(fma(v, scale, u), 0.0f); }))
    } else {
        DLPERF_DTYPE_SWITCH(dtype,
                            zip(n, (const T*)a, (const T*)b, (T*)y, [=](Vec u, Vec v) { return fma(v, scale, u); }))
    }
}

template <class T, class F>
static inline void zip_rows(int64_t outer, int64_t mid, int64_t inner, const T* a, const T* b, int64_t b_outer,
                            int64_t b_mid, T* y, const F& f) {
    const bool streaming = a != y && outer * mid * inner * int64_t(sizeof(T)) >= kStreamBytes;
    const int64_t least = (kMinPerThread + inner - 1) / inner;
    parallel_for(outer * mid, least, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const T* ra = a + row * inner;
            const T* rb = b + row / mid * b_outer + row % mid * b_mid;
            const auto at = [&](int64_t i, int64_t count) {
                return f(load_some(ra + i, count), load_some(rb + i, count));
            };
            if (streaming) {
                run<true>(y + row * inner, 0, inner, at);
            } else {
                run<false>(y + row * inner, 0, inner, at);
            }
        }
    });
}

void add_rows(DType dtype, int64_t outer, int64_t mid, int64_t inner, const void* a, const void* b, int64_t b_outer,
              int64_t b_mid, float alpha, bool relu, void* y) {
    const Vec scale = Vec::set1(alpha);
    if (relu) {
        DLPERF_DTYPE_SWITCH(dtype, zip_rows(outer, mid, inner, (const T*)a, (const T*)b, b_outer, b_mid, (T*)y,
                                            [=](Vec u, Vec v) { return activate<Act::relu>(fma(v, scale, u), 0.0f); }))
    } else {
        DLPERF_DTYPE_SWITCH(dtype, zip_rows(outer, mid, inner, (const T*)a, (const T*)b, b_outer, b_mid, (T*)y,
                                            [=](Vec u, Vec v) { return fma(v, scale, u); }))
    }
}

void multiply(DType dtype, int64_t n, const void* a, const void* b, void* y) {
    DLPERF_DTYPE_SWITCH(dtype, zip(n, (const T*)a, (const T*)b, (T*)y, [](Vec u, Vec v) { return u * v; }))
}

void multiply_rows(DType dtype, int64_t outer, int64_t mid, int64_t inner, const void* a, const void* b,
                   int64_t b_outer, int64_t b_mid, void* y) {
    DLPERF_DTYPE_SWITCH(dtype, zip_rows(outer, mid, inner, (const T*)a, (const T*)b, b_outer, b_mid, (T*)y,
                                        [](Vec u, Vec v) { return u * v; }))
}

template <class In>
static void cast_from(DType to, int64_t n, const In* x, void* y) {
    DLPERF_DTYPE_SWITCH(to, map(n, x, (T*)y, [](Vec v) { return v; }))
}

void cast(DType from, DType to, int64_t n, const void* x, void* y) {
    DLPERF_DTYPE_SWITCH(from, cast_from(to, n, (const T*)x, y))
}

}  // namespace

const ElementwiseTable elementwise_table = {activation_forward,
                                            activation_backward,
                                            activation_backward_from_output,
                                            add,
                                            add_rows,
                                            multiply,
                                            multiply_rows,
                                            cast};

}  // namespace dlperf::DLPERF_ISA_NS

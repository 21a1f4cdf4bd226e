#include "cpu/loss.h"

#include "cpu/parallel.h"
#include "cpu/span.h"
#include "cpu/vec_math.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinPerThread = 16 * 1024;  // elements

static DLPERF_INLINE Vec sign(Vec d) {
    const Vec one = Vec::set1(1.0f);
    return select(d > Vec::zero(), one, select(d < Vec::zero(), Vec::zero() - one, d));
}

template <Loss K>
static DLPERF_INLINE Vec loss(Vec x, Vec t, Vec param) {
    const Vec zero = Vec::zero(), half = Vec::set1(0.5f), d = x - t;
    if constexpr (K == Loss::mse) {
        return d * d;
    } else if constexpr (K == Loss::l1) {
        return abs(d);
    } else if constexpr (K == Loss::smooth_l1) {
        const Vec a = abs(d);
        return select(a < param, half * a * a / param, a - half * param);
    } else if constexpr (K == Loss::huber) {
        const Vec a = abs(d);
        return select(a < param, half * a * a, param * (a - half * param));
    } else if constexpr (K == Loss::bce_logits) {
        const Vec tail = log1p_positive(exp(zero - abs(x)));
        return (Vec::set1(1.0f) - t) * x + (max(zero - x, zero) + tail);
    } else if constexpr (K == Loss::kl_div) {
        const Vec entropy = select(t > zero, t * log(t), select(t < zero, log(t), t));
        return entropy - t * x;
    } else {
        return exp(t) * (t - x);
    }
}

// The derivatives by x and by t.
template <Loss K>
static DLPERF_INLINE void loss_grads(Vec x, Vec t, Vec param, Vec& by_x, Vec& by_t) {
    const Vec zero = Vec::zero(), one = Vec::set1(1.0f), d = x - t;
    if constexpr (K == Loss::mse) {
        by_x = d + d;
    } else if constexpr (K == Loss::l1) {
        by_x = sign(d);
    } else if constexpr (K == Loss::smooth_l1) {
        by_x = select(abs(d) < param, d / param, sign(d));
    } else if constexpr (K == Loss::huber) {
        by_x = select(abs(d) < param, d, param * sign(d));
    } else if constexpr (K == Loss::bce_logits) {
        by_x = sigmoid(x) - t;
        by_t = zero - x;
        return;
    } else if constexpr (K == Loss::kl_div) {
        by_x = zero - t;
        by_t = select(abs(t) > zero, log(t) + one, t) - x;
        return;
    } else {
        const Vec e = exp(t);
        by_x = zero - e;
        by_t = e * (t - x + one);
        return;
    }
    by_t = zero - by_x;
}

template <class T, Loss K>
static void forward_typed(const LossCall& call, T* out, double* partial) {
    const T *x = (const T*)call.x, *t = (const T*)call.target;
    const Vec param = Vec::set1(call.param);
    if (call.elementwise) {
        parallel_for(
            call.n, kMinPerThread,
            [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
                for_span(end - begin, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                    const int64_t at = begin + i;
                    lanes.store(out + at, loss<K>(lanes.load(x + at), lanes.load(t + at), param));
                });
            },
            64);
        return;
    }
    const int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    for (int i = 0; i < threads; ++i) partial[i] = 0;
    parallel_for(
        call.n, kMinPerThread,
        [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
            double total = 0;
            for_pieces(end - begin, [&](int64_t piece, int64_t length) {
                Sum4 sum;
                for_span(length, [&](int64_t i, auto lanes, int slot) DLPERF_LAMBDA {
                    const int64_t at = begin + piece + i;
                    const Vec value = lanes.keep(loss<K>(lanes.load(x + at), lanes.load(t + at), param));
                    sum.part[slot] = sum.part[slot] + value;
                });
                total += sum.total();
            });
            partial[omp_get_thread_num()] = total;
        },
        64);
    double total = 0;
    for (int i = 0; i < threads; ++i) total += partial[i];
    *out = from_float<T>(float(total * call.scale));
}

template <class T, Loss K>
static void backward_typed(const LossCall& call, const T* gy, T* gx, T* gtarget) {
    const T *x = (const T*)call.x, *t = (const T*)call.target;
    const Vec param = Vec::set1(call.param);
    const Vec whole = Vec::set1(call.elementwise ? 0.0f : float(to_float(*gy) * call.scale));
    parallel_for(
        call.n, kMinPerThread,
        [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
            for_span(end - begin, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                const int64_t at = begin + i;
                const Vec g = call.elementwise ? lanes.load(gy + at) : whole;
                Vec by_x, by_t;
                loss_grads<K>(lanes.load(x + at), lanes.load(t + at), param, by_x, by_t);
                if (gx != nullptr) lanes.store(gx + at, g * by_x);
                if (gtarget != nullptr) lanes.store(gtarget + at, g * by_t);
            });
        },
        64);
}

#define DLPERF_LOSS_CASE(name, ...)    \
    case Loss::name: {                 \
        constexpr Loss K = Loss::name; \
        __VA_ARGS__;                   \
        break;                         \
    }
#define DLPERF_LOSS_SWITCH(kind, ...)             \
    switch (kind) {                               \
        DLPERF_LOSS_CASE(mse, __VA_ARGS__)        \
        DLPERF_LOSS_CASE(l1, __VA_ARGS__)         \
        DLPERF_LOSS_CASE(smooth_l1, __VA_ARGS__)  \
        DLPERF_LOSS_CASE(huber, __VA_ARGS__)      \
        DLPERF_LOSS_CASE(bce_logits, __VA_ARGS__) \
        DLPERF_LOSS_CASE(kl_div, __VA_ARGS__)     \
        DLPERF_LOSS_CASE(kl_div_log, __VA_ARGS__) \
    }

int64_t workspace_bytes() {
    return omp_get_max_threads() * int64_t(sizeof(double));
}

void forward(const LossCall& call, void* out, void* workspace) {
    DLPERF_DTYPE_SWITCH(call.dtype,
                        DLPERF_LOSS_SWITCH(call.kind, (forward_typed<T, K>(call, (T*)out, (double*)workspace))))
}

void backward(const LossCall& call, const void* gy, void* gx, void* gtarget) {
    DLPERF_DTYPE_SWITCH(call.dtype,
                        DLPERF_LOSS_SWITCH(call.kind, (backward_typed<T, K>(call, (const T*)gy, (T*)gx, (T*)gtarget))))
}

// The share of one target: its class's weight, or nothing.
template <class T>
static DLPERF_INLINE float nll_weight(const NllShape& shape, const T* weight, int64_t target) {
    if (target == shape.ignore) return 0.0f;
    return weight != nullptr ? to_float(weight[target]) : 1.0f;
}

template <class T>
static int64_t nll_typed(const NllShape& shape, bool elementwise, const T* x, const int64_t* target, const T* weight,
                         T* losses, double* total_weight) {
    double total = 0, weights = 0;
    for (int64_t i = 0; i < shape.n * shape.s; ++i) {
        const int64_t t = target[i];
        if (t != shape.ignore && (t < 0 || t >= shape.c)) return i;
        const float w = nll_weight(shape, weight, t);
        const int64_t at = (i / shape.s * shape.c + t) * shape.s + i % shape.s;
        const float value = t == shape.ignore ? 0.0f : -w * to_float(x[at]);
        if (elementwise) losses[i] = from_float<T>(value);
        total += value;
        weights += w;
    }
    *total_weight = weights;
    if (!elementwise) *losses = from_float<T>(float(shape.mean ? total / weights : total));
    return -1;
}

int64_t nll(const NllShape& shape, bool elementwise, const void* x, const int64_t* target, const void* weight,
            void* losses, double* total_weight) {
    int64_t outside = -1;
    DLPERF_DTYPE_SWITCH(shape.dtype, outside = nll_typed(shape, elementwise, (const T*)x, target, (const T*)weight,
                                                         (T*)losses, total_weight))
    return outside;
}

template <class T>
static void nll_backward_typed(const NllShape& shape, bool elementwise, const T* gy, const int64_t* target,
                               const T* weight, const double* total_weight, T* gx) {
    std::memset((void*)gx, 0, size_t(shape.n * shape.c * shape.s) * sizeof(T));
    const float scale = shape.mean ? float(1.0 / *total_weight) : 1.0f;
    for (int64_t i = 0; i < shape.n * shape.s; ++i) {
        const int64_t t = target[i];
        if (t == shape.ignore) continue;
        const float g = to_float(elementwise ? gy[i] : *gy);
        gx[(i / shape.s * shape.c + t) * shape.s + i % shape.s] =
            from_float<T>(-g * scale * nll_weight(shape, weight, t));
    }
}

void nll_backward(const NllShape& shape, bool elementwise, const void* gy, const int64_t* target, const void* weight,
                  const double* total_weight, void* gx) {
    DLPERF_DTYPE_SWITCH(shape.dtype, nll_backward_typed(shape, elementwise, (const T*)gy, target, (const T*)weight,
                                                        total_weight, (T*)gx))
}

}  // namespace

const LossTable loss_table = {workspace_bytes, forward, backward, nll, nll_backward};

}  // namespace dlperf::DLPERF_ISA_NS

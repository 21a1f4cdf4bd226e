#include "cpu/softmax.h"

#include "cpu/axis_slice.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace dlperf::DLPERF_ISA_NS {
namespace {

template <bool LOGARITHM, class T>
static void forward_typed(const SoftmaxShape& shape, const T* x, T* y) {
    constexpr bool kStage =
        !LOGARITHM && sizeof(T) == sizeof(float);  // exponentials wait in y; 16 bits would round them
    for_slices(shape.outer, shape.dim, shape.inner, [&](auto slice, int64_t base, int64_t) {
        const T* xs = x + base;
        T* ys = y + base;
        const Vec maximum = slice_max(slice, xs);
        if constexpr (kStage) {
            Slots sum = Slots::all(0.0f);
            slice.each([&](int64_t at, auto lanes, int64_t, int slot) {
                const Vec e = exp(lanes.load(xs + at, -__builtin_inff()) - maximum);
                lanes.store(ys + at, e);
                sum.v[slot] = sum.v[slot] + e;
            });
            const Vec scale = Vec::set1(1.0f) / slice.total(sum);
            slice.each(
                [&](int64_t at, auto lanes, int64_t, int) { lanes.store(ys + at, lanes.load(ys + at, 0.0f) * scale); });
        } else {
            const Vec sum = slice_exp_sum(slice, xs, maximum);
            const Vec shift = LOGARITHM ? log(sum) : Vec::set1(1.0f) / sum;
            slice.each([&](int64_t at, auto lanes, int64_t, int) {
                const Vec centred = lanes.load(xs + at, 0.0f) - maximum;
                lanes.store(ys + at, LOGARITHM ? centred - shift : exp(centred) * shift);
            });
        }
    });
}

template <bool LOGARITHM, class T>
static void backward_typed(const SoftmaxShape& shape, const T* gy, const T* y, T* gx) {
    for_slices(shape.outer, shape.dim, shape.inner, [&](auto slice, int64_t base, int64_t) {
        const T *gys = gy + base, *ys = y + base;
        T* gxs = gx + base;
        Slots sum = Slots::all(0.0f);
        slice.each([&](int64_t at, auto lanes, int64_t, int slot) {
            const Vec g = lanes.load(gys + at, 0.0f);
            sum.v[slot] = LOGARITHM ? sum.v[slot] + g : fma(g, lanes.load(ys + at, 0.0f), sum.v[slot]);
        });
        const Vec total = slice.total(sum);
        slice.each([&](int64_t at, auto lanes, int64_t, int) {
            const Vec g = lanes.load(gys + at, 0.0f), out = lanes.load(ys + at, 0.0f);
            lanes.store(gxs + at, LOGARITHM ? g - exp(out) * total : out * (g - total));
        });
    });
}

void forward(DType dtype, const SoftmaxShape& shape, bool logarithm, const void* x, void* y) {
    DLPERF_DTYPE_SWITCH(dtype, if (logarithm) forward_typed<true>(shape, (const T*)x, (T*)y);
                        else forward_typed<false>(shape, (const T*)x, (T*)y))
}

void backward(DType dtype, const SoftmaxShape& shape, bool logarithm, const void* gy, const void* y, void* gx) {
    DLPERF_DTYPE_SWITCH(dtype, if (logarithm) backward_typed<true>(shape, (const T*)gy, (const T*)y, (T*)gx);
                        else backward_typed<false>(shape, (const T*)gy, (const T*)y, (T*)gx))
}

}  // namespace

const SoftmaxTable softmax_table = {forward, backward};

}  // namespace dlperf::DLPERF_ISA_NS

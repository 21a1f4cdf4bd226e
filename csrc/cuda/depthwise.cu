#include "cuda/depthwise_kernel.cuh"
#include "cuda/launch.cuh"

namespace dlperf::cuda {
namespace {

std::string describe(const Convolution& v) {
    return std::to_string(v.n) + " x " + std::to_string(v.h) + " x " + std::to_string(v.w) + " x " +
           std::to_string(v.c) + " with " + std::to_string(v.r) + " x " + std::to_string(v.s);
}

// function(S, Stride) as types: the widths that have a template of their own.
template <int Value>
struct Number {
    static constexpr int value = Value;
};

template <class Function>
void by_width(const Gather& g, const Function& function) {
    const int width = g.step_w == 1 ? g.taps_s : 0;
    if (width == 3 && g.stride_w == 1)
        function(Number<3>(), Number<1>());
    else if (width == 3 && g.stride_w == 2)
        function(Number<3>(), Number<2>());
    else if (width == 5 && g.stride_w == 1)
        function(Number<5>(), Number<1>());
    else if (width == 7 && g.stride_w == 1)
        function(Number<7>(), Number<1>());
    else
        function(Number<0>(), Number<0>());
}

template <class T>
void run(const char* name, const Convolution& v, const Depthwise& p, const Device& device) {
    const int64_t blocks = p.tile.tiles * ceil_div<int64_t>(depthwise_strips(p.gather), p.tile.strips);
    const int bytes = p.gather.taps() * p.tile.vectors * 32;
    by_width(p.gather, [&](auto s, auto stride) {
        launch<depthwise_kernel<T, decltype(s)::value, decltype(stride)::value>>(
            name, describe(v), blocks, kDepthwiseThreads, bytes, device.stream, p);
    });
}

Epilogue epilogue_of(const ConvolutionCall& c) {
    return {c.bias, c.residual, c.out, nullptr, 0, 0, 1.0f, 1.0f, c.activation};
}

template <class T>
void forward(const ConvolutionCall& c, const Device& device) {
    const Convolution& v = c.geometry;
    const Gather g = forward_gather(v);
    const PixelPlace place = {v.n, v.p, v.q, v.p, v.q, 0, 0, 1, 1, v.c};
    run<T>("depthwise_forward", v,
           {c.x, c.weight, g, forward_taps(v), v.r * v.s, depthwise_tile(v.c), place, epilogue_of(c)}, device);
}

template <class T>
void input(const ConvolutionCall& c, const Device& device) {
    const Convolution& v = c.geometry;
    for (int i = 0; i < v.stride_h; ++i)
        for (int j = 0; j < v.stride_w; ++j) {
            const Phase phase = input_phase(v, i, j);
            const Gather& g = phase.gather;
            const PixelPlace place = {v.n, g.rows, g.columns, v.h, v.w, i, j, v.stride_h, v.stride_w, v.c};
            run<T>("depthwise_input", v,
                   {c.y, c.weight, g, phase.taps, v.r * v.s, depthwise_tile(v.c), place, epilogue_of(c)}, device);
        }
}

template <class T>
void weight(const ConvolutionCall& c, const Device& device) {
    const Convolution& v = c.geometry;
    const char* name = "depthwise_weight";
    const DepthwiseWeight p = {c.x,        c.y, forward_gather(v), depthwise_tile(v.c), depthwise_parts(v, device),
                               c.workspace};
    by_width(p.gather, [&](auto s, auto stride) {
        constexpr int S = decltype(s)::value;
        const int64_t blocks = int64_t(S > 0 ? v.r : v.r * v.s) * p.tile.tiles * p.parts;
        launch<depthwise_weight_kernel<T, S, decltype(stride)::value>>(name, describe(v), blocks, kDepthwiseThreads,
                                                                       kDepthwiseThreads * 32, device.stream, p);
    });
    launch<depthwise_join_kernel<T>>(name, describe(v), ceil_div(v.r * v.s * v.c, 256), 256, 0, device.stream,
                                     static_cast<const float*>(c.workspace), c.out, p.parts, v.r * v.s, v.c);
}

}  // namespace

void depthwise_forward(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? forward<bf16>(call, device) : forward<f16>(call, device);
}

void depthwise_input(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? input<bf16>(call, device) : input<f16>(call, device);
}

void depthwise_weight(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? weight<bf16>(call, device) : weight<f16>(call, device);
}

}  // namespace dlperf::cuda

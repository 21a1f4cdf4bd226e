#include "cuda/conv_plan.h"
#include "cuda/product.cuh"

namespace dlperf::cuda {
namespace {

Call call_of(const char* name, const Convolution& v, const Device& device) {
    auto text = [](std::initializer_list<int> sizes) {
        std::string out;
        for (int size : sizes) out += (out.empty() ? "" : " x ") + std::to_string(size);
        return out;
    };
    return {name, text({v.n, v.h, v.w, v.c}) + " with " + text({v.k, v.r, v.s, v.c}), device};
}

Epilogue epilogue_of(const ConvolutionCall& c) {
    return {c.bias, c.residual, c.out, c.workspace, 0, 0, 1.0f, 1.0f, c.activation};
}

PixelPlace whole_image(int images, int rows, int columns, int channels) {
    return {images, rows, columns, rows, columns, 0, 0, 1, 1, channels};
}

template <class T>
void forward(const ConvolutionCall& c, const Device& device) {
    const Convolution& v = c.geometry;
    const Call call = call_of("convolution_forward", v, device);
    const Plan plan = plan_forward(v, device, c.moments != nullptr);
    const Gather g = forward_gather(v);
    Epilogue e = epilogue_of(c);
    e.moments = {c.moments, g.count(), v.k, moment_rows(plan)};
    const Schedule schedule = schedule_of(plan, g.count(), ceil_div(v.k, plan.block_n), 1);
    const PixelPlace place = whole_image(v.n, v.p, v.q, v.k);
    if (plan.hopper) {
        const int blocks = ceil_div(v.c, kTileDepth);
        WgmmaProblem<GatherSource<Major::k>, PixelPlace> p = {
            {encode(gather_map(c.x, g, kTileRows)),
             encode(weight_map(c.weight, v.k, g.taps(), v.c, plan.block_n / plan.cluster())), g, forward_taps(v),
             blocks},
            g.taps() * blocks,
            schedule,
            place,
            e};
        launch_wgmma<T>(call, plan, p);
    } else {
        const int blocks = ceil_div(v.c, kStep);
        MmaProblem<T, GatheredRows, WeightRows, PixelPlace> p = {static_cast<const T*>(c.x),
                                                                 static_cast<const T*>(c.weight),
                                                                 {g, blocks},
                                                                 {v.k, g.taps(), v.c, blocks},
                                                                 0,
                                                                 0,
                                                                 g.taps() * blocks,
                                                                 schedule,
                                                                 place,
                                                                 e};
        launch_mma(call, plan, p);
    }
    join_parts<T>(call, plan, schedule, place, e);
}

template <class T>
void input_of_phase(const ConvolutionCall& c, const Call& call, const Phase& phase, const Device& device) {
    const Convolution& v = c.geometry;
    const Gather& g = phase.gather;
    if (g.count() == 0) return;
    const Plan plan = plan_input(v, phase, device);
    const Epilogue e = epilogue_of(c);
    const Schedule schedule = schedule_of(plan, g.count(), ceil_div(v.c, plan.block_n), 1);
    const PixelPlace place = {v.n, g.rows, g.columns, v.h, v.w, phase.row, phase.column, v.stride_h, v.stride_w, v.c};
    if (plan.hopper) {
        const int blocks = ceil_div(v.k, kTileDepth);
        WgmmaProblem<GatherSource<Major::mn>, PixelPlace> p = {
            {encode(gather_map(c.y, g, kTileRows)), encode(weight_map(c.weight, v.k, v.r * v.s, v.c, kTileDepth)), g,
             phase.taps, blocks},
            g.taps() * blocks,
            schedule,
            place,
            e};
        launch_wgmma<T>(call, plan, p);
    } else {
        const int blocks = ceil_div(v.k, kStep);
        MmaProblem<T, GatheredRows, WeightColumns, PixelPlace> p = {static_cast<const T*>(c.y),
                                                                    static_cast<const T*>(c.weight),
                                                                    {g, blocks},
                                                                    {v.k, v.r * v.s, v.c, blocks, g.taps_s, phase.taps},
                                                                    0,
                                                                    0,
                                                                    g.taps() * blocks,
                                                                    schedule,
                                                                    place,
                                                                    e};
        launch_mma(call, plan, p);
    }
    join_parts<T>(call, plan, schedule, place, e);
}

template <class T>
void input(const ConvolutionCall& c, const Device& device) {
    const Call call = call_of("convolution_input", c.geometry, device);
    for (int i = 0; i < c.geometry.stride_h; ++i)
        for (int j = 0; j < c.geometry.stride_w; ++j) input_of_phase<T>(c, call, input_phase(c.geometry, i, j), device);
}

template <class T>
void weight(const ConvolutionCall& c, const Device& device) {
    const Convolution& v = c.geometry;
    const Call call = call_of("convolution_weight", v, device);
    const Plan plan = plan_weight(v, device);
    const Gather g = forward_gather(v);
    const Epilogue e = epilogue_of(c);
    const int padded = padded_channels(v.c, plan.block_n);
    const Schedule schedule = schedule_of(plan, v.k, int64_t(g.taps()) * padded / plan.block_n, 1);
    const TapPlace place = {v.k, g.taps(), v.c, padded};
    if (plan.hopper) {
        WgmmaProblem<WeightSource, TapPlace> p = {{encode(matrix_map(c.y, v.k, g.count(), 1, v.k, 0, kTileDepth)),
                                                   encode(gather_map(c.x, g, kTileDepth)), g, padded},
                                                  ceil_div(g.count(), kTileDepth),
                                                  schedule,
                                                  place,
                                                  e};
        launch_wgmma<T>(call, plan, p);
    } else {
        MmaProblem<T, ColumnsAcrossK, GatheredColumns, TapPlace> p = {static_cast<const T*>(c.y),
                                                                      static_cast<const T*>(c.x),
                                                                      {v.k, g.count(), v.k},
                                                                      {g, padded},
                                                                      0,
                                                                      0,
                                                                      ceil_div(g.count(), kStep),
                                                                      schedule,
                                                                      place,
                                                                      e};
        launch_mma(call, plan, p);
    }
    join_parts<T>(call, plan, schedule, place, e);
}

}  // namespace

void convolution_forward(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? forward<bf16>(call, device) : forward<f16>(call, device);
}

void convolution_input(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? input<bf16>(call, device) : input<f16>(call, device);
}

void convolution_weight(const ConvolutionCall& call, const Device& device) {
    call.type == Type::bf16 ? weight<bf16>(call, device) : weight<f16>(call, device);
}

}  // namespace dlperf::cuda

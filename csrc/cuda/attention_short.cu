#include "cuda/attention_launch.cuh"
#include "cuda/attention_short_hopper_kernel.cuh"
#include "cuda/attention_short_kernel.cuh"

namespace dlperf::cuda {
namespace {

template <class T, int N>
void launch_width(const Attention& p, const ShortPlan& plan, const Device& device) {
    const char* name = "attention_forward";
    const int64_t blocks = int64_t(p.batches) * p.heads * plan.parts;
    if (device.capability == 90) {
        const ShortMaps maps = {map_of(p, p.q, p.queries, p.heads, kShortHopperStrip),
                                map_of(p, p.k, p.keys, p.kv_heads, N),
                                map_of(p, p.v, p.keys, p.kv_heads, N),
                                p,
                                plan.steps,
                                plan.parts};
        launch<attention_short_hopper_kernel<T, N>>(name, describe(p), blocks, plan.owners * 128, plan.bytes,
                                                    device.stream, maps);
    } else {
        launch<attention_short_kernel<T, N>>(name, describe(p), blocks, kShortThreads, plan.bytes, device.stream, p,
                                             plan.steps, plan.parts);
    }
}

template <class T>
void run(const Attention& p, const ShortPlan& plan, const Device& device) {
    if (plan.width == kShortWidths[0])
        launch_width<T, kShortWidths[0]>(p, plan, device);
    else if (plan.width == kShortWidths[1])
        launch_width<T, kShortWidths[1]>(p, plan, device);
    else
        launch_width<T, kShortWidths[2]>(p, plan, device);
}

}  // namespace

void attention_short_forward(const Attention& p, const ShortPlan& plan, const Device& device) {
    p.type == Type::bf16 ? run<bf16>(p, plan, device) : run<f16>(p, plan, device);
}

}  // namespace dlperf::cuda

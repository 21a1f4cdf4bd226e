#include "cuda/attention_hopper_gradient_kernel.cuh"
#include "cuda/attention_hopper_kernel.cuh"
#include "cuda/attention_kernel.cuh"
#include "cuda/attention_launch.cuh"
#include "cuda/attention_short.h"

namespace dlperf::cuda {
namespace {

template <class T, int Dimension>
void forward(const Attention& p, const Device& device) {
    const char* name = "attention_forward";
    const int64_t pairs = int64_t(p.batches) * p.heads;
    if (device.capability == 90) {
        AttentionMaps maps;
        maps.call = p;
        maps.q = map_of(p, p.q, p.queries, p.heads, kHopperRows);
        maps.k = map_of(p, p.k, p.keys, p.kv_heads, kHopperKeys);
        maps.v = map_of(p, p.v, p.keys, p.kv_heads, kHopperKeys);
        maps.go = maps.q;  // not read
        launch<attention_hopper_kernel<T, Dimension>>(
            name, describe(p), pairs * ceil_div(p.queries, kHopperRows), kWgmmaThreads,
            AttentionShape<Dimension, kHopperKeys>::shared_bytes, device.stream, maps);
    } else {
        launch<attention_kernel<T, Dimension>>(name, describe(p), pairs * ceil_div(p.queries, kForwardQueries),
                                               kForwardThreads, attention_forward_bytes<Dimension>(), device.stream, p);
    }
}

template <class T, int Dimension>
void backward(const Attention& p, const Device& device) {
    const char* name = "attention_backward";
    const int64_t pairs = int64_t(p.batches) * p.heads, kv_pairs = int64_t(p.batches) * p.kv_heads;
    launch<delta_kernel<T, Dimension>>(name, describe(p), ceil_div<int64_t>(pairs * p.queries, 32), 256, 0,
                                       device.stream, p);
    if (device.capability == 90) {
        auto maps = [&](int own_rows, int passing_rows) {
            AttentionMaps out;
            out.call = p;
            out.q = map_of(p, p.q, p.queries, p.heads, own_rows);
            out.go = map_of(p, p.go, p.queries, p.heads, own_rows);
            out.k = map_of(p, p.k, p.keys, p.kv_heads, passing_rows);
            out.v = map_of(p, p.v, p.keys, p.kv_heads, passing_rows);
            return out;
        };
        constexpr int bytes = AttentionShape<Dimension, kHopperBackward>::shared_bytes;
        launch<attention_gradient_hopper_kernel<T, Dimension, true>>(
            name, describe(p), kv_pairs * ceil_div(p.keys, kHopperRows), kWgmmaThreads, bytes, device.stream,
            maps(kHopperBackward, kHopperRows));
        launch<attention_gradient_hopper_kernel<T, Dimension, false>>(
            name, describe(p), pairs * ceil_div(p.queries, kHopperRows), kWgmmaThreads, bytes, device.stream,
            maps(kHopperRows, kHopperBackward));
    } else {
        constexpr int bytes = attention_backward_bytes<Dimension>();
        launch<attention_keys_kernel<T, Dimension>>(name, describe(p), kv_pairs * ceil_div(p.keys, kBackwardRows),
                                                    kBackwardThreads, bytes, device.stream, p);
        launch<attention_queries_kernel<T, Dimension>>(name, describe(p), pairs * ceil_div(p.queries, kBackwardRows),
                                                       kBackwardThreads, bytes, device.stream, p);
    }
}

template <class T>
void run(const Attention& p, const Device& device, bool is_forward) {
    if (p.dimension == 64)
        is_forward ? forward<T, 64>(p, device) : backward<T, 64>(p, device);
    else
        is_forward ? forward<T, 128>(p, device) : backward<T, 128>(p, device);
}

}  // namespace

void attention_forward(const Attention& call, const Device& device) {
    const ShortPlan plan = short_plan(call, device);
    if (plan.steps > 0) return attention_short_forward(call, plan, device);
    call.type == Type::bf16 ? run<bf16>(call, device, true) : run<f16>(call, device, true);
}

void attention_backward(const Attention& call, const Device& device) {
    call.type == Type::bf16 ? run<bf16>(call, device, false) : run<f16>(call, device, false);
}

}  // namespace dlperf::cuda

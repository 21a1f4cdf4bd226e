// Launches of both products, for matrices and convolutions.
#pragma once

#include "cuda/gemm.h"
#include "cuda/join_kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/mma_kernel.cuh"
#include "cuda/wgmma_kernel.cuh"

namespace dlperf::cuda {

struct Call {
    const char* name;
    std::string what;
    const Device& device;
};

template <class T, int BlockM, int BlockN, class A, class B, class Place>
void launch_mma(const Call& call, const MmaProblem<T, A, B, Place>& p) {
    constexpr int bytes = mma_shared_bytes<BlockM, BlockN>();
    static_assert(bytes >= kMmaThreads / kWarp * kStageFloats * 4, "the ring must hold the staging");
    launch<mma_kernel<T, BlockM, BlockN, A, B, Place>>(call.name, call.what, p.schedule.units(), kMmaThreads, bytes,
                                                       call.device.stream, p);
}

template <class T, class A, class B, class Place>
void launch_mma(const Call& call, const Plan& plan, const MmaProblem<T, A, B, Place>& p) {
    if (plan.block_m == 64)
        launch_mma<T, 64, 64>(call, p);
    else if (plan.block_n == 64)
        launch_mma<T, 128, 64>(call, p);
    else
        launch_mma<T, 128, 128>(call, p);
}

template <class T, int BlockN, class Source, class Place>
void launch_wgmma(const Call& call, const WgmmaProblem<Source, Place>& p) {
    constexpr int together = cluster_of(BlockN);
    const int units = p.schedule.units(), most = ceil_div(call.device.processors - together + 1, together);
    launch<wgmma_kernel<T, BlockN, Source, Place>, together>(
        call.name, call.what, int64_t(units < most ? units : most) * together, kWgmmaThreads,
        WgmmaShape<BlockN>::shared_bytes, call.device.stream, p);
}

template <class T, class Source, class Place>
void launch_wgmma(const Call& call, const Plan& plan, const WgmmaProblem<Source, Place>& p) {
    if (plan.block_n == 64)
        launch_wgmma<T, 64>(call, p);
    else if (plan.block_n == 128)
        launch_wgmma<T, 128>(call, p);
    else
        launch_wgmma<T, 256>(call, p);
}

template <class T, class Place>
void join_parts(const Call& call, const Plan& plan, const Schedule& schedule, const Place& place, const Epilogue& e) {
    if (plan.parts == 1) return;
    const Join<Place> p = {schedule, plan.block_m, plan.block_n, plan.cluster(), place, e};
    launch<join_kernel<T, Place>>(call.name, call.what, ceil_div<int64_t>(p.chunks(), 256), 256, 0, call.device.stream,
                                  p);
}

}  // namespace dlperf::cuda

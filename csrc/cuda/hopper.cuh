// What compute capability 9.0 adds: mbarriers, bulk tensor copies (TMA), register budgets of warpgroups.
#pragma once

#include "cuda/ptx.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DLPERF_SM90A
#else
#define DLPERF_PORTABLE  // kernels that 9.0 has its own for
#endif

namespace dlperf::cuda {

#ifdef DLPERF_PORTABLE
constexpr bool kIsPortable = true;
#else
constexpr bool kIsPortable = false;
#endif

// A tensor map as the driver encodes it; kernels take it as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

DLPERF_DEVICE void barrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
DLPERF_DEVICE void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DLPERF_DEVICE void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives at the barrier of the cluster's block `rank`, which lies at the same address.
DLPERF_DEVICE void barrier_arrive(uint32_t barrier, int rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n"
        "}\n" ::"r"(barrier),
        "r"(rank)
        : "memory");
}

// All threads of a cluster's blocks.
DLPERF_DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Arrives and announces the bytes that copies will bring.
DLPERF_DEVICE void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Until the phase of this parity is over.
DLPERF_DEVICE void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\n"
        "bra WAIT;\n"
        "DONE:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// A box whose first element is at (c0, c1, c2), innermost first; what lies outside of the tensor is zero.
DLPERF_DEVICE void load_box(uint32_t to, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
}

DLPERF_DEVICE void load_box(uint32_t to, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2, int c3) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}],"
        " [%2];" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
}

// im2col mode: channels from c on of the pixels that follow (w, h, n) in the map's bounding box, each moved by
// (offset_w, offset_h).
DLPERF_DEVICE void load_pixels(uint32_t to, const TensorMap& map, uint32_t barrier, int c, int w, int h, int n,
                               int offset_w, int offset_h) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(n), "h"(uint16_t(offset_w)), "h"(uint16_t(offset_h))
        : "memory");
}

// The same into all of a cluster's first `blocks` blocks, at the same addresses, each told by its own barrier.
DLPERF_DEVICE void load_box_to_all(uint32_t to, const TensorMap& map, uint32_t barrier, int blocks, int c0, int c1,
                                   int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "h"(uint16_t((1 << blocks) - 1))
        : "memory");
}

DLPERF_DEVICE void load_pixels_to_all(uint32_t to, const TensorMap& map, uint32_t barrier, int blocks, int c, int w,
                                      int h, int n, int offset_w, int offset_h) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(to),
        "l"(&map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(n), "h"(uint16_t(offset_w)), "h"(uint16_t(offset_h)),
        "h"(uint16_t((1 << blocks) - 1))
        : "memory");
}

DLPERF_DEVICE void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

template <int Registers>
DLPERF_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
DLPERF_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Arrives at sync_threads' barrier without waiting there.
DLPERF_DEVICE void arrive_threads(int number, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// A barrier of `threads` threads; number 0 is sync_block's.
DLPERF_DEVICE void sync_threads(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace dlperf::cuda

// Runs CUDA kernels on the CPU, slowly and in one thread, so that tests see their results without a GPU: a block's
// threads are fibers that give way to one another at barriers. Instructions are emulated from their documentation; what
// only hardware has (timing, memory order, bank conflicts) is not.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define DLPERF_SM90A
#define DLPERF_PORTABLE

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

struct Copy {
    uint32_t to;
    const void* from;
    bool there;
};

struct Meeting {  // a barrier of threads
    int arrived = 0, generation = 0;
};

struct PhaseBarrier {  // an mbarrier
    int count = 0, pending = 0, bytes = 0;
    unsigned phase = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
    std::deque<std::vector<std::function<void()>>> products;  // of wgmma, by committed group
    std::vector<std::function<void()>> open_products;
};

constexpr uint32_t kSharedStart = 1024;
constexpr size_t kStack = 256 * 1024;

struct Block {
    std::vector<unsigned char> shared;
    unsigned char* base = nullptr;
    std::vector<Fiber> fibers;
    int current = 0;
    ucontext_t scheduler;
    std::function<void()> body;
    int left = 0;  // threads that have not ended
    Meeting meeting[16];
    std::vector<Meeting> warps;
    std::vector<uint32_t> slots;  // of warps' exchanges, 8 words a lane
    std::map<uint32_t, PhaseBarrier> barriers;
};

inline Block* block = nullptr;
inline std::vector<Block*> cluster;  // the blocks that run together, by rank
inline Meeting cluster_meeting;
inline long idle = 0;

inline void fail(const char* why) {
    std::fprintf(stderr, "emulator: %s (block %u, thread %d)\n", why, blockIdx.x, block->current);
    std::exit(3);
}

inline void progress() {
    idle = 0;
}

inline void give_way() {
    if (++idle > 4 * long(block->fibers.size() * cluster.size()) + 64) fail("all threads wait: deadlock");
    const int me = block->current;
    swapcontext(&block->fibers[me].context, &block->scheduler);
}

inline void meet(Meeting& m, int threads) {
    progress();
    const int generation = m.generation;
    if (++m.arrived == threads) {
        m.arrived = 0;
        ++m.generation;
    } else {
        while (m.generation == generation) give_way();
    }
    progress();
}

inline int lane() {
    return block->current % 32;
}
inline int warp() {
    return block->current / 32;
}
inline void meet_warp() {
    meet(block->warps[warp()], 32);
}
inline uint32_t* slot(int of_lane) {
    return &block->slots[size_t(warp() * 32 + of_lane) * 8];
}

inline unsigned char* shared_at(uint32_t address, uint32_t bytes) {
    if (address < kSharedStart || address - kSharedStart + bytes > block->shared.size() - 1024)
        fail("an access outside of shared memory");
    return block->base + (address - kSharedStart);
}

inline void enter() {
    block->body();
    const Fiber& f = block->fibers[block->current];
    if (!f.products.empty() || !f.open_products.empty()) fail("the kernel ended before its products");
    block->fibers[block->current].done = true;
    progress();
    swapcontext(&block->fibers[block->current].context, &block->scheduler);
}

inline std::unique_ptr<Block> make_block(int threads, int shared_bytes, const std::function<void()>& kernel,
                                         std::vector<Fiber>&& fibers) {
    std::unique_ptr<Block> state(new Block);
    state->shared.assign(size_t(shared_bytes) + 1024, 0xFF);  // NaN in every format
    state->base =
        reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(state->shared.data()) + 127) & ~uintptr_t(127));
    state->fibers = std::move(fibers);
    state->body = kernel;
    state->left = threads;
    state->warps.resize((threads + 31) / 32);
    state->slots.resize(size_t(threads) * 8);
    for (Fiber& f : state->fibers) {
        f.done = false;
        f.groups.clear();
        f.open.clear();
        f.products.clear();
        f.open_products.clear();
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = kStack;
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
    }
    return state;
}

// kernel: a call of the kernel with its arguments. together: blocks of a cluster.
inline void launch(int grid, int threads, int shared_bytes, int together, const std::function<void()>& kernel) {
    gridDim = {unsigned(grid), 1, 1};
    blockDim = {unsigned(threads), 1, 1};
    std::vector<std::vector<Fiber>> stacks(together);
    for (auto& fibers : stacks) {
        fibers.resize(threads);
        for (Fiber& f : fibers) f.stack.reset(new char[kStack]);
    }
    for (int first = 0; first < grid; first += together) {
        std::vector<std::unique_ptr<Block>> blocks;
        cluster.clear();
        for (auto& fibers : stacks) {
            blocks.push_back(make_block(threads, shared_bytes, kernel, std::move(fibers)));
            cluster.push_back(blocks.back().get());
        }
        for (int left = threads * together; left > 0;) {
            for (int rank = 0; rank < together; ++rank) {
                block = cluster[rank];
                blockIdx = {unsigned(first + rank), 0, 0};
                for (int t = 0; t < threads; ++t) {
                    Fiber& f = block->fibers[t];
                    if (f.done) continue;
                    block->current = t;
                    threadIdx = {unsigned(t), 0, 0};
                    swapcontext(&block->scheduler, &f.context);
                    if (f.done) --left, --block->left;
                }
            }
        }
        for (int rank = 0; rank < together; ++rank) stacks[rank] = std::move(blocks[rank]->fibers);
        block = nullptr;
    }
}

// action() for the cluster's block `rank`, which must still run.
template <class Action>
inline void at_rank(int rank, const Action& action) {
    if (rank < 0 || rank >= int(cluster.size())) fail("no such block in the cluster");
    Block* own = block;
    block = cluster[rank];
    if (block->left == 0) fail("a block of the cluster has ended");
    action();
    block = own;
}

inline void run_copies(const std::vector<Copy>& copies) {
    for (const Copy& c : copies) {
        if (c.to % 16 != 0 || reinterpret_cast<uintptr_t>(c.from) % 16 != 0) fail("a misaligned copy");
        if (c.there)
            std::memcpy(shared_at(c.to, 16), c.from, 16);
        else
            std::memset(shared_at(c.to, 16), 0, 16);
    }
}

}  // namespace emulator

inline float rsqrtf(float x) {
    return 1.0f / std::sqrt(x);
}
template <class T>
inline T __ldg(const T* p) {
    return *p;
}

inline void sincospif(float x, float* sine, float* cosine) {
    *sine = float(std::sin(double(x) * 3.14159265358979323846));
    *cosine = float(std::cos(double(x) * 3.14159265358979323846));
}

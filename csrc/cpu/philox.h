// The random-number contract, the same on every backend: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011) on a counter that names what is drawn. docs/math/random.md defines it.
// Plain C++17 for host and device; everything has internal linkage, so that kernels of any instruction set may use it.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DLPERF_HOST_DEVICE __host__ __device__
#else
#define DLPERF_HOST_DEVICE
#endif

namespace dlperf {

// What a draw is for: no two purposes share random words under one seed, offset and step.
enum class RandomStream : uint32_t {
    user = 0,       // fills
    dropout = 1,    // element = storage-order index, sample = step = 0
    diffusion = 2,  // element = index inside the sample, sample = index in the batch, step = sampling step
    attention = 3,  // element = index in the logical [batch, heads, queries, keys] of the probabilities
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct PhiloxKey {
    uint32_t word[2];
};

struct PhiloxWords {
    uint32_t word[4];
};

// The two 64-bit halves of the 128-bit counter: low = words 0 and 1, high = words 2 and 3.
struct PhiloxCounter {
    uint64_t low, high;
};

DLPERF_HOST_DEVICE static inline PhiloxKey philox_key(uint64_t seed) {
    return {{uint32_t(seed), uint32_t(seed >> 32)}};
}

// The counter of elements 4 * block to 4 * block + 3.
DLPERF_HOST_DEVICE static inline PhiloxCounter philox_counter(uint64_t block, uint32_t sample, uint32_t step,
                                                              RandomStream stream, uint64_t offset) {
    return {(uint64_t(sample) << 32) + block, (uint64_t(uint32_t(stream)) << 32) + step + offset};
}

DLPERF_HOST_DEVICE static inline PhiloxWords philox(PhiloxKey key, PhiloxCounter counter) {
    uint32_t c0 = uint32_t(counter.low), c1 = uint32_t(counter.low >> 32);
    uint32_t c2 = uint32_t(counter.high), c3 = uint32_t(counter.high >> 32);
    uint32_t k0 = key.word[0], k1 = key.word[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const uint64_t p0 = uint64_t(kPhiloxMultiplier0) * c0, p1 = uint64_t(kPhiloxMultiplier1) * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
        c1 = uint32_t(p1);
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c3 = uint32_t(p0);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

// [0, 1): the top 24 bits of a word, each value exact in float32.
DLPERF_HOST_DEVICE static inline float philox_uniform(uint32_t word) {
    return float(word >> 8) * 0x1p-24f;
}

// Dropout keeps an element where the top 24 bits of its word are at least this: a share p of all words lies below.
DLPERF_HOST_DEVICE static inline uint32_t dropout_threshold(double p) {
    const double scaled = p * 0x1p24;
    const uint32_t floored = uint32_t(scaled);
    return floored + (double(floored) < scaled ? 1u : 0u);
}

}  // namespace dlperf

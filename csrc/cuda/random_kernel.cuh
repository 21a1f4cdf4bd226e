// Kernels of random.h: eight elements a thread, two Philox blocks.
#pragma once

#include "cuda/math.cuh"
#include "cuda/random.h"

namespace dlperf::cuda {

constexpr int kRandomThreads = 256;

// Box & Muller 1958 on two words
DLPERF_DEVICE void normal_pair(uint32_t w0, uint32_t w1, float& z0, float& z1) {
    const float radius = sqrtf(-2.0f * logf((float(w0 >> 8) + 1.0f) * 0x1p-24f));
    float sine, cosine;
    sincospif(float(w1 >> 8) * 0x1p-23f, &sine, &cosine);
    z0 = radius * cosine, z1 = radius * sine;
}

// Eight normals of elements 4 * block to 4 * block + 7.
DLPERF_DEVICE void normals8(float (&z)[8], PhiloxKey key, PhiloxCounter counter) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const PhiloxWords w = philox(key, {counter.low + half, counter.high});
        normal_pair(w.word[0], w.word[1], z[4 * half], z[4 * half + 1]);
        normal_pair(w.word[2], w.word[3], z[4 * half + 2], z[4 * half + 3]);
    }
}

DLPERF_DEVICE float normal_of(uint64_t element, PhiloxKey key, PhiloxCounter base) {
    const PhiloxWords w = philox(key, {base.low + element / 4, base.high});
    const bool upper = element & 2;
    float z0, z1;
    normal_pair(upper ? w.word[2] : w.word[0], upper ? w.word[3] : w.word[1], z0, z1);
    return element & 1 ? z1 : z0;
}

template <class T>
__global__ void __launch_bounds__(kRandomThreads)
    dropout_kernel(const T* x, const int64_t* seed_offset, T* y, int64_t n, uint32_t threshold, float scale) {
    const int64_t first = (int64_t(blockIdx.x) * kRandomThreads + threadIdx.x) * 8;
    if (first >= n) return;
    const PhiloxKey key = philox_key(uint64_t(seed_offset[0]));
    const PhiloxCounter counter =
        philox_counter(uint64_t(first) / 4, 0, 0, RandomStream::dropout, uint64_t(seed_offset[1]));
    float factor[8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const PhiloxWords w = philox(key, {counter.low + half, counter.high});
#pragma unroll
        for (int i = 0; i < 4; ++i) factor[4 * half + i] = w.word[i] >> 8 >= threshold ? scale : 0.0f;
    }
    // Multiplied by zero, so that NaN and infinity show through.
    if (first + 8 <= n) {
        float value[8];
        load8(value, x + first);
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] *= factor[i];
        store8(y + first, value);
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (first + i < n) y[first + i] = from_float<T>(to_float(x[first + i]) * factor[i]);
    }
}

// T: of the sample; M: of the model's prediction.
template <class T, class M>
__global__ void __launch_bounds__(kRandomThreads) step_kernel(const __grid_constant__ DiffusionCall p) {
    const int64_t chunk = int64_t(blockIdx.x) * kRandomThreads + threadIdx.x, per_sample = p.elements / 8;
    const int64_t sample = chunk / per_sample, element = chunk % per_sample * 8;
    if (sample >= p.samples) return;
    const int64_t at = sample * p.elements + element;
    float x[8], m[8], z[8] = {}, clean[8], out[8];
    load8(x, static_cast<const T*>(p.x) + at);
    load8(m, static_cast<const M*>(p.model) + at);
    if (p.uncond != nullptr) {
        float u[8];
        load8(u, static_cast<const M*>(p.uncond) + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) m[i] = u[i] + p.guidance * (m[i] - u[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const float c = p.x0_from_x * x[i] + p.x0_from_m * m[i];
        clean[i] = c < -p.clip ? -p.clip : c > p.clip ? p.clip : c;  // NaN stays
        out[i] = p.from_x0 * clean[i] + p.from_x * x[i] + p.from_m * m[i];
    }
    if (p.history != nullptr) {
        load8(z, static_cast<const T*>(p.history) + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] += p.from_history * z[i];
    }
    if (p.noise != nullptr) {
        load8(z, static_cast<const T*>(p.noise) + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] += p.sigma * z[i];
    }
    if (p.seed_offset != nullptr) {
        const PhiloxKey key = philox_key(uint64_t(p.seed_offset[0]));
        const PhiloxCounter base = philox_counter(0, p.first_sample + uint32_t(sample), p.step, RandomStream::diffusion,
                                                  uint64_t(p.seed_offset[1]));
        if (p.last) {
            const int64_t positions = p.elements / p.channels;
#pragma unroll 1
            for (int i = 0; i < 8; ++i) {
                const int64_t memory = element + i;
                const float drawn =
                    normal_of(uint64_t(memory % p.channels * positions + memory / p.channels), key, base);
#pragma unroll
                for (int j = 0; j < 8; ++j) z[j] = j == i ? drawn : z[j];  // registers have no run-time index
            }
        } else {
            normals8(z, key, {base.low + uint64_t(element) / 4, base.high});
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] += p.sigma * z[i];
    }
    store8(static_cast<T*>(p.out) + at, out);
    if (p.x0 != nullptr) store8(static_cast<T*>(p.x0) + at, clean);
}

template <class T>
__global__ void __launch_bounds__(kRandomThreads) add_noise_kernel(const __grid_constant__ NoiseCall p) {
    const int64_t chunk = int64_t(blockIdx.x) * kRandomThreads + threadIdx.x, per_sample = p.elements / 8;
    const int64_t sample = chunk / per_sample, at = chunk * 8;
    if (sample >= p.samples) return;
    const int64_t t = p.timesteps[sample];
    const double level = t >= 0 && t < p.steps ? p.alpha_bar[t] : double(NAN);
    const float signal = float(sqrt(level)), spread = float(sqrt(1.0 - level));
    const float by_x = p.velocity ? -spread : signal, by_noise = p.velocity ? signal : spread;
    float x[8], z[8];
    load8(x, static_cast<const T*>(p.x) + at);
    load8(z, static_cast<const T*>(p.noise) + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = by_x * x[i] + by_noise * z[i];
    store8(static_cast<T*>(p.out) + at, x);
}

}  // namespace dlperf::cuda

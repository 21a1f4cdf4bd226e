// Dropout and the steps of diffusion samplers; random numbers by the contract of cpu/philox.h.
#pragma once

#include "cpu/philox.h"
#include "cuda/norm.h"

namespace dlperf::cuda {

void dropout(const void* x, const int64_t* seed_offset, void* y, int64_t n, double p, Storage type,
             const Device& device);

// docs/math/diffusion.md. [samples, elements] in memory order, elements a multiple of 8; with `last`, memory is
// [positions, channels] and draws count [channels, positions].
struct DiffusionCall {
    int64_t samples, elements;
    int channels;
    bool last;
    Storage type, model_type;                          // model_type: type, or any beside float32
    const void *x, *model, *uncond, *noise, *history;  // the last three may be null
    const int64_t* seed_offset;                        // or null
    uint32_t first_sample, step;
    void *out, *x0;  // x0 may be null
    float x0_from_x, x0_from_m, clip, from_x0, from_x, from_m, from_history, sigma, guidance;
};

void diffusion_step(const DiffusionCall& call, const Device& device);

// sqrt(alpha_bar[t]) x + sqrt(1 - alpha_bar[t]) noise, or the velocity. A timestep outside the table of `steps` makes
// its sample NaN: raising would wait for the GPU.
struct NoiseCall {
    int64_t samples, elements;
    Storage type;
    const void *x, *noise;
    const double* alpha_bar;
    const int64_t* timesteps;
    int64_t steps;
    bool velocity;
    void* out;
};

void add_noise(const NoiseCall& call, const Device& device);

}  // namespace dlperf::cuda

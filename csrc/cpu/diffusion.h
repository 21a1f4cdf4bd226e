// One step of a diffusion sampler, and the forward process, elementwise over [samples, elements].
#pragma once

#include <cstdint>

#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

// With the guided prediction m = uncond + guidance * (model - uncond), or model where there is no uncond:
//   x0  = clip(x0_from_x * x + x0_from_m * m, -clip, clip)
//   out = from_x0 * x0 + from_x * x + from_m * m + from_history * history + sigma * noise
// DDPM, DDIM and DPM-Solver++ differ by these coefficients alone: docs/math/diffusion.md.
struct DiffusionCoefficients {
    float x0_from_x, x0_from_m;
    float clip;  // infinity: no clipping
    float from_x0, from_x, from_m, from_history, sigma;
    float guidance;
};

struct DiffusionStep {
    int64_t samples, elements;
    DType dtype;        // x, noise, history, out, x0
    DType model_dtype;  // model, uncond: dtype, or any beside float32
    const void* x;
    const void* model;
    const void* uncond;          // or null
    const void* noise;           // or null
    const void* history;         // or null: the x0 of an earlier step
    const int64_t* seed_offset;  // or null; else noise is made here, by philox.h's contract, stream `diffusion`
    uint32_t first_sample, step;
    void* out;
    void* x0;  // or null
};

// out = sqrt(alpha_bar[t]) * x + sqrt(1 - alpha_bar[t]) * noise for each sample's t; with `velocity`
// out = sqrt(alpha_bar[t]) * noise - sqrt(1 - alpha_bar[t]) * x.
struct AddNoise {
    int64_t samples, elements;
    DType dtype;
    const void* x;
    const void* noise;
    const double* alpha_bar;
    const int64_t* timesteps;  // each inside alpha_bar: checked by the caller
    bool velocity;
    void* out;
};

struct DiffusionTable {
    void (*step)(const DiffusionStep&, const DiffusionCoefficients&);
    void (*add_noise)(const AddNoise&);
};

}  // namespace dlperf

DLPERF_DECLARE_TABLE(dlperf::DiffusionTable, diffusion_table)

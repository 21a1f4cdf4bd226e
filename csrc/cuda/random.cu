#include "cuda/launch.cuh"
#include "cuda/random_kernel.cuh"
#include "cuda/storage.cuh"

namespace dlperf::cuda {
namespace {

int64_t blocks_for(int64_t elements) {
    return ceil_div<int64_t>(elements, 8 * kRandomThreads);
}

template <class T, class M>
void step_of(const DiffusionCall& p, const Device& device) {
    launch<step_kernel<T, M>>("diffusion_step", std::to_string(p.samples) + " x " + std::to_string(p.elements),
                              blocks_for(p.samples * p.elements), kRandomThreads, 0, device.stream, p);
}

}  // namespace

void dropout(const void* x, const int64_t* seed_offset, void* y, int64_t n, double p, Storage type,
             const Device& device) {
    const float scale = p < 1.0 ? float(1.0 / (1.0 - p)) : 0.0f;
    DLPERF_STORAGE_SWITCH(type, (launch<dropout_kernel<T>>("dropout", std::to_string(n), blocks_for(n), kRandomThreads,
                                                           0, device.stream, static_cast<const T*>(x), seed_offset,
                                                           static_cast<T*>(y), n, dropout_threshold(p), scale)))
}

void diffusion_step(const DiffusionCall& p, const Device& device) {
    if (p.type == Storage::f32) {
        DLPERF_STORAGE_SWITCH(p.model_type, (step_of<float, T>(p, device)))
    } else {
        DLPERF_STORAGE_SWITCH(p.type, (step_of<T, T>(p, device)))
    }
}

void add_noise(const NoiseCall& p, const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, (launch<add_noise_kernel<T>>(
                                      "add_noise", std::to_string(p.samples) + " x " + std::to_string(p.elements),
                                      blocks_for(p.samples * p.elements), kRandomThreads, 0, device.stream, p)))
}

}  // namespace dlperf::cuda

#include "cuda/elementwise_kernel.cuh"

#include "cuda/launch.cuh"
#include "cuda/storage.cuh"

namespace dlperf::cuda {
namespace {

int64_t blocks_for(int64_t n) {
    return ceil_div<int64_t>(n, 8 * kElementThreads);
}

}  // namespace

void activation_forward(const void* x, void* y, int64_t n, Activation kind, Storage type, const Device& device) {
    DLPERF_STORAGE_SWITCH(
        type, (launch<activation_kernel<T>>("activation", std::to_string(n), blocks_for(n), kElementThreads, 0,
                                            device.stream, static_cast<const T*>(x), static_cast<T*>(y), n, kind)))
}

void activation_backward(const void* gy, const void* x, void* gx, int64_t n, Activation kind, Storage type,
                         const Device& device) {
    DLPERF_STORAGE_SWITCH(
        type, (launch<activation_gradient_kernel<T>>("activation_backward", std::to_string(n), blocks_for(n),
                                                     kElementThreads, 0, device.stream, static_cast<const T*>(gy),
                                                     static_cast<const T*>(x), static_cast<T*>(gx), n, kind)))
}

void channel_sum(const void* x, float* sums, int64_t rows, int channels, int parts, Storage type,
                 const Device& device) {
    ChannelNorm p = {};
    p.images = 1, p.channels = channels, p.positions = rows, p.parts = parts, p.x = x;
    const int64_t blocks = int64_t(channel_tile(channels).blocks) * parts;
    const std::string what = std::to_string(rows) + " x " + std::to_string(channels);
    DLPERF_STORAGE_SWITCH(type,
                          (launch<channel_sum_kernel<T>>("channel_sum", what, blocks, 256, 0, device.stream, p, sums)))
}

void batch_norm_update(void* running_mean, void* running_var, const float* mean, const float* var, int channels,
                       double momentum, double count, Storage type, const Device& device) {
    DLPERF_STORAGE_SWITCH(
        type, (launch<update_kernel<T>>("batch_norm_update", std::to_string(channels),
                                        ceil_div(channels, kElementThreads), kElementThreads, 0, device.stream,
                                        static_cast<T*>(running_mean), static_cast<T*>(running_var), mean, var,
                                        channels, float(momentum), float(count / (count - 1.0)))))
}

}  // namespace dlperf::cuda

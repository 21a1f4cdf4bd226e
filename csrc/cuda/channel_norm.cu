#include "cuda/channel_join_kernel.cuh"
#include "cuda/launch.cuh"
#include "cuda/storage.cuh"

namespace dlperf::cuda {
namespace {

std::string describe(const ChannelNorm& p) {
    return std::to_string(p.images) + " x " + std::to_string(p.positions) + " x " + std::to_string(p.channels);
}

int64_t blocks_of(const ChannelNorm& p) {
    return int64_t(channel_tile(p.channels).blocks) * p.images * p.parts;
}

}  // namespace

void channel_moments(const ChannelNorm& p, float* means, float* squares, const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, (launch<moments_kernel<T>>("norm moments", describe(p), blocks_of(p), 256, 0,
                                                             device.stream, p, means, squares)))
}

void join_batch_moments(const ChannelNorm& p, const float* means, const float* squares, float* mean, float* var,
                        const Device& device) {
    launch<join_batch_moments_kernel>("batch_norm join", describe(p), ceil_div(p.channels, 32), 256, 0, device.stream,
                                      p, means, squares, mean, var);
}

void join_group_moments(const ChannelNorm& p, const float* means, const float* squares, float* mean, float* rstd,
                        const Device& device) {
    launch<join_group_moments_kernel>("group_norm join", describe(p), ceil_div(p.images * p.groups, 8), 256, 0,
                                      device.stream, p, means, squares, mean, rstd);
}

void channel_normalize(const ChannelNorm& p, void* y, const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, (launch<normalize_kernel<T>>("norm normalize", describe(p), blocks_of(p), 256, 0,
                                                               device.stream, p, static_cast<T*>(y))))
}

void channel_sums(const ChannelNorm& p, const void* gy, const void* y, float* g_sums, float* hat_sums,
                  const Device& device) {
    DLPERF_STORAGE_SWITCH(
        p.type, (launch<sums_kernel<T>>("norm sums", describe(p), blocks_of(p), 256, 0, device.stream, p,
                                        static_cast<const T*>(gy), static_cast<const T*>(y), g_sums, hat_sums)))
}

void join_batch_sums(const ChannelNorm& p, const float* g_sums, const float* hat_sums, int64_t rows, double count,
                     void* gweight, void* gbias, float* g_mean, float* hat_mean, const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, (launch<join_batch_sums_kernel<T>>(
                                      "norm sums join", describe(p), ceil_div(p.channels, 32), 256, 0, device.stream, p,
                                      g_sums, hat_sums, rows, count, gweight, gbias, g_mean, hat_mean)))
}

void join_group_sums(const ChannelNorm& p, const float* g_sums, const float* hat_sums, float* g_by_channel,
                     float* hat_by_channel, float* g_mean, float* hat_mean, const Device& device) {
    DLPERF_STORAGE_SWITCH(
        p.type, (launch<join_group_sums_kernel<T>>("group_norm sums join", describe(p),
                                                   ceil_div(p.images * p.groups, 8), 256, 0, device.stream, p, g_sums,
                                                   hat_sums, g_by_channel, hat_by_channel, g_mean, hat_mean)))
}

void channel_gradient(const ChannelNorm& p, const void* gy, const void* y, const float* g_mean, const float* hat_mean,
                      void* gx, void* gresidual, const Device& device) {
    DLPERF_STORAGE_SWITCH(
        p.type, (launch<gradient_kernel<T>>("norm gradient", describe(p), blocks_of(p), 256, 0, device.stream, p,
                                            static_cast<const T*>(gy), static_cast<const T*>(y), g_mean, hat_mean,
                                            static_cast<T*>(gx), static_cast<T*>(gresidual))))
}

}  // namespace dlperf::cuda

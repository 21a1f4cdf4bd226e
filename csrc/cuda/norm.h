// Norms: layer and RMS norm over rows; batch and group norm over channels of NHWC memory. Sizes of a row, or channels,
// are multiples of 8.
#pragma once

#include "cuda/plan.h"

namespace dlperf::cuda {

enum class Storage : int { f32 = 0, bf16 = 1, f16 = 2 };

constexpr int kLongestRow = 8192;

// Rows of `columns` values. parameters_f32: weight and bias are float32 whatever x is. stats [mean; rstd] by row, or
// [rstd] with rms.
struct RowNorm {
    int64_t rows;
    int columns;
    bool rms, parameters_f32;
    Storage type;
    float eps;
    const void *x, *weight, *bias;
    float* stats;
};

void row_norm_forward(const RowNorm& call, void* y, const Device& device);

// Blocks of the backward kernel: each writes one row of partial sums, float32 [parts, columns].
int row_norm_parts(int64_t rows, int columns, int processors);

// gx, weight_sums, bias_sums: null where not wanted.
void row_norm_backward(const RowNorm& call, const void* gy, void* gx, float* weight_sums, float* bias_sums, int parts,
                       const Device& device);

// out [columns] = sums over the parts, in order.
void total(const float* sums, void* out, int64_t parts, int columns, Storage type, const Device& device);

// [images, positions, channels]; batch norm: one image of all positions. Reductions leave float32 [parts, images,
// channels] that a second kernel adds in order.
struct ChannelNorm {
    int images, channels;
    int64_t positions;
    int parts, groups;  // groups 0: one statistic a channel for all images
    bool parameters_f32;
    Storage type;
    float eps;
    Activation activation;
    const void *x, *residual, *weight, *bias;
    const float *mean, *second;  // by statistic; second: the variance (batch norm) or rstd (group norm)
};

// How positions are shared out: channels of a block in chunks of 8, threads across, rows of threads.
struct ChannelTile {
    int chunks, width, rows, blocks;
};

DLPERF_INDEX ChannelTile channel_tile(int channels) {
    const int chunks = channels / 8;
    int width = 1;
    while (width < chunks && width < 32) width *= 2;
    return {chunks, width, 256 / width, (chunks + width - 1) / width};
}

constexpr int kUnrolled = 4;  // rows that a thread reads at a time

// Positions [begin, end) of a part.
struct Span {
    int64_t begin, end;
};

DLPERF_INDEX Span part_span(int64_t positions, int parts, int part) {
    const int64_t length = (positions + parts - 1) / parts, begin = part * length;
    const int64_t end = begin + length < positions ? begin + length : positions;
    return {begin < positions ? begin : positions, end};
}

// reduces: parts cost a second step, so no more than fill the device.
inline int channel_parts(int images, int64_t positions, int channels, int processors, bool reduces) {
    const ChannelTile t = channel_tile(channels);
    const int64_t steps = ceil_div<int64_t>(positions, int64_t(t.rows) * kUnrolled);
    const int64_t wanted = ceil_div<int64_t>(int64_t(processors) * (reduces ? 4 : 16), int64_t(t.blocks) * images);
    const int64_t parts = steps < wanted ? steps : wanted;
    return int(parts < 1 ? 1 : parts);
}

void channel_moments(const ChannelNorm& call, float* means, float* squares, const Device& device);
// Over parts and images: mean and biased variance of each channel.
void join_batch_moments(const ChannelNorm& call, const float* means, const float* squares, float* mean, float* var,
                        const Device& device);
// mean and rstd of each image's groups.
void join_group_moments(const ChannelNorm& call, const float* means, const float* squares, float* mean, float* rstd,
                        const Device& device);
void channel_normalize(const ChannelNorm& call, void* y, const Device& device);
// Sums of g and of g times the normalised input; y: relu's output, or null.
void channel_sums(const ChannelNorm& call, const void* gy, const void* y, float* g_sums, float* hat_sums,
                  const Device& device);
// By channel, over `rows` rows of sums: the parameters' gradients and the means that gx subtracts; outputs may be null.
void join_batch_sums(const ChannelNorm& call, const float* g_sums, const float* hat_sums, int64_t rows, double count,
                     void* gweight, void* gbias, float* g_mean, float* hat_mean, const Device& device);
// By image: each channel's sums over the parts, and each group's means of weight g and weight g hat.
void join_group_sums(const ChannelNorm& call, const float* g_sums, const float* hat_sums, float* g_by_channel,
                     float* hat_by_channel, float* g_mean, float* hat_mean, const Device& device);
// g_mean, hat_mean: null where the statistics are constants. gx, gresidual may be null.
void channel_gradient(const ChannelNorm& call, const void* gy, const void* y, const float* g_mean,
                      const float* hat_mean, void* gx, void* gresidual, const Device& device);

}  // namespace dlperf::cuda

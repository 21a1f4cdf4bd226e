#include "cuda/moments.h"

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace dlperf::cuda {
namespace {

struct Entries {
    const float *means, *squares;
    int columns, entries, group;  // a block joins `group` of them
    int64_t rows, step;
    float *mean, *second;
    bool last;  // second: the variance, not the squared deviations
};

__global__ void __launch_bounds__(256) join_moments_kernel(const __grid_constant__ Entries p) {
    __shared__ double shared[8][32];
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32, blocks = ceil_div(p.columns, 32);
    const int c = int(blockIdx.x) % blocks * 32 + lane, which = int(blockIdx.x) / blocks;
    const int begin = which * p.group, end = begin + p.group < p.entries ? begin + p.group : p.entries;
    auto count = [&](int i) { return double(p.rows - i * p.step < p.step ? p.rows - i * p.step : p.step); };
    const int64_t left = p.rows - begin * p.step, most = p.group * p.step;
    const double total = double(left < most ? left : most);
    double sum = 0.0;
    if (c < p.columns)
        for (int i = begin + row; i < end; i += 8) sum += count(i) * p.means[int64_t(i) * p.columns + c];
    const double center = column_sum(sum, shared, row, lane) / total;
    double spread = 0.0;
    if (c < p.columns)
        for (int i = begin + row; i < end; i += 8) {
            const double delta = p.means[int64_t(i) * p.columns + c] - center;
            spread += p.squares[int64_t(i) * p.columns + c] + count(i) * delta * delta;
        }
    spread = column_sum(spread, shared, row, lane);
    if (row == 0 && c < p.columns) {
        p.mean[int64_t(which) * p.columns + c] = float(center);
        p.second[int64_t(which) * p.columns + c] = float(p.last ? spread / total : spread);
    }
}

}  // namespace

void join_moments(const MomentsTarget& t, float* mean, float* var, const Device& device) {
    const int entries = t.entries(), group = moment_group(entries), groups = ceil_div(entries, group);
    const int64_t size = int64_t(entries) * t.columns, blocks = ceil_div(t.columns, 32);
    const std::string what = std::to_string(t.rows) + " x " + std::to_string(t.columns);
    Entries p = {t.out, t.out + size, t.columns, entries, group, t.rows, t.step, mean, var, group == entries};
    if (groups > 1) {
        p.mean = t.out + 2 * size, p.second = p.mean + int64_t(groups) * t.columns;
        launch<join_moments_kernel>("join_moments", what, blocks * groups, 256, 0, device.stream, p);
        p = {p.mean, p.second, t.columns, groups, groups, t.rows, int64_t(t.step) * group, mean, var, true};
    }
    launch<join_moments_kernel>("join_moments", what, blocks, 256, 0, device.stream, p);
}

}  // namespace dlperf::cuda

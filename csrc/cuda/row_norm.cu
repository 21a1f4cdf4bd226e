#include "cuda/launch.cuh"
#include "cuda/row_norm_kernel.cuh"
#include "cuda/storage.cuh"

namespace dlperf::cuda {
namespace {

std::string describe(const RowNorm& p) {
    return std::to_string(p.rows) + " x " + std::to_string(p.columns);
}

// body.run<Warps, Chunks>() with the fewest registers that hold a row.
template <class Body>
void with_row(int columns, const Body& body) {
    const int chunks = ceil_div(columns, 8 * kWarp);
    if (chunks <= 1)
        body.template run<1, 1>();
    else if (chunks == 2)
        body.template run<1, 2>();
    else if (chunks == 3)
        body.template run<1, 3>();
    else if (chunks == 4)
        body.template run<1, 4>();
    else if (chunks <= 8)
        body.template run<8, 1>();
    else if (chunks <= 16)
        body.template run<8, 2>();
    else
        body.template run<8, 4>();
}

template <class T>
struct Forward {
    const RowNorm& p;
    void* y;
    const Device& device;
    template <int Warps, int Chunks>
    void run() const {
        launch<row_norm_kernel<T, Warps, Chunks>>("row_norm_forward", describe(p), ceil_div<int64_t>(p.rows, 8 / Warps),
                                                  kNormThreads, 0, device.stream, p, static_cast<T*>(y));
    }
};

template <class T>
struct Backward {
    const RowNorm& p;
    const void* gy;
    void* gx;
    float *weight_sums, *bias_sums;
    int parts;
    const Device& device;
    template <int Warps, int Chunks>
    void run() const {
        launch<row_norm_gradient_kernel<T, Warps, Chunks>>(
            "row_norm_backward", describe(p), parts, kNormThreads, Warps == 1 ? p.columns * 8 : 0, device.stream, p,
            static_cast<const T*>(gy), static_cast<T*>(gx), weight_sums, bias_sums);
    }
};

}  // namespace

void row_norm_forward(const RowNorm& p, void* y, const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, with_row(p.columns, Forward<T>{p, y, device}))
}

int row_norm_parts(int64_t rows, int columns, int processors) {
    const int64_t teams = columns <= 4 * 8 * kWarp ? 8 : 1;
    const int64_t needed = ceil_div(rows, teams), most = int64_t(processors) * 2;
    return int(needed < most ? needed : most);
}

void row_norm_backward(const RowNorm& p, const void* gy, void* gx, float* weight_sums, float* bias_sums, int parts,
                       const Device& device) {
    DLPERF_STORAGE_SWITCH(p.type, with_row(p.columns, Backward<T>{p, gy, gx, weight_sums, bias_sums, parts, device}))
}

void total(const float* sums, void* out, int64_t parts, int columns, Storage type, const Device& device) {
    DLPERF_STORAGE_SWITCH(
        type, (launch<total_kernel<T>>("total", std::to_string(columns), ceil_div(columns, 32), kNormThreads, 0,
                                       device.stream, sums, static_cast<T*>(out), parts, columns)))
}

}  // namespace dlperf::cuda

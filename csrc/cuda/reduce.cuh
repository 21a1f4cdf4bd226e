// Sums over a block, and parameters of either storage.
#pragma once

#include "cuda/math.cuh"

namespace dlperf::cuda {

// The sum over `Warps` warps (1: the thread's own warp), the same in every thread. scratch: Warps floats.
template <int Warps>
DLPERF_DEVICE float group_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (Warps == 1) return x;
    sync_block();
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
    sync_block();
    x = 0.0f;
#pragma unroll
    for (int i = 0; i < Warps; ++i) x += scratch[i];
    return x;
}

// Sums of 8 rows of threads for 32 columns, in row 0.
DLPERF_DEVICE double column_sum(double x, double (&shared)[8][32], int row, int lane) {
    sync_block();
    shared[row][lane] = x;
    sync_block();
    x = 0.0;
    for (int i = 0; i < 8; ++i) x += shared[i][lane];
    return x;
}

// Eight values of a vector that is float32 or of T.
template <class T>
DLPERF_DEVICE void load_parameters(float (&out)[8], const void* from, int at, bool is_f32) {
    if (is_f32)
        load8(out, static_cast<const float*>(from) + at);
    else
        load8(out, static_cast<const T*>(from) + at);
}

template <class T>
DLPERF_DEVICE float load_parameter(const void* from, int at, bool is_f32) {
    return is_f32 ? static_cast<const float*>(from)[at] : to_float(static_cast<const T*>(from)[at]);
}

template <class T>
DLPERF_DEVICE void store_parameter(void* to, int at, float value, bool is_f32) {
    if (is_f32)
        static_cast<float*>(to)[at] = value;
    else
        static_cast<T*>(to)[at] = from_float<T>(value);
}

}  // namespace dlperf::cuda

#pragma once

#include "cuda/norm.h"
#include "cuda/ptx.cuh"

// Runs `...` with `T` naming the type of the run-time Storage.
#define DLPERF_STORAGE_SWITCH(storage, ...)   \
    switch (storage) {                        \
        case ::dlperf::cuda::Storage::f32: {  \
            using T = float;                  \
            __VA_ARGS__;                      \
            break;                            \
        }                                     \
        case ::dlperf::cuda::Storage::bf16: { \
            using T = ::dlperf::cuda::bf16;   \
            __VA_ARGS__;                      \
            break;                            \
        }                                     \
        case ::dlperf::cuda::Storage::f16: {  \
            using T = ::dlperf::cuda::f16;    \
            __VA_ARGS__;                      \
            break;                            \
        }                                     \
    }

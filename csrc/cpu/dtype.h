// Storage types. Arithmetic is float32 everywhere; these are how values lie in memory.
#pragma once

#include <cstdint>

namespace dlperf {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2 };

struct bf16_t {
    uint16_t bits;
};

struct f16_t {
    uint16_t bits;
};

}  // namespace dlperf

// Runs `...` with `T` naming the storage type of the run-time value `dtype`.
#define DLPERF_DTYPE_SWITCH(dtype, ...) \
    switch (dtype) {                    \
        case ::dlperf::DType::f32: {    \
            using T = float;            \
            __VA_ARGS__;                \
            break;                      \
        }                               \
        case ::dlperf::DType::bf16: {   \
            using T = ::dlperf::bf16_t; \
            __VA_ARGS__;                \
            break;                      \
        }                               \
        case ::dlperf::DType::f16: {    \
            using T = ::dlperf::f16_t;  \
            __VA_ARGS__;                \
            break;                      \
        }                               \
    }

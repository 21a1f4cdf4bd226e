// csrc/cuda/launch.cuh on the emulator.
#pragma once

#include <string>

#include "cuda/error.h"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

constexpr const char* kToolkit = "emulated";

template <auto Kernel, class... Arguments>
void launch(const char*, const std::string&, int64_t blocks, int threads, int shared_bytes, void*,
            const Arguments&... arguments) {
    emulator::launch(int(blocks), threads, shared_bytes, [&] { Kernel(arguments...); });
}

inline std::string find_device_error() {
    return "";
}

inline TensorMap encode(const TensorMapParameters& p) {
    if (why_not(p) != nullptr) throw LaunchError(std::string("tensor map: ") + why_not(p));
    return {p};
}

}  // namespace dlperf::cuda

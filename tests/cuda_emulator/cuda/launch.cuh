// csrc/cuda/launch.cuh on the emulator.
#pragma once

#include <string>

#include "cuda/error.h"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

constexpr const char* kToolkit = "emulated";

template <auto Kernel, int Cluster = 1, class... Arguments>
void launch(const char*, const std::string&, int64_t blocks, int threads, int shared_bytes, void*,
            const Arguments&... arguments) {
    if (blocks % Cluster != 0) throw LaunchError("the grid is not of whole clusters");
    emulator::launch(int(blocks), threads, shared_bytes, Cluster, [&] { Kernel(arguments...); });
}

inline std::string find_device_error() {
    return "";
}

inline TensorMap encode(const TensorMapParameters& p) {
    if (why_not(p) != nullptr) throw LaunchError(std::string("tensor map: ") + why_not(p));
    return {p};
}

}  // namespace dlperf::cuda

#pragma once

#include <string>

namespace dlperf::cuda {

// Why no kernel can run here, or "".
std::string device_error();

// The nvcc that made the kernels.
std::string toolkit();

}  // namespace dlperf::cuda

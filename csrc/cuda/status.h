#pragma once

#include <string>

namespace dlperf::cuda {

// Why no kernel can run here, or "".
std::string device_error();

}  // namespace dlperf::cuda

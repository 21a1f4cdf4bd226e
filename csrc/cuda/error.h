#pragma once

#include <stdexcept>

namespace dlperf::cuda {

// A launch that the driver or the runtime refused: names the kernel and its sizes.
struct LaunchError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace dlperf::cuda

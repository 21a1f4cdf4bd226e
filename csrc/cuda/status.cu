#include "cuda/status.h"

#include "cuda/launch.cuh"

namespace dlperf::cuda {

std::string device_error() {
    return find_device_error();
}

std::string toolkit() {
    return kToolkit;
}

}  // namespace dlperf::cuda

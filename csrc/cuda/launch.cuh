// Launches, and tensor maps as the driver encodes them. The driver's functions are found through the runtime, so that
// the module loads where no driver is.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <string>

#include "cuda/error.h"
#include "cuda/hopper.cuh"
#include "cuda/tensor_map.h"

namespace dlperf::cuda {

#define DLPERF_TEXT_OF(x) #x
#define DLPERF_TEXT(x) DLPERF_TEXT_OF(x)
constexpr const char* kToolkit = DLPERF_TEXT(__CUDACC_VER_MAJOR__) "." DLPERF_TEXT(__CUDACC_VER_MINOR__);

inline void check(cudaError_t status, const char* name, const std::string& what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // so that the next call does not find it
    throw LaunchError(std::string(name) + " on " + what + ": " + cudaGetErrorString(status));
}

// what: the shapes, for the error's text. Cluster: blocks that run together on neighbouring multiprocessors.
template <auto Kernel, int Cluster = 1, class... Arguments>
void launch(const char* name, const std::string& what, int64_t blocks, int threads, int shared_bytes, void* stream,
            const Arguments&... arguments) {
    if (blocks == 0) return;
    if (blocks > 0x7fffffff) throw LaunchError(std::string(name) + " on " + what + ": more than 2^31 - 1 blocks");
    if (shared_bytes > 48 * 1024) {
        // The most that the kernel was allowed so far, by device; a kernel may ask for more with every call.
        static std::mutex lock;
        static std::map<int, int> allowed;
        int device = 0;
        check(cudaGetDevice(&device), name, what);
        const std::lock_guard<std::mutex> guard(lock);
        int& most = allowed[device];
        if (most < shared_bytes) {
            check(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), name, what);
            most = shared_bytes;
        }
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(blocks));
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = size_t(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    cudaLaunchAttribute together = {};
    if (Cluster > 1) {
        together.id = cudaLaunchAttributeClusterDimension;
        together.val.clusterDim.x = Cluster, together.val.clusterDim.y = together.val.clusterDim.z = 1;
        config.attrs = &together, config.numAttrs = 1;
    }
    check(cudaLaunchKernelEx(&config, Kernel, arguments...), name, what);
}

inline std::string find_device_error() {
    int count = 0, driver = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) cudaGetLastError();
    if (status == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return "no NVIDIA driver is installed";
    if (status != cudaSuccess) return std::string("no NVIDIA GPU can be used: ") + cudaGetErrorString(status);
    return count == 0 ? "no NVIDIA GPU was found" : "";
}

template <class Function>
Function driver_function(const char* name) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name, "this driver");
    if (result != cudaDriverEntryPointSuccess || found == nullptr)
        throw LaunchError(std::string(name) + " is not in this NVIDIA driver: version 525 or newer is needed");
    return reinterpret_cast<Function>(found);
}

inline TensorMap encode(const TensorMapParameters& p) {
    static_assert(sizeof(CUtensorMap) == sizeof(TensorMap), "the driver's tensor map has 128 bytes");
    if (why_not(p) != nullptr) throw LaunchError(std::string("tensor map: ") + why_not(p));
    CUtensorMap map;
    CUresult status;
    void* base = const_cast<void*>(p.base);
    const auto type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;  // 16 bits of any kind: nothing is computed on the way
    const auto none = CU_TENSOR_MAP_INTERLEAVE_NONE;
    const auto swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    const auto promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
    const auto fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    static_assert(sizeof(cuuint64_t) == sizeof(uint64_t) && sizeof(cuuint32_t) == sizeof(uint32_t));
    const auto* size = reinterpret_cast<const cuuint64_t*>(p.size);
    const auto* stride = reinterpret_cast<const cuuint64_t*>(p.stride);
    if (p.im2col) {
        static const auto function = driver_function<decltype(&cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
        status = function(&map, type, p.rank, base, size, stride, p.lower, p.upper, kRow, p.pixels, p.traversal, none,
                          swizzle, promotion, fill);
    } else {
        static const auto function = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
        const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
        status = function(&map, type, p.rank, base, size, stride, p.box, ones, none, swizzle, promotion, fill);
    }
    if (status != CUDA_SUCCESS)
        throw LaunchError("tensor map: the driver refused it with error " + std::to_string(int(status)));
    TensorMap out;
    memcpy(&out, &map, sizeof out);
    return out;
}

}  // namespace dlperf::cuda

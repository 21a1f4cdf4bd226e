#include "cuda/bindings/bindings.h"
#include "cuda/error.h"
#include "cuda/status.h"

using namespace dlperf::cuda;

#ifndef DLPERF_CUDA_MODULE
#define DLPERF_CUDA_MODULE _cuda
#endif

PYBIND11_MODULE(DLPERF_CUDA_MODULE, m) {
    m.doc() = "dlperf's CUDA kernels on raw addresses. Use dlperf.nn or dlperf.ops, which check their arguments.";
    py::register_exception<LaunchError>(m, "LaunchError", PyExc_RuntimeError);
    m.attr("TOOLKIT") = toolkit();
#ifdef DLPERF_CUDA_SOURCE_HASH
    m.attr("SOURCE_HASH") = DLPERF_CUDA_SOURCE_HASH;
#else
    m.attr("SOURCE_HASH") = "";
#endif
    m.def("device_error", &device_error, "Why no kernel can run here, or ''.");
    py::class_<Device>(m, "Device")
        .def(py::init([](int capability, int processors, Address stream) {
                 return Device{capability, processors, at<void>(stream)};
             }),
             py::arg("capability"), py::arg("processors"), py::arg("stream"));
    bind_products(m);
    bind_norms(m);
    bind_random(m);
    bind_attention(m);
    bind_elementwise(m);
}

#include "cpu/ceiling.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_ceiling(py::module_& m) {
    m.def(
        "ceiling_fma_f32", [](int64_t iterations) { return DLPERF_DISPATCH_BF16(ceiling_kernels).fma_f32(iterations); },
        py::call_guard<py::gil_scoped_release>(), "Runs the float32 multiply-add loop; returns its operations.");
    m.def(
        "ceiling_dot_bf16",
        [](int64_t iterations) {
            const auto run = DLPERF_DISPATCH_BF16(ceiling_kernels).dot_bf16;
            return run ? run(iterations) : 0.0;
        },
        py::call_guard<py::gil_scoped_release>(),
        "Runs the native bfloat16 dot-product loop; returns its operations, 0 where this ISA has none.");
    m.def(
        "ceiling_copy",
        [](Address src, Address dst, int64_t n, bool streaming) {
            const CeilingKernels& kernels = DLPERF_DISPATCH_BF16(ceiling_kernels);
            (streaming ? kernels.copy_streaming : kernels.copy)(as_pointer<float>(src), as_pointer<float>(dst), n);
        },
        py::call_guard<py::gil_scoped_release>(), "Copies n floats.");
    m.def(
        "ceiling_triad",
        [](Address a, Address b, Address dst, int64_t n) {
            DLPERF_DISPATCH_BF16(ceiling_kernels)
                .triad(as_pointer<float>(a), as_pointer<float>(b), as_pointer<float>(dst), n);
        },
        py::call_guard<py::gil_scoped_release>(), "dst = a + 3 b over n floats.");
}

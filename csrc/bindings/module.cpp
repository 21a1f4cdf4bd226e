#include "bindings/bindings.h"

PYBIND11_MODULE(_C, m) {
    m.doc() = "dlperf's CPU kernels on raw addresses. Use dlperf.nn or dlperf.ops, which check their arguments.";
    bind_isa(m);
    bind_gemm(m);
    bind_ceiling(m);
    bind_elementwise(m);
}

#include "cpu/glu.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_glu(py::module_& m) {
    def_step(
        m, "glu_forward",
        +[](int64_t outer, int64_t half, int dtype, int act, Address x, Address y) {
            DLPERF_DISPATCH(glu_table).forward({outer, half, DType(dtype), Act(act)}, as_pointer<void>(x),
                                               as_pointer<void>(y));
        },
        py::arg("outer"), py::arg("half"), py::arg("dtype"), py::arg("act"), py::arg("x"), py::arg("y"));
    def_step(
        m, "glu_backward",
        +[](int64_t outer, int64_t half, int dtype, int act, Address gy, Address x, Address gx) {
            DLPERF_DISPATCH(glu_table).backward({outer, half, DType(dtype), Act(act)}, as_pointer<void>(gy),
                                                as_pointer<void>(x), as_pointer<void>(gx));
        },
        py::arg("outer"), py::arg("half"), py::arg("dtype"), py::arg("act"), py::arg("gy"), py::arg("x"),
        py::arg("gx"));
}

#include "cpu/group_norm.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_group_norm(py::module_& m) {
    py::class_<GroupNormShape>(m, "GroupNormShape")
        .def(py::init([](int64_t n, int64_t c, int64_t s, int64_t groups, int dtype, int affine_dtype,
                         bool channels_last, double eps, int act) {
                 return GroupNormShape{n,   c,       s, groups, DType(dtype), DType(affine_dtype), channels_last,
                                       eps, Act(act)};
             }),
             py::arg("n"), py::arg("c"), py::arg("s"), py::arg("groups"), py::arg("dtype"), py::arg("affine_dtype"),
             py::arg("channels_last"), py::arg("eps"), py::arg("act"))
        .def("workspace",
             [](const GroupNormShape& shape) { return DLPERF_DISPATCH(group_norm_table).workspace(shape); })
        .def("backward_workspace",
             [](const GroupNormShape& shape) { return DLPERF_DISPATCH(group_norm_backward_table).workspace(shape); });
    def_step(
        m, "group_norm_forward",
        +[](const GroupNormShape& shape, Address x, Address weight, Address bias, Address y, Address stats,
            Address workspace) {
            DLPERF_DISPATCH(group_norm_table)
                .forward(shape,
                         {as_pointer<void>(x), as_pointer<void>(weight), as_pointer<void>(bias), as_pointer<void>(y),
                          as_pointer<float>(stats)},
                         as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("y"), py::arg("stats"),
        py::arg("workspace"));
    def_step(
        m, "group_norm_backward",
        +[](const GroupNormShape& shape, Address gy, Address x, Address weight, Address bias, Address stats, Address gx,
            Address gweight, Address gbias, Address workspace) {
            DLPERF_DISPATCH(group_norm_backward_table)
                .backward(shape,
                          {as_pointer<void>(gy), as_pointer<void>(x), as_pointer<void>(weight), as_pointer<void>(bias),
                           as_pointer<float>(stats), as_pointer<void>(gx), as_pointer<void>(gweight),
                           as_pointer<void>(gbias)},
                          as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("stats"),
        py::arg("gx"), py::arg("gweight"), py::arg("gbias"), py::arg("workspace"));
}

#include "cpu/row_norm.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_row_norm(py::module_& m) {
    py::class_<RowNormShape>(m, "RowNormShape")
        .def(py::init([](int64_t rows, int64_t cols, int dtype, int affine_dtype, bool rms, double eps) {
                 return RowNormShape{rows, cols, DType(dtype), DType(affine_dtype), rms, eps};
             }),
             py::arg("rows"), py::arg("cols"), py::arg("dtype"), py::arg("affine_dtype"), py::arg("rms"),
             py::arg("eps"))
        .def("backward_workspace",
             [](const RowNormShape& shape) { return DLPERF_DISPATCH(row_norm_table).backward_workspace(shape); });
    def_step(
        m, "row_norm_forward",
        +[](const RowNormShape& shape, Address x, Address weight, Address bias, Address y, Address stats) {
            DLPERF_DISPATCH(row_norm_table)
                .forward(shape, {as_pointer<void>(x), as_pointer<void>(weight), as_pointer<void>(bias),
                                 as_pointer<void>(y), as_pointer<float>(stats)});
        },
        py::arg("shape"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("y"), py::arg("stats"));
    def_step(
        m, "row_norm_backward",
        +[](const RowNormShape& shape, Address gy, Address x, Address weight, Address stats, Address gx,
            Address gweight, Address gbias, Address workspace) {
            DLPERF_DISPATCH(row_norm_table)
                .backward(
                    shape,
                    {as_pointer<void>(gy), as_pointer<void>(x), as_pointer<void>(weight), as_pointer<float>(stats),
                     as_pointer<void>(gx), as_pointer<void>(gweight), as_pointer<void>(gbias)},
                    as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("x"), py::arg("weight"), py::arg("stats"), py::arg("gx"),
        py::arg("gweight"), py::arg("gbias"), py::arg("workspace"));
}

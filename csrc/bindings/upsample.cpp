#include "cpu/upsample.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_upsample(py::module_& m) {
    py::class_<UpsampleAxis>(m, "UpsampleAxis")
        .def(py::init([](int64_t in, int64_t out, Address index, Address weight, Address first, Address last) {
                 return UpsampleAxis{in,
                                     out,
                                     as_pointer<int64_t>(index),
                                     as_pointer<float>(weight),
                                     as_pointer<int64_t>(first),
                                     as_pointer<int64_t>(last)};
             }),
             py::arg("in_size"), py::arg("out_size"), py::arg("index"), py::arg("weight"), py::arg("first"),
             py::arg("last"), "The arrays must outlive the axis.");
    py::class_<UpsampleShape>(m, "UpsampleShape")
        .def(py::init(
                 [](int64_t n, int64_t c, int dtype, bool channels_last, const UpsampleAxis& rows,
                    const UpsampleAxis& cols) { return UpsampleShape{n, c, DType(dtype), channels_last, rows, cols}; }),
             py::arg("n"), py::arg("c"), py::arg("dtype"), py::arg("channels_last"), py::arg("rows"), py::arg("cols"))
        .def("workspace", [](const UpsampleShape& shape) { return DLPERF_DISPATCH(upsample_table).workspace(shape); });
    def_step(
        m, "upsample_forward",
        +[](const UpsampleShape& shape, Address x, Address y, Address workspace) {
            DLPERF_DISPATCH(upsample_table)
                .forward(shape, as_pointer<void>(x), as_pointer<void>(y), as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("x"), py::arg("y"), py::arg("workspace"));
    def_step(
        m, "upsample_backward",
        +[](const UpsampleShape& shape, Address gy, Address gx, Address workspace) {
            DLPERF_DISPATCH(upsample_table)
                .backward(shape, as_pointer<void>(gy), as_pointer<void>(gx), as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("gx"), py::arg("workspace"));
}

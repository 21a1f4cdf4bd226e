#include "cpu/loss.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_loss(py::module_& m) {
    py::class_<NllShape>(m, "NllShape")
        .def(py::init([](int64_t n, int64_t c, int64_t s, int64_t ignore, int dtype, bool mean) {
                 return NllShape{n, c, s, ignore, DType(dtype), mean};
             }),
             py::arg("n"), py::arg("c"), py::arg("s"), py::arg("ignore"), py::arg("dtype"), py::arg("mean"));
    m.def("loss_workspace", [] { return DLPERF_DISPATCH(loss_table).workspace(); });
    m.def(
        "loss_forward",
        [](int kind, float param, int64_t n, int dtype, bool elementwise, double scale, Address x, Address target,
           Address out, Address workspace) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(loss_table)
                .forward({Loss(kind), param, n, DType(dtype), elementwise, scale, as_pointer<void>(x),
                          as_pointer<void>(target)},
                         as_pointer<void>(out), as_pointer<void>(workspace));
        },
        py::arg("kind"), py::arg("param"), py::arg("n"), py::arg("dtype"), py::arg("elementwise"), py::arg("scale"),
        py::arg("x"), py::arg("target"), py::arg("out"), py::arg("workspace"));
    m.def(
        "loss_backward",
        [](int kind, float param, int64_t n, int dtype, bool elementwise, double scale, Address x, Address target,
           Address gy, Address gx, Address gtarget) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(loss_table)
                .backward({Loss(kind), param, n, DType(dtype), elementwise, scale, as_pointer<void>(x),
                           as_pointer<void>(target)},
                          as_pointer<void>(gy), as_pointer<void>(gx), as_pointer<void>(gtarget));
        },
        py::arg("kind"), py::arg("param"), py::arg("n"), py::arg("dtype"), py::arg("elementwise"), py::arg("scale"),
        py::arg("x"), py::arg("target"), py::arg("gy"), py::arg("gx"), py::arg("gtarget"));
    m.def(
        "nll_forward",
        [](const NllShape& shape, bool elementwise, Address x, Address target, Address weight, Address losses,
           Address total_weight) {
            py::gil_scoped_release release;
            return DLPERF_DISPATCH(loss_table)
                .nll(shape, elementwise, as_pointer<void>(x), as_pointer<int64_t>(target), as_pointer<void>(weight),
                     as_pointer<void>(losses), as_pointer<double>(total_weight));
        },
        py::arg("shape"), py::arg("elementwise"), py::arg("x"), py::arg("target"), py::arg("weight"), py::arg("losses"),
        py::arg("total_weight"));
    m.def(
        "nll_backward",
        [](const NllShape& shape, bool elementwise, Address gy, Address target, Address weight, Address total_weight,
           Address gx) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(loss_table)
                .nll_backward(shape, elementwise, as_pointer<void>(gy), as_pointer<int64_t>(target),
                              as_pointer<void>(weight), as_pointer<double>(total_weight), as_pointer<void>(gx));
        },
        py::arg("shape"), py::arg("elementwise"), py::arg("gy"), py::arg("target"), py::arg("weight"),
        py::arg("total_weight"), py::arg("gx"));
}

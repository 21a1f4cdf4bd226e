#include "cpu/recurrent.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_recurrent(py::module_& m) {
    // batch_sizes is an address that must stay valid while the shape is used, or 0.
    py::class_<RecurrentShape>(m, "RecurrentShape")
        .def(py::init([](int cell, int dtype, int64_t steps, int64_t n, int64_t hidden, Address batch_sizes,
                         bool reverse, int64_t threads) {
                 return RecurrentShape{Cell(cell), DType(dtype), steps, n, hidden, as_pointer<int64_t>(batch_sizes),
                                       reverse,    threads};
             }),
             py::arg("cell"), py::arg("dtype"), py::arg("steps"), py::arg("n"), py::arg("hidden"),
             py::arg("batch_sizes"), py::arg("reverse"), py::arg("threads"));
    m.def("recurrent_workspace", &recurrent_workspace, py::arg("shape"), py::arg("backward"),
          py::arg("prepacked") = false);
    m.def("recurrent_walks", &recurrent_walks, py::arg("shape"));
    m.def("recurrent_pack_bytes", &recurrent_pack_bytes, py::arg("shape"));
    m.def(
        "recurrent_pack",
        [](const RecurrentShape& s, Address w_hh, Address packed) {
            py::gil_scoped_release release;
            recurrent_pack(s, as_pointer<void>(w_hh), as_pointer<void>(packed));
        },
        py::arg("shape"), py::arg("w_hh"), py::arg("packed"));
    m.def(
        "recurrent_forward",
        [](const RecurrentShape& s, Address gates, Address w_hh, Address b_hh, Address h, Address carried, Address y,
           Address kept, Address workspace, bool prepacked) {
            py::gil_scoped_release release;
            recurrent_forward(
                s,
                {as_pointer<void>(gates), as_pointer<void>(w_hh), as_pointer<void>(b_hh), as_pointer<void>(h),
                 as_pointer<float>(carried), as_pointer<void>(y), as_pointer<void>(kept), prepacked},
                as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gates"), py::arg("w_hh"), py::arg("b_hh"), py::arg("h"), py::arg("carried"),
        py::arg("y"), py::arg("kept"), py::arg("workspace"), py::arg("prepacked") = false);
    m.def(
        "recurrent_backward",
        [](const RecurrentShape& s, Address gy, Address w_hh, Address gates, Address y, Address kept, Address gh,
           Address carried, Address d, Address d_hidden, Address workspace) {
            py::gil_scoped_release release;
            recurrent_backward(s,
                               {as_pointer<void>(gy), as_pointer<void>(w_hh), as_pointer<void>(gates),
                                as_pointer<void>(y), as_pointer<void>(kept), as_pointer<void>(gh),
                                as_pointer<float>(carried), as_pointer<void>(d), as_pointer<void>(d_hidden)},
                               as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("w_hh"), py::arg("gates"), py::arg("y"), py::arg("kept"),
        py::arg("gh"), py::arg("carried"), py::arg("d"), py::arg("d_hidden"), py::arg("workspace"));
}

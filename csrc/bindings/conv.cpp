#include "cpu/conv2d.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_conv(py::module_& m) {
    py::class_<Conv2dShape>(m, "Conv2dShape")
        .def(py::init([](int64_t n, int64_t h, int64_t w, int64_t c, int64_t k, int64_t r, int64_t s, int64_t oh,
                         int64_t ow, int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w, int64_t dil_h,
                         int64_t dil_w, int64_t groups, int64_t w_k, int64_t w_c, int64_t w_r, int64_t w_s, int dtype,
                         int act, float act_param, int algorithm) {
                 return Conv2dShape{n,        h,         w,
                                    c,        k,         r,
                                    s,        oh,        ow,
                                    stride_h, stride_w,  pad_h,
                                    pad_w,    dil_h,     dil_w,
                                    groups,   w_k,       w_c,
                                    w_r,      w_s,       DType(dtype),
                                    Act(act), act_param, ConvAlgorithm(algorithm)};
             }),
             py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"), py::arg("k"), py::arg("r"), py::arg("s"),
             py::arg("oh"), py::arg("ow"), py::arg("stride_h"), py::arg("stride_w"), py::arg("pad_h"), py::arg("pad_w"),
             py::arg("dil_h"), py::arg("dil_w"), py::arg("groups"), py::arg("w_k"), py::arg("w_c"), py::arg("w_r"),
             py::arg("w_s"), py::arg("dtype") = 0, py::arg("act") = 0, py::arg("act_param") = 0.0f,
             py::arg("algorithm") = 0);

    m.def("conv2d_algorithm", [](const Conv2dShape& s, int direction, bool prepacked) {
        return int(choose_algorithm(s, ConvDirection(direction), prepacked));
    });

    m.def(
        "conv2d_workspace_bytes",
        [](const Conv2dShape& s, int direction, int64_t threads, bool prepacked) {
            return conv2d_kernels(s, ConvDirection(direction), prepacked)
                .workspace_bytes(s, ConvDirection(direction), threads, prepacked);
        },
        py::arg("shape"), py::arg("direction"), py::arg("threads"), py::arg("prepacked") = false);
    def_step(
        m, "conv2d_forward",
        +[](const Conv2dShape& s, Address x, Address w, Address bias, Address residual, Address y, Address workspace,
            int64_t threads, bool prepacked) {
            conv2d_kernels(s, ConvDirection::forward, prepacked)
                .forward(s, as_pointer<void>(x), as_pointer<void>(w), as_pointer<void>(bias),
                         as_pointer<void>(residual), as_pointer<void>(y), as_pointer<void>(workspace), threads,
                         prepacked);
        },
        py::arg("shape"), py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("residual"), py::arg("y"),
        py::arg("workspace"), py::arg("threads"), py::arg("prepacked") = false);
    def_step(
        m, "conv2d_bwd_input",
        +[](const Conv2dShape& s, Address gy, Address w, Address bias, Address residual, Address gx, Address workspace,
            int64_t threads, bool prepacked) {
            conv2d_kernels(s, ConvDirection::bwd_input, prepacked)
                .bwd_input(s, as_pointer<void>(gy), as_pointer<void>(w), as_pointer<void>(bias),
                           as_pointer<void>(residual), as_pointer<void>(gx), as_pointer<void>(workspace), threads,
                           prepacked);
        },
        py::arg("shape"), py::arg("gy"), py::arg("w"), py::arg("bias"), py::arg("residual"), py::arg("gx"),
        py::arg("workspace"), py::arg("threads"), py::arg("prepacked") = false);
    def_step(
        m, "conv2d_bwd_weight",
        +[](const Conv2dShape& s, Address gy, Address x, Address gw, Address workspace, int64_t threads) {
            conv2d_kernels(s, ConvDirection::bwd_weight, false)
                .bwd_weight(s, as_pointer<void>(gy), as_pointer<void>(x), as_pointer<void>(gw),
                            as_pointer<void>(workspace), threads);
        },
        py::arg("shape"), py::arg("gy"), py::arg("x"), py::arg("gw"), py::arg("workspace"), py::arg("threads"));
    m.def("conv2d_pack_bytes", [](const Conv2dShape& s, int direction) {
        return conv2d_kernels(s, ConvDirection(direction), true).pack_bytes(s, ConvDirection(direction));
    });
    m.def("conv2d_pack", [](const Conv2dShape& s, int direction, Address w, Address packed) {
        py::gil_scoped_release release;
        conv2d_kernels(s, ConvDirection(direction), true)
            .pack(s, ConvDirection(direction), as_pointer<void>(w), as_pointer<void>(packed));
    });
}

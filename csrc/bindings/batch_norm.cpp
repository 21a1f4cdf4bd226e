#include "cpu/batch_norm.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_batch_norm(py::module_& m) {
    py::class_<BatchNormShape>(m, "BatchNormShape",
                               "Geometry of [n, c, s]; dtypes are numbers: 0 float32, 1 bfloat16, 2 float16.")
        .def(py::init(
                 [](int64_t n, int64_t c, int64_t s, int dtype, int affine_dtype, int stats_dtype, bool channels_last) {
                     return BatchNormShape{n,
                                           c,
                                           s,
                                           static_cast<DType>(dtype),
                                           static_cast<DType>(affine_dtype),
                                           static_cast<DType>(stats_dtype),
                                           channels_last};
                 }),
             py::arg("n"), py::arg("c"), py::arg("s"), py::arg("dtype"), py::arg("affine_dtype"),
             py::arg("stats_dtype"), py::arg("channels_last"));
    m.def(
        "batch_norm_workspace",
        [](const BatchNormShape& shape) { return DLPERF_DISPATCH(batch_norm_table).workspace(shape); },
        py::arg("shape"),
        "Bytes of workspace for batch_norm, batch_norm_backward and channel_sum at this thread count.");
    m.def(
        "batch_norm",
        [](const BatchNormShape& shape, Address x, Address residual, Address y, Address weight, Address bias,
           Address running_mean, Address running_var, Address save_mean, Address save_rstd, double eps, double momentum,
           int act, float act_param, bool training, Address workspace) {
            const BatchNormForward args{as_pointer<const void>(x),
                                        as_pointer<const void>(residual),
                                        as_pointer<void>(y),
                                        as_pointer<const void>(weight),
                                        as_pointer<const void>(bias),
                                        as_pointer<void>(running_mean),
                                        as_pointer<void>(running_var),
                                        as_pointer<float>(save_mean),
                                        as_pointer<float>(save_rstd),
                                        eps,
                                        momentum,
                                        static_cast<Act>(act),
                                        act_param,
                                        training};
            py::gil_scoped_release release;
            DLPERF_DISPATCH(batch_norm_table).forward(shape, args, as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("x"), py::arg("residual"), py::arg("y"), py::arg("weight"), py::arg("bias"),
        py::arg("running_mean"), py::arg("running_var"), py::arg("save_mean"), py::arg("save_rstd"), py::arg("eps"),
        py::arg("momentum"), py::arg("act"), py::arg("act_param"), py::arg("training"), py::arg("workspace"),
        "y = act((x - mean) * rstd * weight + bias + residual); training updates the running statistics.");
    m.def(
        "batch_norm_backward",
        [](const BatchNormShape& shape, Address gy, Address x, Address y, Address weight, Address save_mean,
           Address save_rstd, Address gx, Address gresidual, Address gweight, Address gbias, bool training,
           Address workspace) {
            const BatchNormBackward args{as_pointer<const void>(gy),
                                         as_pointer<const void>(x),
                                         as_pointer<const void>(y),
                                         as_pointer<const void>(weight),
                                         as_pointer<const float>(save_mean),
                                         as_pointer<const float>(save_rstd),
                                         as_pointer<void>(gx),
                                         as_pointer<void>(gresidual),
                                         as_pointer<void>(gweight),
                                         as_pointer<void>(gbias),
                                         training};
            py::gil_scoped_release release;
            DLPERF_DISPATCH(batch_norm_backward_table).backward(shape, args, as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("x"), py::arg("y"), py::arg("weight"), py::arg("save_mean"),
        py::arg("save_rstd"), py::arg("gx"), py::arg("gresidual"), py::arg("gweight"), py::arg("gbias"),
        py::arg("training"), py::arg("workspace"),
        "Gradients of batch_norm; y is given where its activation was relu. Any output may be 0.");
    m.def(
        "channel_sum",
        [](const BatchNormShape& shape, Address gy, Address out, Address workspace) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(batch_norm_backward_table)
                .channel_sum(shape, as_pointer<const void>(gy), as_pointer<void>(out), as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("out"), py::arg("workspace"),
        "out[c] = sum of gy over n and s, written in affine_dtype.");
}

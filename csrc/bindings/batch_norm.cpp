#include "cpu/batch_norm.h"

#include "bindings/steps.h"

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
    def_step(
        m, "batch_norm",
        +[](const BatchNormShape& shape, Address x, Address residual, Address y, Address weight, Address bias,
            Address mean, Address variance, double eps, int act, float act_param, bool training, Address workspace) {
            const BatchNormForward args{as_pointer<const void>(x),
                                        as_pointer<const void>(residual),
                                        as_pointer<void>(y),
                                        as_pointer<const void>(weight),
                                        as_pointer<const void>(bias),
                                        as_pointer<void>(mean),
                                        as_pointer<void>(variance),
                                        eps,
                                        static_cast<Act>(act),
                                        act_param,
                                        training};
            DLPERF_DISPATCH(batch_norm_table).forward(shape, args, as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("x"), py::arg("residual"), py::arg("y"), py::arg("weight"), py::arg("bias"),
        py::arg("mean"), py::arg("variance"), py::arg("eps"), py::arg("act"), py::arg("act_param"), py::arg("training"),
        py::arg("workspace"),
        "y = act((x - mean) / sqrt(variance + eps) * weight + bias + residual); training writes mean and variance.");
    def_step(
        m, "batch_norm_update",
        +[](int64_t c, int stats_dtype, Address running_mean, Address running_var, Address mean, Address variance,
            double momentum, int64_t count) {
            DLPERF_DISPATCH(batch_norm_table)
                .update(c, static_cast<DType>(stats_dtype), as_pointer<void>(running_mean),
                        as_pointer<void>(running_var), as_pointer<const float>(mean), as_pointer<const float>(variance),
                        momentum, count);
        },
        py::arg("c"), py::arg("stats_dtype"), py::arg("running_mean"), py::arg("running_var"), py::arg("mean"),
        py::arg("variance"), py::arg("momentum"), py::arg("count"),
        "Moves the running statistics towards a batch's, given in float32 from count values a channel.");
    def_step(
        m, "batch_norm_backward",
        +[](const BatchNormShape& shape, Address gy, Address x, Address y, Address weight, Address mean,
            Address variance, Address gx, Address gresidual, Address gweight, Address gbias, double eps, bool training,
            Address workspace) {
            const BatchNormBackward args{as_pointer<const void>(gy),
                                         as_pointer<const void>(x),
                                         as_pointer<const void>(y),
                                         as_pointer<const void>(weight),
                                         as_pointer<const void>(mean),
                                         as_pointer<const void>(variance),
                                         as_pointer<void>(gx),
                                         as_pointer<void>(gresidual),
                                         as_pointer<void>(gweight),
                                         as_pointer<void>(gbias),
                                         eps,
                                         training};
            DLPERF_DISPATCH(batch_norm_backward_table).backward(shape, args, as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("x"), py::arg("y"), py::arg("weight"), py::arg("mean"),
        py::arg("variance"), py::arg("gx"), py::arg("gresidual"), py::arg("gweight"), py::arg("gbias"), py::arg("eps"),
        py::arg("training"), py::arg("workspace"),
        "Gradients of batch_norm; y is given where its activation was relu. Any output may be 0.");
    def_step(
        m, "channel_sum",
        +[](const BatchNormShape& shape, Address gy, Address out, Address workspace) {
            DLPERF_DISPATCH(batch_norm_backward_table)
                .channel_sum(shape, as_pointer<const void>(gy), as_pointer<void>(out), as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("out"), py::arg("workspace"),
        "out[c] = sum of gy over n and s, written in affine_dtype.");
}

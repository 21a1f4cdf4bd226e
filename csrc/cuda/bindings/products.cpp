#include "cuda/bindings/bindings.h"
#include "cuda/conv_plan.h"
#include "cuda/depthwise.h"

using namespace dlperf::cuda;

void bind_products(py::module_& m) {
    m.def("gemm_workspace", [](const Device& device, int rows, int columns, int depth, int batches, bool moments) {
        return workspace(plan_gemm(device, rows, columns, depth, batches, moments));
    });
    m.def("gemm",
          [](const Device& device, int rows, int columns, int depth, int batches, bool a_along_k, bool b_along_k,
             int64_t a_stride, int64_t b_stride, int64_t a_batch, int64_t b_batch, int64_t residual_stride,
             int64_t residual_batch, Address a, Address b, Address bias, Address residual, Address c, Address scratch,
             Address moments, float alpha, float beta, int activation, int type) {
              const Gemm call = {rows,
                                 columns,
                                 depth,
                                 batches,
                                 a_along_k,
                                 b_along_k,
                                 a_stride,
                                 b_stride,
                                 a_batch,
                                 b_batch,
                                 residual_stride,
                                 residual_batch,
                                 at(a),
                                 at(b),
                                 at(bias),
                                 at(residual),
                                 at(c),
                                 at<float>(scratch),
                                 at<float>(moments),
                                 alpha,
                                 beta,
                                 Activation(activation),
                                 Type(type)};
              py::gil_scoped_release release;
              gemm(call, device);
          });
    m.def("gemm_moment_rows", [](const Device& device, int rows, int columns, int depth) {
        return moment_rows(plan_gemm(device, rows, columns, depth, 1, true));
    });
    m.def("conv_moment_rows",
          [](const Device& d, const Convolution& v) { return moment_rows(plan_forward(v, d, true)); });
    m.def("moments_workspace", &moments_workspace);
    m.def("join_moments",
          [](const Device& device, Address moments, int rows, int columns, int step, Address mean, Address var) {
              join_moments({at<float>(moments), rows, columns, step}, at<float>(mean), at<float>(var), device);
          });
    py::class_<Convolution>(m, "Convolution")
        .def(py::init([](int n, int h, int w, int c, int k, int r, int s, int p, int q, int stride_h, int stride_w,
                         int pad_h, int pad_w, int dilation_h, int dilation_w) {
            return Convolution{n, h, w, c, k, r, s, p, q, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
        }));
    m.def("conv_forward_workspace",
          [](const Device& d, const Convolution& v, bool moments) { return workspace(plan_forward(v, d, moments)); });
    m.def("conv_input_workspace", [](const Device& d, const Convolution& v, bool) { return input_workspace(v, d); });
    m.def("conv_weight_workspace",
          [](const Device& d, const Convolution& v, bool) { return workspace(plan_weight(v, d)); });
    auto bind = [&m](const char* name, void (*function)(const ConvolutionCall&, const Device&)) {
        m.def(name,
              [function](const Device& device, const Convolution& v, Address x, Address weight, Address y, Address bias,
                         Address residual, Address out, Address scratch, Address moments, int activation, int type) {
                  const ConvolutionCall call = {v,
                                                at(x),
                                                at(weight),
                                                at(y),
                                                at(bias),
                                                at(residual),
                                                at(out),
                                                at<float>(scratch),
                                                at<float>(moments),
                                                Activation(activation),
                                                Type(type)};
                  py::gil_scoped_release release;
                  function(call, device);
              });
    };
    bind("conv_forward", convolution_forward);
    bind("conv_input", convolution_input);
    bind("conv_weight", convolution_weight);
    m.attr("DEPTHWISE_TAPS") = kDepthwiseTaps;
    m.def("depthwise_weight_workspace",
          [](const Device& d, const Convolution& v, bool) { return depthwise_workspace(v, d); });
    bind("depthwise_forward", depthwise_forward);
    bind("depthwise_input", depthwise_input);
    bind("depthwise_weight", depthwise_weight);
}

#include "cuda/elementwise.h"

#include "cuda/bindings/bindings.h"

using namespace dlperf::cuda;

void bind_elementwise(py::module_& m) {
    m.def("activation", [](const Device& device, Address x, Address y, int64_t n, int kind, int type) {
        activation_forward(at(x), at(y), n, Activation(kind), Storage(type), device);
    });
    m.def("activation_backward",
          [](const Device& device, Address gy, Address x, Address gx, int64_t n, int kind, int type) {
              activation_backward(at(gy), at(x), at(gx), n, Activation(kind), Storage(type), device);
          });
    m.def("channel_sum",
          [](const Device& device, Address x, Address sums, int64_t rows, int channels, int parts, int type) {
              channel_sum(at(x), at<float>(sums), rows, channels, parts, Storage(type), device);
          });
    m.def("batch_norm_update", [](const Device& device, Address running_mean, Address running_var, Address mean,
                                  Address var, int channels, double momentum, double count, int type) {
        batch_norm_update(at(running_mean), at(running_var), at<float>(mean), at<float>(var), channels, momentum, count,
                          Storage(type), device);
    });
}

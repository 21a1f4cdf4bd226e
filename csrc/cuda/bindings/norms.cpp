#include "cuda/bindings/bindings.h"
#include "cuda/norm.h"

using namespace dlperf::cuda;

void bind_norms(py::module_& m) {
    m.attr("LONGEST_ROW") = kLongestRow;
    py::class_<RowNorm>(m, "RowNorm")
        .def(py::init([](int64_t rows, int columns, bool rms, bool parameters_f32, int type, float eps, Address x,
                         Address weight, Address bias, Address stats) {
            return RowNorm{rows, columns, rms,        parameters_f32, Storage(type),
                           eps,  at(x),   at(weight), at(bias),       at<float>(stats)};
        }));
    m.def("row_norm_parts", &row_norm_parts);
    m.def("row_norm_forward",
          [](const Device& device, const RowNorm& call, Address y) { row_norm_forward(call, at(y), device); });
    m.def("row_norm_backward", [](const Device& device, const RowNorm& call, Address gy, Address gx,
                                  Address weight_sums, Address bias_sums, int parts) {
        row_norm_backward(call, at(gy), at(gx), at<float>(weight_sums), at<float>(bias_sums), parts, device);
    });
    m.def("total", [](const Device& device, Address sums, Address out, int64_t parts, int columns, int type) {
        total(at<float>(sums), at(out), parts, columns, Storage(type), device);
    });

    py::class_<ChannelNorm>(m, "ChannelNorm")
        .def(py::init([](int images, int64_t positions, int channels, int parts, int groups, bool parameters_f32,
                         int type, float eps, int activation, Address x, Address residual, Address weight, Address bias,
                         Address mean, Address second) {
            return ChannelNorm{images,
                               channels,
                               positions,
                               parts,
                               groups,
                               parameters_f32,
                               Storage(type),
                               eps,
                               Activation(activation),
                               at(x),
                               at(residual),
                               at(weight),
                               at(bias),
                               at<float>(mean),
                               at<float>(second)};
        }));
    m.def("channel_parts", &channel_parts);
    m.def("channel_moments", [](const Device& device, const ChannelNorm& call, Address means, Address squares) {
        channel_moments(call, at<float>(means), at<float>(squares), device);
    });
    auto bind_join = [&m](const char* name, void (*function)(const ChannelNorm&, const float*, const float*, float*,
                                                             float*, const Device&)) {
        m.def(name, [function](const Device& device, const ChannelNorm& call, Address means, Address squares,
                               Address mean, Address second) {
            function(call, at<float>(means), at<float>(squares), at<float>(mean), at<float>(second), device);
        });
    };
    bind_join("join_batch_moments", join_batch_moments);
    bind_join("join_group_moments", join_group_moments);
    m.def("channel_normalize",
          [](const Device& device, const ChannelNorm& call, Address y) { channel_normalize(call, at(y), device); });
    m.def("channel_sums",
          [](const Device& device, const ChannelNorm& call, Address gy, Address y, Address g_sums, Address hat_sums) {
              channel_sums(call, at(gy), at(y), at<float>(g_sums), at<float>(hat_sums), device);
          });
    m.def("join_batch_sums",
          [](const Device& device, const ChannelNorm& call, Address g_sums, Address hat_sums, int64_t rows,
             double count, Address gweight, Address gbias, Address g_mean, Address hat_mean) {
              join_batch_sums(call, at<float>(g_sums), at<float>(hat_sums), rows, count, at(gweight), at(gbias),
                              at<float>(g_mean), at<float>(hat_mean), device);
          });
    m.def("join_group_sums", [](const Device& device, const ChannelNorm& call, Address g_sums, Address hat_sums,
                                Address g_by_channel, Address hat_by_channel, Address g_mean, Address hat_mean) {
        join_group_sums(call, at<float>(g_sums), at<float>(hat_sums), at<float>(g_by_channel),
                        at<float>(hat_by_channel), at<float>(g_mean), at<float>(hat_mean), device);
    });
    m.def("channel_gradient", [](const Device& device, const ChannelNorm& call, Address gy, Address y, Address g_mean,
                                 Address hat_mean, Address gx, Address gresidual) {
        channel_gradient(call, at(gy), at(y), at<float>(g_mean), at<float>(hat_mean), at(gx), at(gresidual), device);
    });
}

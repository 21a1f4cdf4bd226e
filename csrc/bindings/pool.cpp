#include "cpu/pool.h"

#include "bindings/steps.h"

using namespace dlperf;

namespace {

PoolAxis axis_of(const std::array<int64_t, 6>& a) {
    return {a[0], a[1], a[2], a[3], a[4], a[5]};
}

}  // namespace

void bind_pool(py::module_& m) {
    py::class_<PoolShape>(m, "PoolShape",
                          "Geometry of a pooling; h and w are (in, out, kernel, stride, padding, dilation), kind is 0 "
                          "for the maximum and 1 for the average, dtype 0 float32, 1 bfloat16, 2 float16.")
        .def(py::init([](int64_t n, int64_t c, const std::array<int64_t, 6>& h, const std::array<int64_t, 6>& w,
                         int kind, int dtype, bool channels_last, bool adaptive, bool count_include_pad,
                         int64_t divisor_override) {
                 return PoolShape{n,
                                  c,
                                  axis_of(h),
                                  axis_of(w),
                                  static_cast<PoolKind>(kind),
                                  static_cast<DType>(dtype),
                                  channels_last,
                                  adaptive,
                                  count_include_pad,
                                  divisor_override};
             }),
             py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("kind"), py::arg("dtype"),
             py::arg("channels_last"), py::arg("adaptive"), py::arg("count_include_pad"), py::arg("divisor_override"));
    def_step(
        m, "pool",
        +[](const PoolShape& shape, Address x, Address y, Address indices) {
            DLPERF_DISPATCH(pool_table)
                .forward(shape, as_pointer<const void>(x), as_pointer<void>(y), as_pointer<int32_t>(indices));
        },
        py::arg("shape"), py::arg("x"), py::arg("y"), py::arg("indices"),
        "indices: int32, laid out as y, h * in_w + w of each maximum; 0 where not wanted.");
    m.def(
        "pool_backward_workspace",
        [](const PoolShape& shape) { return DLPERF_DISPATCH(pool_backward_table).workspace(shape); }, py::arg("shape"),
        "Bytes of workspace for pool_backward at this thread count.");
    def_step(
        m, "pool_backward",
        +[](const PoolShape& shape, Address gy, Address indices, Address gx, Address workspace) {
            DLPERF_DISPATCH(pool_backward_table)
                .backward(shape, as_pointer<const void>(gy), as_pointer<const int32_t>(indices), as_pointer<void>(gx),
                          as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("gy"), py::arg("indices"), py::arg("gx"), py::arg("workspace"),
        "Gradient of pool; the maximum takes the indices that pool wrote.");
}

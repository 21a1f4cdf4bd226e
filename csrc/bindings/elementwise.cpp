#include "cpu/elementwise.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_elementwise(py::module_& m) {
    py::list names;
    for (const char* name : kActNames) names.append(name);
    m.attr("ACTIVATIONS") = names;

    def_step(
        m, "activation_forward",
        +[](int dtype, int act, float param, int64_t n, Address x, Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .activation_forward(DType(dtype), Act(act), param, n, as_pointer<void>(x), as_pointer<void>(y));
        },
        "(dtype, act, param, n, x, y): y = act(x).");
    def_step(
        m, "activation_backward",
        +[](int dtype, int act, float param, int64_t n, Address gy, Address x, Address gx) {
            DLPERF_DISPATCH(elementwise_table)
                .activation_backward(DType(dtype), Act(act), param, n, as_pointer<void>(gy), as_pointer<void>(x),
                                     as_pointer<void>(gx));
        },
        "(dtype, act, param, n, gy, x, gx): gx = gy * act'(x).");
    m.def("activation_derivative_from_output", [](int act) { return derivative_from_output(Act(act)); });
    def_step(
        m, "activation_backward_from_output",
        +[](int dtype, int act, int64_t n, Address gy, Address y, Address gx) {
            DLPERF_DISPATCH(elementwise_table)
                .activation_backward_from_output(DType(dtype), Act(act), n, as_pointer<void>(gy), as_pointer<void>(y),
                                                 as_pointer<void>(gx));
        },
        "(dtype, act, n, gy, y, gx): gx = gy * act'(x) from y = act(x).");
    def_step(
        m, "add",
        +[](int dtype, int64_t n, Address a, Address b, float alpha, bool relu, Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .add(DType(dtype), n, as_pointer<void>(a), as_pointer<void>(b), alpha, relu, as_pointer<void>(y));
        },
        "(dtype, n, a, b, alpha, relu, y): y = a + alpha b, then max(y, 0) where relu.");
    def_step(
        m, "add_rows",
        +[](int dtype, int64_t outer, int64_t mid, int64_t inner, Address a, Address b, int64_t b_outer, int64_t b_mid,
            float alpha, bool relu, Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .add_rows(DType(dtype), outer, mid, inner, as_pointer<void>(a), as_pointer<void>(b), b_outer, b_mid,
                          alpha, relu, as_pointer<void>(y));
        },
        "(dtype, outer, mid, inner, a, b, b_outer, b_mid, alpha, relu, y): add, with b broadcast in rows.");
    def_step(
        m, "multiply",
        +[](int dtype, int64_t n, Address a, Address b, Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .multiply(DType(dtype), n, as_pointer<void>(a), as_pointer<void>(b), as_pointer<void>(y));
        },
        "(dtype, n, a, b, y): y = a b.");
    def_step(
        m, "multiply_rows",
        +[](int dtype, int64_t outer, int64_t mid, int64_t inner, Address a, Address b, int64_t b_outer, int64_t b_mid,
            Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .multiply_rows(DType(dtype), outer, mid, inner, as_pointer<void>(a), as_pointer<void>(b), b_outer,
                               b_mid, as_pointer<void>(y));
        },
        "(dtype, outer, mid, inner, a, b, b_outer, b_mid, y): multiply, with b broadcast in rows.");
    def_step(
        m, "cast",
        +[](int from, int to, int64_t n, Address x, Address y) {
            DLPERF_DISPATCH(elementwise_table)
                .cast(DType(from), DType(to), n, as_pointer<void>(x), as_pointer<void>(y));
        },
        "(from, to, n, x, y): y = x in another storage type.");
}

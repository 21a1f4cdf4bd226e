#include "cpu/softmax.h"

#include "bindings/steps.h"
#include "cpu/cross_entropy.h"

using namespace dlperf;

static void bind_cross_entropy(py::module_& m) {
    py::class_<CrossEntropyShape>(m, "CrossEntropyShape")
        .def(py::init([](int64_t outer, int64_t classes, int64_t inner, int64_t ignore_index, float smoothing,
                         int reduction) {
                 return CrossEntropyShape{outer, classes, inner, ignore_index, smoothing, Reduction(reduction)};
             }),
             py::arg("outer"), py::arg("classes"), py::arg("inner"), py::arg("ignore_index"), py::arg("smoothing"),
             py::arg("reduction"))
        .def_property_readonly("rows", &CrossEntropyShape::rows)
        .def_property_readonly("saved_size", &CrossEntropyShape::saved_size);

    m.def(
        "cross_entropy_forward",
        [](int dtype, const CrossEntropyShape& shape, Address logits, Address targets, Address weight, Address row_loss,
           Address saved, Address loss) {
            py::gil_scoped_release release;
            return DLPERF_DISPATCH(cross_entropy_table)
                .forward(DType(dtype), shape, as_pointer<void>(logits), as_pointer<int64_t>(targets),
                         as_pointer<float>(weight), as_pointer<float>(row_loss), as_pointer<float>(saved),
                         as_pointer<void>(loss));
        },
        "(dtype, shape, logits, targets, weight, row_loss, saved, loss): the first row of a wrong target, or -1.");
    m.def(
        "cross_entropy_backward",
        [](int dtype, const CrossEntropyShape& shape, Address logits, Address targets, Address weight, Address saved,
           Address grad_loss, Address grad_logits) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(cross_entropy_table)
                .backward(DType(dtype), shape, as_pointer<void>(logits), as_pointer<int64_t>(targets),
                          as_pointer<float>(weight), as_pointer<float>(saved), as_pointer<void>(grad_loss),
                          as_pointer<void>(grad_logits));
        },
        "(dtype, shape, logits, targets, weight, saved, grad_loss, grad_logits)");
    m.def(
        "cross_entropy_soft_forward",
        [](int dtype, const CrossEntropyShape& shape, Address logits, Address targets, Address weight, Address row_loss,
           Address saved, Address loss) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(cross_entropy_table)
                .forward_soft(DType(dtype), shape, as_pointer<void>(logits), as_pointer<void>(targets),
                              as_pointer<float>(weight), as_pointer<float>(row_loss), as_pointer<float>(saved),
                              as_pointer<void>(loss));
        },
        "(dtype, shape, logits, targets, weight, row_loss, saved, loss) with probabilities as targets");
    m.def(
        "cross_entropy_soft_backward",
        [](int dtype, const CrossEntropyShape& shape, Address logits, Address targets, Address weight, Address saved,
           Address grad_loss, Address grad_logits, Address grad_targets) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(cross_entropy_table)
                .backward_soft(DType(dtype), shape, as_pointer<void>(logits), as_pointer<void>(targets),
                               as_pointer<float>(weight), as_pointer<float>(saved), as_pointer<void>(grad_loss),
                               as_pointer<void>(grad_logits), as_pointer<void>(grad_targets));
        },
        "(dtype, shape, logits, targets, weight, saved, grad_loss, grad_logits, grad_targets or 0)");
}

void bind_softmax(py::module_& m) {
    py::class_<SoftmaxShape>(m, "SoftmaxShape")
        .def(py::init([](int64_t outer, int64_t dim, int64_t inner) { return SoftmaxShape{outer, dim, inner}; }),
             py::arg("outer"), py::arg("dim"), py::arg("inner"));

    def_step(
        m, "softmax_forward",
        +[](int dtype, const SoftmaxShape& shape, bool logarithm, Address x, Address y) {
            DLPERF_DISPATCH(softmax_table)
                .forward(DType(dtype), shape, logarithm, as_pointer<void>(x), as_pointer<void>(y));
        },
        "(dtype, shape, logarithm, x, y)");
    def_step(
        m, "softmax_backward",
        +[](int dtype, const SoftmaxShape& shape, bool logarithm, Address gy, Address y, Address gx) {
            DLPERF_DISPATCH(softmax_table)
                .backward(DType(dtype), shape, logarithm, as_pointer<void>(gy), as_pointer<void>(y),
                          as_pointer<void>(gx));
        },
        "(dtype, shape, logarithm, gy, y, gx)");
    bind_cross_entropy(m);
}

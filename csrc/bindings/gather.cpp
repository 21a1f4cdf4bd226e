#include "cpu/gather.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_gather(py::module_& m) {
    py::class_<EmbeddingShape>(m, "EmbeddingShape")
        .def(py::init([](int64_t count, int64_t rows, int64_t cols, int64_t padding, bool by_frequency, int dtype) {
                 return EmbeddingShape{count, rows, cols, padding, by_frequency, DType(dtype)};
             }),
             py::arg("count"), py::arg("rows"), py::arg("cols"), py::arg("padding"), py::arg("by_frequency"),
             py::arg("dtype"))
        .def("workspace",
             [](const EmbeddingShape& shape) { return DLPERF_DISPATCH(gather_table).embedding_workspace(shape); });
    py::class_<ShuffleShape>(m, "ShuffleShape")
        .def(py::init([](int64_t n, int64_t c, int64_t h, int64_t w, int64_t r, bool channels_last, int element_size) {
                 return ShuffleShape{n, c, h, w, r, channels_last, element_size};
             }),
             py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("r"), py::arg("channels_last"),
             py::arg("element_size"));
    m.def(
        "embedding",
        [](const EmbeddingShape& shape, Address indices, Address table, Address out) {
            py::gil_scoped_release release;
            return DLPERF_DISPATCH(gather_table)
                .embedding(shape, as_pointer<int64_t>(indices), as_pointer<void>(table), as_pointer<void>(out));
        },
        py::arg("shape"), py::arg("indices"), py::arg("table"), py::arg("out"),
        "The position of the first index outside the table, or -1.");
    def_step(
        m, "embedding_backward",
        +[](const EmbeddingShape& shape, Address indices, Address gy, Address gtable, Address workspace) {
            DLPERF_DISPATCH(gather_table)
                .embedding_backward(shape, as_pointer<int64_t>(indices), as_pointer<void>(gy), as_pointer<void>(gtable),
                                    as_pointer<void>(workspace));
        },
        py::arg("shape"), py::arg("indices"), py::arg("gy"), py::arg("gtable"), py::arg("workspace"));
    def_step(
        m, "pixel_shuffle",
        +[](const ShuffleShape& shape, Address x, Address y) {
            DLPERF_DISPATCH(gather_table).pixel_shuffle(shape, as_pointer<void>(x), as_pointer<void>(y));
        },
        py::arg("shape"), py::arg("x"), py::arg("y"));
    def_step(
        m, "pixel_unshuffle",
        +[](const ShuffleShape& shape, Address y, Address x) {
            DLPERF_DISPATCH(gather_table).pixel_unshuffle(shape, as_pointer<void>(y), as_pointer<void>(x));
        },
        py::arg("shape"), py::arg("y"), py::arg("x"));
}

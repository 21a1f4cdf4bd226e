#include "cpu/layout.h"

#include "bindings/bindings.h"

using namespace dlperf;

void bind_layout(py::module_& m) {
    m.def(
        "transpose",
        [](Address src, Address dst, int64_t batch, int64_t rows, int64_t cols, int element_size) {
            py::gil_scoped_release release;
            DLPERF_DISPATCH(layout_table)
                .transpose(as_pointer<const void>(src), as_pointer<void>(dst), batch, rows, cols, element_size);
        },
        py::arg("src"), py::arg("dst"), py::arg("batch"), py::arg("rows"), py::arg("cols"), py::arg("element_size"),
        "dst[b, c, r] = src[b, r, c] for elements of 2 or 4 bytes.");
}

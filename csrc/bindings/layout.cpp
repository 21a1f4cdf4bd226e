#include "cpu/layout.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_layout(py::module_& m) {
    def_step(
        m, "transpose",
        +[](Address src, Address dst, int64_t batch, int64_t rows, int64_t cols, int element_size) {
            DLPERF_DISPATCH(layout_table)
                .transpose(as_pointer<const void>(src), as_pointer<void>(dst), batch, rows, cols, element_size);
        },
        py::arg("src"), py::arg("dst"), py::arg("batch"), py::arg("rows"), py::arg("cols"), py::arg("element_size"),
        "dst[b, c, r] = src[b, r, c] for elements of 2 or 4 bytes.");
    def_step(
        m, "concatenate",
        +[](Address dst, int64_t rows, Address a, int64_t a_bytes, Address b, int64_t b_bytes, Address c,
            int64_t c_bytes, Address d, int64_t d_bytes) {
            const void* src[] = {as_pointer<void>(a), as_pointer<void>(b), as_pointer<void>(c), as_pointer<void>(d)};
            const int64_t bytes[] = {a_bytes, b_bytes, c_bytes, d_bytes};
            DLPERF_DISPATCH(layout_table).concatenate(src, bytes, 4, as_pointer<void>(dst), rows);
        },
        py::arg("dst"), py::arg("rows"), py::arg("a"), py::arg("a_bytes"), py::arg("b"), py::arg("b_bytes"),
        py::arg("c") = 0, py::arg("c_bytes") = 0, py::arg("d") = 0, py::arg("d_bytes") = 0,
        "Rows of up to four sources side by side; bytes are those of a source's row.");
    def_step(
        m, "pad",
        +[](Address src, Address dst, int64_t n, int64_t h, int64_t w, int64_t bytes, int64_t top, int64_t bottom,
            int64_t left, int64_t right) {
            DLPERF_DISPATCH(layout_table)
                .pad(as_pointer<void>(src), as_pointer<void>(dst), n, h, w, bytes, {top, bottom, left, right});
        },
        py::arg("src"), py::arg("dst"), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("bytes"), py::arg("top"),
        py::arg("bottom"), py::arg("left"), py::arg("right"),
        "dst[n, top + h + bottom, left + w + right]: src, zero around it; bytes are a pixel's.");
    def_step(
        m, "copy_rows",
        +[](Address src, int64_t step, Address dst, int64_t rows, int64_t bytes) {
            DLPERF_DISPATCH(layout_table)
                .copy_rows(as_pointer<const void>(src), step, as_pointer<void>(dst), rows, bytes);
        },
        py::arg("src"), py::arg("step"), py::arg("dst"), py::arg("rows"), py::arg("bytes"),
        "Rows of `bytes` bytes, `step` bytes apart in src and next to each other in dst.");
}

#include "cpu/gemm.h"

#include "bindings/steps.h"

using namespace dlperf;

void bind_gemm(py::module_& m) {
    py::class_<GemmShape>(m, "GemmShape")
        .def(py::init([](int64_t batch, int64_t m, int64_t n, int64_t k, int64_t a_batch, int64_t a_row, int64_t a_col,
                         int64_t b_batch, int64_t b_row, int64_t b_col, int64_t c_batch, int64_t c_row, int64_t r_batch,
                         int64_t r_row, int64_t r_col, int dtype, int act, float act_param, float alpha, float beta,
                         bool bias_per_row) {
                 return GemmShape{batch,    m,         n,       k,     a_batch,     a_row, a_col, b_batch,
                                  b_row,    b_col,     c_batch, c_row, r_batch,     r_row, r_col, DType(dtype),
                                  Act(act), act_param, alpha,   beta,  bias_per_row};
             }),
             py::arg("batch"), py::arg("m"), py::arg("n"), py::arg("k"), py::arg("a_batch"), py::arg("a_row"),
             py::arg("a_col"), py::arg("b_batch"), py::arg("b_row"), py::arg("b_col"), py::arg("c_batch"),
             py::arg("c_row"), py::arg("r_batch") = 0, py::arg("r_row") = 0, py::arg("r_col") = 1, py::arg("dtype") = 0,
             py::arg("act") = 0, py::arg("act_param") = 0.0f, py::arg("alpha") = 1.0f, py::arg("beta") = 1.0f,
             py::arg("bias_per_row") = false);

    m.def(
        "gemm_workspace_bytes",
        [](const GemmShape& s, int64_t threads, bool prepacked) {
            return DLPERF_DISPATCH_BF16(gemm_table).workspace_bytes(s, threads, prepacked);
        },
        py::arg("shape"), py::arg("threads"), py::arg("prepacked") = false);
    def_step(
        m, "gemm",
        +[](const GemmShape& s, Address a, Address b, Address bias, Address residual, Address c, Address workspace,
            int64_t threads, bool prepacked) {
            DLPERF_DISPATCH_BF16(gemm_table)
                .run(s, as_pointer<void>(a), as_pointer<void>(b), as_pointer<void>(bias), as_pointer<void>(residual),
                     as_pointer<void>(c), as_pointer<void>(workspace), threads, prepacked);
        },
        py::arg("shape"), py::arg("a"), py::arg("b"), py::arg("bias"), py::arg("residual"), py::arg("c"),
        py::arg("workspace"), py::arg("threads"), py::arg("prepacked") = false);
    m.def("gemm_pack_bytes", [](const GemmShape& s) { return DLPERF_DISPATCH_BF16(gemm_table).pack_bytes(s); });
    m.def("gemm_pack_b", [](const GemmShape& s, Address b, Address packed) {
        py::gil_scoped_release release;
        DLPERF_DISPATCH_BF16(gemm_table).pack_b(s, as_pointer<void>(b), as_pointer<void>(packed));
    });
    def_step(
        m, "sum_rows", +[](int64_t rows, int64_t columns, int64_t row_step, int dtype, Address x, Address out) {
            DLPERF_DISPATCH_BF16(gemm_table)
                .sum_rows(rows, columns, row_step, DType(dtype), as_pointer<void>(x), as_pointer<void>(out));
        });
}

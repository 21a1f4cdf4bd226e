#include "cpu/attention.h"

#include <array>

#include "bindings/steps.h"

using namespace dlperf;

using Strides = std::array<int64_t, 3>;

static void set(int64_t (&to)[3], const Strides& from) {
    for (int i = 0; i < 3; ++i) to[i] = from[i];
}

void bind_attention(py::module_& m) {
    py::class_<AttentionShape>(m, "AttentionShape")
        .def(py::init([](int64_t batch, int64_t heads, int64_t kv_heads, int64_t sq, int64_t sk, int64_t e, int64_t ev,
                         Strides q, Strides k, Strides v, Strides out, std::array<int64_t, 4> mask, int dtype,
                         int mask_kind, bool causal, float scale, double dropout_p) {
                 AttentionShape s{};
                 s.batch = batch, s.heads = heads, s.kv_heads = kv_heads;
                 s.sq = sq, s.sk = sk, s.e = e, s.ev = ev;
                 set(s.q, q), set(s.k, k), set(s.v, v), set(s.out, out);
                 for (int i = 0; i < 4; ++i) s.mask[i] = mask[i];
                 s.dtype = DType(dtype), s.mask_kind = MaskKind(mask_kind);
                 s.causal = causal, s.scale = scale, s.dropout_p = dropout_p;
                 return s;
             }),
             py::arg("batch"), py::arg("heads"), py::arg("kv_heads"), py::arg("sq"), py::arg("sk"), py::arg("e"),
             py::arg("ev"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::arg("mask"), py::arg("dtype"),
             py::arg("mask_kind"), py::arg("causal"), py::arg("scale"), py::arg("dropout_p"));
    py::class_<AttentionGradShape>(m, "AttentionGradShape")
        .def(py::init([](const AttentionShape& forward, Strides d_out, Strides dq, Strides dk, Strides dv) {
                 AttentionGradShape g{};
                 g.forward = forward;
                 set(g.d_out, d_out), set(g.dq, dq), set(g.dk, dk), set(g.dv, dv);
                 return g;
             }),
             py::arg("forward"), py::arg("d_out"), py::arg("dq"), py::arg("dk"), py::arg("dv"));
    m.attr("ATTENTION_MAX_HEAD_DIM") = kAttentionMaxHeadDim;

    m.def("attention_forward_bytes", [](const AttentionShape& s, int threads) {
        return DLPERF_DISPATCH_BF16(attention_table).forward_bytes(s, threads);
    });
    m.def("attention_backward_bytes", [](const AttentionGradShape& g, int threads) {
        return DLPERF_DISPATCH_BF16(attention_table).backward_bytes(g, threads);
    });
    def_step(
        m, "attention_forward",
        +[](const AttentionShape& s, Address q, Address k, Address v, Address mask, Address rng, Address out,
            Address stats, Address workspace, int threads) {
            const AttentionTensors t{as_pointer<void>(q), as_pointer<void>(k), as_pointer<void>(v),
                                     as_pointer<void>(mask), as_pointer<int64_t>(rng)};
            DLPERF_DISPATCH_BF16(attention_table)
                .forward(s, t, as_pointer<void>(out), as_pointer<float>(stats), as_pointer<void>(workspace), threads);
        },
        py::arg("shape"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("rng"), py::arg("out"),
        py::arg("stats"), py::arg("workspace"), py::arg("threads"));
    def_step(
        m, "attention_backward",
        +[](const AttentionGradShape& g, Address q, Address k, Address v, Address mask, Address rng, Address out,
            Address stats, Address d_out, Address dq, Address dk, Address dv, Address d_scores, Address workspace,
            int threads) {
            const AttentionTensors t{as_pointer<void>(q), as_pointer<void>(k), as_pointer<void>(v),
                                     as_pointer<void>(mask), as_pointer<int64_t>(rng)};
            DLPERF_DISPATCH_BF16(attention_table)
                .backward(g, t, as_pointer<void>(out), as_pointer<float>(stats), as_pointer<void>(d_out),
                          as_pointer<void>(dq), as_pointer<void>(dk), as_pointer<void>(dv), as_pointer<float>(d_scores),
                          as_pointer<void>(workspace), threads);
        },
        py::arg("shape"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("rng"), py::arg("out"),
        py::arg("stats"), py::arg("d_out"), py::arg("dq"), py::arg("dk"), py::arg("dv"), py::arg("d_scores"),
        py::arg("workspace"), py::arg("threads"));
}

#include "cuda/attention.h"

#include "cuda/bindings/bindings.h"

using namespace dlperf::cuda;

void bind_attention(py::module_& m) {
    py::class_<Heads>(m, "Heads").def(py::init([](Address data, int64_t batch, int64_t head, int64_t row) {
        return Heads{at(data), batch, head, row};
    }));
    py::class_<Attention>(m, "Attention")
        .def(py::init([](int batches, int heads, int kv_heads, int queries, int keys, int dimension, bool causal,
                         float scale, int type, const Heads& q, const Heads& k, const Heads& v, const Heads& out,
                         Address stats) {
            Attention call = {};
            call.batches = batches, call.heads = heads, call.kv_heads = kv_heads;
            call.queries = queries, call.keys = keys, call.dimension = dimension;
            call.causal = causal, call.scale = scale, call.type = Type(type);
            call.q = q, call.k = k, call.v = v, call.out = out;
            call.stats = at<float>(stats);
            return call;
        }));
    m.def("attention_forward", [](const Device& device, const Attention& call) {
        py::gil_scoped_release release;
        attention_forward(call, device);
    });
    m.def("attention_backward", [](const Device& device, Attention call, const Heads& go, const Heads& gq,
                                   const Heads& gk, const Heads& gv, Address delta) {
        call.go = go, call.gq = gq, call.gk = gk, call.gv = gv;
        call.delta = at<float>(delta);
        py::gil_scoped_release release;
        attention_backward(call, device);
    });
}

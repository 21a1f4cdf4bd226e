#include "bindings/steps.h"

PYBIND11_MODULE(_C, m) {
    m.doc() = "dlperf's CPU kernels on raw addresses. Use dlperf.nn or dlperf.ops, which check their arguments.";
    bind_isa(m);
    bind_sequence(m);
    bind_watch(m);
    bind_layout(m);
    bind_memory(m);
    bind_batch_norm(m);
    bind_pool(m);
    bind_attention(m);
    bind_gemm(m);
    bind_conv(m);
    bind_ceiling(m);
    bind_elementwise(m);
    bind_glu(m);
    bind_loss(m);
    bind_random(m);
    bind_softmax(m);
    bind_row_norm(m);
    bind_group_norm(m);
    bind_diffusion(m);
    bind_upsample(m);
    bind_gather(m);
    bind_recurrent(m);
}

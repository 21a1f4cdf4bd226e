#include "cuda/product.cuh"

namespace dlperf::cuda {
namespace {

template <class T, Major A, Major B>
void run_wgmma(const Gemm& g, const Call& call, const Plan& plan, const Epilogue& e) {
    WgmmaProblem<MatrixSource<A, B>, MatrixPlace> p;
    p.source.a = A == Major::k ? encode(matrix_map(g.a, g.k, g.m, g.batches, g.a_stride, g.a_batch, kTileRows))
                               : encode(matrix_map(g.a, g.m, g.k, g.batches, g.a_stride, g.a_batch, kTileDepth));
    const int rows_b = plan.block_n / plan.cluster();
    p.source.b = B == Major::k ? encode(matrix_map(g.b, g.k, g.n, g.batches, g.b_stride, g.b_batch, rows_b))
                               : encode(matrix_map(g.b, g.n, g.k, g.batches, g.b_stride, g.b_batch, kTileDepth));
    p.steps = ceil_div(g.k, kTileDepth);
    p.schedule = schedule_of(plan, g.m, ceil_div(g.n, plan.block_n), g.batches);
    p.place = {g.m, g.n, g.n, g.residual_stride};
    p.epilogue = e;
    launch_wgmma<T>(call, plan, p);
}

template <class T, class A, class B>
void run_mma(const Gemm& g, const Call& call, const Plan& plan, const Epilogue& e) {
    MmaProblem<T, A, B, MatrixPlace> p = {static_cast<const T*>(g.a),
                                          static_cast<const T*>(g.b),
                                          {g.m, g.k, g.a_stride},
                                          {g.n, g.k, g.b_stride},
                                          g.a_batch,
                                          g.b_batch,
                                          ceil_div(g.k, kStep),
                                          schedule_of(plan, g.m, ceil_div(g.n, plan.block_n), g.batches),
                                          {g.m, g.n, g.n, g.residual_stride},
                                          e};
    launch_mma(call, plan, p);
}

template <class T>
void run(const Gemm& g, const Device& device) {
    const Plan plan = plan_gemm(device, g.m, g.n, g.k, g.batches, g.moments != nullptr);
    const int64_t size = int64_t(g.m) * g.n;
    const Epilogue e = {g.bias,           g.residual, g.c,    g.workspace,  size,
                        g.residual_batch, g.alpha,    g.beta, g.activation, {g.moments, g.m, g.n, moment_rows(plan)}};
    const Call call = {"gemm",
                       std::to_string(g.batches) + " x " + std::to_string(g.m) + " x " + std::to_string(g.n) + " x " +
                           std::to_string(g.k),
                       device};
    if (plan.hopper) {
        if (g.a_along_k && g.b_along_k)
            run_wgmma<T, Major::k, Major::k>(g, call, plan, e);
        else if (g.a_along_k)
            run_wgmma<T, Major::k, Major::mn>(g, call, plan, e);
        else if (g.b_along_k)
            run_wgmma<T, Major::mn, Major::k>(g, call, plan, e);
        else
            run_wgmma<T, Major::mn, Major::mn>(g, call, plan, e);
    } else {
        if (g.a_along_k && g.b_along_k)
            run_mma<T, RowsAlongK, RowsAlongK>(g, call, plan, e);
        else if (g.a_along_k)
            run_mma<T, RowsAlongK, ColumnsAcrossK>(g, call, plan, e);
        else if (g.b_along_k)
            run_mma<T, ColumnsAcrossK, RowsAlongK>(g, call, plan, e);
        else
            run_mma<T, ColumnsAcrossK, ColumnsAcrossK>(g, call, plan, e);
    }
    const MatrixPlace place = {g.m, g.n, g.n, g.residual_stride};
    join_parts<T>(call, plan, schedule_of(plan, g.m, ceil_div(g.n, plan.block_n), g.batches), place, e);
}

}  // namespace

void gemm(const Gemm& call, const Device& device) {
    if (call.type == Type::bf16)
        run<bf16>(call, device);
    else
        run<f16>(call, device);
}

}  // namespace dlperf::cuda

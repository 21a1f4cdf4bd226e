// Attention backward: a block of keys walks the blocks of queries and recomputes P from the saved statistics.
//
// DLPERF_HAS_AVX512_BF16_VARIANT: there, products of bfloat16 are of pairs, with P and its gradient rounded to
// bfloat16, and `scale` is left to their results.
#include "cpu/attention_backward.h"
#include "cpu/attention_tiles.h"

namespace dlperf::DLPERF_ISA_NS::attention {

#if DLPERF_ISA_LEVEL >= 4
// Defined in attention_tiles_backward_kernel.cpp. False where the magnitudes don't allow it: nothing is computed then.
int64_t tiles_backward_floats(const AttentionGradShape&, int threads);
bool tiles_backward(const AttentionGradShape&, const AttentionTensors&, const void* out, const float* stats,
                    const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads);
#endif

namespace {

struct Layout : BackwardTasks {
    int64_t e_step, v_step;
    int64_t dq, scratch;  // floats: of one task's dQ, of one thread

    Layout(const AttentionShape&, int threads);
    int64_t floats(int threads) const { return delta + dq_parts * dq + threads * scratch; }
};

Layout::Layout(const AttentionShape& s, int threads) : BackwardTasks(s, threads) {
    e_step = round_up(s.e, Vec::W);
    v_step = round_up(s.ev, Vec::W);
    dq = round_up(group * s.sq * e_step, 16);
    // Kt, Vt, K, dK, dV of a key block; Q, dO, P, dS of a query block, and pairs of rows of Q, dO, dS; a row of the
    // mask and one of dropout.
    scratch = kKeys * (round_up(s.e, 16) + round_up(s.ev, 16) + 2 * e_step + v_step) + 6 * kQueries * kLd + 2 * kKeys;
    scratch = round_up(scratch, 16);
}

template <class T>
struct Backward {
    static constexpr Unit unit = unit_of<T>;

    const AttentionGradShape& g;
    const AttentionShape& s;
    const AttentionTensors& t;
    const T *out, *d_out;
    const float* stats;
    T *dq, *dk, *dv;
    float* d_scores;
    Layout l;
    Dropout dropout;
    float *delta, *dq_parts, *scratches;

    // All of one task's key blocks; dq_acc [group][Sq][e_step].
    void task(int64_t head, int64_t chunk, float* dq_acc, float* scratch) const {
        const int64_t b = head / s.kv_heads, kv = head % s.kv_heads, e_step = l.e_step, v_step = l.v_step;
        for (int64_t i = 0; i < l.group * s.sq * e_step; i += Vec::W) Vec::zero().store(dq_acc + i);
        float *kt = scratch, *vt = kt + kKeys * round_up(s.e, 16), *k = vt + kKeys * round_up(s.ev, 16);
        float *dk_acc = k + kKeys * e_step, *dv_acc = dk_acc + kKeys * e_step, *rest = dv_acc + kKeys * v_step;
        for (int64_t j = chunk; j < l.blocks; j += l.chunks) {
            const int64_t k0 = j * kKeys, n = least(kKeys, s.sk - k0);
            const T* k_rows = static_cast<const T*>(t.k) + b * s.k[0] + kv * s.k[1] + k0 * s.k[2];
            const T* v_rows = static_cast<const T*>(t.v) + b * s.v[0] + kv * s.v[1] + k0 * s.v[2];
            pack_keys(k_rows, v_rows, n, kt, vt, k);
            for (int64_t i = 0; i < n * e_step; i += Vec::W) Vec::zero().store(dk_acc + i);
            for (int64_t i = 0; i < n * v_step; i += Vec::W) Vec::zero().store(dv_acc + i);
            for (int64_t i = 0; i < l.group; ++i) {
                for (int64_t q0 = s.causal ? k0 / kQueries * kQueries : 0; q0 < s.sq; q0 += kQueries) {
                    const int64_t h = kv * l.group + i;
                    block(b, h, q0, k0, n, kt, vt, k, dk_acc, dv_acc, dq_acc + (i * s.sq + q0) * e_step, rest);
                }
            }
            T* dk_rows = dk + b * g.dk[0] + kv * g.dk[1] + k0 * g.dk[2];
            T* dv_rows = dv + b * g.dv[0] + kv * g.dv[1] + k0 * g.dv[2];
            for (int64_t i = 0; i < n; ++i) {
                store_row(dk_acc + i * e_step, s.e, result_scale(), dk_rows + i * g.dk[2]);
                store_row(dv_acc + i * v_step, s.ev, 1.0f, dv_rows + i * g.dv[2]);
            }
        }
    }

    // What is left to multiply sums of products of Q, K and dS by.
    float result_scale() const { return unit == Unit::pair ? s.scale : 1.0f; }

    void pack_keys(const T* k_rows, const T* v_rows, int64_t n, float* kt, float* vt, float* k) const {
        for (int64_t p = 0; p < n; p += kPanel) {
            const int64_t keys = least(kPanel, n - p);
            if constexpr (unit == Unit::single) {
                pack_transposed(k_rows + p * s.k[2], s.k[2], keys, s.e, kt + p * s.e);
                pack_transposed(v_rows + p * s.v[2], s.v[2], keys, s.ev, vt + p * s.ev);
            } else {
#if DLPERF_ISA_LEVEL >= 3
                pack_key_pairs(k_rows + p * s.k[2], s.k[2], keys, s.e, kt + p * units<T>(s.e));
                pack_key_pairs(v_rows + p * s.v[2], s.v[2], keys, s.ev, vt + p * units<T>(s.ev));
#endif
            }
        }
        if constexpr (unit == Unit::single) {
            load_rows(k_rows, s.k[2], n, s.e, s.scale, k, l.e_step);
        } else {
#if DLPERF_ISA_LEVEL >= 3
            pack_value_pairs(k_rows, s.k[2], n, s.e, k, l.e_step);
#endif
        }
    }

    // Q and dO of some rows: as the left side of products, and (where these are not the same) as the right side.
    void pack_queries(const T* q_rows, const T* go_rows, int64_t rows, float* q, float* go, float* q_right,
                      float* go_right) const {
        const int64_t go_step = g.d_out[2];
        if constexpr (unit == Unit::single) {
            load_rows(q_rows, s.q[2], rows, s.e, s.scale, q, kLd);
            load_rows(go_rows, go_step, rows, s.ev, 1.0f, go, kLd);
        } else {
#if DLPERF_ISA_LEVEL >= 3
            copy_pairs(q_rows, s.q[2], rows, s.e, q, kLd);
            copy_pairs(go_rows, go_step, rows, s.ev, go, kLd);
            pack_value_pairs(q_rows, s.q[2], rows, s.e, q_right, kLd);
            pack_value_pairs(go_rows, go_step, rows, s.ev, go_right, kLd);
#endif
        }
    }

    // One block of queries against one block of keys.
    void block(int64_t b, int64_t h, int64_t q0, int64_t k0, int64_t n, const float* kt, const float* vt,
               const float* k, float* dk_acc, float* dv_acc, float* dq_acc, float* scratch) const {
        const int64_t rows = least(kQueries, s.sq - q0), width = round_up(n, Vec::W), row0 = (b * s.heads + h) * s.sq;
        float *q = scratch, *go = q + kQueries * kLd, *p = go + kQueries * kLd, *ds = p + kQueries * kLd;
        constexpr int64_t half = kQueries / 2 * kLd;
        float *q_right = ds + kQueries * kLd, *go_right = q_right + half, *ds_left = go_right + half;
        float *mask = ds_left + 2 * half, *factors = mask + kKeys;
        pack_queries(static_cast<const T*>(t.q) + b * s.q[0] + h * s.q[1] + q0 * s.q[2],
                     d_out + b * g.d_out[0] + h * g.d_out[1] + q0 * g.d_out[2], rows, q, go, q_right, go_right);
        const int64_t e = units<T>(s.e), ev = units<T>(s.ev), row_units = units<T>(rows);
        product<Side::rows, unit>(rows, width / Vec::W, e, q, kt, kPanel, kPanel * e, p, kLd, false);
        product<Side::rows, unit>(rows, width / Vec::W, ev, go, vt, kPanel, kPanel * ev, ds, kLd, false);
        const bool masked = s.mask_kind != MaskKind::none;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t row = row0 + q0 + i, visible = s.causal ? least(n, q0 + i + 1 - k0) : n;
            float *p_row = p + i * kLd, *ds_row = ds + i * kLd;
            if (masked && (i == 0 || s.mask[2] != 0)) load_mask(s, t.mask, b, h, q0 + i, k0, n, mask);
            if (unit == Unit::pair) scale_row(p_row, s.scale, width);
            probabilities_row(p_row, visible, width, masked ? mask : nullptr, stats + 2 * row);
            if (dropout.on && visible > 0) {
                dropout.load_factors(uint64_t(row * s.sk + k0), visible, factors);
                multiply(ds_row, factors, visible);
            }
            const Vec d = Vec::set1(delta[row]);
            for (int64_t j = 0; j < width; j += Vec::W) {
                (Vec::load(p_row + j) * (Vec::load(ds_row + j) - d)).store(ds_row + j);
            }
            if (dropout.on && visible > 0) multiply(p_row, factors, visible);
            if (d_scores) {
                float* to = d_scores + row * s.sk + k0;
                for (int64_t j = 0; j < n; j += Vec::W) store_some(to + j, Vec::load(ds_row + j), n - j);
            }
        }
        if constexpr (unit == Unit::single) {
            q_right = q, go_right = go, ds_left = ds;
        } else {
#if DLPERF_ISA_LEVEL >= 3
            round_to_row_pairs(p, kLd, rows, width, p);
            round_to_row_pairs(ds, kLd, rows, width, ds_left);
            for (int64_t i = 0; i < rows; ++i) round_to_pairs(ds + i * kLd, width);
#endif
        }
        product<Side::columns, unit>(n, l.v_step / Vec::W, row_units, p, go_right, kLd, kPanel, dv_acc, l.v_step, true);
        product<Side::columns, unit>(n, l.e_step / Vec::W, row_units, ds_left, q_right, kLd, kPanel, dk_acc, l.e_step,
                                     true);
        product<Side::rows, unit>(rows, l.e_step / Vec::W, units<T>(n), ds, k, l.e_step, kPanel, dq_acc, l.e_step,
                                  true);
    }

    void run(int threads) const {
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            float* scratch = scratches + me * l.scratch;
            run_tasks(
                l, s, me, dq_parts, l.dq,
                [&](int64_t begin, int64_t end) { rows_delta(g, out, d_out, begin, end, delta); },
                [&](int64_t head, int64_t chunk, float* part) { task(head, chunk, part, scratch); },
                [&](int64_t head, int64_t begin, int64_t end, const float* parts) {
                    store_dq(g, head, begin, end, parts, l.chunks, l.dq, s.sq * l.e_step, l.e_step, result_scale(), dq);
                });
        }
    }
};

}  // namespace

int64_t backward_bytes(const AttentionGradShape& g, int threads) {
    int64_t floats = Layout(g.forward, threads).floats(threads);
#if DLPERF_ISA_LEVEL >= 4
    if (uses_tiles(g.forward)) floats = max64(floats, tiles_backward_floats(g, threads));
#endif
    return 4 * floats;
}

void backward(const AttentionGradShape& g, const AttentionTensors& t, const void* out, const float* stats,
              const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads) {
    const AttentionShape& s = g.forward;
#if DLPERF_ISA_LEVEL >= 4
    if (uses_tiles(s) && tiles_backward(g, t, out, stats, d_out, dq, dk, dv, d_scores, workspace, threads)) return;
#endif
    const Layout l(s, threads);
    float* delta = static_cast<float*>(workspace);
    float *dq_parts = delta + l.delta, *scratches = dq_parts + l.dq_parts * l.dq;
    DLPERF_DTYPE_SWITCH(s.dtype, Backward<T>{g, s, t, static_cast<const T*>(out), static_cast<const T*>(d_out), stats,
                                             static_cast<T*>(dq), static_cast<T*>(dk), static_cast<T*>(dv), d_scores, l,
                                             Dropout(s, t.rng), delta, dq_parts, scratches}
                                     .run(threads));
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

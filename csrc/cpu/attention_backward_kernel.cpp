// Attention backward: a block of keys walks the blocks of queries and recomputes P from the saved statistics.
//
// DLPERF_HAS_AVX512_BF16_VARIANT: there, products of bfloat16 are of pairs, with P and its gradient rounded to
// bfloat16, and `scale` is left to their results.
//
// A task is one key-value head and every `chunks`-th of its key blocks; it owns those rows of dK and dV. dQ is summed
// in float32 per task and the tasks' parts are added in order, so results do not depend on timing.
#include "cpu/attention_softmax.h"
#include "cpu/parallel.h"

namespace dlperf::DLPERF_ISA_NS::attention {

namespace {

struct Layout {
    int64_t heads, group, blocks, chunks, tasks;
    int64_t e_step, v_step;
    int64_t delta, dq, scratch;  // floats: of all rows, of one task's dQ, of one thread
    int64_t dq_parts;            // one per thread where a task has a whole head, else one per task
};

Layout layout(const AttentionShape& s, int threads) {
    Layout l;
    l.heads = s.batch * s.kv_heads;
    l.group = s.kv_heads ? s.heads / s.kv_heads : 0;
    l.blocks = (s.sk + kKeys - 1) / kKeys;
    // Few heads: their keys are split until the tasks fill the threads evenly.
    l.chunks = 1;
    while (l.chunks < l.blocks && l.chunks < threads) {
        const int64_t tasks = l.heads * l.chunks, rounds = (tasks + threads - 1) / threads;
        if (tasks * 8 >= rounds * threads * 7) break;
        ++l.chunks;
    }
    l.tasks = l.heads * l.chunks;
    l.e_step = round_up(s.e, Vec::W);
    l.v_step = round_up(s.ev, Vec::W);
    l.delta = round_up(s.batch * s.heads * s.sq, 16);
    l.dq = round_up(l.group * s.sq * l.e_step, 16);
    l.dq_parts = l.chunks == 1 ? threads : l.tasks;
    // Kt, Vt, K, dK, dV of a key block; Q, dO, P, dS of a query block, and pairs of rows of Q, dO, dS; a row of the
    // mask and one of dropout.
    l.scratch =
        kKeys * (round_up(s.e, 16) + round_up(s.ev, 16) + 2 * l.e_step + l.v_step) + 6 * kQueries * kLd + 2 * kKeys;
    l.scratch = round_up(l.scratch, 16);
    return l;
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

    // delta = rowsum(dO * O)
    void rows_delta(int64_t begin, int64_t end) const {
        for (int64_t r = begin; r < end; ++r) {
            const int64_t bh = r / s.sq, q = r % s.sq, b = bh / s.heads, h = bh % s.heads;
            const T* o = out + b * s.out[0] + h * s.out[1] + q * s.out[2];
            const T* d = d_out + b * g.d_out[0] + h * g.d_out[1] + q * g.d_out[2];
            Vec sum = Vec::zero();
            for (int64_t i = 0; i < s.ev; i += Vec::W) {
                sum = fma(load_some(o + i, s.ev - i), load_some(d + i, s.ev - i), sum);
            }
            delta[r] = sum.sum();
        }
    }

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

    // dQ of rows of one key-value head's group: the chunks' parts in order.
    void store_dq(int64_t head, int64_t begin, int64_t end, const float* parts) const {
        const int64_t b = head / s.kv_heads, kv = head % s.kv_heads;
        const Vec factor = Vec::set1(result_scale());
        for (int64_t r = begin; r < end; ++r) {
            const float* part = parts + r * l.e_step;
            T* to = dq + b * g.dq[0] + (kv * l.group + r / s.sq) * g.dq[1] + r % s.sq * g.dq[2];
            for (int64_t i = 0; i < s.e; i += Vec::W) {
                Vec sum = Vec::load(part + i);
                for (int64_t c = 1; c < l.chunks; ++c) sum = sum + Vec::load(part + c * l.dq + i);
                store_some(to + i, factor * sum, s.e - i);
            }
        }
    }

    void run(int threads) const {
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            float* scratch = scratches + me * l.scratch;
            const Range mine = split(s.batch * s.heads * s.sq, omp_get_num_threads(), me);
            rows_delta(mine.begin, mine.end);
#pragma omp barrier
            if (l.chunks == 1) {
#pragma omp for schedule(dynamic)
                for (int64_t head = 0; head < l.heads; ++head) {
                    task(head, 0, dq_parts + me * l.dq, scratch);
                    store_dq(head, 0, l.group * s.sq, dq_parts + me * l.dq);
                }
            } else {
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < l.tasks; ++i) task(i / l.chunks, i % l.chunks, dq_parts + i * l.dq, scratch);
                for (int64_t head = 0; head < l.heads; ++head) {
                    const Range rows = split(l.group * s.sq, omp_get_num_threads(), me);
                    store_dq(head, rows.begin, rows.end, dq_parts + head * l.chunks * l.dq);
                }
            }
        }
    }
};

}  // namespace

int64_t backward_bytes(const AttentionGradShape& g, int threads) {
    const Layout l = layout(g.forward, threads);
    return 4 * (l.delta + l.dq_parts * l.dq + threads * l.scratch);
}

void backward(const AttentionGradShape& g, const AttentionTensors& t, const void* out, const float* stats,
              const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads) {
    const AttentionShape& s = g.forward;
    const Layout l = layout(s, threads);
    float* delta = static_cast<float*>(workspace);
    float *dq_parts = delta + l.delta, *scratches = dq_parts + l.dq_parts * l.dq;
    DLPERF_DTYPE_SWITCH(s.dtype, Backward<T>{g, s, t, static_cast<const T*>(out), static_cast<const T*>(d_out), stats,
                                             static_cast<T*>(dq), static_cast<T*>(dk), static_cast<T*>(dv), d_scores, l,
                                             Dropout(s, t.rng), delta, dq_parts, scratches}
                                     .run(threads));
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

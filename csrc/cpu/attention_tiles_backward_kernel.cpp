// Attention backward on AMX's tiles, by the plain backward's tasks; the scale is left to the results.
// DLPERF_AMX_ONLY
//
// dK and dV are summed as their transposes, Q^T dS and dO^T P: a slab of 32 queries is one step of these products, and
// P and dS leave the registers as B's units.
#include "cpu/attention_backward.h"
#include "cpu/attention_tiles.h"

namespace dlperf::DLPERF_ISA_NS::attention {

namespace {

constexpr float kLog2E = 1.44269504f;

// Floats of each part of the scratch of a thread.
template <bool Thirds>
struct Layout : BackwardTasks {
    int64_t e_step, v_step;
    int64_t q_step, go_step, turned_step, ds_step;  // of rows of A: Q, dO, their transposes, dS
    int64_t q_rows;                                 // of dQ, per head
    int64_t kt, vt, k, dk, dv;                      // K^T, V^T, K, dK^T, dV^T of a key block
    int64_t q, go, qt, got, p;                      // Q, dO, Q^T, dO^T, P (and dS) of a query block
    int64_t ds;                                     // dS of a slab; scores and dP are kSlab * kLd
    int64_t dq, scratch;

    Layout(const AttentionShape& s, int threads) : BackwardTasks(s, threads) {
        e_step = round_up(s.e, Vec::W), v_step = round_up(s.ev, Vec::W);
        q_step = row_step<Thirds>(s.e), go_step = row_step<Thirds>(s.ev);
        turned_step = row_step<Thirds>(kQueries), ds_step = row_step<Thirds>(kKeys);
        q_rows = round_up(s.sq, kSlab);
        kt = units_of<Thirds>(s.e) * kKeys, vt = units_of<Thirds>(s.ev) * kKeys;
        k = units_of<Thirds>(kKeys) * e_step;
        dk = e_step * kLd, dv = v_step * kLd;
        q = kQueries * q_step, go = kQueries * go_step;
        qt = e_step * turned_step, got = v_step * turned_step;
        p = units_of<Thirds>(kQueries) * kLd;
        ds = kSlab * ds_step;
        dq = group * q_rows * e_step;
        scratch = kt + vt + k + dk + dv + q + go + qt + got + 2 * p + ds + 2 * kSlab * kLd + 3 * (kKeys + kStepRun);
    }
    int64_t floats(int threads) const { return delta + dq_parts * dq + threads * scratch; }
};

// Of one query and a block of keys.
struct Row {
    const float *scores, *dp;  // dP before dropout
    const float* factors;      // dropout's, or null
    float* d_scores;           // null where not wanted
    float* ds;                 // becomes a row of A
    int64_t visible;
    float maximum, log_sum, delta;  // of the softmax; log_sum in base 2
};

// The masked and scaled scores of one row less its maximum, as P; and dS.
template <bool Thirds, bool Extras>
static DLPERF_INLINE void gradients(const Row& row, int64_t j, Vec scale, Vec& p, Vec& ds) {
    const int64_t left = row.visible - j;
    const Mask lanes = left >= Vec::W ? Mask(0xffff) : left > 0 ? Vec::first(int(left)) : Mask(0);
    const Vec x = fma(Vec::load(row.scores + j), scale, Vec::set1(-row.maximum));
    p = power_below<Thirds>(fma(x, Vec::set1(kLog2E), Vec::set1(-row.log_sum)), lanes);
    Vec dp = Vec::load(row.dp + j);
    if constexpr (Extras) {
        if (row.factors) dp = dp * Vec::load(row.factors + j);
    }
    ds = select(lanes, p * (dp - Vec::set1(row.delta)), Vec::zero());
    if constexpr (Extras) {
        if (row.factors) p = select(lanes, p * Vec::load(row.factors + j), Vec::zero());
    }
}

// Two rows of one unit: P and dS as B's units [width], dS as rows of A as far as `near`.
template <bool Thirds, bool Extras>
static void gradient_rows(const Row (&rows)[2], float scale, int64_t near, int64_t width, int64_t keys, float* p_unit,
                          float* ds_unit, Seen& seen) {
    const Vec by = Vec::set1(scale);
    constexpr int64_t out_step = (Thirds ? kThirds : 1) * kTileUnits;
    for (int64_t j = 0; j < near; j += kStepRun) {
        Vec p[2][2], ds[2][2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
            for (int r = 0; r < 2; ++r) {
                gradients<Thirds, Extras>(rows[r], j + i * Vec::W, by, p[r][i], ds[r][i]);
                if constexpr (Thirds) seen.add(ds[r][i]);
            }
            put_unit<Thirds>(p[0][i], p[1][i], p_unit + j + i * Vec::W, kLd);
            put_unit<Thirds>(ds[0][i], ds[1][i], ds_unit + j + i * Vec::W, kLd);
        }
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
            put_row<Thirds>(ds[r][0], ds[r][1], rows[r].ds + j / kStepRun * out_step);
            if constexpr (Extras) {
                if (!rows[r].d_scores) continue;
                store_some(rows[r].d_scores + j, ds[r][0], keys - j);
                if (keys - j > Vec::W) store_some(rows[r].d_scores + j + Vec::W, ds[r][1], keys - j - Vec::W);
            }
        }
    }
    for (int64_t j = near; j < width; j += Vec::W) {
        put_unit<Thirds>(Vec::zero(), Vec::zero(), p_unit + j, kLd);
        put_unit<Thirds>(Vec::zero(), Vec::zero(), ds_unit + j, kLd);
        if constexpr (Extras) {
            for (int r = 0; r < 2; ++r) {
                if (rows[r].d_scores && j < keys) store_some(rows[r].d_scores + j, Vec::zero(), keys - j);
            }
        }
    }
}

template <class T>
struct TileBackward {
    static constexpr bool thirds = kThirdsOf<T>;

    const AttentionGradShape& g;
    const AttentionShape& s;
    const AttentionTensors& t;
    const T *out, *d_out;
    const float* stats;
    T *dq, *dk, *dv;
    float* d_scores;
    Layout<thirds> l;
    Dropout dropout;
    float *delta, *dq_parts, *scratches;
    bool* unfit;

    void check(const Seen& seen) const {
        if (thirds && seen.unfit()) __atomic_store_n(unfit, true, __ATOMIC_RELAXED);
    }
    bool gives_up() const { return thirds && __atomic_load_n(unfit, __ATOMIC_RELAXED); }

    struct KeyBlock {
        int64_t b, kv, k0, n;
        float *kt, *vt, *k, *dk, *dv;
        bool fresh;  // nothing is in dk and dv
    };

    void pack_keys(const KeyBlock& at) const {
        const T* k = static_cast<const T*>(t.k) + at.b * s.k[0] + at.kv * s.k[1] + at.k0 * s.k[2];
        const T* v = static_cast<const T*>(t.v) + at.b * s.v[0] + at.kv * s.v[1] + at.k0 * s.v[2];
        Seen seen, values;
        for (int64_t p = 0; p < at.n; p += kPanel) {
            const int64_t keys = least(kPanel, at.n - p);
            pack_panel_turned<thirds>(k + p * s.k[2], s.k[2], keys, s.e, at.kt + p * units_of<thirds>(s.e), seen);
            pack_panel_turned<thirds>(v + p * s.v[2], s.v[2], keys, s.ev, at.vt + p * units_of<thirds>(s.ev), values);
        }
        seen.add_factor(values.together());
        pack_straight<thirds>(k, s.k[2], at.n, s.e, at.k, l.e_step, seen);
        check(seen);
    }

    // dst[n][width] = the transpose of src[width][kLd], in the storage type.
    static void store_turned(const float* src, int64_t n, int64_t width, float factor, T* dst, int64_t dst_step) {
        const Vec f = Vec::set1(factor);
        for (int64_t j = 0; j < n; j += Vec::W) {
            for (int64_t d = 0; d < width; d += Vec::W) {
                Vec r[Vec::W];
#pragma GCC unroll 16
                for (int i = 0; i < Vec::W; ++i) r[i] = f * Vec::load(src + (d + i) * kLd + j);
                attention::transpose(r);
                for (int i = 0; i < least(Vec::W, n - j); ++i)
                    store_some(dst + (j + i) * dst_step + d, r[i], width - d);
            }
        }
    }

    // All of one task's key blocks; dq_acc [group][q_rows][e_step].
    void task(int64_t head, int64_t chunk, float* dq_acc, float* scratch) const {
        KeyBlock at;
        at.b = head / s.kv_heads, at.kv = head % s.kv_heads;
        at.kt = scratch, at.vt = at.kt + l.kt, at.k = at.vt + l.vt, at.dk = at.k + l.k, at.dv = at.dk + l.dk;
        // The first block of keys meets all queries.
        if (chunk > 0 || l.blocks == 0) {
            for (int64_t i = 0; i < l.dq; i += Vec::W) Vec::zero().store(dq_acc + i);
        }
        for (int64_t j = chunk; j < l.blocks && !gives_up(); j += l.chunks) {
            at.k0 = j * kKeys, at.n = least(kKeys, s.sk - at.k0);
            at.fresh = true;
            pack_keys(at);
            for (int64_t i = 0; i < l.group; ++i) {
                for (int64_t q0 = s.causal ? at.k0 / kQueries * kQueries : 0; q0 < s.sq; q0 += kQueries) {
                    block(at, at.kv * l.group + i, q0, dq_acc + (i * l.q_rows + q0) * l.e_step, at.dv + l.dv);
                    at.fresh = false;
                }
            }
            for (int64_t i = 0; at.fresh && i < l.dk + l.dv; i += Vec::W) Vec::zero().store(at.dk + i);
            store_turned(at.dk, at.n, s.e, s.scale, dk + at.b * g.dk[0] + at.kv * g.dk[1] + at.k0 * g.dk[2], g.dk[2]);
            store_turned(at.dv, at.n, s.ev, 1.0f, dv + at.b * g.dv[0] + at.kv * g.dv[1] + at.k0 * g.dv[2], g.dv[2]);
        }
    }

    // One block of queries against one block of keys.
    void block(const KeyBlock& at, int64_t h, int64_t q0, float* dq_acc, float* scratch) const {
        const int64_t rows = least(kQueries, s.sq - q0);
        float *q = scratch, *go = q + l.q, *qt = go + l.go, *got = qt + l.qt, *p = got + l.got, *ds_units = p + l.p;
        float *ds = ds_units + l.p, *scores = ds + l.ds, *dp = scores + kSlab * kLd, *rest = dp + kSlab * kLd;
        const T* q_rows = static_cast<const T*>(t.q) + at.b * s.q[0] + h * s.q[1] + q0 * s.q[2];
        const T* go_rows = d_out + at.b * g.d_out[0] + h * g.d_out[1] + q0 * g.d_out[2];
        Seen seen;
        pack_rows<thirds>(q_rows, s.q[2], rows, s.e, q, l.q_step, seen);
        pack_rows<thirds>(go_rows, g.d_out[2], rows, s.ev, go, l.go_step, seen);
        pack_rows_turned<thirds>(q_rows, s.q[2], rows, s.e, qt, l.turned_step, seen);
        pack_rows_turned<thirds>(go_rows, g.d_out[2], rows, s.ev, got, l.turned_step, seen);

        if (s.mask_kind != MaskKind::none && s.mask[2] == 0) load_mask(s, t.mask, at.b, h, 0, at.k0, at.n, rest);
        const int64_t width = round_up(at.n, kStepRun);
        for (int64_t i0 = 0; i0 < rows; i0 += kSlab) {
            const int64_t slab = least(kSlab, rows - i0), query = q0 + i0, unit0 = units_of<thirds>(i0);
            // Keys that some query of the slab sees.
            const int64_t n = s.causal ? least(at.n, query + slab - at.k0) : at.n, vecs = (n + Vec::W - 1) / Vec::W;
            tile_product<thirds>(slab, vecs, steps_of(s.e), q + i0 * l.q_step, l.q_step, at.kt, kPanel,
                                 units_of<thirds>(s.e) * kPanel, scores, kLd, false);
            tile_product<thirds>(slab, vecs, steps_of(s.ev), go + i0 * l.go_step, l.go_step, at.vt, kPanel,
                                 units_of<thirds>(s.ev) * kPanel, dp, kLd, false);
            for (int64_t u = 0; u < kTileUnits; ++u) {
                const int64_t first = thirds ? u : 2 * u, second = thirds ? u + kTileUnits : first + 1;
                unit(at, h, query, first, second, slab, n, width, scores, dp, ds, p + (unit0 + u) * kLd,
                     ds_units + (unit0 + u) * kLd, rest, seen);
            }
            if (n <= 0) continue;
            tile_product<thirds>(slab, l.e_step / Vec::W, steps_of(n), ds, l.ds_step, at.k, l.e_step, kPanel,
                                 dq_acc + i0 * l.e_step, l.e_step, at.k0 > 0);
        }
        check(seen);
        const int64_t vecs = width / Vec::W;
        tile_product<thirds>(s.ev, vecs, steps_of(rows), got, l.turned_step, p, kLd, kPanel, at.dv, kLd, !at.fresh);
        tile_product<thirds>(s.e, vecs, steps_of(rows), qt, l.turned_step, ds_units, kLd, kPanel, at.dk, kLd,
                             !at.fresh);
    }

    // P and dS of two of a slab's queries, where they exist.
    DLPERF_INLINE void unit(const KeyBlock& at, int64_t h, int64_t query, int64_t first, int64_t second, int64_t slab,
                            int64_t n, int64_t width, float* scores, float* dp, float* ds, float* p_unit,
                            float* ds_unit, float* rest, Seen& seen) const {
        const bool masked = s.mask_kind != MaskKind::none;
        float *mask = rest, *factors = rest + kKeys + kStepRun;
        Row row[2];
        for (int r = 0; r < 2; ++r) {
            const int64_t i = r ? second : first, q = query + i, at_row = (at.b * s.heads + h) * s.sq + q;
            const bool exists = i < slab;
            Row& it = row[r];
            it = {scores + i * kLd, dp + i * kLd, nullptr, nullptr, ds + i * l.ds_step, 0, 0, 0, 0};
            if (!exists) continue;
            it.visible = s.causal ? least(at.n, q + 1 - at.k0) : at.n;
            it.maximum = stats[2 * at_row], it.log_sum = kLog2E * stats[2 * at_row + 1], it.delta = delta[at_row];
            if (d_scores) it.d_scores = d_scores + at_row * s.sk + at.k0;
            if (it.visible <= 0) continue;
            if (masked) {
                if (s.mask[2] != 0) load_mask(s, t.mask, at.b, h, q, at.k0, at.n, mask);
                mask_row(scores + i * kLd, it.visible, s.scale, mask);
            }
            if (dropout.on) {
                float* own = factors + r * (kKeys + kStepRun);
                dropout.load_factors(uint64_t(at_row * s.sk + at.k0), it.visible, own);
                it.factors = own;
            }
        }
        const int64_t near = n > 0 ? round_up(n, kStepRun) : 0;
        const float scale = masked ? 1.0f : s.scale;
        if (dropout.on || d_scores) {
            gradient_rows<thirds, true>(row, scale, near, width, at.n, p_unit, ds_unit, seen);
        } else {
            gradient_rows<thirds, false>(row, scale, near, width, at.n, p_unit, ds_unit, seen);
        }
    }

    // False where magnitudes don't allow parts: then all is to be done as floats.
    bool run(int threads) const {
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            float* scratch = scratches + me * l.scratch;
            TileScope scope;
            run_tasks(
                l, s, me, dq_parts, l.dq,
                [&](int64_t begin, int64_t end) { rows_delta(g, out, d_out, begin, end, delta); },
                [&](int64_t head, int64_t chunk, float* part) { task(head, chunk, part, scratch); },
                [&](int64_t head, int64_t begin, int64_t end, const float* parts) {
                    store_dq(g, head, begin, end, parts, l.chunks, l.dq, l.q_rows * l.e_step, l.e_step, s.scale, dq);
                });
        }
        return !*unfit;
    }
};

}  // namespace

int64_t tiles_backward_floats(const AttentionGradShape& g, int threads) {
    const AttentionShape& s = g.forward;
    return s.dtype == DType::bf16 ? Layout<false>(s, threads).floats(threads)
                                  : Layout<true>(s, threads).floats(threads);
}

bool tiles_backward(const AttentionGradShape& g, const AttentionTensors& t, const void* out, const float* stats,
                    const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads) {
    const AttentionShape& s = g.forward;
    bool unfit = false;
    DLPERF_DTYPE_SWITCH(s.dtype, {
        const Layout<kThirdsOf<T>> l(s, threads);
        float* delta = static_cast<float*>(workspace);
        float *dq_parts = delta + l.delta, *scratches = dq_parts + l.dq_parts * l.dq;
        TileBackward<T>{g,
                        s,
                        t,
                        static_cast<const T*>(out),
                        static_cast<const T*>(d_out),
                        stats,
                        static_cast<T*>(dq),
                        static_cast<T*>(dk),
                        static_cast<T*>(dv),
                        d_scores,
                        l,
                        Dropout(s, t.rng),
                        delta,
                        dq_parts,
                        scratches,
                        &unfit}
            .run(threads);
    });
    return !unfit;
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

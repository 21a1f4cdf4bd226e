// Attention forward on AMX's tiles: DLPERF_AMX_ONLY.
#include "cpu/attention_tiles.h"

#include <cmath>

#include "cpu/parallel.h"

namespace dlperf::DLPERF_ISA_NS::attention {

namespace {

constexpr float kLog2E = 1.44269504f;

// As the plain forward's, with packs as the tiles take them.
template <bool Thirds>
struct Layout {
    int64_t k_panel, v_step, k_size, v_size;
    int64_t q_step, p_step;  // of rows of A
    int64_t q, p, acc, scratch, packs;
    bool per_head;

    Layout(const AttentionShape& s, int threads) {
        const int64_t panels = (s.sk + kPanel - 1) / kPanel;
        k_panel = units_of<Thirds>(s.e) * kPanel;
        v_step = round_up(s.ev, Vec::W);
        k_size = panels * k_panel;
        v_size = panels * units_of<Thirds>(kPanel) * v_step;
        q_step = row_step<Thirds>(s.e);
        p_step = Thirds ? row_step<true>(kKeys) : kLd;
        q = kQueries * q_step;
        p = Thirds ? kSlab * p_step : 0;
        acc = kQueries * v_step;
        scratch = q + kSlab * kLd + p + acc + 2 * (kKeys + Vec::W);
        const int64_t heads = s.batch * s.kv_heads, rounds = (heads + threads - 1) / threads;
        per_head = heads * 8 >= rounds * threads * 7;
        packs = per_head ? threads : heads;
    }
    int64_t floats(int threads) const { return packs * (k_size + v_size) + threads * scratch; }
};

template <class T>
struct TileForward {
    static constexpr bool thirds = kThirdsOf<T>;

    const AttentionShape& s;
    const AttentionTensors& t;
    T* out;
    float* stats;
    Layout<thirds> l;
    Dropout dropout;
    float* packs;
    float* scratches;
    bool folds;  // a positive scale is left to the exponential
    bool* unfit;

    float* keys_of(int64_t pack) const { return packs + pack * (l.k_size + l.v_size); }
    float* values_of(int64_t pack) const { return keys_of(pack) + l.k_size; }

    void check(const Seen& seen) const {
        if (thirds && seen.unfit()) __atomic_store_n(unfit, true, __ATOMIC_RELAXED);
    }
    bool gives_up() const { return thirds && __atomic_load_n(unfit, __ATOMIC_RELAXED); }

    void pack_panel(int64_t b, int64_t h, int64_t panel, int64_t pack) const {
        const int64_t k0 = panel * kPanel, n = least(kPanel, s.sk - k0);
        const T* k = static_cast<const T*>(t.k) + b * s.k[0] + h * s.k[1] + k0 * s.k[2];
        const T* v = static_cast<const T*>(t.v) + b * s.v[0] + h * s.v[1] + k0 * s.v[2];
        Seen seen;
        pack_panel_turned<thirds>(k, s.k[2], n, s.e, keys_of(pack) + panel * l.k_panel, seen);
        pack_straight<thirds>(v, s.v[2], n, s.ev, values_of(pack) + units_of<thirds>(k0) * l.v_step, l.v_step, seen);
        check(seen);
    }

    // Scores of one row become its part of A for the product with the values.
    void softmax(int64_t b, int64_t h, int64_t i, int64_t k0, int64_t n, int64_t visible, float* row, const float* mask,
                 float* factors, float* p, float* acc, RunningSoftmax& state) const {
        if (mask) {
            mask_row(row, visible, s.scale, mask);
        } else if (!folds) {
            scale_row(row, s.scale, visible);
        }
        const float factor = mask || !folds ? kLog2E : s.scale * kLog2E, before = state.maximum;
        const float seen = largest_of_row(row, visible), maximum = seen > before ? seen : before;
        const float base = maximum == -kInfinity ? 0.0f : maximum;
        const int64_t steps = steps_of(n);
        float sum;
        if (dropout.on && visible > 0) {
            dropout.load_factors(uint64_t(((b * s.heads + h) * s.sq + i) * s.sk + k0), visible, factors);
            sum = weights_row<thirds, true>(row, visible, steps, base, factor, factors, p);
        } else {
            sum = weights_row<thirds, false>(row, visible, steps, base, factor, nullptr, p);
        }
        const float correction = maximum == before ? (maximum == kInfinity ? before - maximum : 1.0f)
                                                   : power_below((before - maximum) * factor);
        state.maximum = maximum;
        state.sum = state.sum * correction + sum;
        if (k0 > 0 && correction != 1.0f) scale_row(acc, correction, l.v_step);
    }

    void block(int64_t b, int64_t h, int64_t q0, int64_t pack, float* scratch) const {
        const int64_t rows = least(kQueries, s.sq - q0), v_vecs = l.v_step / Vec::W;
        float *q = scratch, *scores = q + l.q, *parts = scores + kSlab * kLd, *acc = parts + l.p;
        float *mask = acc + l.acc, *factors = mask + kKeys + Vec::W, *p = thirds ? parts : scores;
        const float *keys = keys_of(pack), *values = values_of(pack);
        const bool masked = s.mask_kind != MaskKind::none;
        RunningSoftmax state[kQueries];
        Seen in_queries;
        pack_rows<thirds>(static_cast<const T*>(t.q) + b * s.q[0] + h * s.q[1] + q0 * s.q[2], s.q[2], rows, s.e, q,
                          l.q_step, in_queries);
        check(in_queries);
        if (gives_up()) return;

        const int64_t seen = s.causal ? least(s.sk, q0 + rows) : s.sk;
        const int64_t blocks = (seen + kKeys - 1) / kKeys;
        const int64_t block_keys = blocks ? round_up((seen + blocks - 1) / blocks, kPanel) : 0;
        for (int64_t k0 = 0; k0 < seen; k0 += block_keys) {
            for (int64_t i0 = 0; i0 < rows; i0 += kSlab) {
                const int64_t slab = least(kSlab, rows - i0);
                const int64_t n = least(least(block_keys, seen - k0), s.causal ? q0 + i0 + slab - k0 : s.sk);
                if (n <= 0) continue;
                tile_product<thirds>(slab, (n + Vec::W - 1) / Vec::W, steps_of(s.e), q + i0 * l.q_step, l.q_step,
                                     keys + k0 / kPanel * l.k_panel, kPanel, l.k_panel, scores, kLd, false);
                for (int64_t i = 0; i < slab; ++i) {
                    const int64_t query = q0 + i0 + i, visible = s.causal ? least(n, query + 1 - k0) : n;
                    if (masked && (i == 0 || s.mask[2] != 0)) load_mask(s, t.mask, b, h, query, k0, n, mask);
                    softmax(b, h, query, k0, n, visible, scores + i * kLd, masked ? mask : nullptr, factors,
                            p + i * l.p_step, acc + (i0 + i) * l.v_step, state[i0 + i]);
                }
                tile_product<thirds>(slab, v_vecs, steps_of(n), p, l.p_step, values + units_of<thirds>(k0) * l.v_step,
                                     l.v_step, kPanel, acc + i0 * l.v_step, l.v_step, k0 > 0);
            }
        }
        if (seen <= 0) {
            for (int64_t i = 0; i < rows * l.v_step; i += Vec::W) Vec::zero().store(acc + i);
        }
        T* o = out + b * s.out[0] + h * s.out[1] + q0 * s.out[2];
        float* saved = stats + 2 * ((b * s.heads + h) * s.sq + q0);
        const float unit = masked || !folds ? 1.0f : s.scale;
        for (int64_t i = 0; i < rows; ++i) {
            const bool empty = state[i].sum == 0;
            store_row(acc + i * l.v_step, s.ev, empty ? 0.0f : 1.0f / state[i].sum, o + i * s.out[2]);
            saved[2 * i] = empty ? 0.0f : unit * state[i].maximum;
            saved[2 * i + 1] = empty ? kInfinity : logf(state[i].sum);
        }
    }

    // False where some row or column can't be cut into parts: then all is to be done as floats.
    bool run(int threads) const {
        const int64_t heads = s.batch * s.kv_heads, group = s.kv_heads ? s.heads / s.kv_heads : 0;
        const int64_t panels = (s.sk + kPanel - 1) / kPanel, blocks = (s.sq + kQueries - 1) / kQueries;
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            float* scratch = scratches + me * l.scratch;
            TileScope scope;
            if (l.per_head) {
#pragma omp for schedule(dynamic)
                for (int64_t head = 0; head < heads; ++head) {
                    const int64_t b = head / s.kv_heads, h = head % s.kv_heads;
                    for (int64_t p = 0; p < panels; ++p) pack_panel(b, h, p, me);
                    for (int64_t i = 0; i < group * blocks; ++i) {
                        block(b, h * group + i / blocks, i % blocks * kQueries, me, scratch);
                    }
                }
            } else {
#pragma omp for schedule(static)
                for (int64_t i = 0; i < heads * panels; ++i) {
                    const int64_t head = i / panels;
                    pack_panel(head / s.kv_heads, head % s.kv_heads, i % panels, head);
                }
                // Last blocks first: under a causal mask they are the longest.
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < s.batch * s.heads * blocks; ++i) {
                    const int64_t bh = i / blocks, b = bh / s.heads, h = bh % s.heads;
                    block(b, h, (blocks - 1 - i % blocks) * kQueries, b * s.kv_heads + h / group, scratch);
                }
            }
        }
        return !*unfit;
    }
};

}  // namespace

int64_t tiles_forward_bytes(const AttentionShape& s, int threads) {
    return 4 * (s.dtype == DType::bf16 ? Layout<false>(s, threads).floats(threads)
                                       : Layout<true>(s, threads).floats(threads));
}

bool tiles_forward(const AttentionShape& s, const AttentionTensors& t, void* out, float* stats, void* workspace,
                   int threads) {
    bool unfit = false;
    DLPERF_DTYPE_SWITCH(s.dtype, {
        const Layout<kThirdsOf<T>> l(s, threads);
        float* packs = static_cast<float*>(workspace);
        float* scratches = packs + l.packs * (l.k_size + l.v_size);
        return TileForward<T>{s,     t,         static_cast<T*>(out), stats, l, Dropout(s, t.rng),
                              packs, scratches, s.scale > 0,          &unfit}
            .run(threads);
    });
    return false;
}

}  // namespace dlperf::DLPERF_ISA_NS::attention

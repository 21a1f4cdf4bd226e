// Attention forward: a block of queries walks the blocks of keys with a running softmax.
// DLPERF_HAS_AVX512_BF16_VARIANT: there, products of bfloat16 are of pairs, with the probabilities rounded to bfloat16.
#include <cmath>

#include "cpu/attention_tiles.h"
#include "cpu/parallel.h"

namespace dlperf::DLPERF_ISA_NS {
namespace attention {

// Defined in attention_backward_kernel.cpp.
int64_t backward_bytes(const AttentionGradShape&, int threads);
void backward(const AttentionGradShape&, const AttentionTensors&, const void* out, const float* stats,
              const void* d_out, void* dq, void* dk, void* dv, float* d_scores, void* workspace, int threads);

#if DLPERF_ISA_LEVEL >= 4
// Defined in attention_tiles_kernel.cpp. False where the inputs' magnitudes don't allow it: nothing is computed then.
int64_t tiles_forward_bytes(const AttentionShape&, int threads);
bool tiles_forward(const AttentionShape&, const AttentionTensors&, void* out, float* stats, void* workspace,
                   int threads);
#endif

namespace {

constexpr int64_t kValueDepth = 128;  // keys per pass over the values: they stay in the first-level cache

// Where one head's packed keys and values lie, and what one thread works in, in floats from the workspace's start.
struct Layout {
    int64_t v_step, k_size, v_size, scratch, packs;
    bool per_head;    // each thread packs whole heads for itself; else the team packs all heads first
    int64_t queries;  // of a block, at most kQueries
};

Layout layout(const AttentionShape& s, int threads) {
    Layout l;
    l.v_step = round_up(s.ev, Vec::W);
    l.k_size = round_up(round_up(s.sk, kPanel) * s.e, 16);
    l.v_size = round_up(s.sk * l.v_step, 16);
    l.scratch = 2 * kQueries * kLd + kQueries * l.v_step + 2 * kKeys;
    const int64_t heads = s.batch * s.kv_heads, rounds = (heads + threads - 1) / threads;
    l.per_head = heads * 8 >= rounds * threads * 7;
    l.packs = l.per_head ? threads : heads;
    // Where blocks are few, as many for each thread.
    const int64_t all = s.batch * s.heads;
    int64_t blocks = max64(1, (s.sq + kQueries - 1) / kQueries);
    const bool few = !l.per_head && all * blocks < 4 * threads;
    while (few && all * blocks % threads != 0) ++blocks;
    l.queries = few ? least(kQueries, round_up((s.sq + blocks - 1) / blocks, kMr[kMaxVecs])) : kQueries;
    return l;
}

int64_t forward_bytes(const AttentionShape& s, int threads) {
    const Layout l = layout(s, threads);
    int64_t bytes = 4 * (l.packs * (l.k_size + l.v_size) + threads * l.scratch);
#if DLPERF_ISA_LEVEL >= 4
    if (uses_tiles(s)) bytes = max64(bytes, tiles_forward_bytes(s, threads));
#endif
    return bytes;
}

template <class T>
struct Forward {
    static constexpr Unit unit = unit_of<T>;

    const AttentionShape& s;
    const AttentionTensors& t;
    T* out;
    float* stats;
    Layout l;
    Dropout dropout;
    float* packs;
    float* scratches;

    float* keys_of(int64_t pack) const { return packs + pack * (l.k_size + l.v_size); }
    float* values_of(int64_t pack) const { return keys_of(pack) + l.k_size; }

    void pack_panel(int64_t b, int64_t h, int64_t panel, int64_t pack) const {
        const int64_t k0 = panel * kPanel, n = least(kPanel, s.sk - k0);
        const T* k = static_cast<const T*>(t.k) + b * s.k[0] + h * s.k[1] + k0 * s.k[2];
        const T* v = static_cast<const T*>(t.v) + b * s.v[0] + h * s.v[1] + k0 * s.v[2];
        float *keys = keys_of(pack) + k0 * units<T>(s.e), *values = values_of(pack) + units<T>(k0) * l.v_step;
        if constexpr (unit == Unit::single) {
            pack_transposed(k, s.k[2], n, s.e, keys);
            load_rows(v, s.v[2], n, s.ev, 1.0f, values, l.v_step);
        } else {
#if DLPERF_ISA_LEVEL >= 3
            pack_key_pairs(k, s.k[2], n, s.e, keys);
            pack_value_pairs(v, s.v[2], n, s.ev, values, l.v_step);
#endif
        }
    }

    // Queries times scale. Pairs are rounded, so by a power of two only: another scale is left to the scores.
    void load_queries(const T* q, int64_t step, int64_t rows, float* out) const {
        if constexpr (unit == Unit::single) {
            load_rows(q, step, rows, s.e, s.scale, out, kLd);
        } else {
            load_rows(q, step, rows, s.e, scales_scores() ? 1.0f : s.scale, out, kLd);
#if DLPERF_ISA_LEVEL >= 3
            for (int64_t i = 0; i < rows; ++i) round_to_pairs(out + i * kLd, round_up(s.e, Vec::W));
#endif
        }
    }

    bool scales_scores() const {
        int exponent;
        return unit == Unit::pair && std::frexp(s.scale, &exponent) != 0.5f;
    }

    void block(int64_t b, int64_t h, int64_t q0, int64_t pack, float* scratch) const {
        const int64_t rows = least(l.queries, s.sq - q0), e = units<T>(s.e), v_vecs = l.v_step / Vec::W;
        float *q = scratch, *scores = q + kQueries * kLd, *mask = scores + kQueries * kLd, *factors = mask + kKeys;
        float* acc = factors + kKeys;
        const float *keys = keys_of(pack), *values = values_of(pack);
        const bool scales = scales_scores();
        RunningSoftmax state[kQueries];
        load_queries(static_cast<const T*>(t.q) + b * s.q[0] + h * s.q[1] + q0 * s.q[2], s.q[2], rows, q);

        const int64_t seen = s.causal ? least(s.sk, q0 + rows) : s.sk;
        const int64_t blocks = (seen + kKeys - 1) / kKeys;
        const int64_t block_keys = blocks ? round_up((seen + blocks - 1) / blocks, kPanel) : 0;
        for (int64_t k0 = 0; k0 < seen; k0 += block_keys) {
            const int64_t n = least(block_keys, seen - k0), width = round_up(n, Vec::W);
            product<Side::rows, unit>(rows, width / Vec::W, e, q, keys + k0 * e, kPanel, kPanel * e, scores, kLd,
                                      false);
            for (int64_t i = 0; i < rows; ++i) {
                const int64_t visible = s.causal ? least(n, q0 + i + 1 - k0) : n;
                float* row = scores + i * kLd;
                if (scales) scale_row(row, s.scale, width);
                const bool masked = s.mask_kind != MaskKind::none;
                if (masked && (i == 0 || s.mask[2] != 0)) load_mask(s, t.mask, b, h, q0 + i, k0, n, mask);
                const float correction = softmax_row(row, visible, width, masked ? mask : nullptr, state[i]);
                if (dropout.on && visible > 0) {
                    dropout.load_factors(uint64_t(((b * s.heads + h) * s.sq + q0 + i) * s.sk + k0), visible, factors);
                    multiply(row, factors, visible);
                }
#if DLPERF_ISA_LEVEL >= 3
                if (unit == Unit::pair) round_to_pairs(row, width);
#endif
                if (k0 > 0 && correction != 1.0f) {
                    const Vec c = Vec::set1(correction);
                    float* a = acc + i * l.v_step;
                    for (int64_t d = 0; d < l.v_step; d += Vec::W) (c * Vec::load(a + d)).store(a + d);
                }
            }
            for (int64_t d = 0; d < n; d += kValueDepth) {
                product<Side::rows, unit>(rows, v_vecs, units<T>(least(kValueDepth, n - d)), scores + units<T>(d),
                                          values + units<T>(k0 + d) * l.v_step, l.v_step, kPanel, acc, l.v_step,
                                          k0 + d > 0);
            }
        }
        if (seen <= 0) {
            for (int64_t i = 0; i < rows * l.v_step; i += Vec::W) Vec::zero().store(acc + i);
        }
        T* o = out + b * s.out[0] + h * s.out[1] + q0 * s.out[2];
        float* saved = stats + 2 * ((b * s.heads + h) * s.sq + q0);
        for (int64_t i = 0; i < rows; ++i) {
            const bool empty = state[i].sum == 0;
            store_row(acc + i * l.v_step, s.ev, empty ? 0.0f : 1.0f / state[i].sum, o + i * s.out[2]);
            saved[2 * i] = empty ? 0.0f : state[i].maximum;
            saved[2 * i + 1] = empty ? kInfinity : logf(state[i].sum);
        }
    }

    void run(int threads) const {
        const int64_t heads = s.batch * s.kv_heads, group = s.kv_heads ? s.heads / s.kv_heads : 0;
        const int64_t panels = (s.sk + kPanel - 1) / kPanel, blocks = (s.sq + l.queries - 1) / l.queries;
#pragma omp parallel num_threads(threads)
        {
            const int me = omp_get_thread_num();
            float* scratch = scratches + me * l.scratch;
            if (l.per_head) {
#pragma omp for schedule(dynamic)
                for (int64_t head = 0; head < heads; ++head) {
                    const int64_t b = head / s.kv_heads, h = head % s.kv_heads;
                    for (int64_t p = 0; p < panels; ++p) pack_panel(b, h, p, me);
                    for (int64_t i = 0; i < group * blocks; ++i) {
                        block(b, h * group + i / blocks, i % blocks * l.queries, me, scratch);
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
                    block(b, h, (blocks - 1 - i % blocks) * l.queries, b * s.kv_heads + h / group, scratch);
                }
            }
        }
    }
};

void forward(const AttentionShape& s, const AttentionTensors& t, void* out, float* stats, void* workspace,
             int threads) {
#if DLPERF_ISA_LEVEL >= 4
    if (uses_tiles(s) && tiles_forward(s, t, out, stats, workspace, threads)) return;
#endif
    const Layout l = layout(s, threads);
    float* packs = static_cast<float*>(workspace);
    float* scratches = packs + l.packs * (l.k_size + l.v_size);
    DLPERF_DTYPE_SWITCH(
        s.dtype, Forward<T>{s, t, static_cast<T*>(out), stats, l, Dropout(s, t.rng), packs, scratches}.run(threads));
}

}  // namespace
}  // namespace attention

extern const AttentionTable attention_table = {attention::forward_bytes, attention::backward_bytes, attention::forward,
                                               attention::backward};

}  // namespace dlperf::DLPERF_ISA_NS

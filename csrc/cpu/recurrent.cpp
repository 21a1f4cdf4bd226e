// The walk over the steps: a product with W_hh, packed once, and the cell's elementwise kernel; of few rows in one
// kernel.
#include "cpu/recurrent.h"

#include "cpu/gemm.h"

namespace dlperf {
namespace {

constexpr int64_t kPackFrom = 3;                   // steps from which packing W_hh pays
constexpr int64_t kMinWorkPerThread = 100 * 1000;  // multiplications

const GemmTable& products() {
    return DLPERF_DISPATCH_BF16(gemm_table);
}

const RecurrentWalkTable& walks() {
    return DLPERF_DISPATCH(recurrent_walk_table);
}

int64_t size_of(DType dtype) {
    return dtype == DType::f32 ? 4 : 2;
}

int64_t round_up_64(int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

int64_t rows_of(const RecurrentShape& s, int64_t step) {
    return s.batch_sizes != nullptr ? s.batch_sizes[step] : s.n;
}

// rows of h @ W_hh^T, or of d @ W_hh
GemmShape product_shape(const RecurrentShape& s, int64_t rows, bool backward) {
    const int64_t gates = gate_count(s.cell) * s.hidden;
    GemmShape g = {};
    g.batch = 1;
    g.m = rows;
    g.n = backward ? s.hidden : gates;
    g.k = backward ? gates : s.hidden;
    g.a_row = g.k;
    g.a_col = 1;
    g.b_row = backward ? s.hidden : 1;
    g.b_col = backward ? 1 : s.hidden;
    g.c_row = g.n;
    g.r_col = 1;
    g.dtype = s.dtype;
    g.act = Act::none;
    g.alpha = 1.0f;
    return g;
}

int64_t threads_for(const RecurrentShape& s, const GemmShape& g) {
    const int64_t useful = g.m * g.n * g.k / kMinWorkPerThread;
    return useful < 1 ? 1 : useful < s.threads ? useful : s.threads;
}

struct Workspace {
    bool packed;               // here, if not beforehand
    int64_t pack, product, z;  // bytes
};

Workspace plan(const RecurrentShape& s, bool backward, bool prepacked) {
    Workspace w = {!prepacked && s.steps >= kPackFrom, 0, 0, 0};
    const GemmShape widest = product_shape(s, s.n, backward);
    if (w.packed) w.pack = round_up_64(products().pack_bytes(widest));
    int64_t seen = -1;
    for (int64_t t = 0; t < s.steps; ++t) {
        if (rows_of(s, t) == seen) continue;
        seen = rows_of(s, t);
        const GemmShape g = product_shape(s, seen, backward);
        const int64_t bytes = round_up_64(products().workspace_bytes(g, threads_for(s, g), w.packed || prepacked));
        if (bytes > w.product) w.product = bytes;
    }
    if (!backward) w.z = round_up_64(s.n * widest.n * size_of(s.dtype));
    return w;
}

struct Product {
    const RecurrentShape& s;
    Workspace w;
    bool backward, packed;
    const void* weight;
    char* workspace;

    Product(const RecurrentShape& shape, bool is_backward, const void* w_hh, bool prepacked, void* memory)
        : s(shape),
          w(plan(shape, is_backward, prepacked)),
          backward(is_backward),
          packed(w.packed || prepacked),
          weight(w_hh),
          workspace((char*)memory) {
        if (!w.packed) return;
        products().pack_b(product_shape(s, s.n, backward), w_hh, workspace);
        weight = workspace;
        workspace += w.pack;
    }
    // Every other step goes through the weights from their end, which the step before has left in the cache.
    void operator()(int64_t rows, const void* a, const void* bias, void* out, int64_t step) const {
        GemmShape g = product_shape(s, rows, backward);
        g.from_last = step % 2 != 0;
        products().run(g, a, weight, bias, nullptr, out, workspace, threads_for(s, g), packed);
    }
};

// body(first row, rows, how many steps came before) of each step, in the order of computation or against it.
template <class Body>
void for_steps(const RecurrentShape& s, bool from_last, const Body& body) {
    int64_t first = 0;
    if (from_last) {
        for (int64_t t = 0; t < s.steps; ++t) first += rows_of(s, t);
    }
    for (int64_t i = 0; i < s.steps; ++i) {
        const int64_t rows = rows_of(s, from_last ? s.steps - 1 - i : i);
        if (from_last) first -= rows;
        body(first, rows, i);
        if (!from_last) first += rows;
    }
}

bool in_one_walk(const RecurrentShape& s, bool prepacked) {
    return walks().serves(s) && (prepacked || s.steps >= kPackFrom);
}

int64_t walk_pack_bytes(const RecurrentShape& s, bool prepacked) {
    return prepacked ? 0 : round_up_64(walks().pack_bytes(s));
}

}  // namespace

bool recurrent_walks(const RecurrentShape& s) {
    return walks().serves(s);
}

int64_t recurrent_workspace(const RecurrentShape& s, bool backward, bool prepacked) {
    if (!backward && in_one_walk(s, prepacked)) {
        return walk_pack_bytes(s, prepacked) + s.n * gate_count(s.cell) * s.hidden * int64_t(sizeof(float));
    }
    const Workspace w = plan(s, backward, prepacked);
    return w.pack + w.product + w.z;
}

int64_t recurrent_pack_bytes(const RecurrentShape& s) {
    if (walks().serves(s)) return walks().pack_bytes(s);
    return products().pack_bytes(product_shape(s, s.n, false));
}

void recurrent_pack(const RecurrentShape& s, const void* w_hh, void* packed) {
    if (walks().serves(s)) return walks().pack(s, static_cast<const float*>(w_hh), static_cast<float*>(packed));
    products().pack_b(product_shape(s, s.n, false), w_hh, packed);
}

void recurrent_forward(const RecurrentShape& s, const RecurrentForward& f, void* workspace) {
    if (in_one_walk(s, f.prepacked)) {
        char* z = static_cast<char*>(workspace) + walk_pack_bytes(s, f.prepacked);
        RecurrentForward packed = f;
        if (!f.prepacked) {
            walks().pack(s, static_cast<const float*>(f.w_hh), static_cast<float*>(workspace));
            packed.w_hh = workspace;
        }
        return walks().forward(s, packed, reinterpret_cast<float*>(z));
    }
    const Product product(s, false, f.w_hh, f.prepacked, workspace);
    const RecurrentTable& kernels = DLPERF_DISPATCH(recurrent_table);
    const int64_t unit = s.hidden * size_of(s.dtype), gates = gate_count(s.cell) * unit;
    const int64_t kept = kept_count(s.cell) * unit;
    char* z = product.workspace + product.w.product;
    for_steps(s, s.reverse, [&](int64_t first, int64_t rows, int64_t step) {
        product(rows, f.h, f.b_hh, z, step);
        kernels.forward(s.cell, s.dtype,
                        {rows, s.hidden, (char*)f.gates + first * gates, z, f.h, f.h, f.carried,
                         (char*)f.y + first * unit, f.kept != nullptr ? (char*)f.kept + first * kept : nullptr});
    });
}

void recurrent_backward(const RecurrentShape& s, const RecurrentBackward& b, void* workspace) {
    const Product product(s, true, b.w_hh, false, workspace);
    const RecurrentTable& kernels = DLPERF_DISPATCH(recurrent_table);
    const int64_t unit = s.hidden * size_of(s.dtype), gates = gate_count(s.cell) * unit;
    const int64_t kept = kept_count(s.cell) * unit;
    const bool gru = s.cell == Cell::gru;
    for_steps(s, !s.reverse, [&](int64_t first, int64_t rows, int64_t step) {
        char *d = (char*)b.d + first * gates, *d_hidden = gru ? (char*)b.d_hidden + first * gates : d;
        kernels.backward(s.cell, s.dtype,
                         {rows, s.hidden, b.gy != nullptr ? (const char*)b.gy + first * unit : nullptr,
                          (const char*)b.gates + first * gates, (const char*)b.y + first * unit,
                          (const char*)b.kept + first * kept, b.gh, b.carried, d, d_hidden});
        product(rows, d_hidden, nullptr, b.gh, step);
    });
}

}  // namespace dlperf

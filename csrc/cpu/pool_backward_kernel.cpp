// Pooling backward, deterministic: each input gathers from the windows over it (channels last), or each plane is
// scattered into by one thread, in order (channels first). Sums are float32 whatever the storage.
#include "cpu/pool.h"
#include "cpu/pool_window.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

// Sum over the windows above position (ih, iw) of what they pass on to it; U vectors of channels.
template <PoolKind kKind, int U, class T>
static DLPERF_INLINE void gather_channels(const PoolShape& shape, const T* gy, const int32_t* indices, int64_t ih,
                                          int64_t iw, T* gx, int lanes) {
    const bool whole = U > 1 || lanes == Vec::W;
    const Vec self = bits_of(int32_t(ih * shape.w.in + iw));
    Vec sum[U];
    for (int u = 0; u < U; ++u) sum[u] = Vec::zero();
    each_window_over(shape, shape.h, ih, [&](int64_t oh) {
        each_window_over(shape, shape.w, iw, [&](int64_t ow) {
            const int64_t at = (oh * shape.w.out + ow) * shape.c;
            Vec divisor = Vec::zero();
            if (kKind == PoolKind::average) {
                divisor = Vec::set1(divisor_of(shape, window_of(shape, shape.h, oh), window_of(shape, shape.w, ow)));
            }
            for (int u = 0; u < U; ++u) {
                const T* p = gy + at + u * Vec::W;
                const Vec g = whole ? Vec::load(p) : Vec::load(p, lanes);
                if (kKind == PoolKind::average) {
                    sum[u] = sum[u] + g / divisor;
                } else {
                    const float* q = (const float*)indices + at + u * Vec::W;
                    const Vec winner = whole ? Vec::load(q) : Vec::load(q, lanes);
                    sum[u] = sum[u] + select(same_bits(winner, self), g, Vec::zero());
                }
            }
        });
    });
    for (int u = 0; u < U; ++u) whole ? sum[u].store(gx + u * Vec::W) : sum[u].store(gx, lanes);
}

template <PoolKind kKind, class T>
static void gather_channels_last(const PoolShape& shape, const T* gy, const int32_t* indices, T* gx) {
    constexpr int U = 4;
    const int64_t rows = shape.n * shape.h.in, out_image = shape.h.out * shape.w.out * shape.c;
    for_units(rows, shape.w.in * shape.c, [&](int64_t unit) {
        const int64_t n = unit / shape.h.in, ih = unit % shape.h.in;
        const T* g = gy + n * out_image;
        const int32_t* won = indices + n * out_image;
        for (int64_t iw = 0; iw < shape.w.in; ++iw) {
            T* out = gx + (unit * shape.w.in + iw) * shape.c;
            int64_t c = 0;
            for (; c + U * Vec::W <= shape.c; c += U * Vec::W) {
                gather_channels<kKind, U>(shape, g + c, won + c, ih, iw, out + c, Vec::W);
            }
            for (; c < shape.c; c += Vec::W) {
                const int lanes = c + Vec::W <= shape.c ? Vec::W : int(shape.c - c);
                gather_channels<kKind, 1>(shape, g + c, won + c, ih, iw, out + c, lanes);
            }
        }
    });
}

// Whether every input lies in exactly one window of an average.
static bool tiles_exactly(const PoolShape& shape, const PoolAxis& axis) {
    if (shape.adaptive) return axis.in % axis.out == 0;
    return axis.kernel == axis.stride && axis.padding == 0 && axis.out * axis.stride == axis.in;
}

// Windows side by side: each output's share is divided once and written to its whole window.
template <class T>
static void spread_channels_last(const PoolShape& shape, const T* gy, T* gx) {
    const int64_t rows = shape.n * shape.h.out, block = channel_block(shape, rows);
    const int64_t blocks = (shape.c + block - 1) / block;
    for_units(rows * blocks, shape.h.in / shape.h.out * shape.w.in * block, [&](int64_t unit) {
        const int64_t row = unit / blocks, n = row / shape.h.out;
        const int64_t c0 = unit % blocks * block, c1 = c0 + block < shape.c ? c0 + block : shape.c;
        const Window wy = window_of(shape, shape.h, row % shape.h.out);
        for (int64_t ow = 0; ow < shape.w.out; ++ow) {
            const Window wx = window_of(shape, shape.w, ow);
            const Vec divisor = Vec::set1(divisor_of(shape, wy, wx));
            for (int64_t c = c0; c < c1; c += Vec::W) {
                const Vec share = load_some(gy + (row * shape.w.out + ow) * shape.c + c, c1 - c) / divisor;
                for (int64_t ih = wy.begin; ih < wy.end; ++ih) {
                    T* out = gx + ((n * shape.h.in + ih) * shape.w.in + wx.begin) * shape.c + c;
                    for (int64_t iw = wx.begin; iw < wx.end; ++iw, out += shape.c) store_some(out, share, c1 - c);
                }
            }
        }
    });
}

template <PoolKind kKind, class T>
static void scatter_plane(const PoolShape& shape, const T* gy, const int32_t* indices, float* plane) {
    std::memset(plane, 0, size_t(shape.h.in * shape.w.in) * sizeof(float));
    for (int64_t oh = 0; oh < shape.h.out; ++oh) {
        const Window wy = window_of(shape, shape.h, oh);
        for (int64_t ow = 0; ow < shape.w.out; ++ow) {
            const int64_t at = oh * shape.w.out + ow;
            if (kKind == PoolKind::max) {
                plane[indices[at]] += to_float(gy[at]);
                continue;
            }
            const Window wx = window_of(shape, shape.w, ow);
            const float share = to_float(gy[at]) / divisor_of(shape, wy, wx);
            for (int64_t ih = wy.begin; ih < wy.end; ++ih) {
                float* row = plane + ih * shape.w.in;
                for (int64_t iw = wx.begin; iw < wx.end; ++iw) row[iw] += share;
            }
        }
    }
}

static inline void narrow_plane(const float*, float*, int64_t) {}

template <class T>
static void narrow_plane(const float* plane, T* out, int64_t length) {
    for (int64_t i = 0; i < length; i += Vec::W) store_some(out + i, load_some(plane + i, length - i), length - i);
}

// float32 is summed in place; narrower types in this thread's plane of the workspace.
template <PoolKind kKind, class T>
static void scatter_planes(const PoolShape& shape, const T* gy, const int32_t* indices, T* gx, float* workspace) {
    const int64_t in = shape.h.in * shape.w.in, out = shape.h.out * shape.w.out;
    for_units(shape.n * shape.c, in, [&](int64_t unit) {
        float* plane = sizeof(T) == 4 ? (float*)(gx + unit * in) : workspace + omp_get_thread_num() * in;
        scatter_plane<kKind>(shape, gy + unit * out, indices + unit * out, plane);
        narrow_plane(plane, gx + unit * in, in);
    });
}

template <PoolKind kKind, class T>
static void backward_kind(const PoolShape& shape, const T* gy, const int32_t* indices, T* gx, float* workspace) {
    if (!shape.channels_last) {
        scatter_planes<kKind>(shape, gy, indices, gx, workspace);
    } else if (kKind == PoolKind::average && tiles_exactly(shape, shape.h) && tiles_exactly(shape, shape.w)) {
        spread_channels_last(shape, gy, gx);
    } else {
        gather_channels_last<kKind>(shape, gy, indices, gx);
    }
}

int64_t workspace(const PoolShape& shape) {
    if (shape.channels_last || shape.dtype == DType::f32) return 0;
    return omp_get_max_threads() * shape.h.in * shape.w.in * int64_t(sizeof(float));
}

void backward(const PoolShape& shape, const void* gy, const int32_t* indices, void* gx, void* workspace) {
    if (shape.kind == PoolKind::max) {
        DLPERF_DTYPE_SWITCH(shape.dtype,
                            backward_kind<PoolKind::max>(shape, (const T*)gy, indices, (T*)gx, (float*)workspace));
    } else {
        DLPERF_DTYPE_SWITCH(shape.dtype,
                            backward_kind<PoolKind::average>(shape, (const T*)gy, indices, (T*)gx, (float*)workspace));
    }
}

}  // namespace

const PoolBackwardTable pool_backward_table = {workspace, backward};

}  // namespace dlperf::DLPERF_ISA_NS

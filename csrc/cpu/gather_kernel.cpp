#include "cpu/gather.h"

#include "cpu/parallel.h"
#include "cpu/span.h"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kMinBytesPerThread = 64 * 1024;

static DLPERF_INLINE int64_t element_size(DType dtype) {
    return dtype == DType::f32 ? 4 : 2;
}

int64_t embedding(const EmbeddingShape& shape, const int64_t* indices, const void* table, void* out) {
    for (int64_t i = 0; i < shape.count; ++i) {
        if (indices[i] < 0 || indices[i] >= shape.rows) return i;
    }
    const int64_t bytes = shape.cols * element_size(shape.dtype);
    parallel_for(shape.count, kMinBytesPerThread / (bytes + 1) + 1, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t i = begin; i < end; ++i) {
            std::memcpy((char*)out + i * bytes, (const char*)table + indices[i] * bytes, size_t(bytes));
        }
    });
    return -1;
}

// starts[row] to starts[row + 1]: where `order` lists the positions that looked the row up, in order.
int64_t embedding_workspace(const EmbeddingShape& shape) {
    const int64_t threads = omp_get_max_threads();
    return (shape.rows + 1 + shape.count) * 8 + threads * (shape.cols + 16) * 4 + 64;
}

template <class T>
static void embedding_backward_typed(const EmbeddingShape& shape, const int64_t* starts, const int64_t* order,
                                     const T* gy, T* gtable, float* sums) {
    const int64_t cols = shape.cols, per_row = cols * (shape.count / (shape.rows + 1) + 1);
    const int64_t stride = (cols + 15) / 16 * 16;
    parallel_for(shape.rows, kMinBytesPerThread / (per_row + 1) + 1, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        float* sum = sums + omp_get_thread_num() * stride;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t first = starts[row], last = row == shape.padding ? first : starts[row + 1];
            std::memset((void*)sum, 0, size_t(cols) * 4);
            for (int64_t k = first; k < last; ++k) {
                const T* from = gy + order[k] * cols;
                for_span(cols, [&](int64_t i, auto lanes, int)
                                   DLPERF_LAMBDA { lanes.store(sum + i, lanes.load(sum + i) + lanes.load(from + i)); });
            }
            const float scale = shape.by_frequency && last > first ? 1.0f / float(last - first) : 1.0f;
            T* to = gtable + row * cols;
            const Vec by = Vec::set1(scale);
            for_span(cols,
                     [&](int64_t i, auto lanes, int) DLPERF_LAMBDA { lanes.store(to + i, lanes.load(sum + i) * by); });
        }
    });
}

void embedding_backward(const EmbeddingShape& shape, const int64_t* indices, const void* gy, void* gtable,
                        void* workspace) {
    int64_t* starts = (int64_t*)workspace;
    int64_t* order = starts + shape.rows + 1;
    std::memset((void*)starts, 0, size_t(shape.rows + 1) * 8);
    for (int64_t i = 0; i < shape.count; ++i) ++starts[indices[i] + 1];
    for (int64_t row = 0; row < shape.rows; ++row) starts[row + 1] += starts[row];
    // Placing moves each row's start to its end, which is the next row's start: they are moved back by one at the end.
    for (int64_t i = 0; i < shape.count; ++i) order[starts[indices[i]]++] = i;
    for (int64_t row = shape.rows; row > 0; --row) starts[row] = starts[row - 1];
    starts[0] = 0;
    float* sums = (float*)((uintptr_t(order + shape.count) + 63) / 64 * 64);
    DLPERF_DTYPE_SWITCH(shape.dtype, embedding_backward_typed(shape, starts, order, (const T*)gy, (T*)gtable, sums))
}

// Calls move(in x, in y, length, stride in x, stride in y) for runs that cover all elements.
template <class Move>
static void for_shuffled_runs(const ShuffleShape& s, const Move& move) {
    const int64_t r = s.r, item = s.channels_last ? s.w * r * s.c : s.w * r;
    const int64_t items = s.channels_last ? s.n * s.h * r : s.n * s.c * s.h * r;
    parallel_for(items, kMinBytesPerThread / (item * s.element_size + 1) + 1,
                 [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
                     for (int64_t row = begin; row < end; ++row) {
                         const int64_t i = row % r, h = row / r % s.h, rest = row / r / s.h;
                         for (int64_t j = 0; j < r; ++j) {
                             if (s.channels_last) {
                                 for (int64_t w = 0; w < s.w; ++w) {
                                     move(((rest * s.h + h) * s.w + w) * s.c * r * r + i * r + j,
                                          (row * s.w * r + w * r + j) * s.c, s.c, r * r, 1);
                                 }
                             } else {
                                 move(((rest * r * r + i * r + j) * s.h + h) * s.w, row * s.w * r + j, s.w, 1, r);
                             }
                         }
                     }
                 });
}

template <class T>
static void shuffle_typed(const ShuffleShape& shape, const T* x, T* y) {
    for_shuffled_runs(shape, [=](int64_t from, int64_t to, int64_t n, int64_t step_x, int64_t step_y) DLPERF_LAMBDA {
        for (int64_t k = 0; k < n; ++k) y[to + k * step_y] = x[from + k * step_x];
    });
}

template <class T>
static void unshuffle_typed(const ShuffleShape& shape, const T* y, T* x) {
    for_shuffled_runs(shape, [=](int64_t to, int64_t from, int64_t n, int64_t step_x, int64_t step_y) DLPERF_LAMBDA {
        for (int64_t k = 0; k < n; ++k) x[to + k * step_x] = y[from + k * step_y];
    });
}

void pixel_shuffle(const ShuffleShape& shape, const void* x, void* y) {
    if (shape.element_size == 4) {
        shuffle_typed(shape, (const uint32_t*)x, (uint32_t*)y);
    } else {
        shuffle_typed(shape, (const uint16_t*)x, (uint16_t*)y);
    }
}

void pixel_unshuffle(const ShuffleShape& shape, const void* y, void* x) {
    if (shape.element_size == 4) {
        unshuffle_typed(shape, (const uint32_t*)y, (uint32_t*)x);
    } else {
        unshuffle_typed(shape, (const uint16_t*)y, (uint16_t*)x);
    }
}

}  // namespace

const GatherTable gather_table = {embedding, embedding_workspace, embedding_backward, pixel_shuffle, pixel_unshuffle};

}  // namespace dlperf::DLPERF_ISA_NS

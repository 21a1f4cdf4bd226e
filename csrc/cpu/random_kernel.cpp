#include "cpu/random.h"

#include "cpu/parallel.h"
#include "cpu/philox_vec.h"
#include "cpu/span.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kGroup = 4 * Vec::W;  // elements of one vector call
constexpr int64_t kChunk = 4096;        // elements of a thread's unit of work
constexpr int64_t kMinChunksPerThread = 2;

// body(at, count, counter): `count` elements of one sample lie from `at` on; `counter` is that of the first one's
// block.
template <class Body>
static inline void for_chunks(const RandomFill& fill, const int64_t* seed_offset, const Body& body) {
    const int64_t per_sample = (fill.elements + kChunk - 1) / kChunk;
    const uint64_t offset = uint64_t(seed_offset[1]);
    parallel_for(fill.samples * per_sample, kMinChunksPerThread, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t sample = i / per_sample, element = i % per_sample * kChunk;
            const int64_t left = fill.elements - element;
            const uint32_t number = fill.first_sample + uint32_t(sample);
            body(sample * fill.elements + element, left < kChunk ? left : kChunk,
                 philox_counter(uint64_t(element) / 4, number, fill.step, fill.stream, offset));
        }
    });
}

template <class T>
static DLPERF_INLINE void store_group(T* p, const Vec (&v)[4], int64_t count) {
    if (count >= kGroup) {
        for (int j = 0; j < 4; ++j) v[j].store(p + j * Vec::W);
    } else {
        for (int j = 0; j < 4 && count > j * Vec::W; ++j) store_some(p + j * Vec::W, v[j], count - j * Vec::W);
    }
}

void words(const RandomFill& fill, const int64_t* seed_offset, uint32_t* out) {
    const PhiloxKey key = philox_key(uint64_t(seed_offset[0]));
    for_chunks(fill, seed_offset, [&](int64_t at, int64_t count, PhiloxCounter counter) {
        for (int64_t i = 0; i < count; i += kGroup, counter.low += Vec::W) {
            Words w[4];
            philox_words<1>(key, counter, w);
            interleave(w);
            uint32_t lanes[kGroup];
            for (int j = 0; j < 4; ++j) store_words(lanes + j * Vec::W, w[j]);
            std::memcpy(out + at + i, lanes, size_t(count - i < kGroup ? count - i : kGroup) * 4);
        }
    });
}

void uniform(const RandomFill& fill, const int64_t* seed_offset, float* out) {
    const PhiloxKey key = philox_key(uint64_t(seed_offset[0]));
    for_chunks(fill, seed_offset, [&](int64_t at, int64_t count, PhiloxCounter counter) {
        for (int64_t i = 0; i < count; i += kGroup, counter.low += Vec::W) {
            Words w[4];
            Vec v[4];
            philox_integers(key, counter, w);
            for (int j = 0; j < 4; ++j) v[j] = to_vec(w[j]) * Vec::set1(0x1p-24f);
            store_group(out + at + i, v, count - i);
        }
    });
}

template <class T>
static void normal_typed(const RandomFill& fill, const int64_t* seed_offset, T* out) {
    const PhiloxKey key = philox_key(uint64_t(seed_offset[0]));
    for_chunks(fill, seed_offset, [&](int64_t at, int64_t count, PhiloxCounter counter) {
        alignas(64) float noise[kNormals];
        for (int64_t i = 0; i < count; i += kNormals, counter.low += kNormals / 4) {
            const int64_t left = count - i, some = left < kNormals ? left : kNormals;
            philox_normals(key, counter, some, noise);
            T* const to = out + at + i;
            for_span(some,
                     [&](int64_t j, auto lanes, int) DLPERF_LAMBDA { lanes.store(to + j, lanes.load(noise + j)); });
        }
    });
}

void normal(DType dtype, const RandomFill& fill, const int64_t* seed_offset, void* out) {
    DLPERF_DTYPE_SWITCH(dtype, normal_typed(fill, seed_offset, (T*)out))
}

template <class T>
static void dropout_typed(int64_t n, double p, const int64_t* seed_offset, const T* x, T* y) {
    const PhiloxKey key = philox_key(uint64_t(seed_offset[0]));
    const uint32_t threshold = dropout_threshold(p);
    const Vec scale = Vec::set1(p < 1.0 ? float(1.0 / (1.0 - p)) : 0.0f);
    const RandomFill fill = {1, n, 0, 0, RandomStream::dropout};
    for_chunks(fill, seed_offset, [&](int64_t at, int64_t count, PhiloxCounter counter) {
        for (int64_t i = 0; i < count; i += kGroup, counter.low += Vec::W) {
            Words w[4];
            Vec v[4];
            philox_integers(key, counter, w);
            for (int j = 0; j < 4; ++j) {
                const int64_t from = i + j * Vec::W;
                // Multiplied by zero, not replaced: NaN and infinity show through as in torch.
                const Vec factor = select(at_least(w[j], threshold), scale, Vec::zero());
                v[j] = from < count ? load_some(x + at + from, count - from) * factor : Vec::zero();
            }
            store_group(y + at + i, v, count - i);
        }
    });
}

void dropout(DType dtype, int64_t n, double p, const int64_t* seed_offset, const void* x, void* y) {
    DLPERF_DTYPE_SWITCH(dtype, dropout_typed(n, p, seed_offset, (const T*)x, (T*)y))
}

}  // namespace

const RandomTable random_table = {words, uniform, normal, dropout};

}  // namespace dlperf::DLPERF_ISA_NS

#include "cpu/diffusion.h"

#include "cpu/parallel.h"
#include "cpu/philox_vec.h"
#include "cpu/span.h"
#include "cpu/stream.h"

// GCC takes the undefined pass-through operands of its own AVX-512 intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace dlperf::DLPERF_ISA_NS {
namespace {

constexpr int64_t kChunk = 4096;  // elements of a thread's unit of work
constexpr int64_t kMinPerThread = 8192;

struct Coefficients {
    Vec x0_from_x, x0_from_m, from_x0, from_x, from_m, from_history, sigma, guidance;
    float clip;
    explicit Coefficients(const DiffusionCoefficients& c)
        : x0_from_x(Vec::set1(c.x0_from_x)),
          x0_from_m(Vec::set1(c.x0_from_m)),
          from_x0(Vec::set1(c.from_x0)),
          from_x(Vec::set1(c.from_x)),
          from_m(Vec::set1(c.from_m)),
          from_history(Vec::set1(c.from_history)),
          sigma(Vec::set1(c.sigma)),
          guidance(Vec::set1(c.guidance)),
          clip(c.clip) {}
};

// How a vector is stored: through the caches, or past them.
struct Cached {
    template <class Lanes, class T>
    static DLPERF_INLINE void store(Lanes lanes, T* p, Vec x) {
        lanes.store(p, x);
    }
    static DLPERF_INLINE void fence() {}
};

struct Streamed {
    template <class T>
    static DLPERF_INLINE void store(WholeVector, T* p, Vec x) {
        stream(p, x);
    }
    template <class T>
    static DLPERF_INLINE void store(PartVector lanes, T* p, Vec x) {
        lanes.store(p, x);
    }
    static DLPERF_INLINE void fence() { stream_fence(); }
};

// The element at i of everything; `noise` is already there.
template <class T, class M, class Store, class Lanes>
static DLPERF_INLINE void step_vector(const DiffusionStep& call, const Coefficients& c, int64_t i, Lanes lanes,
                                      Vec noise) {
    const Vec x = lanes.load((const T*)call.x + i);
    Vec m = lanes.load((const M*)call.model + i);
    if (call.uncond != nullptr) {
        const Vec uncond = lanes.load((const M*)call.uncond + i);
        m = fma(c.guidance, m - uncond, uncond);
    }
    const Vec x0 = clamp(fma(c.x0_from_m, m, c.x0_from_x * x), -c.clip, c.clip);
    Vec out = fma(c.from_x0, x0, c.from_x * x);
    out = fma(c.from_m, m, out);
    if (call.history != nullptr) out = fma(c.from_history, lanes.load((const T*)call.history + i), out);
    out = fma(c.sigma, noise, out);
    Store::store(lanes, (T*)call.out + i, out);
    if (call.x0 != nullptr) lanes.store((T*)call.x0 + i, x0);
}

template <class T, class M, class Store>
static void step_flat(const DiffusionStep& call, const DiffusionCoefficients& coefficients) {
    parallel_for(
        call.samples * call.elements, kMinPerThread,
        [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
            const Coefficients c(coefficients);
            for_span(end - begin, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                Vec noise = Vec::zero();
                if (call.noise != nullptr) noise = lanes.load((const T*)call.noise + begin + i);
                step_vector<T, M, Store>(call, c, begin + i, lanes, noise);
            });
            Store::fence();
        },
        64);
}

template <class T, class M>
static void step_random(const DiffusionStep& call, const DiffusionCoefficients& coefficients) {
    const PhiloxKey key = philox_key(uint64_t(call.seed_offset[0]));
    const uint64_t offset = uint64_t(call.seed_offset[1]);
    const int64_t per_sample = (call.elements + kChunk - 1) / kChunk;
    parallel_for(call.samples * per_sample, kMinPerThread / kChunk, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        const Coefficients c(coefficients);
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            const int64_t sample = chunk / per_sample, element = chunk % per_sample * kChunk;
            const int64_t left = call.elements - element, count = left < kChunk ? left : kChunk;
            const int64_t at = sample * call.elements + element;
            PhiloxCounter counter = philox_counter(uint64_t(element) / 4, call.first_sample + uint32_t(sample),
                                                   call.step, RandomStream::diffusion, offset);
            alignas(64) float noise[kNormals];
            for (int64_t i = 0; i < count; i += kNormals, counter.low += kNormals / 4) {
                const int64_t rest = count - i, some = rest < kNormals ? rest : kNormals;
                philox_normals(key, counter, some, noise);
                for_span(some, [&](int64_t j, auto lanes, int) DLPERF_LAMBDA {
                    step_vector<T, M, Cached>(call, c, at + i + j, lanes, lanes.load(noise + j));
                });
            }
        }
    });
}

template <class T, class M>
static void step_typed(const DiffusionStep& call, const DiffusionCoefficients& coefficients) {
    const int64_t bytes = call.samples * call.elements * int64_t(sizeof(T));
    if (call.seed_offset != nullptr) {
        step_random<T, M>(call, coefficients);
    } else if (bytes >= kStreamBytes && reinterpret_cast<uintptr_t>(call.out) % 64 == 0) {
        step_flat<T, M, Streamed>(call, coefficients);
    } else {
        step_flat<T, M, Cached>(call, coefficients);
    }
}

void step(const DiffusionStep& call, const DiffusionCoefficients& coefficients) {
    if (call.dtype == DType::f32) {
        DLPERF_DTYPE_SWITCH(call.model_dtype, (step_typed<float, T>(call, coefficients)))
    } else {
        DLPERF_DTYPE_SWITCH(call.dtype, (step_typed<T, T>(call, coefficients)))
    }
}

template <class T, class Store>
static void add_noise_typed(const AddNoise& call) {
    const int64_t per_sample = (call.elements + kChunk - 1) / kChunk;
    parallel_for(call.samples * per_sample, kMinPerThread / kChunk, [&](int64_t begin, int64_t end) DLPERF_NOTHROW {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            const int64_t sample = chunk / per_sample, element = chunk % per_sample * kChunk;
            const int64_t left = call.elements - element, at = sample * call.elements + element;
            const double alpha_bar = call.alpha_bar[call.timesteps[sample]];
            const float signal = float(__builtin_sqrt(alpha_bar)), spread = float(__builtin_sqrt(1.0 - alpha_bar));
            const Vec by_x = Vec::set1(call.velocity ? -spread : signal);
            const Vec by_noise = Vec::set1(call.velocity ? signal : spread);
            const T *x = (const T*)call.x + at, *noise = (const T*)call.noise + at;
            T* out = (T*)call.out + at;
            for_span(left < kChunk ? left : kChunk, [&](int64_t i, auto lanes, int) DLPERF_LAMBDA {
                Store::store(lanes, out + i, fma(by_noise, lanes.load(noise + i), by_x * lanes.load(x + i)));
            });
        }
        Store::fence();
    });
}

void add_noise(const AddNoise& call) {
    DLPERF_DTYPE_SWITCH(call.dtype, {
        const int64_t bytes = call.samples * call.elements * int64_t(sizeof(T));
        const bool aligned =
            reinterpret_cast<uintptr_t>(call.out) % 64 == 0 && call.elements * int64_t(sizeof(T)) % 64 == 0;
        if (bytes >= kStreamBytes && aligned) {
            add_noise_typed<T, Streamed>(call);
        } else {
            add_noise_typed<T, Cached>(call);
        }
    })
}

}  // namespace

const DiffusionTable diffusion_table = {step, add_noise};

}  // namespace dlperf::DLPERF_ISA_NS

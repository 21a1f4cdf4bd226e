#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dlperf {
namespace {

constexpr const char* kNames[kIsaCount] = {"scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"};

int parse(const char* name) {
    for (int i = 0; i < kIsaCount; ++i) {
        if (std::strcmp(name, kNames[i]) == 0) return i;
    }
    return -1;
}

// AMX: the processor has tiles of bfloat16, the system saves their state, and grants it to this process, which has to
// ask. Threads and forked children inherit the grant.
bool amx_granted() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kOsxsave = 1u << 27, kTileState = 3u << 17;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBf16 | kTile)) != (kBf16 | kTile)) return false;
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & kTileState) != kTileState) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

Isa detect() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return Isa::scalar;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!avx512) return Isa::avx2;
    if (!__builtin_cpu_supports("avx512bf16")) return Isa::avx512;
    return amx_granted() ? Isa::avx512_amx : Isa::avx512_bf16;
#else
    return Isa::scalar;
#endif
}

struct State {
    Isa detected = detect();
    std::atomic<int> cap{kIsaCount - 1};
    bool environment_ok = true;
    bool float32_tiles = true, float32_tiles_ok = true;
    State() {
        if (const char* value = std::getenv("DLPERF_FLOAT32_TILES"); value && *value) {
            float32_tiles = std::strcmp(value, "0") != 0;
            float32_tiles_ok = !float32_tiles || std::strcmp(value, "1") == 0;
        }
        if (const char* value = std::getenv("DLPERF_ISA"); value && *value) {
            const int level = parse(value);
            environment_ok = level >= 0;
            if (environment_ok) cap = level;
        }
    }
};

State& state() {
    static State instance;
    return instance;
}

}  // namespace

const char* isa_name(Isa isa) {
    return kNames[static_cast<int>(isa)];
}

Isa detected_isa() {
    return state().detected;
}

Isa current_isa() {
    const int cap = state().cap.load(std::memory_order_relaxed);
    const int have = static_cast<int>(state().detected);
    return static_cast<Isa>(have < cap ? have : cap);
}

bool set_isa_cap(const char* name) {
    const int level = parse(name);
    if (level < 0) return false;
    state().cap.store(level, std::memory_order_relaxed);
    return true;
}

bool isa_environment_ok() {
    return state().environment_ok;
}

bool float32_tiles() {
    return state().float32_tiles;
}

bool float32_tiles_environment_ok() {
    return state().float32_tiles_ok;
}

}  // namespace dlperf

// Instruction sets: what this machine has, what the user allows, and the per-ISA kernel tables.
//
// Every `*_kernel.cpp` is compiled once per instruction set with DLPERF_ISA_NS naming the namespace
// it lives in. A family's header declares one table of function pointers; each compilation fills the
// table of its namespace, and `DLPERF_DISPATCH` picks one at run time.
#pragma once

namespace dlperf {

// Ordered: each level includes those before it.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, avx512_amx = 4 };

constexpr int kIsaCount = 5;

const char* isa_name(Isa isa);

// The best level this processor and operating system support.
Isa detected_isa();

// min(detected_isa(), the cap last set). The cap starts at DLPERF_ISA, where that is set.
Isa current_isa();

// Caps the level. Returns false, and changes nothing, where `name` is no level's name.
bool set_isa_cap(const char* name);

// False where DLPERF_ISA held something that is no level's name when the library was loaded.
bool isa_environment_ok();

// Whether AMX's tiles may multiply float32, in parts: unless DLPERF_FLOAT32_TILES was 0 when the library was loaded.
bool float32_tiles();

// False where DLPERF_FLOAT32_TILES held neither 0 nor 1.
bool float32_tiles_environment_ok();

}  // namespace dlperf

// Declares `const Table name` in every ISA's namespace that has one: scalar, avx2, avx512.
#define DLPERF_DECLARE_TABLE(Table, name) \
    namespace dlperf::scalar {            \
    extern const Table name;              \
    }                                     \
    namespace dlperf::avx2 {              \
    extern const Table name;              \
    }                                     \
    namespace dlperf::avx512 {            \
    extern const Table name;              \
    }

// The same for families that also gain from native bfloat16 dot products, and from tiles of them (AMX).
#define DLPERF_DECLARE_TABLE_BF16(Table, name) \
    DLPERF_DECLARE_TABLE(Table, name)          \
    namespace dlperf::avx512_bf16 {            \
    extern const Table name;                   \
    }                                          \
    namespace dlperf::avx512_amx {             \
    extern const Table name;                   \
    }

#define DLPERF_DISPATCH(name)                                                  \
    (::dlperf::current_isa() >= ::dlperf::Isa::avx512 ? ::dlperf::avx512::name \
     : ::dlperf::current_isa() >= ::dlperf::Isa::avx2 ? ::dlperf::avx2::name   \
                                                      : ::dlperf::scalar::name)

#define DLPERF_DISPATCH_BF16(name)                                                         \
    (::dlperf::current_isa() >= ::dlperf::Isa::avx512_amx    ? ::dlperf::avx512_amx::name  \
     : ::dlperf::current_isa() >= ::dlperf::Isa::avx512_bf16 ? ::dlperf::avx512_bf16::name \
                                                             : DLPERF_DISPATCH(name))

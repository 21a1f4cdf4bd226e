// Products of a warpgroup (128 threads) on compute capability 9.0: wgmma, 64 rows by N columns by 16.
//
// Operands lie in shared memory in rows of 128 bytes, swizzled as the copy engine does with its 128-byte mode, and are
// named by descriptors. `Major::k`: rows of 64 values along k. `Major::mn`: rows of 64 values along m or n, one for
// each k. Accumulators: d[4 j + i] of a thread is multiply()'s c[i] at columns 8 j .. 8 j + 7, rows 16 (warp % 4) on.
#pragma once

#include "cuda/descriptor.h"
#include "cuda/hopper.cuh"

namespace dlperf::cuda {

DLPERF_DEVICE void products_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DLPERF_DEVICE void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int Pending>
DLPERF_DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps the compiler from moving uses of accumulators over a wait.
template <int Count>
DLPERF_DEVICE void pin(float (&d)[Count]) {
#pragma unroll
    for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The same of a left operand in registers.
template <int Count>
DLPERF_DEVICE void pin(uint32_t (&a)[Count][4]) {
#pragma unroll
    for (int i = 0; i < Count; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
}

// d = a b, + d where `accumulate`. A in shared memory or, in the form of multiply()'s a, in registers.
template <class T, int N>
struct Products;

// Ten accumulators from 10 t on, as the instruction's text and as its operands; t is empty for the first ten.
#define DLPERF_TEN(t) \
    "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define DLPERF_TEN_OF(t)                                                                                     \
    "+f"(d[t##0]), "+f"(d[t##1]), "+f"(d[t##2]), "+f"(d[t##3]), "+f"(d[t##4]), "+f"(d[t##5]), "+f"(d[t##6]), \
        "+f"(d[t##7]), "+f"(d[t##8]), "+f"(d[t##9])
#define DLPERF_THIRTY DLPERF_TEN() DLPERF_TEN(1) DLPERF_TEN(2)
#define DLPERF_THIRTY_OF DLPERF_TEN_OF(), DLPERF_TEN_OF(1), DLPERF_TEN_OF(2)
#define DLPERF_SIXTY DLPERF_THIRTY DLPERF_TEN(3) DLPERF_TEN(4) DLPERF_TEN(5)
#define DLPERF_SIXTY_OF DLPERF_THIRTY_OF, DLPERF_TEN_OF(3), DLPERF_TEN_OF(4), DLPERF_TEN_OF(5)
#define DLPERF_HUNDRED DLPERF_SIXTY DLPERF_TEN(6) DLPERF_TEN(7) DLPERF_TEN(8) DLPERF_TEN(9)
#define DLPERF_HUNDRED_OF DLPERF_SIXTY_OF, DLPERF_TEN_OF(6), DLPERF_TEN_OF(7), DLPERF_TEN_OF(8), DLPERF_TEN_OF(9)

#define DLPERF_ALL_64 DLPERF_THIRTY "%30, %31"
#define DLPERF_ALL_OF_64 DLPERF_THIRTY_OF, "+f"(d[30]), "+f"(d[31])
#define DLPERF_ALL_128 DLPERF_SIXTY "%60, %61, %62, %63"
#define DLPERF_ALL_OF_128 DLPERF_SIXTY_OF, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define DLPERF_ALL_144 DLPERF_SIXTY DLPERF_TEN(6) "%70, %71"
#define DLPERF_ALL_OF_144 DLPERF_SIXTY_OF, DLPERF_TEN_OF(6), "+f"(d[70]), "+f"(d[71])
#define DLPERF_ALL_208 DLPERF_HUNDRED "%100, %101, %102, %103"
#define DLPERF_ALL_OF_208 DLPERF_HUNDRED_OF, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define DLPERF_ALL_256 DLPERF_HUNDRED DLPERF_TEN(10) DLPERF_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define DLPERF_ALL_OF_256                                                                                            \
    DLPERF_HUNDRED_OF, DLPERF_TEN_OF(10), DLPERF_TEN_OF(11), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), \
        "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// i0 .. i6: the numbers of the operands after the accumulators.
#define DLPERF_PRODUCTS(TYPE, NAME, N, i0, i1, i2, i3, i4, i5, i6)                                              \
    template <>                                                                                                 \
    struct Products<TYPE, N> {                                                                                  \
        template <Major MajorA, Major MajorB>                                                                   \
        static DLPERF_DEVICE void run(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {             \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N  \
                         "k16.f32." NAME "." NAME " {" DLPERF_ALL_##N "}, %" #i0 ", %" #i1 ", p, 1, 1, %" #i3   \
                                                                      ", %" #i4 ";\n}\n"                        \
                         : DLPERF_ALL_OF_##N                                                                    \
                         : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(MajorA)), "n"(int(MajorB)));           \
        }                                                                                                       \
        template <Major MajorB>                                                                                 \
        static DLPERF_DEVICE void run(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N  \
                         "k16.f32." NAME "." NAME " {" DLPERF_ALL_##N "}, {%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 \
                                                                      "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}\n"    \
                         : DLPERF_ALL_OF_##N                                                                    \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),            \
                           "n"(int(MajorB)));                                                                   \
        }                                                                                                       \
    };
#define DLPERF_PRODUCTS_OF(TYPE, NAME)                                  \
    DLPERF_PRODUCTS(TYPE, NAME, 64, 32, 33, 34, 35, 36, 37, 38)         \
    DLPERF_PRODUCTS(TYPE, NAME, 128, 64, 65, 66, 67, 68, 69, 70)        \
    DLPERF_PRODUCTS(TYPE, NAME, 144, 72, 73, 74, 75, 76, 77, 78)        \
    DLPERF_PRODUCTS(TYPE, NAME, 208, 104, 105, 106, 107, 108, 109, 110) \
    DLPERF_PRODUCTS(TYPE, NAME, 256, 128, 129, 130, 131, 132, 133, 134)

DLPERF_PRODUCTS_OF(bf16, "bf16")
DLPERF_PRODUCTS_OF(f16, "f16")

template <class T, int N, Major MajorA, Major MajorB>
DLPERF_DEVICE void products(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
    Products<T, N>::template run<MajorA, MajorB>(d, a, b, accumulate);
}

template <class T, int N, Major MajorB>
DLPERF_DEVICE void products(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    Products<T, N>::template run<MajorB>(d, a, b, accumulate);
}

}  // namespace dlperf::cuda

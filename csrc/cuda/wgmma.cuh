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

#define DLPERF_PRODUCTS_64(TYPE, NAME)                                                                             \
    template <>                                                                                                    \
    struct Products<TYPE, 64> {                                                                                    \
        template <Major MajorA, Major MajorB>                                                                      \
        static DLPERF_DEVICE void run(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {                   \
            asm volatile(                                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                       \
                "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME                                        \
                " "                                                                                                \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"                                           \
                ", %32, %33, p, 1, 1, %35, %36;\n}\n"                                                              \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),  \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),         \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),       \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),       \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                                            \
                : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(MajorA)), "n"(int(MajorB)));                       \
        }                                                                                                          \
        template <Major MajorB>                                                                                    \
        static DLPERF_DEVICE void run(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool accumulate) {       \
            asm volatile(                                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                       \
                "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME                                        \
                " "                                                                                                \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"                                           \
                ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"                                                  \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),  \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),         \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),       \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),       \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                                            \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(MajorB)));     \
        }                                                                                                          \
    };

#define DLPERF_PRODUCTS_128(TYPE, NAME)                                                                                \
    template <>                                                                                                        \
    struct Products<TYPE, 128> {                                                                                       \
        template <Major MajorA, Major MajorB>                                                                          \
        static DLPERF_DEVICE void run(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {                       \
            asm volatile(                                                                                              \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                           \
                "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME                                           \
                " "                                                                                                    \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "     \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, " \
                "%61, %62, %63}"                                                                                       \
                ", %64, %65, p, 1, 1, %67, %68;\n}\n"                                                                  \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),      \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),             \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),           \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),           \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),           \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),           \
                  "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),           \
                  "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),           \
                  "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])            \
                : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(MajorA)), "n"(int(MajorB)));                           \
        }                                                                                                              \
        template <Major MajorB>                                                                                        \
        static DLPERF_DEVICE void run(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate) {           \
            asm volatile(                                                                                              \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                           \
                "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME                                           \
                " "                                                                                                    \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "     \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, " \
                "%61, %62, %63}"                                                                                       \
                ", {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"                                                      \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),      \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),             \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),           \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),           \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),           \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),           \
                  "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),           \
                  "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),           \
                  "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])            \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(MajorB)));         \
        }                                                                                                              \
    };

#define DLPERF_PRODUCTS_256(TYPE, NAME)                                                                                \
    template <>                                                                                                        \
    struct Products<TYPE, 256> {                                                                                       \
        template <Major MajorA, Major MajorB>                                                                          \
        static DLPERF_DEVICE void run(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {                      \
            asm volatile(                                                                                              \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                          \
                "wgmma.mma_async.sync.aligned.m64n256k16.f32." NAME "." NAME                                           \
                " "                                                                                                    \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "     \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, " \
                "%61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, " \
                "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "      \
                "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "     \
                "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"                              \
                ", %128, %129, p, 1, 1, %131, %132;\n}\n"                                                              \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),      \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),             \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),           \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),           \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),           \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),           \
                  "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),           \
                  "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),           \
                  "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),           \
                  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),           \
                  "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),           \
                  "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]),           \
                  "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]),           \
                  "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]),           \
                  "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]),     \
                  "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]),    \
                  "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),    \
                  "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]),    \
                  "+f"(d[127])                                                                                         \
                : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(MajorA)), "n"(int(MajorB)));                           \
        }                                                                                                              \
        template <Major MajorB>                                                                                        \
        static DLPERF_DEVICE void run(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool accumulate) {          \
            asm volatile(                                                                                              \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"                                                          \
                "wgmma.mma_async.sync.aligned.m64n256k16.f32." NAME "." NAME                                           \
                " "                                                                                                    \
                "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "     \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, " \
                "%61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, " \
                "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "      \
                "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "     \
                "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"                              \
                ", {%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}\n"                                                \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),      \
                  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),             \
                  "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),           \
                  "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),           \
                  "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),           \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),           \
                  "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),           \
                  "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),           \
                  "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),           \
                  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),           \
                  "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]),           \
                  "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]),           \
                  "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]),           \
                  "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]),           \
                  "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]),     \
                  "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]),    \
                  "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),    \
                  "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]),    \
                  "+f"(d[127])                                                                                         \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(MajorB)));         \
        }                                                                                                              \
    };

DLPERF_PRODUCTS_64(bf16, "bf16")
DLPERF_PRODUCTS_64(f16, "f16")
DLPERF_PRODUCTS_128(bf16, "bf16")
DLPERF_PRODUCTS_128(f16, "f16")
DLPERF_PRODUCTS_256(bf16, "bf16")
DLPERF_PRODUCTS_256(f16, "f16")

template <class T, int N, Major MajorA, Major MajorB>
DLPERF_DEVICE void products(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
    Products<T, N>::template run<MajorA, MajorB>(d, a, b, accumulate);
}

template <class T, int N, Major MajorB>
DLPERF_DEVICE void products(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    Products<T, N>::template run<MajorB>(d, a, b, accumulate);
}

}  // namespace dlperf::cuda

// Which kernel, tile and split a product gets.
#include <initializer_list>

#include "cuda/conv_plan.h"
#include "index_check.h"

using namespace dlperf::cuda;

// Clusters cover all tiles; few tiles are split until the multiprocessors are busy, many are not.
int main() {
    const Device hopper = {90, 132, nullptr}, ampere = {80, 108, nullptr}, emulated = {90, 4, nullptr};
    for (const Device& device : {hopper, ampere, emulated})
        for (int m : {1, 100, 128, 129, 300, 5000})
            for (int n : {8, 136, 264, 4096})
                for (int k : {8, 1000, 50000}) {
                    const Plan plan = plan_gemm(device, m, n, k, 2);
                    CHECK(plan.hopper == (device.capability == 90) && plan.parts >= 1 && plan.parts <= kMostParts);
                    CHECK(plan.cluster() == (plan.hopper && plan.block_n == 256 ? 2 : 1));
                    const Schedule s = schedule_of(plan, m, ceil_div(n, plan.block_n), 2);
                    CHECK((plan.parts > 1) == (plan.split > 0) && s.whole() >= 0);
                    CHECK(plan_gemm(device, m, n, k, 2, true).split == 0 ||
                          plan_gemm(device, m, n, k, 2, true).split == s.tiles_m * s.tiles_n * 2 ||
                          plan_gemm(device, m, n, k, 2, true).block_n != plan.block_n);
                    CHECK(s.group >= 1 && s.tiles_n * plan.block_n >= n &&
                          s.tiles_m * plan.cluster() * plan.block_m >= m);
                    CHECK((s.tiles_m * plan.cluster() - 1) * plan.block_m < m + plan.block_m * (plan.cluster() - 1));
                }
    const Plan large_plan = plan_gemm(hopper, 8192, 8192, 8192, 1);
    CHECK(large_plan.cluster() == 2 && large_plan.split < 66 &&
          plan_gemm(hopper, 8192, 8192, 8192, 1, true).split == 0);
    CHECK(plan_gemm(hopper, 768, 768, 50432, 1).parts > 4 && plan_gemm(hopper, 100, 768, 768, 1).cluster() == 1);
    // What the emulated tests, and the cases for GPUs alone, are there for
    CHECK(plan_gemm(emulated, 264, 200, 72, 3).cluster() == 2);
    const Convolution few = {2, 16, 15, 144, 512, 2, 2, 17, 16, 1, 1, 1, 1, 1, 1};
    CHECK(plan_forward(few, emulated).cluster() == 2 && plan_weight(few, emulated).cluster() == 2);
    CHECK(plan_input(few, input_phase(few, 0, 0), emulated).cluster() == 2);
    CHECK(plan_gemm(hopper, 1152, 2048, 72, 1).cluster() == 2 && plan_gemm(hopper, 1300, 2048, 72, 1).cluster() == 2);
    CHECK(plan_gemm(hopper, 96, 200, 8200, 1).parts > 1 && plan_gemm(ampere, 96, 200, 8200, 1).parts > 1);
    const Convolution large = {16, 28, 28, 64, 64, 3, 3, 28, 28, 1, 1, 1, 1, 1, 1};
    CHECK(plan_forward(large, hopper).hopper && plan_weight(large, hopper).hopper &&
          plan_weight(large, hopper).parts > 1);
    const Convolution wide = {8, 28, 28, 128, 512, 3, 3, 28, 28, 1, 1, 1, 1, 1, 1};
    CHECK(plan_forward(wide, hopper).cluster() == 2);
    const Convolution dilated = {8, 15, 14, 512, 264, 2, 2, 13, 12, 1, 1, 0, 0, 2, 2};
    CHECK(plan_weight(dilated, hopper).hopper && plan_input(dilated, input_phase(dilated, 0, 0), hopper).hopper);
    std::printf("ok\n");
    return 0;
}

// Attention over few keys: plans that hold all keys and fit the chip, strips that cover each head's queries once.
#include <set>
#include <tuple>

#include "cuda/attention_short.h"
#include "index_check.h"

using namespace dlperf::cuda;

static Attention call_of(int batches, int heads, int queries, int keys) {
    Attention p = {};
    p.batches = batches, p.heads = p.kv_heads = heads, p.queries = queries, p.keys = keys;
    p.dimension = kShortDimension;
    return p;
}

static void test_plan(int capability, int queries, int keys, int batches) {
    const Device device = {capability, 132, nullptr};
    const bool hopper = capability == 90;
    Attention p = call_of(batches, 3, queries, keys);
    const ShortPlan plan = short_plan(p, device);
    if (plan.steps == 0) {
        CHECK(keys > 256);
        return;
    }
    CHECK(plan.steps * plan.width >= keys && (plan.steps - 1) * plan.width < keys);
    CHECK(plan.bytes <= (hopper ? 232448 : 101376) && 16 + 2 * 8 * plan.steps <= kShortBarriers);
    const int rows = hopper ? kShortHopperStrip : kShortStrip, strips = ceil_div(queries, rows);
    std::set<std::tuple<int, int, int>> seen;
    for (int block = 0; block < batches * p.heads * plan.parts; ++block) {
        const ShortPlace place = short_place(block, strips, plan.parts, p.heads);
        CHECK(place.head >= 0 && place.head < p.heads && place.batch >= 0 && place.batch < batches);
        for (int owner = 0; owner < plan.owners; ++owner)
            for (int strip = short_first(place.strips, owner, plan.owners, block); strip < place.strips.end;
                 strip += plan.owners)
                CHECK(strip >= 0 && seen.insert({place.batch, place.head, strip}).second);
    }
    CHECK(int(seen.size()) == batches * p.heads * strips);
    p.causal = true;
    CHECK(short_plan(p, device).steps == 0);
}

int main() {
    for (int capability : {80, 90, 100})
        for (int keys = 1; keys <= 700; ++keys)
            for (int queries : {1, 17, 197, 257})
                for (int batches : {1, 40}) test_plan(capability, queries, keys, batches);
    // The lengths that it is for
    for (int keys : {50, 77, 197, 257, 577}) {
        CHECK(short_plan(call_of(64, 12, keys, keys), {90, 132, nullptr}).steps > 0);
        CHECK(keys == 577 || short_plan(call_of(64, 12, keys, keys), {80, 108, nullptr}).steps > 0);
    }
    CHECK(short_plan(call_of(64, 12, 197, 197), {90, 132, nullptr}).steps == 1);
    std::printf("ok\n");
    return 0;
}

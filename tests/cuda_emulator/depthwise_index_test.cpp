// Depthwise convolution: threads that cover channels and strips once, shared memory within limits.
#include <set>
#include <utility>

#include "cuda/depthwise.h"
#include "index_check.h"

using namespace dlperf::cuda;

static void test_threads(int channels, const Gather& g) {
    const DepthwiseTile t = depthwise_tile(channels);
    CHECK(t.vectors >= 1 && t.vectors <= kMostVectors && t.vectors * t.strips <= kDepthwiseThreads);
    CHECK(t.vectors * 32 * kDepthwiseTaps <= 49152);
    std::set<std::pair<int, int>> seen;
    const int blocks = t.tiles * ceil_div(depthwise_strips(g), t.strips);
    for (int block = 0; block < blocks; ++block)
        for (int thread = 0; thread < kDepthwiseThreads; ++thread) {
            const DepthwiseLane lane = depthwise_lane(t, block % t.tiles, thread, channels);
            const int number = block / t.tiles * t.strips + lane.local;
            if (!lane.there || number >= depthwise_strips(g)) continue;
            const Strip strip = strip_of(g, number);
            CHECK(strip.image < g.n && strip.row < g.rows && strip.column < g.columns);
            CHECK(lane.channel + 8 <= channels);
            for (int j = 0; j < kStrip && strip.column + j < g.columns; ++j) {
                const int pixel = (strip.image * g.rows + strip.row) * g.columns + strip.column + j;
                CHECK(seen.insert({pixel, lane.channel}).second);
            }
        }
    CHECK(int(seen.size()) == g.count() * (channels / 8));
}

int main() {
    for (int channels : {8, 24, 32, 64, 72, 96, 144, 576, 960})
        for (int columns : {1, 4, 7, 13}) {
            Gather g = {};
            g.n = 2, g.rows = 3, g.columns = columns;
            test_threads(channels, g);
        }
    for (int n : {1, 7, 256})
        for (int channels : {8, 144, 960}) {
            const Convolution v = {n, 14, 14, channels, channels, 3, 3, 14, 14, 1, 1, 1, 1, 1, 1};
            const int parts = depthwise_parts(v, {80, 108, nullptr});
            CHECK(parts >= 1 && parts <= kMostDepthwiseParts && parts <= n * 14 * 4);
        }
    std::printf("ok\n");
    return 0;
}

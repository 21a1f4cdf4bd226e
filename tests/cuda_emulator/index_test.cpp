// The kernels' index arithmetic over whole grids: every output is written once, every input is read in bounds.
#include <set>
#include <vector>

#include "cuda/attention.h"
#include "cuda/channel_norm_kernel.cuh"
#include "cuda/conv_plan.h"
#include "cuda/descriptor.h"
#include "cuda/join_kernel.cuh"
#include "cuda/mma_kernel.cuh"
#include "cuda/operands.h"
#include "cuda/places.h"
#include "cuda/tensor_map.h"
#include "index_check.h"

using namespace dlperf::cuda;

// Joining goes once through all of the split tiles, and finds each where its parts wrote it.
static void test_join(const Schedule& s, int together) {
    const Join<MatrixPlace> p = {s, 64, 16, together, {}, {}};
    std::set<std::vector<int>> seen;
    for (int64_t i = 0; i < p.chunks(); ++i) {
        const JoinedChunk c = joined_chunk(p, i);
        CHECK(c.row < 64 && c.column + 8 <= 16 && c.slot < s.split * together);
        const Unit u = s.unit(s.whole() + c.slot / together);
        CHECK(u.slot * together + c.slot % together == c.slot && u.batch == c.batch);
        CHECK(c.m == (u.tile.m * together + c.slot % together) * 64 + c.row && c.n == u.tile.n * 16 + c.column);
        CHECK(seen.insert({c.m, c.n, c.batch}).second);
    }
    CHECK(int64_t(seen.size()) == int64_t(s.split) * together * 64 * 2);
}

// Every tile of every batch and part is given out once; the parts of a reduction make it up.
static void test_schedule() {
    for (int tiles_m : {1, 7, 8, 17})
        for (int tiles_n : {1, 3, 20})
            for (int batches : {1, 3})
                for (int parts : {1, 4}) {
                    const int tiles = tiles_m * tiles_n * batches;
                    for (int split : {0, tiles / 3, tiles}) {
                        if (parts == 1) split = 0;
                        const Schedule s = {tiles_m, tiles_n, batches, split, parts, kGroup};
                        std::set<std::vector<int>> seen, slots;
                        for (int i = 0; i < s.units(); ++i) {
                            const Unit u = s.unit(i);
                            CHECK(u.tile.m >= 0 && u.tile.m < tiles_m && u.tile.n >= 0 && u.tile.n < tiles_n);
                            CHECK(u.batch < batches && u.part < u.parts && u.parts == (i < s.whole() ? 1 : parts));
                            CHECK(seen.insert({u.tile.m, u.tile.n, u.batch, u.part}).second);
                            if (u.parts > 1) CHECK(u.slot < split && slots.insert({u.slot, u.part}).second);
                        }
                        CHECK(int(seen.size()) == tiles - split + split * parts &&
                              int(slots.size()) == split * (parts > 1 ? parts : 0));
                        test_join(s, 1 + tiles_n % 2);
                    }
                }
    for (int steps : {0, 1, 5, 64})
        for (int parts : {1, 2, 7}) {
            int next = 0;
            for (int part = 0; part < parts; ++part) {
                const Range r = split_range(steps, parts, part);
                CHECK(r.begin == next && r.end >= r.begin);
                next = r.end;
            }
            CHECK(next == steps);
        }
}

static std::vector<Convolution> convolutions() {
    std::vector<Convolution> out;
    for (int size : {1, 5, 8})
        for (int taps : {1, 2, 3})
            for (int stride : {1, 2, 3})
                for (int pad : {0, 1, 2})
                    for (int dilation : {1, 2}) {
                        const int p = (size + 2 * pad - dilation * (taps - 1) - 1) / stride + 1;
                        const int q = (size + 2 + 2 * pad - dilation * (taps - 1) - 1) / stride + 1;
                        if (size + 2 * pad < dilation * (taps - 1) + 1) continue;
                        out.push_back({2, size, size + 2, 16, 24, taps, taps, p, q, stride, stride, pad, pad, dilation,
                                       dilation});
                    }
    return out;
}

// Whether the image's pixel of a gather's row and tap, and the weight's tap, are the convolution's.
static void test_gathers(const Convolution& v) {
    const Gather g = forward_gather(v);
    CHECK(g.count() == v.n * v.p * v.q);
    for (int row = 0; row < g.count(); ++row)
        for (int tap = 0; tap < g.taps(); ++tap) {
            const int j = row % v.q, i = row / v.q % v.p, image = row / v.q / v.p, r = tap / v.s, s = tap % v.s;
            const int h = i * v.stride_h - v.pad_h + r * v.dilation_h, w = j * v.stride_w - v.pad_w + s * v.dilation_w;
            int64_t at;
            const bool there = tap_of(g, pixel_of(g, row), tap, at);
            CHECK(there == (h >= 0 && h < v.h && w >= 0 && w < v.w));
            if (there) CHECK(at == ((int64_t(image) * v.h + h) * v.w + w) * v.c);
            CHECK(forward_taps(v)(tap, g.taps_s) == tap);
        }
    // The input's gradient: over all phases, each pair of pixels that a tap joins, once.
    std::multiset<std::vector<int64_t>> wanted, found;
    std::multiset<int64_t> written;
    for (int row = 0; row < g.count(); ++row)
        for (int tap = 0; tap < g.taps(); ++tap) {
            int64_t at;
            if (tap_of(g, pixel_of(g, row), tap, at)) wanted.insert({at / v.c, row, tap});
        }
    for (int a = 0; a < v.stride_h; ++a)
        for (int b = 0; b < v.stride_w; ++b) {
            const Phase phase = input_phase(v, a, b);
            const Gather& of = phase.gather;
            const PixelPlace place = {v.n, of.rows, of.columns, v.h, v.w, a, b, v.stride_h, v.stride_w, v.c};
            for (int row = 0; row < of.count(); ++row) {
                const Position to = place.row(row);
                CHECK(to.there && to.at >= 0 && to.at < int64_t(v.n) * v.h * v.w * v.c);
                written.insert(to.at / v.c);
                for (int tap = 0; tap < of.taps(); ++tap) {
                    int64_t at;
                    if (tap_of(of, pixel_of(of, row), tap, at))
                        found.insert({to.at / v.c, at / v.k, phase.taps(tap, of.taps_s)});
                }
            }
            CHECK(!place.row(of.count()).there);
        }
    CHECK(wanted == found);
    CHECK(written.size() == size_t(v.n) * v.h * v.w &&
          std::set<int64_t>(written.begin(), written.end()).size() == written.size());
}

// The pixels that the copy engine goes through are a gather's rows, one after the other.
static void test_bounding_box(const Gather& g) {
    if (!fits_im2col(g)) return;
    const TensorMapParameters map = gather_map(nullptr, g, 64);
    CHECK(why_not(map) == nullptr);
    int w = map.lower[0], h = map.lower[1], n = 0;
    for (int row = 0; row < g.count(); ++row) {
        const Pixel p = pixel_of(g, row);
        CHECK(p.image == n && p.h == h && p.w == w);
        w += int(map.traversal[1]);
        if (w > g.w - 1 + map.upper[0]) {
            w = map.lower[0], h += int(map.traversal[2]);
            if (h > g.h - 1 + map.upper[1]) h = map.lower[1], ++n;
        }
    }
    CHECK(n == g.n);
}

// What an operand's chunks read lies inside of `size` elements, and every element of it is read.
template <class Operand>
static void test_operand(const Operand& operand, int fixed, int steps, int64_t size, bool all) {
    std::vector<bool> read(size_t(size), false);
    for (int f = 0; f < fixed; f += Operand::along_k ? 1 : 8) {
        const auto at_fixed = operand.fix(f);
        for (int step = 0; step < steps; ++step)
            for (int inner = 0; inner < kStep; inner += Operand::along_k ? 8 : 1) {
                bool there;
                const int64_t at = operand.at(at_fixed, step, inner, there);
                if (!there) continue;
                CHECK(at >= 0 && at + 8 <= size && at % 8 == 0);
                for (int i = 0; i < 8; ++i) read[size_t(at + i)] = true;
            }
    }
    if (all)
        for (int64_t i = 0; i < size; ++i) CHECK(read[size_t(i)]);
}

static void test_operands() {
    for (int rows : {8, 40, 136})
        for (int depth : {8, 72}) {
            const int steps = ceil_div(depth, kStep), padded = ceil_div(rows, 128) * 128;
            test_operand(RowsAlongK{rows, depth, depth}, padded, steps, int64_t(rows) * depth, true);
            test_operand(ColumnsAcrossK{rows, depth, rows}, padded, steps, int64_t(rows) * depth, true);
        }
    for (const Convolution& v : convolutions()) {
        const Gather g = forward_gather(v);
        const int taps = g.taps(), c_blocks = ceil_div(v.c, kStep), k_blocks = ceil_div(v.k, kStep);
        const int64_t x = int64_t(v.n) * v.h * v.w * v.c, weight = int64_t(v.k) * taps * v.c;
        test_operand(GatheredRows{g, c_blocks}, ceil_div(g.count(), 128) * 128, taps * c_blocks, x, false);
        test_operand(WeightRows{v.k, taps, v.c, c_blocks}, 128, taps * c_blocks, weight, true);
        const Phase phase = input_phase(v, 0, 0);
        if (phase.gather.taps() > 0)
            test_operand(WeightColumns{v.k, taps, v.c, k_blocks, phase.gather.taps_s, phase.taps}, 128,
                         phase.gather.taps() * k_blocks, weight, v.stride_h == 1 && v.stride_w == 1);
        const int padded = padded_channels(v.c, 64);
        test_operand(GatheredColumns{g, padded}, taps * padded, ceil_div(g.count(), kStep), x, false);
    }
}

// Chunks of a tile fill shared memory, none twice; the eight rows that one ldmatrix phase reads are in eight banks of
// 16 bytes.
template <bool AlongK, int Length>
static void test_tile() {
    const int outers = AlongK ? Length : kStep, chunks = AlongK ? kStep / 8 : Length / 8;
    std::set<int> seen;
    for (int outer = 0; outer < outers; ++outer)
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const int at = chunk_at<AlongK, Length>(outer, chunk);
            CHECK(at >= 0 && at % 16 == 0 && at < Length * kStep * 2 && seen.insert(at).second);
        }
    for (int outer = 0; outer < outers; outer += 8)
        for (int chunk = 0; chunk < chunks; ++chunk) {
            std::set<int> banks;
            for (int r = 0; r < 8; ++r) banks.insert(chunk_at<AlongK, Length>(outer + r, chunk) % 128);
            CHECK(banks.size() == 8);
        }
}

static void test_places() {
    for (int channels : {8, 72})
        for (int block : {64, 128}) {
            const int padded = padded_channels(channels, block), taps = 9, rows = 24;
            const TapPlace place = {rows, taps, channels, padded};
            std::set<int64_t> written;
            for (int m = 0; m < 128; ++m)
                for (int n = 0; n < taps * padded + block; n += 8) {
                    const Position row = place.row(m), column = place.column(n);
                    if (!row.there || !column.there) continue;
                    CHECK(row.at + column.at + 8 <= int64_t(rows) * taps * channels);
                    CHECK(written.insert(row.at + column.at).second);
                }
            CHECK(int64_t(written.size()) * 8 == int64_t(rows) * taps * channels);
        }
}

// Norms: every chunk of every position is read once.
static void test_channels() {
    for (int channels : {8, 24, 264, 512})
        for (int images : {1, 3})
            for (int64_t positions : {1, 7, 300})
                for (bool reduces : {false, true}) {
                    ChannelNorm p = {};
                    p.images = images, p.channels = channels, p.positions = positions;
                    p.parts = channel_parts(images, positions, channels, 3, reduces);
                    const ChannelTile t = channel_tile(channels);
                    std::set<int64_t> seen;
                    for (int block = 0; block < t.blocks * images * p.parts; ++block)
                        for (int thread = 0; thread < 256; ++thread) {
                            const ChannelPlace at = channel_place(p, t, block, thread);
                            for (int64_t i = at.first; i < at.end; i += at.step) {
                                const int64_t element = at.start + i * channels;
                                CHECK(element + 8 <= images * positions * channels && seen.insert(element).second);
                            }
                        }
                    CHECK(int64_t(seen.size()) * 8 == images * positions * channels);
                }
}

static void test_attention() {
    std::set<std::vector<int>> seen;
    for (int i = 0; i < 5 * 3 * 2; ++i) {
        const AttentionPlace place = attention_place(i, 5, 3);
        CHECK(place.block >= 0 && place.block < 5 && place.head < 3 && place.batch < 2);
        CHECK(seen.insert({place.block, place.head, place.batch}).second);
    }
    for (bool causal : {false, true})
        for (int keys : {1, 64, 100}) {
            Attention p = {};
            p.causal = causal, p.keys = keys, p.queries = 90;
            for (int last = 0; last < 90; ++last) {
                const int seen_keys = keys_seen(p, last);
                CHECK(seen_keys <= keys && seen_keys == (causal && last + 1 < keys ? last + 1 : keys));
                for (int key = 0; key < seen_keys; ++key) CHECK(!causal || first_query(p, key) <= last);
            }
        }
}

static void test_maps_that_the_driver_refuses() {
    alignas(16) static char memory[64];
    CHECK(why_not(matrix_map(memory, 64, 8, 1, 64, 0, 128)) == nullptr);
    CHECK(why_not(matrix_map(memory + 2, 64, 8, 1, 64, 0, 128)) != nullptr);
    CHECK(why_not(matrix_map(memory, 64, 8, 1, 63, 0, 128)) != nullptr);
    CHECK(why_not(matrix_map(memory, 64, 8, 1, 64, 0, 512)) != nullptr);
    CHECK(why_not(matrix_map(memory, 64, 0, 1, 64, 0, 128)) != nullptr);
}

int main() {
    test_schedule();
    for (const Convolution& v : convolutions()) {
        test_gathers(v);
        test_bounding_box(forward_gather(v));
        for (int a = 0; a < v.stride_h; ++a)
            for (int b = 0; b < v.stride_w; ++b) test_bounding_box(input_phase(v, a, b).gather);
    }
    test_operands();
    test_tile<true, 64>();
    test_tile<true, 128>();
    test_tile<false, 64>();
    test_tile<false, 128>();
    test_places();
    test_channels();
    test_attention();
    test_maps_that_the_driver_refuses();
    std::printf("ok\n");
    return 0;
}

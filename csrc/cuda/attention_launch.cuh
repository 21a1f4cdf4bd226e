// What attention's launches share.
#pragma once

#include "cuda/attention.h"
#include "cuda/launch.cuh"

namespace dlperf::cuda {

inline std::string describe(const Attention& p) {
    return std::to_string(p.batches) + " x " + std::to_string(p.heads) + " x " + std::to_string(p.queries) + " x " +
           std::to_string(p.dimension) + " with " + std::to_string(p.keys) + " keys";
}

inline TensorMap map_of(const Attention& p, const Heads& h, int rows, int heads, int box_rows) {
    return encode(head_map(h.data, p.dimension, rows, heads, p.batches, h.row, h.head, h.batch, box_rows));
}

}  // namespace dlperf::cuda

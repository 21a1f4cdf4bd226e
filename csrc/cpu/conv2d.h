// Two-dimensional convolution and its two gradients, NHWC. conv1d is h = r = 1; conv_transpose2d is conv2d_bwd_input.
//
//   y[n, oh, ow, k]  = act(bias[k] + residual + sum_{r, s, c} w[k, c, r, s] x[n, oh stride_h - pad_h + r dil_h, ...,
//   c]) gx[n, ih, iw, c] = act(bias[c] + residual + sum over the same triples of w gy) gw[k, c, r, s]   = sum over n,
//   oh, ow of gy x
//
// From Python (dlperf._C), tensors as data_ptr() addresses, 0 for None:
//
//   shape = Conv2dShape(n, h, w, c, k, r, s, oh, ow, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups,
//                       w_k, w_c, w_r, w_s, dtype, act, act_param, algorithm)    0 automatic, 1 direct, 2 Winograd
//   algorithm = conv2d_algorithm(shape, direction, prepacked)                what 0 stands for
//   bytes = conv2d_workspace_bytes(shape, direction, threads, prepacked)     direction: 0 forward, 1 input, 2 weight
//   conv2d_forward(shape, x, w, bias, residual, y, workspace, threads, prepacked)
//   conv2d_bwd_input(shape, gy, w, bias, residual, gx, workspace, threads, prepacked)
//   conv2d_bwd_weight(shape, gy, x, gw, workspace, threads)
//   bytes = conv2d_pack_bytes(shape, direction)                              direction: 0 or 1
//   conv2d_pack(shape, direction, w, packed)                  then conv2d_forward(..., w=packed, prepacked=True)
//
// x, y, gx, gy, residual: dense NHWC. h, w, c are x's (gx's), oh, ow, k are y's (gy's); oh and ow are given, so that
// bottom and right padding follow from them (and may be negative: pixels that nothing reads get zero gradients).
// w, gw: any strides, in elements, in the order k, c / groups, r, s; OIHW and channels_last are fast.
// bias: of the output's channels (k forward, c for bwd_input). dtype, act, workspace, threads, packs: as in gemm.h; a
// pack belongs to the shape (n, h, w, oh, ow and the epilogue apart), the algorithm and _C.isa(). The bias' gradient is
// sum_rows of gemm.h over gy. conv_transpose2d(x, weight [c_in, c_out / groups, r, s]): k = c_in, oh, ow = x's size, c
// = c_out, h, w = the result's size, then conv2d_bwd_input(gy=x, gx=result); its gradients are conv2d_forward (x=grad,
// y=grad of x) and conv2d_bwd_weight (gy=x, x=grad).
#pragma once

#include <cstdint>

#include "cpu/activation.h"
#include "cpu/dtype.h"
#include "cpu/isa.h"

namespace dlperf {

enum class ConvDirection : int { forward = 0, bwd_input = 1, bwd_weight = 2 };

// What computes a dense convolution. `winograd` serves 3x3 filters of stride 1; elsewhere it means `direct`.
enum class ConvAlgorithm : int { automatic = 0, direct = 1, winograd = 2 };

struct Conv2dShape {
    int64_t n, h, w, c, k, r, s, oh, ow;
    int64_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
    int64_t w_k, w_c, w_r, w_s;
    DType dtype;
    Act act;
    float act_param;
    ConvAlgorithm algorithm;
};

// What each instruction set provides. One table per kernel: dense, Winograd's and depthwise.
struct Conv2dTable {
    int64_t (*workspace_bytes)(const Conv2dShape&, ConvDirection, int64_t threads, bool prepacked);
    void (*forward)(const Conv2dShape&, const void* x, const void* w, const void* bias, const void* residual, void* y,
                    void* workspace, int64_t threads, bool prepacked);
    void (*bwd_input)(const Conv2dShape&, const void* gy, const void* w, const void* bias, const void* residual,
                      void* gx, void* workspace, int64_t threads, bool prepacked);
    void (*bwd_weight)(const Conv2dShape&, const void* gy, const void* x, void* gw, void* workspace, int64_t threads);
    int64_t (*pack_bytes)(const Conv2dShape&, ConvDirection);
    void (*pack)(const Conv2dShape&, ConvDirection, const void* w, void* packed);
};

// Winograd's packs hold transformed filters of fewer pairs of channels than this; where they are more, reading them
// takes longer than making them, in steps of at most so many tiles.
constexpr int64_t kKeptFilters = 1 << 16, kFewTiles = 128;

// The algorithm that serves: the shape's own where it can, and never `automatic`.
ConvAlgorithm choose_algorithm(const Conv2dShape&, ConvDirection, bool prepacked);

// The table that serves: depthwise where each group has one input channel, else by choose_algorithm.
const Conv2dTable& conv2d_kernels(const Conv2dShape&, ConvDirection, bool prepacked);

}  // namespace dlperf

DLPERF_DECLARE_TABLE_BF16(Conv2dTable, conv2d_table)
DLPERF_DECLARE_TABLE(Conv2dTable, winograd_table)
DLPERF_DECLARE_TABLE(Conv2dTable, depthwise_table)

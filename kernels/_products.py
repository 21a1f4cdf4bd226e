"""What kernels that multiply matrices share: the order of tiles, the float32 precision, the end of a tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._activation_math import act

# The longest stride of a tile's offsets in 32 bits: 512 and 128 of them together stay below 2^31.
NARROW = 2**21


@triton.jit
def within(COUNT: tl.constexpr, stride, WIDE: tl.constexpr):
    """Offsets of a tile's COUNT neighbours, in 64 bits where WIDE."""
    at = tl.arange(0, COUNT)
    return (at.to(tl.int64) if WIDE else at) * stride


@triton.jit
def tile_of(number, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Tile number to (m, n), GROUP_M rows of tiles at a time, so that neighbours share operands in the L2 cache."""
    in_group = GROUP_M * tiles_n
    first = (number // in_group) * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    return first + (number % in_group) % height, (number % in_group) // height


@triton.jit
def finish(value, bias, residual, columns, offset, inside, beta, KIND: tl.constexpr):
    """act(value + bias[columns] + beta residual[offset])"""
    if bias is not None:
        # columns past the end repeat a real one: they are not stored
        value += tl.load(bias + columns).to(tl.float32)[None, :]
    if residual is not None:
        value += beta * tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
    return act(value, 0.0, KIND)


def precision(x: torch.Tensor) -> str:
    """How tl.dot multiplies x's dtype. float32 follows torch's switches: one TF32 product, or three that keep 21
    bits."""
    # The older switch, allow_tf32, sets this one too, but raises where this one was set.
    if x.dtype is not torch.float32 or torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3"


def convolution_precision(x: torch.Tensor) -> str:
    if x.dtype is not torch.float32 or torch.backends.cudnn.conv.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3"

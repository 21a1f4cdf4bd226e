"""What the convolutions' kernels are launched with: sizes, tiles, parts of a split reduction."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ._launch import INTERPRETED, capability, cdiv, multiprocessors, power_of_two
from ._tune import choose
from .matmul import other_splits


class Geometry(NamedTuple):
    """A convolution's sizes: x [n, h, w, c], weight [k, r, s, c / groups], y [n, p, q, k]."""

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int

    @property
    def is_pointwise(self) -> bool:
        return self[5:7] == (1, 1) and self[9:13] == (1, 1, 0, 0) and self.groups == 1

    @property
    def is_depthwise(self) -> bool:
        return self.c == self.groups and self.groups > 1


@lru_cache(maxsize=4096)
def geometry(x: torch.Size, weight: torch.Size, y: torch.Size, stride, padding, dilation, groups) -> Geometry:
    n, c, h, w = x
    k, _, r, s = weight
    return Geometry(n, h, w, c, k, r, s, y[2], y[3], *stride, *padding, *dilation, groups)


GROUP_M = 8
# Parts of a reduction: over taps and channels, and over pixels.
MOST_SPLIT = 16
MOST_WEIGHT_SPLIT = 64
# (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages) by (capability, bytes of an element), best first where there are tiles
# enough. Chosen by the ahead-of-time table; not yet measured on a GPU.
CONFIGURATIONS = {
    (90, 2): ((128, 128, 64, 8, 3), (128, 64, 64, 8, 3), (64, 64, 64, 4, 4)),
    (80, 2): ((128, 128, 32, 8, 3), (128, 64, 32, 8, 4), (64, 64, 32, 4, 4)),
    (80, 4): ((128, 64, 32, 8, 3), (64, 64, 32, 4, 3)),
}


def _candidates(x: Tensor) -> tuple[tuple, ...]:
    return CONFIGURATIONS.get((90 if capability(x.device) >= 90 else 80, x.itemsize)) or CONFIGURATIONS[80, x.itemsize]


def configure(x: Tensor, rows: int, columns: int, depth: int, copies: int, most_split: int) -> tuple:
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, SPLIT_K) for copies products of rows x columns, summed over depth
    steps."""
    processors = multiprocessors(x.device)
    if INTERPRETED:
        return 64, min(64, max(16, power_of_two(columns))), 32, 4, 3, min(3, most_split) if depth > 400 else 1
    candidates = _candidates(x)

    def tiles(c: tuple) -> int:
        return copies * cdiv(rows, c[0]) * cdiv(columns, c[1])

    block_m, block_n, block_k, warps, stages = next(
        (c for c in candidates if tiles(c) >= processors * 3 // 4 and c[1] < 2 * power_of_two(columns)), candidates[-1]
    )
    block_n = min(block_n, max(16, power_of_two(columns)))
    split = 1
    count = copies * cdiv(rows, block_m) * cdiv(columns, block_n)
    while count * split * 2 <= 2 * processors and depth >= block_k * 4 * split * 2 and split < most_split:
        split *= 2
    return block_m, block_n, block_k, warps, stages, split


def launch_tuned(
    x: Tensor, problem: tuple, rows: int, columns: int, depth: int, copies: int, most_split: int, run
) -> None:
    """``run(configuration)`` with the best that is known, of such products."""
    default = configure(x, rows, columns, depth, copies, most_split)
    if INTERPRETED:
        run(default)
        return
    narrow = [(*c[:1], min(c[1], default[1]), *c[2:], default[5]) for c in _candidates(x)]
    narrow += other_splits(default, most_split)
    run(choose(x.device, (*problem, x.dtype), default, narrow, run))


def tile_constants(configuration: tuple) -> dict:
    block_m, block_n, block_k, _, _, split = configuration
    return {"SPLIT_K": split, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": GROUP_M}

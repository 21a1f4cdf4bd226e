"""Gated linear units and their gradients: one pass over memory. Formulas: docs/math/glu.md.

The memory of x is [outer, 2, half]. A program takes a tile of [ROWS of outer, COLS of half].
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.glu import glu_bwd_empty, glu_empty

from ._activation_math import act, act_gradient
from ._launch import cdiv, kernel, power_of_two
from ._layout import dense_like

TILE = 2048


@triton.jit
def _place(outer, half, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Where the tile's rows begin in y, the columns, and what of the tile there is."""
    blocks = tl.cdiv(half, COLS)
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % blocks).to(tl.int64) * COLS + tl.arange(0, COLS)
    return (row * half)[:, None], column[None, :], (row < outer)[:, None] & (column < half)[None, :]


@kernel()
def forward_kernel(x, y, outer, half, KIND: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, column, inside = _place(outer, half, ROWS, COLS)
    a = tl.load(x + 2 * row + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + 2 * row + half + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row + column, (a * act(b, 0.0, KIND)).to(y.dtype.element_ty), mask=inside)


@kernel()
def backward_kernel(gy, x, gx, outer, half, KIND: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, column, inside = _place(outer, half, ROWS, COLS)
    g = tl.load(gy + row + column, mask=inside, other=0.0).to(tl.float32)
    a = tl.load(x + 2 * row + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + 2 * row + half + column, mask=inside, other=0.0).to(tl.float32)
    to_a = g * act(b, 0.0, KIND)
    to_b = act_gradient(g * a, b, 0.0, KIND)
    tl.store(gx + 2 * row + column, to_a.to(gx.dtype.element_ty), mask=inside)
    tl.store(gx + 2 * row + half + column, to_b.to(gx.dtype.element_ty), mask=inside)


def _sizes(x: Tensor, dim: int) -> tuple[int, int]:
    """outer and half of x's memory."""
    if not x.is_contiguous():  # channels_last, halved along the channels
        return x.numel() // x.shape[1], x.shape[1] // 2
    outer = x.shape[:dim].numel()
    return outer, x.numel() // (2 * outer)


def _tiling(outer: int, half: int) -> tuple[tuple[int], dict]:
    cols = min(TILE, max(16, power_of_two(half)))
    rows = min(TILE // cols, power_of_two(outer))
    return (cdiv(outer, rows) * cdiv(half, cols),), {"ROWS": rows, "COLS": cols}


def glu(x: Tensor, dim: int, kind: str) -> Tensor:
    y = glu_empty(x, dim, kind)
    if y.numel() > 0:
        x = dense_like(x, glu_bwd_empty(y, x, dim, kind))
        sizes = _sizes(x, dim)
        grid, constants = _tiling(*sizes)
        forward_kernel(grid, x, y, *sizes, KIND=kind, **constants)
    return y


def glu_bwd(gy: Tensor, x: Tensor, dim: int, kind: str) -> Tensor:
    gx = glu_bwd_empty(gy, x, dim, kind)
    if gx.numel() > 0:
        x, gy = dense_like(x, gx), dense_like(gy, glu_empty(gx, dim, kind))
        sizes = _sizes(gx, dim)
        grid, constants = _tiling(*sizes)
        backward_kernel(grid, gy, x, gx, *sizes, KIND=kind, **constants)
    return gx

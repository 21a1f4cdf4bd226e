"""Softmax and log-softmax along one dimension, and their gradients. Formulas: docs/math/softmax.md.

The tensor is [outer, dim, inner]. A program takes a few neighbouring slices: rows where inner is 1, else columns of
one outer index, so that loads are contiguous either way. A slice of up to ``LONGEST`` stays in registers; a longer
one is read in blocks, once for its maximum and sum together (Milakov & Gimelshein 2018) and once for the output.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.softmax import softmax_empty

from ._launch import cdiv, kernel, power_of_two
from ._layout import dense

LONGEST = 8192
TILE = 4096  # values of a program, where slices are shorter
CHUNK = 2048  # values of a block of a long slice


@triton.jit
def slices(dim, inner, count, SLICES: tl.constexpr, ROWS: tl.constexpr):
    """Where a program's slices start, how far apart a slice's values lie, and which slices there are."""
    at = tl.arange(0, SLICES)
    if ROWS:
        first = tl.program_id(0).to(tl.int64) * SLICES
        return (first + at) * dim, 1, first + at < count
    else:
        per_outer = tl.cdiv(inner, SLICES)
        outer = (tl.program_id(0) // per_outer).to(tl.int64)
        column = (tl.program_id(0) % per_outer) * SLICES + at
        return outer * dim * inner + column, inner, column < inner


@kernel()
def forward_kernel(
    x, y, dim, inner, count, LOG: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    start, step, there = slices(dim, inner, count, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    at = start[:, None] + along[None, :].to(tl.int64) * step
    inside = there[:, None] & (along < dim)[None, :]
    value = tl.load(x + at, mask=inside, other=float("-inf")).to(tl.float32)
    top = tl.max(value, 1)
    # A NaN shows through the sum; a row of minus infinities, or with plus infinity, is NaN as inf - inf.
    value = value - top[:, None]
    e = tl.where(inside, tl.exp(value), 0.0)
    total = tl.sum(e, 1)
    if LOG:
        result = value - tl.log(total)[:, None]
    else:
        result = e / total[:, None]
    tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


@kernel()
def forward_long_kernel(
    x, y, dim, inner, count, LOG: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    start, step, there = slices(dim, inner, count, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    top = tl.full([SLICES, BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([SLICES, BLOCK], tl.float32)
    for first in range(0, dim, BLOCK):
        inside = there[:, None] & (first + along < dim)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        value = tl.load(x + at, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, value)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.where(inside, tl.exp(value - base), 0.0)
        top = higher
    highest = tl.max(top, 1)
    total = tl.sum(total * tl.exp(top - tl.where(highest == float("-inf"), 0.0, highest)[:, None]), 1)
    for first in range(0, dim, BLOCK):
        inside = there[:, None] & (first + along < dim)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        value = tl.load(x + at, mask=inside, other=float("-inf")).to(tl.float32) - highest[:, None]
        if LOG:
            result = value - tl.log(total)[:, None]
        else:
            result = tl.exp(value) / total[:, None]
        tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(g, value, total, LOG: tl.constexpr):
    if LOG:
        return g - tl.exp(value) * total
    else:
        return value * (g - total)


@kernel()
def backward_kernel(
    gy, y, gx, dim, inner, count, LOG: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    start, step, there = slices(dim, inner, count, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    at = start[:, None] + along[None, :].to(tl.int64) * step
    inside = there[:, None] & (along < dim)[None, :]
    g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(g if LOG else g * value, 1)[:, None]
    tl.store(gx + at, _gradient(g, value, total, LOG).to(gx.dtype.element_ty), mask=inside)


@kernel()
def backward_long_kernel(
    gy, y, gx, dim, inner, count, LOG: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    start, step, there = slices(dim, inner, count, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    sums = tl.zeros([SLICES, BLOCK], tl.float32)
    for first in range(0, dim, BLOCK):
        inside = there[:, None] & (first + along < dim)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        if LOG:
            sums += g
        else:
            sums += g * tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(sums, 1)[:, None]
    for first in range(0, dim, BLOCK):
        inside = there[:, None] & (first + along < dim)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(gx + at, _gradient(g, value, total, LOG).to(gx.dtype.element_ty), mask=inside)


def tiling(outer: int, dim: int, inner: int) -> tuple[int, dict, int]:
    """Programs, constants and warps for [outer, dim, inner]; a BLOCK below dim calls for the kernel of long slices."""
    rows = inner == 1
    if dim <= LONGEST:
        block = power_of_two(dim)
        per_program = min(max(1, TILE // block), 64 if rows else 128, power_of_two(outer if rows else inner))
    else:
        per_program = 1 if rows else min(32, power_of_two(inner))
        block = max(16, CHUNK // per_program)
    programs = cdiv(outer, per_program) if rows else outer * cdiv(inner, per_program)
    warps = min(16, max(1, block * per_program // 512))
    return programs, {"SLICES": per_program, "BLOCK": block, "ROWS": rows}, warps


def _sizes(x: Tensor, dim: int) -> tuple[int, int, int]:
    return (prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :])) if x.dim() else (1, 1, 1)


def softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor:
    y = softmax_empty(x)
    if y.numel():
        outer, size, inner = _sizes(x, dim)
        programs, constants, warps = tiling(outer, size, inner)
        run = forward_kernel if constants["BLOCK"] >= size else forward_long_kernel
        run((programs,), dense(x), y, size, inner, outer, LOG=logarithm, **constants, num_warps=warps)
    return y


def softmax_bwd(gy: Tensor, y: Tensor, dim: int, logarithm: bool) -> Tensor:
    gx = softmax_empty(y)
    if gx.numel():
        outer, size, inner = _sizes(y, dim)
        programs, constants, warps = tiling(outer, size, inner)
        run = backward_kernel if constants["BLOCK"] >= size else backward_long_kernel
        run((programs,), dense(gy), dense(y), gx, size, inner, outer, LOG=logarithm, **constants, num_warps=warps)
    return gx

"""Layer norm and RMS norm over the last dimensions, forward and backward. Formulas: docs/math/layer_norm.md.

Forward keeps rows of up to ``LONGEST`` values in registers: one read, one write. Backward is persistent: each program
goes over its share of the rows, writes their gradient and keeps float32 sums for weight and bias, which a second
kernel adds in order. Longer rows are read in blocks, and their parameters' sums come from a kernel that walks down
columns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.layer_norm import layer_norm_bwd_empty, layer_norm_empty, rms_norm_bwd_empty, rms_norm_empty

from ._launch import cdiv, kernel, multiprocessors, power_of_two
from ._layout import dense

LONGEST = 8192
TILE = 2048
CHUNK = 2048


@triton.jit
def _affine(value, weight, bias, column, inside):
    if weight is not None:
        value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    return value


@kernel()
def forward_kernel(
    x, weight, bias, y, stats, rows, cols, eps, RMS: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr
):
    """stats: [mean; rstd] by row, or [rstd]."""
    row = tl.program_id(0).to(tl.int64) * SLICES + tl.arange(0, SLICES)
    column = tl.arange(0, BLOCK)
    there, within = row < rows, column < cols
    inside = there[:, None] & within[None, :]
    at = row[:, None] * cols + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if not RMS:
        mean = tl.sum(value, 1) / cols
        value = tl.where(inside, value - mean[:, None], 0.0)
        tl.store(stats + row, mean, mask=there)
        stats += rows
    rstd = 1.0 / tl.sqrt(tl.sum(value * value, 1) / cols + eps)
    tl.store(stats + row, rstd, mask=there)
    value = _affine(value * rstd[:, None], weight, bias, column, within)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@kernel()
def forward_long_kernel(
    x, weight, bias, y, stats, rows, cols, eps, RMS: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    x += row * cols
    y += row * cols
    column = tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros([1, BLOCK], tl.float32)
    if not RMS:
        for first in range(0, cols, BLOCK):
            sums += tl.load(x + first + column, mask=first + column < cols, other=0.0).to(tl.float32)
    mean = tl.sum(sums) / cols
    squares = tl.zeros([1, BLOCK], tl.float32)
    for first in range(0, cols, BLOCK):
        inside = first + column < cols
        value = tl.load(x + first + column, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - mean, 0.0)
        squares += value * value
    rstd = 1.0 / tl.sqrt(tl.sum(squares) / cols + eps)
    if not RMS:
        tl.store(stats + row, mean)
        stats += rows
    tl.store(stats + row, rstd)
    for first in range(0, cols, BLOCK):
        inside = first + column < cols
        value = (tl.load(x + first + column, mask=inside, other=0.0).to(tl.float32) - mean) * rstd
        at = first + tl.arange(0, BLOCK)
        value = _affine(value, weight, bias, at, at < cols)
        tl.store(y + first + column, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _hat(x, stats, row, rows, at, there, inside, RMS: tl.constexpr):
    """The normalised rows and their rstd."""
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if RMS:
        rstd = tl.load(stats + row, mask=there, other=0.0)
    else:
        value -= tl.load(stats + row, mask=there, other=0.0)[:, None]
        rstd = tl.load(stats + rows + row, mask=there, other=0.0)
    return tl.where(inside, value * rstd[:, None], 0.0), rstd


@kernel()
def backward_kernel(
    gy,
    x,
    weight,
    stats,
    gx,
    weight_sums,
    bias_sums,
    rows,
    cols,
    RMS: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """weight_sums, bias_sums: float32 [programs, cols] or None."""
    column = tl.arange(0, BLOCK)
    within = column < cols
    if weight is not None:
        w = tl.load(weight + column, mask=within, other=0.0).to(tl.float32)[None, :]
    gw = tl.zeros([BLOCK], tl.float32)
    gb = tl.zeros([BLOCK], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(rows, SLICES), tl.num_programs(0)):
        row = block * SLICES + tl.arange(0, SLICES).to(tl.int64)
        there = row < rows
        inside = there[:, None] & within[None, :]
        at = row[:, None] * cols + column[None, :]
        hat, rstd = _hat(x, stats, row, rows, at, there, inside, RMS)
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        if weight_sums is not None:
            gw += tl.sum(g * hat, 0)
        if bias_sums is not None:
            gb += tl.sum(g, 0)
        if gx is not None:
            if weight is not None:
                g *= w
            along = tl.sum(g * hat, 1) / cols
            result = g - hat * along[:, None]
            if not RMS:
                result -= (tl.sum(g, 1) / cols)[:, None]
            tl.store(gx + at, (result * rstd[:, None]).to(gx.dtype.element_ty), mask=inside)
    mine = tl.program_id(0).to(tl.int64) * cols
    if weight_sums is not None:
        tl.store(weight_sums + mine + column, gw, mask=within)
    if bias_sums is not None:
        tl.store(bias_sums + mine + column, gb, mask=within)


@kernel()
def backward_long_kernel(gy, x, weight, stats, gx, rows, cols, RMS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1], tl.int64)
    there = row < rows
    column = tl.arange(0, BLOCK)
    along = tl.zeros([1, BLOCK], tl.float32)
    plain = tl.zeros([1, BLOCK], tl.float32)
    for first in range(0, cols, BLOCK):
        within = first + column < cols
        inside = there[:, None] & within[None, :]
        at = row[:, None] * cols + (first + column)[None, :]
        hat, _ = _hat(x, stats, row, rows, at, there, inside, RMS)
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        g = _affine(g, weight, None, first + column, within)
        along += g * hat
        plain += g
    mean_along = tl.sum(along) / cols
    mean = tl.sum(plain) / cols
    for first in range(0, cols, BLOCK):
        within = first + column < cols
        inside = there[:, None] & within[None, :]
        at = row[:, None] * cols + (first + column)[None, :]
        hat, rstd = _hat(x, stats, row, rows, at, there, inside, RMS)
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        result = _affine(g, weight, None, first + column, within) - hat * mean_along
        if not RMS:
            result -= mean
        tl.store(gx + at, (result * rstd[:, None]).to(gx.dtype.element_ty), mask=inside)


@kernel()
def columns_kernel(
    gy, x, stats, weight_sums, bias_sums, rows, cols, RMS: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr
):
    """Parameters' sums over every num_programs(1)-th block of rows: float32 [num_programs(1), cols] or None."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = column < cols
    gw = tl.zeros([SLICES, BLOCK], tl.float32)
    gb = tl.zeros([SLICES, BLOCK], tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(rows, SLICES), tl.num_programs(1)):
        row = block * SLICES + tl.arange(0, SLICES).to(tl.int64)
        there = row < rows
        inside = there[:, None] & within[None, :]
        at = row[:, None] * cols + column[None, :]
        hat, _ = _hat(x, stats, row, rows, at, there, inside, RMS)
        g = tl.load(gy + at, mask=inside, other=0.0).to(tl.float32)
        gw += g * hat
        gb += g
    mine = tl.program_id(1).to(tl.int64) * cols
    if weight_sums is not None:
        tl.store(weight_sums + mine + column, tl.sum(gw, 0), mask=within)
    if bias_sums is not None:
        tl.store(bias_sums + mine + column, tl.sum(gb, 0), mask=within)


@kernel()
def total_kernel(weight_sums, bias_sums, gweight, gbias, parts, cols, SLICES: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of [parts, cols] over the parts, in order."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gw = tl.zeros([SLICES, BLOCK], tl.float32)
    gb = tl.zeros([SLICES, BLOCK], tl.float32)
    for first in range(0, parts, SLICES):
        part = first + tl.arange(0, SLICES)
        inside = (part < parts)[:, None] & (column < cols)[None, :]
        at = part[:, None].to(tl.int64) * cols + column[None, :]
        if weight_sums is not None:
            gw += tl.load(weight_sums + at, mask=inside, other=0.0)
        if bias_sums is not None:
            gb += tl.load(bias_sums + at, mask=inside, other=0.0)
    if weight_sums is not None:
        tl.store(gweight + column, tl.sum(gw, 0).to(gweight.dtype.element_ty), mask=column < cols)
    if bias_sums is not None:
        tl.store(gbias + column, tl.sum(gb, 0).to(gbias.dtype.element_ty), mask=column < cols)


def _tiling(rows: int, cols: int) -> tuple[int, int, int]:
    """Rows of a program, their padded length, warps."""
    block = power_of_two(cols)
    slices = min(max(1, TILE // block), 32, power_of_two(max(rows, 1)))
    return slices, block, min(16, max(1, slices * block // 512))


def _sizes(x: Tensor, dims: int) -> tuple[int, int]:
    return x.shape[: x.dim() - dims].numel() if x.dim() > dims else 1, x.shape[x.dim() - dims :].numel()


def _forward(x, weight, bias, y, stats, dims, eps, rms) -> None:
    rows, cols = _sizes(x, dims)
    if x.numel() == 0:
        return
    arguments = (dense(x), dense(weight), dense(bias), y, stats, rows, cols, eps)
    if cols <= LONGEST:
        slices, block, warps = _tiling(rows, cols)
        forward_kernel((cdiv(rows, slices),), *arguments, RMS=rms, SLICES=slices, BLOCK=block, num_warps=warps)
    else:
        forward_long_kernel((rows,), *arguments, RMS=rms, SLICES=1, BLOCK=CHUNK, num_warps=8)


def _backward(gy, x, weight, stats, gx, gweight, gbias, dims, rms) -> None:
    rows, cols = _sizes(x, dims)
    if x.numel() == 0:
        for g in (gx, gweight, gbias):
            if g is not None:
                g.zero_()
        return
    gy, x, weight, stats = dense(gy), dense(x), dense(weight), dense(stats)
    slices, block, warps = _tiling(rows, cols)
    parts = min(cdiv(rows, slices), 4 * multiprocessors(x.device))
    sums = [None if g is None else x.new_empty((parts, cols), dtype=torch.float32) for g in (gweight, gbias)]
    if cols <= LONGEST:
        arguments = (gy, x, weight, stats, gx, *sums, rows, cols)
        backward_kernel((parts,), *arguments, RMS=rms, SLICES=slices, BLOCK=block, num_warps=warps)
    else:
        if gx is not None:
            backward_long_kernel((rows,), gy, x, weight, stats, gx, rows, cols, RMS=rms, BLOCK=CHUNK, num_warps=8)
        if gweight is not None or gbias is not None:
            parts = min(parts, cdiv(rows, 16), 32)
            sums = [None if s is None else s[:parts] for s in sums]
            arguments = (gy, x, stats, *sums, rows, cols)
            columns_kernel((cdiv(cols, 128), parts), *arguments, RMS=rms, SLICES=16, BLOCK=128)
    if gweight is not None or gbias is not None:
        total_kernel((cdiv(cols, 64),), *sums, gweight, gbias, parts, cols, SLICES=32, BLOCK=64)


def layer_norm(x, weight, bias, dims, eps):
    y, stats = layer_norm_empty(x, weight, bias, dims, eps)
    _forward(x, weight, bias, y, stats, dims, eps, False)
    return y, stats


def rms_norm(x, weight, dims, eps):
    y, stats = rms_norm_empty(x, weight, dims, eps)
    _forward(x, weight, None, y, stats, dims, eps, True)
    return y, stats


def layer_norm_bwd(gy, x, weight, bias, stats, dims, eps, wanted):
    grads = layer_norm_bwd_empty(gy, x, weight, bias, stats, dims, eps, wanted)
    _backward(gy, x, weight, stats, *(g if w else None for g, w in zip(grads, wanted, strict=True)), dims, False)
    return grads


def rms_norm_bwd(gy, x, weight, stats, dims, eps, wanted):
    grads = rms_norm_bwd_empty(gy, x, weight, stats, dims, eps, wanted)
    _backward(gy, x, weight, stats, *(g if w else None for g, w in zip(grads, wanted, strict=True)), None, dims, True)
    return grads

"""Embedding lookup and its gradient. docs/math/embedding.md.

Backward sorts the indices, so that each table row's gradients lie together and are added in order: the same bits
every run. An index outside the table can't raise without waiting for the GPU: its row of the result is NaN.
"""

from __future__ import annotations

import torch
import triton.language as tl

from dlperf.ops.embedding import embedding_bwd_empty, embedding_empty

from ._launch import cdiv, kernel, power_of_two
from ._layout import dense


@kernel()
def forward_kernel(indices, weight, out, count, rows, cols, SLICES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SLICES + tl.arange(0, SLICES)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(indices + at, mask=at < count, other=0).to(tl.int64)
    known = (index >= 0) & (index < rows)
    inside = (at < count)[:, None] & (column < cols)[None, :]
    value = tl.load(weight + index[:, None] * cols + column[None, :], mask=inside & known[:, None], other=float("nan"))
    tl.store(out + at[:, None] * cols + column[None, :], value, mask=inside)


@kernel()
def backward_kernel(
    gy, order, starts, gweight, cols, padding, BY_FREQUENCY: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr
):
    """One table row: the places that looked it up are order[starts[row]:starts[row + 1]]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(starts + row)
    last = tl.load(starts + row + 1)
    if row == padding:
        last = first
    acc = tl.zeros([SLICES, BLOCK], tl.float32)
    for at in range(first, last, SLICES):
        place = at + tl.arange(0, SLICES)
        where = tl.load(order + place, mask=place < last, other=0)
        inside = (place < last)[:, None] & (column < cols)[None, :]
        acc += tl.load(gy + where[:, None] * cols + column[None, :], mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(acc, 0)
    if BY_FREQUENCY:
        total = total / tl.maximum(last - first, 1).to(tl.float32)
    tl.store(gweight + row * cols + column, total.to(gweight.dtype.element_ty), mask=column < cols)


def embedding(indices, weight, padding_idx, by_frequency):
    out = embedding_empty(indices, weight, padding_idx, by_frequency)
    if out.numel() == 0:
        return out
    rows, cols = weight.shape
    block = min(512, max(16, power_of_two(cols)))
    slices = max(1, 1024 // block)
    grid = (cdiv(indices.numel(), slices), cdiv(cols, block))
    numbers = (indices.numel(), rows, cols)
    forward_kernel(grid, dense(indices), dense(weight), out, *numbers, SLICES=slices, BLOCK=block)
    return out


def embedding_bwd(gy, indices, rows, padding_idx, by_frequency):
    gweight = embedding_bwd_empty(gy, indices, rows, padding_idx, by_frequency)
    if gweight.numel() == 0:
        return gweight
    flat = indices.flatten().to(torch.int64)
    ordered, order = torch.sort(flat, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(rows + 1, device=flat.device))
    cols = gy.shape[-1]
    block = min(128, max(16, power_of_two(cols)))
    grid = (rows, cdiv(cols, block))
    constants = {"BY_FREQUENCY": by_frequency, "SLICES": 16, "BLOCK": block}
    backward_kernel(grid, dense(gy), order, starts, gweight, cols, padding_idx, **constants)
    return gweight

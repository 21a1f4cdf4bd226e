"""Cross entropy from logits, with class numbers or probabilities. Formulas: docs/math/cross_entropy.md.

Rows are softmax's slices. Each program sums its rows' losses and weights; one more program adds those sums in order,
so the loss has the same bits every run. A target that is no class can't raise without waiting for the GPU: its row's
loss, and so the mean, is NaN.
"""

from __future__ import annotations

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.cross_entropy import class_dim, cross_entropy_bwd_empty, cross_entropy_empty

from ._launch import kernel
from ._layout import dense
from .softmax import slices, tiling


@triton.jit
def _row_index(inner, SLICES: tl.constexpr, ROWS: tl.constexpr):
    """Numbers of a program's rows in the order of the loss."""
    at = tl.arange(0, SLICES)
    if ROWS:
        return tl.program_id(0).to(tl.int64) * SLICES + at
    else:
        per_outer = tl.cdiv(inner, SLICES)
        return (tl.program_id(0) // per_outer).to(tl.int64) * inner + (tl.program_id(0) % per_outer) * SLICES + at


@kernel()
def forward_kernel(
    x,
    target,
    weight,
    saved,
    row_loss,
    partial,
    classes,
    inner,
    count,
    rows,
    ignore,
    smoothing,
    SOFT: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """saved: [top; log-sum; divisor]. row_loss float32 [rows]. partial: [sum of losses, sum of weights] of each
    program."""
    start, step, there = slices(classes, inner, count, SLICES, ROWS)
    row = _row_index(inner, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    # Where the kernel runs in blocks, each lane keeps its own maximum and sum until the end.
    top = tl.full([SLICES, BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([SLICES, BLOCK], tl.float32)
    for first in range(0, classes, BLOCK):
        inside = there[:, None] & (first + along < classes)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        value = tl.load(x + at, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, value)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.where(inside, tl.exp(value - base), 0.0)
        top = higher
    highest = tl.max(top, 1)
    total = tl.sum(total * tl.exp(top - tl.where(highest == float("-inf"), 0.0, highest)[:, None]), 1)
    rest = tl.log(total)
    tl.store(saved + row, highest, mask=there)
    tl.store(saved + rows + row, rest, mask=there)

    share = tl.zeros([SLICES], tl.float32)
    weighted = tl.zeros([SLICES, BLOCK], tl.float32)
    if SOFT or smoothing > 0.0:
        for first in range(0, classes, BLOCK):
            inside = there[:, None] & (first + along < classes)[None, :]
            at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            logp = (value - highest[:, None]) - rest[:, None]
            q = tl.zeros([SLICES, BLOCK], tl.float32) + smoothing / classes
            if SOFT:
                q += (1.0 - smoothing) * tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
            if weight is not None:
                q *= tl.load(weight + first + along, mask=first + along < classes, other=0.0).to(tl.float32)[None, :]
            weighted += tl.where(inside & (q != 0.0), q * logp, 0.0)
    loss = -tl.sum(weighted, 1)
    if SOFT:
        share += 1.0
    else:
        number = tl.load(target + row, mask=there, other=ignore)
        counts = there & (number != ignore)
        known = counts & (number >= 0) & (number < classes)
        own = tl.load(x + start + number * step, mask=known, other=float("nan")).to(tl.float32)
        if weight is not None:
            share += tl.load(weight + number, mask=known, other=0.0).to(tl.float32)
        else:
            share += 1.0
        share = tl.where(counts, share, 0.0)
        loss -= (1.0 - smoothing) * share * ((own - highest) - rest)
        loss = tl.where(counts, tl.where(known, loss, float("nan")), 0.0)
    share = tl.where(there, share, 0.0)
    tl.store(row_loss + row, loss, mask=there)
    tl.store(partial + 2 * tl.program_id(0), tl.sum(tl.where(there, loss, 0.0), 0))
    tl.store(partial + 2 * tl.program_id(0) + 1, tl.sum(share, 0))


@kernel()
def reduce_kernel(partial, loss, saved, programs, rows, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """The loss, and the mean's divisor after saved's rows."""
    at = tl.arange(0, BLOCK)
    losses = tl.zeros([BLOCK], tl.float64)
    shares = tl.zeros([BLOCK], tl.float64)
    for first in range(0, programs, BLOCK):
        inside = first + at < programs
        losses += tl.load(partial + 2 * (first + at), mask=inside, other=0.0)
        shares += tl.load(partial + 2 * (first + at) + 1, mask=inside, other=0.0)
    total = tl.sum(losses, 0)
    divisor = tl.sum(shares, 0)
    if MEAN:
        total = total / divisor
    else:
        divisor = divisor * 0.0 + 1.0
    if loss is not None:
        tl.store(loss, total.to(tl.float32).to(loss.dtype.element_ty))
    tl.store(saved + 2 * rows, divisor.to(tl.float32))


@kernel()
def backward_kernel(
    gloss,
    x,
    target,
    weight,
    saved,
    gx,
    gt,
    classes,
    inner,
    count,
    rows,
    gloss_step,
    ignore,
    smoothing,
    SOFT: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    start, step, there = slices(classes, inner, count, SLICES, ROWS)
    row = _row_index(inner, SLICES, ROWS)
    along = tl.arange(0, BLOCK)
    highest = tl.load(saved + row, mask=there, other=0.0)
    rest = tl.load(saved + rows + row, mask=there, other=0.0)
    g = tl.load(gloss + row * gloss_step, mask=there, other=0.0).to(tl.float32) / tl.load(saved + 2 * rows)
    # of every p: the row's total of weighted targets
    all_q = tl.zeros([SLICES], tl.float32)
    hot = tl.zeros([SLICES], tl.float32)
    number = tl.zeros([SLICES], tl.int64) - 1
    if SOFT or smoothing > 0.0:
        sums = tl.zeros([SLICES, BLOCK], tl.float32)
        for first in range(0, classes, BLOCK):
            inside = there[:, None] & (first + along < classes)[None, :]
            q = tl.zeros([SLICES, BLOCK], tl.float32) + smoothing / classes
            if SOFT:
                at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
                q += (1.0 - smoothing) * tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
            if weight is not None:
                q *= tl.load(weight + first + along, mask=first + along < classes, other=0.0).to(tl.float32)[None, :]
            sums += tl.where(inside, q, 0.0)
        all_q += tl.sum(sums, 1)
    if not SOFT:
        number = tl.load(target + row, mask=there, other=ignore)
        counts = there & (number != ignore)
        known = counts & (number >= 0) & (number < classes)
        if weight is not None:
            hot += tl.load(weight + number, mask=known, other=0.0).to(tl.float32)
        else:
            hot += 1.0
        hot *= 1.0 - smoothing
        all_q += hot
        # an ignored row's gradient is zero whatever g is
        g = tl.where(counts, tl.where(known, g, float("nan")), 0.0)
        highest = tl.where(counts, highest, float("inf"))
    for first in range(0, classes, BLOCK):
        inside = there[:, None] & (first + along < classes)[None, :]
        at = start[:, None] + (first + along)[None, :].to(tl.int64) * step
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        logp = (value - highest[:, None]) - rest[:, None]
        q = tl.zeros([SLICES, BLOCK], tl.float32) + smoothing / classes
        if SOFT:
            q += (1.0 - smoothing) * tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
        if weight is not None:
            w = tl.load(weight + first + along, mask=first + along < classes, other=0.0).to(tl.float32)[None, :]
        else:
            w = tl.full([1, BLOCK], 1.0, tl.float32)
        q = q * w + tl.where((first + along)[None, :] == number[:, None], hot[:, None], 0.0)
        tl.store(gx + at, (g[:, None] * (tl.exp(logp) * all_q[:, None] - q)).to(gx.dtype.element_ty), mask=inside)
        if gt is not None:
            tl.store(gt + at, (-g[:, None] * w * (1.0 - smoothing) * logp).to(gt.dtype.element_ty), mask=inside)


def _prepare(x: Tensor, target: Tensor, weight: Tensor | None):
    dim = class_dim(x)
    outer, classes, inner = prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :])
    programs, constants, warps = tiling(outer, classes, inner)
    if constants["BLOCK"] > 2048:  # several live tiles: fewer registers each
        constants["BLOCK"], constants["SLICES"], warps = 2048, 1, 8
        programs = outer if constants["ROWS"] else outer * inner
    return (outer, classes, inner), programs, constants, warps, (dense(x), dense(target), dense(weight))


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    loss, saved = cross_entropy_empty(x, target, weight, reduction)
    (outer, classes, inner), programs, constants, warps, (x, target, weight) = _prepare(x, target, weight)
    rows = outer * inner
    partial = x.new_empty((2 * programs,), dtype=torch.float32)
    row_loss = loss if reduction == 0 and loss.dtype is torch.float32 else x.new_empty((rows,), dtype=torch.float32)
    arguments = (x, target, weight, saved, row_loss, partial, classes, inner, outer, rows, ignore_index)
    soft = target.is_floating_point()
    forward_kernel((programs,), *arguments, label_smoothing, SOFT=soft, **constants, num_warps=warps)
    scalar = None if reduction == 0 else loss
    reduce_kernel((1,), partial, scalar, saved, programs, rows, MEAN=reduction == 1, BLOCK=1024)
    if reduction == 0 and row_loss is not loss:
        loss.view(-1).copy_(row_loss)
    return loss, saved


def cross_entropy_bwd(
    gloss: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    to_target: bool,
) -> tuple[Tensor, Tensor]:
    gx, gt = cross_entropy_bwd_empty(
        gloss, x, target, weight, saved, reduction, ignore_index, label_smoothing, to_target
    )
    (outer, classes, inner), programs, constants, warps, (x, target, weight) = _prepare(x, target, weight)
    gloss = dense(gloss)
    tensors = (gloss, x, target, weight, saved, gx, gt if to_target else None)
    numbers = (classes, inner, outer, outer * inner, 1 if gloss.dim() else 0, ignore_index, label_smoothing)
    soft = target.is_floating_point()
    backward_kernel((programs,), *tensors, *numbers, SOFT=soft, **constants, num_warps=warps)
    return gx, gt

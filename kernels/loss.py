"""Elementwise losses and their sums, the negative log likelihood, and their gradients. Formulas: docs/math/loss.md.

A reduced loss reads its inputs once: every program sums a share of the elements, and one more adds those sums in
float64 and in order, so the loss has the same bits every run. A target that is no class can't raise without waiting for
the GPU: its loss, the mean and its gradients are NaN.
"""

from __future__ import annotations

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.loss import nll_loss_empty, pair_loss_bwd_empty, pair_loss_empty

from ._launch import cdiv, kernel, multiprocessors, power_of_two
from ._layout import dense

BLOCK = 2048


@triton.jit
def _sign(d):
    return tl.where(d > 0.0, 1.0, tl.where(d < 0.0, -1.0, d))  # NaN stays


@triton.jit
def _loss(x, t, param, KIND: tl.constexpr):
    d = x - t
    a = tl.abs(d)
    if KIND == "mse":
        return d * d
    elif KIND == "l1":
        return a
    elif KIND == "smooth_l1":
        return tl.where(a < param, 0.5 * a * a / param, a - 0.5 * param)
    elif KIND == "huber":
        return tl.where(a < param, 0.5 * a * a, param * (a - 0.5 * param))
    elif KIND == "bce_logits":
        e = tl.exp(-tl.abs(x))
        log1p = tl.where(e < 0.01, e * (1.0 - e * (0.5 - e * 0.33333333)), tl.log(1.0 + e))
        return (1.0 - t) * x + (tl.where(x < 0.0, -x, x * 0.0) + log1p)
    elif KIND == "kl_div":
        return tl.where(t == 0.0, 0.0, t * tl.log(t)) - t * x
    else:
        tl.static_assert(KIND == "kl_div_log", "unknown loss")
        return tl.exp(t) * (t - x)


@triton.jit
def _gradients(x, t, param, KIND: tl.constexpr):
    """The derivatives by x and by t."""
    d = x - t
    if KIND == "bce_logits":
        return tl.sigmoid(x) - t, -x
    elif KIND == "kl_div":
        return -t, tl.where(t == 0.0, 0.0, tl.log(t) + 1.0) - x
    elif KIND == "kl_div_log":
        e = tl.exp(t)
        return -e, e * (t - x + 1.0)
    else:
        if KIND == "mse":
            by_x = 2.0 * d
        elif KIND == "l1":
            by_x = _sign(d)
        elif KIND == "smooth_l1":
            by_x = tl.where(tl.abs(d) < param, d / param, _sign(d))
        else:
            tl.static_assert(KIND == "huber", "unknown loss")
            by_x = tl.where(tl.abs(d) < param, d, param * _sign(d))
        return by_x, -by_x


@kernel()
def elementwise_kernel(x, target, y, n, param, KIND: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
    first = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(target + start + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + start + at, _loss(first, second, param, KIND).to(y.dtype.element_ty), mask=inside)


@kernel()
def sums_kernel(x, target, partial, n, param, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """partial: each program's sum, float32."""
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, n, step):
        inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
        first = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(target + start + at, mask=inside, other=0.0).to(tl.float32)
        total += tl.where(inside, _loss(first, second, param, KIND), 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(total, 0))


@kernel()
def reduce_kernel(partial, out, total_weight, programs, count, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of partial's first ``programs``, over count where MEAN. With total_weight the second ``programs`` are
    weights: their sum is stored there, and divides the mean."""
    at = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float64)
    weights = tl.zeros([BLOCK], tl.float64)
    for first in range(0, programs, BLOCK):
        inside = first + at < programs
        sums += tl.load(partial + first + at, mask=inside, other=0.0)
        if total_weight is not None:
            weights += tl.load(partial + programs + first + at, mask=inside, other=0.0)
    total = tl.sum(sums, 0)
    divisor = tl.sum(weights, 0)
    if total_weight is not None:
        tl.store(total_weight, divisor)
    else:
        divisor += count
    if out is not None:
        if MEAN:
            total = total / divisor
        tl.store(out, total.to(tl.float32).to(out.dtype.element_ty))


@kernel()
def backward_kernel(gy, x, target, gx, gtarget, n, gy_step, param, scale, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """gy_step 0: one gradient for all. gx and gtarget: either may be None."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
    g = tl.load(gy + (start + at) * gy_step, mask=inside, other=0.0).to(tl.float32) * scale
    first = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(target + start + at, mask=inside, other=0.0).to(tl.float32)
    by_x, by_target = _gradients(first, second, param, KIND)
    if gx is not None:
        tl.store(gx + start + at, (g * by_x).to(gx.dtype.element_ty), mask=inside)
    if gtarget is not None:
        tl.store(gtarget + start + at, (g * by_target).to(gtarget.dtype.element_ty), mask=inside)


@triton.jit
def _class_of(target, weight, row, there, classes, ignore):
    """Each row's class, its weight, and whether the row counts and its class exists."""
    number = tl.load(target + row, mask=there, other=ignore)
    counts = there & (number != ignore)
    known = counts & (number >= 0) & (number < classes)
    share = tl.where(known, 1.0, 0.0)
    if weight is not None:
        share = tl.load(weight + number, mask=known, other=0.0).to(tl.float32)
    return number, share, counts, known


@kernel()
def nll_kernel(x, target, weight, losses, partial, classes, inner, rows, ignore, BLOCK: tl.constexpr):
    """losses: of each row, or None. partial: each program's sum of losses; and after all of them, of weights."""
    at = tl.arange(0, BLOCK)
    loss_sum = tl.zeros([BLOCK], tl.float32)
    share_sum = tl.zeros([BLOCK], tl.float32)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for first in range(tl.program_id(0).to(tl.int64) * BLOCK, rows, step):
        row = first + at
        there = row < rows
        number, share, counts, known = _class_of(target, weight, row, there, classes, ignore)
        place = ((row // inner) * classes + number) * inner + row % inner
        value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
        loss = tl.where(share == 0.0, 0.0, -share * value)
        loss = tl.where(counts & (known == 0), float("nan"), loss)
        if losses is not None:
            tl.store(losses + row, loss.to(losses.dtype.element_ty), mask=there)
        loss_sum += loss
        share_sum += share
    tl.store(partial + tl.program_id(0), tl.sum(loss_sum, 0))
    tl.store(partial + tl.num_programs(0) + tl.program_id(0), tl.sum(share_sum, 0))


@kernel()
def nll_backward_kernel(
    gy, target, weight, total_weight, gx, classes, inner, rows, gy_step, ignore, MEAN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """gx [outer, classes, inner]; rows are [outer, inner], and a program writes all classes of its own."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    number, share, counts, known = _class_of(target, weight, row, there, classes, ignore)
    g = -tl.load(gy + row * gy_step, mask=there, other=0.0).to(tl.float32) * share
    if MEAN:
        g = g / tl.load(total_weight).to(tl.float32)
    g = tl.where(share == 0.0, 0.0, g)
    lost = tl.where(counts & (known == 0), float("nan"), 0.0)
    start = (row // inner) * classes * inner + row % inner
    for first in range(0, classes, COLS):
        column = first + tl.arange(0, COLS)
        value = tl.where(column[None, :] == number[:, None], g[:, None], lost[:, None])
        inside = there[:, None] & (column < classes)[None, :]
        at = start[:, None] + column[None, :].to(tl.int64) * inner
        tl.store(gx + at, value.to(gx.dtype.element_ty), mask=inside)


def _programs(x: Tensor, n: int) -> int:
    """That sum n elements: no more than fill the card, and one at least."""
    return max(1, min(cdiv(n, BLOCK), 8 * multiprocessors(x.device)))


def pair_loss(x: Tensor, target: Tensor, kind: str, param: float, reduction: int) -> Tensor:
    out = pair_loss_empty(x, target, kind, param, reduction)
    x, target, n = dense(x), dense(target), x.numel()
    if reduction == 0:
        elementwise_kernel((cdiv(n, BLOCK),), x, target, out, n, param, KIND=kind, BLOCK=BLOCK)
        return out
    programs = _programs(x, n)
    partial = x.new_empty((programs,), dtype=torch.float32)
    sums_kernel((programs,), x, target, partial, n, param, KIND=kind, BLOCK=BLOCK)
    reduce_kernel((1,), partial, out, None, programs, n, MEAN=reduction == 1, BLOCK=1024)
    return out


def pair_loss_bwd(
    gy: Tensor, x: Tensor, target: Tensor, kind: str, param: float, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    grads = pair_loss_bwd_empty(gy, x, target, kind, param, reduction, wanted)
    n = x.numel()
    if n > 0 and any(wanted):
        gx, gtarget = (g if w else None for g, w in zip(grads, wanted, strict=True))
        scale = 1.0 / n if reduction == 1 else 1.0
        tensors = (dense(gy), dense(x), dense(target), gx, gtarget)
        step = 1 if reduction == 0 else 0
        backward_kernel((cdiv(n, BLOCK),), *tensors, n, step, param, scale, KIND=kind, BLOCK=BLOCK)
    return grads


def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: int
) -> tuple[Tensor, Tensor]:
    losses, total_weight = nll_loss_empty(x, target, weight, ignore_index, reduction)
    rows, classes, inner = target.numel(), x.shape[1], prod(x.shape[2:])
    block = 256
    programs = max(1, min(cdiv(rows, block), 8 * multiprocessors(x.device)))
    partial = x.new_empty((2 * programs,), dtype=torch.float32)
    tensors = (dense(x), dense(target), dense(weight), losses if reduction == 0 else None, partial)
    nll_kernel((programs,), *tensors, classes, inner, rows, ignore_index, BLOCK=block)
    out = None if reduction == 0 else losses
    reduce_kernel((1,), partial, out, total_weight, programs, rows, MEAN=reduction == 1, BLOCK=1024)
    return losses, total_weight


def nll_loss_bwd(
    gy: Tensor,
    target: Tensor,
    weight: Tensor | None,
    total_weight: Tensor,
    x_size: list[int],
    ignore_index: int,
    reduction: int,
) -> Tensor:
    gx = gy.new_empty(x_size)
    if gx.numel() > 0:
        rows, classes, inner = target.numel(), x_size[1], prod(x_size[2:])
        cols = min(256, max(16, power_of_two(classes)))
        tensors = (dense(gy), dense(target), dense(weight), total_weight, gx)
        numbers = (classes, inner, rows, 1 if reduction == 0 else 0, ignore_index)
        height = 2048 // cols
        nll_backward_kernel((cdiv(rows, height),), *tensors, *numbers, MEAN=reduction == 1, ROWS=height, COLS=cols)
    return gx

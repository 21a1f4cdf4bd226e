"""Batch norm with residual and activation, training and evaluation, NHWC and NCHW. Formulas: docs/math/batch_norm.md.

Training forward: partial moments, their join by channel, one pass that normalises. Backward: partial sums, their
join, one pass. NHWC memory is one image of N S positions.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dlperf.ops.batch_norm import batch_norm_bwd_empty, batch_norm_eval_empty, batch_norm_train_empty, memory_format

from ._channels import Grid, gradient_kernel, in_format, moments_kernel, normalize_kernel, part_length, sums_kernel
from ._launch import cdiv, kernel
from ._layout import dense

_COLS = 32
_ROWS = 32


@kernel()
def join_moments_kernel(
    means, squares, mean, var, channels, planes, rows, parts, positions, step, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """By channel, over ``rows`` = parts times images partial moments: the overall mean in float64, then squared
    deviations from it."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    images = planes // channels
    total = images.to(tl.float32) * positions
    sums = tl.zeros([ROWS, COLS], tl.float64)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (c < channels)[None, :]
        count = part_length(row // images, parts, positions, step)[:, None].to(tl.float64)
        sums += count * tl.load(means + row[:, None].to(tl.int64) * channels + c[None, :], mask=inside, other=0.0)
    center = (tl.sum(sums, 0) / total).to(tl.float32)
    spread = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (c < channels)[None, :]
        at = row[:, None].to(tl.int64) * channels + c[None, :]
        count = part_length(row // images, parts, positions, step)[:, None]
        delta = tl.where(inside, tl.load(means + at, mask=inside, other=0.0) - center[None, :], 0.0)
        spread += tl.load(squares + at, mask=inside, other=0.0) + count * delta * delta
    tl.store(mean + c, center, mask=c < channels)
    tl.store(var + c, tl.sum(spread, 0) / total, mask=c < channels)


@kernel()
def join_sums_kernel(
    g_sums,
    hat_sums,
    weight,
    gweight,
    gbias,
    g_mean,
    hat_mean,
    channels,
    rows,
    count,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """By channel: the parameters' gradients, and the means that gx subtracts; any of the outputs may be None."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    within = c < channels
    g = tl.zeros([ROWS, COLS], tl.float32)
    hat = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & within[None, :]
        at = row[:, None].to(tl.int64) * channels + c[None, :]
        g += tl.load(g_sums + at, mask=inside, other=0.0)
        if hat_sums is not None:
            hat += tl.load(hat_sums + at, mask=inside, other=0.0)
    g_total = tl.sum(g, 0)
    hat_total = tl.sum(hat, 0)
    if gweight is not None:
        tl.store(gweight + c, hat_total.to(gweight.dtype.element_ty), mask=within)
    if gbias is not None:
        tl.store(gbias + c, g_total.to(gbias.dtype.element_ty), mask=within)
    if g_mean is not None:
        w = tl.full([COLS], 1.0, tl.float32)
        if weight is not None:
            w = tl.load(weight + c, mask=within, other=0.0).to(tl.float32)
        tl.store(g_mean + c, w * g_total / count, mask=within)
        tl.store(hat_mean + c, w * hat_total / count, mask=within)


@kernel()
def update_kernel(
    running_mean, running_var, mean, var, channels, momentum, count, UNBIASED: tl.constexpr, BLOCK: tl.constexpr
):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = c < channels
    for_mean = tl.load(mean + c, mask=within, other=0.0)
    for_var = tl.load(var + c, mask=within, other=0.0)
    if UNBIASED:
        for_var = for_var * (count / (count - 1.0))
    before = tl.load(running_mean + c, mask=within, other=0.0).to(tl.float32)
    after = before + momentum * (for_mean - before)
    tl.store(running_mean + c, after.to(running_mean.dtype.element_ty), mask=within)
    before = tl.load(running_var + c, mask=within, other=0.0).to(tl.float32)
    after = before + momentum * (for_var - before)
    tl.store(running_var + c, after.to(running_var.dtype.element_ty), mask=within)


def sizes(x: Tensor, last: bool) -> tuple[int, int, int]:
    """N, C, S as the kernels see them."""
    n, c, s = x.shape[0], x.shape[1], x.shape[2:].numel()
    return (1, c, n * s) if last or x.dim() == 2 else (n, c, s)


def _is_last(x: Tensor, format: torch.memory_format) -> bool:
    return format is not torch.contiguous_format or x.dim() == 2


def _normalize(x, residual, y, mean, var, weight, bias, eps, activation, shape, last) -> None:
    g = Grid(x.device, *shape, last, reduces=False)
    normalize_kernel(
        g.grid,
        *(x, residual, y, dense(mean), dense(var), dense(weight), dense(bias), *g.numbers, 0, eps),
        **g.constants,
        KIND=activation,
        VAR=True,
        num_warps=g.warps,
    )


def batch_norm_train(x, weight, bias, residual, eps, activation):
    y, mean, var = batch_norm_train_empty(x)
    if x.numel() == 0:
        return y, mean.zero_(), var.zero_()
    format = memory_format(x)
    last = _is_last(x, format)
    x, residual = in_format(x, format), in_format(residual, format)
    n, c, s = sizes(x, last)
    g = Grid(x.device, n, c, s, last, reduces=True)
    means, squares = g.partial(x), g.partial(x)
    moments_kernel(g.grid, x, means, squares, *g.numbers, **g.constants, num_warps=g.warps)
    numbers = (c, n * c, g.parts * n, g.parts, s, g.step)
    join_moments_kernel((cdiv(c, _COLS),), means, squares, mean, var, *numbers, ROWS=_ROWS, COLS=_COLS)
    _normalize(x, residual, y, mean, var, weight, bias, eps, activation, (n, c, s), last)
    return y, mean, var


def batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation):
    y = batch_norm_eval_empty(x)
    if x.numel() > 0:
        format = memory_format(x)
        last = _is_last(x, format)
        x, residual = in_format(x, format), in_format(residual, format)
        _normalize(x, residual, y, mean, var, weight, bias, eps, activation, sizes(x, last), last)
    return y


def batch_norm_given(x, mean, var, weight, bias, residual, eps, activation):
    return batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation)


def batch_norm_bwd(gy, x, y, mean, var, weight, bias, eps, training, wanted):
    grads = batch_norm_bwd_empty(gy, x, y, mean, var, weight, bias, eps, training, wanted)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    format = memory_format(x)
    last = _is_last(x, format)
    gy, x, y = in_format(gy, format), in_format(x, format), in_format(y, format)
    n, c, s = sizes(x, last)
    gx, gweight, gbias, gresidual = (g if w else None for g, w in zip(grads, wanted, strict=True))
    mean, var, weight = dense(mean), dense(var), dense(weight)
    statistics = (mean, var, weight, None)
    g_mean = hat_mean = None
    if (training and gx is not None) or gweight is not None or gbias is not None:
        g = Grid(x.device, n, c, s, last, reduces=True)
        g_sums, hat_sums = g.partial(x), g.partial(x)
        arguments = (gy, x, y, *statistics, g_sums, hat_sums, *g.numbers, 0, eps)
        sums_kernel(g.grid, *arguments, KIND="none", VAR=True, **g.constants, num_warps=g.warps)
        if training and gx is not None:
            g_mean, hat_mean = x.new_empty((2, c), dtype=torch.float32)
        arguments = (g_sums, hat_sums, weight, gweight, gbias, g_mean, hat_mean, c, g.parts * n, float(n * s))
        join_sums_kernel((cdiv(c, _COLS),), *arguments, ROWS=_ROWS, COLS=_COLS)
    if gx is not None or gresidual is not None:
        g = Grid(x.device, n, c, s, last, reduces=False)
        arguments = (gy, x, y, *statistics, g_mean, hat_mean, gx, gresidual, *g.numbers, 0, eps)
        gradient_kernel(g.grid, *arguments, KIND="none", VAR=True, **g.constants, num_warps=g.warps)
    return grads


def batch_norm_update(running_mean, running_var, mean, var, momentum, count):
    c = mean.shape[0]
    arguments = (running_mean, running_var, dense(mean), dense(var), c, float(momentum), float(count))
    update_kernel((cdiv(c, 256),), *arguments, UNBIASED=True, BLOCK=256)

"""Group norm with activation, forward and backward, NHWC and NCHW. Formulas: docs/math/group_norm.md.

The positions of an image are split over programs: partial moments of each plane, their join by group, one pass that
normalises and applies the activation. Backward computes the activation's input again.
"""

from __future__ import annotations

import torch
import triton.language as tl

from dlperf.ops.group_norm import group_norm_bwd_empty, group_norm_empty, memory_format

from ._channels import Grid, gradient_kernel, in_format, moments_kernel, normalize_kernel, part_length, sums_kernel
from ._launch import cdiv, kernel, power_of_two
from ._layout import dense
from .batch_norm import join_sums_kernel


@kernel()
def join_moments_kernel(
    means, squares, stats, planes, channels, groups, parts, positions, step, eps, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """Of one image's group: mean and rstd, from the moments of its channels' parts."""
    which = tl.program_id(0)
    depth = channels // groups
    start = (which // groups).to(tl.int64) * channels + (which % groups) * depth
    column = tl.arange(0, COLS)
    total = (depth * positions).to(tl.float32)
    sums = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, parts, ROWS):
        part = first + tl.arange(0, ROWS)
        count = part_length(part, parts, positions, step)[:, None]
        for c in range(0, depth, COLS):
            inside = (part < parts)[:, None] & (c + column < depth)[None, :]
            at = start + part[:, None].to(tl.int64) * planes + c + column[None, :]
            sums += count * tl.load(means + at, mask=inside, other=0.0)
    center = tl.sum(sums) / total
    spread = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(0, parts, ROWS):
        part = first + tl.arange(0, ROWS)
        count = part_length(part, parts, positions, step)[:, None]
        for c in range(0, depth, COLS):
            inside = (part < parts)[:, None] & (c + column < depth)[None, :]
            at = start + part[:, None].to(tl.int64) * planes + c + column[None, :]
            delta = tl.where(inside, tl.load(means + at, mask=inside, other=0.0) - center, 0.0)
            spread += tl.load(squares + at, mask=inside, other=0.0) + count * delta * delta
    tl.store(stats + which, center)
    tl.store(stats + (planes // channels) * groups + which, 1.0 / tl.sqrt(tl.sum(spread) / total + eps))


@kernel()
def join_sums_by_group_kernel(
    g_sums,
    hat_sums,
    weight,
    g_by_plane,
    hat_by_plane,
    g_mean,
    hat_mean,
    planes,
    channels,
    groups,
    parts,
    positions,
    COLS: tl.constexpr,
):
    """Each plane's sums over the parts, and each group's means of weight g and weight g hat."""
    which = tl.program_id(0)
    depth = channels // groups
    channel = (which % groups) * depth
    start = (which // groups).to(tl.int64) * channels + channel
    column = tl.arange(0, COLS)
    g_total = tl.zeros([COLS], tl.float32)
    hat_total = tl.zeros([COLS], tl.float32)
    for c in range(0, depth, COLS):
        inside = c + column < depth
        g = tl.zeros([COLS], tl.float32)
        hat = tl.zeros([COLS], tl.float32)
        for part in range(parts):
            at = start + c + column + (tl.zeros([COLS], tl.int64) + part) * planes
            g += tl.load(g_sums + at, mask=inside, other=0.0)
            hat += tl.load(hat_sums + at, mask=inside, other=0.0)
        tl.store(g_by_plane + start + c + column, g, mask=inside)
        tl.store(hat_by_plane + start + c + column, hat, mask=inside)
        w = tl.full([COLS], 1.0, tl.float32)
        if weight is not None:
            w = tl.load(weight + channel + c + column, mask=inside, other=0.0).to(tl.float32)
        g_total += w * g
        hat_total += w * hat
    count = (depth * positions).to(tl.float32)
    tl.store(g_mean + which, tl.sum(g_total) / count)
    tl.store(hat_mean + which, tl.sum(hat_total) / count)


def _sizes(x) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def group_norm(x, weight, bias, groups, eps, activation):
    y, stats = group_norm_empty(x, weight, bias, groups, eps, activation)
    if x.numel() == 0:
        return y, stats
    format = memory_format(x)
    last = format is not torch.contiguous_format
    x, weight, bias = in_format(x, format), dense(weight), dense(bias)
    n, c, s = _sizes(x)
    g = Grid(x.device, n, c, s, last, reduces=True)
    means, squares = g.partial(x), g.partial(x)
    moments_kernel(g.grid, x, means, squares, *g.numbers, **g.constants, num_warps=g.warps)
    cols = min(64, power_of_two(c // groups))
    numbers = (n * c, c, groups, g.parts, s, g.step, eps)
    join_moments_kernel((n * groups,), means, squares, stats, *numbers, ROWS=256 // cols, COLS=cols, num_warps=2)
    g = Grid(x.device, n, c, s, last, reduces=False)
    arguments = (x, None, y, stats[0], stats[1], weight, bias, *g.numbers, groups, eps)
    normalize_kernel(g.grid, *arguments, KIND=activation, VAR=False, **g.constants, num_warps=g.warps)
    return y, stats


def group_norm_bwd(gy, x, weight, bias, stats, groups, eps, activation, wanted):
    grads = group_norm_bwd_empty(gy, x, weight, bias, stats, groups, eps, activation, wanted)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    format = memory_format(x)
    last = format is not torch.contiguous_format
    gy, x, weight, bias, stats = in_format(gy, format), in_format(x, format), dense(weight), dense(bias), dense(stats)
    n, c, s = _sizes(x)
    gx, gweight, gbias = (g if w else None for g, w in zip(grads, wanted, strict=True))
    statistics = (stats[0], stats[1], weight, bias)
    g = Grid(x.device, n, c, s, last, reduces=True)
    g_sums, hat_sums = g.partial(x), g.partial(x)
    arguments = (gy, x, None, *statistics, g_sums, hat_sums, *g.numbers, groups, eps)
    sums_kernel(g.grid, *arguments, KIND=activation, VAR=False, **g.constants, num_warps=g.warps)
    by_plane = x.new_empty((2, n, c), dtype=torch.float32)
    g_mean, hat_mean = x.new_empty((2, n * groups), dtype=torch.float32)
    cols = min(256, power_of_two(c // groups))
    arguments = (g_sums, hat_sums, weight, by_plane[0], by_plane[1], g_mean, hat_mean, n * c, c, groups, g.parts, s)
    join_sums_by_group_kernel((n * groups,), *arguments, COLS=cols, num_warps=1)
    if gweight is not None or gbias is not None:
        arguments = (by_plane[0], by_plane[1], None, gweight, gbias, None, None, c, n, 1.0)
        join_sums_kernel((cdiv(c, 32),), *arguments, ROWS=32, COLS=32)
    if gx is not None:
        g = Grid(x.device, n, c, s, last, reduces=False)
        arguments = (gy, x, None, *statistics, g_mean, hat_mean, gx, None, *g.numbers, groups, eps)
        gradient_kernel(g.grid, *arguments, KIND=activation, VAR=False, **g.constants, num_warps=g.warps)
    return grads

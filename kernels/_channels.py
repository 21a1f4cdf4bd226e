"""Norms over channels: what batch norm and group norm share.

A tensor is [N, C, S]; memory is N, S, C where it lies channels last. ``LAST`` chooses the tile: positions by
channels, or one plane's positions. Reductions go in two steps without atomics: each program reduces its part of the
positions and writes it, float32 [parts, N, C]; then the parts are joined in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._activation_math import act, act_gradient
from ._launch import cdiv, kernel, multiprocessors, power_of_two


@triton.jit
def tile(positions, channels, part, parts, step, LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """A program's place.

    LAST: program_id(0) is (image, block of COLS channels), rows are positions. Else program_id(0) is a block of ROWS
    planes and columns are positions. Returns the plane numbers n C + c (1-D: of the columns or the rows), which of
    them exist, where each begins in memory, and the range of positions of this part, in steps of ``step``.
    """
    length = tl.cdiv(tl.cdiv(positions, parts), step) * step
    first = part * length
    last = tl.minimum(first + length, positions)
    if LAST:
        blocks = tl.cdiv(channels, COLS)
        image = (tl.program_id(0) // blocks).to(tl.int64)
        c = (tl.program_id(0) % blocks) * COLS + tl.arange(0, COLS)
        return image * channels + c, c < channels, image * channels * positions + c, first, last
    else:
        plane = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        return plane, plane >= 0, plane * positions, first, last


@kernel()
def moments_kernel(
    x,
    means,
    squares,
    planes,
    channels,
    positions,
    parts,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Mean and sum of squared deviations of each plane's part, by Chan, Golub & LeVeque's pairwise update.

    Values are taken relative to the part's first, so that means far from zero keep their digits.
    """
    part = tl.program_id(1)
    plane, there, start, first, last = tile(positions, channels, part, parts, ROWS if LAST else COLS, LAST, ROWS, COLS)
    there = there & (plane < planes)
    AXIS: tl.constexpr = 0 if LAST else 1
    mean = tl.zeros([COLS if LAST else ROWS], tl.float32)
    square = tl.zeros([COLS if LAST else ROWS], tl.float32)
    seen = 0.0
    some = tl.minimum(first, positions - 1).to(tl.int64)
    pivot = tl.load(x + start + some * (channels if LAST else 1), mask=there, other=0.0)
    pivot = pivot.to(tl.float32)
    for at in range(first, last, ROWS if LAST else COLS):
        if LAST:
            position = at + tl.arange(0, ROWS)
            inside = (position < last)[:, None] & there[None, :]
            value = tl.load(x + start[None, :] + position[:, None].to(tl.int64) * channels, mask=inside, other=0.0)
        else:
            position = at + tl.arange(0, COLS)
            inside = there[:, None] & (position < last)[None, :]
            value = tl.load(x + start[:, None] + position[None, :], mask=inside, other=0.0)
        value = tl.where(inside, value.to(tl.float32) - tl.expand_dims(pivot, AXIS), 0.0)
        count = tl.minimum(last - at, ROWS if LAST else COLS).to(tl.float32)
        own = tl.sum(value, AXIS) / count
        value = tl.where(inside, value - tl.expand_dims(own, AXIS), 0.0)
        delta = own - mean
        share = count / (seen + count)
        square += tl.sum(value * value, AXIS) + delta * delta * seen * share
        mean += delta * share
        seen += count
    out = part.to(tl.int64) * planes + plane
    tl.store(means + out, pivot + mean, mask=there)
    tl.store(squares + out, square, mask=there)


@triton.jit
def part_length(part, parts, positions, step):
    length = tl.cdiv(tl.cdiv(positions, parts), step) * step
    return tl.maximum(tl.minimum(positions - part * length, length), 0).to(tl.float32)


@triton.jit
def _statistics(mean, second, weight, bias, plane, there, channels, groups, eps, VAR: tl.constexpr):
    """Of each plane: mean, rstd, weight, bias. Groups 0: one statistic a channel for all images (batch norm)."""
    c = plane % channels
    if groups == 0:
        which = c
    else:
        which = (plane // channels) * groups + c // (channels // groups)
    m = tl.load(mean + which, mask=there, other=0.0).to(tl.float32)
    r = tl.load(second + which, mask=there, other=1.0).to(tl.float32)
    if VAR:
        r = 1.0 / tl.sqrt(r + eps)
    w = tl.full(m.shape, 1.0, tl.float32)
    b = tl.zeros(m.shape, tl.float32)
    if weight is not None:
        w = tl.load(weight + c, mask=there, other=0.0).to(tl.float32)
    if bias is not None:
        b = tl.load(bias + c, mask=there, other=0.0).to(tl.float32)
    return m, r, w, b, which


@kernel()
def normalize_kernel(
    x,
    residual,
    y,
    mean,
    second,
    weight,
    bias,
    planes,
    channels,
    positions,
    parts,
    groups,
    eps,
    KIND: tl.constexpr,
    VAR: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y = act((x - mean) rstd weight + bias + residual). second: the variance where VAR, else rstd."""
    part = tl.program_id(1)
    plane, there, start, first, last = tile(positions, channels, part, parts, ROWS if LAST else COLS, LAST, ROWS, COLS)
    there = there & (plane < planes)
    m, r, w, b, _ = _statistics(mean, second, weight, bias, plane, there, channels, groups, eps, VAR)
    AXIS: tl.constexpr = 0 if LAST else 1
    m, r, w, b = tl.expand_dims(m, AXIS), tl.expand_dims(r, AXIS), tl.expand_dims(w, AXIS), tl.expand_dims(b, AXIS)
    for at in range(first, last, ROWS if LAST else COLS):
        if LAST:
            position = at + tl.arange(0, ROWS)
            inside = (position < last)[:, None] & there[None, :]
            offset = start[None, :] + position[:, None].to(tl.int64) * channels
        else:
            position = at + tl.arange(0, COLS)
            inside = there[:, None] & (position < last)[None, :]
            offset = start[:, None] + position[None, :]
        value = (tl.load(x + offset, mask=inside, other=0.0).to(tl.float32) - m) * r * w + b
        if residual is not None:
            value += tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + offset, act(value, 0.0, KIND).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_after_norm(gy, x, y, offset, inside, m, r, w, b, KIND: tl.constexpr):
    """The gradient of what the activation got, and the normalised input. y: relu's output; else KIND is undone by x."""
    g = tl.load(gy + offset, mask=inside, other=0.0).to(tl.float32)
    hat = tl.where(inside, (tl.load(x + offset, mask=inside, other=0.0).to(tl.float32) - m) * r, 0.0)
    if y is not None:
        # as torch's threshold: what is not <= 0 passes, NaN too
        g = tl.where(tl.load(y + offset, mask=inside, other=0.0).to(tl.float32) <= 0.0, 0.0, g)
    elif KIND != "none":
        g = act_gradient(g, hat * w + b, 0.0, KIND)
    return g, hat


@kernel()
def sums_kernel(
    gy,
    x,
    y,
    mean,
    second,
    weight,
    bias,
    g_sums,
    hat_sums,
    planes,
    channels,
    positions,
    parts,
    groups,
    eps,
    KIND: tl.constexpr,
    VAR: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Sums of g and, with hat_sums, of g times the normalised input, over each plane's part."""
    part = tl.program_id(1)
    plane, there, start, first, last = tile(positions, channels, part, parts, ROWS if LAST else COLS, LAST, ROWS, COLS)
    there = there & (plane < planes)
    AXIS: tl.constexpr = 0 if LAST else 1
    if hat_sums is not None:
        m, r, w, b, _ = _statistics(mean, second, weight, bias, plane, there, channels, groups, eps, VAR)
        m, r, w, b = tl.expand_dims(m, AXIS), tl.expand_dims(r, AXIS), tl.expand_dims(w, AXIS), tl.expand_dims(b, AXIS)
    g_sum = tl.zeros([ROWS, COLS], tl.float32)
    hat_sum = tl.zeros([ROWS, COLS], tl.float32)
    for at in range(first, last, ROWS if LAST else COLS):
        if LAST:
            position = at + tl.arange(0, ROWS)
            inside = (position < last)[:, None] & there[None, :]
            offset = start[None, :] + position[:, None].to(tl.int64) * channels
        else:
            position = at + tl.arange(0, COLS)
            inside = there[:, None] & (position < last)[None, :]
            offset = start[:, None] + position[None, :]
        if hat_sums is not None:
            g, hat = _gradient_after_norm(gy, x, y, offset, inside, m, r, w, b, KIND)
            hat_sum += g * hat
        else:
            g = tl.load(gy + offset, mask=inside, other=0.0).to(tl.float32)
        g_sum += g
    out = part.to(tl.int64) * planes + plane
    tl.store(g_sums + out, tl.sum(g_sum, AXIS), mask=there)
    if hat_sums is not None:
        tl.store(hat_sums + out, tl.sum(hat_sum, AXIS), mask=there)


@kernel()
def gradient_kernel(
    gy,
    x,
    y,
    mean,
    second,
    weight,
    bias,
    g_mean,
    hat_mean,
    gx,
    gresidual,
    planes,
    channels,
    positions,
    parts,
    groups,
    eps,
    KIND: tl.constexpr,
    VAR: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """gx = rstd (weight g - g_mean - hat hat_mean); the means, of weight g and weight g hat, by statistic, or None."""
    part = tl.program_id(1)
    plane, there, start, first, last = tile(positions, channels, part, parts, ROWS if LAST else COLS, LAST, ROWS, COLS)
    there = there & (plane < planes)
    AXIS: tl.constexpr = 0 if LAST else 1
    m, r, w, b, which = _statistics(mean, second, weight, bias, plane, there, channels, groups, eps, VAR)
    m, r, w, b = tl.expand_dims(m, AXIS), tl.expand_dims(r, AXIS), tl.expand_dims(w, AXIS), tl.expand_dims(b, AXIS)
    if g_mean is not None:
        g_mean_tile = tl.expand_dims(tl.load(g_mean + which, mask=there, other=0.0), AXIS)
        hat_mean_tile = tl.expand_dims(tl.load(hat_mean + which, mask=there, other=0.0), AXIS)
    for at in range(first, last, ROWS if LAST else COLS):
        if LAST:
            position = at + tl.arange(0, ROWS)
            inside = (position < last)[:, None] & there[None, :]
            offset = start[None, :] + position[:, None].to(tl.int64) * channels
        else:
            position = at + tl.arange(0, COLS)
            inside = there[:, None] & (position < last)[None, :]
            offset = start[:, None] + position[None, :]
        g, hat = _gradient_after_norm(gy, x, y, offset, inside, m, r, w, b, KIND)
        if gresidual is not None:
            tl.store(gresidual + offset, g.to(gresidual.dtype.element_ty), mask=inside)
        if gx is not None:
            value = g * w
            if g_mean is not None:
                value -= g_mean_tile + hat * hat_mean_tile
            tl.store(gx + offset, (value * r).to(gx.dtype.element_ty), mask=inside)


class Grid:
    """How [N, C, S] is shared out: program counts and the constants of a tile.

    Args:
        reduces: parts cost a second step, so there are no more than fill the card.
    """

    __slots__ = ("constants", "grid", "numbers", "parts", "planes", "step", "warps")

    def __init__(self, device: torch.device, n: int, c: int, s: int, last: bool, reduces: bool):
        if last:
            cols = min(128, max(16, power_of_two(c)))
            rows = 2048 // cols
            blocks, self.step = n * cdiv(c, cols), rows
        else:
            cols = min(1024, max(16, power_of_two(s)))
            rows = min(2048 // cols, power_of_two(n * c))
            blocks, self.step = cdiv(n * c, rows), cols
        wanted = 4 * multiprocessors(device)
        steps = cdiv(s, self.step)
        # Where nothing is joined afterwards, short programs balance best.
        self.parts = max(1, min(steps, cdiv(wanted, blocks) if reduces else max(cdiv(wanted, blocks), cdiv(steps, 4))))
        self.parts = min(self.parts, 65535)
        self.grid = (blocks, self.parts)
        self.planes = n * c
        self.numbers = (n * c, c, s, self.parts)
        self.constants = {"LAST": last, "ROWS": rows, "COLS": cols}
        self.warps = 4

    def partial(self, x: Tensor) -> Tensor:
        return x.new_empty((self.parts, self.planes), dtype=torch.float32)


def in_format(x: Tensor | None, memory_format: torch.memory_format) -> Tensor | None:
    return x if x is None or x.is_contiguous(memory_format=memory_format) else x.contiguous(memory_format=memory_format)

"""Depthwise convolution: one input channel a group, K / C outputs of each. Memory-bound, so no matrix products.

A tile is positions by channels; neighbouring channels share a load. Called by ``conv.py`` with its ``Geometry``.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ._launch import cdiv, kernel, multiprocessors, power_of_two
from ._products import finish
from .matmul import join_kernel


@kernel()
def forward_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    n,
    h,
    w,
    c,
    k,
    r,
    s,
    p,
    q,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLS + tl.arange(0, COLS)
    image = rows // (p * q)
    top = ((rows // q) % p) * stride_h - pad_h
    left = (rows % q) * stride_w - pad_w
    x_at = x + (image.to(tl.int64) * h * w + top * w + left)[:, None] * c + (channel // (k // c))[None, :]
    inside = (rows < n * p * q)[:, None] & (channel < k)[None, :]
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for tap in range(r * s):
        dy = (tap // s) * dilation_h
        dx = (tap % s) * dilation_w
        there = (top + dy >= 0) & (top + dy < h) & (left + dx >= 0) & (left + dx < w)
        value = tl.load(x_at + (dy * w + dx) * c, mask=inside & there[:, None], other=0.0).to(tl.float32)
        factor = tl.load(weight + channel * (r * s) + tap, mask=channel < k, other=0.0).to(tl.float32)
        acc += value * factor[None, :]
    at = rows[:, None].to(tl.int64) * k + channel[None, :]
    value = finish(acc, bias, residual, channel % k, at, inside, 1.0, KIND)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@kernel()
def input_kernel(
    gy,
    weight,
    bias,
    gx,
    n,
    h,
    w,
    c,
    k,
    r,
    s,
    p,
    q,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLS + tl.arange(0, COLS)
    image = (rows // (h * w)).to(tl.int64) * p * q
    bottom = (rows // w) % h + pad_h
    right = rows % w + pad_w
    inside = (rows < n * h * w)[:, None] & (channel < c)[None, :]
    many = k // c
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for tap in range(r * s):
        up = bottom - (tap // s) * dilation_h
        back = right - (tap % s) * dilation_w
        row = up // stride_h
        col = back // stride_w
        there = (up >= 0) & (up % stride_h == 0) & (row < p) & (back >= 0) & (back % stride_w == 0) & (col < q)
        at = gy + (image + row * q + col)[:, None] * k + (channel * many)[None, :]
        for one in range(many):
            g = tl.load(at + one, mask=inside & there[:, None], other=0.0).to(tl.float32)
            factor = tl.load(weight + (channel * many + one) * (r * s) + tap, mask=channel < c, other=0.0)
            acc += g * factor.to(tl.float32)[None, :]
    at = rows[:, None].to(tl.int64) * c + channel[None, :]
    value = finish(acc, bias, None, channel % c, at, inside, 1.0, KIND)
    tl.store(gx + at, value.to(gx.dtype.element_ty), mask=inside)


@kernel()
def weight_kernel(
    gy,
    x,
    parts,
    n,
    h,
    w,
    c,
    k,
    r,
    s,
    p,
    q,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """parts: float32 [num_programs(2), k, r s]; a program sums one tap over every num_programs(2)-th tile of pixels."""
    channel = tl.program_id(0) * COLS + tl.arange(0, COLS)
    tap = tl.program_id(1)
    dy = (tap // s) * dilation_h - pad_h
    dx = (tap % s) * dilation_w - pad_w
    pixels = n * p * q
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for first in range(tl.program_id(2) * ROWS, pixels, tl.num_programs(2) * ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < pixels)[:, None] & (channel < k)[None, :]
        row = ((rows // q) % p) * stride_h + dy
        col = (rows % q) * stride_w + dx
        there = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        g = tl.load(gy + rows[:, None].to(tl.int64) * k + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        at = x + ((rows // (p * q)).to(tl.int64) * h * w + row * w + col)[:, None] * c + (channel // (k // c))[None, :]
        acc += g * tl.load(at, mask=inside & there[:, None], other=0.0).to(tl.float32)
    at = parts + (tl.program_id(2).to(tl.int64) * k + channel) * (r * s) + tap
    tl.store(at, tl.sum(acc, 0), mask=channel < k)


def _tile(channels: int) -> tuple[int, int]:
    cols = min(64, max(16, power_of_two(channels)))
    return 1024 // cols, cols


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, y: Tensor, g, kind: str) -> None:
    rows, cols = _tile(g.k)
    grid = (cdiv(g.n * g.p * g.q, rows), cdiv(g.k, cols))
    forward_kernel(grid, x, weight, bias, residual, y, *g[:15], KIND=kind, ROWS=rows, COLS=cols)


def input(gy: Tensor, weight: Tensor, bias: Tensor | None, gx: Tensor, g, kind: str) -> None:
    rows, cols = _tile(g.c)
    grid = (cdiv(g.n * g.h * g.w, rows), cdiv(g.c, cols))
    input_kernel(grid, gy, weight, bias, gx, *g[:15], KIND=kind, ROWS=rows, COLS=cols)


def weight(gy: Tensor, x: Tensor, gw: Tensor, g) -> None:
    rows, cols = _tile(g.k)
    taps, blocks = g.r * g.s, cdiv(g.k, cols)
    parts = max(1, min(cdiv(g.n * g.p * g.q, 4 * rows), cdiv(4 * multiprocessors(x.device), taps * blocks), 256))
    sums = x.new_empty((parts, g.k, taps), dtype=torch.float32)
    weight_kernel((blocks, taps, parts), gy, x, sums, *g[:15], ROWS=rows, COLS=cols)
    join_kernel(
        (cdiv(g.k, 64), cdiv(taps, 16)),
        *(sums, None, None, gw, g.k, g.k, taps, 1, 0, 0, taps, 1, parts, 1.0, 1.0),
        KIND="none",
        ROWS=64,
        COLS=16,
    )

"""Convolutions as implicit matrix products over NHWC memory: forward, both gradients, transposed. docs/math/conv2d.md.

The image matrix is never built: each tile of it is gathered where the product needs it. Weights are read as KRSC. A
1x1 convolution without stride is a plain product; one input channel a group goes to ``_depthwise.py``. Small results
split the reduction over programs, which write float32 parts that are added in order.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

from dlperf.ops.conv import (
    conv2d_bwd_input_empty,
    conv2d_bwd_weight_empty,
    conv2d_empty,
    conv2d_moments_empty,
    conv_transpose2d_empty,
)

from . import _depthwise
from ._conv_plan import MOST_SPLIT, MOST_WEIGHT_SPLIT, Geometry, geometry, launch_tuned, tile_constants
from ._launch import cdiv, kernel, power_of_two
from ._moments import Moments, store_moments
from ._products import NARROW, convolution_precision, finish, tile_of, within
from .matmul import Operand, join_kernel, product

_LAST = torch.channels_last


@kernel(products=True)
def forward_kernel(
    x,
    weight,
    bias,
    residual,
    y,
    means,
    squares,
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
    groups,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    FLAT: tl.constexpr,
    WIDE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """Rows are output pixels, columns output channels. The reduction goes over taps and blocks of channels; where
    channels are few (FLAT) over taps and channels as one index. SPLIT_K: float32 parts, no epilogue."""
    c_g = c // groups
    k_g = k // groups
    m = n * p * q
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(k_g, BLOCK_N)
    group = tl.program_id(0) // (tiles_m * tiles_n)
    tile_m, tile_n = tile_of(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image = rows // (p * q)
    top = ((rows // q) % p) * stride_h - pad_h
    left = (rows % q) * stride_w - pad_w
    x_at = x + (image.to(tl.int64) * h * w + top * w + left) * c + group * c_g
    w_at = weight + (group * k_g + columns).to(tl.int64) * r * s * c_g
    row_there = rows < m
    column_there = columns < k_g
    along = tl.arange(0, BLOCK_K)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if FLAT:
        for first in range(tl.program_id(1) * BLOCK_K, r * s * c_g, BLOCK_K * SPLIT_K):
            index = first + along
            tap = index // c_g
            dy = (tap // s) * dilation_h
            dx = (tap % s) * dilation_w
            row = top[:, None] + dy[None, :]
            col = left[:, None] + dx[None, :]
            there = (row >= 0) & (row < h) & (col >= 0) & (col < w) & (index < r * s * c_g)[None, :]
            at = x_at[:, None] + ((dy * w + dx) * c + index % c_g)[None, :]
            a = tl.load(at, mask=there & row_there[:, None], other=0.0)
            there = (index < r * s * c_g)[:, None] & column_there[None, :]
            b = tl.load(w_at[None, :] + index[:, None], mask=there, other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    else:
        blocks = tl.cdiv(c_g, BLOCK_K)
        for step in range(tl.program_id(1), r * s * blocks, SPLIT_K):
            tap = step // blocks
            channel = (step % blocks) * BLOCK_K + along
            dy = (tap // s) * dilation_h
            dx = (tap % s) * dilation_w
            row = top + dy
            col = left + dx
            there = row_there & (row >= 0) & (row < h) & (col >= 0) & (col < w)
            at = x_at[:, None] + ((dy * w + dx) * c + channel)[None, :]
            a = tl.load(at, mask=there[:, None] & (channel < c_g)[None, :], other=0.0)
            at = w_at[None, :] + (tap * c_g + channel)[:, None]
            b = tl.load(at, mask=(channel < c_g)[:, None] & column_there[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    inside = row_there[:, None] & column_there[None, :]
    channel = group * k_g + columns
    corner = (tile_m * BLOCK_M).to(tl.int64) * k
    y += corner
    at_y = within(BLOCK_M, k, WIDE)[:, None] + channel[None, :]
    if SPLIT_K > 1:
        tl.store(y + tl.program_id(1).to(tl.int64) * m * k + at_y, acc, mask=inside)
    else:
        if residual is not None:
            residual += corner
        value = finish(acc, bias, residual, channel % k, at_y, inside, 1.0, KIND).to(y.dtype.element_ty)
        tl.store(y + at_y, value, mask=inside)
        if means is not None:
            wide = tl.where(column_there[None, :], value.to(tl.float32), 0.0)
            channel = tl.where(column_there, channel, k)
            store_moments(means, squares, wide, row_there[:, None], channel, k, tile_m, m, BLOCK_M)


@kernel(products=True)
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
    groups,
    step_r,
    step_s,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """The gradient of x, and the transposed convolution. Rows are the pixels of one phase (h mod stride, w mod
    stride): they meet the same taps, every step_r-th and step_s-th, and no others, so that nothing is multiplied with
    zeros."""
    c_g = c // groups
    k_g = k // groups
    height = tl.cdiv(h, stride_h)
    width = tl.cdiv(w, stride_w)
    m = n * height * width
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(c_g, BLOCK_N)
    tiles = tiles_m * tiles_n
    group = (tl.program_id(0) // tiles) % groups
    phase = tl.program_id(0) // (tiles * groups)
    phase_h = phase // stride_w
    phase_w = phase % stride_w
    tile_m, tile_n = tile_of(tl.program_id(0) % tiles, tiles_m, tiles_n, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    image = rows // (height * width)
    i = (rows // width) % height
    j = rows % width
    row_there = (rows < m) & (phase_h + i * stride_h < h) & (phase_w + j * stride_w < w)
    column_there = columns < c_g
    # the first tap that these pixels meet, or past the last where they meet none
    first_r = r
    for back in range(step_r):
        tap = step_r - 1 - back
        first_r = tl.where((phase_h + pad_h + tap * dilation_h * (stride_h - 1)) % stride_h == 0, tap, first_r)
    first_s = s
    for back in range(step_s):
        tap = step_s - 1 - back
        first_s = tl.where((phase_w + pad_w + tap * dilation_w * (stride_w - 1)) % stride_w == 0, tap, first_s)
    taps_r = tl.maximum((r - first_r + step_r - 1) // step_r, 0)
    taps_s = tl.maximum((s - first_s + step_s - 1) // step_s, 0)
    # the output pixel that the first tap leads to; each further tap is one dilation / gcd before
    y_row = (phase_h + pad_h - first_r * dilation_h) // stride_h + i
    y_col = (phase_w + pad_w - first_s * dilation_w) // stride_w + j
    back_r = step_r * dilation_h // stride_h
    back_s = step_s * dilation_w // stride_w
    gy_at = gy + (image.to(tl.int64) * p * q + y_row * q + y_col) * k + group * k_g
    w_at = weight + group.to(tl.int64) * k_g * r * s * c_g + columns
    along = tl.arange(0, BLOCK_K)
    blocks = tl.cdiv(k_g, BLOCK_K)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(tl.program_id(1), taps_r * taps_s * blocks, SPLIT_K):
        tap = step // blocks
        channel = (step % blocks) * BLOCK_K + along
        t_r = tap // taps_s
        t_s = tap % taps_s
        row = y_row - t_r * back_r
        col = y_col - t_s * back_s
        there = row_there & (row >= 0) & (row < p) & (col >= 0) & (col < q)
        at = gy_at[:, None] + (channel - (t_r * back_r * q + t_s * back_s) * k)[None, :]
        a = tl.load(at, mask=there[:, None] & (channel < k_g)[None, :], other=0.0)
        w_tap = (first_r + t_r * step_r) * s + first_s + t_s * step_s
        at = w_at[None, :] + (channel.to(tl.int64) * r * s + w_tap)[:, None] * c_g
        b = tl.load(at, mask=(channel < k_g)[:, None] & column_there[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    inside = row_there[:, None] & column_there[None, :]
    pixel = (image.to(tl.int64) * h + phase_h + i * stride_h) * w + phase_w + j * stride_w
    channel = group * c_g + columns
    at_x = pixel[:, None] * c + channel[None, :]
    if SPLIT_K > 1:
        tl.store(gx + tl.program_id(1).to(tl.int64) * n * h * w * c + at_x, acc, mask=inside)
    else:
        value = finish(acc, bias, None, channel % c, at_x, inside, 1.0, KIND)
        tl.store(gx + at_x, value.to(gx.dtype.element_ty), mask=inside)


@kernel(products=True)
def weight_kernel(
    gy,
    x,
    gw,
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
    groups,
    PRECISION: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """The gradient of the weight, [k, r s c / groups]. The reduction goes over output pixels, split into SPLIT_K
    parts."""
    c_g = c // groups
    k_g = k // groups
    width = r * s * c_g
    tiles_m = tl.cdiv(k_g, BLOCK_M)
    tiles_n = tl.cdiv(width, BLOCK_N)
    group = tl.program_id(0) // (tiles_m * tiles_n)
    tile_m, tile_n = tile_of(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = columns // c_g
    dy = (tap // s) * dilation_h - pad_h
    dx = (tap % s) * dilation_w - pad_w
    from_tap = (dy * w + dx) * c + columns % c_g
    pixels = n * p * q
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(tl.program_id(1) * BLOCK_K, pixels, BLOCK_K * SPLIT_K):
        pixel = first + tl.arange(0, BLOCK_K)
        at = gy + pixel[None, :].to(tl.int64) * k + (group * k_g + rows)[:, None]
        a = tl.load(at, mask=(rows < k_g)[:, None] & (pixel < pixels)[None, :], other=0.0)
        top = ((pixel // q) % p) * stride_h
        left = (pixel % q) * stride_w
        row = top[:, None] + dy[None, :]
        col = left[:, None] + dx[None, :]
        there = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        there = there & (pixel < pixels)[:, None] & (columns < width)[None, :]
        from_pixel = ((pixel // (p * q)).to(tl.int64) * h * w + top * w + left) * c + group * c_g
        b = tl.load(x + from_pixel[:, None] + from_tap[None, :], mask=there, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    inside = (rows < k_g)[:, None] & (columns < width)[None, :]
    at = (tl.program_id(1).to(tl.int64) * k + group * k_g + rows[:, None]) * width + columns[None, :]
    tl.store(gw + at, acc.to(gw.dtype.element_ty), mask=inside)


def _join(parts: Tensor, bias, residual, out: Tensor, rows: int, columns: int, split: int, kind: str) -> None:
    cols = min(128, max(16, power_of_two(columns)))
    join_kernel(
        (cdiv(rows, 1024 // cols), cdiv(columns, cols)),
        *(parts, bias, residual, out, rows, rows, columns, 1, 0, 0, columns, 1, split, 1.0, 1.0),
        KIND=kind,
        ROWS=1024 // cols,
        COLS=cols,
    )


def _nhwc(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous(memory_format=_LAST) else x.contiguous(memory_format=_LAST)


def _target(out: Tensor) -> Tensor:
    """Where the kernels write NHWC: out itself, or a tensor to be copied into it."""
    return out if out.is_contiguous(memory_format=_LAST) else torch.empty_like(out, memory_format=_LAST)


def _into(out: Tensor, target: Tensor) -> Tensor:
    return out if target is out else out.copy_(target)


def _forward(x: Tensor, weight: Tensor, bias, residual, y: Tensor, g: Geometry, kind: str, moments=None) -> None:
    """NHWC in, NHWC out. moments: y's by channel are wanted."""
    m = g.n * g.p * g.q
    if g.is_pointwise:
        first = Operand((1, 1, m, g.c), (0, 0, g.c, 1))
        second = Operand((1, 1, g.c, g.k), (0, 0, weight.stride(1), weight.stride(0)))
        how = convolution_precision(x)
        product(x, first, weight, second, bias, residual, (0, 0, g.k, 1), y, 1.0, 1.0, kind, how, moments)
        return
    weight = _nhwc(weight)
    if g.is_depthwise:
        _depthwise.forward(x, weight, bias, residual, y, g, kind)
        if moments is not None:
            moments.of(y, m)
        return
    c_g, k_g = g.c // g.groups, g.k // g.groups
    flat = c_g < 16
    depth = g.r * g.s * c_g

    def run(configuration: tuple) -> None:
        block_m, block_n, block_k, warps, stages, split = configuration
        # A flat tile's addresses take many registers.
        block_k, warps = (32, 8) if flat else (min(block_k, power_of_two(c_g)), warps)
        configuration = (block_m, block_n, block_k, warps, stages, split)
        out = y if split == 1 else x.new_empty((split, m, g.k), dtype=torch.float32)
        rest = (bias, residual) if split == 1 else (None, None)
        parts = (None, None) if moments is None or split > 1 else moments.parts(m, block_m)
        forward_kernel(
            (cdiv(m, block_m) * cdiv(k_g, block_n) * g.groups, split),
            *(x, weight, *rest, out, *parts, *g),
            KIND=kind if split == 1 else "none",
            PRECISION=convolution_precision(x),
            FLAT=flat,
            WIDE=g.k > NARROW,
            **tile_constants(configuration),
            num_warps=warps,
            num_stages=stages,
        )
        if split > 1:
            _join(out, bias, residual, y, m, g.k, split, kind)
        if moments is not None:
            moments.join() if split == 1 else moments.of(y, m)

    launch_tuned(x, ("conv forward", *g), m, k_g, depth, g.groups, MOST_SPLIT, run)


def _input(gy: Tensor, weight: Tensor, bias, gx: Tensor, g: Geometry, kind: str) -> None:
    if g.is_pointwise:
        first = Operand((1, 1, g.n * g.p * g.q, g.k), (0, 0, g.k, 1))
        second = Operand((1, 1, g.k, g.c), (0, 0, weight.stride(0), weight.stride(1)))
        how = convolution_precision(gy)
        product(gy, first, weight, second, bias, None, (0, 0, 0, 0), gx, 1.0, 1.0, kind, how)
        return
    weight = _nhwc(weight)
    if g.is_depthwise:
        _depthwise.input(gy, weight, bias, gx, g, kind)
        return
    c_g, k_g = g.c // g.groups, g.k // g.groups
    rows = g.n * cdiv(g.h, g.stride_h) * cdiv(g.w, g.stride_w)
    phases = g.stride_h * g.stride_w
    steps = (g.stride_h // math.gcd(g.stride_h, g.dilation_h), g.stride_w // math.gcd(g.stride_w, g.dilation_w))

    def run(configuration: tuple) -> None:
        block_m, block_n, block_k, warps, stages, split = configuration
        configuration = (block_m, block_n, min(block_k, max(16, power_of_two(k_g))), warps, stages, split)
        out = gx if split == 1 else gy.new_empty((split, g.n * g.h * g.w, g.c), dtype=torch.float32)
        input_kernel(
            (cdiv(rows, block_m) * cdiv(c_g, block_n) * g.groups * phases, split),
            *(gy, weight, bias if split == 1 else None, out, *g, *steps),
            KIND=kind if split == 1 else "none",
            PRECISION=convolution_precision(gy),
            **tile_constants(configuration),
            num_warps=warps,
            num_stages=stages,
        )
        if split > 1:
            _join(out, bias, None, gx, g.n * g.h * g.w, g.c, split, kind)

    depth = cdiv(g.r, steps[0]) * cdiv(g.s, steps[1]) * k_g
    launch_tuned(gy, ("conv input", *g), rows, c_g, depth, g.groups * phases, MOST_SPLIT, run)


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = conv2d_empty(x, weight, bias, residual, stride, padding, dilation)
    if y.numel() == 0:
        return y
    g = geometry(x.shape, weight.shape, y.shape, tuple(stride), tuple(padding), tuple(dilation), groups)
    target = _target(y)
    _forward(_nhwc(x), weight, None if bias is None else bias.contiguous(), _nhwc(residual), target, g, activation)
    return _into(y, target)


def conv2d_moments(x, weight, stride, padding, dilation, groups):
    y, mean, var = conv2d_moments_empty(x, weight, stride, padding, dilation, groups)
    if y.numel() == 0:
        return y, mean.zero_(), var.zero_()
    g = geometry(x.shape, weight.shape, y.shape, tuple(stride), tuple(padding), tuple(dilation), groups)
    target = _target(y)
    _forward(_nhwc(x), weight, None, None, target, g, "none", Moments(mean, var))
    return _into(y, target), mean, var


def conv2d_bwd_input(gy, weight, input_size, stride, padding, dilation, groups, channels_last):
    gx = conv2d_bwd_input_empty(gy, weight, input_size, stride, padding, dilation, groups, channels_last)
    if gx.numel() == 0:
        return gx
    g = geometry(gx.shape, weight.shape, gy.shape, tuple(stride), tuple(padding), tuple(dilation), groups)
    target = _target(gx)
    _input(_nhwc(gy), weight, None, target, g, "none")
    return _into(gx, target)


def conv_transpose2d(x, weight, bias, stride, padding, output_padding, dilation, groups, activation):
    y = conv_transpose2d_empty(x, weight, bias, stride, padding, output_padding, dilation, groups)
    if y.numel() == 0:
        return y
    g = geometry(y.shape, weight.shape, x.shape, tuple(stride), tuple(padding), tuple(dilation), groups)
    target = _target(y)
    _input(_nhwc(x), weight, None if bias is None else bias.contiguous(), target, g, activation)
    return _into(y, target)


def conv2d_bwd_weight(gy, x, weight_size, stride, padding, dilation, groups, channels_last):
    gw = conv2d_bwd_weight_empty(gy, x, weight_size, stride, padding, dilation, groups, channels_last)
    if gy.numel() == 0:
        return gw.zero_()
    g = geometry(x.shape, gw.shape, gy.shape, tuple(stride), tuple(padding), tuple(dilation), groups)
    gy, x, target = _nhwc(gy), _nhwc(x), _target(gw)
    pixels = g.n * g.p * g.q
    how = convolution_precision(x)
    if g.is_pointwise:
        first, second = Operand((1, 1, g.k, pixels), (0, 0, 1, g.k)), Operand((1, 1, pixels, g.c), (0, 0, g.c, 1))
        product(gy, first, x, second, None, None, (0, 0, 0, 0), target, 1.0, 1.0, "none", how)
        return _into(gw, target)
    if g.is_depthwise:
        _depthwise.weight(gy, x, target, g)
        return _into(gw, target)
    k_g, c_g = g.k // g.groups, g.c // g.groups
    width = g.r * g.s * c_g

    def run(configuration: tuple) -> None:
        block_m, block_n, _, warps, stages, split = configuration
        warps = 8 if c_g < 16 else warps  # where neighbours lie in different taps, addresses take many registers
        out = target if split == 1 else x.new_empty((split, g.k, width), dtype=torch.float32)
        grid = (cdiv(k_g, block_m) * cdiv(width, block_n) * g.groups, split)
        constants = {"PRECISION": how, **tile_constants(configuration)}
        weight_kernel(grid, gy, x, out, *g, **constants, num_warps=warps, num_stages=stages)
        if split > 1:
            _join(out, None, None, target, g.k, width, split, "none")

    launch_tuned(x, ("conv weight", *g), k_g, width, pixels, g.groups, MOST_WEIGHT_SPLIT, run)
    return _into(gw, target)

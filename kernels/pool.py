"""Maximum and average pooling, sliding and adaptive windows, forward and backward. Formulas: docs/math/pool.md.

A program makes a block of outputs in memory order, NHWC or NCHW. Backward gathers: each input element looks at the
windows that hold it, so nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dlperf.ops.pool import avg_pool_bwd_empty, avg_pool_empty, max_pool_bwd_empty, max_pool_empty
from dlperf.ops.pool import channels_last as lies_channels_last

from ._launch import INTERPRETED, cdiv, kernel

BLOCK = 8192 if INTERPRETED else 512  # the interpreter pays by the program
_ADAPTIVE = (1, 1, 1, 1, 0, 0, 1, 1)


@triton.jit
def _place(element, channels, height, width, LAST: tl.constexpr):
    """Of an element of [n, c, h, w]: where its image's plane begins (in planes' own layout), channel, row, column."""
    if LAST:
        c = element % channels
        rest = element // channels
        return rest // width // height, c, (rest // width) % height, rest % width
    else:
        rest = element // width
        plane = rest // height
        return plane // channels, plane % channels, rest % height, element % width


@triton.jit
def _offset(n, c, row, col, channels, height, width, LAST: tl.constexpr):
    if LAST:
        return ((n * height + row) * width + col) * channels + c
    else:
        return ((n * channels + c) * height + row) * width + col


@triton.jit
def _window(o, size, out, kernel_size, stride, padding, dilation, ADAPTIVE: tl.constexpr):
    """First index and how many steps, before the borders are looked at."""
    if ADAPTIVE:
        start = o * size // out
        return start, ((o + 1) * size + out - 1) // out - start
    else:
        return o * stride - padding, o * 0 + kernel_size


@kernel()
def forward_kernel(
    x, y, indices, total, c, h, w, p, q, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    taps_h, taps_w, divisor, MAX: tl.constexpr, COUNT_PAD: tl.constexpr, ADAPTIVE: tl.constexpr, LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < total
    n, channel, row, col = _place(element, c, p, q, LAST)
    top, high = _window(row, h, p, kernel_h, stride_h, pad_h, dilation_h, ADAPTIVE)
    left, wide = _window(col, w, q, kernel_w, stride_w, pad_w, dilation_w, ADAPTIVE)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK], tl.int64) - 1
    acc = tl.zeros([BLOCK], tl.float32)
    for i in range(taps_h):
        for j in range(taps_w):
            y_at = top + i * dilation_h
            x_at = left + j * dilation_w
            inside = there & (i < high) & (j < wide) & (y_at >= 0) & (y_at < h) & (x_at >= 0) & (x_at < w)
            at = _offset(n, channel, y_at, x_at, c, h, w, LAST)
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            if MAX:
                # the first of equals; NaN beats all, and the last NaN as torch's
                wins = inside & ((value > best) | (value != value) | (where < 0))
                best = tl.where(wins, value, best)
                where = tl.where(wins, y_at * w + x_at, where)
            else:
                acc += value
    if MAX:
        tl.store(y + element, best.to(y.dtype.element_ty), mask=there)
        if indices is not None:
            tl.store(indices + element, where.to(indices.dtype.element_ty), mask=there)
    else:
        count = _divisor(top, left, high, wide, h, w, pad_h, pad_w, divisor, COUNT_PAD, ADAPTIVE)
        tl.store(y + element, (acc / count).to(y.dtype.element_ty), mask=there)


@triton.jit
def _divisor(top, left, high, wide, h, w, pad_h, pad_w, divisor, COUNT_PAD: tl.constexpr, ADAPTIVE: tl.constexpr):
    if ADAPTIVE:
        count = high * wide
    elif divisor != 0:
        count = high * 0 + divisor
    else:
        if COUNT_PAD:
            first_row, first_col = top, left
            end_row, end_col = tl.minimum(top + high, h + pad_h), tl.minimum(left + wide, w + pad_w)
        else:
            first_row, first_col = tl.maximum(top, 0), tl.maximum(left, 0)
            end_row, end_col = tl.minimum(top + high, h), tl.minimum(left + wide, w)
        count = (end_row - first_row) * (end_col - first_col)
    return count.to(tl.float32)


@triton.jit
def _outputs(i, size, out, kernel_size, stride, padding, dilation, ADAPTIVE: tl.constexpr):
    """The first output whose window can hold input i."""
    if ADAPTIVE:
        return i * out // size
    else:
        reach = i + padding - dilation * (kernel_size - 1)
        return tl.maximum((reach + stride - 1) // stride, 0) * (reach > 0)


@kernel()
def backward_kernel(
    gy, indices, gx, total, c, h, w, p, q, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    outs_h, outs_w, divisor, MAX: tl.constexpr, COUNT_PAD: tl.constexpr, ADAPTIVE: tl.constexpr, LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < total
    n, channel, row, col = _place(element, c, h, w, LAST)
    first_row = _outputs(row, h, p, kernel_h, stride_h, pad_h, dilation_h, ADAPTIVE)
    first_col = _outputs(col, w, q, kernel_w, stride_w, pad_w, dilation_w, ADAPTIVE)
    acc = tl.zeros([BLOCK], tl.float32)
    for i in range(outs_h):
        for j in range(outs_w):
            o_row = first_row + i
            o_col = first_col + j
            inside = there & (o_row < p) & (o_col < q)
            at = _offset(n, channel, o_row, o_col, c, p, q, LAST)
            if MAX:
                won = tl.load(indices + at, mask=inside, other=-1) == row * w + col
                acc += tl.load(gy + at, mask=inside & won, other=0.0).to(tl.float32)
            else:
                top, high = _window(o_row, h, p, kernel_h, stride_h, pad_h, dilation_h, ADAPTIVE)
                left, wide = _window(o_col, w, q, kernel_w, stride_w, pad_w, dilation_w, ADAPTIVE)
                inside = inside & (row >= top) & (row < top + high) & (col >= left) & (col < left + wide)
                count = _divisor(top, left, high, wide, h, w, pad_h, pad_w, divisor, COUNT_PAD, ADAPTIVE)
                acc += tl.load(gy + at, mask=inside, other=0.0).to(tl.float32) / tl.where(inside, count, 1.0)
    tl.store(gx + element, acc.to(gx.dtype.element_ty), mask=there)


def _format(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def _taps(size: int, out: int, kernel_size: int, adaptive: bool) -> int:
    """The longest window."""
    if not adaptive:
        return kernel_size
    return max((-(-(o + 1) * size // out)) - o * size // out for o in range(out)) if out else 0


def _covering(size: int, out: int, kernel_size: int, stride: int, dilation: int, adaptive: bool) -> int:
    """The most windows that span one input."""
    if not adaptive:
        return cdiv(dilation * (kernel_size - 1) + 1, stride)
    return max(-(-(i + 1) * out // size) - i * out // size for i in range(size))


def _numbers(size, output_size, window) -> tuple[int, ...]:
    return (size[1], size[2], size[3], *output_size, *(window or _ADAPTIVE))


def _forward(x, y, indices, window, output_size, divisor, last, **constants) -> None:
    size, adaptive = tuple(x.shape), not window
    x = x.contiguous(memory_format=_format(last))
    kernel_size = (window or _ADAPTIVE)[:2]
    taps = [_taps(s, o, k, adaptive) for s, o, k in zip(size[2:], output_size, kernel_size, strict=True)]
    numbers = (y.numel(), *_numbers(size, output_size, window), *taps, divisor)
    grid = (cdiv(y.numel(), BLOCK),)
    forward_kernel(grid, x, y, indices, *numbers, **constants, ADAPTIVE=adaptive, LAST=last, BLOCK=BLOCK)


def max_pool(x, window, output_size, want_indices):
    y, indices = max_pool_empty(x, window, output_size, want_indices)
    if y.numel() > 0:
        kept = indices if want_indices else None
        _forward(x, y, kept, tuple(window), tuple(output_size), 0, lies_channels_last(x), MAX=True, COUNT_PAD=True)
    return y, indices


def avg_pool(x, window, output_size, count_include_pad, divisor):
    y = avg_pool_empty(x, window, output_size)
    if y.numel() > 0:
        constants = {"MAX": False, "COUNT_PAD": count_include_pad}
        _forward(x, y, None, tuple(window), tuple(output_size), divisor, lies_channels_last(x), **constants)
    return y


def _backward(gy, indices, gx, window, divisor, last, **constants):
    size, out, adaptive = tuple(gx.shape), tuple(gy.shape[2:]), not window
    gy = gy.contiguous(memory_format=_format(last))
    indices = None if indices is None else indices.contiguous(memory_format=_format(last))
    w = window or _ADAPTIVE
    outs = [_covering(size[2 + i], out[i], w[i], w[2 + i], w[6 + i], adaptive) for i in (0, 1)]
    numbers = (gx.numel(), *_numbers(size, out, window), *outs, divisor)
    grid = (cdiv(gx.numel(), BLOCK),)
    backward_kernel(grid, gy, indices, gx, *numbers, **constants, ADAPTIVE=adaptive, LAST=last, BLOCK=BLOCK)
    return gx


def max_pool_bwd(gy, indices, input_size, window, channels_last):
    gx = max_pool_bwd_empty(gy, indices, input_size, window, channels_last)
    if gy.numel() == 0:
        return gx.zero_()
    return _backward(gy, indices, gx, tuple(window), 0, channels_last, MAX=True, COUNT_PAD=True)


def avg_pool_bwd(gy, input_size, window, count_include_pad, divisor, channels_last):
    gx = avg_pool_bwd_empty(gy, input_size, window, count_include_pad, divisor, channels_last)
    if gy.numel() == 0:
        return gx.zero_()
    return _backward(gy, None, gx, tuple(window), divisor, channels_last, MAX=False, COUNT_PAD=count_include_pad)

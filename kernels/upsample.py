"""Nearest and bilinear interpolation and their gradients, NHWC and NCHW. Formulas: docs/math/resampling.md.

Each axis has a table, made once on the host with torch's own float32 arithmetic: the first input of every output and
the weight of the next. Backward gathers: the outputs that read an input are neighbours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops._resampling import index_and_weight
from dlperf.ops.upsample import upsample_bwd_empty, upsample_empty

from ._launch import INTERPRETED, cdiv, kernel
from .pool import _offset, _place

BLOCK = 8192 if INTERPRETED else 512  # the interpreter pays by the program


@kernel()
def forward_kernel(
    x, y, row_index, row_weight, col_index, col_weight, total, c, h, w, p, q, BILINEAR: tl.constexpr,
    LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < total
    n, channel, row, col = _place(element, c, p, q, LAST)
    top = tl.load(row_index + row, mask=there, other=0)
    left = tl.load(col_index + col, mask=there, other=0)
    value = tl.load(x + _offset(n, channel, top, left, c, h, w, LAST), mask=there, other=0.0).to(tl.float32)
    if BILINEAR:
        down = tl.load(row_weight + row, mask=there, other=0.0)
        right = tl.load(col_weight + col, mask=there, other=0.0)
        bottom = tl.minimum(top + 1, h - 1)
        beside = tl.minimum(left + 1, w - 1)
        b = tl.load(x + _offset(n, channel, top, beside, c, h, w, LAST), mask=there, other=0.0).to(tl.float32)
        d = tl.load(x + _offset(n, channel, bottom, left, c, h, w, LAST), mask=there, other=0.0).to(tl.float32)
        e = tl.load(x + _offset(n, channel, bottom, beside, c, h, w, LAST), mask=there, other=0.0).to(tl.float32)
        value = (1.0 - down) * ((1.0 - right) * value + right * b) + down * ((1.0 - right) * d + right * e)
    tl.store(y + element, value.to(y.dtype.element_ty), mask=there)


@triton.jit
def _share(index, weight, output, own, size, inside):
    """What output takes of input ``own``: 1 - weight of its first, weight of the next; both where the border joins
    them."""
    first = tl.load(index + output, mask=inside, other=-2)
    t = tl.load(weight + output, mask=inside, other=0.0)
    after = tl.minimum(first + 1, size - 1)
    return tl.where(first == own, 1.0 - t, 0.0) + tl.where(after == own, t, 0.0)


@kernel()
def backward_kernel(
    gy, gx, row_index, row_weight, row_first, row_last, col_index, col_weight, col_first, col_last, total, c, h, w, p,
    q, most_rows, most_cols, BILINEAR: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < total
    n, channel, row, col = _place(element, c, h, w, LAST)
    first_row = tl.load(row_first + row, mask=there, other=0)
    last_row = tl.load(row_last + row, mask=there, other=0)
    first_col = tl.load(col_first + col, mask=there, other=0)
    last_col = tl.load(col_last + col, mask=there, other=0)
    acc = tl.zeros([BLOCK], tl.float32)
    for i in range(most_rows):
        for j in range(most_cols):
            o_row = first_row + i
            o_col = first_col + j
            inside = there & (o_row < last_row) & (o_col < last_col)
            g = tl.load(gy + _offset(n, channel, o_row, o_col, c, p, q, LAST), mask=inside, other=0.0).to(tl.float32)
            if BILINEAR:
                g *= _share(row_index, row_weight, o_row, row, h, inside)
                g *= _share(col_index, col_weight, o_col, col, w, inside)
            acc += g
    tl.store(gx + element, acc.to(gx.dtype.element_ty), mask=there)


@lru_cache(maxsize=256)
def _axis(n_in: int, n_out: int, mode: str, align_corners: bool, scale: float, device: torch.device):
    """index, weight, first and last output of each input, and the most outputs that read one input."""
    index, weight = index_and_weight(n_in, n_out, mode, align_corners, scale)
    inputs = np.arange(n_in, dtype=np.int64)
    first = np.searchsorted(index, inputs - (weight is not None), "left").astype(np.int64)
    last = np.searchsorted(index, inputs, "right").astype(np.int64)
    # The table's copy is made from pageable memory once for a size; CUDA graphs want one call before capture.
    where = "cpu" if device.type == "meta" else device
    tensors = [None if a is None else torch.from_numpy(a).to(where) for a in (index, weight, first, last)]
    return *tensors, int((last - first).max())


def _axes(small, large, mode, align_corners, scale_h, scale_w, device):
    rows = _axis(small[0], large[0], mode, align_corners, scale_h, device)
    cols = _axis(small[1], large[1], mode, align_corners, scale_w, device)
    return rows, cols


def _in_format_of(x: Tensor, target: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.contiguous_format if target.is_contiguous() else torch.channels_last)


def upsample(x, size, mode, align_corners, scale_h, scale_w):
    y = upsample_empty(x, size, mode, align_corners, scale_h, scale_w)
    if y.numel() == 0:
        return y
    rows, cols = _axes(x.shape[2:], y.shape[2:], mode, align_corners, scale_h, scale_w, x.device)
    sizes = (y.numel(), x.shape[1], *x.shape[2:], *y.shape[2:])
    constants = {"BILINEAR": mode == "bilinear", "LAST": not y.is_contiguous(), "BLOCK": BLOCK}
    forward_kernel((cdiv(y.numel(), BLOCK),), _in_format_of(x, y), y, *rows[:2], *cols[:2], *sizes, **constants)
    return y


def upsample_bwd(gy, x_size, mode, align_corners, scale_h, scale_w):
    gx = upsample_bwd_empty(gy, x_size, mode, align_corners, scale_h, scale_w)
    if gx.numel() == 0:
        return gx
    rows, cols = _axes(gx.shape[2:], gy.shape[2:], mode, align_corners, scale_h, scale_w, gy.device)
    sizes = (gx.numel(), gx.shape[1], *gx.shape[2:], *gy.shape[2:], rows[4], cols[4])
    constants = {"BILINEAR": mode == "bilinear", "LAST": not gx.is_contiguous(), "BLOCK": BLOCK}
    tensors = (_in_format_of(gy, gx), gx, *rows[:4], *cols[:4])
    backward_kernel((cdiv(gx.numel(), BLOCK),), *tensors, *sizes, **constants)
    return gx

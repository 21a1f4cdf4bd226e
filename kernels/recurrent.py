"""LSTM, GRU and plain RNN, one direction, forward and backward. Formulas: docs/math/recurrent.md.

The products of all steps with the input, and of all steps' gradients, are ``matmul``'s. A step is one launch: a
program multiplies its rows' state with its units' columns of W_hh for all gates and applies the cell in registers.
Backward goes against it the same way: the product of the step before's gradients with W_hh, then the cell's gradient.
Each program owns its tile of what is carried, in float32, so steps need no other order than that of their launches.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.matmul import rows_of
from dlperf.ops.recurrent import GATES, check_batch_sizes, operand_gradients, recurrent_empty

from ._activation_math import _tanh
from ._launch import cdiv, kernel, multiprocessors, power_of_two
from ._products import precision
from .channel_sum import channel_sum
from .matmul import linear


@triton.jit
def _activated(value, TANH: tl.constexpr, FROM_SUM: tl.constexpr):
    """A kept gate: its activation and that one's derivative by the sum. In 16 bits it is the sum that was kept."""
    if TANH:
        if FROM_SUM:
            s = tl.sigmoid(2.0 * value)
            return _tanh(value), 4.0 * s * (1.0 - s)
        else:
            return value, 1.0 - value * value
    else:
        s = value
        if FROM_SUM:
            s = tl.sigmoid(value)
        return s, s * (1.0 - s)


@triton.jit
def _keep(at, total, activated, inside, SUMS: tl.constexpr):
    tl.store(at, (total if SUMS else activated).to(at.dtype.element_ty), mask=inside)


@kernel(products=True)
def forward_kernel(
    gates, w, bias, h, h_next, carried, y, kept, n, rows, hidden, CELL: tl.constexpr, GATES: tl.constexpr,
    SAVE: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One step. gates, y, kept: the step's own rows; gates holds the input's part and then, with SAVE, what backward
    needs. h to h_next, [n, hidden]: rows from ``rows`` on keep their state. carried: c of lstm, h of gru, float32."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    unit = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    wide = row.to(tl.int64)
    along = tl.arange(0, BLOCK_K)
    h_at = h + wide[:, None] * hidden + along[None, :]
    w_at = w + unit[None, :].to(tl.int64) * hidden + along[:, None]
    gate_step = tl.zeros([1], tl.int64) + hidden
    gate_step = gate_step * hidden
    acc0 = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc1 = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc2 = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc3 = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, hidden, BLOCK_K):
        left = along < hidden - first
        a = tl.load(h_at + first, mask=(row < rows)[:, None] & left[None, :], other=0.0)
        there = left[:, None] & (unit < hidden)[None, :]
        acc0 = tl.dot(a, tl.load(w_at + first, mask=there, other=0.0), acc0, input_precision=PRECISION)
        if GATES > 1:
            b = tl.load(w_at + first + gate_step[:, None], mask=there, other=0.0)
            acc1 = tl.dot(a, b, acc1, input_precision=PRECISION)
            b = tl.load(w_at + first + 2 * gate_step[:, None], mask=there, other=0.0)
            acc2 = tl.dot(a, b, acc2, input_precision=PRECISION)
        if GATES > 3:
            b = tl.load(w_at + first + 3 * gate_step[:, None], mask=there, other=0.0)
            acc3 = tl.dot(a, b, acc3, input_precision=PRECISION)
    if bias is not None:
        within = unit < hidden
        acc0 += tl.load(bias + unit, mask=within, other=0.0).to(tl.float32)[None, :]
        if GATES > 1:
            acc1 += tl.load(bias + hidden + unit, mask=within, other=0.0).to(tl.float32)[None, :]
            acc2 += tl.load(bias + 2 * hidden + unit, mask=within, other=0.0).to(tl.float32)[None, :]
        if GATES > 3:
            acc3 += tl.load(bias + 3 * hidden + unit, mask=within, other=0.0).to(tl.float32)[None, :]

    exists = (row < n)[:, None] & (unit < hidden)[None, :]
    inside = exists & (row < rows)[:, None]
    state = wide[:, None] * hidden + unit[None, :]
    before = tl.load(h + state, mask=exists, other=0.0)
    g_at = gates + wide[:, None] * (GATES * hidden) + unit[None, :]
    g0 = tl.load(g_at, mask=inside, other=0.0).to(tl.float32)
    if CELL == "lstm":
        s_i = acc0 + g0
        s_f = acc1 + tl.load(g_at + hidden, mask=inside, other=0.0).to(tl.float32)
        s_g = acc2 + tl.load(g_at + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        s_o = acc3 + tl.load(g_at + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
        i, f, new, o = tl.sigmoid(s_i), tl.sigmoid(s_f), _tanh(s_g), tl.sigmoid(s_o)
        c = tl.load(carried + state, mask=inside, other=0.0)
        after = f * c + i * new
        tl.store(carried + state, after, mask=inside)
        out = o * _tanh(after)
        if SAVE:
            _keep(g_at, s_i, i, inside, SUMS)
            _keep(g_at + hidden, s_f, f, inside, SUMS)
            _keep(g_at + 2 * hidden, s_g, new, inside, SUMS)
            _keep(g_at + 3 * hidden, s_o, o, inside, SUMS)
            first_kept = c
    elif CELL == "gru":
        s_r = acc0 + g0
        s_z = acc1 + tl.load(g_at + hidden, mask=inside, other=0.0).to(tl.float32)
        r, z = tl.sigmoid(s_r), tl.sigmoid(s_z)
        s_n = tl.load(g_at + 2 * hidden, mask=inside, other=0.0).to(tl.float32) + r * acc2
        new = _tanh(s_n)
        wide_h = tl.load(carried + state, mask=inside, other=0.0)
        out = new + z * (wide_h - new)
        tl.store(carried + state, out, mask=inside)
        if SAVE:
            _keep(g_at, s_r, r, inside, SUMS)
            _keep(g_at + hidden, s_z, z, inside, SUMS)
            _keep(g_at + 2 * hidden, s_n, new, inside, SUMS)
            first_kept = acc2
    elif CELL == "rnn_tanh":
        out = _tanh(acc0 + g0)
    else:
        tl.static_assert(CELL == "rnn_relu", "unknown cell")
        total = acc0 + g0
        out = tl.where(total <= 0.0, 0.0, total)  # NaN stays
    rounded = out.to(y.dtype.element_ty)
    tl.store(y + state, rounded, mask=inside)
    tl.store(h_next + state, tl.where((row < rows)[:, None], rounded, before), mask=exists)
    if SAVE:
        if GATES > 1:
            k_at = kept + wide[:, None] * (2 * hidden) + unit[None, :]
            tl.store(k_at, first_kept.to(kept.dtype.element_ty), mask=inside)
            tl.store(k_at + hidden, before, mask=inside)
        else:
            tl.store(kept + state, before, mask=inside)


@kernel(products=True)
def backward_kernel(
    later, w, product, carried, gy, y, gates, kept, d, d_hidden, n, later_rows, rows, hidden, CELL: tl.constexpr,
    GATES: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One step back. later: the gradients of W_hh h of the step before this launch, [later_rows, GATES hidden].
    product, float32 [n, hidden]: the gradient that reaches h through W_hh, or from outside where no step has yet.
    carried, float32: c's gradient of lstm, that of gru's h past W_hh. With rows 0 only product is made."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    unit = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    wide = row.to(tl.int64)
    along = tl.arange(0, BLOCK_K)
    depth = GATES * hidden
    a_at = later + wide[:, None] * depth + along[None, :]
    b_at = w + along[:, None].to(tl.int64) * hidden + unit[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    stop = depth
    if later_rows == 0:
        stop = 0
    for first in range(0, stop, BLOCK_K):
        left = along < depth - first
        a = tl.load(a_at + first, mask=(row < later_rows)[:, None] & left[None, :], other=0.0)
        b = tl.load(b_at, mask=left[:, None] & (unit < hidden)[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        b_at += BLOCK_K * hidden
    exists = (row < n)[:, None] & (unit < hidden)[None, :]
    state = wide[:, None] * hidden + unit[None, :]
    through = tl.where((row < later_rows)[:, None], acc, tl.load(product + state, mask=exists, other=0.0))
    tl.store(product + state, through, mask=exists)

    inside = exists & (row < rows)[:, None]
    u = through
    if gy is not None:
        u += tl.load(gy + state, mask=inside, other=0.0).to(tl.float32)
    d_at = d + wide[:, None] * depth + unit[None, :]
    if GATES > 1:
        g_at = gates + wide[:, None] * depth + unit[None, :]
        k_at = kept + wide[:, None] * (2 * hidden) + unit[None, :]
    if CELL == "lstm":
        i, i_slope = _activated(tl.load(g_at, mask=inside, other=0.0).to(tl.float32), False, SUMS)
        f, f_slope = _activated(tl.load(g_at + hidden, mask=inside, other=0.0).to(tl.float32), False, SUMS)
        new, new_slope = _activated(tl.load(g_at + 2 * hidden, mask=inside, other=0.0).to(tl.float32), True, SUMS)
        o, o_slope = _activated(tl.load(g_at + 3 * hidden, mask=inside, other=0.0).to(tl.float32), False, SUMS)
        c = tl.load(k_at, mask=inside, other=0.0).to(tl.float32)
        t = _tanh(f * c + i * new)
        down = tl.load(carried + state, mask=inside, other=0.0) + u * o * (1.0 - t * t)
        tl.store(carried + state, down * f, mask=inside)
        tl.store(d_at, (down * new * i_slope).to(d.dtype.element_ty), mask=inside)
        tl.store(d_at + hidden, (down * c * f_slope).to(d.dtype.element_ty), mask=inside)
        tl.store(d_at + 2 * hidden, (down * i * new_slope).to(d.dtype.element_ty), mask=inside)
        tl.store(d_at + 3 * hidden, (u * t * o_slope).to(d.dtype.element_ty), mask=inside)
    elif CELL == "gru":
        u += tl.load(carried + state, mask=inside, other=0.0)
        r, r_slope = _activated(tl.load(g_at, mask=inside, other=0.0).to(tl.float32), False, SUMS)
        z, z_slope = _activated(tl.load(g_at + hidden, mask=inside, other=0.0).to(tl.float32), False, SUMS)
        new, new_slope = _activated(tl.load(g_at + 2 * hidden, mask=inside, other=0.0).to(tl.float32), True, SUMS)
        inner = tl.load(k_at, mask=inside, other=0.0).to(tl.float32)
        h = tl.load(k_at + hidden, mask=inside, other=0.0).to(tl.float32)
        d_new = u * (1.0 - z) * new_slope
        d_r = (d_new * inner * r_slope).to(d.dtype.element_ty)
        d_z = (u * (h - new) * z_slope).to(d.dtype.element_ty)
        tl.store(carried + state, u * z, mask=inside)
        tl.store(d_at, d_r, mask=inside)
        tl.store(d_at + hidden, d_z, mask=inside)
        tl.store(d_at + 2 * hidden, d_new.to(d.dtype.element_ty), mask=inside)
        at = d_hidden + wide[:, None] * depth + unit[None, :]
        tl.store(at, d_r, mask=inside)
        tl.store(at + hidden, d_z, mask=inside)
        tl.store(at + 2 * hidden, (d_new * r).to(d.dtype.element_ty), mask=inside)
    else:
        out = tl.load(y + state, mask=inside, other=0.0).to(tl.float32)
        if CELL == "rnn_tanh":
            value = u * (1.0 - out * out)
        else:
            value = tl.where(out <= 0.0, 0.0, u)
        tl.store(d_at, value.to(d.dtype.element_ty), mask=inside)


def _tiling(x: Tensor, n: int, hidden: int) -> tuple[tuple[int, int], dict]:
    """A step is small: narrow tiles, so that all processors have one."""
    rows = min(64, max(16, power_of_two(n)))
    units = 32 if cdiv(n, rows) * cdiv(hidden, 32) >= multiprocessors(x.device) // 2 else 16
    constants = {"PRECISION": precision(x), "BLOCK_M": rows, "BLOCK_N": units, "BLOCK_K": 64 if x.itemsize == 2 else 32}
    return (cdiv(n, rows), cdiv(hidden, units)), constants


def _steps(x: Tensor, n: int, batch_sizes: Tensor | None, reverse: bool) -> list[tuple[int, int]]:
    """(first row, rows) of each step, in the order of computation."""
    sizes = [n] * x.shape[0] if batch_sizes is None else check_batch_sizes(batch_sizes, x.shape[0], n)
    steps = list(zip(accumulate(sizes, initial=0), sizes, strict=False))
    return steps[::-1] if reverse else steps


def _carried(state: Tensor | None, like: Tensor) -> Tensor:
    """A float32 copy, dense; zeros where there is no state."""
    if state is None:
        return torch.zeros(like.shape, dtype=torch.float32, device=like.device)
    return state.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def recurrent(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save):
    y, h, c, _, kept = recurrent_empty(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save)
    n, hidden = h0.shape
    many = GATES[cell]
    gates = linear(rows_of(x), w_ih, b_ih, None, "none")
    carried = None if many == 1 else _carried(c0 if cell == "lstm" else h0, h0)
    states = (h0.contiguous(), torch.empty_like(h), h)
    steps = _steps(x, n, batch_sizes, reverse)
    if y.numel() > 0:
        w_hh, b_hh = w_hh.contiguous(), None if b_hh is None else b_hh.contiguous()
        grid, constants = _tiling(x, n, hidden)
        flat = rows_of(y)
        before = states[0]
        for i, (first, rows) in enumerate(steps):
            after = states[2 - (len(steps) - 1 - i) % 2]  # the last step's is h
            own = [None if t is None else t[first : first + rows] for t in (gates, flat, kept if save else None)]
            forward_kernel(
                grid,
                *(own[0], w_hh, b_hh, before, after, carried, own[1], own[2], n, rows, hidden),
                CELL=cell,
                GATES=many,
                SAVE=save,
                SUMS=x.itemsize == 2,
                **constants,
                num_stages=3,
            )
            before = after
    else:
        h.copy_(h0)
    if cell == "lstm":
        c = carried.to(x.dtype)
    return y, h, c, gates if save and many > 1 else x.new_empty(0), kept


def recurrent_bwd(gy, gh, gc, x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, y, gates, kept, cell, reverse, wanted):
    n, hidden = h0.shape
    many, flat = GATES[cell], rows_of(y)
    d = x.new_empty((flat.shape[0], many * hidden))
    d_hidden = torch.empty_like(d) if cell == "gru" else d
    product = _carried(gh, h0)
    carried = None if many == 1 else _carried(gc, h0)
    if y.numel() > 0:
        w_hh, gy, flat = w_hh.contiguous(), None if gy is None else rows_of(gy).contiguous(), flat.contiguous()
        grid, constants = _tiling(x, n, hidden)
        later, later_rows = d_hidden, 0
        for first, rows in (*reversed(_steps(x, n, batch_sizes, reverse)), (0, 0)):
            part = slice(first, first + max(rows, 1))
            gates_here = gates[part] if many > 1 else None
            own = (None if gy is None else gy[part], flat[part], gates_here, kept[part], d[part], d_hidden[part])
            backward_kernel(
                grid,
                *(later, w_hh, product, carried, *own, n, later_rows, rows, hidden),
                CELL=cell,
                GATES=many,
                SUMS=x.itemsize == 2,
                **constants,
                num_stages=3,
            )
            later, later_rows = own[-1], rows
    gh0 = product.add_(carried) if cell == "gru" else product
    return operand_gradients(linear, channel_sum, x, w_ih, kept, d, d_hidden, gh0, carried, wanted)

"""What the attention kernels share: tiles, scores with mask and causality, probabilities, dropout's factors.

A tile is named by its first row or column and its size: where it begins is one 64-bit address, its own offsets are 32
bits, or addresses would fill the registers. The launcher sees to it that strides are short enough.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._philox import ATTENTION_STREAM, four_by_four, philox, word_of

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp(x, BASE_2: tl.constexpr):
    if BASE_2:
        return tl.exp2(x)
    else:
        return tl.exp(x)


@triton.jit
def upright(x, first, count, row, e, N: tl.constexpr, E: tl.constexpr):
    """Rows first .. first + N of [count, e], ``row`` apart: a tile [N, E], zero outside."""
    at, depth = tl.arange(0, N), tl.arange(0, E)
    inside = (first + at < count)[:, None] & (depth < e)[None, :]
    return tl.load(x + tl.cast(first, tl.int64) * row + (at[:, None] * row + depth[None, :]), mask=inside, other=0.0)


@triton.jit
def turned(x, first, count, row, e, N: tl.constexpr, E: tl.constexpr, EDGES: tl.constexpr):
    """The same as [E, N]. Without EDGES all rows exist."""
    at, depth = tl.arange(0, N), tl.arange(0, E)
    inside = (depth < e)[:, None]
    if EDGES:
        inside = inside & (first + at < count)[None, :]
    return tl.load(x + tl.cast(first, tl.int64) * row + (at[None, :] * row + depth[:, None]), mask=inside, other=0.0)


@triton.jit
def put(x, value, first, count, row, e, N: tl.constexpr, E: tl.constexpr):
    """Stores [N, E] where :func:`upright` loads from."""
    at, depth = tl.arange(0, N), tl.arange(0, E)
    inside = (first + at < count)[:, None] & (depth < e)[None, :]
    # A result's rows may lie farther apart than an operand's.
    where = x + (first + at.to(tl.int64))[:, None] * row + depth[None, :]
    tl.store(where, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def kept(
    rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4: tl.constexpr, M: tl.constexpr, N: tl.constexpr
):
    """1 / (1 - p) where an entry stays, 0 where it is dropped; [M, N], from a multiple of 4 on."""
    start = (row_start + first_row + tl.arange(0, M).to(tl.int64))[:, None] * keys + first
    if BY_4:
        block = (start + (tl.arange(0, N // 4) * 4)[None, :]) >> 2
        w0, w1, w2, w3 = philox(rng, block, 0, 0, ATTENTION_STREAM)
        word = four_by_four(w0, w1, w2, w3)
    else:
        word = word_of(start + tl.arange(0, N)[None, :], rng, 0, 0, ATTENTION_STREAM)
    return tl.where((word >> 8) >= threshold, keep_scale, 0.0)


@triton.jit
def scores(
    q, kt, mask, first_row, first, m_row, m_col, queries, keys, scale, CAUSAL: tl.constexpr, EDGES: tl.constexpr,
    MASK: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """scale q k^T + mask, [M, N], minus infinity where a key takes no part. EDGES: some of the tile may lie
    outside."""
    rows, columns = first_row + tl.arange(0, M), first + tl.arange(0, N)
    s = tl.dot(q, kt, input_precision=PRECISION) * scale
    if MASK != "none":
        at = mask + tl.cast(first_row, tl.int64) * m_row + tl.cast(first, tl.int64) * m_col
        at = at + (tl.arange(0, M)[:, None] * m_row + tl.arange(0, N)[None, :] * m_col)
        inside = (rows < queries)[:, None] & (columns < keys)[None, :]
        if MASK == "bool":
            s = tl.where(tl.load(at, mask=inside, other=0) != 0, s, float("-inf"))
        else:
            s += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if EDGES:
        there = (columns < keys)[None, :]
        if CAUSAL:
            there = there & (columns[None, :] <= rows[:, None])
        s = tl.where(there, s, float("-inf"))
    return s


@triton.jit
def put_scores(gs_out, gs, row_start, first_row, first, queries, keys, M: tl.constexpr, N: tl.constexpr):
    """Stores a tile of the scores' gradient."""
    at, along = tl.arange(0, M), tl.arange(0, N)
    inside = (first_row + at < queries)[:, None] & (first + along < keys)[None, :]
    tl.store(gs_out + (row_start + first_row) * keys + first + (at[:, None] * keys + along[None, :]), gs, mask=inside)


@triton.jit
def put_statistics(stats, top, total, row_start, first_row, queries, MASK: tl.constexpr, M: tl.constexpr):
    """The rows' maxima, in base e, and logarithms of their sums; (0, inf) of rows without keys."""
    rows = first_row + tl.arange(0, M)
    if MASK == "none":
        top = top * _LN_2
    empty = total == 0.0
    at = stats + (row_start + rows) * 2
    tl.store(at, tl.where(empty, 0.0, top), mask=rows < queries)
    tl.store(at + 1, tl.where(empty, float("inf"), tl.log(total)), mask=rows < queries)


@triton.jit
def probabilities(s, stats, row_start, first_row, queries, BASE_2: tl.constexpr, M: tl.constexpr):
    rows = first_row + tl.arange(0, M)
    there = rows < queries
    top = tl.load(stats + (row_start + rows) * 2, mask=there, other=0.0)
    rest = tl.load(stats + (row_start + rows) * 2 + 1, mask=there, other=float("inf"))
    if BASE_2:
        return tl.exp2((s - top[:, None] * 1.4426950408889634) - rest[:, None] * 1.4426950408889634)
    else:
        return tl.exp((s - top[:, None]) - rest[:, None])

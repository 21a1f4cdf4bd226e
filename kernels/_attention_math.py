"""What the attention kernels share: scores with mask and causality, probabilities, dropout's factors."""

from __future__ import annotations

import triton
import triton.language as tl

from ._philox import ATTENTION_STREAM, four_by_four, philox, word_of


@triton.jit
def exp(x, BASE_2: tl.constexpr):
    if BASE_2:
        return tl.exp2(x)
    else:
        return tl.exp(x)


@triton.jit
def kept(rng, row_start, rows, columns, keys, threshold, keep_scale, BY_4: tl.constexpr, BLOCK_N: tl.constexpr):
    """1 / (1 - p) where an entry stays, 0 where it is dropped; [rows, columns], columns from one multiple of 4 on."""
    element = (row_start + rows)[:, None] * keys + columns[None, :]
    if BY_4:
        first = tl.min(columns, 0)
        block = ((row_start + rows)[:, None] * keys + first + (tl.arange(0, BLOCK_N // 4) * 4)[None, :]) >> 2
        w0, w1, w2, w3 = philox(rng, block, 0, 0, ATTENTION_STREAM)
        word = four_by_four(w0, w1, w2, w3)
    else:
        word = word_of(element, rng, 0, 0, ATTENTION_STREAM)
    return tl.where((word >> 8) >= threshold, keep_scale, 0.0)


@triton.jit
def scores(
    q, kt, mask, rows, columns, m_row, m_col, queries, keys, scale, CAUSAL: tl.constexpr, EDGES: tl.constexpr,
    MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scale q k^T + mask, minus infinity where a key takes no part. EDGES: some of the tile may lie outside."""
    s = tl.dot(q, kt, input_precision=PRECISION) * scale
    if MASK != "none":
        at = (mask + rows[:, None].to(tl.int64) * m_row) + columns[None, :].to(tl.int64) * m_col
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
def probabilities(s, stats, row_start, rows, queries, BASE_2: tl.constexpr):
    there = rows < queries
    top = tl.load(stats + (row_start + rows) * 2, mask=there, other=0.0)
    rest = tl.load(stats + (row_start + rows) * 2 + 1, mask=there, other=float("inf"))
    if BASE_2:
        return tl.exp2((s - top[:, None] * 1.4426950408889634) - rest[:, None] * 1.4426950408889634)
    else:
        return tl.exp((s - top[:, None]) - rest[:, None])
